"""The client's handle on its template process."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from dataclasses import asdict
from typing import Any

from .notices import FORK, KILL, NOTICE, REQUEST, Notice
from .settings import WorkerSettings

__all__ = ["TemplateProcess", "client_path"]

# The module search path comes first, and not through the environment, which the tasks inherit.
_BOOT = """
import os, sys
if os.getpgrp() != os.getpid():
    os.setpgid(0, 0)
import importlib, json
with os.fdopen(int(sys.argv[1])) as setup:
    module, control, lifeline, settings, sys.path[:] = json.load(setup)
sys.argv[1:] = []
importlib.import_module(module).main(control, lifeline, settings)
"""

# Older versions of Python leave the group a moment later, in the code above.
_GROUP: dict[str, Any] = {"process_group": 0} if sys.version_info >= (3, 11) else {}


class TemplateProcess:
    """A running template. Not for several threads at once, but :meth:`kill`."""

    def __init__(self, lifeline: int, settings: WorkerSettings) -> None:
        """Start one; it is not waited for. Raises :class:`OSError`, having started nothing."""
        import json

        self.control, theirs = socket.socketpair()
        setup, setup_end = os.pipe()
        try:
            self._process = subprocess.Popen(
                [sys.executable, *_interpreter_flags(), "-c", _BOOT, str(setup)],
                stdin=subprocess.DEVNULL,
                pass_fds=[setup, theirs.fileno(), lifeline],
                **_GROUP,
            )
        except BaseException:
            self.control.close()
            os.close(setup_end)
            raise
        finally:
            os.close(setup)
            theirs_number = theirs.fileno()
            theirs.close()
        with contextlib.suppress(BrokenPipeError), os.fdopen(setup_end, "w") as file:
            module = f"{__package__}.template"
            json.dump([module, theirs_number, lifeline, asdict(settings), client_path()], file)
        self.control.setblocking(False)
        self._rest = b""

    @property
    def pid(self) -> int:
        return self._process.pid

    def spawn(self, number: int, seat: int, descriptors: list[int]) -> None:
        """Ask for a worker with this seat and these descriptors.

        Raises :class:`OSError` when the template is gone or busy.
        """
        socket.send_fds(self.control, [REQUEST.pack(FORK, number, seat)], descriptors)

    def kill(self, number: int) -> None:
        """Have a worker killed, with all its descendants. Raises :class:`OSError` as :meth:`spawn` does.

        Only the template can do it without ever hitting another process: it knows which ones it has reaped.
        """
        self.control.send(REQUEST.pack(KILL, number, 0))

    def read(self) -> list[Notice] | None:
        """The notices that have arrived; None when the template is gone."""
        try:
            data = self.control.recv(1 << 16)
        except BlockingIOError:
            return []
        except ConnectionError:
            return None
        if not data:
            return None
        data = self._rest + data
        whole = len(data) - len(data) % NOTICE.size
        self._rest = data[whole:]
        return [Notice(*fields) for fields in NOTICE.iter_unpack(data[:whole])]

    def close(self, timeout: float) -> bool:
        """End it, and with it what is left of its workers.

        Returns whether it ended within ``timeout`` seconds.
        """
        self.control.close()
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self._process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(1.0)
            return False
        return True


def client_path() -> list[str]:
    """``sys.path`` as workers need it: they may be elsewhere when they look up a module."""
    return [os.path.abspath(entry) if not os.path.isabs(entry) else entry for entry in sys.path]


def _interpreter_flags() -> list[str]:
    flags: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    return flags
