"""pyarrow."""

from __future__ import annotations

from ..node import Split

__all__ = ["split_for"]


def split_for(kind: type) -> Split | None:
    """Nothing yet."""
    return None
