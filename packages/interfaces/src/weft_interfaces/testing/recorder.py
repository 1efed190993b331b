"""An executor context that remembers, for tests of executors."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..block import ScalerMaker
from ..call import Call, CallOptions, Outcome
from ..event import Event
from ..executor import Executor
from ..resources import Resources

__all__ = ["PATIENCE", "Recorder"]

PATIENCE = 30.0  # seconds that a test waits for what must happen, at most


class Recorder:
    """An executor context that remembers, and makes calls with ids of their own.

    outcomes: by call id. repeated: outcomes of calls that had one before. events: in their order.
    """

    run_id = "test"
    make_scaler: ScalerMaker | None = None

    def __init__(self, directory: Path, detached: Path | None = None) -> None:
        self.directory = directory
        self.detached = detached
        self.outcomes: dict[int, Outcome] = {}
        self.repeated: list[Outcome] = []
        self.events: list[Event] = []
        self._changed = threading.Condition()
        self._ids = itertools.count(1)

    def completed(self, outcomes: Sequence[Outcome]) -> None:
        """Remember outcomes."""
        with self._changed:
            for outcome in outcomes:
                if outcome.id in self.outcomes:
                    self.repeated.append(outcome)
                self.outcomes[outcome.id] = outcome
            self._changed.notify_all()

    def emit(self, events: Sequence[Event]) -> None:
        """Remember events."""
        self.events.extend(events)

    def call(self, function: Callable[..., Any], *args: Any, **options: Any) -> Call:
        """A call of ``function`` with these options, of which some are resources."""
        if "cpus" in options or "memory" in options:
            wanted = {key: options.pop(key) for key in ("cpus", "memory") if key in options}
            options["resources"] = Resources(**wanted)
        options.setdefault("name", getattr(function, "__name__", "task"))
        return Call(next(self._ids), function, args, {}, CallOptions(**options))

    def wait(self, *calls: Call, patience: float = PATIENCE) -> list[Outcome]:
        """The outcomes of these calls, once all have theirs."""
        with self._changed:
            arrived = self._changed.wait_for(
                lambda: all(call.id in self.outcomes for call in calls), patience
            )
            missing = [call for call in calls if call.id not in self.outcomes]
        assert arrived, (
            f"no outcome after {patience} s for {len(missing)} of {len(calls)} calls: {missing[:3]}"
        )
        return [self.outcomes[call.id] for call in calls]

    def run(self, executor: Executor, *calls: Call) -> list[Outcome]:
        """Submit calls, and wait for their outcomes."""
        executor.submit(calls)
        return self.wait(*calls)

    def value(self, executor: Executor, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """What a call returns; raises what it raises."""
        [outcome] = self.run(executor, self.call(function, *args, **options))
        if outcome.error is not None:
            raise outcome.error
        return outcome.value

    def error(
        self, executor: Executor, function: Callable[..., Any], *args: Any, **options: Any
    ) -> BaseException:
        """What a call raises."""
        [outcome] = self.run(executor, self.call(function, *args, **options))
        assert outcome.error is not None, outcome
        return outcome.error
