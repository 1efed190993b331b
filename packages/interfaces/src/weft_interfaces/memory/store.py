"""Keeps outcomes for as long as it lives."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import replace

from ..memo import BaseMemoStore, MemoEntry
from ..pickling import PickleSerializer
from ..serializer import Serializer

__all__ = ["InMemoryMemoStore"]


class InMemoryMemoStore(BaseMemoStore):
    """Keeps values as bytes, so that nobody's change to a value shows in the store."""

    def __init__(self, serializer: Serializer | None = None) -> None:
        self._serializer = serializer or PickleSerializer()
        self._entries: dict[bytes, MemoEntry] = {}
        self._lock = threading.Lock()

    def get(self, key: bytes) -> MemoEntry | None:
        with self._lock:
            entry = self._entries.get(key)
        return None if entry is None else self._opened(entry)

    def put(self, entry: MemoEntry) -> None:
        data = self._serializer.dumps(entry.value, f"the result of {entry.task!r}")
        with self._lock:
            self._entries.pop(entry.key, None)  # so that the latest put is last
            self._entries[entry.key] = replace(entry, value=data)

    def nearest(self, task: str, components: Mapping[str, bytes]) -> MemoEntry | None:
        with self._lock:
            entries = [entry for entry in reversed(self._entries.values()) if entry.task == task]
        best = max(
            entries, key=lambda entry: len(entry.components.items() & components.items()), default=None
        )
        return None if best is None else self._opened(best)

    def _opened(self, entry: MemoEntry) -> MemoEntry | None:
        try:
            return replace(entry, value=self._serializer.loads(entry.value, f"the result of {entry.task!r}"))
        except Exception:  # noqa: BLE001 - an entry that cannot be read is one that is not there
            return None
