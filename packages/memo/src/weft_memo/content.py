"""What a walk asks of other modules about values, loaded when it is asked: they may need identities."""

from __future__ import annotations

from typing import Any

__all__ = ["describe", "digest", "is_registered"]


def digest(value: Any, types: set[type]) -> bytes:
    """Of a value; classes of the user's that it holds are added to ``types``."""
    from .hasher import digest_argument

    return digest_argument(value, types)


def is_registered(cls: type) -> bool:
    """Whether the user has said how to hash instances of this class."""
    from .registry import registered

    return registered(cls) is not None


def describe(value: Any, name: str) -> str:
    """A text of bounded length that says what a value is. name: its own, which may be that of a secret."""
    from .description import describe

    return describe(value, name)
