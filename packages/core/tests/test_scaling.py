"""The default scaling policy, as tables, as properties, and in a simulated batch system."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st
from weft_core.scaling import LoadScalingPolicy
from weft_interfaces import (
    BlockLoad,
    Blocks,
    BlockView,
    ExecutorDemand,
    JobState,
    JobStatus,
    ScalingDecision,
    ScalingState,
)
from weft_interfaces.memory import InMemoryProvider

UNHURRIED = hypothesis.settings(deadline=None)  # on a busy machine, an example may take its time

PROVIDER = InMemoryProvider()
ENDED = [state for state in JobState if state.terminal]
NOT_ENDED = [state for state in JobState if not state.terminal]


def settings(**values: object) -> Blocks:
    return Blocks(provider=PROVIDER, **{"init": values.get("min", 0), **values})  # type: ignore[arg-type]


def block(
    state: JobState = JobState.RUNNING,
    *,
    managers: int | None = None,
    running: int = 0,
    idle_for: float = 0.0,
    draining: bool = False,
) -> BlockView:
    if managers is None:
        managers = 1 if state is JobState.RUNNING else 0
    return BlockView(JobStatus(state=state), 0.0, managers, running, idle_for, draining)


def decide(
    blocks: Mapping[str, BlockView],
    limits: Blocks,
    *,
    queued: int = 0,
    running: int = 0,
    slots: int = 32,
) -> ScalingDecision:
    loads = {name: BlockLoad(b.managers, b.running, b.idle_for) for name, b in blocks.items() if b.managers}
    demand = ExecutorDemand(queued, running, slots, loads)
    return LoadScalingPolicy().decide(ScalingState("htex", limits, demand, blocks, now=1000.0))


PENDING = block(JobState.PENDING)
BUSY = block(running=32)


# -- tables -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "blocks", "queued", "running", "expected"),
    [
        pytest.param({"max": 9}, [], 0, 0, 0, id="nothing to do"),
        pytest.param({"max": 9}, [], 1, 0, 1, id="one call needs a block"),
        pytest.param({"max": 9}, [], 32, 0, 1, id="a full block"),
        pytest.param({"max": 9}, [], 33, 0, 2, id="whole blocks"),
        pytest.param({"max": 9}, [], 1000, 0, 9, id="never above max"),
        pytest.param({"max": 9, "min": 2}, [], 0, 0, 2, id="never below min"),
        pytest.param({"max": 9, "min": 2}, [], 40, 0, 2, id="min is no surplus"),
        pytest.param({"max": 9}, [BUSY], 32, 32, 1, id="running calls keep their slots"),
        pytest.param({"max": 9}, [BUSY, PENDING], 32, 32, 0, id="a pending block is coming"),
        pytest.param({"max": 9}, [block(JobState.HELD)], 32, 0, 0, id="a held block is coming"),
        pytest.param({"max": 9}, [block(JobState.UNKNOWN)], 32, 0, 0, id="an unknown one has not ended"),
        pytest.param({"max": 9}, [block(managers=0)], 32, 0, 0, id="an unregistered one is coming"),
        pytest.param({"max": 9}, [block(JobState.GONE)], 32, 0, 1, id="one that ended is not"),
        pytest.param({"max": 9}, [block(draining=True)], 32, 0, 1, id="a draining one does not help"),
        pytest.param({"max": 1}, [block(draining=True)], 32, 0, 0, id="but its job counts for max"),
        pytest.param({"max": 9, "parallelism": 0.5}, [], 128, 0, 2, id="half the parallelism"),
        pytest.param({"max": 9, "parallelism": 0.001}, [], 1, 0, 1, id="little parallelism starves nobody"),
        pytest.param({"max": 9, "parallelism": 0.0}, [], 5, 0, 1, id="nor does none"),
        pytest.param({"max": 9, "parallelism": 2}, [], 32, 32, 4, id="double parallelism"),
        pytest.param({"max": 99, "parallelism": 1.1}, [], 1600, 0, 55, id="no block for a rounding error"),
        pytest.param({"max": 9, "parallelism": 1e300}, [], 9, 0, 9, id="absurd parallelism"),
    ],
)
def test_asks_for_what_is_missing(
    limits: dict[str, float], blocks: list[BlockView], queued: int, running: int, expected: int
) -> None:
    views = {f"b{number}": view for number, view in enumerate(blocks)}
    decision = decide(views, settings(**limits), queued=queued, running=running)
    assert (decision.add, decision.drain) == (expected, ())


@pytest.mark.parametrize(
    ("limits", "blocks", "queued", "running", "expected"),
    [
        pytest.param({}, {"a": block(idle_for=119)}, 0, 0, (), id="not yet"),
        pytest.param({}, {"a": block(idle_for=120)}, 0, 0, ("a",), id="idle for long"),
        pytest.param({"min": 1}, {"a": block(idle_for=900)}, 0, 0, (), id="min remains"),
        pytest.param(
            {"min": 1},
            {"a": block(idle_for=130), "b": block(idle_for=190), "c": block(idle_for=150)},
            0,
            0,
            ("b", "c"),
            id="longest idle first",
        ),
        pytest.param({}, {"a": block(idle_for=900, running=1)}, 0, 1, (), id="never a busy one"),
        pytest.param({}, dict.fromkeys("ab", block(idle_for=900, running=1)), 0, 2, (), id="nor one of two"),
        pytest.param({}, {"a": BUSY, "b": block(idle_for=900)}, 0, 32, ("b",), id="beside a busy one"),
        pytest.param({}, {"a": BUSY, "b": block(idle_for=900)}, 0, 33, (), id="the load needs both"),
        pytest.param({}, {"a": block(idle_for=900)}, 1, 0, (), id="waiting work could use it"),
        pytest.param(
            {"parallelism": 0.01},
            {"a": BUSY, "b": block(idle_for=900), "c": block(idle_for=800)},
            5,
            32,
            ("b",),
            id="waiting work could use one of them, even with little parallelism",
        ),
        pytest.param({}, {"a": block(idle_for=900, draining=True)}, 0, 0, (), id="once"),
        pytest.param({}, {"a": block(JobState.PENDING, idle_for=900)}, 0, 0, (), id="it waits in the queue"),
        pytest.param({}, {"a": block(managers=0, idle_for=900)}, 0, 0, (), id="it has not registered"),
        pytest.param({}, {"a": block(JobState.UNKNOWN, managers=1, idle_for=900)}, 0, 0, (), id="not up"),
        pytest.param(
            {"min": 1},
            {"a": block(idle_for=900), "b": PENDING},
            0,
            0,
            (),
            id="pending is not min",
        ),
        pytest.param({"idle_timeout": 0}, {"a": block(idle_for=0)}, 0, 0, ("a",), id="no idling allowed"),
    ],
)
def test_gives_back_what_is_idle(
    limits: dict[str, float],
    blocks: dict[str, BlockView],
    queued: int,
    running: int,
    expected: tuple[str, ...],
) -> None:
    decision = decide(blocks, settings(**{"max": 9, **limits}), queued=queued, running=running)
    assert (decision.add, decision.drain) == (0, expected)


@pytest.mark.parametrize(
    ("limits", "blocks", "load", "reason"),
    [
        (
            {"max": 9},
            dict.fromkeys("abcd", BUSY),
            {"queued": 340, "running": 128},
            "+5 blocks: 340 waiting slots, 128 taken, 4 blocks of 32 slots, parallelism 1",
        ),
        (
            {"max": 9, "min": 1},
            {},
            {},
            "+1 block: 0 waiting slots, 0 blocks of 32 slots, parallelism 1, at least 1",
        ),
        (
            {"max": 9},
            {"a": block(idle_for=130.4), "b": PENDING},
            {},
            (
                "-1 block (a idle for 130 s; 120 s are allowed): 0 waiting slots, "
                "2 blocks of 32 slots, 1 of them coming, parallelism 1"
            ),
        ),
        (
            {"max": 1},
            {"a": BUSY},
            {"queued": 340, "running": 32},
            "no change: 340 waiting slots, 32 taken, 1 block of 32 slots, parallelism 1; max is 1",
        ),
    ],
)
def test_the_reason_has_the_numbers(
    limits: dict[str, float], blocks: dict[str, BlockView], load: dict[str, int], reason: str
) -> None:
    assert decide(blocks, settings(**limits), **load).reason == reason


# -- properties ---------------------------------------------------------------------------------------------

views = st.builds(
    block,
    st.sampled_from(NOT_ENDED),
    managers=st.integers(0, 2),
    running=st.sampled_from([0, 0, 1, 7]),
    idle_for=st.sampled_from([0.0, 60.0, 119.9, 120.0, 500.0]),
    draining=st.booleans(),
)


@st.composite
def states(draw: st.DrawFn) -> ScalingState:
    most = draw(st.integers(1, 8))
    least = draw(st.integers(0, most))
    limits = settings(min=least, max=most, parallelism=draw(st.sampled_from([0.0, 0.1, 0.5, 1.0, 3.0])))
    blocks = draw(st.dictionaries(st.sampled_from("abcdefgh"), views, max_size=most))
    load = st.sampled_from([0, 0, 1, 2, 5, 40, 300])
    demand = ExecutorDemand(draw(load), draw(load), draw(st.integers(1, 40)), {})
    return ScalingState("htex", limits, demand, blocks, 1000.0)


def staying(state: ScalingState) -> dict[str, BlockView]:
    return {name: view for name, view in state.blocks.items() if not view.draining}


@UNHURRIED
@given(states())
def test_stays_within_min_and_max(state: ScalingState) -> None:
    decision = LoadScalingPolicy().decide(state)
    assert len(state.blocks) + decision.add <= state.settings.max
    room = state.settings.max - len(state.blocks)
    after = len(staying(state)) + decision.add - len(decision.drain)
    assert after >= state.settings.min or decision.add == room
    assert decision.add >= 0
    assert not (decision.add and decision.drain)
    assert decision.reason


@UNHURRIED
@given(states())
def test_gives_back_only_idle_blocks_that_nobody_could_use(state: ScalingState) -> None:
    decision = LoadScalingPolicy().decide(state)
    assert len(set(decision.drain)) == len(decision.drain)
    kept = [
        view.idle_for for name, view in state.blocks.items() if name not in decision.drain and _is_idle(view)
    ]
    for name in decision.drain:
        assert _is_idle(state.blocks[name])
        assert state.blocks[name].idle_for >= max(kept, default=0.0), "the longest idle goes first"
    if decision.drain:
        assert len(kept) * state.demand.slots_per_block >= state.demand.queued


def _is_idle(view: BlockView) -> bool:
    up = view.status.state is JobState.RUNNING and view.managers > 0
    return up and not view.draining and not view.running and view.idle_for >= 120


@UNHURRIED
@given(states(), st.sampled_from(ENDED))
def test_converges_in_one_step(state: ScalingState, ended: JobState) -> None:
    """The same load asks for nothing more, whatever becomes of the draining blocks."""
    policy = LoadScalingPolicy()
    first = policy.decide(state)
    added = {f"new{number}": PENDING for number in range(first.add)}
    drained = {name: state.blocks[name]._replace(draining=True) for name in first.drain}
    after = state._replace(blocks={**state.blocks, **added, **drained})
    second = policy.decide(after)
    assert (second.add, second.drain) == (0, ())
    if first.drain:
        gone = {name: view._replace(status=JobStatus(state=ended)) for name, view in drained.items()}
        third = policy.decide(state._replace(blocks={**after.blocks, **gone}))
        assert third.add <= len(state.blocks) - len(staying(state)), "no drained block is asked for again"


@UNHURRIED
@given(states())
def test_is_pure(state: ScalingState) -> None:
    before = dict(state.blocks)
    assert LoadScalingPolicy().decide(state) == LoadScalingPolicy().decide(state)
    assert state.blocks == before


# -- a simulation -------------------------------------------------------------------------------------------


@dataclass
class SimBlock:
    ready_at: float
    ends_at: list[float] = field(default_factory=list)
    idle_since: float = 0.0
    draining: bool = False


@dataclass
class Simulation:
    """Calls of one slot each, and blocks that are ready some time after they are asked for."""

    limits: Blocks
    slots: int = 4
    queue_time: float = 90.0
    now: float = 0.0
    waiting: int = 0
    duration: float = 30.0
    blocks: dict[str, SimBlock] = field(default_factory=dict)
    asked: int = 0
    history: list[tuple[float, int, int]] = field(default_factory=list)

    def step(self, seconds: float = 5.0) -> None:
        self.now += seconds
        for sim in self.up():
            sim.ends_at, busy = [end for end in sim.ends_at if end > self.now], bool(sim.ends_at)
            if busy and not sim.ends_at:
                sim.idle_since = self.now
            while self.waiting and not sim.draining and len(sim.ends_at) < self.slots:
                sim.ends_at.append(self.now + self.duration)
                self.waiting -= 1
        self._scale()

    def up(self) -> Iterator[SimBlock]:
        return (sim for sim in self.blocks.values() if sim.ready_at <= self.now)

    def _scale(self) -> None:
        running = sum(len(sim.ends_at) for sim in self.blocks.values())
        demand = ExecutorDemand(self.waiting, running, self.slots, {})
        views = {name: self._view(sim) for name, sim in self.blocks.items()}
        decision = LoadScalingPolicy().decide(ScalingState("sim", self.limits, demand, views, self.now))
        for _ in range(decision.add):
            self.asked += 1
            ready_at = self.now + self.queue_time
            self.blocks[f"b{self.asked}"] = SimBlock(ready_at, idle_since=ready_at)
        for name in decision.drain:
            assert not self.blocks[name].ends_at, "a busy block was given back"
            del self.blocks[name]
        if decision.add or decision.drain:
            self.history.append((self.now, decision.add, len(decision.drain)))
        assert self.limits.min <= len(self.blocks) <= self.limits.max

    def _view(self, sim: SimBlock) -> BlockView:
        if sim.ready_at > self.now:
            return PENDING
        idle_for = 0.0 if sim.ends_at else self.now - sim.idle_since
        return block(running=len(sim.ends_at), idle_for=idle_for, draining=sim.draining)


def test_a_burst_gets_its_blocks_once_and_they_go_when_it_is_over() -> None:
    sim = Simulation(settings(min=0, max=10))
    sim.waiting = 400
    while sim.waiting or any(b.ends_at for b in sim.blocks.values()):
        sim.step()
        assert sim.now < 10_000
    assert [(add, drained) for _, add, drained in sim.history] == [(10, 0)]
    for _ in range(100):
        sim.step()
    assert not sim.blocks
    assert sim.asked == 10


def test_a_steady_load_does_not_oscillate() -> None:
    """8 calls of 30 s come every 30 s, which keeps 2 blocks of 4 busy."""
    sim = Simulation(settings(min=1, max=10))
    for step in range(5000):
        if step % 6 == 0:
            sim.waiting += 8
        sim.step()
    late = [entry for entry in sim.history if entry[0] > 3000]
    assert late == [], "after it has settled, nothing changes"
    assert len(sim.blocks) >= 2


@pytest.mark.parametrize("gap", [10, 60, 119])
def test_pauses_shorter_than_the_idle_timeout_cost_no_block(gap: float) -> None:
    sim = Simulation(settings(min=0, max=4), queue_time=0.0)
    for _ in range(50):
        sim.waiting += 16
        for _ in range(math.ceil((30 + gap) / 5)):
            sim.step()
    assert [(add, drained) for _, add, drained in sim.history] == [(4, 0)]


@hypothesis.settings(UNHURRIED, max_examples=40)
@given(
    st.lists(st.tuples(st.integers(0, 60), st.integers(1, 60)), max_size=20),
    st.integers(0, 3),
    st.integers(1, 5),
    st.sampled_from([0.0, 20.0, 600.0]),
)
def test_any_trace_is_worked_off_and_ends_at_min(
    trace: list[tuple[int, int]], least: int, more: int, queue_time: float
) -> None:
    sim = Simulation(settings(min=least, max=least + more), queue_time=queue_time)
    for calls, steps in trace:
        sim.waiting += calls
        for _ in range(steps):
            sim.step()
    while (sim.waiting or len(sim.blocks) != least) and sim.now < 20_000:
        sim.step(20)
    assert sim.waiting == 0
    assert len(sim.blocks) == least


def test_settings_at_the_start_are_a_higher_min() -> None:
    """How the scaler asks for ``init`` blocks at the start: nothing else is needed of a policy."""
    limits = settings(min=0, init=3, max=5)
    assert decide({}, replace(limits, min=limits.init)).add == 3
    assert decide(dict.fromkeys("abc", PENDING), limits) == ScalingDecision(
        reason="no change: 0 waiting slots, 3 blocks of 32 slots, 3 of them coming, parallelism 1"
    )
