"""The store that is a folder: for one machine, or for many on a shared file system."""

from __future__ import annotations

import atexit
import logging
import os
import sqlite3
import threading
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from weft_interfaces import BaseMemoStore, MemoEntry, MemoStoreError, parse_bytes, parse_seconds

from .gate import Gate
from .index import Index, is_damage
from .mounts import is_local
from .record import Record, UnreadableError, entry_of, outline_of, pack, unpack_components
from .salvage import salvage
from .values import Values, sync_folders
from .writer import Batch, Writer

__all__ = ["FileStore"]

T = TypeVar("T")

_log = logging.getLogger("weft")

INLINE = 32_768  # bytes from which an outcome is a file
NEAR = 10_000  # entries among which the nearest is looked for
_PROBLEMS = 10_000  # keys whose problem is remembered
_stores: weakref.WeakSet[FileStore] = weakref.WeakSet()


class FileStore(BaseMemoStore):
    """Keeps outcomes in the folder ``path``, which is made if it is not there.

    max_size (bytes, or ``"10GB"``), max_age (seconds, or ``"30d"``): what :meth:`gc` brings the store to; it
    is called from time to time where one of them is given.

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
        self._writer = Writer(self._commit, f"the memo store {self.path}")
        self._problems: dict[bytes, str] = {}
        self._begin()
        _watch(self)

    def _begin(self) -> None:
        self._index: Index | None = None
        self._closed = False
        self._lock = threading.RLock()
        self._open()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopened, (type(self), str(self.path), self.max_size, self.max_age)

    # -- the contract -------------------------------------------------------------------------------------

    def get(self, key: bytes) -> MemoEntry | None:
        record = self._writer.find(key) or self._read(lambda index: index.find(key))
        if record is None:
            self._problems.pop(key, None)
            return None
        try:
            entry = entry_of(record, self._outcome(record))
        except UnreadableError as problem:
            self._note(key, str(problem))
            return None
        if self._problems:
            self._problems.pop(key, None)
        return entry

    def problem(self, key: bytes) -> str | None:
        return self._problems.get(key)

    def put(self, entry: MemoEntry) -> None:
        """See :meth:`MemoStore.put`; also raises :class:`MemoStoreError` when earlier entries could not be
        written: this one is not taken then, but later ones are, and all are tried again.
        """
        self._writer.put(pack(entry, INLINE))

    def nearest(self, task: str, components: Mapping[str, bytes]) -> MemoEntry | None:
        wanted = components.items()
        best: tuple[int, bytes] | None = None
        waiting = [(r.key, r.components) for r in reversed(self._writer.records()) if r.task == task]
        kept = self._read(lambda index: index.latest(task, NEAR))
        for key, packed in (*waiting, *kept):
            shared = sum(item in wanted for item in unpack_components(packed))
            if best is None or shared > best[0]:
                best = (shared, key)
        if best is None:
            return None
        record = self._writer.find(best[1]) or self._read(lambda index: index.find(best[1]))
        return None if record is None else outline_of(record)

    def describe(self, descriptions: Mapping[bytes, str]) -> None:
        if descriptions:
            self._writer.describe(descriptions)

    def description(self, digest: bytes) -> str | None:
        waiting = self._writer.text(digest)
        return waiting if waiting is not None else self._read(lambda index: index.text(digest))

    def flush(self) -> None:
        """See :meth:`MemoStore.flush`. Raises :class:`MemoStoreError` when something could not be written; it
        is kept, and tried again.
        """
        self._writer.flush()

    def close(self) -> None:
        """See :meth:`MemoStore.close`. Raises :class:`MemoStoreError` when something could not be written; it
        is lost then.
        """
        try:
            self._writer.close()
        finally:
            with self._lock:
                self._closed = True
                if self._index is not None:
                    self._index.close()
                    self._index = None

    # -- inside -------------------------------------------------------------------------------------------

    def _outcome(self, record: Record) -> bytes:
        if not record.is_whole():
            raise UnreadableError(f"the entry of {record.task!r} is damaged: its checksum is another")
        if record.data is not None:
            return record.data
        assert record.digest is not None
        return self._values.read(record.digest)

    def _note(self, key: bytes, problem: str) -> None:
        while len(self._problems) >= _PROBLEMS:
            self._problems.pop(next(iter(self._problems)), None)
        self._problems[key] = problem

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

    def _read(self, query: Callable[[Index], T]) -> T:
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
        large = [record for record in batch.records.values() if record.digest is not None]
        prepared = [self._values.prepare(r.digest, r.data) for r in large]  # type: ignore[arg-type]
        with self._gate:
            folders = {
                self._values.install(r.digest, r.data, path)  # type: ignore[arg-type]
                for r, path in zip(large, prepared, strict=True)
            }
            if folders:
                sync_folders({*folders, self._values.folder})
            index = self._current()
            try:
                index.write(batch.records.values(), batch.texts)
            except sqlite3.Error as error:
                if not is_damage(error):
                    raise
                self._mend(index, error)
                self._open().write(batch.records.values(), batch.texts)

    def _current(self) -> Index:
        """The index that the store has now; with the gate held."""
        with self._lock:
            index = self._open()
            if not index.is_current():
                self._index = None
                index.close()
                index = self._open()
            return index


def _reopened(kind: type[FileStore], path: str, max_size: int | None, max_age: float | None) -> FileStore:
    return kind(path, max_size=max_size, max_age=max_age)


def _watch(store: FileStore) -> None:
    if not _hooked:
        _hooked.append(True)
        os.register_at_fork(after_in_child=_in_child)
        atexit.register(_at_exit)
    _stores.add(store)


_hooked: list[bool] = []
_inherited: list[Any] = []  # connections of the parent: closing one here would disturb it


def _in_child() -> None:
    for store in list(_stores):
        _inherited.append(store._index)
        store._gate.reset()
        store._writer.reset()
        store._lock = threading.RLock()
        store._index = None


def _at_exit() -> None:
    for store in list(_stores):
        try:
            store.close()
        except MemoStoreError as error:
            _log.warning("%s", error)
