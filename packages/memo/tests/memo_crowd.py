"""Entries that many processes put into one store, each from a module that it can import."""

from __future__ import annotations

from pathlib import Path

from weft_interfaces import MemoEntry
from weft_memo import FileStore

LARGE = 100_000


def key(number: int) -> bytes:
    return number.to_bytes(32, "big")


def entry(
    number: int, value: object = None, task: str = "app.f", time: float = 1.0, **more: bytes
) -> MemoEntry:
    components = {"function": b"f" * 32, **more}
    return MemoEntry(key=key(number), task=task, value=value, components=components, run="run", time=time)


def large(number: int) -> bytes:
    return number.to_bytes(4, "big") * (LARGE // 4)


def work(path: Path, number: int, results: object) -> None:
    try:
        store = FileStore(path)
        for i in range(150):
            store.put(entry(1000 * number + i, large(i % 7) if i % 10 == 0 else {"number": i}))
            store.put(entry(i, "shared"))
            if i % 25 == 0:
                store.flush()
            other = store.get(key(1000 * ((number + 1) % 8) + i))
            assert other is None or other.value in ("shared", {"number": i}, large(i % 7))
        store.close()
        results.put((number, None))
    except BaseException as error:
        results.put((number, repr(error)))
        raise
