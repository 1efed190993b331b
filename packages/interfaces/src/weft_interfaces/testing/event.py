"""What every event sink must show."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from ..event import Event, EventSink
from .check import in_threads

__all__ = ["EventSinkSuite"]


class EventSinkSuite:
    """Subclass it and write ``make_sink``; write ``written`` too if what a sink took can be read back."""

    timeout: float = 30.0

    def make_sink(self) -> EventSink:
        """A new sink."""
        raise NotImplementedError(f"{type(self).__name__}.make_sink: write it, to return what is tested")

    def written(self, sink: EventSink) -> Sequence[Event] | None:
        """The events that a closed sink has kept, in order; None if that cannot be known."""
        return None

    def event(self, number: int, source: str = "suite") -> Event:
        """One event."""
        return Event(
            1000.0 + number,
            "suite.event",
            source,
            {"number": number, "text": "ü\n\x00", "nested": {"a": [None]}},
        )

    def check_written(self, sink: EventSink, expected: list[Event]) -> None:
        """What was written is what was kept."""
        kept = self.written(sink)
        if kept is not None:
            assert list(kept) == expected, (
                f"{len(expected)} events were written, {len(kept)} kept, or others, or in disorder"
            )

    def test_events_are_kept_in_order(self) -> None:
        sink, events = self.make_sink(), [self.event(i) for i in range(1000)]
        for start in range(0, 1000, 100):
            sink.write(events[start : start + 100])
        sink.close()
        self.check_written(sink, events)

    def test_an_empty_batch_does_no_harm(self) -> None:
        sink = self.make_sink()
        sink.write([])
        sink.write([self.event(1)])
        sink.close()
        self.check_written(sink, [self.event(1)])

    def test_events_are_not_changed(self) -> None:
        sink, events = self.make_sink(), [self.event(1), self.event(2)]
        sink.write(events)
        sink.close()
        assert events == [self.event(1), self.event(2)], (
            f"a sink does not change what it is given, but: {events}"
        )

    def test_the_batch_may_be_used_again(self) -> None:
        sink, events = self.make_sink(), [self.event(1)]
        sink.write(events)
        events.clear()
        sink.close()
        self.check_written(sink, [self.event(1)])

    def test_threads_may_write_at_once(self) -> None:
        sink = self.make_sink()

        def work(number: int) -> None:
            for i in range(100):
                sink.write([self.event(i, str(number))])

        in_threads(work, 8, self.timeout, "write may be called from any thread")
        sink.close()
        kept = self.written(sink)
        if kept is not None:
            for thread in range(8):
                numbers = [event.data["number"] for event in kept if event.source == str(thread)]
                assert numbers == list(range(100)), (
                    f"events are in order for each thread, but thread {thread}: {numbers}"
                )

    def test_write_never_raises(self) -> None:
        sink = self.make_sink()
        odd = Event(
            float("nan"), "", "", {"lock": threading.Lock()}
        )  # not what JSON can hold: a bug of whoever made it
        try:
            sink.write([odd, self.event(1)])
            sink.close()
            sink.write([self.event(2)])
        except Exception as error:
            raise AssertionError(f"a sink never raises, but it did: {error!r}") from error

    def test_close_may_come_twice(self) -> None:
        sink = self.make_sink()
        sink.write([self.event(1)])
        sink.close()
        sink.close()
        self.check_written(sink, [self.event(1)])
