"""What happened, as data: the one stream that progress, monitoring and explanations read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

__all__ = ["SCHEMA_VERSION", "BaseEventSink", "Event", "EventSink", "NullEventSink"]

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened. ``time``: seconds since the epoch; ``kind``: a dotted name such as
    ``"task.done"``.

    ``source`` is the label of the executor, or the run's id. ``data`` holds only what JSON can hold. Kinds
    and the keys of their data only ever grow within a ``SCHEMA_VERSION``.
    """

    time: float
    kind: str
    source: str
    data: Mapping[str, Any] = field(default_factory=dict)


class EventSink(Protocol):
    """Takes events.

    ``write`` is called from any thread, off the task's path, in batches that are in order for each thread.
    Returning says that the events were taken, not that they are on disk. It must not raise and must not block
    on anything remote: a sink that cannot keep up drops events and says how many. ``close`` writes what is
    left; it may be called twice.
    """

    def write(self, events: Sequence[Event]) -> None: ...

    def close(self) -> None: ...


class BaseEventSink:
    """A sink with nothing to close."""

    def write(self, events: Sequence[Event]) -> None:
        raise NotImplementedError

    def close(self) -> None:
        """Nothing is held back."""


class NullEventSink(BaseEventSink):
    """Forgets everything."""

    def write(self, events: Sequence[Event]) -> None:
        """Forget them."""
