"""What the suites have executors run: functions of a module, so that a worker in another process can import
them.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NoReturn

from ..worker import current_worker

__all__ = [
    "AwkwardError",
    "ExplodesWhenLoaded",
    "Gate",
    "UnpicklableError",
    "describe_worker",
    "die",
    "echo",
    "exit_with",
    "fail",
    "fail_awkwardly",
    "fail_unpicklably",
    "interrupt",
    "kill_yourself",
    "pass_gate",
    "print_both",
    "return_exploding",
    "return_lock",
    "submit_and_wait",
    "touch",
    "where_am_i",
]


class AwkwardError(Exception):
    """An exception as people write them: its constructor does not take what ``args`` holds."""

    def __init__(self, first: str, second: int) -> None:
        super().__init__(f"{first} and {second}")
        self.second = second


class UnpicklableError(Exception):
    """An exception that holds what no pickler takes."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.lock = threading.Lock()


class ExplodesWhenLoaded:
    """Can be pickled, and raises when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return _explode, ("this value does not want to be loaded",)


def _explode(message: str) -> NoReturn:
    raise RuntimeError(message)


def echo(*args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What it was given."""
    return args, kwargs


def fail(message: str) -> NoReturn:
    """Raise a ValueError."""
    raise ValueError(message)


def fail_awkwardly() -> NoReturn:
    """Raise an exception whose constructor is no help to pickle."""
    raise AwkwardError("one", 2)


def fail_unpicklably() -> NoReturn:
    """Raise an exception that cannot be pickled."""
    raise UnpicklableError("this holds a lock")


def exit_with(code: int) -> NoReturn:
    """Call ``sys.exit``."""
    sys.exit(code)


def interrupt() -> NoReturn:
    """Raise what Ctrl-C raises."""
    raise KeyboardInterrupt


def return_lock() -> Any:
    """Something that cannot be pickled."""
    return threading.Lock()


def return_exploding() -> ExplodesWhenLoaded:
    """Something that cannot be unpickled."""
    return ExplodesWhenLoaded()


def die(exit_code: int) -> NoReturn:
    """End the worker's process at once."""
    os._exit(exit_code)


def kill_yourself() -> None:
    """End the worker's process by SIGKILL."""
    os.kill(os.getpid(), signal.SIGKILL)


def touch(path: str) -> None:
    """Leave a trace."""
    Path(path).touch()


def print_both(out: str, err: str) -> None:
    """Write a line to stdout and one to stderr."""
    print(out)
    print(err, file=sys.stderr)


def where_am_i() -> str:
    """The working directory."""
    return os.getcwd()


def describe_worker() -> tuple[bool, float | None] | None:
    """Whether the worker is in the run's process and how long it has, or None if there is none to ask."""
    worker = current_worker()
    return None if worker is None else (worker.in_process, worker.remaining())


def submit_and_wait(submit: Callable[[], object], done: Callable[[], Any]) -> Any:
    """Submit another call from inside this one, and wait for what becomes of it."""
    submit()
    worker = current_worker()
    if worker is None:
        return done()
    with worker.waiting():
        return done()


def pass_gate(address: tuple[str, int], value: Any = None) -> Any:
    """Say that it has begun, wait until the gate is opened, return ``value``.

    Interruptible, where its worker helps.
    """
    try:
        with socket.create_connection(address) as connection:
            _wait_for_word(connection)
    except ConnectionError:
        return value  # the gate was opened, and is gone
    return value


def _wait_for_word(connection: socket.socket) -> None:
    worker = current_worker()
    interruptible = worker.interruptible if worker is not None else _uninterruptible
    with interruptible(lambda: connection.shutdown(socket.SHUT_RDWR)):
        connection.sendall(b"b")
        connection.recv(1)


def _uninterruptible(interrupt: Callable[[], None]) -> AbstractContextManager[None]:
    return nullcontext()


class Gate:
    """Holds calls of ``pass_gate`` in whatever process they run, until it is opened; knows which have begun
    and ended.
    """

    def __init__(self) -> None:
        self._server = socket.create_server(("127.0.0.1", 0), backlog=128)
        host, port = self._server.getsockname()[:2]
        self.address = (str(host), int(port))
        self._begun: list[socket.socket] = []

    def wait_begun(self, timeout: float) -> None:
        """Wait until one more call has begun. Raises :class:`TimeoutError`."""
        self._server.settimeout(timeout)
        connection = self._server.accept()[0]
        self._begun.append(connection)
        connection.settimeout(timeout)
        connection.recv(1)

    def wait_ended(self, timeout: float) -> bool:
        """Whether the calls that were seen to begin are seen to end, or their processes."""
        for connection in self._begun:
            connection.settimeout(timeout)
            try:
                while connection.recv(1):
                    pass
            except TimeoutError:
                return False
            except OSError:
                continue  # reset: as gone as closed
        return True

    def open(self) -> None:
        """Let all pass, now and later."""
        self._server.close()
        for connection in self._begun:
            connection.close()

    def __enter__(self) -> Gate:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.open()
