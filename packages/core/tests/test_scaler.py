"""The scaler, by ticks, with a batch system and executors in memory and a clock that the test advances."""

from __future__ import annotations

import gc
import itertools
import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from weft_core.scaler import Scaler, ScalerLimits
from weft_core.scaling import LoadScalingPolicy
from weft_interfaces import (
    BlockExecutor,
    BlockLostError,
    Blocks,
    Call,
    ConfigError,
    Event,
    JobId,
    JobSpec,
    JobState,
    JobStatus,
    NoBlocksError,
    ProviderError,
    ScalingDecision,
    ScalingState,
)
from weft_interfaces.memory import (
    InMemoryBlockExecutor,
    InMemoryChannel,
    InMemoryProvider,
    ManualClock,
    RecordingContext,
)

LIMITS = ScalerLimits(drain_grace=0.0)


class Provider(InMemoryProvider):
    """Whose jobs run without a manager, unless a test brings one up; counts what it is asked."""

    poll_interval = 10.0

    def __init__(self, clock: ManualClock, queue_time: float | None = None) -> None:
        super().__init__(clock=clock, queue_time=queue_time, programs={"weft-memory-manager": _no_manager})
        self.calls: list[str] = []
        self.submits: list[JobSpec] = []
        self.cancelled: list[JobId] = []
        self.error: Exception | None = None
        self.cancel_error: Exception | None = None
        self.closed = 0

    def submit(self, spec: JobSpec) -> JobId:
        self.calls.append("submit")
        self.submits.append(spec)
        if self.error is not None:
            raise self.error
        return super().submit(spec)

    def status(self, ids: Sequence[JobId]) -> Mapping[JobId, JobStatus]:
        self.calls.append("status")
        return super().status(ids)

    def cancel(self, ids: Sequence[JobId]) -> None:
        self.calls.append("cancel")
        if self.cancel_error is not None:
            raise self.cancel_error
        self.cancelled += ids
        super().cancel(ids)

    def close(self) -> None:
        self.closed += 1


def _no_manager(arguments: Sequence[str]) -> Any:
    from weft_interfaces.memory import ProgramEnd

    return ProgramEnd()


class Executor(InMemoryBlockExecutor):
    """Remembers what the scaler tells it."""

    def __init__(self, blocks: Blocks, label: str, clock: ManualClock, slots: int) -> None:
        super().__init__(blocks, label, hold=True, clock=clock, slots_per_manager=slots)
        self.ended: list[tuple[str, JobStatus]] = []
        self.drained: list[str] = []
        self.hopeless: list[str] = []

    def block_ended(self, block_id: str, status: JobStatus) -> None:
        self.ended.append((block_id, status))
        super().block_ended(block_id, status)

    def drain(self, block_ids: Collection[str]) -> None:
        self.drained += block_ids
        super().drain(block_ids)

    def no_more_blocks(self, reason: str) -> None:
        self.hopeless.append(reason)
        super().no_more_blocks(reason)


class Rig:
    """A scaler for one executor (or more), and what happened."""

    def __init__(
        self,
        tmp_path: Path,
        *,
        slots: int = 4,
        queue_time: float | None = None,
        policy: Any = None,
        limits: ScalerLimits = LIMITS,
        labels: Sequence[str] = ("htex",),
        tag: str | None = None,
        provider_type: Callable[..., Any] = Provider,
        directory: str = "/scratch/run1",
        **blocks: Any,
    ) -> None:
        self.clock = ManualClock()
        self.provider = provider_type(self.clock, queue_time)
        settings = Blocks(provider=self.provider, **{"init": 0, "max": 4, **blocks})
        self.executors = [Executor(settings, label, self.clock, slots) for label in labels]
        self.executor = self.executors[0]
        self.context = RecordingContext(tmp_path)
        for executor in self.executors:
            executor.start(self.context)
        self.events: list[Event] = []
        self.new_scaler = partial(
            Scaler,
            self.executors,
            emit=self.events.extend,
            run_id="run1",
            directory=directory,
            tag=tag,
            policy=policy,
            limits=limits,
            clock=self.clock,
        )
        self.scaler = self.new_scaler()
        self._ids = itertools.count(1)

    def submit(self, count: int, executor: Executor | None = None) -> list[int]:
        calls = [Call(next(self._ids), print) for _ in range(count)]
        (executor or self.executor).submit(calls)
        return [call.id for call in calls]

    def tick(self, seconds: float = 0.0) -> None:
        self.provider.advance(seconds)
        self.scaler.tick()

    def ticks(self, count: int, seconds: float = 10.0) -> None:
        for _ in range(count):
            self.tick(seconds)

    def adopt(self) -> None:
        """The scaler is gone, with the process that it was in; the next one gets its jobs."""
        self.events.clear()
        self.scaler = self.new_scaler(first=10_001, adopt=self.provider.find_specs("run1"))

    def bring_up(self, count: int = 1) -> list[str]:
        """So many waiting jobs start, and their managers register."""
        waiting = [
            i for i, s in self.provider.status(list(self.provider.specs)).items() if not s.state.terminal
        ]
        blocks: list[str] = []
        for job in waiting:
            block_id = self.provider.specs[job].id
            if len(blocks) < count and block_id not in self.executor.demand().blocks:
                self.provider.start(job)
                self.executor.register(block_id)
                blocks.append(block_id)
        self.tick(10)
        return blocks

    def job(self, block_id: str) -> JobId:
        return next(job for job, spec in self.provider.specs.items() if spec.id == block_id)

    def kinds(self, of: str = "") -> list[str]:
        return [e.kind for e in self.events if not of or e.data.get("block") == of]

    def last(self, kind: str) -> Mapping[str, Any]:
        return next(event.data for event in reversed(self.events) if event.kind == kind)

    def reasons(self) -> list[str]:
        return [status.reason for _, status in self.executor.ended]


MakeRig = Callable[..., Rig]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[MakeRig]:
    rigs: list[Rig] = []

    def make(**options: Any) -> Rig:
        rigs.append(Rig(tmp_path, **options))
        return rigs[-1]

    yield make
    for rig in rigs:
        rig.provider.cancel_error = None
        rig.scaler.close(5.0)
        ended = [block_id for executor in rig.executors for block_id, _ in executor.ended]
        assert len(ended) == len(set(ended)), "each block's end is told once"
        assert {spec.id for spec in rig.provider.specs.values()} <= set(ended), "each block's end is told"
        assert len(ended) == len([e for e in rig.events if e.kind == "block.ended"])
        assert all(s.state.terminal for s in rig.provider.status(list(rig.provider.specs)).values()), (
            "no job is left"
        )
        json.dumps([dict(event.data) for event in rig.events])


# -- asking -------------------------------------------------------------------------------------------------


