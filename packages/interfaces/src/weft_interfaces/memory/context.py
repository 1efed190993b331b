"""What an executor reports to, kept for whoever asks."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from ..call import Outcome
from ..event import Event

__all__ = ["RecordingContext"]


class RecordingContext:
    """Keeps every outcome and event. ``on_completed`` is called with each batch, in the thread that reports
    it.

    ``counts`` says how many outcomes each call had, ``outcomes`` holds the latest of each.
    """

    make_scaler = None

    def __init__(
        self,
        directory: Path,
        on_completed: Callable[[Sequence[Outcome]], None] | None = None,
        run_id: str = "memory",
        detached: Path | None = None,
    ) -> None:
        self.run_id = run_id
        self.detached = detached
        self.directory = directory
        self.outcomes: dict[int, Outcome] = {}
        self.counts: Counter[int] = Counter()
        self.events: list[Event] = []
        self._on_completed = on_completed
        self._changed = threading.Condition()

    def completed(self, outcomes: Sequence[Outcome]) -> None:
        with self._changed:
            for outcome in outcomes:
                self.outcomes[outcome.id] = outcome
                self.counts[outcome.id] += 1
            self._changed.notify_all()
        if self._on_completed is not None:
            self._on_completed(outcomes)

    def emit(self, events: Sequence[Event]) -> None:
        with self._changed:
            self.events.extend(events)
            self._changed.notify_all()

    def wait(self, ids: Iterable[int], timeout: float) -> set[int]:
        """Wait until all of these have had an outcome, ``timeout`` seconds at most.

        Returns those that have not.
        """
        missing, end = set(ids), time.monotonic() + timeout
        with self._changed:
            while True:
                missing -= self.outcomes.keys()
                left = end - time.monotonic()
                if not missing or left <= 0:
                    return missing
                self._changed.wait(left)
