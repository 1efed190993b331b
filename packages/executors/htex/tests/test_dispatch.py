"""Which manager gets the next calls, and what that costs, without processes or sockets."""

from __future__ import annotations

import itertools
import math
import pickle
import sys
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from weft_executor_htex import HighThroughputExecutor, messages
from weft_executor_htex.interchange import Interchange
from weft_executor_htex.queue import Needs, Queue
from weft_executor_htex.roster import Roster
from weft_executor_htex.selector import SELECTORS, Candidate, LeastLoaded, Selector, find_selector
from weft_interfaces import Blocks, ConfigError
from weft_interfaces.memory import InMemoryProvider


def register(block: str = "b", slots: int = 2, host: str = "host") -> messages.Register:
    return messages.Register(messages.PROTOCOL, messages.PYTHON, host, 1, block, slots, None, 0, None)


def options(cpus: float = 1, nodes: int = 1, priority: int = 0) -> messages.Options:
    return messages.Options("task", cpus, None, 0, nodes, nodes, None, None, priority, None, None, None)


class Counting(LeastLoaded):
    """How often it was asked."""

    asked = 0

    def rank(self, manager: Candidate) -> float:
        self.asked += 1
        return super().rank(manager)


class Hall:
    """An interchange, and managers that only count what they get."""

    def __init__(self, managers: int, selector: Selector | None = None, slots: int = 2) -> None:
        self.now = 0.0
        self.got: dict[bytes, list[int]] = {}
        self.beats: Counter[bytes] = Counter()
        self.returned: list[int] = []
        self.cancelled: list[tuple[bytes, list[int]]] = []
        self.numbers = itertools.count(10)
        self.interchange = Interchange(
            self._to_client,
            self._to_manager,
            self._to_manager,
            heartbeat_period=5.0,
            heartbeat_threshold=30.0,
            selector=selector,
            clock=lambda: self.now,
        )
        tasks = messages.Tasks([1], [(2, options()), (3, options(cpus=2))], [])
        self.interchange.from_client(tasks, [b""])
        for number in range(managers):
            self.register(b"%d" % number, slots)

    def register(self, address: bytes, slots: int = 2) -> None:
        self.got[address] = []
        self.interchange.from_manager(address, messages.encode(register("b" + address.decode(), slots)))

    def _to_client(self, message: messages.Message, payloads: Sequence[messages.Frame]) -> None:
        if type(message) is messages.Returned:
            self.returned += message.ids

    def _to_manager(self, address: bytes, frames: list[messages.Frame]) -> None:
        message = messages.decode(frames)
        if type(message) is messages.Tasks:
            for group in message.groups:
                self.got[address] += group.ids
        elif type(message) is messages.Heartbeat:
            self.beats[address] += 1
        elif type(message) is messages.Cancel:
            self.cancelled.append((address, message.ids))

    def submit(self, count: int, number: int = 2) -> list[int]:
        ids = list(itertools.islice(self.numbers, count))
        group = messages.Group(1, number, ids, [0] * count)
        self.interchange.from_client(messages.Tasks([], [], [group]), [b""])
        return ids

    def complete(self, address: bytes, count: int) -> None:
        ids, self.got[address] = self.got[address][:count], self.got[address][count:]
        group = messages.ResultGroup(ids, [1] * len(ids), [0] * len(ids))
        self.interchange.from_manager(address, messages.encode(messages.Results([group]), [b""]))


