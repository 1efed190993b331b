"""The scaler's thread: it wakes, it never hurries, and it ends in time, whatever a provider does."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from weft_core.scaler import Scaler, ScalerLimits
from weft_core.scaling import LoadScalingPolicy
from weft_interfaces import (
    Blocks,
    Call,
    Event,
    JobId,
    JobSpec,
    JobStatus,
    ProviderError,
    ScalingDecision,
    ScalingState,
)
from weft_interfaces.memory import InMemoryBlockExecutor, InMemoryProvider, RecordingContext

LIMITS = ScalerLimits(spacing=0.001)
LONG = 3600.0


class World:
    """What happens in a test, to wait for."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.events: list[Event] = []

    def emit(self, events: Sequence[Event]) -> None:
        with self.changed:
            self.events += events
            self.changed.notify_all()

    def until(self, predicate: Callable[[], object], timeout: float = 20.0) -> None:
        with self.changed:
            assert self.changed.wait_for(predicate, timeout), "it did not happen"

    def happened(self) -> None:
        with self.changed:
            self.changed.notify_all()


class Provider(InMemoryProvider):
    """Hangs in the calls named by ``hangs_in``, until ``let_go``."""

    def __init__(self, world: World, poll_interval: float = LONG, hangs_in: str = "") -> None:
        super().__init__(queue_time=None)
        self.poll_interval = poll_interval
        self.hangs_in = hangs_in
        self.calls: list[str] = []
        self.cancelled: list[JobId] = []
        self.threads: set[str] = set()
        self.inside = 0
        self.overlaps = 0
        self.closed = False
        self._world = world
        self._gate = threading.Event()

    def let_go(self) -> None:
        self.hangs_in = ""
        self._gate.set()

    def _pass(self, name: str) -> None:
        with self._world.changed:
            self.inside += 1
            self.overlaps += self.inside > 1
            self.threads.add(threading.current_thread().name)
            self.calls.append(name)
            self._world.changed.notify_all()
        if name == self.hangs_in:
            assert self._gate.wait(60)
        with self._world.changed:
            self.inside -= 1

    def submit(self, spec: JobSpec) -> JobId:
        self._pass("submit")
        return super().submit(spec)

    def status(self, ids: Sequence[JobId]) -> Mapping[JobId, JobStatus]:
        self._pass("status")
        return super().status(ids)

    def cancel(self, ids: Sequence[JobId]) -> None:
        self._pass("cancel")
        super().cancel(ids)
        self.cancelled += ids
        self._world.happened()

    def close(self) -> None:
        self._pass("close")
        self.closed = True
        self._world.happened()


class Executor(InMemoryBlockExecutor):
    def __init__(self, world: World, provider: Provider, label: str = "htex", **blocks: Any) -> None:
        super().__init__(Blocks(provider=provider, **{"init": 1, "max": 4, **blocks}), label, hold=True)
        self.ended: list[str] = []
        self._world = world

    def block_ended(self, block_id: str, status: JobStatus) -> None:
        self.ended.append(block_id)
        super().block_ended(block_id, status)
        self._world.happened()


MakeScaler = Callable[..., Scaler]


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def start(world: World, tmp_path: Path) -> Iterator[MakeScaler]:
    """Start a scaler; in the end no thread of it may be left, and each block was told to have ended, once."""
    scalers: list[tuple[Scaler, Sequence[Executor]]] = []

    def start(*executors: Executor, **options: Any) -> Scaler:
        for executor in executors:
            executor.start(RecordingContext(tmp_path))
        options = {"limits": LIMITS, "emit": world.emit, **options}
        scaler = Scaler(executors, run_id=f"r{len(scalers)}", directory="/d", **options)
        scaler.start()
        scalers.append((scaler, executors))
        return scaler

    yield start
    for scaler, executors in scalers:
        for executor in executors:
            executor.blocks.provider.let_go()  # type: ignore[attr-defined]
        scaler.close()
    for thread in threading.enumerate():
        if thread.name.startswith("weft-scaler"):
            thread.join(10)
            assert not thread.is_alive(), f"{thread.name} is left"
    for _, executors in scalers:
        for executor in executors:
            provider = executor.blocks.provider
            assert isinstance(provider, Provider)
            assert not provider.overlaps, "a provider has one caller at a time"
            assert provider.find("") == {}, "a job is left"
            assert len(executor.ended) == len(set(executor.ended))
            assert provider.calls.count("close") == 1


def closed_within(scaler: Scaler, timeout: float) -> list[str]:
    begin = time.monotonic()
    leftovers = scaler.close(timeout)
    assert time.monotonic() - begin < timeout + 0.5
    return leftovers


# -- waking -------------------------------------------------------------------------------------------------


def test_first_blocks_are_asked_for_at_once(world: World, start: MakeScaler) -> None:
    provider = Provider(world)
    scaler = start(Executor(world, provider, init=2))
    world.until(lambda: provider.calls == ["submit", "submit"])
    assert provider.threads == {"weft-scaler-r0"}
    world.until(lambda: scaler.delay() > LONG / 2)


