"""Calls that were made before are not made again, and equal ones in flight are one."""

from __future__ import annotations

import concurrent.futures
import logging
import random
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import pytest
from weft_core import Future, Kernel, TaskSpec
from weft_interfaces import (
    BaseMemoStore,
    BlockLostError,
    CallOptions,
    CycleError,
    DependencyError,
    InputError,
    MemoCall,
    MemoEntry,
    MemoOptions,
    ResourcesError,
    SerializationError,
    Shared,
    StagingError,
    TaskExitError,
    TaskTimeoutError,
    WorkerLostError,
)
from weft_interfaces.memory import (
    InMemoryExecutor,
    InMemoryMemoizer,
    InMemoryMemoStore,
    ManualExecutor,
    PickleMemoHasher,
    RecordingEventSink,
)

Run = Any  # the class of conftest.py
PATIENCE = 20.0
PLAIN, WITH_ERRORS = MemoOptions(), MemoOptions(errors=True)


def work(*args: Any) -> Any:
    """A body; where a ManualExecutor has it, the test says what comes of it."""
    return ("worked", *args)


def other(*args: Any) -> Any:
    """Another one."""
    return ("other", *args)


def spec(function: Callable[..., Any] = work, memo: Any = PLAIN, **options: Any) -> TaskSpec:
    return TaskSpec(function=function, options=CallOptions(name=function.__name__), memo=memo, **options)


WORK = spec()


@pytest.fixture
def memoizer() -> InMemoryMemoizer:
    return InMemoryMemoizer()


@pytest.fixture
def run(make_run: Callable[..., Run], memoizer: InMemoryMemoizer) -> Run:
    return make_run(memoizer=memoizer)


def submit(run: Run, *args: Any, spec: TaskSpec = WORK) -> Future[Any]:
    future: Future[Any] = run.kernel.submit(spec, args)
    return future


def remembered(run: Run, value: Any, *args: Any, spec: TaskSpec = WORK) -> None:
    """Have a call remembered."""
    run.complete(submit(run, *args, spec=spec), value)


# -- hits and misses ----------------------------------------------------------------------------------------


def test_what_was_remembered_is_not_run_again(run: Run) -> None:
    first = submit(run, 1)
    assert not first.memo_hit
    run.complete(first, ["value"])
    again = submit(run, 1)
    assert again.result(timeout=0) == first.result(timeout=0)
    assert (first.memo_hit, again.memo_hit) == (False, True)
    assert len(run.manual.submitted) == 1
    assert run.kernel.counts().memo_hits == 1
    assert run.kernel.counts().done == 2


def test_other_arguments_and_other_functions_are_other_calls(run: Run) -> None:
    remembered(run, 1, 1)
    futures = [submit(run, 1.0), submit(run, True), submit(run, 1, spec=spec(other))]
    assert all(run.is_held(future) for future in futures)


def test_a_second_run_finds_what_the_first_one_left(make_run: Callable[..., Run]) -> None:
    store = InMemoryMemoStore()
    remembered(make_run(memoizer=InMemoryMemoizer(store)), "value", 1)
    assert submit(make_run(memoizer=InMemoryMemoizer(store)), 1).result(timeout=0) == "value"


@pytest.mark.parametrize(
    ("every", "memo", "hit"),
    [(False, None, False), (True, None, True), (True, False, False), (False, PLAIN, True)],
)
def test_who_is_remembered(make_run: Callable[..., Run], every: bool, memo: Any, hit: bool) -> None:
    memoizer = InMemoryMemoizer(every=every)
    run = make_run(memoizer=memoizer)
    for _ in range(2):
        future = submit(run, 1, spec=spec(memo=memo))
        if run.is_held(future):
            run.complete(future, 1)
    assert future.memo_hit is hit
    assert bool(memoizer.hits) is hit


def test_without_a_memoizer_nothing_is_remembered(make_run: Callable[..., Run]) -> None:
    run = make_run()
    remembered(run, 1, 1)
    assert run.is_held(submit(run, 1))


def test_it_is_looked_up_with_values_in_the_place_of_futures(run: Run, memoizer: InMemoryMemoizer) -> None:
    remembered(run, "value", [1, {"a": 2}])
    one, two = run.held(), run.held()
    future = submit(run, [one, {"a": two}])
    run.complete(one, 1)
    assert memoizer.hits == []
    run.complete(two, 2)
    assert future.result(timeout=0) == "value"
    assert future.memo_hit


def test_what_depends_on_a_hit_goes_on(run: Run) -> None:
    remembered(run, "value", 1)
    gate = run.held()
    hit = submit(run, gate)
    after = run.held(hit)
    run.complete(gate, 1)
    assert hit.memo_hit
    assert run.args_of(after) == ("value",)


