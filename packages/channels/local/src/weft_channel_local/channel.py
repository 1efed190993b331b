"""This machine as a channel."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from weft_interfaces import BaseChannel, ChannelError, CommandResult
from weft_interfaces.files import copy_whole
from weft_interfaces.processes import kill_tree

from .process import LocalProcess, start

__all__ = ["LocalChannel"]

_AFTER_KILL = 2.0  # seconds for what is left in the pipes of a command that was killed


class LocalChannel(BaseChannel):
    """Runs commands on this machine, each in a session of its own, and copies files within it.

    home: where relative paths start, and commands run unless they say otherwise; the user's home directory
    unless said. environment: variables that every command gets beside those of this process.

    A command that is not there ends with exit status 127, one that cannot be run with 126, and says why on
    its stderr. Methods may be called from any thread. Pickling keeps the settings, and nothing that runs.
    """

    remote = False

    def __init__(self, home: str | Path | None = None, environment: Mapping[str, str] | None = None) -> None:
        self._home = os.path.abspath(home if home is not None else Path.home())
        self._environment = dict(environment or {})
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._opened: set[LocalProcess] = set()
        self._closed = False

    def __repr__(self) -> str:
        return f"{type(self).__name__}(home={self._home!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._home, self._environment)

    @property
    def host(self) -> str:
        return socket.gethostname()

    def run(
        self,
        argv: Sequence[str],
        *,
        input: bytes = b"",
        timeout: float | None = None,
        environment: Mapping[str, str] | None = None,
        cwd: str | None = None,
    ) -> CommandResult:
        with self._started(argv, environment, cwd) as process:
            try:
                stdout, stderr = process.communicate(input, timeout)
            except subprocess.TimeoutExpired:
                self._kill(process)
                raise TimeoutError(
                    f"{argv[0]!r} on {self.host} has not ended after {timeout:g} s, and was killed"
                ) from None
            except BaseException:
                self._kill(process)
                raise
        return CommandResult(process.returncode, stdout, stderr)

    def open(
        self, argv: Sequence[str], *, environment: Mapping[str, str] | None = None, cwd: str | None = None
    ) -> LocalProcess:
        with self._lock:
            process = self._start(argv, environment, cwd)
            opened = LocalProcess(process, f"{argv[0]!r} on {self.host}", self._opened.discard)
            self._opened.add(opened)
            return opened

    def put(self, local: Path, remote: str) -> None:
        self._check()
        copy_whole(Path(local), Path(self._path(remote)))

    def get(self, remote: str, local: Path) -> None:
        self._check()
        copy_whole(Path(self._path(remote)), Path(local))

    def makedirs(self, path: str, mode: int = 0o700) -> None:
        self._check()
        _make_directories(Path(self._path(path)), mode)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            opened, running = list(self._opened), list(self._running)
            for process in running:
                kill_tree(process.pid)
        for each in opened:
            each.close()

    def _path(self, path: str) -> str:
        return os.path.join(self._home, path)

    def _check(self) -> None:
        if self._closed:
            raise ChannelError(f"the channel to {self.host} is closed")

    def _start(
        self, argv: Sequence[str], environment: Mapping[str, str] | None, cwd: str | None
    ) -> subprocess.Popen[bytes]:
        self._check()
        variables = {**os.environ, **self._environment, **(environment or {})}
        return start(argv, variables, self._path(cwd or ""), self.host)

    @contextlib.contextmanager
    def _started(
        self, argv: Sequence[str], environment: Mapping[str, str] | None, cwd: str | None
    ) -> Iterator[subprocess.Popen[bytes]]:
        """A command that ``close`` knows of as long as it has not been reaped."""
        with self._lock:
            process = self._start(argv, environment, cwd)
            self._running.add(process)
        try:
            yield process
        finally:
            with self._lock:
                self._running.discard(process)

    def _kill(self, process: subprocess.Popen[bytes]) -> None:
        """End it with all that it has started, and let go of its pipes, whoever else may hold them."""
        kill_tree(process.pid)
        try:
            process.communicate(timeout=_AFTER_KILL)
        except subprocess.TimeoutExpired:
            process.wait()
        finally:
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    with contextlib.suppress(OSError):
                        stream.close()


def _make_directories(path: Path, mode: int) -> None:
    if path.is_dir():
        return
    if path.parent != path:
        _make_directories(path.parent, mode)
    try:
        path.mkdir(mode)
    except FileExistsError:
        if not path.is_dir():
            raise
