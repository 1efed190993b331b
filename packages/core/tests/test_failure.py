"""What fails, fails at once, says why, and costs nobody else anything."""

from __future__ import annotations

import gc
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError
from typing import Any

import pytest
from weft_core import BackoffRetryPolicy, Kernel
from weft_core.failure import dependency_error
from weft_interfaces import (
    BlockLostError,
    CycleError,
    DeathCertificate,
    DependencyError,
    Failure,
    InputError,
    LostError,
    RetryDecision,
    Shared,
    WorkerLostError,
)
from weft_interfaces.memory import ManualExecutor, RecordingEventSink

Run = Any  # the class of conftest.py
PATIENCE = 20.0


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")

    __repr__ = __str__


# -- dependencies that fail --------------------------------------------------------------------------------


def test_the_chain_leads_to_the_root(run: Run) -> None:
    def load() -> None: ...

    def clean(_: Any) -> None: ...

    def plot(*_: Any) -> None: ...

    first = run.submit(load)
    second = run.submit(clean, first)
    third = run.submit(plot, [second])
    run.fail(first, OSError("disk full"))
    error = third.exception(timeout=0)
    assert isinstance(error, DependencyError)
    assert str(error) == (
        "task 2 (plot) was not run: it needed task 1 (clean), which needed task 0 (load), "
        "which failed with OSError: disk full"
    )
    assert error.chain == ("task 2 (plot)", "task 1 (clean)", "task 0 (load)")
    assert error.__cause__ is first.exception()
    assert str(second.exception()) == (
        "task 1 (clean) was not run: it needed task 0 (load), which failed with OSError: disk full"
    )
    assert list(run.manual.submitted) == [0], "neither was run"
    assert run.kernel.counts().dependency_failed == 2


def test_the_chain_of_what_was_cancelled(run: Run) -> None:
    first = run.held()
    second = run.held(run.held(first))
    first.cancel()
    assert str(second.exception(timeout=0)) == (
        "task 2 (nothing) was not run: it needed task 1 (nothing), which needed task 0 (nothing), "
        "which was cancelled"
    )
    assert isinstance(second.exception().__cause__, CancelledError)
    assert not second.cancelled()


def test_the_chain_through_a_join(run: Run) -> None:
    first = run.held()
    inner = run.held(first)
    joined = run.join(lambda: [inner])
    after = run.held(joined)
    run.fail(first)
    assert joined.exception(timeout=0) is inner.exception(timeout=0)
    assert [name.split(" (")[0] for name in after.exception(timeout=0).chain] == [
        "task 3",
        "task 2",
        "task 1",
        "task 0",
    ]


def test_a_long_chain_is_told_in_short(run: Run) -> None:
    first = last = run.held()
    for _ in range(50):
        last = run.held(last)
    run.fail(first)
    assert str(last.exception(timeout=0)) == (
        "task 50 (nothing) was not run: it needed task 49 (nothing), which needed task 48 (nothing), "
        "which needed (45 more), which needed task 2 (nothing), which needed task 1 (nothing), "
        "which needed task 0 (nothing), which failed with ValueError: broken"
    )


def test_a_chain_of_a_hundred_thousand_fails_in_linear_time(run: Run) -> None:
    def fail_chain(length: int) -> float:
        first = last = run.held()
        chain = [first] + [last := run.held(last) for _ in range(length)]
        begun = time.thread_time()
        run.fail(first)
        took = time.thread_time() - begun
        error = chain[-1].exception(timeout=0)
        assert isinstance(error, DependencyError)
        assert f"({length - 5} more)" in str(error)
        assert error.__cause__ is first.exception()
        return took

    gc.disable()
    try:
        short, long = fail_chain(10_000), fail_chain(100_000)
    finally:
        gc.enable()
    assert long < 40 * short + 1.0, "quadratic would be a hundred times as long"


def test_a_failure_waits_for_no_other_dependency(run: Run) -> None:
    slow, broken, slower = run.held(), run.held(), run.held()
    waiting = run.held([slow, broken, slower])
    gathered = run.kernel.gather([slow, broken, slower])
    joined = run.join(lambda: [slow, broken, slower])
    run.fail(broken)
    assert isinstance(waiting.exception(timeout=0), DependencyError)
    assert gathered.exception(timeout=0) is joined.exception(timeout=0) is broken.exception()
    assert not slow.done()
    run.complete(slow)
    run.complete(slower)
    assert len(run.manual.submitted) == 3, "it is not run later either"


