"""Time that passes when a test says so."""

from __future__ import annotations

__all__ = ["ManualClock"]


class ManualClock:
    """Call it for the time, in seconds; ``advance`` lets time pass."""

    def __init__(self, now: float = 0.0) -> None:
        self._now = now

    def __call__(self) -> float:
        return self._now

    def advance(self, seconds: float) -> None:
        """Let so many seconds pass."""
        if seconds < 0:
            raise ValueError(f"seconds: time does not run backwards, not even by {seconds:g} s")
        self._now += seconds
