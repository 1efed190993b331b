"""The blobs of one node: in shared memory, then on disk, from where workers map them.

::

    in memory (bounded) ── least recently used, if nobody needs it ──> on disk (bounded) ──> dropped
          ^                                                               ^
    blobs of calls; blobs of results, which are dropped at once           └── what has no room in memory

Each of the two is a directory that only its owner can enter, with a file for each blob. The manager alone
adds and removes; workers read, and leave the blobs of results in a directory inside, from where the manager
adopts them. A lock tells the directories of the living from those that were left behind.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import shutil
import tempfile
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from weft_interfaces import Shared, format_bytes

from .blobs import Head, digest_of
from .packing import BlobSerializer

__all__ = ["NodeStore", "Places", "StoreError", "WorkerBlobs", "make_worker_serializer"]

_SHARED_MEMORY = "/dev/shm"
_PREFIX = "weft-blobs-"
_RESULTS = "results"
_SHARE = 4  # the store takes a quarter of what is free


class StoreError(Exception):
    """A blob could not be stored, for this reason."""


class Places(NamedTuple):
    """The two directories, and how many bytes each may hold."""

    memory: str
    disk: str
    memory_limit: int
    disk_limit: int


class _Kept:
    """One blob. ``pins``: calls that need it. ``spills``: it goes to disk before it is dropped."""

    __slots__ = ("on_disk", "pins", "size", "spills")

    def __init__(self, size: int, on_disk: bool, spills: bool) -> None:
        self.size = size
        self.on_disk = on_disk
        self.spills = spills
        self.pins = 0


class NodeStore:
    """The manager's end. For one thread.

    ``memory_limit``: in bytes, a quarter of what is free unless said. places: where it is, for workers.
    """

    def __init__(self, memory_limit: int | None = None, disk_limit: int | None = None) -> None:
        """Make its directories, and remove those that nobody has any more. Raises :class:`OSError`."""
        disk = tempfile.gettempdir()
        memory = _SHARED_MEMORY if os.access(_SHARED_MEMORY, os.W_OK | os.X_OK) else disk
        for parent in {memory, disk}:
            _sweep(parent)
        if memory_limit is None:
            memory_limit = min(shutil.disk_usage(memory).free, _physical_memory()) // _SHARE
        if disk_limit is None:
            disk_limit = shutil.disk_usage(disk).free // _SHARE
        self._locks: list[int] = []
        folders: list[str] = []
        try:
            for parent in (memory, disk):
                folder, lock = _make_folder(parent)
                folders.append(folder)
                self._locks.append(lock)
        except OSError:
            self._remove(folders)
            raise
        self.places = places = Places(folders[0], folders[1], memory_limit, disk_limit)
        self._kept: OrderedDict[bytes, _Kept] = OrderedDict()  # the least recently used first
        self._used = {False: 0, True: 0}  # bytes, in memory and on disk
        self._limits = {False: places.memory_limit, True: places.disk_limit}
        self._dropped: list[bytes] = []

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._kept

    def put(self, digest: bytes, data: Any) -> None:
        """Keep a blob. Raises :class:`StoreError`, and has not kept it then."""
        if digest in self._kept:
            self._kept.move_to_end(digest)
            return
        if digest_of(data) != digest:
            raise StoreError("its content is not what its name says: was it changed while it was submitted?")
        size = len(data)
        words = ""
        for on_disk in (False, True):
            if not self._make_room(size, on_disk):
                continue
            try:
                _write(self._path(digest, on_disk), data)
            except OSError as error:
                words = f": {error}"
                continue
            self._add(digest, _Kept(size, on_disk, True))
            return
        limits = " and ".join(format_bytes(limit) for limit in self._limits.values())
        raise StoreError(
            f"there is no room for its {format_bytes(size)} on the node, where up to {limits}, in memory and "
            f"on disk, hold what calls need{words}"
        )

    def adopt(self, head: Head) -> list[bytes]:
        """Keep the blobs of a worker's result, and pin them. Returns their digests.

        Raises :class:`StoreError` when one is missing; none is pinned then.
        """
        digests = list(dict.fromkeys(part.digest for part in head.parts))
        for part in head.parts:
            self._adopt(head.token, part.digest, part.size)
        missing = [digest for digest in digests if digest not in self._kept]
        if missing:
            raise StoreError(f"{len(missing)} of its blobs are not on the node")
        self.pin(digests)
        return digests

    def _adopt(self, token: int, digest: bytes, size: int) -> None:
        for on_disk in (False, True):
            path = self._result_path(token, digest, on_disk)
            try:
                if os.path.getsize(path) != size:
                    continue
                if digest in self._kept:
                    os.unlink(path)
                else:
                    os.rename(path, self._path(digest, on_disk))
                    self._add(digest, _Kept(size, on_disk, False))
            except OSError:
                continue
            return

    def discard(self, head: Head) -> None:
        """Nobody wants this result of a worker's."""
        for part in head.parts:
            for on_disk in (False, True):
                with contextlib.suppress(OSError):
                    os.unlink(self._result_path(head.token, part.digest, on_disk))

    def discard_of_worker(self, pid: int) -> None:
        """The worker is dead, and its last results have been adopted or discarded: remove what it left."""
        for folder in (self.places.memory, self.places.disk):
            for path in Path(folder, _RESULTS).glob(f"{pid}-*"):
                path.unlink(missing_ok=True)

    def view(self, digest: bytes) -> memoryview:
        """The content, to be read only. Raises :class:`OSError`."""
        return _map(self._path(digest, self._kept[digest].on_disk))

    def pin(self, digests: Iterable[bytes]) -> None:
        """A call needs these, which are there."""
        for digest in digests:
            self._kept[digest].pins += 1
            self._kept.move_to_end(digest)

    def unpin(self, digests: Iterable[bytes]) -> None:
        """A call needs them no more."""
        for digest in digests:
            self._kept[digest].pins -= 1
        for on_disk in (False, True):  # where there may be too much because all was needed
            self._make_room(0, on_disk)

    def dropped(self) -> list[bytes]:
        """The blobs that were dropped since this was last asked."""
        dropped, self._dropped = self._dropped, []
        return dropped

    def usage(self) -> tuple[int, int]:
        """Bytes in memory and on disk."""
        return self._used[False], self._used[True]

    def close(self) -> None:
        """Remove everything."""
        self._kept.clear()
        self._remove([self.places.memory, self.places.disk])

    def _remove(self, folders: Iterable[str]) -> None:
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)
        while self._locks:
            os.close(self._locks.pop())

    def _path(self, digest: bytes, on_disk: bool) -> str:
        return os.path.join(self.places.disk if on_disk else self.places.memory, digest.hex())

    def _result_path(self, token: int, digest: bytes, on_disk: bool) -> str:
        return _result_path(self.places.disk if on_disk else self.places.memory, token, digest)

    def _add(self, digest: bytes, kept: _Kept) -> None:
        self._kept[digest] = kept
        self._used[kept.on_disk] += kept.size

    def _make_room(self, size: int, on_disk: bool) -> bool:
        """Have room for so many bytes more; whether that was possible."""
        most = self._limits[on_disk] - size
        if self._used[on_disk] <= most:
            return True
        if most < 0:
            return False
        for digest, kept in list(self._kept.items()):
            if kept.on_disk is on_disk and not kept.pins:
                self._evict(digest, kept)
                if self._used[on_disk] <= most:
                    return True
        return False

    def _evict(self, digest: bytes, kept: _Kept) -> None:
        path = self._path(digest, kept.on_disk)
        moved = False
        if kept.spills and not kept.on_disk and self._make_room(kept.size, True):
            with contextlib.suppress(OSError):
                shutil.copyfile(path, f"{self._path(digest, True)}.new")
                os.rename(f"{self._path(digest, True)}.new", self._path(digest, True))
                moved = True
        with contextlib.suppress(OSError):
            os.unlink(path)
        self._used[kept.on_disk] -= kept.size
        if moved:
            kept.on_disk = True
            self._used[True] += kept.size
        else:
            del self._kept[digest]
            self._dropped.append(digest)