def test_what_depends_on_what_has_failed_fails_at_once(run: Run) -> None:
    broken = run.held()
    run.fail(broken)
    assert isinstance(run.held(broken).exception(timeout=0), DependencyError)
    assert isinstance(run.kernel.gather(broken).exception(timeout=0), ValueError)


def test_a_dependency_failure_is_never_retried(make_run: Callable[..., Run]) -> None:
    run = make_run(retries=5)
    broken = run.held()
    waiting = run.held(broken)
    for _ in range(6):
        assert not waiting.done()
        run.manual.wait_held(1)
        run.fail(broken)
    assert isinstance(waiting.exception(timeout=0), DependencyError)
    assert run.kernel.counts().retries == 5


@pytest.mark.parametrize("error", [Unspeakable(), ValueError("x" * 10_000_000), ValueError()])
def test_errors_that_say_too_little_or_too_much(make_run: Callable[..., Run], error: Exception) -> None:
    run = make_run(sinks=[RecordingEventSink()])
    broken = run.held()
    waiting, gathered = run.held(run.held(broken)), run.kernel.gather([broken])
    run.fail(broken, error)
    assert isinstance(waiting.exception(timeout=PATIENCE), DependencyError)
    assert type(error).__name__ in str(waiting.exception())
    assert len(str(waiting.exception())) < 5_000
    assert gathered.exception(timeout=PATIENCE) is error


def test_the_texts_do_not_need_futures_of_ours() -> None:
    class Odd:
        __repr__ = Unspeakable.__str__

    assert "it needed <Odd, whose repr raised RuntimeError>, which failed with ValueError: x" in str(
        dependency_error("task 1", Odd(), ValueError("x"))
    )


# -- retries -----------------------------------------------------------------------------------------------


def test_retries_of_the_run_and_of_the_task(make_run: Callable[..., Run], spec: Any) -> None:
    run = make_run(retries=1, retry_policy=BackoffRetryPolicy(delay=0))
    usual, never, often = (
        run.held(),
        run.kernel.submit(spec(print, retries=0)),
        run.kernel.submit(spec(print, retries=3)),
    )
    tries = {usual: 0, never: 0, often: 0}
    for future in tries:
        while not future.done():
            tries[future] += 1
            run.fail(future, ValueError(f"try {tries[future]}"))
    assert list(tries.values()) == [2, 1, 4]
    assert str(often.exception()) == "try 4", "the last error is the one that is told"
    assert run.kernel.counts().retries == 4
    assert run.kernel.counts().failed == 3


def test_a_retry_that_succeeds(make_run: Callable[..., Run]) -> None:
    run = make_run(retries=1)
    first = run.held()
    waiting = run.held(first)
    run.fail(first)
    assert run.is_held(first), "the first retry is at once"
    assert not waiting.done()
    run.complete(first, 4)
    assert first.result(timeout=0) == 4
    assert run.args_of(waiting) == (4,)


def test_each_try_has_a_call_id_of_its_own(make_run: Callable[..., Run]) -> None:
    run = make_run(retries=1)
    first, second = run.held([1]), run.held()
    call_id = run.call_id(first)
    run.fail(first)
    assert run.call_id(first) not in (call_id, run.call_id(second))
    assert run.args_of(first) == ([1],), "with the same arguments"
    # An outcome of the try before is late, and ignored.
    run.kernel.completed([(call_id, "late", None)])
    assert not first.done()
    run.complete(first, "in time")
    run.kernel.completed([(call_id, "late", None), (run.manual.held[0], 2, None)])
    assert (first.result(), second.result()) == ("in time", 2)
    run.manual.cancel(run.manual.held)


def test_later_retries_wait(make_run: Callable[..., Run]) -> None:
    run = make_run(retries=3, retry_policy=BackoffRetryPolicy(delay=0.05))
    future = run.held()
    run.fail(future)
    assert run.is_held(future)
    for delay in (0.05, 0.1):
        begun = time.monotonic()
        run.fail(future)
        assert not run.is_held(future)
        assert run.kernel.counts().pending == 1
        run.manual.wait_held(1)
        assert time.monotonic() - begun >= delay
    run.complete(future)
    assert future.result() is None


