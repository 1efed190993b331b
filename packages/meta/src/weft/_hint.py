"""Suggestions for names that were mistyped."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["did_you_mean"]


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """``"; did you mean 'cpus'?"``, or nothing when no name is near."""
    import difflib

    close = difflib.get_close_matches(str(name), list(names), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""
