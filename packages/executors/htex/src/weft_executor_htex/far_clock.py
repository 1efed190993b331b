"""Events that an agent tells of, by this machine's clock: that of its host may be wrong by an hour."""

from __future__ import annotations

import json

from weft_interfaces import Event

from .messages import Note

__all__ = ["event_of"]


def event_of(note: Note, skew: float) -> Event:
    """What it tells of. skew: seconds that the clock of the agent's host is ahead of ours."""
    data = json.loads(note.data)
    if isinstance(data.get("ends_at"), (int, float)):
        data["ends_at"] -= skew
    return Event(note.time - skew, note.kind, note.source, data)