# -- selectors --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SELECTORS)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_the_order_of_managers_is_that_of_their_ranks(name: str, data: st.DataObject) -> None:
    """As if one looked at all of them each time."""
    selector = SELECTORS[name]()
    roster = Roster(1, selector)
    numbers = itertools.count()
    kinds = [Needs.of(options(cpus)) for cpus in (1, 2, 3)]
    for _ in range(data.draw(st.integers(1, 40))):
        everybody = list(roster)
        act = data.draw(st.sampled_from(["add", "give", "give", "complete", "drain", "suspect", "remove"]))
        if act == "add" or not everybody:
            roster.add(b"%d" % next(numbers), register(slots=data.draw(st.integers(1, 4))), 0.0)
            continue
        manager = data.draw(st.sampled_from(everybody))
        if act == "give":
            needs = data.draw(st.sampled_from(kinds))
            expected = min(
                (each for each in everybody if each.room(needs)),
                key=lambda each: (selector.rank(each), each.number),
                default=None,
            )
            chosen = roster.choose(needs)
            assert chosen is expected
            assert roster.could_run(needs) == any(each.could_run(needs) for each in everybody)
            if chosen is not None:
                most = data.draw(st.integers(1, chosen.room(needs)))
                roster.give(chosen, list(itertools.islice(numbers, most)), needs)
                roster.freed(chosen)
        elif act == "complete" and manager.calls:
            manager.complete(data.draw(st.lists(st.sampled_from(list(manager.calls)), unique=True)))
            roster.freed(manager)
        elif act == "drain":
            manager.draining = True
        elif act == "suspect":
            manager.back_by = 1.0 if manager.back_by == math.inf else math.inf
            roster.freed(manager)
        elif act == "remove":
            roster.remove(manager)


def test_calls_spread_unless_they_are_to_be_packed() -> None:
    spread, packed = Hall(4, slots=8), Hall(4, find_selector("packed", ""), slots=8)
    for hall in (spread, packed):
        for _ in range(8):
            hall.submit(1)
    assert [len(calls) for calls in spread.got.values()] == [2, 2, 2, 2]
    assert [len(calls) for calls in packed.got.values()] == [8, 0, 0, 0]


def test_an_object_may_select() -> None:
    class Last:
        def rank(self, manager: Candidate) -> float:
            return -int(manager.info.block[1:])

    hall = Hall(3, Last())
    hall.submit(3)
    assert [len(calls) for calls in hall.got.values()] == [0, 1, 2]


