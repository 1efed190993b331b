from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from weft_interfaces import Call, CallOptions, Event, Executor, Outcome, Resources

PATIENCE = 30.0  # no test waits longer for what must happen


class Recorder:
    """An executor context that remembers, and makes calls with ids of their own."""

    run_id = "test"

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.outcomes: dict[int, Outcome] = {}
        self.repeated: list[Outcome] = []
        self.events: list[Event] = []
        self._changed = threading.Condition()
        self._ids = itertools.count(1)

    def completed(self, outcomes: Sequence[Outcome]) -> None:
        with self._changed:
            for outcome in outcomes:
                if outcome.id in self.outcomes:
                    self.repeated.append(outcome)
                self.outcomes[outcome.id] = outcome
            self._changed.notify_all()

    def emit(self, events: Sequence[Event]) -> None:
        self.events.extend(events)

    def call(self, function: Callable[..., Any], *args: Any, **options: Any) -> Call:
        if "cpus" in options or "memory" in options:
            wanted = {key: options.pop(key) for key in ("cpus", "memory") if key in options}
            options["resources"] = Resources(**wanted)
        options.setdefault("name", getattr(function, "__name__", "task"))
        return Call(next(self._ids), function, args, {}, CallOptions(**options))

    def wait(self, *calls: Call, patience: float = PATIENCE) -> list[Outcome]:
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
        executor.submit(calls)
        return self.wait(*calls)

    def value(self, executor: Executor, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        [outcome] = self.run(executor, self.call(function, *args, **options))
        if outcome.error is not None:
            raise outcome.error
        return outcome.value

    def error(
        self, executor: Executor, function: Callable[..., Any], *args: Any, **options: Any
    ) -> BaseException:
        [outcome] = self.run(executor, self.call(function, *args, **options))
        assert outcome.error is not None, outcome
        return outcome.error


@pytest.fixture
def recorder(tmp_path: Path) -> Iterator[Recorder]:
    recorder = Recorder(tmp_path / "executor")
    yield recorder
    assert recorder.repeated == [], "second outcomes"


def eventually(condition: Callable[[], bool], what: str, patience: float = PATIENCE) -> None:
    """Wait for something of which no notice is given (another process's state)."""
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.005)


@pytest.fixture(name="eventually")
def _eventually() -> Callable[..., None]:
    return eventually