def test_first_blocks_are_asked_for_in_the_first_tick(make: MakeRig) -> None:
    rig = make(init=2, max=4)
    rig.tick()
    assert rig.provider.calls == ["submit", "submit"]
    rig.tick()
    assert rig.provider.calls == ["submit", "submit", "status"]


class Arrays(Provider):
    """Takes three jobs at once."""

    array_size = 3

    def __init__(self, clock: ManualClock, queue_time: float | None = None) -> None:
        super().__init__(clock, queue_time)
        self.arrays: list[list[str]] = []

    def submit_array(self, specs: Sequence[JobSpec]) -> Mapping[str, JobId]:
        self.arrays.append([spec.id[-1] for spec in specs])
        if self.error is not None:
            raise self.error
        return {spec.id: InMemoryProvider.submit(self, spec) for spec in specs}


def test_blocks_are_asked_for_together_where_the_batch_system_takes_them_so(make: MakeRig) -> None:
    rig = make(init=7, max=7, provider_type=Arrays)
    rig.tick()
    assert rig.provider.arrays == [["1", "2", "3"], ["4", "5", "6"]]
    assert [spec.id[-1] for spec in rig.provider.submits] == ["7"]
    assert len([event for event in rig.events if event.kind == "block.requested"]) == 7
    assert len(rig.scaler.view()[0].jobs) == 7


def test_blocks_that_are_refused_together_are_tried_again_together(make: MakeRig) -> None:
    rig = make(init=3, max=3, provider_type=Arrays)
    rig.provider.error = ProviderError("QOSMaxSubmitJobPerUserLimit")
    rig.ticks(3, 1.0)
    rig.provider.error = None
    rig.ticks(10, 1.0)
    assert rig.provider.arrays == [["1", "2", "3"]] * 3
    refused = [event.data for event in rig.events if event.kind == "block.refused"]
    assert [data["retry_in"] for data in refused] == [1.0] * 3 + [2.0] * 3
    assert len(rig.scaler.view()[0].jobs) == 3


def test_what_blocks_that_ended_alike_have_left_is_said_once(make: MakeRig) -> None:
    rig = make(max=1)
    rig.submit(1)
    for number in range(1, 20):
        rig.tick(10)
        for job, status in rig.provider.status(list(rig.provider.specs)).items():
            if not status.state.terminal:
                rig.provider.start(job)
                rig.provider.end(
                    job, JobState.FAILED, "odd" if number == 2 else "no python", 127, "not found"
                )
    (reason,) = rig.executor.hopeless
    lines = reason.splitlines()
    assert lines[1] == "block run1-htex-1 and run1-htex-3: failed, exit code 127: no python"
    assert reason.count("no python") == reason.count("odd") == 1


def test_blocks_that_are_refused_for_good_end_together(make: MakeRig) -> None:
    rig = make(init=3, max=3, provider_type=Arrays)
    rig.provider.error = ConfigError("no such partition")
    rig.ticks(3, 1.0)
    assert rig.provider.arrays == [["1", "2", "3"]]
    assert len(rig.executor.ended) == 3
    (reason,) = rig.executor.hopeless
    assert reason == "3 blocks, run1-htex-1 to run1-htex-3, were refused for good: no such partition"


def test_the_job_is_what_launcher_and_executor_say(make: MakeRig) -> None:
    class Srun:
        def wrap(self, command: Sequence[str], shape: Any) -> list[str]:
            return ["srun", f"--nodes={shape.nodes}", *command]

    rig = make(init=1, launcher=Srun(), nodes=3, cpus=8, memory="4GB", walltime="1h")
    rig.tick()
    (spec,) = rig.provider.submits
    assert spec.id == "run1-htex-1"
    assert spec.name == "weft-htex-1"
    assert spec.tag == "run1"
    assert spec.directory == "/scratch/run1"
    assert spec.command[:2] == ["srun", "--nodes=3"]
    assert spec.command[2:] == list(rig.executor.command(spec.id).argv)
    assert spec.shape == rig.executor.blocks.shape
    assert spec.environment == {"WEFT_BLOCK_ID": "run1-htex-1", "WEFT_RUN_ID": "run1"}


def test_the_files_of_jobs_elsewhere_are_below_the_home_of_that_place(make: MakeRig) -> None:
    rig = make(init=1)
    rig.provider.channel = InMemoryChannel()
    rig.tick()
    (spec,) = rig.provider.submits
    assert spec.directory == ".weft/runs/run1/htex"


def test_files_elsewhere_are_removed_in_the_end_and_the_output_of_failed_blocks_is_kept(
    make: MakeRig, tmp_path: Path
) -> None:
    rig = make(init=4, max=4, directory=str(tmp_path / "blocks"))
    rig.provider.channel = InMemoryChannel()
    rig.tick()
    rig.bring_up()
    failed, mute, waiting = (f"run1-htex-{number}" for number in (2, 3, 4))
    rig.provider.outputs = {block: block.encode() for block in ("run1-htex-1", failed, mute, waiting)}
    rig.provider.end(rig.job(failed), JobState.FAILED, exit_code=3)
    rig.provider.start(rig.job(mute))
    rig.ticks(2)
    assert rig.provider.removed == []
    assert rig.scaler.close() == []
    assert rig.provider.removed == [".weft/runs/run1/htex"]
    kept = {path.name: path.read_text() for path in (tmp_path / "blocks").iterdir()}
    assert kept == {f"{failed}.err": failed, f"{mute}.err": mute}


def test_files_elsewhere_stay_where_a_job_may_be_left(make: MakeRig) -> None:
    rig = make(init=1)
    rig.provider.channel = InMemoryChannel()
    rig.tick()
    rig.provider.cancel_error = ProviderError("scancel: no route to host")
    assert len(rig.scaler.close(0.5)) == 1
    assert rig.provider.removed == []
    rig.provider.cancel_error = None
    InMemoryProvider.cancel(rig.provider, list(rig.provider.specs))


