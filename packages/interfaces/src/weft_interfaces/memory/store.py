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
        self._descriptions: dict[bytes, str] = {}
        self._problems: dict[bytes, str] = {}
        self._lock = threading.Lock()

    def get(self, key: bytes) -> MemoEntry | None:
        with self._lock:
            entry = self._entries.get(key)
        return None if entry is None else self._opened(entry)

    def put(self, entry: MemoEntry) -> None:
        data = self._serializer.dumps((entry.value, entry.error), f"the result of {entry.task!r}")
        with self._lock:
            self._entries.pop(entry.key, None)  # so that the latest put is last
            self._entries[entry.key] = replace(entry, value=data, error=None)

    def nearest(
        self, task: str, components: Mapping[str, bytes], before: float | None = None
    ) -> MemoEntry | None:
        with self._lock:
            entries = [
                entry
                for entry in reversed(self._entries.values())
                if entry.task == task and (before is None or entry.time < before)
            ]
        best = max(
            entries, key=lambda entry: len(entry.components.items() & components.items()), default=None
        )
        return None if best is None else replace(best, value=None)

    def problem(self, key: bytes) -> str | None:
        return self._problems.get(key)

    def describe(self, descriptions: Mapping[bytes, str]) -> None:
        for digest, text in descriptions.items():
            self._descriptions.setdefault(digest, text)

    def description(self, digest: bytes) -> str | None:
        return self._descriptions.get(digest)

    def _opened(self, entry: MemoEntry) -> MemoEntry | None:
        what = f"the result of {entry.task!r}"
        try:
            value, error = self._serializer.loads(entry.value, what)
        except Exception as problem:  # noqa: BLE001  an entry that cannot be read is one that is not there
            self._problems[entry.key] = f"{what} cannot be read any more: {problem}"
            return None
        self._problems.pop(entry.key, None)
        return replace(entry, value=value, error=error)
