"""Makes a new index of what can be read of a damaged one."""

from __future__ import annotations

import logging
import os
import shutil
import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from .index import COLUMNS, Index
from .record import Record

__all__ = ["salvage"]

_log = logging.getLogger("weft")

_PAGE = 4096
_GAP = 5_000  # ids in a row that cannot be read, after which no more are tried one by one
_KEPT = 3  # damaged indexes


def salvage(path: Path, reason: str) -> None:
    """Replace the index at ``path``; the gate is held. Says in the log how much was kept.

    The damaged files go to the folder ``damaged`` beside it. If this is interrupted, the next call begins
    again with them.
    """
    home = path.parent / "damaged"
    aside = home / f"{time.strftime('%Y%m%d-%H%M%S')}-{time.time_ns() % 10**9:09}.partial"
    aside.mkdir(parents=True, exist_ok=True)
    for file in _files(path):
        _link(file, aside / file.name)
    new = path.with_name("index.new")
    for file in (new, *_files(new)):
        file.unlink(missing_ok=True)
    index = Index(new, local=False)
    try:
        parts = sorted(home.glob("*.partial"))
        entries, texts = map(sum, zip(*(_copy(part / path.name, new, index) for part in parts), strict=True))
    finally:
        index.close()
    for file in _files(path)[1:]:
        file.unlink()
    new.replace(path)
    for part in parts:
        part.rename(part.with_suffix(""))
    for old in sorted(home.iterdir())[:-_KEPT]:
        shutil.rmtree(old, ignore_errors=True)
    _log.warning(
        "the index of the memo store %s was damaged (%s): %d entries and %d descriptions could be read, and "
        "are kept; the rest is computed again. The damaged files are in %s",
        path.parent, reason, entries, texts, home,
    )  # fmt: skip


def _files(path: Path) -> list[Path]:
    """Those that are there: the index itself first."""
    files = [path.with_name(path.name + suffix) for suffix in ("", "-wal", "-shm", "-journal")]
    return [file for file in files if file.exists()]


def _link(file: Path, copy: Path) -> None:
    if file.name.endswith("-shm"):
        return  # SQLite makes it anew
    try:
        os.link(file, copy)
    except OSError:
        shutil.copy2(file, copy)


def _copy(damaged: Path, new: Path, index: Index) -> tuple[int, int]:
    """Copy what is whole to the new index: the numbers of entries and of texts."""
    if not damaged.exists():
        return 0, 0
    try:
        with closing(_connect(damaged)) as connection:
            connection.execute("SELECT id FROM entries LIMIT 1").fetchone()
    except sqlite3.Error:
        _replace_first_page(damaged, new)
    try:
        with closing(_connect(damaged)) as connection:
            return _keep_entries(connection, index), _keep_texts(connection, index)
    except sqlite3.Error as error:
        _log.warning("nothing of %s could be read: %s", damaged, error)
        return 0, 0


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.text_factory = lambda data: data.decode("utf-8", "replace")
    return connection


def _keep_entries(connection: sqlite3.Connection, index: Index) -> int:
    count = 0
    for rows in _portions(_by_id(connection)):
        records = [record for row in rows if (record := _record(row[1:])) is not None]
        index.write(records, {})
        count += len(records)
    return count


def _record(row: tuple[Any, ...]) -> Record | None:
    record = Record(*row)
    try:
        return record if record.is_whole() else None
    except (TypeError, ValueError, AttributeError):  # a column of another type
        return None


def _by_id(connection: sqlite3.Connection) -> Iterator[tuple[Any, ...]]:
    """All entries that can be read: from the front, from the back, and one by one in between."""
    last, query = -1, f"SELECT id, {COLUMNS} FROM entries"
    try:
        for row in connection.execute(f"{query} ORDER BY id"):
            last = row[0]
            yield row
    except sqlite3.Error:
        pass
    else:
        return
    first = last + _GAP
    rows = []
    with suppress(sqlite3.Error):
        for row in connection.execute(f"{query} WHERE id > ? ORDER BY id DESC", (last,)):
            first = row[0]
            rows.append(row)
    failed = 0
    for number in range(last + 1, first):
        try:
            yield from connection.execute(f"{query} WHERE id = ?", (number,))
            failed = 0
        except sqlite3.Error:
            failed += 1
            if failed == _GAP:
                break
    yield from reversed(rows)


def _keep_texts(connection: sqlite3.Connection, index: Index) -> int:
    count = 0
    for order in ("ASC", "DESC"):
        try:
            rows = connection.execute(f"SELECT digest, time, text FROM texts ORDER BY digest {order}")
            for portion in _portions(rows):
                index.keep_texts(portion)
                count += len(portion)
        except sqlite3.Error:
            continue
        break
    return count


def _portions(rows: Iterable[tuple[Any, ...]], size: int = 500) -> Iterator[list[tuple[Any, ...]]]:
    portion = []
    try:
        for row in rows:
            portion.append(row)
            if len(portion) == size:
                yield portion
                portion = []
    finally:
        if portion:
            yield portion


def _replace_first_page(damaged: Path, new: Path) -> None:
    """Give it the first page of a new index, whose tables begin on the same pages."""
    page = bytearray(new.read_bytes()[:_PAGE])
    count = max(1, damaged.stat().st_size // _PAGE)
    page[18:20] = b"\x02\x02"  # the write-ahead log is to be read
    page[28:32] = count.to_bytes(4, "big")
    page[92:96] = page[24:28]  # so that the number of pages counts
    page[32:40] = bytes(8)  # no free pages are known
    with damaged.open("r+b") as file:
        file.write(page)
