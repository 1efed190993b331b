"""What the implementations in memory promise beyond their contracts."""

from __future__ import annotations

import threading

import pytest
from weft_interfaces import (
    Blocks,
    BlockShape,
    Call,
    CallOptions,
    DeathCertificate,
    JobSpec,
    JobState,
    ProviderError,
    Resources,
    RunClosedError,
    TaskExitError,
    WorkerLostError,
    current_worker,
)
from weft_interfaces.memory import (
    InMemoryBlockExecutor,
    InMemoryExecutor,
    InMemoryProvider,
    ManualClock,
    ManualExecutor,
    PickleMemoHasher,
    ProgramEnd,
    RecordingContext,
    RecordingEventSink,
)


@pytest.fixture
def start(tmp_path):
    """Start an executor, and shut it down."""
    started = []

    def run(executor, on_completed=None):
        context = RecordingContext(tmp_path, on_completed)
        executor.start(context)
        started.append(executor)
        return context

    yield run
    for executor in started:
        executor.shutdown(cancel=True, timeout=5)


# -- inline -------------------------------------------------------------------------------------------------


def test_a_long_chain_needs_no_stack(start):
    executor = InMemoryExecutor()
    last = []

    def go_on(outcomes):
        last[:] = outcomes
        if outcomes[0].id < 100_000:
            executor.submit([Call(outcomes[0].id + 1, int)])

    start(executor, go_on)
    executor.submit([Call(1, int)])
    assert last[0].id == 100_000


def test_a_body_may_wait_for_what_it_submits(start):
    executor = InMemoryExecutor()
    context = start(executor)

    def outer(depth):
        if depth:
            executor.submit([Call(depth - 1, outer, (depth - 1,))])
            return context.outcomes[depth - 1].value + 1
        return 0

    executor.submit([Call(20, outer, (20,))])
    assert context.outcomes[20].value == 20


def test_a_body_that_waits_for_a_later_call_lends_its_thread(start):
    executor = InMemoryExecutor()
    context = start(executor)

    def first():
        with current_worker().waiting():
            return context.outcomes[2].value

    executor.submit([Call(1, first), Call(2, int, (7,))])
    assert context.outcomes[1].value == 7
    assert context.counts == {1: 1, 2: 1}


def test_a_submit_after_a_nested_one_runs_in_order(start):
    executor, order = InMemoryExecutor(), []
    start(executor)

    def outer():
        executor.submit([Call(3, order.append, ("inner",))])
        order.append("outer")

    executor.submit([Call(1, outer), Call(2, order.append, ("second",))])
    assert order == ["inner", "outer", "second"]


def test_every_exit_is_an_outcome(start):
    executor = InMemoryExecutor()
    context = start(executor)
    for number, kind in enumerate((SystemExit, KeyboardInterrupt, GeneratorExit)):

        def end(kind=kind):
            raise kind

        executor.submit([Call(number, end)])
    assert [type(context.outcomes[i].error) for i in range(3)] == [
        TaskExitError,
        TaskExitError,
        GeneratorExit,
    ]
    assert isinstance(context.outcomes[0].error.__cause__, SystemExit)


def test_shutdown_from_a_body_names_what_it_cannot_end(start):
    executor = InMemoryExecutor()
    context = start(executor)
    left = []
    executor.submit([Call(1, lambda: left.extend(executor.shutdown(timeout=5)))])
    assert len(left) == 1
    assert isinstance(context.outcomes[1].error, WorkerLostError)
    assert context.counts[1] == 1


def test_shutdown_gives_up_on_a_thread_that_hangs(start):
    executor, begun, end = InMemoryExecutor(), threading.Event(), threading.Event()
    context = start(executor)

    def hang():
        begun.set()
        end.wait(30)

    thread = threading.Thread(target=executor.submit, args=([Call(1, hang), Call(2, int)],), name="hanging")
    thread.start()
    assert begun.wait(10)
    left = executor.shutdown(timeout=0.05)
    end.set()
    thread.join(10)
    assert len(left) == 1
    assert "hanging" in left[0]
    assert context.counts == {1: 1, 2: 1}


# -- manual -------------------------------------------------------------------------------------------------