def test_the_default_policy() -> None:
    def decide(error: Exception, failures: int = 0, losses: int = 0, retries: int = 2) -> RetryDecision:
        return policy.decide(Failure(1, "f", error, retries, failures, losses))

    policy = BackoffRetryPolicy(delay=1.0, max_delay=3.0, max_losses=4)
    decisions = [decide(ValueError(), i, retries=4) for i in range(1, 6)]
    assert [(d.retry, d.delay) for d in decisions] == [(True, 0), (True, 1), (True, 2), (True, 3), (False, 0)]
    assert "failed 5 times and has 4 retries" in decisions[-1].reason
    assert not decide(InputError("wrong"), 1).retry
    assert not decide(ValueError(), 1, retries=0).retry
    lost = [decide(BlockLostError("b"), 0, i, retries=0) for i in range(1, 6)]
    assert [d.retry for d in lost] == [True, True, True, True, False]
    assert not decide(WorkerLostError("w"), 1, 1, retries=0).retry
    assert decide(WorkerLostError("w"), 1, 1, retries=1).retry
    assert not decide(WorkerLostError("w"), 1, 5, retries=9).retry
    assert decide(ValueError(), 2_000, retries=5_000).delay == 3.0


@pytest.mark.parametrize("decision", ["raises", None, "yes"])
def test_a_policy_that_is_broken_fails_the_task(make_run: Callable[..., Run], decision: Any) -> None:
    class Broken:
        def decide(self, failure: Failure) -> Any:
            if decision == "raises":
                raise RuntimeError("undecided")
            return decision

    run = make_run(retry_policy=Broken())
    future, error = run.held(), ValueError("mine")
    run.fail(future, error)
    assert future.exception(timeout=PATIENCE) is error
    assert isinstance(error.__cause__, RuntimeError if decision == "raises" else TypeError | ValueError)


def test_a_policy_sees_what_happened(make_run: Callable[..., Run], spec: Any) -> None:
    seen: list[Failure] = []

    class Watching:
        def decide(self, failure: Failure) -> RetryDecision:
            seen.append(failure)
            return RetryDecision(len(seen) < 4)

    run = make_run(retry_policy=Watching())
    future = run.kernel.submit(spec(print, name="work", retries=7))
    run.fail(future, error := ValueError("x"))
    run.manual.lose(run.call_id(future))
    run.fail(future, BlockLostError("block gone"))
    run.fail(future, error)
    assert seen[0] == Failure(0, "work", error, 7, failures=1, losses=0)
    assert [(f.failures, f.losses) for f in seen] == [(1, 0), (2, 1), (2, 2), (3, 2)]
    assert future.exception() is error


# -- lost tries --------------------------------------------------------------------------------------------


def certificate(number: int) -> DeathCertificate:
    return DeathCertificate(kind="worker", pid=number, signal=9)


def test_losing_the_worker_costs_a_retry(make_run: Callable[..., Run]) -> None:
    run = make_run(retries=1)
    future = run.held()
    run.manual.lose(run.call_id(future), certificate(1))
    assert run.is_held(future)
    run.manual.lose(run.call_id(future), certificate(2))
    error = future.exception(timeout=0)
    assert isinstance(error, WorkerLostError)
    assert error.certificates == (certificate(1), certificate(2))
    assert "(lost 2 times)" in str(error)
    assert "process 1" in str(error)
    assert "process 2" in str(error)


def test_losing_the_block_costs_none_but_has_an_end(make_run: Callable[..., Run]) -> None:
    run = make_run(retry_policy=BackoffRetryPolicy(delay=0, max_losses=3))
    future = run.held()
    for i in range(4):
        assert not future.done()
        run.fail(future, BlockLostError("block gone", [certificate(i)]))
    error = future.exception(timeout=0)
    assert isinstance(error, BlockLostError)
    assert error.certificates == tuple(map(certificate, range(4)))
    assert run.kernel.counts().retries == 3


def test_a_loss_of_another_kind(make_run: Callable[..., Run]) -> None:
    """An executor's own error may be made in its own way; it must not keep the future from completing."""

    class PodLostError(LostError):
        def __init__(self, pod: str, *, certificates: Any = ()) -> None:
            super().__init__(f"pod {pod} gone", certificates)

    run = make_run(retry_policy=BackoffRetryPolicy(delay=0, max_losses=1))
    future = run.held()
    run.fail(future, PodLostError("a", certificates=[certificate(1)]))
    run.fail(future, PodLostError("b", certificates=[certificate(2)]))
    assert isinstance(future.exception(timeout=PATIENCE), PodLostError)


# -- executors that fail -----------------------------------------------------------------------------------


