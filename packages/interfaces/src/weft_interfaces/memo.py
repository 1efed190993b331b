"""Remembers what calls returned: hashing values, and keeping outcomes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

__all__ = ["BaseMemoStore", "MemoEntry", "MemoHasher", "MemoStore", "NullMemoStore"]


@runtime_checkable
class MemoHasher(Protocol):
    """Hashes any value by its content. Threads may call it at once."""

    def digest(self, value: Any) -> bytes:
        """The same bytes for equal values of the same types, in any process on any machine; others for
        different values, and for equal ones of different types: ``1``, ``1.0`` and ``True`` are three.

        Raises ``ValueError("unknown type for memoization ...")``, which names the type and where it sits in
        the value, for a value that it does not know how to hash. The value is not changed.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoEntry:
    """One remembered outcome.

    key: the digest of all components. components: the digest of each (``"function"``, ``"argument x"``, ...),
    so that a miss can be explained. value: what the call returned. run, time (seconds since the epoch): where
    it comes from.
    """

    key: bytes
    task: str
    value: Any
    components: Mapping[str, bytes] = field(default_factory=dict)
    run: str = ""
    time: float = 0.0


@runtime_checkable
class MemoStore(Protocol):
    """Keeps outcomes by key. Threads and processes may use it at once."""

    def get(self, key: bytes) -> MemoEntry | None:
        """The entry, or None. An entry that can no longer be read is None, not an error."""

    def put(self, entry: MemoEntry) -> None:
        """Keep an entry; returning says that it is taken, and ``flush`` that it survives a crash. The latest
        of a key wins. Raises :class:`SerializationError` for a value that cannot be kept; nothing is changed
        then.
        """

    def nearest(self, task: str, components: Mapping[str, bytes]) -> MemoEntry | None:
        """The entry of the same task that shares most components, the latest of these; None if the task has
        none.
        """

    def flush(self) -> None:
        """Wait until all that was put survives a crash."""

    def close(self) -> None:
        """Flush and free. May be called twice."""


class BaseMemoStore:
    """A store that explains nothing and holds nothing back."""

    def nearest(self, task: str, components: Mapping[str, bytes]) -> MemoEntry | None:
        """None is known."""
        return None

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        self.flush()


class NullMemoStore(BaseMemoStore):
    """Remembers nothing."""

    def get(self, key: bytes) -> MemoEntry | None:
        """None."""
        return None

    def put(self, entry: MemoEntry) -> None:
        """Forget it."""
