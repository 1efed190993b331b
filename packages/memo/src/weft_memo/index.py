"""The table of a store's entries, in SQLite."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from weft_interfaces import ConfigError

from .record import Record

__all__ = ["COLUMNS", "FORMAT", "Index", "is_damage", "pack_text", "unpack_text"]

T = TypeVar("T")

FORMAT = 1
COLUMNS = "key, task, time, run, origin, components, size, digest, data, mark"
_COUNTED = 200  # components that are looked for in others
_BUSY = 60.0  # seconds that SQLite waits for a lock
_LONG = 200  # characters from which a text is compressed

# The order matters: a first page that was destroyed is replaced by that of a new index.
_SCHEMA = f"""
PRAGMA page_size = 4096;
PRAGMA auto_vacuum = INCREMENTAL;
BEGIN;
CREATE TABLE entries (
    id INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, task TEXT NOT NULL, time REAL NOT NULL,
    run TEXT NOT NULL, origin TEXT NOT NULL, components BLOB NOT NULL, size INTEGER NOT NULL,
    digest BLOB, data BLOB, mark BLOB NOT NULL
);
CREATE INDEX entries_by_task ON entries (task, time);
CREATE INDEX entries_by_digest ON entries (digest) WHERE digest IS NOT NULL;
CREATE TABLE texts (digest BLOB PRIMARY KEY, time REAL NOT NULL, text BLOB NOT NULL) WITHOUT ROWID;
PRAGMA user_version = {FORMAT};
COMMIT;
"""
_FIND = f"SELECT {COLUMNS} FROM entries WHERE key = ?"
_TABLES = {"entries", "entries_by_task", "entries_by_digest", "texts"}


class Index:
    """One connection, used by one thread at a time.

    Raises :class:`ConfigError` for the format of a newer version, and what :mod:`sqlite3` raises; whether
    that means damage says :func:`is_damage`.
    """

    def __init__(self, path: Path, *, local: bool) -> None:
        self.path = path
        self._lock = threading.RLock()
        self._connection = sqlite3.connect(
            path, timeout=_BUSY, isolation_level=None, check_same_thread=False, cached_statements=64
        )
        try:
            self._prepare(local)
            self._identity = _identity(path)
        except BaseException:
            self._connection.close()
            raise

    def _prepare(self, local: bool) -> None:
        run = self._connection.execute
        found = run("PRAGMA user_version").fetchone()[0]
        if found > FORMAT:
            raise ConfigError(
                f"{self.path.parent} has format {found}, made by a newer weft-memo; this one reads up to "
                f"{FORMAT}: pip install -U weft-memo, or choose another place for the store"
            )
        names = {name for (name,) in run("SELECT name FROM sqlite_master")}
        if not names and not found:
            self._connection.executescript(_SCHEMA)
        elif not names >= _TABLES:
            raise sqlite3.DatabaseError("its tables are malformed")
        run(f"PRAGMA journal_mode = {'WAL' if local else 'DELETE'}")
        run("PRAGMA synchronous = FULL")
        run("PRAGMA temp_store = FILE")
        run("SELECT id, key FROM entries LIMIT 1").fetchone()

    def close(self) -> None:
        """Free the connection."""
        with self._lock:
            self._connection.close()

    def is_current(self) -> bool:
        """Whether its file is still that of the store: another process may have replaced it."""
        try:
            return _identity(self.path) == self._identity
        except FileNotFoundError:
            return False

    def all(self, query: str, *values: Any) -> list[Any]:
        """All rows of a query."""
        with self._lock:
            return self._connection.execute(query, values).fetchall()

    def one(self, query: str, *values: Any) -> Any:
        """The first row of a query, or None."""
        with self._lock:
            return self._connection.execute(query, values).fetchone()

    def change(self, action: Callable[[sqlite3.Connection], T]) -> T:
        """Run it in one transaction, which is undone if it raises."""
        with self._lock:
            connection = self._connection
            connection.execute("BEGIN IMMEDIATE")
            try:
                result = action(connection)
                connection.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")
                raise
            return result

    # -- entries ------------------------------------------------------------------------------------------

    def find(self, key: bytes) -> Record | None:
        """The entry of this key."""
        row = self.one(_FIND, key)
        return None if row is None else Record._make(row)

    def nearest(self, task: str, wanted: Sequence[bytes], before: float) -> list[tuple[bytes, bytes]]:
        """Key and packed components of the earlier entry of a task that has most of the ``wanted`` ones, each
        packed; the latest of those.
        """
        wanted = wanted[:_COUNTED]
        shared = " + ".join(["(instr(components, ?) > 0)"] * len(wanted)) or "NULL"
        query = (
            "SELECT key, components FROM entries WHERE task = ? AND time < ? "
            f"ORDER BY {shared} DESC, time DESC, id DESC LIMIT 1"
        )
        return self.all(query, task, before, *wanted)

    def write(self, records: Iterable[Record], texts: Mapping[bytes, str]) -> None:
        """Keep these, in one transaction. The data of a record with a digest is in a file."""
        now = time.time()
        rows = [
            (r.key, r.task, r.time, r.run, r.origin, r.components, r.size, r.digest,
             r.data if r.digest is None else None, r.mark)
            for r in records
        ]  # fmt: skip
        packed = [(digest, now, pack_text(text)) for digest, text in texts.items()]

        def write(connection: sqlite3.Connection) -> None:
            marks = ",".join("?" * len(COLUMNS.split(",")))
            connection.executemany(f"INSERT OR REPLACE INTO entries ({COLUMNS}) VALUES ({marks})", rows)
            connection.executemany("INSERT OR IGNORE INTO texts VALUES (?, ?, ?)", packed)

        self.change(write)

    def keep_texts(self, rows: Iterable[tuple[bytes, float, bytes]]) -> None:
        """Keep texts as another index had them: digest, time, packed text."""
        query = "INSERT OR IGNORE INTO texts VALUES (?, ?, ?)"
        self.change(lambda connection: connection.executemany(query, rows))

    def remove(self, keys: Iterable[bytes]) -> int:
        """Remove these entries; the number of those that were there."""
        rows = [(key,) for key in keys]
        return self.change(lambda c: c.executemany("DELETE FROM entries WHERE key = ?", rows).rowcount)

    def count(self) -> int:
        """The number of entries."""
        return int(self.one("SELECT count(*) FROM entries")[0])

    def size(self) -> int:
        """Bytes of what is in use."""
        pages, free, page = (
            self.one(f"PRAGMA {what}")[0] for what in ("page_count", "freelist_count", "page_size")
        )
        return int((pages - free) * page)

    def shrink(self) -> None:
        """Give free pages back to the file system, as far as others let it."""
        self.all("PRAGMA incremental_vacuum")
        with suppress(sqlite3.OperationalError):
            self.all("PRAGMA wal_checkpoint(TRUNCATE)")

    def text(self, digest: bytes) -> str | None:
        """The text of this digest."""
        row = self.one("SELECT text FROM texts WHERE digest = ?", digest)
        return None if row is None else unpack_text(row[0])

    def pages(self, query: str, size: int = 500) -> Iterator[list[Any]]:
        """The rows of a query that selects ``id`` first, and has ``id > ?`` and ``LIMIT ?``, in portions."""
        last = -1
        while rows := self.all(query, last, size):
            yield rows
            last = rows[-1][0]


def is_damage(error: sqlite3.Error) -> bool:
    """Whether the file is not what it should be, rather than locked, full or forbidden."""
    if isinstance(error, sqlite3.IntegrityError):
        return False
    words = str(error)
    signs = ("malformed", "not a database", "no such table", "no such column", "disk I/O", "unsupported file")
    return any(sign in words for sign in signs)


def unpack_text(packed: bytes) -> str:
    """What was packed; damaged bytes give what can be read of them."""
    try:
        content = zlib.decompress(packed[1:]) if packed[:1] == b"z" else packed[1:]
        return content.decode("utf-8", "surrogatepass")
    except (zlib.error, UnicodeDecodeError):
        return "(this description is damaged)"


def pack_text(text: str) -> bytes:
    """As bytes, compressed if it is long."""
    content = text.encode("utf-8", "surrogatepass")
    return b"z" + zlib.compress(content, 6) if len(content) >= _LONG else b"t" + content


def _identity(path: Path) -> tuple[int, int]:
    found = os.stat(path)
    return found.st_dev, found.st_ino
