"""Keeps events for whoever asks."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from ..event import BaseEventSink, Event

__all__ = ["RecordingEventSink"]


class RecordingEventSink(BaseEventSink):
    """Keeps every event, in the order of writing."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.closed = False
        self._changed = threading.Condition()

    def write(self, events: Sequence[Event]) -> None:
        with self._changed:
            self.events.extend(events)
            self._changed.notify_all()

    def close(self) -> None:
        self.closed = True

    def of_kind(self, kind: str) -> list[Event]:
        """The events of one kind."""
        with self._changed:
            return [event for event in self.events if event.kind == kind]

    def wait_for(self, kind: str, count: int = 1, timeout: float = 10.0) -> list[Event]:
        """Wait for so many events of a kind. Raises :class:`TimeoutError`."""
        with self._changed:
            if not self._changed.wait_for(lambda: len(self.of_kind(kind)) >= count, timeout):
                raise TimeoutError(
                    f"{len(self.of_kind(kind))} events {kind!r} after {timeout:g} s, not {count}"
                )
            return self.of_kind(kind)
