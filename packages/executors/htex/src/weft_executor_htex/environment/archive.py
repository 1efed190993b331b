"""Archives of files: compressed tar files that any node can unpack, and equal for equal content."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import tarfile
import tempfile
import zlib
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

__all__ = ["Archive", "Entry", "digest", "on_disk", "recompress", "write"]

_CHUNK = 4 << 20  # bytes that one thread compresses at a time
# Of 800 MB, level 1 leaves 268 MB, 4 leaves 245 MB in about the same time, and 6 236 MB in twice the time.
_LEVEL = 4
_LONG_AGO = 1_000_000_000  # the time of files whose own says nothing, in seconds since the epoch


@dataclass(frozen=True, slots=True)
class Entry:
    """A file of an archive: a copy of ``path``, or ``data``, or a symbolic link to ``link``.

    mtime: in seconds since the epoch; None is that of the file.
    """

    name: str
    path: str = ""
    data: bytes | None = None
    link: str = ""
    executable: bool = False
    mtime: int | None = None


@dataclass(frozen=True, slots=True)
class Archive:
    """An archive in a file of this machine. ``unpacked``: bytes that it takes on a node's disk. ``glibc``:
    see :func:`~.glibc.needed`.
    """

    path: Path
    size: int
    unpacked: int
    glibc: Mapping[str, str] = field(default_factory=dict)


def write(entries: Iterable[Entry], path: Path) -> Archive:
    """Write an archive; nothing is there when that fails.

    Entries come in the order given; owners are left out. Raises :class:`OSError`.
    """
    with _new(path) as packed, tarfile.open(fileobj=packed, mode="w|", format=tarfile.GNU_FORMAT) as tar:  # type: ignore[call-overload]
        unpacked = sum(_add(tar, entry) for entry in entries)
    return Archive(path, path.stat().st_size, unpacked)


def recompress(source: Path, path: Path) -> Archive:
    """The archive that holds the same as an uncompressed one."""
    with open(source, "rb") as file, _new(path) as packed:
        while data := file.read(_CHUNK):
            packed.write(data)
    return Archive(path, path.stat().st_size, source.stat().st_size)


def _add(tar: tarfile.TarFile, entry: Entry) -> int:
    """Add it. Returns how much of a disk it takes."""
    member = tarfile.TarInfo(entry.name)
    member.mtime = _LONG_AGO if entry.mtime is None else entry.mtime
    member.mode = 0o755 if entry.executable else 0o644
    if entry.link:
        member.type, member.linkname = tarfile.SYMTYPE, entry.link
        tar.addfile(member)
    elif entry.data is not None:
        member.size = len(entry.data)
        tar.addfile(member, io.BytesIO(entry.data))
    else:
        with open(entry.path, "rb") as file:
            status = os.fstat(file.fileno())
            member.size = status.st_size
            member.mode = 0o755 if status.st_mode & 0o100 else 0o644
            if entry.mtime is None:
                member.mtime = int(status.st_mtime)
            tar.addfile(member, file)
    return on_disk(member.size)


def on_disk(size: int) -> int:
    """How much a file takes, in whole blocks."""
    return (size + 4095) // 4096 * 4096 + 512


@contextlib.contextmanager
def _new(path: Path) -> Iterator[_Gzip]:
    """A file that bears its name once it is whole."""
    descriptor, partial = tempfile.mkstemp(prefix=".part-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            packed = _Gzip(file)
            try:
                yield packed
            finally:
                packed.close()
        os.replace(partial, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(partial)


class _Gzip:
    """Compresses with several threads: a file of several gzip members is one to every reader of gzip."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._pool = ThreadPoolExecutor(os.cpu_count() or 1, "weft-pack")
        self._waiting: deque[Future[bytes]] = deque()
        self._buffer = bytearray()

    def write(self, data: bytes) -> int:
        self._buffer += data
        if len(self._buffer) >= _CHUNK:
            self._hand()
        return len(data)

    def close(self) -> None:
        if self._buffer:
            self._hand()
        while self._waiting:
            self._file.write(self._waiting.popleft().result())
        self._pool.shutdown()

    def _hand(self) -> None:
        self._waiting.append(self._pool.submit(_member, bytes(self._buffer)))
        self._buffer.clear()
        if len(self._waiting) > 2 * (os.cpu_count() or 1):
            self._file.write(self._waiting.popleft().result())


def _member(data: bytes) -> bytes:
    packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, 31)
    return packer.compress(data) + packer.flush()


def digest(entries: Iterable[Entry]) -> str:
    """Names the content of entries, all of which is read. Times do not matter."""
    hasher = hashlib.blake2b(digest_size=10)
    for entry in entries:
        data = entry.data
        if data is None:
            data = Path(entry.path).read_bytes() if entry.path else b""
        hasher.update(f"{entry.name}\0{entry.link}\0{entry.executable}\0{len(data)}\0".encode())
        hasher.update(data)
    return hasher.hexdigest()
