"""A store that is only read."""

from __future__ import annotations

from collections.abc import Mapping

from weft_interfaces import BaseMemoStore, MemoEntry, MemoStore

__all__ = ["Overlay"]


class Overlay(BaseMemoStore):
    """Reads from ``store``, and writes nothing to it: what is put is forgotten, descriptions are kept here.

    For who wants to know what would happen. Closing it closes the store.
    """

    def __init__(self, store: MemoStore) -> None:
        self._store = store
        self._descriptions: dict[bytes, str] = {}

    def get(self, key: bytes) -> MemoEntry | None:
        return self._store.get(key)

    def problem(self, key: bytes) -> str | None:
        return self._store.problem(key)

    def put(self, entry: MemoEntry) -> None:
        """Forget it."""

    def nearest(
        self, task: str, components: Mapping[str, bytes], before: float | None = None
    ) -> MemoEntry | None:
        return self._store.nearest(task, components, before)

    def describe(self, descriptions: Mapping[bytes, str]) -> None:
        self._descriptions.update(descriptions)

    def description(self, digest: bytes) -> str | None:
        own = self._descriptions.get(digest)
        return self._store.description(digest) if own is None else own

    def close(self) -> None:
        self._store.close()
