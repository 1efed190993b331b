"""Delayed calls, and events in batches: the two threads that a run may have, and when it has none."""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

import pytest
from weft_core.journal import Journal
from weft_core.timer import Timer
from weft_interfaces import BaseEventSink, Event
from weft_interfaces.memory import RecordingEventSink

PATIENCE = 20.0


def named(name: str) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == name]


# -- the timer ----------------------------------------------------------------------------------------------


def test_calls_come_in_the_order_of_their_time() -> None:
    timer, called, last = Timer("weft-test-timer"), [], threading.Event()
    begun = time.monotonic()
    timer.call_later(0.06, lambda: (called.append("late"), last.set()))
    timer.call_later(0.0, lambda: called.append("now"))
    timer.call_later(0.02, lambda: called.append("soon"))
    assert last.wait(PATIENCE)
    assert time.monotonic() - begun >= 0.06
    assert called == ["now", "soon", "late"]
    timer.close()
    assert named("weft-test-timer") == []


def test_an_idle_timer_has_no_thread() -> None:
    timer = Timer("weft-test-timer")
    assert named("weft-test-timer") == []
    timer.close()
    timer.call_later(0.0, lambda: pytest.fail("called after the end"))
    assert named("weft-test-timer") == []


def test_what_raises_does_not_end_it(caplog: pytest.LogCaptureFixture) -> None:
    timer, done = Timer("weft-test-timer"), threading.Event()
    with caplog.at_level(logging.ERROR, logger="weft"):
        timer.call_later(0.0, lambda: 1 / 0)
        timer.call_later(0.0, done.set)
        assert done.wait(PATIENCE)
    assert "a delayed call raised" in caplog.text
    timer.close()


def test_close_drops_what_waits_and_may_be_called_from_its_own_thread() -> None:
    timer, closed = Timer("weft-test-timer"), threading.Event()
    timer.call_later(0.01, lambda: pytest.fail("dropped"))
    timer.call_later(0.0, lambda: (timer.close(), closed.set()))
    assert closed.wait(PATIENCE)
    timer.close()
    for thread in named("weft-test-timer"):
        thread.join(PATIENCE)
    assert named("weft-test-timer") == []


# -- the journal --------------------------------------------------------------------------------------------


def test_without_sinks_nothing_is_kept_or_started() -> None:
    journal = Journal([], "run")
    journal.start()
    journal.note("task.done", {"task": 1})
    assert not journal.active
    assert not journal._waiting
    assert named("weft-journal-run") == []
    journal.close()


def test_events_come_in_order_to_every_sink() -> None:
    sinks = [RecordingEventSink(), RecordingEventSink()]
    journal = Journal(sinks, "run", interval=0.001)
    journal.start()
    for i in range(100):
        journal.note("n", {"i": i})
    sinks[0].wait_for("n", 100)
    journal.note("last", {})
    journal.close()
    for sink in sinks:
        assert [event.data.get("i") for event in sink.events] == [*range(100), None]
        assert sink.events[0].source == "run"
        assert sink.closed
    assert named("weft-journal-run") == []


def test_a_sink_that_cannot_keep_up_loses_events_and_is_told() -> None:
    sink = RecordingEventSink()
    journal = Journal([sink], "run", capacity=10)
    journal.emit([Event(0.0, "many", "x")] * 25)
    journal.emit([Event(0.0, "more", "x")] * 5)
    journal.start()
    journal.close()
    assert len(sink.of_kind("many")) == 10
    assert [event.data["count"] for event in sink.of_kind("events.dropped")] == [20]


def test_a_broken_sink_harms_no_other(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(BaseEventSink):
        def write(self, events: Any) -> None:
            raise OSError("full")

        def close(self) -> None:
            raise OSError("stuck")

    sound = RecordingEventSink()
    journal = Journal([Broken(), sound], "run")
    journal.start()
    journal.note("n", {})
    with caplog.at_level(logging.ERROR, logger="weft"):
        journal.close()
    assert len(sound.of_kind("n")) == 1
    assert sound.closed
    assert "an event sink raised" in caplog.text