class Refusing(ManualExecutor):
    """Raises at the first ``times`` submissions."""

    def __init__(self, times: float, error: Exception | None = None) -> None:
        super().__init__()
        self.left = times
        self.error = error or ConnectionError("no route")

    def submit(self, calls: Any) -> None:
        self.left -= 1
        if self.left >= 0:
            raise self.error
        super().submit(calls)


def test_an_executor_that_refuses_fails_the_task(make_run: Callable[..., Run]) -> None:
    run = make_run(manual=Refusing(2))
    first = run.held()
    assert isinstance(first.exception(timeout=0), ConnectionError)
    second, third = run.held(), run.held()
    assert second.done()
    waiting = run.held(third)
    run.complete(third)
    assert run.is_held(waiting)


def test_a_refused_submission_is_retried(make_run: Callable[..., Run]) -> None:
    run = make_run(manual=Refusing(2), retries=2, retry_policy=BackoffRetryPolicy(delay=0))
    first = run.held()
    assert run.is_held(first)
    run.complete(first, 3)
    assert first.result() == 3


def test_ever_so_many_refusals_need_no_stack(make_run: Callable[..., Run]) -> None:
    policy = BackoffRetryPolicy(delay=0)
    run = make_run(manual=Refusing(5_000), retries=10_000, retry_policy=policy)
    assert run.is_held(run.held())


def test_wrong_input_is_not_retried(make_run: Callable[..., Run]) -> None:
    run = make_run(manual=Refusing(1, InputError("wrong")), retries=5)
    assert isinstance(run.held().exception(timeout=0), InputError)


