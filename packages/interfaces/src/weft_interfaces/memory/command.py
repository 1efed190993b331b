"""Commands for the in-memory channel: Python functions where a real place has programs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

__all__ = ["COMMANDS", "Command", "Invocation", "Killed", "Pipe"]


class Killed(BaseException):
    """Raised inside a command that was killed, at its next read, write or sleep."""


class Pipe:
    """Bytes from one thread to another.

    ``size`` bounds what waits in it, so that a writer waits for its reader.
    """

    def __init__(self, size: int = 1 << 16) -> None:
        self._size = size
        self._data = bytearray()
        self._ended = False
        self._broken = False
        self._changed = threading.Condition()

    def write(self, data: bytes) -> None:
        """Put all of it in. Raises :class:`BrokenPipeError` once nobody will read it."""
        view = memoryview(data)
        while view:
            with self._changed:
                self._changed.wait_for(lambda: self._broken or self._ended or len(self._data) < self._size)
                if self._broken or self._ended:
                    raise BrokenPipeError("nobody reads from this pipe any more")
                room = self._size - len(self._data)
                self._data += view[:room]
                view = view[room:]
                self._changed.notify_all()

    def read(self, size: int = -1) -> bytes:
        """Up to ``size`` bytes, at least one; ``b""`` at the end.

        All up to the end if ``size`` is negative.
        """
        if size < 0:
            return b"".join(iter(lambda: self.read(1 << 16), b""))
        with self._changed:
            self._changed.wait_for(lambda: self._data or self._ended or self._broken)
            data = bytes(self._data[:size])
            del self._data[:size]
            self._changed.notify_all()
            return data

    def end(self) -> None:
        """No more is written."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def break_(self) -> None:
        """No more is read or written, and what is in it is lost."""
        with self._changed:
            self._broken = True
            self._data.clear()
            self._changed.notify_all()


class Invocation:
    """One run of a command: what it was given, where its output goes, and what it can see of its place."""

    def __init__(
        self, argv: Sequence[str], environment: Mapping[str, str], cwd: str, files: Mapping[str, bytes]
    ) -> None:
        self.argv = list(argv)
        self.environment = environment
        self.cwd = cwd
        self.files = files
        self.stdin, self.stdout, self.stderr = Pipe(), Pipe(), bytearray()
        self._killed = threading.Event()

    def kill(self) -> None:
        """End the command, at its next read, write or sleep."""
        self._killed.set()
        self.stdin.break_()
        self.stdout.break_()

    def read(self, size: int = -1) -> bytes:
        """Read from stdin."""
        data = self.stdin.read(size)
        self._check()
        return data

    def write(self, data: bytes) -> None:
        """Write to stdout."""
        self._check()
        try:
            self.stdout.write(data)
        except BrokenPipeError:
            self._check()
            raise

    def complain(self, text: str) -> None:
        """Write to stderr."""
        self.stderr += f"{self.argv[0]}: {text}\n".encode()

    def sleep(self, seconds: float) -> None:
        """Wait, or be killed."""
        self._killed.wait(seconds)
        self._check()

    def _check(self) -> None:
        if self._killed.is_set():
            raise Killed


class Command(Protocol):
    """Runs in a thread of the channel; returns the exit status."""

    def __call__(self, invocation: Invocation, /) -> int: ...


def _cat(invocation: Invocation) -> int:
    for name in invocation.argv[1:]:
        path = name if name.startswith("/") else f"{invocation.cwd.rstrip('/')}/{name}"
        if path not in invocation.files:
            invocation.complain(f"{name}: No such file or directory")
            return 1
        invocation.write(invocation.files[path])
    while len(invocation.argv) == 1 and (data := invocation.read(1 << 16)):
        invocation.write(data)
    return 0


def _env(invocation: Invocation) -> int:
    invocation.write("".join(f"{key}={value}\n" for key, value in invocation.environment.items()).encode())
    return 0


def _printf(invocation: Invocation) -> int:
    """Know one format, which writes each argument on a line: what shows how arguments arrive."""
    invocation.write("".join(f"{word}\n" for word in invocation.argv[2:]).encode("utf-8", "surrogateescape"))
    return 0


def _pwd(invocation: Invocation) -> int:
    invocation.write(f"{invocation.cwd}\n".encode())
    return 0


def _sleep(invocation: Invocation) -> int:
    invocation.sleep(float(invocation.argv[1]))
    return 0


def _constant(status: int) -> Callable[[Invocation], int]:
    return lambda invocation: status


COMMANDS: dict[str, Command] = {
    "cat": _cat,
    "env": _env,
    "false": _constant(1),
    "printf": _printf,
    "pwd": _pwd,
    "sleep": _sleep,
    "true": _constant(0),
}
