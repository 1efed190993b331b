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
from weft_executor_htex.interchange_blobs import InterchangeBlobs
from weft_executor_htex.queue import Needs, Queue
from weft_executor_htex.roster import Roster
from weft_executor_htex.selector import SELECTORS, Candidate, LeastLoaded, Selector, find_selector
from weft_interfaces import Blocks, ConfigError
from weft_interfaces.memory import InMemoryProvider

pytestmark = pytest.mark.once


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
    queue = Queue(InterchangeBlobs(0))
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


# -- calls for several nodes ------------------------------------------------------------------------------


class Cluster:
    """Blocks of nodes with two slots each, of which the test sees what runs where."""

    def __init__(self, **blocks: int) -> None:
        self.now = 0.0
        self.running: dict[str, list[int]] = {}
        self.hosts: dict[int, tuple[str, ...]] = {}
        self.said: list[messages.Message] = []
        self.told: list[tuple[str, messages.Message]] = []
        self.numbers = itertools.count(10)
        self.interchange = Interchange(
            lambda message, payloads: self.said.append(message),
            self._to_manager,
            self._to_manager,
            heartbeat_period=5.0,
            heartbeat_threshold=30.0,
            clock=lambda: self.now,
        )
        kinds = [(n, options(nodes=n)) for n in (1, 2, 3, 4)] + [(9, options(priority=1))]
        self.interchange.from_client(messages.Tasks([1], kinds, []), [b""])
        for block, count in blocks.items():
            for number in range(1, count + 1):
                self.add(block, number)

    def add(self, block: str, number: int) -> None:
        host = f"{block}{number}"
        self.running[host] = []
        self.say(host, register(block, 2, host))

    def say(self, host: str, message: messages.Message, *payloads: bytes) -> None:
        self.interchange.from_manager(host.encode(), messages.encode(message, payloads))

    def _to_manager(self, address: bytes, frames: list[messages.Frame]) -> None:
        message = messages.decode(frames)
        host = address.decode()
        self.told.append((host, message))
        if type(message) is messages.Tasks:
            for group in message.groups:
                self.running[host] += group.ids
                if group.hosts:
                    self.hosts[group.ids[0]] = group.hosts

    def submit(self, kind: int, count: int = 1) -> list[int]:
        ids = list(itertools.islice(self.numbers, count))
        group = messages.Group(1, kind, ids, [0] * count)
        self.interchange.from_client(messages.Tasks([], [], [group]), [b""])
        return ids

    def end(self, call_id: int) -> None:
        [host] = [host for host, ids in self.running.items() if call_id in ids]
        self.running[host].remove(call_id)
        self.say(host, messages.Results([messages.ResultGroup([call_id], [1], [0])]), b"")

    def given(self) -> list[int]:
        return [call_id for ids in self.running.values() for call_id in ids]

    def outcomes(self, kind: type[Any]) -> list[Any]:
        return [message for message in self.said if type(message) is kind]


def test_calls_for_several_nodes_share_a_block() -> None:
    here = Cluster(a=5)
    first, second, third = here.submit(2, 3)
    assert here.hosts == {first: ("a1", "a2"), second: ("a3", "a4")}
    here.end(second)
    assert here.hosts[third] == ("a3", "a4")
    [small] = here.submit(1)
    assert here.running["a5"] == [small]


def test_all_nodes_are_of_one_block() -> None:
    here = Cluster(a=1, b=1, c=2)
    [call] = here.submit(2)
    assert here.hosts[call] == ("c1", "c2")
    [never] = here.submit(3)
    small = here.submit(1, 4)
    assert {*here.running["a1"], *here.running["b1"]} == set(small)
    here.add("b", 2)
    assert never not in here.hosts
    here.add("b", 3)
    for call_id in small:
        here.end(call_id)
    assert here.hosts[never] == ("b1", "b2", "b3")


def test_smaller_calls_do_not_pass_it_by_for_ever() -> None:
    """Its nodes are kept for it as they become free."""
    here = Cluster(a=3)
    before = here.submit(1, 6)
    [wide] = here.submit(2)
    after = here.submit(1, 6)
    for call_id in before:
        here.end(call_id)
    assert wide in here.hosts
    assert not {*here.running["a1"], *here.running["a2"]} - {wide}
    assert here.running["a3"] == after[:2]
    here.end(wide)
    assert sorted(here.given()) == after


