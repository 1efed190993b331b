"""Client and interchange without processes or sockets, in random order: each call ends exactly once."""

from __future__ import annotations

import gc
import itertools
import pickle
from collections.abc import Sequence
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from weft_executor_htex import messages
from weft_executor_htex.blobs import digest_of
from weft_executor_htex.client import Client
from weft_executor_htex.client_blobs import ClientBlobs
from weft_executor_htex.interchange import Interchange
from weft_executor_htex.packing import BlobSerializer
from weft_interfaces import Call, CallOptions, DeathCertificate, LostError, Outcome, Resources
from weft_interfaces.processes import Catalogue

pytestmark = pytest.mark.once

NOTHING, VALUE = 1, 2  # the kinds of results that are None, and another


class Manager:
    """What a manager does, as far as it can be seen."""

    def __init__(self, address: bytes, block: str, slots: int) -> None:
        self.nodes: dict[int, tuple[str, ...]] = {}  # of the calls that take several
        self.address = address
        self.block = block
        self.slots = slots
        self.calls: dict[int, int] = {}  # with their priorities
        self.known: set[int] = set()
        self.priorities: dict[int, int] = {}
        self.options: dict[int, messages.Options] = {}
        self.wishes: dict[int, messages.Options] = {}  # of calls
        self.done: list[int] = []
        self.asked_back = False
        self.draining = False
        self.blobs: set[bytes] = set()
        self.needs: dict[int, list[bytes]] = {}
        self.unsaid: list[messages.Message] = []  # what it says before anything else, a while later

    def receive(self, frames: Sequence[messages.Frame]) -> None:
        message = messages.decode(frames)
        if type(message) is messages.Tasks:
            assert not self.draining
            self.known.update(message.functions)
            self.priorities.update({number: options.priority for number, options in message.options})
            self.options.update(message.options)
            for blob, frame in zip(message.blobs, frames[-len(message.blobs) :], strict=bool(message.blobs)):
                assert digest_of(frame) == blob.digest
                assert blob.digest not in self.blobs, "a blob that it has"
                self.blobs.add(blob.digest)
            for group in message.groups:
                assert group.function in self.known, "a function that it was not told"
                if group.hosts:
                    self.nodes[group.ids[0]] = group.hosts
                if not self.blobs.issuperset(group.blobs):
                    dropped = {digest for said in self.unsaid for digest in getattr(said, "digests", ())}
                    assert dropped.issuperset(set(group.blobs) - self.blobs), "a blob is missing"
                    self.unsaid.append(messages.Returned(group.ids))
                    continue
                for call_id in group.ids:
                    assert call_id not in self.calls, "the same call twice"
                    self.calls[call_id] = self.priorities[group.options]
                    self.needs[call_id] = group.blobs
                    self.wishes[call_id] = self.options[group.options]
        elif type(message) is messages.Forget:
            self.known.clear()
            self.priorities.clear()
        elif type(message) is messages.Drain:
            self.draining = True
        elif type(message) is messages.Rejoin:
            self.asked_back = True

    def holds(self) -> list[messages.Holding]:
        return [messages.Holding(self.wishes[call_id], [call_id], [call_id]) for call_id in self.calls]


def nothings(ids: Sequence[int]) -> messages.Results:
    """Results that are None."""
    return messages.Results([messages.ResultGroup(list(ids), [NOTHING] * len(ids), [0] * len(ids))])


class Context:
    run_id = "test"
    directory = Path("unused")

    def __init__(self) -> None:
        self.outcomes: dict[int, Outcome] = {}

    def completed(self, outcomes: Sequence[Outcome]) -> None:
        for outcome in outcomes:
            assert outcome.id not in self.outcomes, "a second outcome"
            self.outcomes[outcome.id] = outcome

    def emit(self, events: Sequence[object]) -> None:
        """Nobody listens."""


class InterchangeMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.context = Context()
        self.managers: dict[bytes, Manager] = {}
        self.numbers = itertools.count(1)
        self.submitted: set[int] = set()
        self.cancelled: set[int] = set()
        self.inbox: list[tuple[messages.Message, Sequence[messages.Frame]]] = []
        self.wide: dict[int, int] = {}  # the calls for several nodes, with how many
        self.ended: set[str] = set()
        blobs = ClientBlobs()
        serializer = BlobSerializer(cloudpickle.Pickler, 1000, blobs)
        self.catalogue = Catalogue(serializer, lambda options: None, pack=serializer.pack)
        self.client = Client("x", self.context, serializer, blobs)
        self.client.introduce(lambda: messages.Scale(b""))
        self.held = 0
        self.packer = BlobSerializer(cloudpickle.Pickler, 1000, ClientBlobs())
        self.remainder = 0
        self.interchange = self.make_interchange()

    def make_interchange(self, regain: float = 0.0) -> Interchange:
        return Interchange(
            self.to_client,
            self.to_manager,
            self.to_manager,
            heartbeat_period=1.0,
            heartbeat_threshold=10.0,
            prefetch=2,
            remainder=self.remainder,
            regain=regain,
            clock=lambda: self.now,
        )

    def pull(self) -> None:
        """All that the client has to say is heard, and all that is said to it."""
        self.client.pull(self.from_client)
        while self.inbox:
            inbox, self.inbox = self.inbox, []
            for message, payloads in inbox:
                self.client.receive(message, payloads)
            self.client.pull(self.from_client)

    def from_client(self, message: messages.Message, payloads: Sequence[messages.Frame]) -> None:
        """As an agent takes it, which counts what its client has not sent."""
        if type(message) is messages.Held:
            self.held = message.slots
        elif type(message) is not messages.Scale:
            self.interchange.from_client(message, payloads)

    def to_client(self, message: messages.Message, payloads: Sequence[messages.Frame]) -> None:
        self.inbox.append((message, payloads))

    def to_manager(self, address: bytes, frames: list[messages.Frame]) -> None:
        if address in self.managers:
            self.managers[address].receive(frames)

    def say(self, manager: Manager, message: messages.Message, *payloads: messages.Frame) -> None:
        while manager.unsaid:
            self.interchange.from_manager(manager.address, messages.encode(manager.unsaid.pop(0)))
        self.interchange.from_manager(manager.address, messages.encode(message, payloads))

    def wait(self, seconds: int) -> None:
        """Only heartbeats come."""
        for _ in range(seconds):
            self.now += 1.0
            for manager in self.managers.values():
                self.say(manager, messages.Heartbeat())
            self.interchange.tick()

    def results(self, manager: Manager, ids: Sequence[int]) -> None:
        ids = [call_id for call_id in ids if call_id in manager.calls]
        for call_id in ids:
            del manager.calls[call_id]
        manager.done += ids
        self.say(manager, nothings(ids), b"")

    def pick(self, data: st.DataObject) -> Manager:
        return data.draw(st.sampled_from(list(self.managers.values())))

    # -- what happens -------------------------------------------------------------------------------------

    @initialize(remainder=st.sampled_from([0, 0, 5000]))
    def begin_with(self, remainder: int) -> None:
        self.remainder = remainder
        self.interchange = self.make_interchange()

    @rule(
        count=st.integers(1, 30),
        priority=st.integers(0, 2),
        cpus=st.sampled_from([1, 1, 1, 2, 5]),
        large=st.lists(st.integers(0, 1), max_size=2),
    )
    def submit(self, count: int, priority: int, cpus: int, nodes: int = 1, large: Sequence[int] = ()) -> None:
        options = CallOptions(priority=priority, resources=Resources(cpus=cpus, nodes=nodes))
        args = (-1, *(pickle.PickleBuffer(bytes([n]) * 2000) for n in large))
        calls = [Call(next(self.numbers), abs, args, {}, options) for _ in range(count)]
        if nodes > 1:
            self.wide.update({call.id: nodes for call in calls})
        self.client.submit([self.catalogue.entry(call) for call in calls])
        self.submitted.update(call.id for call in calls)
        self.pull()

    @rule(
        count=st.integers(1, 4),
        priority=st.integers(0, 2),
        cpus=st.sampled_from([1, 2]),
        nodes=st.sampled_from([2, 2, 3]),
        large=st.lists(st.integers(0, 1), max_size=1),
    )
    def submit_wide(self, count: int, priority: int, cpus: int, nodes: int, large: Sequence[int]) -> None:
        self.submit(count, priority, cpus, nodes, large)

    @precondition(lambda self: len(self.managers) < 7)
    @rule(slots=st.integers(1, 4), block=st.integers(1, 3))
    def register(self, slots: int, block: int | None = None) -> None:
        number = next(self.numbers)
        name = f"block-{block or 'last'}"
        while name in self.ended:
            name += "+"
        manager = Manager(b"m%d" % number, name, slots)
        self.managers[manager.address] = manager
        host = manager.address.decode()
        info = messages.Register(
            messages.PROTOCOL, messages.PYTHON, host, 1, manager.block, slots, None, 0, None
        )
        self.say(manager, info)
        self.pull()

    @precondition(lambda self: self.managers)
    @rule(data=st.data())
    def complete(self, data: st.DataObject) -> None:
        manager = self.pick(data)
        if manager.calls:
            self.results(manager, data.draw(st.lists(st.sampled_from(list(manager.calls)), unique=True)))
            self.pull()

    @precondition(lambda self: any(manager.calls for manager in self.managers.values()))
    @rule(data=st.data(), n=st.integers(0, 1))
    def complete_with_a_blob(self, data: st.DataObject, n: int) -> None:
        manager = data.draw(st.sampled_from([each for each in self.managers.values() if each.calls]))
        payload, [blob] = self.packer.pack(pickle.PickleBuffer(bytes([n]) * 2000), "it")
        call_id = data.draw(st.sampled_from(list(manager.calls)))
        del manager.calls[call_id]
        manager.blobs.add(blob.digest)
        header = messages.BlobHeader(blob.digest, 2000)
        group = messages.ResultGroup([call_id], [VALUE], [len(payload)], [header])
        self.say(manager, messages.Results([group]), payload, bytes([n]) * 2000)
        self.pull()
        if call_id not in self.cancelled and call_id not in self.wide:
            assert bytes(self.context.outcomes[call_id].value) == bytes([n]) * 2000

    @precondition(lambda self: any(manager.blobs for manager in self.managers.values()))
    @rule(data=st.data(), later=st.booleans())
    def evict(self, data: st.DataObject, later: bool) -> None:
        """Blobs that no call needs there; calls for them may be on their way."""
        manager = data.draw(st.sampled_from([each for each in self.managers.values() if each.blobs]))
        free = manager.blobs.difference(*(manager.needs[call_id] for call_id in manager.calls))
        if free:
            dropped = data.draw(st.lists(st.sampled_from(sorted(free)), min_size=1, unique=True))
            manager.blobs.difference_update(dropped)
            manager.unsaid.append(messages.Dropped(dropped))
            if not later:
                self.say(manager, messages.Heartbeat())
                self.pull()

    @precondition(lambda self: self.managers)
    @rule(data=st.data(), seconds=st.sampled_from([0.001, 0.02, 2.0]))
    def a_while_later(self, data: st.DataObject, seconds: float) -> None:
        self.now += seconds
        for manager in self.managers.values():
            self.say(manager, messages.Heartbeat())
        self.interchange.tick()
        self.pull()

    @precondition(lambda self: self.managers)
    @rule(data=st.data())
    def begin(self, data: st.DataObject) -> None:
        manager = self.pick(data)
        self.say(manager, messages.Begun(list(manager.calls)[:2]))

    @precondition(lambda self: self.managers)
    @rule(data=st.data())
    def come_back(self, data: st.DataObject) -> None:
        manager = self.pick(data)
        self.interchange.disconnected(manager.address)
        self.submit(3, 0, 1)
        self.say(manager, messages.Heartbeat())

    @precondition(lambda self: self.managers)
    @rule(
        data=st.data(), how=st.sampled_from(["hung up", "disconnected", "block", "leave", "over", "silent"])
    )
    def lose(self, data: st.DataObject, how: str) -> None:
        manager = self.pick(data)
        del self.managers[manager.address]
        if how == "block":
            self.ended.add(manager.block)
            for other in [each for each in self.managers.values() if each.block == manager.block]:
                del self.managers[other.address]
        if how == "hung up":
            self.interchange.hung_up(manager.address)
        elif how == "disconnected":
            self.interchange.disconnected(manager.address)
        elif how == "block":
            self.client.tell(messages.EndBlock(manager.block, None, "over", 1, ""))
        elif how == "leave":
            self.say(manager, messages.Leave("it was asked to"))
        elif how == "over":
            self.say(manager, messages.Leave("its walltime is over", True))
        self.wait(12)
        self.pull()
        assert manager.address not in {each.address for each in self.interchange.roster}
        # Should it speak again, nobody listens.
        self.say(manager, messages.Heartbeat())
        if manager.calls:
            self.results(manager, list(manager.calls))

    @precondition(lambda self: self.managers)
    @rule(data=st.data(), by_itself=st.booleans())
    def drain(self, data: st.DataObject, by_itself: bool) -> None:
        manager = self.pick(data)
        if by_itself:  # as its walltime is almost over
            manager.draining = True
            self.say(manager, messages.Drain([manager.block]))
        else:
            self.client.tell(messages.Drain([manager.block]))
            self.pull()
        back = [call_id for call_id in manager.calls if data.draw(st.booleans())]
        for call_id in back:
            del manager.calls[call_id]
        self.say(manager, messages.Returned(back))
        self.pull()

    @precondition(lambda self: self.submitted)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        ids = data.draw(st.lists(st.sampled_from(sorted(self.submitted)), max_size=5))
        accepted = set(self.client.cancel(ids))
        assert accepted <= set(ids)
        assert not {i for i in accepted - self.cancelled if not self.is_cancelled_or_open(i)}
        self.cancelled |= accepted
        self.pull()

    def is_cancelled_or_open(self, call_id: int) -> bool:
        outcome = self.context.outcomes.get(call_id)
        return outcome is None or isinstance(outcome.error, CancelledError)

    @rule()
    def no_more_blocks(self) -> None:
        if not self.managers:
            self.client.give_up("nobody comes")
            self.pull()
            assert self.context.outcomes.keys() == self.submitted
            self.client.hope()

    @precondition(lambda self: self.managers)
    @rule(data=st.data(), number=st.integers(0, 5))
    def nonsense(self, data: st.DataObject, number: int) -> None:
        """Results of calls that it does not have, or twice, beside one that it has."""
        manager = self.pick(data)
        ids = [10**9 + number, *list(manager.calls)[:1] * 2]
        self.say(manager, nothings(ids), b"")
        for call_id in ids[1:2]:
            del manager.calls[call_id]
        self.pull()

    @rule(data=st.data(), during=st.booleans())
    def lose_the_interchange(self, data: st.DataObject, during: bool) -> None:
        """The next one gets what managers bring; what those had that do not come back is lost."""
        lost = {i for i, call in self.client._entries.items() if call.worker is not None}
        self.client.lose_interchange(DeathCertificate(kind="interchange"))
        self.held = 0
        self.interchange = self.make_interchange(regain=10.0)
        self.client.look_around()
        if during:  # somebody submits before it is known who comes back
            self.submit(3, 0, 1)
        gone = [each for each in self.managers.values() if data.draw(st.booleans())]
        for manager in gone:
            del self.managers[manager.address]
        for manager in list(self.managers.values()):
            self.bring_back(manager, data.draw(st.integers(0, 2)))
        if gone:
            self.wait(11)
        self.pull()
        if not gone:
            assert not self.client._adrift
            outcomes = [self.context.outcomes.get(call_id) for call_id in lost - self.wide.keys()]
            assert not any(isinstance(each.error, LostError) for each in outcomes if each is not None)

    def bring_back(self, manager: Manager, ended: int) -> None:
        """It says again what may have been lost, and so many of its calls have ended meanwhile."""
        manager.unsaid.clear()
        manager.blobs.clear()
        self.interchange.returning(manager.address)
        assert manager.asked_back
        ids = [*manager.done[-3:], *list(manager.calls)[:ended]]
        for call_id in list(manager.calls)[:ended]:
            del manager.calls[call_id]
        self.say(manager, messages.Begun(list(manager.calls)))
        self.say(manager, messages.Returned(list(manager.calls)))  # from an earlier time
        self.say(manager, nothings(ids), b"")
        host = manager.address.decode()
        about = (messages.PROTOCOL, messages.PYTHON, host, 1, manager.block, manager.slots, None, 0, None)
        self.say(manager, messages.Register(*about))
        assert manager.address not in {each.address for each in self.interchange.roster}
        self.say(manager, messages.Register(*about, holds=manager.holds(), draining=manager.draining))
        for call_id in self.wide.keys() & manager.calls.keys():
            del manager.calls[call_id]  # it is told to
        self.pull()

    # -- what holds ---------------------------------------------------------------------------------------

    @invariant()
    def an_agent_knows_how_many_slots_calls_ask_for(self) -> None:
        if not self.inbox:  # else the client is yet to hear what has changed
            waiting, taken = self.interchange.slots(1)
            assert (waiting + self.held, taken) == self.client.slots()

    @invariant()
    def nothing_is_in_two_places(self) -> None:
        held = [call_id for manager in self.managers.values() for call_id in manager.calls]
        assert len(held) == len(set(held))
        assert not self.context.outcomes.keys() & set(held)

    @invariant()
    def no_plain_call_waits_while_a_manager_has_room(self) -> None:
        waits = self.submitted - self.context.outcomes.keys()
        waits -= {call_id for manager in self.managers.values() for call_id in manager.calls}
        if len(self.interchange.queue):
            needs = self.interchange.queue.first().needs
            assert not len(self.interchange.roster) or self.interchange.roster.could_run(needs)
            assert not any(manager.room(needs) for manager in self.interchange.roster), len(waits)

    @invariant()
    def a_call_for_several_nodes_has_them_alone(self) -> None:
        for manager in self.managers.values():
            for call_id in manager.calls.keys() & self.wide.keys():
                hosts = manager.nodes[call_id]
                assert len(set(hosts)) == self.wide[call_id]
                assert hosts[0] == manager.address.decode()
                assert list(manager.calls) == [call_id]
                others = [self.managers.get(host.encode()) for host in hosts[1:]]
                assert not any(other.calls for other in others if other is not None)
                assert {other.block for other in others if other is not None} <= {manager.block}

    @invariant()
    def nodes_are_held_for_calls_that_need_them(self) -> None:
        pending = self.interchange._allocations.pending
        for manager in self.interchange.roster:
            held = manager.allocation
            if held is not None and held not in pending:
                assert manager in held.managers
                assert held.call in held.managers[0].calls
            assert (held is None) == (
                manager.address in self.interchange.roster.free.get(manager.info.block, {})
            )

    @invariant()
    def no_call_for_several_nodes_waits_when_all_are_idle(self) -> None:
        # What it has given back without having said so, a manager still has.
        if not any(manager.calls or manager.unsaid for manager in self.managers.values()):
            queue = self.interchange.queue
            assert not queue.held
            assert len(queue) or not queue.wide

    def teardown(self) -> None:
        self.now += 1.0
        for _ in range(3):
            self.register(8)
        for _ in range(10_000):
            for manager in self.managers.values():
                self.say(manager, messages.Heartbeat())
            self.pull()
            busy = [manager for manager in self.managers.values() if manager.calls]
            if not busy:
                break
            for manager in busy:
                self.results(manager, list(manager.calls))
            self.now += 0.01
            self.pull()
        assert self.context.outcomes.keys() == self.submitted
        for call_id, outcome in self.context.outcomes.items():
            if call_id in self.cancelled:
                assert isinstance(outcome.error, CancelledError)
            elif outcome.error is not None:
                assert isinstance(outcome.error, LostError) or "nobody comes" in str(outcome.error)
        assert self.client.slots() == (0, 0)
        assert (self.client._sent, self.client._sent_bytes) == (0, 0)
        assert not self.client._window_blobs
        assert self.client._known_blobs == self.interchange.blobs._frames.keys()
        assert sum(map(len, self.interchange.blobs._frames.values())) <= self.interchange.blobs._remainder
        gc.collect()
        assert not self.client._blobs._blobs