def test_keyword_arguments_count(run: Run, memoizer: InMemoryMemoizer) -> None:
    def keyed(a: int, b: int = 2) -> None:
        """A body."""

    keyed_spec = spec(keyed)
    gate = run.held()
    run.complete(run.kernel.submit(keyed_spec, (1,), {"b": 2}), "value")
    future = run.kernel.submit(keyed_spec, (), {"a": gate})
    run.complete(gate, 1)
    assert future.memo_hit
    assert run.is_held(run.kernel.submit(keyed_spec, (1,), {"b": 3}))


def test_a_task_whose_dependency_fails_is_not_looked_up(run: Run, memoizer: InMemoryMemoizer) -> None:
    needed = run.held()
    future = submit(run, needed)
    run.fail(needed)
    assert isinstance(future.exception(timeout=0), DependencyError)
    assert memoizer.hits + memoizer.misses == []


def test_gathering_is_never_looked_up(make_run: Callable[..., Run]) -> None:
    memoizer = InMemoryMemoizer(every=True)
    run = make_run(memoizer=memoizer)
    for _ in range(2):
        assert run.kernel.gather([1, [2]]).result(timeout=0) == [1, [2]]
    assert memoizer.hits + memoizer.misses == []


def test_a_hit_needs_no_executor_that_could_take_it_now(make_run: Callable[..., Run]) -> None:
    class Refusing(ManualExecutor):
        def submit(self, calls: Any) -> None:
            raise AssertionError("a hit is no work for an executor")

        def load(self) -> Any:
            raise AssertionError("a hit asks no executor")

    memoizer = InMemoryMemoizer()
    remembered(make_run(memoizer=memoizer), "value", 1)
    run = make_run(manual=Refusing("manual"), memoizer=memoizer)
    assert submit(run, 1).result(timeout=0) == "value"


def test_a_hit_writes_nothing(make_run: Callable[..., Run]) -> None:
    class Counting(InMemoryMemoStore):
        puts = 0

        def put(self, entry: MemoEntry) -> None:
            self.puts += 1
            super().put(entry)

    store = Counting()
    run = make_run(memoizer=InMemoryMemoizer(store))
    remembered(run, "value", 1)
    assert [submit(run, 1).result(timeout=0) for _ in range(3)] == ["value"] * 3
    assert store.puts == 1


def test_the_order_of_a_batch_is_kept(run: Run) -> None:
    remembered(run, "hit", 7)
    gate = run.held()
    ended: list[int] = []
    futures = [submit(run, gate, n) for n in range(5)] + [submit(run, gate) for _ in range(2)]
    for future in futures:
        future.add_done_callback(lambda done: ended.append(done.task_id))
    run.complete(gate, 7)
    assert run.manual.held == [future.task_id for future in futures[:5]]
    assert sorted(ended) == [futures[5].task_id, futures[6].task_id]


def test_a_shared_value_counts_as_the_value(run: Run, memoizer: InMemoryMemoizer) -> None:
    shared = Shared({"a": [1]}, lambda *_: b"")
    remembered(run, "value", [shared], 2)
    assert submit(run, [{"a": [1]}], 2).memo_hit
    other_one = Shared({"a": [2]}, lambda *_: b"")
    assert run.is_held(submit(run, [other_one], 2))


def test_events_say_who_hit(make_run: Callable[..., Run]) -> None:
    sink = RecordingEventSink()
    run = make_run(memoizer=InMemoryMemoizer(), sinks=[sink])
    remembered(run, 1, 1)
    submit(run, 1)
    run.kernel.close()
    done = {event.data["task"]: event.data["memo_hit"] for event in sink.events if event.kind == "task.done"}
    assert done == {0: False, 1: True}


# -- errors -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("retries", "error"),
    [(0, ValueError("unknown type for memoization X")), (3, InputError("no")), (3, OSError())],
)
def test_a_call_that_cannot_be_identified_fails(
    make_run: Callable[..., Run], retries: int, error: Exception
) -> None:
    class Raising(InMemoryMemoizer):
        def identify(self, *args: Any) -> MemoCall:
            raise error

    run = make_run(memoizer=Raising(), retries=retries)
    future = submit(run, 1)
    assert future.exception(timeout=0) is error
    assert run.kernel.counts().retries == 0
    assert not future.memo_hit
    assert run.manual.submitted == {}


def test_an_argument_that_cannot_be_hashed_is_named(run: Run) -> None:
    error = submit(run, 1, [object()]).exception(timeout=0)
    assert str(error).startswith("unknown type for memoization builtins.object")
    assert "args" in str(error)


def test_errors_are_not_remembered(run: Run) -> None:
    run.fail(submit(run, 1), KeyError("x"))
    assert run.is_held(submit(run, 1))


