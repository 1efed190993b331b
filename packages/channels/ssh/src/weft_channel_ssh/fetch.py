"""One file or directory that comes from the far side."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING

from . import script
from .again import Again
from .digest import digest, is_known
from .errors import ConnectError
from .refusal import refusal
from .tree import unpack

if TYPE_CHECKING:
    from .files import Commands

__all__ = ["Fetch"]

_SMALL = 1 << 20
_CHUNK = 1 << 18
_ATTEMPTS = 4  # of which none has brought what is there


class Fetch:
    """remote: as the user names it; path: as commands do."""

    def __init__(self, commands: Commands, remote: str, path: str, local: Path) -> None:
        self._commands, self._remote, self._path, self._local = commands, remote, path, local
        self._again = Again()

    def run(self) -> None:
        """Raises what :meth:`weft_interfaces.Channel.get` says; then nothing has changed here."""
        attempts = 0
        while attempts < _ATTEMPTS:
            try:
                if self._attempt():
                    return
                attempts += 1
            except ConnectError as error:
                self._again.wait(error)
        raise refusal(self._remote, self._commands.host, script.CHANGED, b"")

    def _attempt(self) -> bool:
        """Whether it came as it was."""
        ended = self._commands.run(
            ["sh", "-c", script.LOOK, "sh", self._path, str(_SMALL)], environment={"LC_ALL": "C"}
        )
        line, _, data = ended.stdout.partition(b"\n")
        words = line.decode(errors="replace").split()
        if ended.exit_status or len(words) != 4 or not is_known(words[3]):
            raise refusal(self._remote, self._commands.host, ended.exit_status or 1, ended.stderr)
        kind, size, mode, total = words
        if kind == "tree" and self._local.is_dir() and any(self._local.iterdir()):
            raise refusal(str(self._local), "here", script.NOT_EMPTY, b"")
        with self._partial(total) as (stream, partial):
            if kind == "file" and int(size) <= _SMALL:
                stream.truncate(0)
                stream.write(data)
            else:
                self._receive(stream, kind)
            stream.flush()
            if total not in digest(stream).sums:
                partial.unlink()
                return False
            if kind == "file":
                os.fchmod(stream.fileno(), _permissions(mode))
                os.replace(partial, self._local)
            else:
                self._unpack(stream, partial)
        return True

    def _receive(self, stream: IO[bytes], kind: str) -> None:
        """Go on where the partial file ends."""
        begin = stream.seek(0, os.SEEK_END)
        self._again.reached(begin)
        process = self._commands.open(
            ["sh", "-c", script.FETCH, "sh", self._path, kind, str(begin + 1)], environment={"LC_ALL": "C"}
        )
        with contextlib.closing(process):
            while data := process.read(_CHUNK):
                stream.write(data)
            if status := process.wait():
                raise refusal(self._remote, self._commands.host, status, process.stderr_tail().encode())

    def _unpack(self, stream: IO[bytes], partial: Path) -> None:
        folder = partial.with_name(f".weft-{uuid.uuid4().hex}.part")
        try:
            unpack(stream, folder)
            try:
                os.replace(folder, self._local)
            except OSError as error:
                if error.errno == errno.ENOTEMPTY:
                    raise refusal(str(self._local), "here", script.NOT_EMPTY, b"") from None
                raise
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            partial.unlink()

    @contextlib.contextmanager
    def _partial(self, total: str) -> Iterator[tuple[IO[bytes], Path]]:
        """The file that holds what has come, for this one alone; removed unless the connection was lost."""
        known = self._local.with_name(f".weft-{total.partition(':')[2][:32]}.part")
        partial, stream = known, os.fdopen(os.open(known, os.O_RDWR | os.O_CREAT, 0o600), "r+b")
        if not _is_ours(stream, known):  # another get of the same content writes to it, or has just moved it
            stream.close()
            partial = self._local.with_name(f".weft-{uuid.uuid4().hex}.part")
            stream = os.fdopen(os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600), "r+b")
        with stream:
            try:
                yield stream, partial
            except ConnectError:
                if partial != known:
                    partial.unlink(missing_ok=True)
                raise
            except BaseException:
                partial.unlink(missing_ok=True)
                raise


def _is_ours(stream: IO[bytes], path: Path) -> bool:
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(stream.fileno()), path.stat())
    except (BlockingIOError, FileNotFoundError):
        return False


def _permissions(text: str) -> int:
    """Of what ls writes: ``-rwsr-x--t``."""
    mode = 0
    for place, letter in enumerate(text[1:10]):
        if letter in "rwxst":
            mode |= 0o400 >> place
        if letter in "sStT":
            mode |= 0o4000 >> (place // 3)
    return mode
