"""What all stores share that write in batches: see each of their modules for where they write to."""

from __future__ import annotations

import atexit
import logging
import math
import os
import weakref
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from fnmatch import fnmatchcase

from weft_interfaces import BaseMemoStore, MemoEntry, MemoStoreError

from .record import Record, UnreadableError, entry_of, outline_of, pack, unpack_components
from .writer import Batch, Writer

__all__ = ["BatchedStore"]

_log = logging.getLogger("weft")

INLINE = 32_768  # bytes from which an outcome is kept apart from its entry, by digest
_PROBLEMS = 10_000  # keys whose problem is remembered


class BatchedStore(BaseMemoStore):
    """Packs what is put at once, and hands it to :meth:`_commit` in a thread of its own."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._writer = Writer(self._commit, name)
        self._problems: dict[bytes, str] = {}
        _watch(self)

    # -- where it is kept ---------------------------------------------------------------------------------

    @abstractmethod
    def _commit(self, batch: Batch) -> None:
        """Keep a batch, so that it survives a crash; called by one thread. May raise anything."""

    @abstractmethod
    def _find(self, key: bytes) -> Record | None:
        """The record of this key. Raises :class:`UnreadableError` for one that cannot be read."""

    @abstractmethod
    def _content(self, digest: bytes) -> bytes:
        """What was kept by digest. Raises :class:`UnreadableError`."""

    @abstractmethod
    def _near(
        self, task: str, components: Mapping[str, bytes], before: float
    ) -> Iterable[tuple[bytes, bytes]]:
        """Keys and packed components of entries of the task whose time is earlier, the latest first: of all
        that may share most of these components.
        """

    @abstractmethod
    def _text(self, digest: bytes) -> str | None:
        """The description of this digest."""

    @abstractmethod
    def _keys(self) -> Iterable[bytes]:
        """The keys of all entries, broken ones too."""

    @abstractmethod
    def _records(self) -> Iterator[Record]:
        """All records, the oldest first where that is known. Those that cannot be read are left out."""

    def _in_child(self) -> None:
        """Forget what belongs to the parent: this process was forked."""
        self._writer.reset()

    # -- the contract -------------------------------------------------------------------------------------

    def get(self, key: bytes) -> MemoEntry | None:
        try:
            record = self._writer.find(key) or self._find(key)
            entry = None if record is None else entry_of(record, self._outcome(record))
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

    def nearest(
        self, task: str, components: Mapping[str, bytes], before: float | None = None
    ) -> MemoEntry | None:
        wanted, end = components.items(), math.inf if before is None else before
        best: tuple[int, bytes] | None = None
        waiting = [
            (r.key, r.components) for r in reversed(self._writer.records()) if r.task == task and r.time < end
        ]
        for entries in (waiting, self._near(task, components, end)):
            for key, packed in entries:
                shared = sum(item in wanted for item in unpack_components(packed))
                if best is None or shared > best[0]:
                    best = (shared, key)
        return None if best is None else self.outline(best[1])

    def describe(self, descriptions: Mapping[bytes, str]) -> None:
        if descriptions:
            self._writer.describe(descriptions)

    def description(self, digest: bytes) -> str | None:
        waiting = self._writer.text(digest)  # first: it may be written meanwhile
        kept = self._text(digest)
        return waiting if kept is None else kept

    def flush(self) -> None:
        """See :meth:`MemoStore.flush`. Raises :class:`MemoStoreError` when something could not be written; it
        is kept, and tried again.
        """
        self._writer.flush()

    def close(self) -> None:
        """See :meth:`MemoStore.close`. Raises :class:`MemoStoreError` when something could not be written; it
        is lost then.
        """
        self._writer.close()

    # -- beyond the contract ------------------------------------------------------------------------------

    def outline(self, key: bytes) -> MemoEntry | None:
        """The entry without its value, which is not read."""
        record = self.record(key)
        return None if record is None else outline_of(record)

    def record(self, key: bytes) -> Record | None:
        """What is known of the entry without reading its value; None if it is not there, or damaged."""
        try:
            record = self._writer.find(key) or self._find(key)
        except UnreadableError as problem:
            self._note(key, str(problem))
            return None
        return record

    def records(self, task: str = "*", run: str = "*", since: float = 0.0) -> Iterator[Record]:
        """The entries of tasks and of runs that match these patterns (as of file names), not older than
        ``since`` (seconds since the epoch). What is on its way is written first; values are not read.
        """
        self.flush()
        for record in self._records():
            if record.time >= since and fnmatchcase(record.task, task) and fnmatchcase(record.run, run):
                yield record

    def matching(self, prefix: str) -> list[bytes]:
        """The keys whose hexadecimal digits begin so."""
        self.flush()
        return [key for key in self._keys() if key.hex().startswith(prefix.lower())]

    def export(self, target: BatchedStore, records: Iterable[Record]) -> tuple[int, int]:
        """Copy these entries to another store, with what describes them, and wait until they are kept there.

        Returns the number that was copied, and of those that were left out because they are damaged.
        """
        copied = broken = 0
        for record in records:
            try:
                data = self._outcome(record)
            except UnreadableError as problem:
                self._note(record.key, str(problem))
                broken += 1
                continue
            target._writer.put(record._replace(data=data))
            target.describe(self._texts_of(record))
            copied += 1
        target.flush()
        return copied, broken

    def _texts_of(self, record: Record) -> dict[bytes, str]:
        texts: dict[bytes, str] = {}
        digests = [digest for _, digest in unpack_components(record.components)]
        while digests:
            digest = digests.pop()
            text = None if digest in texts else self.description(digest)
            if text is not None:
                texts[digest] = text
                digests += parts_of(text)
        return texts

    def _outcome(self, record: Record) -> bytes:
        if not record.is_whole():
            raise UnreadableError(f"the entry of {record.task!r} is damaged: its checksum is another")
        if record.data is not None:
            return record.data
        assert record.digest is not None
        return self._content(record.digest)

    def _note(self, key: bytes, problem: str) -> None:
        while len(self._problems) >= _PROBLEMS:
            self._problems.pop(next(iter(self._problems)), None)
        self._problems[key] = problem


def parts_of(text: str) -> list[bytes]:
    """The digests that a description refers to: those of the parts of a function's identity."""
    import json

    if not text.startswith("{") or '"parts"' not in text:
        return []
    try:
        return [bytes.fromhex(part) for part in json.loads(text)["parts"].values()]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return []


_stores: weakref.WeakSet[BatchedStore] = weakref.WeakSet()
_hooks: list[Callable[[], None]] = []


def _watch(store: BatchedStore) -> None:
    if not _hooks:
        _hooks.extend((_in_child, _at_exit))
        os.register_at_fork(after_in_child=_in_child)
        atexit.register(_at_exit)
    _stores.add(store)


def _in_child() -> None:
    for store in list(_stores):
        store._in_child()


def _at_exit() -> None:
    for store in list(_stores):
        try:
            store.close()
        except MemoStoreError as error:
            _log.warning("%s", error)