def test_errors_are_remembered_where_that_is_asked_for(make_run: Callable[..., Run]) -> None:
    run = make_run(memoizer=InMemoryMemoizer(), retries=2)
    asked = spec(memo=WITH_ERRORS, retries=0)
    run.fail(submit(run, 1, spec=asked), KeyError("x"))
    again = submit(run, 1, spec=spec(memo=WITH_ERRORS))
    assert isinstance(again.exception(timeout=0), KeyError)
    assert again.memo_hit
    assert run.kernel.counts().retries == 0
    assert run.kernel.counts().memo_hits == 1
    assert run.is_held(submit(run, 1)), "a task that does not ask for errors runs"


@pytest.mark.parametrize(
    "error",
    [
        BlockLostError("lost"),
        WorkerLostError("lost"),
        StagingError("later perhaps"),
        CancelledError(),
        TaskTimeoutError("too long", 1.0),
        TaskExitError("sys.exit"),
        SerializationError("cannot cross"),
        ResourcesError("never"),
        DependencyError("needed"),
        MemoryError(),
        KeyboardInterrupt(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_that_are_not_the_functions_are_not_remembered(
    make_run: Callable[..., Run], error: BaseException
) -> None:
    from weft_interfaces.memory import NeverRetry

    run = make_run(memoizer=InMemoryMemoizer(), retry_policy=NeverRetry())
    asked = spec(memo=WITH_ERRORS)
    failed = submit(run, 1, spec=asked)
    run.fail(failed, error)
    assert failed.done()
    assert run.is_held(submit(run, 1, spec=asked))


def test_what_an_executor_raises_is_not_the_functions_error(make_run: Callable[..., Run]) -> None:
    class Full(ManualExecutor):
        full = True

        def submit(self, calls: Any) -> None:
            if self.full:
                raise OSError("disk full")
            super().submit(calls)

    executor = Full()
    run = make_run(manual=executor, memoizer=InMemoryMemoizer())
    asked = spec(memo=WITH_ERRORS)
    assert isinstance(submit(run, 1, spec=asked).exception(timeout=0), OSError)
    executor.full = False
    assert run.is_held(submit(run, 1, spec=asked))


def test_retries_come_before_it_is_remembered(
    make_run: Callable[..., Run], memoizer: InMemoryMemoizer
) -> None:
    run = make_run(memoizer=memoizer, retries=1)
    first = submit(run, 1)
    run.fail(first)
    follower = submit(run, 1)
    assert run.is_held(first)
    assert not run.is_held(follower), "the one that is tried again still leads"
    run.complete(first, "value")
    assert follower.result(timeout=0) == "value"
    assert memoizer.misses == [first.task_id], "a retry is not looked up"


# -- equal calls in flight ----------------------------------------------------------------------------------


def test_equal_calls_in_flight_run_once(run: Run, memoizer: InMemoryMemoizer) -> None:
    leader, *followers = (submit(run, 1) for _ in range(4))
    assert run.manual.held == [leader.task_id]
    assert run.kernel.counts().pending == 3
    assert not any(future.running() for future in followers)
    run.complete(leader, "value")
    assert [future.result(timeout=0) for future in followers] == ["value"] * 3
    assert all(future.memo_hit for future in followers)
    assert not leader.memo_hit
    assert memoizer.shared == {future.task_id: leader.task_id for future in followers}
    assert run.kernel.counts().memo_hits == 3


def test_a_follower_says_what_it_waits_for(run: Run) -> None:
    submit(run, 1), submit(run, 1)
    assert "task 1 (work): waits for an equal call, task 0" in run.kernel.unfinished()


def test_equal_calls_made_ready_at_once_run_once(run: Run) -> None:
    gate = run.held()
    futures = [submit(run, gate) for _ in range(3)]
    run.complete(gate, 1)
    assert run.manual.held == [futures[0].task_id]
    run.complete(futures[0], "value")
    assert [future.result(timeout=0) for future in futures] == ["value"] * 3


def test_what_depends_on_a_follower_goes_on(run: Run) -> None:
    leader, follower = submit(run, 1), submit(run, 1)
    after = run.held([follower])
    run.complete(leader, "value")
    assert run.args_of(after) == (["value"],)


def test_followers_get_the_leaders_error(make_run: Callable[..., Run]) -> None:
    run = make_run(memoizer=InMemoryMemoizer())
    leader, follower = submit(run, 1), submit(run, 1, spec=spec(retries=5))
    run.fail(leader, KeyError("x"))
    assert follower.exception(timeout=0) is leader.exception(timeout=0)
    assert follower.memo_hit
    assert run.kernel.counts().retries == 0
    assert run.kernel.counts().failed == 2


def test_cancelling_a_follower_does_not_touch_the_leader(run: Run) -> None:
    leader, one, two = (submit(run, 1) for _ in range(3))
    assert one.cancel()
    assert one.cancelled()
    assert not one.memo_hit
    run.complete(leader, "value")
    assert two.result(timeout=0) == "value"


def test_when_the_leader_is_cancelled_the_first_follower_leads(run: Run, memoizer: InMemoryMemoizer) -> None:
    leader, one, two = (submit(run, 1) for _ in range(3))
    assert leader.cancel()
    assert run.manual.held == [one.task_id]
    assert not two.done()
    assert memoizer.misses == [leader.task_id, one.task_id], "it was looked up again"
    run.complete(one, "value")
    assert two.result(timeout=0) == "value"
    assert (one.memo_hit, two.memo_hit) == (False, True)


def test_a_follower_waits_until_the_cancelled_leader_is_certain_not_to_run(
    make_run: Callable[..., Run],
) -> None:
    run = make_run(manual=ManualExecutor(slots=4, confirm_cancels=False), memoizer=InMemoryMemoizer())
    leader, follower = submit(run, 1), submit(run, 1)
    assert leader.cancel()
    assert run.manual.held == [leader.task_id]
    run.manual.confirm(leader.task_id)
    assert run.manual.held == [follower.task_id]


def test_followers_of_one_that_is_lost_as_cancelled_go_on(run: Run) -> None:
    leader, follower = submit(run, 1), submit(run, 1)
    run.fail(leader, CancelledError("its node was taken away"))
    assert leader.cancelled()
    assert run.is_held(follower)


def test_a_promoted_follower_keeps_the_values_that_it_has(run: Run) -> None:
    """Values may hold futures, which must not be taken for dependencies."""
    gate = run.held()
    ignoring = spec(lambda_like, MemoOptions(ignore=("context",)))
    futures = [run.kernel.submit(ignoring, (1, gate)) for _ in range(2)]
    inner = run.held()
    run.complete(gate, [[inner]])
    assert futures[0].cancel()
    assert run.args_of(futures[1]) == (1, [[inner]])


def lambda_like(number: int, context: Any) -> None:
    """A body with a parameter that may be ignored."""


def test_cancelling_the_run_ends_leaders_and_followers(run: Run) -> None:
    futures = [submit(run, number % 2) for number in range(6)]
    run.kernel.cancel_all(begun=True)
    assert all(future.cancelled() for future in futures)


def test_a_leader_that_its_executor_never_reports_takes_its_followers_with_it(
    make_run: Callable[..., Run],
) -> None:
    class Silent(ManualExecutor):
        def shutdown(self, *, cancel: bool = False, timeout: float = 10.0) -> list[str]:
            self._held.clear()
            return super().shutdown(cancel=cancel, timeout=timeout)

        def cancel(self, ids: Any) -> Any:
            return ()

    run = make_run(manual=Silent(), memoizer=InMemoryMemoizer())
    futures = [submit(run, 1) for _ in range(3)]
    run.kernel.close(cancel=True)
    assert all(future.done() for future in futures)


# -- joins --------------------------------------------------------------------------------------------------


def test_a_join_is_remembered_with_its_final_value(run: Run) -> None:
    inner: list[Any] = []

    def body(number: int) -> Any:
        inner.append(run.held(number))
        return [inner[-1], number]

    joined = submit(run, 1, spec=spec(body, join=True))
    follower = submit(run, 1, spec=spec(body, join=True))
    assert not follower.done()
    run.complete(inner[0], "inner")
    assert joined.result(timeout=0) == follower.result(timeout=0) == ["inner", 1]
    hit = submit(run, 1, spec=spec(body, join=True))
    assert hit.result(timeout=0) == ["inner", 1]
    assert hit.memo_hit
    assert len(inner) == 1, "a hit submits nothing"


def test_a_plain_task_that_returns_a_future_is_remembered_with_its_value(run: Run) -> None:
    leader, inner = submit(run, 1), run.held()
    run.complete(leader, inner)
    follower = submit(run, 1)
    run.complete(inner, "inner")
    assert leader.result(timeout=0) == follower.result(timeout=0) == "inner"
    assert submit(run, 1).result(timeout=0) == "inner"


def test_a_join_whose_inner_task_is_cancelled_lets_its_followers_go_on(run: Run) -> None:
    inner: list[Any] = []

    def body() -> Any:
        inner.append(run.held(len(inner)))
        return inner[-1]

    body_spec = spec(body, join=True)
    leader, follower = submit(run, spec=body_spec), submit(run, spec=body_spec)
    inner[0].cancel()
    assert leader.cancelled()
    run.complete(inner[1], "second")
    assert follower.result(timeout=0) == "second"


def test_a_join_that_returns_an_equal_call_of_itself(run: Run) -> None:
    """Without a memoizer it would go on for ever."""
    equal: list[Any] = []

    def body(number: int) -> Any:
        assert not equal, "it runs once"
        equal.append(submit(run, number, spec=body_spec))
        return equal[0]

    body_spec = spec(body, join=True)
    future = submit(run, 1, spec=body_spec)
    with pytest.raises(CycleError, match=r"task 0 \(body\) for task 1 \(body\) for task 0 \(body\)"):
        future.result(timeout=0)
    assert equal[0].exception(timeout=0) is future.exception(timeout=0)


def test_a_join_that_returns_what_becomes_an_equal_call(run: Run) -> None:
    gate = run.held()
    body_spec = spec(lambda number: late[0], join=True)
    late = [submit(run, gate, spec=body_spec)]
    future = submit(run, 1, spec=body_spec)
    assert not future.done()
    run.complete(gate, 1)
    assert isinstance(future.exception(timeout=0), CycleError)
    assert isinstance(late[0].exception(timeout=0), CycleError)


# -- waiting inside of tasks --------------------------------------------------------------------------------


@pytest.fixture
def threads(tmp_path: Path, spawning_kernel: Kernel) -> Iterator[Kernel]:
    """A started kernel on threads that remembers."""
    executor = type(spawning_kernel._all_executors[0])()
    with Kernel([executor], directory=tmp_path, memoizer=InMemoryMemoizer()) as kernel:
        yield kernel


def test_a_task_that_waits_for_an_equal_call_of_itself(threads: Kernel) -> None:
    def body(number: int) -> Any:
        return threads.submit(body_spec, (number,)).result(timeout=PATIENCE)

    body_spec = spec(body)
    with pytest.raises(CycleError, match=r"task 0 \(body\) for task 1 \(body\) for task 0 \(body\)"):
        threads.submit(body_spec, (1,)).result(timeout=PATIENCE)


def test_a_task_that_waits_for_what_becomes_an_equal_call(threads: Kernel) -> None:
    gate, waiting = threading.Event(), threading.Event()

    def body(number: int) -> Any:
        late = threads.submit(body_spec, (opened,))
        late.add_done_callback(lambda done: ended.append(done))
        waiting.set()
        return late.result(timeout=PATIENCE)

    def open_late() -> int:
        gate.wait(PATIENCE)
        return 1

    ended: list[Any] = []
    body_spec = spec(body)
    opened = threads.submit(spec(open_late, memo=False))
    future = threads.submit(body_spec, (1,))
    assert waiting.wait(PATIENCE)
    gate.set()
    assert isinstance(future.exception(timeout=PATIENCE), CycleError)
    assert threads.wait_idle(PATIENCE)
    assert isinstance(ended[0].exception(timeout=0), CycleError)


def test_a_task_may_wait_for_other_calls_of_its_function(threads: Kernel) -> None:
    def count(number: int) -> int:
        if number == 0:
            return 0
        below = [threads.submit(count_spec, (number - 1,)) for _ in range(3)]
        return 1 + below[number % 3].result(timeout=PATIENCE)

    count_spec = spec(count)
    assert threads.submit(count_spec, (8,)).result(timeout=PATIENCE) == 8
    assert threads.wait_idle(PATIENCE)
    counts = threads.counts()
    assert counts.done - counts.memo_hits == 9, "each ran once"


# -- memoizers that break -----------------------------------------------------------------------------------


class Broken(InMemoryMemoizer):
    """Raises from the methods of these names."""

    def __init__(self, *methods: str) -> None:
        super().__init__()
        self.methods = methods

    def recall(self, call: MemoCall, task_id: int) -> MemoEntry | None:
        self.maybe("recall")
        return super().recall(call, task_id)

    def share(self, call: MemoCall, task_id: int, leader_id: int) -> None:
        self.maybe("share")

    def remember(self, call: MemoCall, value: Any, error: BaseException | None = None) -> None:
        self.maybe("remember")
        super().remember(call, value, error)

    def close(self) -> None:
        self.maybe("close")

    def maybe(self, method: str) -> None:
        if method in self.methods:
            raise OSError(f"{method} does not work")


@pytest.mark.parametrize("method", ["recall", "share", "remember"])
def test_a_memoizer_that_breaks_costs_no_task(
    make_run: Callable[..., Run], caplog: pytest.LogCaptureFixture, method: str
) -> None:
    run = make_run(memoizer=Broken(method))
    for number in range(3):
        leader, follower = submit(run, number), submit(run, number)
        run.complete(leader, number)
        assert leader.result(timeout=0) == follower.result(timeout=0) == number
    [record] = caplog.records
    assert record.name == "weft"
    assert method in record.getMessage()
    assert record.levelno == logging.ERROR


@pytest.mark.parametrize("what", [None, "call", MemoCall("text", "t", {})])  # type: ignore[arg-type]
def test_a_memoizer_that_identifies_nonsense_fails_the_task(make_run: Callable[..., Run], what: Any) -> None:
    class Nonsense(InMemoryMemoizer):
        def identify(self, *args: Any) -> Any:
            return what

    assert isinstance(submit(make_run(memoizer=Nonsense()), 1).exception(timeout=0), TypeError)


def test_a_memoizer_that_recalls_nonsense_has_nothing(
    make_run: Callable[..., Run], caplog: pytest.LogCaptureFixture
) -> None:
    class Nonsense(InMemoryMemoizer):
        def recall(self, call: MemoCall, task_id: int) -> Any:
            return "value"

    run = make_run(memoizer=Nonsense())
    assert run.is_held(submit(run, 1))
    assert run.is_held(submit(run, 2))
    assert len(caplog.records) == 1


def test_a_value_that_cannot_be_remembered_is_computed_again(run: Run) -> None:
    leader, follower = submit(run, 1), submit(run, 1)
    lock = threading.Lock()
    run.complete(leader, lock)
    assert follower.result(timeout=0) is lock
    assert run.is_held(submit(run, 1))


# -- closing ------------------------------------------------------------------------------------------------


class Closing(InMemoryMemoizer):
    closed = 0

    def close(self) -> None:
        super().close()
        self.closed += 1


@pytest.mark.parametrize("cancel", [False, True])
def test_closing_closes_the_memoizer_after_the_last_outcome(
    make_run: Callable[..., Run], cancel: bool
) -> None:
    class Late(ManualExecutor):
        """What it cancels has just ended."""

        def shutdown(self, *, cancel: bool = False, timeout: float = 10.0) -> list[str]:
            for call_id in self.held:
                self.complete(call_id, "just done")
            return super().shutdown(cancel=cancel, timeout=timeout)

        def cancel(self, ids: Any) -> Any:
            return ()

    memoizer = Closing()
    run = make_run(manual=Late("manual", 4), memoizer=memoizer)
    remembered(run, "value", 1)
    if cancel:
        submit(run, 2)
    assert run.kernel.close(cancel=cancel) == []
    assert memoizer.closed == 1
    with_store = InMemoryMemoizer(memoizer.store)
    again = make_run(memoizer=with_store)
    assert submit(again, 1).memo_hit
    assert submit(again, 2).memo_hit is cancel


def test_a_memoizer_that_cannot_be_closed_is_named(tmp_path: Path) -> None:
    kernel = Kernel([ManualExecutor()], directory=tmp_path, memoizer=Broken("close"))
    kernel.start()
    [left] = kernel.close()
    assert "close does not work" in left
    assert kernel.closed
    assert kernel.close() == []


def test_a_memoizer_that_takes_long_to_close_is_not_waited_for(tmp_path: Path) -> None:
    go_on = threading.Event()

    class Slow(InMemoryMemoizer):
        def close(self) -> None:
            go_on.wait(PATIENCE)

    kernel = Kernel([ManualExecutor()], directory=tmp_path, memoizer=Slow())
    kernel.start()
    [left] = kernel.close(timeout=0.0)
    assert "memoizer" in left
    go_on.set()
    assert kernel._memory is not None
    assert kernel._memory._closing is not None
    kernel._memory._closing.join(PATIENCE)


def test_a_kernel_that_was_never_started_closes_its_memoizer(tmp_path: Path) -> None:
    memoizer = Closing()
    Kernel([ManualExecutor()], directory=tmp_path, memoizer=memoizer).close()
    assert memoizer.closed == 1


def test_a_kernel_that_cannot_be_started_closes_its_memoizer(tmp_path: Path) -> None:
    class NoStart(ManualExecutor):
        def start(self, context: Any) -> None:
            raise OSError("no place to start")

    memoizer = Closing()
    with pytest.raises(OSError, match="no place"):
        Kernel([NoStart()], directory=tmp_path, memoizer=memoizer).start()
    assert memoizer.closed == 1


# -- interrupts ---------------------------------------------------------------------------------------------


class Interrupted(InMemoryMemoizer):
    """Ctrl-C strikes in the method of this name, after ``before`` is done there."""

    def __init__(self, method: str) -> None:
        super().__init__()
        self.method = method
        self.before: Callable[[], object] = str

    def identify(self, *args: Any) -> MemoCall:
        self.maybe("identify")
        return super().identify(*args)

    def recall(self, call: MemoCall, task_id: int) -> MemoEntry | None:
        self.maybe("recall")
        return super().recall(call, task_id)

    def maybe(self, method: str) -> None:
        if method == self.method:
            self.method = ""
            self.before()
            raise KeyboardInterrupt


@pytest.mark.parametrize("method", ["identify", "recall"])
def test_an_interrupted_submission_leads_nobody(make_run: Callable[..., Run], method: str) -> None:
    memoizer = Interrupted(method)
    run = make_run(memoizer=memoizer)
    followers: list[Any] = []
    memoizer.before = lambda: followers.append(submit(run, 1))
    with pytest.raises(KeyboardInterrupt):
        submit(run, 1)
    assert run.kernel.counts().cancelled == 1
    [follower] = followers
    assert run.is_held(follower), "who followed goes on"
    run.complete(follower, "value")
    assert submit(run, 1).result(timeout=0) == "value"


@pytest.mark.parametrize("method", ["identify", "recall"])
def test_an_interrupted_launch_of_waiting_tasks_leaves_none_that_hangs(
    make_run: Callable[..., Run], method: str
) -> None:
    memoizer = Interrupted("")
    run = make_run(memoizer=memoizer)
    gate = run.held()
    futures = [submit(run, gate, n % 2) for n in range(6)]
    memoizer.method = method
    with pytest.raises(KeyboardInterrupt):
        run.complete(gate, 1)
    assert all(future.cancelled() or run.is_held(future) for future in futures)
    again = [submit(run, 1, n) for n in range(2)]
    assert all(run.is_held(future) for future in again)


# -- many threads -------------------------------------------------------------------------------------------


class Once(InMemoryMemoizer):
    """Sees whether two equal calls run at once, or one whose value it has."""

    def __init__(self) -> None:
        super().__init__()
        self.running: Counter[int] = Counter()
        self.has: set[int] = set()
        self.violations: list[str] = []
        self.lock = threading.Lock()

    def remember(self, call: MemoCall, value: Any, error: BaseException | None = None) -> None:
        super().remember(call, value, error)
        self.has.add(value)

    def run(self, number: int, outcome: str) -> Any:
        with self.lock:
            self.running[number] += 1
            if self.running[number] > 1:
                self.violations.append(f"two calls of {number} at once")
            if number in self.has:
                self.violations.append(f"{number} was done before")
        with self.lock:
            self.running[number] -= 1
        if outcome == "value":
            return number
        raise KeyError(number)


@pytest.mark.parametrize("seed", range(4))
def test_threads_that_submit_and_cancel_equal_calls(
    seed: int, tmp_path: Path, spawning_kernel: Kernel, in_threads: Callable[..., Any]
) -> None:
    """Each future ends, no equal calls run at once, and nothing runs that was done before."""
    once = Once()

    def body(number: int, draw: Any) -> Any:
        return once.run(number, draw.choice(["value", "value", "error"]))

    executor = type(spawning_kernel._all_executors[0])()
    kernel = Kernel([executor], directory=tmp_path, memoizer=once, retries=1)
    body_spec = spec(body, MemoOptions(ignore=("draw",)))
    told: Counter[int] = Counter()
    futures: list[Future[Any]] = []

    def act(number: int) -> None:
        rng = random.Random(1000 * seed + number)
        for _ in range(60):
            future = kernel.submit(body_spec, (rng.randrange(8), rng))
            future.add_done_callback(lambda done: told.update([done.task_id]))
            futures.append(future)
            if rng.random() < 0.3:
                rng.choice(futures).cancel()

    interval = sys.getswitchinterval()
    sys.setswitchinterval(5e-6)
    try:
        with kernel:
            in_threads(*(lambda i=i: act(i) for i in range(6)))
            assert kernel.wait_idle(PATIENCE)
    finally:
        sys.setswitchinterval(interval)
    assert once.violations == []
    assert len(futures) == len(told) == 360
    assert set(told.values()) == {1}
    for future in futures:
        assert future.done()
        if not future.cancelled():
            assert future.exception() is None or isinstance(future.exception(), KeyError)
    counts = kernel.counts()
    assert counts.memo_hits == sum(future.memo_hit for future in futures)
    assert kernel._memory is not None
    assert kernel._memory._flights == {}


@pytest.mark.parametrize("known", [True, False], ids=["hit", "miss"])
def test_one_that_is_cancelled_while_it_is_looked_up(make_run: Callable[..., Run], known: bool) -> None:
    class Cancelling(InMemoryMemoizer):
        future: Any = None

        def recall(self, call: MemoCall, task_id: int) -> MemoEntry | None:
            if self.future is not None and self.future.task_id == task_id:
                assert self.future.cancel()
            return super().recall(call, task_id)

    memoizer = Cancelling()
    run = make_run(memoizer=memoizer)
    if known:
        remembered(run, "value", 1)
    gate = run.held()
    memoizer.future, follower = submit(run, gate), submit(run, gate)
    run.complete(gate, 1)
    assert memoizer.future.cancelled()
    assert not memoizer.future.memo_hit
    assert follower.memo_hit is known
    assert run.is_held(follower) is not known


def test_many_equal_calls_that_are_cancelled_one_after_the_other(run: Run) -> None:
    """Each that leads hands over to the next, which costs the same however many follow."""
    futures = [submit(run, 1) for _ in range(5_000)]
    for future in futures[:-1]:
        assert future.cancel()
    assert run.manual.held == [futures[-1].task_id]
    assert run.kernel.counts().cancelled == 4_999


def test_many_equal_calls_that_are_cancelled_by_their_body_need_no_stack(tmp_path: Path) -> None:
    ran: list[int] = []

    def body(number: int) -> None:
        ran.append(number)
        raise CancelledError

    gate: concurrent.futures.Future[int] = concurrent.futures.Future()
    with Kernel([InMemoryExecutor()], directory=tmp_path, memoizer=InMemoryMemoizer()) as kernel:
        body_spec = spec(body)
        futures = [kernel.submit(body_spec, (gate,)) for _ in range(3_000)]
        gate.set_result(1)
        assert all(future.cancelled() for future in futures)
    assert len(ran) == 3_000


def test_what_is_in_memory_of_a_memoized_task_is_let_go(run: Run) -> None:
    future = submit(run, 1)
    task = future._task
    assert task is not None
    assert task.memo is not None
    run.complete(future, 1)
    assert task.memo is None


def test_a_store_that_forgets_makes_every_call_run(make_run: Callable[..., Run]) -> None:
    class Forgetful(BaseMemoStore):
        def get(self, key: bytes) -> MemoEntry | None:
            return None

        def put(self, entry: MemoEntry) -> None:
            """Forget it."""

    run = make_run(memoizer=InMemoryMemoizer(Forgetful(), PickleMemoHasher(), every=True))
    for number in range(3):
        remembered(run, number, 1)
    assert len(run.manual.submitted) == 3


def test_in_one_thread_it_works_too(tmp_path: Path) -> None:
    ran: list[int] = []

    def body(number: int) -> int:
        ran.append(number)
        return number * 2

    body_spec = spec(body)
    with Kernel([InMemoryExecutor()], directory=tmp_path, memoizer=InMemoryMemoizer()) as kernel:
        futures = [kernel.submit(body_spec, (number % 3,)) for number in range(9)]
        assert [future.result(timeout=PATIENCE) for future in futures] == [0, 2, 4] * 3
    assert ran == [0, 1, 2]


def test_ready_tasks_are_not_held_back_while_others_are_looked_up(
    make_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Arguments may be large, and take long to hash."""
    monkeypatch.setattr("weft_core.kernel._LOOKING_UP", -1.0)
    held: list[int] = []

    class Looking(InMemoryMemoizer):
        def recall(self, call: MemoCall, task_id: int) -> MemoEntry | None:
            held.append(len(run.manual.held))
            return super().recall(call, task_id)

    run = make_run(memoizer=Looking())
    gate = run.held()
    for number in range(3):
        submit(run, gate, number)
    run.complete(gate, 1)
    assert held == [0, 1, 2]


def test_followers_that_were_cancelled_do_not_lead(run: Run) -> None:
    leader, one, two = (submit(run, 1) for _ in range(3))
    assert one.cancel()
    assert leader.cancel()
    assert run.manual.held == [two.task_id]


def test_a_join_that_returns_what_needs_an_equal_call_of_itself(run: Run) -> None:
    def body(number: int) -> Any:
        return run.held(run.held(submit(run, number, spec=body_spec)))

    body_spec = spec(body, join=True)
    assert isinstance(submit(run, 1, spec=body_spec).exception(timeout=0), CycleError)


def test_one_that_is_cancelled_while_it_is_identified_leads_nobody(make_run: Callable[..., Run]) -> None:
    class Cancelling(InMemoryMemoizer):
        identified = 0
        victims: tuple[Future[Any], ...] = ()

        def identify(self, *args: Any) -> MemoCall:
            self.identified += 1
            for victim in self.victims:
                victim.cancel()
            return super().identify(*args)

    memoizer = Cancelling()
    run = make_run(memoizer=memoizer)
    gate = run.held()
    futures = submit(run, gate), submit(run, gate, 2)
    memoizer.victims = futures
    run.complete(gate, 1)
    assert all(future.cancelled() for future in futures)
    assert memoizer.identified == 1, "one that is cancelled is not identified any more"
    assert run.is_held(submit(run, 1)), "it follows nobody"
