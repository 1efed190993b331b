"""Events that an agent tells of, by this machine's clock: that of its host may be wrong by an hour."""

from __future__ import annotations

import json
import math
import time

from weft_interfaces import Event

from .messages import Note

__all__ = ["FarClock"]

_SKEW = 2.0  # seconds that come from the way rather than from a clock


class FarClock:
    """How far the clock of an agent's host is behind ours: what came soonest makes it seem the least."""

    def __init__(self) -> None:
        self._behind = math.inf

    def event(self, note: Note) -> Event:
        """What it tells of, that has just come."""
        self._behind = min(self._behind, time.time() - note.time)
        behind = self._behind if abs(self._behind) > _SKEW else 0.0
        data = json.loads(note.data)
        if isinstance(data.get("ends_at"), (int, float)):
            data["ends_at"] += behind
        return Event(note.time + behind, note.kind, note.source, data)