class WorkerBlobs:
    """A worker's end, a :class:`Keeper`: maps the blobs of arguments, and writes those of results."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._number = 0

    def begin(self) -> int:
        """See :meth:`Keeper.begin`."""
        self._number += 1
        return os.getpid() << 32 | self._number & 0xFFFFFFFF

    def keep(self, data: Any, token: int) -> _Named:
        """See :meth:`Keeper.keep`."""
        blob = _Named(digest_of(data, threads=1), len(data))
        places = self._places
        if blob.size <= places.memory_limit:
            with contextlib.suppress(OSError):
                _write(_result_path(places.memory, token, blob.digest), data)
                return blob
        _write(_result_path(places.disk, token, blob.digest), data)
        return blob

    def share(self, shared: Shared[Any], large: int) -> None:
        """See :meth:`Keeper.share`. A result is sent once: there is nothing to be saved."""

    def find(self, digest: bytes, size: int) -> memoryview:
        """See :meth:`Keeper.find`."""
        for folder in (self._places.memory, self._places.disk):
            with contextlib.suppress(FileNotFoundError):
                return _map(os.path.join(folder, digest.hex()))
        raise LookupError(f"blob {digest.hex()[:16]} is not on the node")


def make_worker_serializer(places: Sequence[Any], large: int) -> BlobSerializer:
    """The serializer of a worker whose node has this store; named in :class:`WorkerSettings`."""
    import cloudpickle  # type: ignore[import-untyped]

    return BlobSerializer(cloudpickle.Pickler, large, WorkerBlobs(Places(*places)))


class _Named(NamedTuple):
    digest: bytes
    size: int


def _result_path(folder: str, token: int, digest: bytes) -> str:
    return os.path.join(folder, _RESULTS, f"{token >> 32}-{token & 0xFFFFFFFF}-{digest.hex()}")


def _write(path: str, data: Any) -> None:
    """Write a file. Raises :class:`OSError`, and has left nothing."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
    except OSError:
        os.unlink(path)
        raise
    finally:
        os.close(descriptor)


def _map(path: str) -> memoryview:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return memoryview(mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ))
    finally:
        os.close(descriptor)


def _make_folder(parent: str) -> tuple[str, int]:
    """A new directory, and the descriptor that holds its lock until this process ends."""
    while True:
        folder = tempfile.mkdtemp(prefix=_PREFIX, dir=parent)
        try:
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:  # another manager has swept it already
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            os.mkdir(os.path.join(folder, _RESULTS))
        except (BlockingIOError, FileNotFoundError):  # it was swept before it was locked
            os.close(descriptor)
        except OSError:
            os.close(descriptor)
            shutil.rmtree(folder, ignore_errors=True)
            raise
        else:
            return folder, descriptor


def _sweep(parent: str) -> None:
    """Remove what was left by managers that are dead: they were killed with all that could have done it."""
    for folder in Path(parent).glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            if folder.stat().st_uid != os.getuid():
                continue
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(descriptor)


def _physical_memory() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return 1 << 40
