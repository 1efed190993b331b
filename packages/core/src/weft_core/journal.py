"""Hands events to the sinks, in batches, off the task's path."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from ._interfaces import Event, EventSink

__all__ = ["Journal"]

_log = logging.getLogger("weft")


class Journal:
    """Collects events and writes them to the sinks from one thread. Without sinks it starts nothing and keeps
    nothing.

    At most ``capacity`` events wait; when sinks cannot keep up, more are dropped, and an ``events.dropped``
    event says how many.
    """

    def __init__(
        self, sinks: Sequence[EventSink], source: str, *, interval: float = 0.2, capacity: int = 100_000
    ) -> None:
        self.active = bool(sinks)
        self._sinks = tuple(sinks)
        self._source = source
        self._interval = interval
        self._waiting: deque[Event] = deque()
        self._capacity = capacity
        self._dropped = 0
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to write."""
        if self.active:
            self._thread = threading.Thread(
                target=self._run, name=f"weft-journal-{self._source}", daemon=True
            )
            self._thread.start()

    def note(self, kind: str, data: Mapping[str, Any]) -> None:
        """Record one event of the run itself."""
        self.emit((Event(time.time(), kind, self._source, data),))

    def emit(self, events: Sequence[Event]) -> None:
        """Record events. Returns at once, from any thread."""
        if not self.active:
            return
        room = self._capacity - len(self._waiting)
        self._waiting.extend(events[: max(0, room)])
        self._dropped += max(0, len(events) - room)

    def close(self) -> None:
        """Write what waits, and close the sinks."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join()
        for sink in self._sinks:
            self._try(sink.close)

    def _run(self) -> None:
        while not self._closing.wait(self._interval):
            self._flush()
        self._flush()

    def _flush(self) -> None:
        batch = [self._waiting.popleft() for _ in range(len(self._waiting))]
        dropped, self._dropped = self._dropped, 0
        if dropped:
            batch.append(Event(time.time(), "events.dropped", self._source, {"count": dropped}))
        if batch:
            for sink in self._sinks:
                self._try(sink.write, batch)

    def _try(self, method: Any, *args: Any) -> None:
        try:
            method(*args)
        except Exception:  # noqa: BLE001  a sink of the user's must not end the journal
            _log.exception("an event sink raised, which it must not")