@pytest.fixture(autouse=True)
def short_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interchange is to forget after a few functions and options, not after a thousand."""
    monkeypatch.setattr("weft_executor_htex.client._MOST_KNOWN", 4)


TestInterchange = InterchangeMachine.TestCase
TestInterchange.settings = settings(
    max_examples=100,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


class Crowd:
    """An interchange with many managers, whose clock a test moves."""

    def __init__(self, count: int) -> None:
        self.now = 1000.0
        self.said: list[messages.Message] = []
        self.beats: dict[bytes, list[float]] = {}
        self.tasks: list[list[int]] = []
        self.interchange = Interchange(
            lambda message, payloads: self.said.append(message),
            self.to_manager,
            self.to_manager,
            heartbeat_period=5.0,
            heartbeat_threshold=30.0,
            clock=lambda: self.now,
        )
        for number in range(count):
            info = messages.Register(
                messages.PROTOCOL, messages.PYTHON, "h", 1, f"b{number}", 2, None, 0, None
            )
            self.interchange.from_manager(b"%d" % number, messages.encode(info))

    def to_manager(self, address: bytes, frames: Sequence[messages.Frame]) -> None:
        message = messages.decode(frames)
        if type(message) is messages.Heartbeat:
            self.beats.setdefault(address, []).append(self.now)
        elif type(message) is messages.Tasks:
            self.tasks.append([call_id for group in message.groups for call_id in group.ids])

    def tick(self) -> int:
        """How many heartbeats are sent in one go."""
        before = sum(map(len, self.beats.values()))
        due = self.interchange.tick()
        assert due < self.now + 5.1, "it does not come back in time"
        return sum(map(len, self.beats.values())) - before


def test_who_is_silent_among_many_is_lost_within_a_period_of_the_threshold() -> None:
    crowd = Crowd(300)
    gone: list[str] = []
    while crowd.now < 1036.0:
        crowd.now += 0.5
        for number in range(1, 300):
            crowd.interchange.from_manager(b"%d" % number, messages.encode(messages.Heartbeat()))
        crowd.tick()
        gone += [each.block for each in crowd.said if type(each) is messages.ManagerGone]
        crowd.said.clear()
        assert not gone or crowd.now > 1030.0, "too early"
    assert gone == ["b0"]
    assert len(crowd.interchange.roster) == 299


def test_suspects_among_many_are_lost_when_their_time_is_over() -> None:
    """But those that come back."""
    crowd = Crowd(10)
    for number in range(3):
        crowd.interchange.hung_up(b"%d" % number)
        crowd.now += 0.1
    crowd.interchange.from_manager(b"1", messages.encode(messages.Heartbeat()))
    assert crowd.interchange.tick() <= 1001.0
    crowd.now = 1001.05
    crowd.interchange.tick()
    assert [each.block for each in crowd.said if type(each) is messages.ManagerGone] == ["b0"]
    assert crowd.interchange.tick() <= 1001.2
    crowd.now = 1001.25
    crowd.interchange.tick()
    assert [each.block for each in crowd.said if type(each) is messages.ManagerGone] == ["b0", "b2"]


def test_calls_that_come_together_are_shared_out_together() -> None:
    """Managers get their shares in few messages, in however many the client told of the calls."""
    crowd = Crowd(100)
    options = messages.Options.of(CallOptions(name="x"))

    def pull(say: Any) -> None:
        for start in range(0, 200, 20):
            told = ([1], [(1, options)]) if not start else ([], [])
            tasks = messages.Tasks(*told, [messages.Group(1, 1, list(range(start, start + 20)), [0] * 20)])
            say(tasks, [b"function", b""] if not start else [b""])
        assert crowd.tasks == []

    crowd.interchange.listen(pull)
    assert len(crowd.tasks) <= 150
    assert sorted(call_id for ids in crowd.tasks for call_id in ids) == list(range(200))
