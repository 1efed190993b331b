"""A place in memory: a dict of files, and commands that are Python functions."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..channel import BaseChannel, CommandResult, RemoteProcess
from ..errors import ChannelError
from ..files import copy_whole
from .command import COMMANDS, Command, Invocation, Killed, Pipe

__all__ = ["InMemoryChannel"]

_HOME = "/home"
_KILLED = -9


class InMemoryChannel(BaseChannel):
    """Commands are functions by name: ``commands`` adds to ``cat``, ``env``, ``false``, ``printf``, ``pwd``,
    ``sleep``, ``true``.

    Each command runs in a thread, which ends with it. ``files`` holds contents by absolute path, ``modes``
    their permissions, ``links`` what symbolic links lead to. ``break_connection`` makes all that follows
    fail, until ``mend_connection``.
    """

    def __init__(self, commands: Mapping[str, Command] | None = None, host: str = "memory") -> None:
        self.files: dict[str, bytes] = {}
        self.modes: dict[str, int] = {}
        self.links: dict[str, str] = {}
        self.directories: dict[str, int] = {"/": 0o755, _HOME: 0o700}
        self._commands = {**COMMANDS, **(commands or {})}
        self._host = host
        self._broken = False
        self._processes: set[_Process] = set()
        self._lock = threading.Lock()

    @property
    def host(self) -> str:
        return self._host

    def run(
        self,
        argv: Sequence[str],
        *,
        input: bytes = b"",
        timeout: float | None = None,
        environment: Mapping[str, str] | None = None,
        cwd: str | None = None,
    ) -> CommandResult:
        process = self._start(argv, environment, cwd)
        output = _Collected(process.invocation.stdout)
        feeder = threading.Thread(target=process.feed, args=(input,), name="memory-channel-stdin")
        feeder.start()
        try:
            status = process.wait(timeout)
        except TimeoutError:
            raise TimeoutError(f"{argv[0]!r} on {self.host} ran for {timeout} s and was killed") from None
        finally:
            if not process.ended:
                process.close()
            feeder.join()
            stdout = output.result()
        return CommandResult(status, stdout, bytes(process.invocation.stderr))

    def open(
        self, argv: Sequence[str], *, environment: Mapping[str, str] | None = None, cwd: str | None = None
    ) -> RemoteProcess:
        return self._start(argv, environment, cwd)

    def put(self, local: Path, remote: str) -> None:
        self.check()
        path = self._path(remote).rstrip("/")
        if path.rpartition("/")[0] not in {directory.rstrip("/") for directory in self.directories}:
            raise FileNotFoundError(f"remote: there is no directory for {remote!r} on {self.host}")
        if local.is_dir():
            if self._below(path):
                raise FileExistsError(f"remote: {remote!r} on {self.host} is a directory that is not empty")
            self._put_tree(local, path)
            return
        data, mode = local.read_bytes(), local.stat().st_mode & 0o777
        with self._lock:
            self.files[path], self.modes[path] = data, mode

    def get(self, remote: str, local: Path) -> None:
        self.check()
        path = self._path(remote).rstrip("/")
        if path not in self.files and path not in self.directories:
            raise FileNotFoundError(f"remote: there is no file {remote!r} on {self.host}")
        with tempfile.TemporaryDirectory() as folder:
            self._write(path, Path(folder, "copy"))
            copy_whole(Path(folder, "copy"), local)

    def makedirs(self, path: str, mode: int = 0o700) -> None:
        self.check()
        parts = self._path(path).split("/")
        for end in range(2, len(parts) + 1):
            self.directories.setdefault("/".join(parts[:end]), mode)

    def close(self) -> None:
        with self._lock:
            processes = list(self._processes)
        for process in processes:
            process.close()

    def break_connection(self) -> None:
        """The place cannot be reached any more; what runs there is lost."""
        self._broken = True
        self.close()

    def mend_connection(self) -> None:
        """The place can be reached again."""
        self._broken = False

    def _start(self, argv: Sequence[str], environment: Mapping[str, str] | None, cwd: str | None) -> _Process:
        self.check()
        given = {"HOME": _HOME, **(environment or {})}
        invocation = Invocation(argv, given, self._path(cwd or _HOME), self.files)
        process = _Process(invocation, self._commands.get(argv[0], _not_found), self)
        with self._lock:
            self._processes.add(process)
        process.start()
        return process

    def forget(self, process: _Process) -> None:
        """Let go of a process that ended: for the process itself."""
        with self._lock:
            self._processes.discard(process)

    def _put_tree(self, local: Path, path: str) -> None:
        with self._lock:
            self.directories[path] = local.stat().st_mode & 0o777
        for entry in local.iterdir():
            there = f"{path}/{entry.name}"
            if entry.is_symlink():
                self.links[there] = os.readlink(entry)
            elif entry.is_dir():
                self._put_tree(entry, there)
            else:
                with self._lock:
                    self.files[there], self.modes[there] = entry.read_bytes(), entry.stat().st_mode & 0o777

    def _write(self, path: str, local: Path) -> None:
        if path in self.files:
            local.write_bytes(self.files[path])
            local.chmod(self.modes.get(path, 0o600))
        elif path in self.links:
            local.symlink_to(self.links[path])
        else:
            local.mkdir()
            for name in self._below(path):
                self._write(f"{path}/{name}", local / name)
            local.chmod(self.directories[path])

    def _below(self, path: str) -> list[str]:
        """The names in a directory."""
        with self._lock:
            every = [*self.files, *self.links, *self.directories]
        return [
            there.rpartition("/")[2] for there in every if there.rpartition("/")[0] == path and there != "/"
        ]

    def _path(self, path: str) -> str:
        return os.path.normpath(f"{_HOME}/{path}" if not path.startswith("/") else path)

    def check(self) -> None:
        """Raise :class:`ChannelError` if the place cannot be reached."""
        if self._broken:
            raise ChannelError(f"{self.host} cannot be reached: the connection broke")


class _Process:
    """One command in a thread, as a :class:`RemoteProcess`."""

    def __init__(self, invocation: Invocation, command: Command, channel: InMemoryChannel) -> None:
        self.invocation = invocation
        self._command = command
        self._channel = channel
        self._status: int | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(
            target=self._run, name=f"memory-channel-{invocation.argv[0]}", daemon=True
        )

    def start(self) -> None:
        self._thread.start()

    def _run(self) -> None:
        try:
            self._status = self._command(self.invocation)
        except Killed:
            self._status = _KILLED
        except BaseException as error:  # noqa: BLE001 - whatever a command raises is its way to end
            self.invocation.complain(f"{type(error).__name__}: {error}")
            self._status = 1
        finally:
            self.invocation.stdout.end()
            self.invocation.stdin.end()
            self._channel.forget(self)
            self._ended.set()

    @property
    def ended(self) -> bool:
        return self._ended.is_set()

    def feed(self, data: bytes) -> None:
        try:
            self.invocation.stdin.write(data)
        except BrokenPipeError:
            return  # a command need not read all of its input
        self.invocation.stdin.end()

    def read(self, size: int) -> bytes:
        return self.invocation.stdout.read(size)

    def write(self, data: bytes) -> None:
        try:
            self.invocation.stdin.write(data)
        except BrokenPipeError as error:
            raise ChannelError(
                f"{self.invocation.argv[0]!r} on {self._channel.host} reads no more"
            ) from error

    def close_stdin(self) -> None:
        self.invocation.stdin.end()

    def wait(self, timeout: float | None = None) -> int:
        ended = self._ended.wait(timeout)
        self._channel.check()
        if not ended or self._status is None:
            raise TimeoutError(f"{self.invocation.argv[0]!r} has not ended within {timeout} s")
        return self._status

    def stderr_tail(self) -> str:
        return bytes(self.invocation.stderr[-2000:]).decode(errors="replace")

    def close(self) -> None:
        self.invocation.kill()
        self._thread.join()


class _Collected:
    """All that comes out of a pipe."""

    def __init__(self, pipe: Pipe) -> None:
        self._data = b""
        self._thread = threading.Thread(target=self._read, args=(pipe,), name="memory-channel-output")
        self._thread.start()

    def _read(self, pipe: Pipe) -> None:
        self._data = pipe.read()

    def result(self) -> bytes:
        self._thread.join()
        return self._data


def _not_found(invocation: Invocation) -> int:
    invocation.complain("command not found")
    return 127