def test_a_manual_executor_does_as_it_is_told(start):
    executor = ManualExecutor()
    context = start(executor)
    executor.submit([Call(i, int, (i,)) for i in range(5)])
    assert executor.held == executor.wait_held(5) == [0, 1, 2, 3, 4]
    executor.begin(3)
    assert list(executor.running()) == [3]
    assert executor.load()[:2] == (4, 1)
    certificate = DeathCertificate(kind="worker", exit_code=3)
    executor.complete(0, "value")
    executor.fail(1, ValueError("x"))
    executor.lose(2, certificate)
    executor.run_all()
    assert context.outcomes[0].value == "value"
    assert context.outcomes[2].error.certificate == certificate
    assert (context.outcomes[3].value, context.outcomes[4].value) == (3, 4)
    assert not executor.held
    assert not executor.misuses


@pytest.mark.parametrize("misuse", ["complete", "run", "lose", "begin", "confirm"])
def test_misuse_of_a_manual_executor_is_noted(start, misuse):
    executor = ManualExecutor()
    start(executor)
    executor.submit([Call(1, int)])
    executor.complete(1)
    with pytest.raises(AssertionError, match=misuse):
        getattr(executor, misuse)(1)
    assert len(executor.misuses) == 1


def test_an_id_is_used_once(start):
    executor = ManualExecutor()
    start(executor)
    executor.submit([Call(1, int)])
    with pytest.raises(AssertionError, match="had a call before"):
        executor.submit([Call(1, int)])


def test_a_cancel_may_be_confirmed_later(start):
    executor = ManualExecutor(confirm_cancels=False)
    context = start(executor)
    executor.submit([Call(1, int), Call(2, int)])
    assert list(executor.cancel([1, 3])) == [1]
    assert list(executor.cancel([1])) == [1]
    assert executor.cancelling == [1]
    assert not context.outcomes
    with pytest.raises(AssertionError, match="its cancel was accepted"):
        executor.complete(1)
    executor.confirm(1)
    assert context.counts == {1: 1}


def test_what_has_begun_may_be_unstoppable(start):
    executor = ManualExecutor(stops_begun=False)
    start(executor)
    executor.submit([Call(1, int), Call(2, int)])
    executor.begin(1)
    assert list(executor.cancel([1, 2])) == [2]


def test_waiting_for_held_calls_is_bounded(start):
    executor = ManualExecutor()
    start(executor)
    with pytest.raises(TimeoutError):
        executor.wait_held(1, timeout=0.01)


# -- blocks -------------------------------------------------------------------------------------------------


def spec(executor, block_id, **options):
    argv = executor.command(block_id).argv
    return JobSpec(id=block_id, name="b", command=argv, shape=executor.blocks.shape, directory="/", **options)


def test_a_job_starts_the_manager_of_its_block(start):
    clock = ManualClock()
    provider = InMemoryProvider(clock=clock, queue_time=10.0)
    blocks = Blocks(provider=provider, max=2, walltime=100)
    executor = InMemoryBlockExecutor(blocks, slots_per_manager=2, clock=clock)
    context = start(executor)
    executor.submit([Call(i, int, (i,)) for i in range(4)])
    job = provider.submit(spec(executor, "block-1"))
    assert provider.status([job])[job].state is JobState.PENDING
    assert executor.demand() == (4, 0, 2, {})
    provider.advance(10)
    assert provider.status([job])[job].ends_at == 110.0
    assert sorted(context.outcomes) == [0, 1, 2, 3]
    clock.advance(7)
    assert executor.demand().blocks["block-1"] == (1, 0, 7.0)
    provider.advance(100)
    assert provider.status([job])[job].state is JobState.TIMEOUT


def test_held_calls_take_their_slots_by_priority(start):
    executor = InMemoryBlockExecutor(Blocks(provider=InMemoryProvider()), slots_per_manager=2, hold=True)
    context = start(executor)
    wide = CallOptions(resources=Resources(cpus=2), priority=1)
    executor.submit([Call(1, int), Call(2, int, (), {}, wide), Call(3, int)])
    executor.register("a")
    assert set(executor.running()) == {2}
    assert executor.block_of(2) == "a"
    assert executor.demand()[:2] == (2, 2)
    executor.complete(2)
    assert set(executor.running()) == {1, 3}
    executor.run_all()
    assert context.counts == {1: 1, 2: 1, 3: 1}