def test_files_elsewhere_that_cannot_be_removed_are_a_leftover(
    make: MakeRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = make(init=1)
    rig.provider.channel = InMemoryChannel()
    rig.tick()
    monkeypatch.setattr(rig.provider, "remove_files", _raise(ProviderError("no permission")))
    (words,) = rig.scaler.close()
    assert words == "provider Provider could not remove its jobs' files: ProviderError: no permission"


@pytest.mark.parametrize("far", [False, True])
def test_no_file_is_removed_of_a_run_on_this_machine_or_without_jobs(make: MakeRig, far: bool) -> None:
    rig = make(init=0 if far else 1)
    if far:
        rig.provider.channel = InMemoryChannel()
    rig.tick()
    assert rig.scaler.close() == []
    assert rig.provider.removed == []


def test_the_tag_begins_the_ids_when_it_is_given(make: MakeRig) -> None:
    rig = make(init=1, tag="ana-4711", labels=("gpu",))
    rig.tick()
    assert [(spec.id, spec.tag) for spec in rig.provider.submits] == [("ana-4711-gpu-1", "ana-4711")]


def test_asks_for_what_calls_want_and_not_twice(make: MakeRig) -> None:
    rig = make(slots=4, max=4)
    rig.submit(9)
    rig.ticks(20)
    assert rig.provider.calls.count("submit") == 3
    decisions = [event.data for event in rig.events if event.kind == "scaling.decision"]
    assert [(d["add"], d["drain"], d["queued"]) for d in decisions] == [(3, [], 9)]
    assert decisions[0]["reason"] == "+3 blocks: 9 waiting slots, 0 blocks of 4 slots, parallelism 1"


def test_the_life_of_a_block_in_events(make: MakeRig) -> None:
    rig = make(nodes=2, slots=4, idle_timeout=60)
    (call,) = rig.submit(1)
    rig.tick()
    rig.provider.hold(rig.job("run1-htex-1"), "JobHeldUser")
    rig.tick(10)
    rig.provider.release(rig.job("run1-htex-1"))
    rig.tick(10)
    rig.bring_up()
    rig.executor.register("run1-htex-1")
    rig.tick()
    rig.executor.complete(call)
    rig.tick(60)
    rig.tick(10)
    rig.tick(10)
    assert rig.kinds("run1-htex-1") == [
        "block.requested",
        "block.held",
        "block.pending",
        "block.running",
        "block.registered",
        "block.registered",
        "block.draining",
        "block.cancelling",
        "block.ended",
    ]
    assert all(event.source == "htex" for event in rig.events)
    assert rig.last("block.held")["reason"] == "JobHeldUser"
    assert rig.last("block.registered")["managers"] == 2
    assert rig.last("block.registered")["nodes"] == 2
    assert rig.last("block.ended")["reason"].startswith("given back after 60 s without a call")
    assert rig.executor.hopeless == [], "an executor without blocks may ask again"


def test_a_held_block_is_waited_for(make: MakeRig) -> None:
    rig = make(max=4)
    rig.submit(1)
    rig.tick()
    rig.provider.hold(rig.job("run1-htex-1"), "AssocMaxJobsLimit")
    rig.ticks(1000, 60)
    assert rig.provider.calls.count("submit") == 1
    assert rig.executor.ended == []
    assert "1 held (AssocMaxJobsLimit)" in rig.scaler.describe()[0]
    rig.provider.release(rig.job("run1-htex-1"))
    rig.bring_up()
    assert rig.executor.held == list(rig.executor.running())


def test_a_preempted_block_that_is_queued_again_is_waited_for(make: MakeRig) -> None:
    rig = make(register_timeout=30)
    rig.submit(1)
    rig.tick()
    rig.provider.start(rig.job("run1-htex-1"))
    rig.tick(10)
    rig.tick(20)
    rig.provider.preempt(rig.job("run1-htex-1"))
    rig.ticks(10)
    rig.provider.start(rig.job("run1-htex-1"))
    rig.tick(10)
    rig.tick(20)
    assert rig.executor.ended == [], "the time to register counts from the second start"
    rig.ticks(2)
    assert "block.unregistered" in rig.kinds()


# -- queries ------------------------------------------------------------------------------------------------


def test_queries_keep_the_poll_interval_however_often_it_is_woken(make: MakeRig) -> None:
    rig = make(init=1)
    for _ in range(1000):
        rig.tick(0.1)
    assert 9 <= rig.provider.queries <= 11


def test_nothing_is_queried_without_jobs(make: MakeRig) -> None:
    rig = make()
    rig.ticks(100)
    assert rig.provider.calls == []


def test_executors_that_share_a_provider_share_its_queries(make: MakeRig) -> None:
    rig = make(init=2, labels=("cpu", "gpu"))
    rig.ticks(10)
    assert rig.provider.queries == 9
    assert {spec.id for spec in rig.provider.submits} == {
        "run1-cpu-1",
        "run1-cpu-2",
        "run1-gpu-3",
        "run1-gpu-4",
    }


@pytest.mark.parametrize("how", ["says unknown", "raises", "leaves it out"])
def test_a_query_that_fails_ends_no_block(make: MakeRig, how: str) -> None:
    rig = make(register_timeout=60)
    rig.submit(1)
    rig.tick()
    rig.bring_up()
    if how == "says unknown":
        rig.provider.fail_queries(10_000, "slurmctld does not answer")
    elif how == "raises":
        rig.provider.status = _raise(ProviderError("slurmctld does not answer"))  # type: ignore[method-assign]
    else:
        rig.provider.status = lambda ids: {}  # type: ignore[method-assign]
    rig.ticks(500)
    assert rig.executor.ended == []
    assert rig.provider.calls.count("submit") == 1
    assert rig.kinds("run1-htex-1").count("block.unknown") == 1
    assert rig.last("block.unknown")["reason"]
    rig.provider._failures.clear()
    rig.provider.__dict__.pop("status", None)
    rig.ticks(10)
    assert rig.kinds("run1-htex-1")[-1] == "block.running"


def test_an_unknown_block_without_managers_is_not_diagnosed(make: MakeRig) -> None:
    rig = make(register_timeout=60, init=1)
    rig.tick()
    rig.provider.start(rig.job("run1-htex-1"))
    rig.tick(10)
    rig.provider.fail_queries(100)
    rig.ticks(50)
    assert "block.unregistered" not in rig.kinds()
    assert rig.executor.ended == []


def test_queries_that_fail_now_and_then_do_not_keep_a_block_from_being_diagnosed(make: MakeRig) -> None:
    rig = make(register_timeout=100, init=1)
    rig.tick()
    rig.provider.start(rig.job("run1-htex-1"))
    for _ in range(10):
        rig.ticks(6)
        rig.provider.fail_queries(1)
    assert "block.unregistered" in rig.kinds()


def test_a_batch_system_that_does_not_answer_is_asked_less_often(make: MakeRig) -> None:
    rig = make(init=1)
    rig.tick()
    rig.provider.fail_queries(10_000)
    rig.ticks(800, 1.0)
    assert rig.provider.queries <= 13
    rig.provider._failures.clear()
    before = rig.provider.queries
    rig.ticks(800, 1.0)
    assert rig.provider.queries - before >= 70


def _raise(error: Exception) -> Callable[..., Any]:
    def method(*_: object) -> Any:
        raise error

    return method


# -- giving back --------------------------------------------------------------------------------------------


def test_a_block_that_got_a_call_after_all_is_not_cancelled_before_it_is_done(make: MakeRig) -> None:
    class GivesBackEverything:
        def decide(self, state: ScalingState) -> ScalingDecision:
            up = tuple(name for name, view in state.blocks.items() if view.managers)
            return ScalingDecision(0 if state.blocks else state.demand.queued, up, "as the test says")

    rig = make(policy=GivesBackEverything())
    (call,) = rig.submit(1)
    rig.tick()
    (block_id,) = rig.bring_up()
    assert rig.executor.drained == [block_id], "draining is asked for once"
    rig.ticks(100)
    assert rig.executor.drained == [block_id]
    assert rig.provider.cancelled == []
    rig.executor.complete(call)
    rig.tick(10)
    assert rig.provider.cancelled == [rig.job(block_id)]
    rig.tick(10)
    assert [block for block, _ in rig.executor.ended] == [block_id]


def test_the_grace_between_draining_and_cancelling(make: MakeRig) -> None:
    rig = make(init=1, idle_timeout=30, limits=ScalerLimits(drain_grace=5.0))
    rig.tick()
    rig.bring_up()
    rig.tick(30)
    assert rig.executor.drained
    rig.tick(4.9)
    assert rig.provider.cancelled == []
    rig.tick(0.2)
    assert len(rig.provider.cancelled) == 1


def test_a_cancellation_that_is_refused_is_tried_again_with_pauses(make: MakeRig) -> None:
    rig = make(init=1, idle_timeout=30)
    rig.tick()
    rig.bring_up()
    rig.provider.cancel_error = ProviderError("scancel: timed out")
    rig.ticks(700, 1.0)
    tries = rig.provider.calls.count("cancel")
    assert 10 <= tries <= 20
    assert rig.executor.ended == []
    assert rig.last("block.cancelling")["refused"] == "ProviderError: scancel: timed out"
    rig.provider.cancel_error = None
    rig.ticks(100, 1.0)
    assert len(rig.executor.ended) == 1
    assert rig.provider.calls.count("cancel") == tries + 1


def test_a_job_that_ignores_its_cancellation_is_asked_again(make: MakeRig) -> None:
    rig = make(init=1, idle_timeout=30)
    rig.tick()
    rig.bring_up()
    rig.provider.cancel = lambda ids: rig.provider.calls.append("cancel")  # type: ignore[method-assign]
    rig.ticks(200, 1.0)
    assert 2 <= rig.provider.calls.count("cancel") <= 4
    del rig.provider.cancel


def test_a_block_whose_submission_is_being_refused_can_be_given_back(make: MakeRig) -> None:
    class ThinksBetterOfIt:
        def decide(self, state: ScalingState) -> ScalingDecision:
            return ScalingDecision(drain=tuple(state.blocks)) if state.blocks else ScalingDecision(add=1)

    rig = make(policy=ThinksBetterOfIt())
    rig.provider.refuse_submits(1)
    rig.tick()
    rig.tick()
    assert rig.executor.ended[0][0] == "run1-htex-1"
    assert rig.executor.drained == []
    assert rig.provider.cancelled == []


# -- blocks that are of no use ------------------------------------------------------------------------------


def test_a_block_whose_managers_never_register_is_diagnosed_with_its_stderr(make: MakeRig) -> None:
    rig = make(register_timeout=60, nodes=2, max=1)
    (call,) = rig.submit(1)
    rig.tick()
    job = rig.job("run1-htex-1")
    rig.provider.start(job)
    rig.provider.cancel = lambda ids: rig.provider.end(  # type: ignore[method-assign]
        ids[0], JobState.CANCELLED, "CANCELLED by 1000", 15, "bash: weft-manager: command not found\n"
    )
    rig.tick(10)
    rig.tick(59)
    assert "block.unregistered" not in rig.kinds()
    rig.tick(1)
    assert "block.unregistered" in rig.kinds()
    assert rig.executor.drained == ["run1-htex-1"]
    rig.tick(10)
    ((block_id, status),) = rig.executor.ended
    assert block_id == "run1-htex-1"
    assert status.state is JobState.FAILED
    assert status.stderr_tail == "bash: weft-manager: command not found\n"
    assert (
        "job memory-1 runs on node1, node2, but for 60 s not any of its 2 managers registered"
        in status.reason
    )
    assert "weft-memory-manager" in status.reason, "it says what was expected"
    assert "(the batch system says: CANCELLED by 1000)" in status.reason
    assert rig.executor.held == [call], "one such block is not the end: another is asked for"
    assert rig.provider.calls.count("submit") == 2
    del rig.provider.cancel


def test_a_diagnosed_block_whose_job_does_not_end_is_reported_without_its_stderr(make: MakeRig) -> None:
    rig = make(register_timeout=60, max=1, limits=ScalerLimits(post_mortem=30.0))
    rig.submit(1)
    rig.tick()
    rig.provider.start(rig.job("run1-htex-1"))
    rig.tick(10)
    rig.provider.cancel_error = ProviderError("no")
    rig.tick(60)
    rig.tick(29)
    assert rig.executor.ended == []
    rig.tick(1)
    assert [block_id for block_id, _ in rig.executor.ended] == ["run1-htex-1"]
    rig.ticks(20)
    assert rig.provider.calls.count("submit") == 1, "while its job may be there, another would be above max"
    rig.provider.cancel_error = None
    rig.ticks(20)
    assert rig.provider.calls.count("submit") == 2
    assert len(rig.executor.ended) == 1


def test_the_post_mortem_waits_for_two_queries_however_rare_they_are(make: MakeRig) -> None:
    rig = make(register_timeout=60, max=1, limits=ScalerLimits(post_mortem=1.0))
    rig.provider.poll_interval = 300.0
    rig.submit(1)
    rig.tick()
    rig.provider.start(rig.job("run1-htex-1"))
    rig.tick(1)
    rig.ticks(70)
    assert rig.executor.ended[0][1].reason.endswith("(the batch system says: CANCELLED by its owner)")


def test_a_block_whose_managers_are_all_gone_is_diagnosed_too(make: MakeRig) -> None:
    rig = make(register_timeout=60, init=1)
    rig.tick()
    (block_id,) = rig.bring_up()
    rig.executor._up.clear()
    rig.tick(10)
    assert rig.last("block.managers_left")["managers"] == 0
    rig.ticks(8)
    assert "was left of those that had registered" in rig.executor.ended[0][1].reason
    assert rig.executor.ended[0][0] == block_id


@pytest.mark.parametrize("state", [JobState.FAILED, JobState.GONE, JobState.COMPLETED, JobState.TIMEOUT])
def test_blocks_that_end_before_they_are_of_use_end_the_asking(make: MakeRig, state: JobState) -> None:
    rig = make(max=1)
    (call,) = rig.submit(1)
    for number in range(1, 20):
        rig.tick(10)
        for job, status in rig.provider.status(list(rig.provider.specs)).items():
            if not status.state.terminal:
                rig.provider.start(job)
                rig.provider.end(job, state, f"reason {number}", 127, "no such file")
    assert rig.provider.calls.count("submit") == 3
    assert rig.reasons() == ["reason 1", "reason 2", "reason 3"]
    (reason,) = rig.executor.hopeless
    assert reason.startswith("3 blocks in a row ended before they were of use")
    for number in (1, 2, 3):
        assert f"block run1-htex-{number}: {state.value}, exit code 127: reason {number}" in reason
    assert "no such file" in reason
    assert isinstance(rig.context.outcomes[call].error, ProviderError), "nothing waits for ever"
    assert rig.kinds()[-2:] == ["scaling.stopped", "scaling.no_more_blocks"]
    assert rig.scaler.view()[0].stopped == reason
    rig.submit(1)
    rig.ticks(1000, 60)
    assert rig.provider.calls.count("submit") == 3


def test_a_manager_that_registers_and_dies_at_once_is_no_proof(make: MakeRig) -> None:
    rig = make(max=1, slots=1, init=1, min=1)
    for _ in range(20):
        rig.tick(10)
        for block_id in rig.bring_up():
            rig.provider.end(rig.job(block_id), JobState.FAILED, "NODE_FAIL")
    assert rig.provider.calls.count("submit") == 3
    assert len(rig.executor.hopeless) == 1


@pytest.mark.parametrize("proof", ["a call", "a minute"])
def test_blocks_that_were_of_use_may_end_as_often_as_they_like(make: MakeRig, proof: str) -> None:
    rig = make(max=1, min=1, init=1)
    calls = rig.submit(200) if proof == "a call" else []
    for _ in range(20):
        rig.tick(10)
        (block_id,) = rig.bring_up()
        rig.tick(0 if proof == "a call" else 60)
        rig.provider.end(rig.job(block_id), JobState.TIMEOUT)
        rig.tick(10)
    assert rig.provider.calls.count("submit") == 21
    assert rig.executor.hopeless == []
    assert all(isinstance(rig.context.outcomes[i].error, BlockLostError) for i in calls[:20])


def test_two_failures_and_a_success_begin_the_count_anew(make: MakeRig) -> None:
    rig = make(max=1, slots=1)
    rig.submit(10)
    for _ in range(5):
        for _ in range(2):
            rig.tick(10)
            rig.provider.end(list(rig.provider.specs)[-1], JobState.FAILED)
            rig.tick(10)
        (block_id,) = rig.bring_up()
        rig.provider.end(rig.job(block_id), JobState.TIMEOUT)
        rig.tick(10)
    assert rig.executor.hopeless == []
    assert rig.scaler.view()[0].stopped == ""


def test_beside_a_block_that_works_one_more_is_tried_after_each_pause(make: MakeRig) -> None:
    rig = make(max=4, slots=1)
    rig.submit(4)
    rig.tick()
    (good,) = rig.bring_up()
    bad = [job for job in rig.provider.specs if job != rig.job(good)]
    for job in bad:
        rig.provider.end(job, JobState.FAILED, "bad node")
    rig.tick(10)
    assert rig.scaler.view()[0].stopped.startswith("3 blocks in a row")
    submits = []
    for second in range(0, 4000, 10):
        before = rig.provider.calls.count("submit")
        rig.tick(10)
        if rig.provider.calls.count("submit") > before:
            submits.append(second)
            rig.provider.end(list(rig.provider.specs)[-1], JobState.FAILED, "bad node")
    pauses = [round((b - a) / 60) for a, b in itertools.pairwise(submits)]
    assert pauses == [2, 4, 8, 16, 32][: len(pauses)]
    assert len(submits) >= 5
    assert rig.executor.hopeless == []
    rig.ticks(400, 10)
    rig.bring_up()
    rig.tick(10)
    assert rig.scaler.view()[0].stopped == "", "a block that works ends the matter"
    assert "scaling.resumed" in rig.kinds()
    rig.tick(10)
    assert len(rig.scaler.view()[0].blocks) == 4


def _stopped_beside_a_good_block(make: MakeRig) -> tuple[Rig, str, list[int]]:
    """Two calls: one runs in the good block, one waits."""
    rig = make(max=4, slots=1)
    calls = rig.submit(2)
    rig.tick()
    (good,) = rig.bring_up()
    for _ in range(3):
        rig.provider.end(list(rig.provider.specs)[-1], JobState.FAILED, "bad node")
        rig.tick(10)
    assert rig.scaler.view()[0].stopped
    return rig, good, calls


def test_only_one_block_is_tried_at_a_time(make: MakeRig) -> None:
    rig, _, _ = _stopped_beside_a_good_block(make)
    rig.submit(10)
    rig.ticks(500)
    assert rig.provider.calls.count("submit") == 5, "the one that is tried waits in the queue"


@pytest.mark.parametrize("pause", [0, 1000])
def test_when_the_last_working_block_ends_after_asking_stopped_nothing_waits(
    make: MakeRig, pause: float
) -> None:
    rig, good, calls = _stopped_beside_a_good_block(make)
    rig.executor.complete(calls[0])
    rig.tick(pause)
    calls += rig.submit(2)
    assert rig.executor.hopeless == []
    rig.provider.end(rig.job(good), JobState.TIMEOUT)
    rig.tick(10)
    assert len(rig.executor.hopeless) == 1
    assert set(rig.context.outcomes) == set(calls)


# -- refused submissions ------------------------------------------------------------------------------------


def test_a_refused_submission_is_tried_again_with_the_same_specification(make: MakeRig) -> None:
    rig = make(max=2, slots=1)
    rig.submit(2)
    rig.provider.refuse_submits(3, "QOSMaxSubmitJobPerUserLimit")
    rig.ticks(20, 1.0)
    assert [spec.id[-1] for spec in rig.provider.submits] == ["1", "1", "1", "1", "2"]
    assert len({id(spec) for spec in rig.provider.submits[:4]}) == 1
    refused = [event.data for event in rig.events if event.kind == "block.refused"]
    assert [data["retry_in"] for data in refused] == [1.0, 2.0, 4.0]
    assert refused[0]["reason"] == "ProviderError: QOSMaxSubmitJobPerUserLimit"
    assert len(rig.scaler.view()[0].jobs) == 2


def test_a_provider_that_refuses_for_long_ends_the_asking(make: MakeRig) -> None:
    rig = make(max=3, slots=1)
    calls = rig.submit(3)
    rig.provider.error = ProviderError("sbatch: error: Unable to contact slurm controller")
    for _ in range(1000):
        rig.tick(1)
    assert len(rig.provider.submits) <= 17
    (reason,) = rig.executor.hopeless
    assert "submissions in 6" in reason
    assert "Unable to contact slurm controller" in reason
    assert len(rig.executor.ended) == 3
    assert set(rig.context.outcomes) == set(calls)


def test_refusals_beside_a_block_that_is_there_are_waited_out(make: MakeRig) -> None:
    rig = make(max=2, slots=1)
    rig.submit(4)
    rig.tick()
    (first, _) = rig.bring_up(2)
    rig.provider.error = ProviderError("too many jobs")
    rig.provider.end(rig.job(first), JobState.TIMEOUT)
    rig.ticks(600, 10)
    assert rig.executor.hopeless == []
    assert len(rig.provider.submits) <= 115, "once a minute"
    rig.provider.error = None
    rig.ticks(7, 10)
    assert len(rig.scaler.view()[0].jobs) == 2


def test_patience_begins_when_the_last_block_has_gone(make: MakeRig) -> None:
    rig = make(max=2, slots=1)
    rig.submit(4)
    rig.tick()
    first, second = rig.bring_up(2)
    rig.provider.error = ProviderError("too many jobs")
    rig.provider.end(rig.job(first), JobState.TIMEOUT)
    rig.ticks(200, 10)
    rig.provider.end(rig.job(second), JobState.TIMEOUT)
    rig.ticks(50, 10)
    assert rig.executor.hopeless == []
    rig.ticks(20, 10)
    assert len(rig.executor.hopeless) == 1


@pytest.mark.parametrize("where", ["submit", "launcher"])
def test_a_wrong_request_ends_the_asking_at_once(make: MakeRig, where: str) -> None:
    error = ConfigError("partition 'gup' does not exist: did you mean 'gpu'?", "executors[0].partition")

    class Refuses:
        wrap = staticmethod(_raise(error))

    rig = make(max=3, slots=1, launcher=Refuses() if where == "launcher" else None)
    if where == "submit":
        rig.provider.error = error
    calls = rig.submit(3)
    rig.ticks(50)
    assert len(rig.provider.submits) == (1 if where == "submit" else 0)
    (reason,) = rig.executor.hopeless
    assert "did you mean 'gpu'" in reason
    assert "run1-htex-1" in reason
    assert len(rig.executor.ended) == 3
    assert set(rig.context.outcomes) == set(calls)


def test_after_a_wrong_request_blocks_that_are_there_go_on_and_are_given_back(make: MakeRig) -> None:
    rig = make(max=2, slots=1, idle_timeout=60)
    calls = rig.submit(1)
    rig.tick()
    rig.bring_up()
    calls += rig.submit(2)
    rig.provider.error = ConfigError("walltime: more than the partition allows now")
    rig.ticks(3)
    assert rig.executor.hopeless == []
    for call in calls:
        rig.executor.complete(call)
    rig.ticks(10)
    assert len(rig.provider.cancelled) == 1
    assert len(rig.executor.hopeless) == 1


# -- plug-ins that break their promises ---------------------------------------------------------------------


def test_a_provider_that_raises_something_foreign_is_treated_as_one_that_refuses(make: MakeRig) -> None:
    rig = make(init=1)
    rig.provider.error = ZeroDivisionError("oops")
    rig.tick()
    assert rig.last("block.refused")["reason"] == "ZeroDivisionError: oops"
    rig.provider.error = None
    rig.tick(2)
    assert "block.requested" in rig.kinds()


def test_a_policy_that_raises_ends_the_asking_and_nothing_waits(make: MakeRig) -> None:
    class Broken:
        decide = staticmethod(_raise(ZeroDivisionError("division by zero")))

    rig = make(policy=Broken())
    (call,) = rig.submit(1)
    rig.ticks(10)
    assert rig.executor.hopeless == ["scaling does not work: ZeroDivisionError: division by zero"]
    assert rig.kinds().count("scaling.error") == 1
    assert call in rig.context.outcomes


def test_a_policy_cannot_ask_for_more_than_max_or_drain_what_is_not_there(make: MakeRig) -> None:
    class Greedy:
        def decide(self, state: ScalingState) -> ScalingDecision:
            return ScalingDecision(add=10**6, drain=("nobody",), reason="more!")

    rig = make(policy=Greedy(), max=3)
    rig.ticks(10)
    assert len(rig.provider.submits) == 3
    assert rig.executor.drained == []


def test_an_executor_that_raises_does_not_keep_another_from_its_blocks(
    make: MakeRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = make(init=1, labels=("bad", "good"))
    monkeypatch.setattr(rig.executor, "demand", _raise(RuntimeError("broken")))
    rig.ticks(5)
    assert [spec.id for spec in rig.provider.submits] == ["run1-good-1"]
    assert rig.executor.hopeless == ["scaling does not work: RuntimeError: broken"]


def test_each_end_is_told_once_even_if_the_executor_raises(
    make: MakeRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = make(init=1)
    told = []

    def block_ended(block_id: str, status: JobStatus) -> None:
        told.append(block_id)
        rig.executor.ended.append((block_id, status))
        raise RuntimeError("broken")

    monkeypatch.setattr(rig.executor, "block_ended", block_ended)
    rig.tick()
    rig.provider.end(rig.job("run1-htex-1"))
    rig.ticks(5)
    assert told == ["run1-htex-1"]


# -- the end ------------------------------------------------------------------------------------------------


def test_close_cancels_what_has_not_ended_and_tells_the_executor(make: MakeRig) -> None:
    rig = make(init=3, max=4, labels=("cpu", "gpu"))
    rig.tick()
    rig.provider.end(rig.job("run1-cpu-1"))
    rig.tick(10)
    still = [job for job, spec in rig.provider.specs.items() if spec.id != "run1-cpu-1"]
    assert rig.scaler.close() == []
    assert sorted(rig.provider.cancelled) == sorted(still)
    assert rig.provider.calls.count("cancel") == 1
    assert rig.provider.closed == 1
    assert {s.reason for _, s in rig.executors[1].ended} == {"cancelled: the run is closed"}
    assert rig.scaler.close() == []
    rig.tick(10)
    assert rig.provider.closed == 1
    assert len(rig.provider.submits) == 6


def test_close_tries_again_and_says_what_is_left(make: MakeRig) -> None:
    rig = make(init=2)
    rig.tick()
    rig.provider.cancel_error = ProviderError("scancel: no route to host")
    leftovers = rig.scaler.close(0.6)
    assert rig.provider.calls.count("cancel") >= 2
    assert len(leftovers) == 2
    for words, block_id in zip(leftovers, ["run1-htex-1", "run1-htex-2"], strict=True):
        assert str(rig.job(block_id)) in words
        assert block_id in words
        assert "no route to host" in words
    assert {s.state for _, s in rig.executor.ended} == {JobState.GONE}
    rig.provider.cancel_error = None
    InMemoryProvider.cancel(rig.provider, list(rig.provider.specs))


def test_a_provider_that_cannot_be_closed_is_a_leftover(
    make: MakeRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = make(init=1)
    monkeypatch.setattr(rig.provider, "close", _raise(OSError("gone")))
    assert rig.scaler.close() == ["provider Provider could not be closed: OSError: gone"]


def test_a_frozen_scaler_replaces_nothing(make: MakeRig) -> None:
    rig = make(min=2, init=2, max=4)
    rig.tick()
    rig.bring_up(2)
    rig.scaler.freeze()
    for job in list(rig.provider.specs):
        rig.provider.end(job)
    rig.submit(10)
    rig.ticks(10)
    assert len(rig.provider.submits) == 2
    assert len(rig.executor.ended) == 2
    assert rig.executor.hopeless == [], "its shutdown ends its calls"


def test_freezing_drops_what_was_not_accepted(make: MakeRig) -> None:
    rig = make(init=1)
    rig.provider.error = ProviderError("later")
    rig.tick()
    rig.scaler.freeze("the run is closing")
    rig.ticks(5)
    assert len(rig.provider.submits) == 1
    assert rig.reasons() == ["not submitted: the run is closing"]


def test_closing_without_anything_does_nothing() -> None:
    scaler = Scaler([], emit=_raise(AssertionError("no event")), run_id="r", directory="/d")
    scaler.start()
    scaler.wake()
    scaler.tick()
    assert scaler.view() == []
    assert scaler.delay() > 60
    assert scaler.close() == []


# -- views and memory ---------------------------------------------------------------------------------------


def test_the_view(make: MakeRig) -> None:
    rig = make(slots=1, max=3)
    assert rig.scaler.view()[0].demand is None
    assert rig.scaler.describe() == ["htex: blocks: none"]
    rig.submit(3)
    rig.tick()
    rig.bring_up()
    second = list(rig.provider.specs)[1]
    rig.provider.start(second)
    rig.tick(10)
    (view,) = rig.scaler.view()
    assert view.label == "htex"
    assert set(view.blocks) == set(view.jobs) == {"run1-htex-1", "run1-htex-2", "run1-htex-3"}
    assert view.blocks["run1-htex-1"].managers == 1
    assert view.now - view.blocks["run1-htex-1"].requested_at == 20
    assert rig.scaler.describe()[0].split("; ") == [
        "htex: blocks: 1 running, 1 running without a manager, 1 pending",
        "2 slots wanted by waiting calls, 1 taken",
        f"last decision: {view.decision}",
    ]


def test_the_next_tick_is_due_when_something_is(make: MakeRig) -> None:
    rig = make(init=1, idle_timeout=33, register_timeout=7)
    assert rig.scaler.delay() == 10.0
    rig.provider.refuse_submits(1)
    rig.tick()
    assert rig.scaler.delay() == 1.0
    rig.tick(1)
    rig.provider.start(rig.job("run1-htex-1"))
    rig.tick(10)
    assert rig.scaler.delay() == 7.0
    rig.executor.register("run1-htex-1")
    rig.tick(0)
    assert rig.scaler.delay() == 10.0
    rig.tick(30)
    assert rig.scaler.delay() == pytest.approx(3.0)


def test_time_that_is_up_while_the_batch_system_is_away_is_no_reason_to_hurry(make: MakeRig) -> None:
    rig = make(init=1, register_timeout=60)
    rig.tick()
    rig.provider.start(rig.job("run1-htex-1"))
    rig.tick(10)
    rig.provider.fail_queries(100)
    rig.ticks(20)
    assert rig.scaler.delay() == 10.0


def test_ended_blocks_are_forgotten(make: MakeRig) -> None:
    rig = make(max=1, min=1, init=1)
    for _ in range(300):
        rig.tick(10)
        (block_id,) = rig.bring_up()
        rig.tick(60)
        rig.provider.end(rig.job(block_id), JobState.TIMEOUT)
    rig.tick(10)
    fleet = rig.scaler._fleets[0]
    assert fleet.ended == 300
    assert len(fleet.blocks) == 1
    assert len(fleet.endings) == 0
    gc.collect()
    kept = [
        o
        for o in gc.get_objects()
        if type(o).__name__ == "_Block" and type(o).__module__ == "weft_core.scaler"
    ]
    assert sum(1 for o in kept if o.fleet is fleet) == 1


def test_the_in_memory_executor_is_a_block_executor(make: MakeRig) -> None:
    assert isinstance(make().executor, BlockExecutor)


def test_end_to_end_with_real_managers_in_memory(tmp_path: Path) -> None:
    """The provider starts the executor's managers, which run the calls: only the clock is driven by hand."""
    clock = ManualClock()
    provider = InMemoryProvider(clock=clock, queue_time=30.0)
    blocks = Blocks(provider=provider, init=0, max=3, idle_timeout=60)
    executor = InMemoryBlockExecutor(blocks, slots_per_manager=2, clock=clock)
    context = RecordingContext(tmp_path)
    executor.start(context)
    scaler = Scaler([executor], emit=context.emit, run_id="r", directory="/d", limits=LIMITS, clock=clock)
    executor.submit([Call(number, abs, (-number,)) for number in range(50)])
    for _ in range(20):
        scaler.tick()
        provider.advance(10)
    assert [context.outcomes[number].value for number in range(50)] == list(range(50))
    assert provider.find("r") == {}, "all blocks are given back"
    assert len(provider.specs) == 3
    assert executor.shutdown() == []
    assert scaler.close() == []


def test_executors_hear_when_their_blocks_end_and_when_that_is_moved(make: MakeRig) -> None:
    rig = make(max=1, walltime=600)
    rig.submit(1)
    rig.tick()
    (block,) = rig.bring_up()
    job = rig.job(block)
    (status,) = rig.provider.status([job]).values()
    assert rig.executor.ends == {block: status.ends_at}
    assert status.ends_at is not None
    rig.provider.move_end(job, status.ends_at - 300)
    rig.tick(10)
    assert rig.executor.ends == {block: status.ends_at - 300}
    assert rig.last("block.end_moved")["by"] == -300
    rig.ticks(3)
    assert rig.kinds().count("block.end_moved") == 1


def test_blocks_that_can_never_run_are_given_up_at_once(make: MakeRig) -> None:
    rig = make(max=3, slots=1)
    calls = rig.submit(3)
    rig.tick()
    assert rig.provider.calls.count("submit") == 3
    for job in rig.provider.specs:
        rig.provider.stick(job, "PartitionTimeLimit")
    rig.tick(10)
    (reason,) = rig.executor.hopeless
    assert "can never run: PartitionTimeLimit" in reason
    assert all(isinstance(rig.context.outcomes[call].error, NoBlocksError) for call in calls)
    rig.ticks(3)
    assert sorted(rig.provider.cancelled) == sorted(rig.provider.specs)
    assert rig.provider.calls.count("submit") == 3
    assert rig.kinds().count("block.stuck") == 3
    assert rig.kinds().count("scaling.stopped") == 1


def test_blocks_that_wait_for_too_long_are_replaced(make: MakeRig) -> None:
    rig = make(max=1, policy=LoadScalingPolicy(queue_timeout="5m"))
    rig.submit(1)
    rig.ticks(30)
    assert rig.provider.calls.count("submit") == 1
    rig.ticks(4)
    assert rig.provider.calls.count("submit") == 2
    assert len(rig.provider.cancelled) == 1
    (reason,) = rig.reasons()
    assert reason.startswith("given up after")
    assert "in the queue for more than 300 s" in rig.last("block.draining")["reason"]
    rig.bring_up()
    rig.ticks(60)
    assert rig.provider.calls.count("submit") == 2, "one that runs does not wait"


# -- jobs of an earlier scaler ------------------------------------------------------------------------------


def test_adopted_blocks_are_asked_for_no_second_time(make: MakeRig) -> None:
    rig = make(init=2, max=2)
    rig.tick()
    (up,) = rig.bring_up()
    rig.adopt()
    jobs = {block: rig.job(block) for block in ("run1-htex-1", "run1-htex-2")}
    assert [(e.kind, e.data["block"], e.data["job"]) for e in rig.events] == [
        ("block.adopted", block, job) for block, job in jobs.items()
    ]
    rig.submit(100)
    rig.ticks(3)
    assert len(rig.provider.submits) == 2
    assert rig.scaler.view()[0].jobs == jobs
    assert rig.kinds(of=up) == ["block.adopted", "block.running", "block.registered"]
    assert rig.scaler.close() == []
    assert sorted(rig.provider.cancelled) == sorted(jobs.values())


def test_blocks_beside_adopted_ones_get_other_ids(make: MakeRig) -> None:
    rig = make(init=1, max=2, slots=1)
    rig.tick()
    rig.adopt()
    rig.submit(2)
    rig.tick()
    assert [spec.id for spec in rig.provider.submits] == ["run1-htex-1", "run1-htex-10001"]


@pytest.mark.parametrize("since", ["pending", "running"])
def test_adopted_blocks_are_given_back(make: MakeRig, since: str) -> None:
    rig = make(init=1, idle_timeout=60)
    rig.tick()
    if since == "running":
        rig.bring_up()
    rig.adopt()
    rig.tick()
    if since == "pending":
        assert rig.bring_up() == ["run1-htex-1"]
    rig.ticks(10)
    assert rig.executor.drained == ["run1-htex-1"]
    assert rig.provider.cancelled == [rig.job("run1-htex-1")]
    assert "given back" in rig.reasons()[0]


@pytest.mark.parametrize("answers", [True, False])
def test_blocks_that_had_begun_before_they_were_adopted_are_no_failures(make: MakeRig, answers: bool) -> None:
    """They were of use perhaps, as nobody knows any more."""
    rig = make(init=3, max=3)
    rig.tick()
    jobs = list(rig.provider.specs)
    for job in jobs:
        rig.provider.start(job)
    rig.adopt()
    if not answers:
        rig.provider.fail_queries(1)
        rig.tick()
        assert rig.executor.ended == []
    for job in jobs:
        rig.provider.end(job, JobState.FAILED, "NODE_FAIL")
    rig.submit(100)
    rig.ticks(3)
    assert len(rig.executor.ended) == 3
    assert rig.executor.hopeless == []
    assert len(rig.provider.submits) == 6, "others are asked for"


@pytest.mark.parametrize("answers", [True, False])
def test_blocks_that_waited_when_they_were_adopted_and_then_failed_are_failures(
    make: MakeRig, answers: bool
) -> None:
    rig = make(init=3, max=3)
    rig.tick()
    rig.adopt()
    if not answers:
        rig.provider.fail_queries(1)
        rig.tick()
    rig.submit(100)
    rig.tick(20)
    for job in list(rig.provider.specs):
        rig.provider.start(job)
        rig.provider.end(job, JobState.FAILED, "no python")
    rig.ticks(3)
    (reason,) = rig.executor.hopeless
    assert reason.startswith("3 blocks in a row ended before they were of use")


def test_an_adopted_block_whose_managers_do_not_come_back_is_diagnosed(make: MakeRig) -> None:
    rig = make(init=1, max=1, register_timeout=60, limits=ScalerLimits(failures=1))
    rig.tick()
    rig.bring_up()
    rig.adopt()
    rig.executor._up.clear()
    rig.submit(1)
    rig.ticks(6)
    assert rig.executor.ended == []
    rig.ticks(3)
    (reason,) = rig.reasons()
    assert "for 60 s not its manager registered" in reason
    assert "expected: what was submitted for this run before reaches it within 60 s" in reason
    assert rig.executor.hopeless == []
    assert [spec.id for spec in rig.provider.submits] == ["run1-htex-1", "run1-htex-10001"]


def test_an_adopted_block_that_works_is_a_proof(make: MakeRig) -> None:
    rig = make(init=1, min=1, max=2, slots=1, limits=ScalerLimits(failures=1, retry_most=10.0))
    rig.tick()
    rig.bring_up()
    rig.adopt()
    rig.submit(2)
    rig.tick()
    rig.provider.end(rig.job("run1-htex-10001"), JobState.FAILED, "bad node")
    rig.ticks(3)
    assert rig.kinds().count("scaling.stopped") == 1
    assert rig.executor.hopeless == []
    assert rig.provider.submits[-1].id == "run1-htex-10002", "one more is tried beside it"


def test_files_of_adopted_blocks_elsewhere_are_removed_in_the_end(make: MakeRig) -> None:
    rig = make(init=1)
    rig.provider.channel = InMemoryChannel()
    rig.tick()
    rig.adopt()
    assert rig.scaler.close() == []
    assert rig.provider.removed == [".weft/runs/run1/htex"]


def test_adopted_blocks_belong_to_the_executor_with_their_label(make: MakeRig) -> None:
    rig = make(labels=("a", "a-1"), init=1)
    rig.tick()
    rig.adopt()
    rig.tick()
    assert [list(each.blocks) for each in rig.scaler.view()] == [["run1-a-1"], ["run1-a-1-2"]]
    assert len(rig.provider.submits) == 2


@pytest.mark.parametrize("block", ["run1-other-1", "run2-htex-1", "run1-htex-x", "run1-htex-01", "run1-htex"])
def test_a_block_of_no_executor_cannot_be_adopted(make: MakeRig, block: str) -> None:
    rig = make()
    with pytest.raises(ValueError, match=f"adopt: '{block}' is no block .* the executors 'htex'"):
        rig.new_scaler(adopt={block: JobId("1")})