def test_a_load_that_raises_fails_the_task(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run.held()
    waiting, bystander = run.held(first), run.held(run.held())

    def broken(_: object) -> Any:
        raise RuntimeError("no load")

    monkeypatch.setattr("weft_core.router.Route.choose", broken)
    run.complete(first)
    assert isinstance(waiting.exception(timeout=PATIENCE), RuntimeError)
    with pytest.raises(RuntimeError, match="no load"):
        run.held()
    assert not bystander.done()
    assert run.kernel.counts().active == 2


def test_outcomes_reported_twice_or_for_nobody(run: Run) -> None:
    """Executors report once. One that does not must not harm the run."""
    first, second = run.held(), run.held()
    call_id = run.call_id(first)
    run.kernel.completed(
        [(call_id, 1, None), (call_id, 2, None), (call_id, None, ValueError()), (999, 1, None)]
    )
    run.kernel.completed([(call_id, 3, None)])
    assert first.result(timeout=0) == 1
    assert not second.done()
    assert run.kernel.counts().done == 1
    run.manual.cancel([call_id])


def test_a_try_reported_twice_at_once_is_retried_once(make_run: Callable[..., Run], in_threads: Any) -> None:
    """Both reports are in the policy's hands before either has had an effect."""
    barrier = threading.Barrier(2)

    class Slow:
        def decide(self, failure: Failure) -> RetryDecision:
            barrier.wait(PATIENCE)
            return RetryDecision(True)

    run = make_run(retry_policy=Slow())
    future = run.held()
    call_id = run.call_id(future)
    in_threads(*[lambda: run.kernel.completed([(call_id, None, ValueError())])] * 2)
    run.manual.cancel([call_id])
    assert run.kernel.counts().retries == 1
    assert run.is_held(future)


# -- cycles ------------------------------------------------------------------------------------------------


def test_a_join_that_returns_its_own_future(run: Run) -> None:
    mine: list[Any] = []
    gate = run.held()
    joined = run.join(lambda _: mine, gate)
    mine.append(joined)
    run.complete(gate)
    with pytest.raises(
        CycleError, match=r"wait for itself: task 1 \(<lambda>\) for task 1 \(<lambda>\); return"
    ):
        joined.result(timeout=PATIENCE)


def test_a_join_that_returns_what_depends_on_it(run: Run) -> None:
    inner: list[Any] = []
    gate = run.held()
    joined = run.join(lambda _: inner, gate)
    inner.append(run.held(run.held(joined)))
    run.complete(gate)
    with pytest.raises(
        CycleError, match=r"task 1 \(<lambda>\) for task 3 \(nothing\) for task 2 .* for task 1"
    ):
        joined.result(timeout=PATIENCE)
    assert isinstance(inner[0].exception(timeout=PATIENCE), DependencyError)


def test_two_joins_that_wait_for_each_other(run: Run) -> None:
    gate = run.held()
    futures: list[Any] = []
    futures.append(run.join(lambda _: futures[1], gate))
    futures.append(run.join(lambda _: futures[0], gate))
    run.complete(gate)
    errors = [future.exception(timeout=PATIENCE) for future in futures]
    assert all(isinstance(error, CycleError) for error in errors)


def test_a_long_cycle_is_found_in_good_time(run: Run) -> None:
    inner: list[Any] = []
    gate = run.held()
    last = joined = run.join(lambda _: inner, gate)
    chain = [last := run.held(last) for _ in range(5_000)]
    inner.append(chain[-1])
    run.complete(gate)
    assert isinstance(joined.exception(timeout=PATIENCE), CycleError)
    assert isinstance(last.exception(timeout=PATIENCE), DependencyError)
    assert len(str(joined.exception())) < 2_000


def submit_and_wait(kernel: Kernel, spec: Any, make: Callable[[Any], Any]) -> Any:
    """A task that waits for a future which it is given once it runs."""
    box: queue.Queue[Any] = queue.Queue()
    waiting = kernel.submit(spec(lambda: box.get(timeout=PATIENCE).result(timeout=PATIENCE), name="waits"))
    box.put(make(waiting))
    return waiting


def test_a_task_that_waits_for_itself(spawning_kernel: Kernel, spec: Any) -> None:
    future = submit_and_wait(spawning_kernel, spec, lambda waiting: waiting)
    with pytest.raises(CycleError, match=r"task 0 \(waits\) for task 0 \(waits\)"):
        future.result(timeout=PATIENCE)


def test_a_task_with_shared_values_that_waits_for_itself(spawning_kernel: Kernel, spec: Any) -> None:
    """They are replaced when it is handed over, and it is known as the same task all the same."""
    box: queue.Queue[Any] = queue.Queue()

    def wait(number: int, *, shared: int) -> None:
        assert (number, shared) == (1, 2)
        box.get(timeout=PATIENCE).result(timeout=PATIENCE)

    one, two = (Shared(number, lambda *_: b"") for number in (1, 2))
    waiting = spawning_kernel.submit(spec(wait, name="waits"), (one,), {"shared": two})
    box.put(waiting)
    with pytest.raises(CycleError, match=r"task 0 \(waits\) for task 0 \(waits\)"):
        waiting.result(timeout=PATIENCE)


def test_a_task_that_waits_for_what_depends_on_it(spawning_kernel: Kernel, spec: Any) -> None:
    future = submit_and_wait(
        spawning_kernel, spec, lambda waiting: spawning_kernel.submit(spec(print), (waiting,))
    )
    with pytest.raises(CycleError, match=r"task 0 \(waits\) for task 1 \(print\) for task 0"):
        future.result(timeout=PATIENCE)


def test_two_tasks_that_wait_for_each_other(spawning_kernel: Kernel, spec: Any) -> None:
    futures: list[Any] = []

    def wait_for(number: int, gate: Any) -> None:
        while len(futures) < 2:
            gate.wait(0.001)
        futures[number].result(timeout=PATIENCE)

    gate = threading.Event()
    futures.append(spawning_kernel.submit(spec(wait_for), (1, gate)))
    futures.append(spawning_kernel.submit(spec(wait_for), (0, gate)))
    errors = [future.exception(timeout=PATIENCE) for future in futures]
    assert any(isinstance(error, CycleError) for error in errors), "one at least is told, and ends both"


def test_waiting_for_another_task_is_no_cycle(spawning_kernel: Kernel, spec: Any) -> None:
    def outer(n: int) -> int:
        return spawning_kernel.submit(spec(outer), (n - 1,)).result(timeout=PATIENCE) + 1 if n else 0

    assert spawning_kernel.submit(spec(outer), (20,)).result(timeout=PATIENCE) == 20


def test_calls_of_another_run_with_the_same_id_are_told_apart(
    make_run: Any, spawning_kernel: Kernel, spec: Any
) -> None:
    """The first task of one run waits for the first task of another: both have the id 0."""
    other = make_run()
    theirs = other.held()
    waits = spawning_kernel.submit(spec(lambda: theirs.result(timeout=PATIENCE)))
    while not theirs.subscribers() and not waits.done():
        time.sleep(0.001)
    other.complete(theirs, "no cycle")
    assert waits.result(timeout=PATIENCE) == "no cycle"