@pytest.mark.parametrize("rank", [lambda: 1 / 0, lambda: "no number", lambda: math.nan])
def test_a_selector_that_fails_stops_nothing(rank: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Bad:
        def rank(self, manager: Candidate) -> float:
            return rank()  # type: ignore[no-any-return]

    reported: list[Any] = []
    monkeypatch.setattr(sys, "excepthook", lambda *error: reported.append(error))
    hall = Hall(2, Bad())
    hall.submit(1)
    hall.submit(1)
    assert [len(calls) for calls in hall.got.values()] == [1, 1]
    assert len(reported) == 1


@pytest.mark.parametrize("selector", ["fastest", None, 3, LeastLoaded])
def test_a_selector_that_is_none_is_refused(selector: Any) -> None:
    with pytest.raises(ConfigError, match=r"'least-loaded', 'packed'.*rank") as caught:
        HighThroughputExecutor("x", blocks=Blocks(provider=InMemoryProvider()), selector=selector)
    assert caught.value.key == "selector"
    assert "executor 'x'" in str(caught.value)


def test_selectors_can_go_to_another_process() -> None:
    for name in SELECTORS:
        assert type(pickle.loads(pickle.dumps(find_selector(name, "")))) is SELECTORS[name]


# -- many managers ----------------------------------------------------------------------------------------


def test_nobody_looks_at_all_managers_for_a_call() -> None:
    selector = Counting()
    hall = Hall(1000, selector)
    hall.submit(3000)
    assert {len(calls) for calls in hall.got.values()} == {2}
    selector.asked = 0
    for address in hall.got:
        hall.complete(address, 1)
    assert {len(calls) for calls in hall.got.values()} == {2}
    assert selector.asked < 6 * 1000
    assert not len(hall.interchange.queue)


def test_who_comes_late_gets_its_share() -> None:
    hall = Hall(1, slots=1000)
    hall.submit(900)
    hall.register(b"late", 1000)
    hall.submit(800)
    assert len(hall.got[b"late"]) >= 700


def test_heartbeats_are_spread_over_the_period() -> None:
    hall = Hall(1000)
    for _ in range(4):
        hall.beats.clear()
        most = 0
        for _ in range(102):
            hall.now += 0.05
            before = hall.beats.total()
            hall.interchange.tick()
            most = max(most, hall.beats.total() - before)
        assert len(hall.beats) == 1000
        assert hall.beats.total() <= 1100
        assert most <= 50
        for address in hall.got:
            hall.interchange.from_manager(address, messages.encode(messages.Heartbeat()))


def test_a_few_managers_get_no_more_heartbeats_than_they_should() -> None:
    hall = Hall(2)
    while hall.now < 100.0:
        hall.now = max(hall.now + 0.001, hall.interchange.tick())
        for address in hall.got:
            hall.interchange.from_manager(address, messages.encode(messages.Heartbeat()))
    assert all(18 <= hall.beats[address] <= 22 for address in hall.got)


# -- cancels ----------------------------------------------------------------------------------------------


def test_many_single_cancels_are_cheap() -> None:
    """In time of the processor; when each looks at all calls it takes more than ten times as long."""
    hall = Hall(0)
    ids = hall.submit(5_000) + [call_id for _ in range(5_000) for call_id in hall.submit(1)]
    begun = time.thread_time()
    for call_id in reversed(ids):
        hall.interchange.from_client(messages.Cancel([call_id]), ())
    assert time.thread_time() - begun < 1.0
    assert sorted(hall.returned) == ids
    assert not len(hall.interchange.queue)
    hall.register(b"m")
    assert hall.got[b"m"] == []


def test_many_single_cancels_of_given_calls_are_cheap() -> None:
    hall = Hall(1000, slots=10)
    ids = hall.submit(10_000)
    begun = time.thread_time()
    for call_id in ids:
        hall.interchange.from_client(messages.Cancel([call_id]), ())
    assert time.thread_time() - begun < 1.0
    assert sorted(call_id for _, theirs in hall.cancelled for call_id in theirs) == ids
    assert all(set(theirs) <= set(hall.got[address]) for address, theirs in hall.cancelled)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_the_queue_gives_out_what_was_not_cancelled_in_its_order(data: st.DataObject) -> None:
    """Also with its arguments."""
    queue = Queue()
    kinds = [options(priority=priority) for priority in (0, 1)]
    queue.add(messages.Tasks([1], list(enumerate(kinds)), []), [b""])
    waits: list[tuple[int, int]] = []  # ids with their kinds
    for _ in range(data.draw(st.integers(1, 30))):
        act = data.draw(st.sampled_from(["add", "take", "remove", "park", "unpark"]))
        if act == "add":
            count, kind = data.draw(st.integers(1, 6)), data.draw(st.integers(0, 1))
            first = data.draw(st.integers(1, 10**9))
            ids = [first * 10 + number for number in range(count)]
            if {i for i, _ in waits} & set(ids):
                continue
            pieces = [str(i).encode() for i in ids]
            group = messages.Group(1, kind, ids, [len(piece) for piece in pieces])
            queue.add(messages.Tasks([], [], [group]), [b"".join(pieces)])
            waits += [(call_id, kind) for call_id in ids]
        elif act == "take" and queue:
            queue.unpark(lambda needs: True)
            group, payload = queue.take(queue.first(), data.draw(st.integers(1, 6)))
            expected = sorted(waits, key=lambda each: -each[1])[: len(group.ids)]
            assert [(call_id, group.options) for call_id in group.ids] == expected
            assert bytes(payload) == b"".join(str(i).encode() for i in group.ids)
            assert group.sizes == [len(str(i)) for i in group.ids]
            waits = [each for each in waits if each not in expected]
        elif act == "remove" and waits:
            ids = data.draw(st.lists(st.sampled_from([i for i, _ in waits] + [3, 4]), unique=True))
            removed = queue.remove(ids)
            assert sorted(removed) == sorted({i for i, _ in waits} & set(ids))
            assert queue.remove(ids) == []
            waits = [each for each in waits if each[0] not in ids]
        elif act == "park" and queue:
            queue.park(queue.first())
        elif act == "unpark":
            queue.unpark(lambda needs: True)
            assert len(queue) == len(waits)
    assert sorted(queue.clear()) == sorted(i for i, _ in waits)
    assert not queue