def test_a_command_without_its_executor_starts_nothing():
    provider = InMemoryProvider()
    executor = InMemoryBlockExecutor(Blocks(provider=provider))
    orphan = spec(executor, "block-1")
    del executor
    job = provider.submit(orphan)
    assert provider.status([job])[job].state is JobState.RUNNING


# -- provider -----------------------------------------------------------------------------------------------


def job_spec(*command, job_id="1", nodes=1):
    return JobSpec(id=job_id, name="n", command=command, shape=BlockShape(nodes=nodes), directory="/")


def test_a_job_may_be_held_preempted_and_lost():
    provider = InMemoryProvider(queue_time=5.0)
    job = provider.submit(job_spec("sleep", "100", nodes=2))
    provider.hold(job, "JobHeldAdmin")
    provider.advance(10)
    assert provider.status([job])[job] == provider.status([job])[job]
    assert (provider.status([job])[job].state, provider.status([job])[job].reason) == (
        JobState.HELD,
        "JobHeldAdmin",
    )
    provider.release(job)
    assert provider.status([job])[job].state is JobState.RUNNING
    assert provider.status([job])[job].hosts == ("node1", "node2")
    provider.preempt(job)
    provider.advance(10)
    assert provider.status([job])[job].state is JobState.PENDING
    provider.start(job)
    provider.vanish(job)
    assert provider.status([job])[job].state is JobState.GONE


def test_submits_are_refused_when_told():
    provider = InMemoryProvider()
    provider.refuse_submits(1, "AssocMaxSubmitJobLimit")
    with pytest.raises(ProviderError, match="AssocMaxSubmitJobLimit"):
        provider.submit(job_spec("true"))
    job = provider.submit(job_spec("true"))
    assert provider.submit(job_spec("true")) == job
    assert len(provider.specs) == 1


def test_programs_can_be_added_and_launched():
    provider = InMemoryProvider(programs={"crash": lambda arguments: ProgramEnd(2.0, int(arguments[0]))})
    job = provider.submit(job_spec("srun", "crash", "42"))
    provider.advance(1)
    assert provider.status([job])[job].state is JobState.RUNNING
    provider.advance(1)
    assert (provider.status([job])[job].state, provider.status([job])[job].exit_code) == (JobState.FAILED, 42)


def test_queries_are_counted_and_time_is_manual():
    provider = InMemoryProvider(queue_time=None)
    job = provider.submit(job_spec("true"))
    provider.advance(10**6)
    provider.status([job])
    assert provider.queries == 1
    assert provider.status([job])[job].state is JobState.PENDING
    with pytest.raises(ValueError, match="backwards"):
        provider.clock.advance(-1)


# -- the rest -----------------------------------------------------------------------------------------------


def test_types_can_be_added_to_the_hasher():
    class Matrix:
        def __init__(self, data):
            self.data = data

    hasher = PickleMemoHasher({Matrix: lambda matrix: matrix.data})
    assert hasher.digest([Matrix(b"1")]) == hasher.digest([Matrix(b"1")])
    assert hasher.digest(Matrix(b"1")) != hasher.digest(Matrix(b"2"))


def test_a_value_that_contains_itself_is_refused():
    value = []
    value.append(value)
    with pytest.raises(ValueError, match="contains itself"):
        PickleMemoHasher().digest(value)


def test_events_can_be_waited_for():
    from weft_interfaces import Event

    sink = RecordingEventSink()
    thread = threading.Thread(target=sink.write, args=([Event(0.0, "task.done", "x")],))
    thread.start()
    assert len(sink.wait_for("task.done")) == 1
    thread.join()
    with pytest.raises(TimeoutError, match="0 events"):
        sink.wait_for("never", timeout=0.01)


def test_a_closed_executor_takes_nothing():
    for executor in (InMemoryExecutor(), ManualExecutor()):
        with pytest.raises(RunClosedError, match="start it before"):
            executor.submit([Call(1, int)])