def test_a_wake_up_is_enough_for_more_blocks(world: World, start: MakeScaler) -> None:
    provider = Provider(world)
    executor = Executor(world, provider)
    scaler = start(executor)
    world.until(lambda: len(provider.specs) == 1)
    executor.submit([Call(number, print) for number in range(3)])
    scaler.wake()
    world.until(lambda: len(provider.specs) == 3)


def test_no_wake_up_is_lost(world: World, start: MakeScaler) -> None:
    """Each of many calls comes from a thread of its own and wakes once; with no poll, each must be seen."""
    provider = Provider(world)
    executor = Executor(world, provider, init=0, max=50)
    scaler = start(executor)

    def submit(number: int) -> None:
        executor.submit([Call(number, print)])
        scaler.wake()

    for wave in range(10):
        threads = [threading.Thread(target=submit, args=(wave * 5 + number,)) for number in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        world.until(lambda: len(provider.specs) == 5 * (wave + 1))  # noqa: B023 - it is called in this round


def test_many_wake_ups_are_few_ticks(world: World, start: MakeScaler) -> None:
    decisions = itertools.count()

    class Counting(LoadScalingPolicy):
        def decide(self, state: ScalingState) -> ScalingDecision:
            next(decisions)
            return super().decide(state)

    provider = Provider(world)
    scaler = start(Executor(world, provider), policy=Counting(), limits=ScalerLimits(spacing=0.05))
    world.until(lambda: provider.calls)
    begin = time.monotonic()
    while time.monotonic() - begin < 0.5:
        scaler.wake()
    took = time.monotonic() - begin
    assert next(decisions) <= took / 0.05 + 3


def test_statuses_are_asked_for_at_the_poll_interval(world: World, start: MakeScaler) -> None:
    provider = Provider(world, poll_interval=0.02)
    executor = Executor(world, provider, register_timeout=LONG)
    start(executor)
    world.until(lambda: len(provider.specs) == 1)
    (job,) = provider.specs
    provider.start(job)
    world.until(lambda: "block.registered" in [event.kind for event in world.events])
    provider.end(job)
    world.until(lambda: executor.ended == [provider.specs[job].id])


def test_without_executors_there_is_no_thread() -> None:
    scaler = Scaler([], emit=lambda events: None, run_id="nobody", directory="/d")
    scaler.start()
    assert not [t for t in threading.enumerate() if t.name == "weft-scaler-nobody"]
    assert scaler.close() == []


def test_the_thread_outlives_what_breaks(world: World, start: MakeScaler, caplog: Any) -> None:
    """Even an ``emit`` that raises, which is against its promise, does not end the thread."""
    provider = Provider(world)
    broken = True

    def emit(events: Sequence[Event]) -> None:
        if broken:
            world.happened()
            raise ZeroDivisionError("emit")
        world.emit(events)

    executor = Executor(world, provider, init=0)
    scaler = start(executor, emit=emit)
    executor.submit([Call(1, print)])
    scaler.wake()
    world.until(lambda: "failed" in caplog.text)
    broken = False
    scaler.wake()
    world.until(lambda: provider.specs)


# -- closing ------------------------------------------------------------------------------------------------


def test_close_cancels_and_ends_the_thread(world: World, start: MakeScaler) -> None:
    provider = Provider(world)
    executor = Executor(world, provider, init=3)
    scaler = start(executor)
    world.until(lambda: len(provider.specs) == 3)
    assert closed_within(scaler, 10.0) == []
    assert sorted(provider.cancelled) == sorted(provider.specs)
    assert len(executor.ended) == 3
    assert provider.closed
    assert not [t for t in threading.enumerate() if t.name.startswith("weft-scaler")]


def test_close_right_after_start(world: World, start: MakeScaler) -> None:
    provider = Provider(world)
    executor = Executor(world, provider, init=4)
    scaler = start(executor)
    assert closed_within(scaler, 10.0) == []
    assert sorted(provider.cancelled) == sorted(provider.specs)


@pytest.mark.parametrize("hangs_in", ["submit", "status", "cancel", "close"])
def test_close_keeps_its_deadline_while_the_provider_hangs(
    world: World, start: MakeScaler, hangs_in: str
) -> None:
    provider = Provider(world, poll_interval=0.001, hangs_in=hangs_in)
    executor = Executor(world, provider)
    scaler = start(executor)
    world.until(lambda: (hangs_in if hangs_in in ("submit", "status") else "submit") in provider.calls)
    if hangs_in != "submit":
        world.until(lambda: scaler.view()[0].jobs)
    leftovers = closed_within(scaler, 0.5)
    what = {
        "submit": "the submission of block r0-htex-1",
        "status": "a status query",
        "cancel": "the cancellation of 1 jobs",
        "close": "close()",
    }
    assert f"has not answered {what[hangs_in]} for" in leftovers[0]
    assert "'r0'" in leftovers[0], "the tag, to find its jobs by"
    assert executor.ended == ["r0-htex-1"]
    told = len(world.events)

    provider.let_go()
    world.until(lambda: provider.closed)
    assert provider.cancelled == list(provider.specs), "what a late call brought is cancelled too"
    assert len(world.events) == told, "nothing is emitted after close has returned"
    assert executor.ended == ["r0-htex-1"]


def test_a_provider_that_hangs_keeps_no_other_from_being_cleaned_up(world: World, start: MakeScaler) -> None:
    good, bad = Provider(world), Provider(world)
    scaler = start(Executor(world, bad, "bad"), Executor(world, good, "good"))
    world.until(lambda: good.specs and bad.specs)
    bad.hangs_in = "cancel"
    leftovers = closed_within(scaler, 0.5)
    assert good.cancelled == list(good.specs)
    assert good.closed
    assert any("has not answered the cancellation" in words for words in leftovers)
    assert any("bad" in words for words in leftovers)
    assert not any("good" in words for words in leftovers)


def test_close_interrupts_a_long_row_of_submissions(world: World, start: MakeScaler) -> None:
    provider = Provider(world, hangs_in="submit")
    executor = Executor(world, provider, init=50, max=50)
    scaler = start(executor)
    world.until(lambda: provider.calls)
    closer = threading.Thread(target=scaler.close, args=(10.0,))
    closer.start()
    world.until(lambda: scaler._closing)
    provider.let_go()
    closer.join(10)
    assert provider.calls.count("submit") == 1
    assert provider.cancelled == list(provider.specs)


def test_a_refused_cancellation_is_tried_again_until_it_works(
    world: World, start: MakeScaler, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = Provider(world)
    scaler = start(Executor(world, provider))
    world.until(lambda: provider.specs)
    tries = itertools.count(1)
    cancel = provider.cancel

    def sometimes(ids: Sequence[JobId]) -> None:
        if next(tries) < 3:
            raise ProviderError("busy")
        cancel(ids)

    monkeypatch.setattr(provider, "cancel", sometimes)
    assert closed_within(scaler, 5.0) == []
    assert provider.cancelled == list(provider.specs)


def test_a_close_that_was_interrupted_goes_on_in_the_next(
    world: World, start: MakeScaler, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = Provider(world)
    executor = Executor(world, provider)
    scaler = start(executor)
    world.until(lambda: provider.specs)
    provider.hangs_in = "cancel"
    with monkeypatch.context() as patch:
        patch.setattr(scaler, "_report_closed", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            scaler.close(0.2)
    assert executor.ended == []
    provider.let_go()
    assert closed_within(scaler, 5.0) == []
    assert executor.ended == ["r0-htex-1"]
    assert provider.cancelled == list(provider.specs)


def _interrupt() -> None:
    raise KeyboardInterrupt


def test_everything_at_once(world: World, start: MakeScaler) -> None:
    """Calls, wake-ups, views, jobs that start, end and fail, from many threads, and a close in the middle."""
    providers = [Provider(world, poll_interval=0.001) for _ in range(2)]
    executors = [
        Executor(world, provider, f"x{n}", max=6, idle_timeout=0.002, register_timeout=0.01)
        for n, provider in enumerate(providers)
    ]
    scaler = start(*executors, limits=ScalerLimits(spacing=0.001, drain_grace=0.0, failures=10**6))
    stop = threading.Event()

    def submit_and_look() -> None:
        for number in itertools.count():
            if stop.is_set():
                return
            executors[number % 2].submit([Call(id(threading.current_thread()) * 10**6 + number, print)])
            scaler.wake()
            scaler.view()
            scaler.describe()
            _begin_and_complete(executors[number % 2])

    def be_the_site(provider: Provider, executor: Executor) -> None:
        for number in itertools.count():
            if stop.is_set():
                return
            for job, spec in list(provider.specs.items())[-6:]:
                provider.start(job)
                if number % 3:
                    executor.register(spec.id)
                if number % 5 == 0:
                    provider.end(job)
            stop.wait(0.001)

    threads = [threading.Thread(target=submit_and_look)]
    sites = zip(providers, executors, strict=True)
    threads += [threading.Thread(target=be_the_site, args=site) for site in sites]
    for thread in threads:
        thread.start()
    world.until(lambda: all(len(provider.specs) > 20 for provider in providers))
    leftovers = closed_within(scaler, 10.0)
    stop.set()
    for thread in threads:
        thread.join()
    assert leftovers == []
    for provider, executor in zip(providers, executors, strict=True):
        assert {spec.id for spec in provider.specs.values()} <= set(executor.ended)


def _begin_and_complete(executor: Executor) -> None:
    for call_id in list(executor.running())[:2]:
        try:
            executor.complete(call_id)
        except AssertionError:
            continue  # its block has just ended, and the call with it