def test_calls_for_fewer_nodes_do_not_pass_it_by() -> None:
    here = Cluster(a=4)
    pairs = here.submit(2, 2)
    [all_of_them] = here.submit(4)
    later = here.submit(2, 4)
    here.end(pairs[0])
    assert not here.hosts.keys() & set(later)
    here.end(pairs[1])
    assert all_of_them in here.hosts
    here.end(all_of_them)
    assert set(later[:2]) <= here.hosts.keys()


def test_urgent_calls_come_before_it() -> None:
    """Its nodes are not free yet, and are given to what has a higher priority."""
    here = Cluster(a=2)
    before = here.submit(1, 4)
    [wide] = here.submit(2)
    here.end(before[0])
    urgent = here.submit(9, 2)
    assert urgent[0] in here.given()
    for call_id in before[1:]:
        here.end(call_id)
    assert wide not in here.hosts
    here.end(urgent[0])
    here.end(urgent[1])
    assert here.hosts[wide] == ("a1", "a2")


@pytest.mark.parametrize("node", [0, 1, 2])
def test_a_lost_node_loses_the_call_and_frees_the_others(node: int) -> None:
    here = Cluster(a=3)
    [call] = here.submit(3)
    host = here.hosts[call][node]
    here.say(host, messages.Leave("power"))
    del here.running[host]
    if node:  # it still runs, and is stopped before anybody else gets its nodes
        small = here.submit(1, 4)
        assert here.outcomes(messages.Lost) == []
        assert ("a1", messages.Cancel([call])) in here.told
        assert not any(set(small) & set(ids) for ids in here.running.values())
        here.end(call)
    else:
        small = here.submit(1, 4)
    [lost] = here.outcomes(messages.Lost)
    assert (lost.ids, lost.host, lost.reason) == ([call], host, "power")
    assert here.outcomes(messages.Results) == []
    assert sorted(here.given()) == small


def test_a_node_that_is_lost_before_it_begins_is_replaced() -> None:
    here = Cluster(a=3)
    before = here.submit(1, 6)
    [wide] = here.submit(2)
    for host in ("a1", "a2"):
        for call_id in list(here.running[host])[:1]:
            here.end(call_id)
    here.say("a2", messages.Leave("power"))
    for call_id in before:
        if any(call_id in ids for host, ids in here.running.items() if host != "a2"):
            here.end(call_id)
    assert here.hosts[wide] == ("a1", "a3")


def test_cancelled_while_it_has_nodes_it_gives_them_back() -> None:
    here = Cluster(a=2)
    before = here.submit(1, 4)
    [wide] = here.submit(2)
    here.end(before[0])
    later = here.submit(1)
    assert not any(later[0] in ids for ids in here.running.values())
    here.interchange.from_client(messages.Cancel([wide]), ())
    assert here.outcomes(messages.Returned) == [messages.Returned([wide])]
    assert any(later[0] in ids for ids in here.running.values())


def test_no_node_is_drained_away_from_a_call_that_runs() -> None:
    here = Cluster(a=2)
    [call] = here.submit(2)
    here.interchange.from_client(messages.Drain(["a"]), ())
    assert not [message for _, message in here.told if type(message) is messages.Drain]
    here.end(call)
    assert {host for host, message in here.told if type(message) is messages.Drain} == {"a1", "a2"}


def test_a_call_that_has_no_nodes_yet_may_be_given_back() -> None:
    here = Cluster(a=2)
    here.submit(1, 4)
    [wide] = here.submit(2)
    here.interchange.from_client(messages.GiveBack(), ())
    assert here.outcomes(messages.Returned) == [messages.Returned([wide])]
    assert all(manager.allocation is None for manager in here.interchange.roster)


def test_it_waits_for_a_node_that_cannot_be_reached_for_a_while() -> None:
    here = Cluster(a=2)
    before = here.submit(1, 2)
    [wide] = here.submit(2)
    [host] = [host for host, ids in here.running.items() if before[1] in ids]
    here.end(before[1])
    here.interchange.disconnected(host.encode())
    here.end(before[0])
    assert wide not in here.hosts
    here.say(host, messages.Heartbeat())
    assert wide in here.hosts
