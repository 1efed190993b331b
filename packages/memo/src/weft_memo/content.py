"""Digests and descriptions of values, as arguments have them."""

from __future__ import annotations

from typing import Any

__all__ = ["describe", "digest", "is_registered"]


def digest(value: Any, types: set[type]) -> bytes:
    """Of a value; classes of the user's that it holds are added to ``types``."""
    try:
        from .hasher import digest_argument  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        from weft_interfaces.memory.hasher import PickleMemoHasher

        return PickleMemoHasher().digest(value)
    found: bytes = digest_argument(value, types)
    return found


def is_registered(cls: type) -> bool:
    """Whether the user has said how to hash instances of this class."""
    try:
        from .hasher import id_for_memo  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        return False
    return id_for_memo.dispatch(cls) is not id_for_memo.dispatch(object)


def describe(value: Any) -> str:
    """A text of bounded length that says what a value is."""
    try:
        from .description import describe  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        return repr(value)[:1000]
    text: str = describe(value)
    return text
