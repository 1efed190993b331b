"""Files and directories to and from the far side, over nothing but commands and their streams.

A file goes under a name that holds the digest of its content, and gets its own when it is there as a whole
and its content has been compared. So what was interrupted goes on where it stopped, for whoever sends the
same.
"""

from __future__ import annotations

import contextlib
import errno
import secrets
import threading
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Protocol

from weft_interfaces import ChannelError, CommandResult, RemoteProcess

from . import script
from .again import Again
from .digest import Digest, digest
from .errors import ConnectError
from .fetch import Fetch
from .refusal import refusal
from .tree import pack

__all__ = ["Commands", "Files"]

_SMALL = 1 << 20  # bytes that go in one command, there and back, and are not worth going on with
_CHUNK = 1 << 18
# Seconds for the far side to take what is small, or to compare and rename, and bytes more a second that even
# a slow disk gives. After that its file system is taken for one that hangs.
_LATEST, _SLOWEST = 300.0, 4e6


class Commands(Protocol):
    """What is needed of a channel."""

    @property
    def host(self) -> str: ...

    def run(
        self,
        argv: Sequence[str],
        *,
        input: bytes = b"",
        timeout: float | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> CommandResult: ...

    def open(self, argv: Sequence[str], *, environment: Mapping[str, str] | None = None) -> RemoteProcess: ...


class Files:
    """The files of a channel's host. What :class:`~weft_interfaces.Channel` says of its methods holds."""

    def __init__(self, commands: Commands) -> None:
        self._commands = commands
        self._name = secrets.token_hex(4)
        self._changed = threading.Condition()
        self._busy: set[str] = set()

    def put(self, local: Path, remote: str) -> None:
        if local.is_dir():
            with TemporaryFile() as stream:
                pack(local, stream)
                self._put(stream, "tree", "-", remote)
        else:
            if local.exists() and not local.is_file():
                raise OSError(errno.EINVAL, "it is neither a file nor a directory", str(local))
            with open(local, "rb") as stream:
                self._put(stream, "file", f"{local.stat().st_mode & 0o7777:o}", remote)

    def get(self, remote: str, local: Path) -> None:
        Fetch(self._commands, remote, _path(remote), local).run()

    def makedirs(self, path: str, mode: int = 0o700) -> None:
        ended = self._sh(script.MAKE, _path(path), f"{0o777 & ~mode:o}", of=path)
        if ended.exit_status:
            raise refusal(path, self._commands.host, ended.exit_status, ended.stderr)

    def _sh(
        self, program: str, *arguments: str, of: str, input: bytes = b"", timeout: float = _LATEST
    ) -> CommandResult:
        argv = ["sh", "-c", program, "sh", *arguments]
        try:
            return self._commands.run(argv, input=input, timeout=timeout, environment={"LC_ALL": "C"})
        except TimeoutError as error:
            raise self._hangs(of, timeout) from error

    def _hangs(self, path: str, timeout: float) -> ChannelError:
        return ChannelError(
            f"{self._commands.host}:{path}: nothing was heard of it for {timeout:.0f} s: the file system "
            "there may hang"
        )

    # -- there ---------------------------------------------------------------------------------------------

    def _put(self, stream: IO[bytes], kind: str, mode: str, remote: str) -> None:
        whole = digest(stream)
        folder, _, name = _path(remote.rstrip("/") or "/").rpartition("/")
        place = [folder or "/", f"./{name}", kind]
        begin = f"./.weft-{whole.sha256[:32]}."
        if whole.size <= _SMALL:
            stream.seek(0)
            partial = f"{begin}{secrets.token_hex(4)}.part"
            ended = self._sh(
                script.STORE,
                *place,
                *_store(partial, 0, whole, mode),
                of=remote,
                input=stream.read(_SMALL + 1),
            )
            if ended.exit_status:
                raise refusal(remote, self._commands.host, ended.exit_status, ended.stderr)
            return
        partial = f"{begin}{self._name}-{zlib.crc32(name.encode(errors='surrogateescape')):08x}.part"
        with self._alone(f"{folder}/{partial}"):
            self._put_large(stream, whole, [*place, partial, begin], mode, remote)

    def _put_large(self, stream: IO[bytes], whole: Digest, place: list[str], mode: str, remote: str) -> None:
        again = Again()
        while True:
            try:
                begin = self._prepare(stream, whole, place, remote)
                again.reached(begin)
                self._send(stream, [*place[:3], *_store(place[3], begin, whole, mode)], begin, whole, remote)
                return
            except ConnectError as error:
                again.wait(error)

    def _prepare(self, stream: IO[bytes], whole: Digest, place: list[str], remote: str) -> int:
        """How many bytes are there already."""
        ended = self._sh(script.PREPARE, *place, of=remote, timeout=_patience(whole.size))
        if ended.exit_status:
            raise refusal(remote, self._commands.host, ended.exit_status, ended.stderr)
        size, _, there = ended.stdout.decode(errors="replace").strip().partition(" ")
        if size.isdigit() and 0 < int(size) <= whole.size and there in digest(stream, int(size)).sums:
            return int(size)
        return 0

    def _send(self, stream: IO[bytes], arguments: list[str], begin: int, whole: Digest, remote: str) -> None:
        process = self._commands.open(
            ["sh", "-c", script.STORE, "sh", *arguments], environment={"LC_ALL": "C"}
        )
        with contextlib.closing(process):
            stream.seek(begin)
            try:
                while data := stream.read(_CHUNK):
                    process.write(data)
                process.close_stdin()
            except ConnectError:
                raise
            except ChannelError:  # it has ended early, and says why
                pass
            try:
                status = process.wait(_patience(whole.size))
            except TimeoutError as error:
                raise self._hangs(remote, _patience(whole.size)) from error
            if status:
                raise refusal(remote, self._commands.host, status, process.stderr_tail().encode())

    @contextlib.contextmanager
    def _alone(self, partial: str) -> Iterator[None]:
        """One at a time may write to a partial file."""
        with self._changed:
            while partial in self._busy:
                self._changed.wait()
            self._busy.add(partial)
        try:
            yield
        finally:
            with self._changed:
                self._busy.discard(partial)
                self._changed.notify_all()


def _path(path: str) -> str:
    """So that no command takes it for an option."""
    return path if path.startswith("/") else f"./{path}"


def _patience(size: int) -> float:
    return _LATEST + size / _SLOWEST


def _store(partial: str, begin: int, whole: Digest, mode: str) -> list[str]:
    return [partial, str(begin), str(whole.size), *whole.sums, mode]
