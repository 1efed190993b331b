"""A table by the identity of its keys, whose entries go with them."""

from __future__ import annotations

import contextlib
import weakref
from typing import Any, Generic, TypeVar

__all__ = ["WeakTable"]

T = TypeVar("T")


class WeakTable(Generic[T]):
    """Like :class:`weakref.WeakKeyDictionary`, for keys whose hash or equality is slow or their own.

    A key that cannot be referenced weakly is not kept, and beyond ``limit`` the oldest go. Threads may use it
    at once.
    """

    def __init__(self, limit: int = 100_000) -> None:
        self._limit = limit
        self._entries: dict[int, tuple[weakref.ref[Any], T]] = {}

    def get(self, key: Any) -> T | None:
        """The value of this very object, or None."""
        entry = self._entries.get(id(key))
        return entry[1] if entry is not None and entry[0]() is key else None

    def __setitem__(self, key: Any, value: T) -> None:
        number, entries = id(key), self._entries

        def forget(dead: weakref.ref[Any]) -> None:
            entry = entries.get(number)
            if entry is not None and entry[0] is dead:
                del entries[number]

        try:
            entries[number] = (weakref.ref(key, forget), value)
        except TypeError:
            return
        while len(entries) > self._limit:
            with contextlib.suppress(StopIteration, RuntimeError):  # another thread was faster
                entries.pop(next(iter(entries)), None)

    def __len__(self) -> int:
        return len(self._entries)
