"""The store that is a folder: for one machine, or for many on a shared file system."""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from weft_interfaces import MemoStoreError, parse_bytes, parse_seconds

from .batched import BatchedStore
from .gate import Gate
from .index import COLUMNS, Index, is_damage
from .mounts import is_local
from .record import Record, pack_components
from .salvage import salvage
from .sweep import Removed, Sweep, broken_entries
from .values import Values, sync_all
from .writer import Batch

__all__ = ["FileStore"]

T = TypeVar("T")

_log = logging.getLogger("weft")

_SLICE = 500  # entries that are removed at once, while others wait


class FileStore(BatchedStore):
    """Keeps outcomes in the folder ``path``, which is made if it is not there.

    max_size (bytes, or ``"10GB"``), max_age (seconds, or ``"30d"``): what :meth:`gc` brings the store to; it
    is called by ``close`` where one of them is given, and each time that a tenth of ``max_size`` was written.

    Any number of threads, processes and runs may use one folder at once. What was put is written by a thread
    of the store's own, in batches; ``flush`` waits for the disk, and what it has acknowledged survives
    SIGKILL and loss of power. Opening mends what interrupted writes have left, and replaces a damaged index
    by what can be read of it.

    Relied on: ``flock``, POSIX locks and an atomic ``rename``. On a file system that several machines may
    share, SQLite's rollback journal is used, else its write-ahead log.

    Raises :class:`MemoStoreError` when the folder cannot be opened, read or written, :class:`ConfigError` for
    one that a newer version has made. A copy that was pickled opens the same path.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] = "weft-memo.db",
        *,
        max_size: str | int | None = None,
        max_age: str | float | None = None,
    ) -> None:
        self.path = Path(path).absolute()
        self.max_size = None if max_size is None else parse_bytes(max_size, "max_size")
        self.max_age = None if max_age is None else parse_seconds(max_age, "max_age")
        self._gate = Gate(self.path / "lock")
        self._values = Values(self.path / "values")
        self._lock = threading.RLock()
        self._index: Index | None = None
        self._closed = False
        self._grown = 0  # bytes written since the last collection
        self._open()
        super().__init__(f"the memo store {self.path}")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopened, (type(self), str(self.path), self.max_size, self.max_age)

    def close(self) -> None:
        """See :meth:`MemoStore.close`. Raises :class:`MemoStoreError` when something could not be written; it
        is lost then.
        """
        try:
            super().close()
            if not self._closed and self._grown and (self.max_size, self.max_age) != (None, None):
                self.gc()
        finally:
            with self._lock:
                self._closed = True
                if self._index is not None:
                    self._index.close()
                    self._index = None

    # -- beyond the contract ------------------------------------------------------------------------------

    def remove(self, keys: Iterable[bytes]) -> int:
        """Remove these entries, and return how many of them there were. Their value files go with the next
        :meth:`gc`.
        """
        self.flush()
        remaining, count = list(keys), 0
        while remaining:
            portion, remaining = remaining[:_SLICE], remaining[_SLICE:]
            with self._gate:
                count += self._current().remove(portion)
        return count

    def gc(self, max_size: str | int | None = None, max_age: str | float | None = None) -> Removed:
        """Remove the oldest entries until what is left is not larger and not older than this, or than what
        the store was made with; and what nothing refers to any more: value files, descriptions.

        Others may use the store meanwhile. Returns what was removed.
        """
        size = self.max_size if max_size is None else parse_bytes(max_size, "max_size")
        age = self.max_age if max_age is None else parse_seconds(max_age, "max_age")
        self.flush()
        return self._collect(size, age)

    def verify(self) -> list[tuple[bytes, str]]:
        """Read everything, and compare it with its checksums: the keys of all entries that are damaged, with
        the reason. A key that is empty stands for the index as a whole.

        Nothing is unpickled: that would run code, and results of a script's own classes need the script.
        """
        self.flush()
        return self._guarded(lambda index: broken_entries(index, self._values))

    def size(self) -> tuple[int, int]:
        """The number of entries, and the bytes that they take on the disk."""
        self.flush()
        files = sum(size for _, size in self._values.files())
        return self._guarded(lambda index: (index.count(), index.size() + files))

    # -- inside -------------------------------------------------------------------------------------------

    def _find(self, key: bytes) -> Record | None:
        index = self._index
        if index is not None:
            with suppress(sqlite3.Error):  # what is wrong with it is found below
                return index.find(key)
        return self._guarded(lambda index: index.find(key))

    def _content(self, digest: bytes) -> bytes:
        return self._values.read(digest)

    def _near(self, task: str, components: Mapping[str, bytes], before: float) -> list[tuple[bytes, bytes]]:
        wanted = [pack_components({name: digest}) for name, digest in components.items()]
        return self._guarded(lambda index: index.nearest(task, wanted, before))

    def _text(self, digest: bytes) -> str | None:
        return self._guarded(lambda index: index.text(digest))

    def _keys(self) -> list[bytes]:
        return [key for (key,) in self._guarded(lambda index: index.all("SELECT key FROM entries"))]

    def _records(self) -> Iterator[Record]:
        last = -1
        query = f"SELECT id, {COLUMNS} FROM entries WHERE id > ? ORDER BY id LIMIT ?"
        while rows := self._guarded(lambda index, last=last: index.all(query, last, _SLICE)):  # type: ignore[misc]
            yield from (Record(*row[1:]) for row in rows)
            last = rows[-1][0]

    def _in_child(self) -> None:
        super()._in_child()
        _inherited.append(self._index)
        self._gate.reset()
        self._lock = threading.RLock()
        self._index = None

    def _open(self) -> Index:
        """The index, opened if it is not. Damage is mended."""
        if (index := self._index) is not None:
            return index
        if self._closed:
            raise MemoStoreError(f"the memo store {self.path} is closed")
        try:
            self._values.make()
            with self._gate, self._lock:
                if self._index is None:
                    self._index = self._opened()
                return self._index
        except (OSError, sqlite3.Error) as error:
            raise MemoStoreError(f"the memo store {self.path} cannot be opened: {error}") from error

    def _opened(self) -> Index:
        path, local = self.path / "index.sqlite", is_local(self.path)
        self._values.sweep()
        try:
            return Index(path, local=local)
        except sqlite3.Error as error:
            if not is_damage(error):
                raise
            salvage(path, str(error))
            return Index(path, local=local)

    def _current(self) -> Index:
        """The index that the store has now; with the gate held."""
        with self._lock:
            index = self._open()
            if not index.is_current():
                self._index = None
                index.close()
                index = self._open()
            return index

    def _guarded(self, query: Callable[[Index], T]) -> T:
        for last in (False, False, True):
            index = self._open()
            try:
                return query(index)
            except sqlite3.Error as error:
                replaced = self._index is not index  # by another thread, which has closed this one
                if last or not (replaced or is_damage(error)):
                    raise MemoStoreError(f"the memo store {self.path} cannot be read: {error}") from error
                self._mend(index, error)
        raise AssertionError

    def _mend(self, broken: Index, reason: sqlite3.Error) -> None:
        """Replace a damaged index, unless another thread or process has done so."""
        with self._gate, self._lock:
            if self._index is not broken:
                return
            replaced = not broken.is_current()
            broken.close()
            self._index = None
            if not replaced:
                salvage(broken.path, str(reason))

    def _commit(self, batch: Batch) -> None:
        """Write a batch, in the writer's thread."""
        large = {r.digest: r.data for r in batch.records.values() if r.digest and r.data is not None}
        with self._values.prepared(large) as prepared, self._gate:
            folders = {self._values.install(digest, large[digest], prepared) for digest in large}
            if folders:
                sync_all({*folders, self._values.folder})
            index = self._current()
            try:
                index.write(batch.records.values(), batch.texts)
            except sqlite3.Error as error:
                if not is_damage(error):
                    raise
                self._mend(index, error)
                self._open().write(batch.records.values(), batch.texts)
        self._grown += batch.size
        if self.max_size is not None and self._grown > self.max_size / 10:
            try:
                self._collect(self.max_size, self.max_age)
            except MemoStoreError as error:
                _log.warning("%s", error)  # the batch itself is kept

    def _collect(self, max_size: int | None, max_age: float | None) -> Removed:
        self._grown = 0
        before = None if max_age is None else time.time() - max_age
        sweep = Sweep(self._gate, self._current, self._values)
        try:
            return sweep.collect(max_size, before)
        except (OSError, sqlite3.Error) as error:
            raise MemoStoreError(f"the memo store {self.path} cannot be collected: {error}") from error


_inherited: list[Index | None] = []  # of the parent: to close one of these connections would disturb it


def _reopened(kind: type[FileStore], path: str, max_size: int | None, max_age: float | None) -> FileStore:
    return kind(path, max_size=max_size, max_age=max_age)
