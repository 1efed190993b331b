"""Removes what is too old, too much, or referred to by nothing; finds what is broken."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from .batched import parts_of
from .gate import Gate
from .index import COLUMNS, Index, unpack_text
from .record import Record, UnreadableError, unpack_components
from .values import Values

__all__ = ["Removed", "Sweep", "broken_entries", "portions"]

T = TypeVar("T")

_SLICE = 500  # entries or files that are removed at once, while others wait
_GRACE = 86_400.0  # seconds for which a description is kept that nothing refers to: its call may be running
_PER_ENTRY = 150  # bytes that an entry takes beside its columns


@dataclass(frozen=True, slots=True)
class Removed:
    """What was removed: entries, value files, descriptions; and the bytes that this has freed."""

    entries: int = 0
    files: int = 0
    descriptions: int = 0
    bytes: int = 0


class Sweep:
    """One collection. ``index`` gives the store's index, with the gate held."""

    def __init__(self, gate: Gate, index: Callable[[], Index], values: Values) -> None:
        self._gate = gate
        self._index = index
        self._values = values

    def collect(self, max_size: int | None, before: float | None, grace: float = _GRACE) -> Removed:
        """Remove entries until the store is not larger than ``max_size`` and has none from before ``before``
        (seconds since the epoch), and all that is referred to by nothing.
        """
        size = self._size()
        entries = self._too_old(before) if before is not None else 0
        entries += self._too_much(max_size) if max_size is not None else 0
        files = self._unused_files()
        texts = self._unused_texts(time.time() - grace)
        with self._gate:
            self._index().shrink()
        return Removed(entries, files, texts, max(0, size - self._size()))

    def _size(self) -> int:
        with self._gate:
            index = self._index().size()
        return index + sum(size for _, size in self._values.files())

    def _too_old(self, before: float) -> int:
        def remove(connection: sqlite3.Connection) -> int:
            query = "DELETE FROM entries WHERE id IN (SELECT id FROM entries WHERE time < ? LIMIT ?)"
            return connection.execute(query, (before, _SLICE)).rowcount

        return sum(self._repeated(remove))

    def _too_much(self, max_size: int) -> int:
        """Keep the newest that fit, whose value files count once. One that is larger than all that there may
        be does not push out the others.
        """
        query = (
            "SELECT id, digest, size, length(key) + length(task) * 2 + length(run) + length(origin) + "
            "length(components) + ifnull(length(data), 0) FROM entries ORDER BY time DESC, id DESC"
        )
        total, seen, doomed = 0, set(), []
        with self._gate:
            rows = self._index().all(query)
        for number, digest, size, row in rows:
            needed = row + _PER_ENTRY + (size if digest is not None and digest not in seen else 0)
            if needed <= max_size:
                total += needed
                seen.add(digest)
            if total > max_size or needed > max_size:
                doomed.append((number,))

        def remove(connection: sqlite3.Connection) -> int:
            portion = doomed[-_SLICE:]
            del doomed[-_SLICE:]
            return (
                connection.executemany("DELETE FROM entries WHERE id = ?", portion).rowcount if portion else 0
            )

        return sum(self._repeated(remove))

    def _unused_files(self) -> int:
        query = "SELECT 1 FROM entries WHERE digest = ? LIMIT 1"
        count = 0
        for portion in portions(digest for digest, _ in self._values.files()):
            with self._gate:  # no entry is written meanwhile that would refer to one of them
                index = self._index()
                for digest in portion:
                    if index.one(query, digest) is None:
                        self._values.remove(digest)
                        count += 1
        return count

    def _unused_texts(self, before: float) -> int:
        with self._gate:
            index = self._index()
        old = index.one("SELECT 1 FROM texts WHERE time < ? LIMIT 1", before)
        if old is None:
            return 0
        index.all("CREATE TEMP TABLE IF NOT EXISTS used (digest BLOB PRIMARY KEY) WITHOUT ROWID")
        index.all("DELETE FROM used")
        try:
            for rows in index.pages("SELECT id, components FROM entries WHERE id > ? ORDER BY id LIMIT ?"):
                self._use(index, {digest for _, packed in rows for _, digest in unpack_components(packed)})

            def remove(connection: sqlite3.Connection) -> int:
                return connection.execute(
                    "DELETE FROM texts WHERE digest IN (SELECT digest FROM texts WHERE time < ? AND "
                    "digest NOT IN (SELECT digest FROM used) LIMIT ?)",
                    (before, _SLICE),
                ).rowcount

            with self._gate:
                if self._index() is not index:  # it was replaced meanwhile: the next collection will do it
                    return 0
            return sum(self._repeated(remove))
        finally:
            index.all("DELETE FROM used")

    def _use(self, index: Index, digests: set[bytes]) -> None:
        while digests:
            fresh = [d for d in digests if index.one("SELECT 1 FROM used WHERE digest = ?", d) is None]
            digests = set()
            for digest in fresh:
                index.all("INSERT OR IGNORE INTO used VALUES (?)", digest)
                row = index.one("SELECT text FROM texts WHERE digest = ?", digest)
                if row is not None:
                    digests.update(parts_of(unpack_text(row[0])))

    def _repeated(self, action: Callable[[sqlite3.Connection], int]) -> Iterator[int]:
        while True:
            with self._gate:
                count = self._index().change(action)
            if not count:
                return
            yield count


def broken_entries(index: Index, values: Values) -> list[tuple[bytes, str]]:
    """Keys of all entries that are damaged, and how; the empty key stands for the index."""
    broken = [(b"", f"the index: {line}") for (line,) in index.all("PRAGMA integrity_check") if line != "ok"]
    for rows in index.pages(f"SELECT id, {COLUMNS} FROM entries WHERE id > ? ORDER BY id LIMIT ?", 100):
        for row in rows:
            record = Record(*row[1:])
            try:
                if not record.is_whole():
                    raise UnreadableError(f"the entry of {record.task!r} is damaged: its checksum is another")
                if record.digest is not None:
                    values.read(record.digest)
            except UnreadableError as problem:
                broken.append((record.key, str(problem)))
    return broken


def portions(items: Iterable[T]) -> Iterator[list[T]]:
    """A few hundred of them at a time."""
    portion: list[T] = []
    for item in items:
        portion.append(item)
        if len(portion) == _SLICE:
            yield portion
            portion = []
    if portion:
        yield portion
