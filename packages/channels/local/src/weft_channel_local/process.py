"""A command of this machine, in a session of its own."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import IO

from weft_interfaces import ChannelError
from weft_interfaces.processes import kill_tree

__all__ = ["LocalProcess", "start"]

_TAIL = 8192  # bytes of stderr that are kept
_DRAIN = 2.0  # seconds that the rest of stderr may take after the end

# What a shell says, and the exit status that it gives, where there is nothing to run.
_NO_COMMAND = {
    errno.ENOENT: (127, "command not found"),
    errno.ENOTDIR: (127, "command not found"),
    errno.EACCES: (126, "permission denied"),
    errno.ENOEXEC: (126, "exec format error"),
    errno.EISDIR: (126, "is a directory"),
    errno.ELOOP: (126, "too many levels of symbolic links"),
}
_SAY = 'printf "%s\\n" "$1" >&2; exit "$2"'


def start(
    argv: Sequence[str], environment: Mapping[str, str], cwd: str, host: str
) -> subprocess.Popen[bytes]:
    """Start a command, with pipes for its three streams.

    One that cannot be found or run is a process that says so and ends with 127 or 126, as behind any other
    channel. Raises :class:`ChannelError` where no process can be started at all.
    """
    if not argv:
        raise ChannelError(f"argv: there is nothing to run on {host}")
    try:
        return _popen(list(argv), environment, cwd)
    except OSError as error:
        if error.errno not in _NO_COMMAND:
            raise ChannelError(f"{argv[0]!r} could not be started on {host}: {error}") from error
        status, words = _NO_COMMAND[error.errno]
        if not os.path.isdir(cwd):
            argv, words = [cwd], "no such directory to run a command in"
        message = f"{argv[0]}: {words}"
    except ValueError as error:  # a NUL in an argument, or = in a variable's name
        raise ChannelError(f"{argv[0]!r} could not be started on {host}: {error}") from error
    return _popen(["/bin/sh", "-c", _SAY, "sh", message, str(status)], environment, "/")


def _popen(argv: list[str], environment: Mapping[str, str], cwd: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        argv,
        bufsize=0,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        cwd=cwd,
        start_new_session=True,
    )


class LocalProcess:
    """A :class:`~weft_interfaces.RemoteProcess` of this machine. Its stderr is read as it comes."""

    def __init__(
        self, process: subprocess.Popen[bytes], name: str, forget: Callable[[LocalProcess], None]
    ) -> None:
        self._process = process
        self._name = name
        self._forget = forget
        self._ending = threading.Lock()
        self._tail = b""
        self._reader = threading.Thread(target=self._read_stderr, name=f"stderr of {name}", daemon=True)
        self._reader.start()

    def read(self, size: int) -> bytes:
        with contextlib.suppress(ValueError):  # closed meanwhile
            return _stream(self._process.stdout).read(size) or b""
        return b""

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view:
                view = view[_stream(self._process.stdin).write(view) :]
        except (OSError, ValueError) as error:
            raise ChannelError(f"{self._name} reads no more: it has ended or was closed") from error

    def close_stdin(self) -> None:
        with contextlib.suppress(OSError):
            _stream(self._process.stdin).close()

    def wait(self, timeout: float | None = None) -> int:
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"{self._name} has not ended within {timeout} s") from None

    def stderr_tail(self) -> str:
        if self._process.poll() is not None:
            self._reader.join(_DRAIN)
        return self._tail.decode(errors="replace")

    def close(self) -> None:
        with self._ending:
            # Before it is reaped nobody else can have its number.
            if self._process.poll() is None:
                kill_tree(self._process.pid)
            self._process.wait()
            for stream in (self._process.stdin, self._process.stdout):
                with contextlib.suppress(OSError):
                    _stream(stream).close()
        self._reader.join(_DRAIN)
        self._forget(self)

    def _read_stderr(self) -> None:
        with _stream(self._process.stderr) as stderr:
            while data := stderr.read(65536):
                self._tail = (self._tail + data)[-_TAIL:]


def _stream(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None, "started with pipes for all streams"
    return stream
