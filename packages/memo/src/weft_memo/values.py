"""Large outcomes, in files by their digest."""

from __future__ import annotations

import functools
import hashlib
import itertools
import os
import socket
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from .record import UnreadableError, content_digest

__all__ = ["Values", "sync_all"]

_AT_ONCE = 8  # files that are waited for
_ABANDONED = 86_400.0  # seconds after which a temporary file of another machine's process is given up


class Values:
    """The folder of value files: ``ab/cdef...`` is named by the digest of its content.

    A file bears its name when all of it is on the disk, and never changes.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._temporary = folder / "tmp"
        self._numbers = itertools.count()

    def make(self) -> None:
        """Make the folders."""
        self._temporary.mkdir(parents=True, exist_ok=True)

    def path(self, digest: bytes) -> Path:
        """Where the content of this digest is."""
        name = digest.hex()
        return self.folder / name[:2] / name[2:]

    def read(self, digest: bytes) -> bytes:
        """The content. Raises :class:`UnreadableError` when it is not there, or not what it was."""
        path = self.path(digest)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise UnreadableError(f"its value file {path} cannot be read: {error.strerror}") from error
        if content_digest(data) != digest:
            raise UnreadableError(f"its value file {path} is damaged: its content has another digest")
        return data

    @contextmanager
    def prepared(self, contents: Mapping[bytes, bytes]) -> Iterator[dict[bytes, Path]]:
        """Temporary files of those that are not there, with their content on the disk; removed in the end
        unless they were installed.
        """
        files: dict[bytes, Path] = {}
        try:
            for digest, data in contents.items():
                if not self._has(digest, len(data)):
                    files[digest] = self._prepare(data)
            sync_all(files.values())
            yield files
        finally:
            for path in files.values():
                path.unlink(missing_ok=True)

    def _prepare(self, data: bytes) -> Path:
        path = self._temporary / f"{_machine()}-{os.getpid()}-{next(self._numbers)}"
        try:
            with path.open("xb", buffering=0) as file:
                view = memoryview(data)
                while view:
                    view = view[file.write(view) :]
        except BaseException:
            with suppress(OSError):
                path.unlink()
            raise
        return path

    def install(self, digest: bytes, data: bytes, prepared: dict[bytes, Path]) -> Path:
        """Give the file its name; with the gate held, so that nobody removes it until its entry is kept.

        Returns its folder, which is to be waited for.
        """
        path = self.path(digest)
        if digest not in prepared and not self._has(digest, len(data)):  # removed in between
            prepared[digest] = self._prepare(data)
            sync_all([prepared[digest]])
        if digest in prepared:
            path.parent.mkdir(exist_ok=True)
            prepared[digest].replace(path)
            del prepared[digest]
        return path.parent

    def _has(self, digest: bytes, size: int) -> bool:
        # A file of another size was damaged: it is written again.
        try:
            return self.path(digest).stat().st_size == size
        except FileNotFoundError:
            return False

    def files(self) -> Iterator[tuple[bytes, int]]:
        """Digest and size of each file."""
        for folder in sorted(self.folder.glob("[0-9a-f][0-9a-f]")):
            for path in folder.iterdir():
                with suppress(ValueError, FileNotFoundError):
                    yield bytes.fromhex(folder.name + path.name), path.stat().st_size

    def remove(self, digest: bytes) -> None:
        """Remove the file, if it is there."""
        with suppress(FileNotFoundError):
            self.path(digest).unlink()

    def sweep(self) -> int:
        """Remove temporary files whose writers are gone; their number."""
        count = 0
        for path in self._temporary.iterdir():
            with suppress(FileNotFoundError):
                if self._is_abandoned(path):
                    path.unlink()
                    count += 1
        return count

    def _is_abandoned(self, path: Path) -> bool:
        machine, _, rest = path.name.partition("-")
        pid = rest.partition("-")[0]
        if machine == _machine() and pid.isdigit() and not _is_alive(int(pid)):
            return True
        return path.stat().st_mtime < time.time() - _ABANDONED


def sync_all(paths: Iterable[Path]) -> None:
    """Wait until these files and folders are on the disk: together, as waiting is all that it takes."""
    todo, errors = list(paths), []

    def work() -> None:
        with suppress(IndexError):
            while True:
                path = todo.pop()
                try:
                    _sync(path)
                except OSError as error:
                    errors.append(error)

    helpers = [threading.Thread(target=work, daemon=True) for _ in todo[1:_AT_ONCE]]
    with suppress(RuntimeError):  # no thread can be started at the interpreter's end
        for helper in helpers:
            helper.start()
    work()
    for helper in helpers:
        if helper.ident is not None:
            helper.join()
    if errors:
        raise errors[0]


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


@functools.cache
def _machine() -> str:
    """This machine since it was started, and its process ids: containers have their own."""
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii"))
    with suppress(OSError):
        parts.append(os.readlink("/proc/self/ns/pid"))
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]
