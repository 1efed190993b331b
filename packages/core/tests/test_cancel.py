"""Cancelling works at every stage of a task's life, and says what it could do."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import CancelledError
from typing import Any

import pytest
from weft_core import BackoffRetryPolicy
from weft_interfaces import Call, DependencyError
from weft_interfaces.memory import ManualExecutor

Run = Any  # the class of conftest.py
MakeRun = Callable[..., Run]
PATIENCE = 20.0


# -- by stage -----------------------------------------------------------------------------------------------


def test_pending(run: Run) -> None:
    first = run.held()
    waiting = run.held(first)
    assert waiting.cancel()
    assert waiting.cancelled()
    run.complete(first)
    assert list(run.manual.submitted) == [0], "it never runs"
    assert run.kernel.counts()[:7] == (0, 0, 0, 1, 0, 0, 1)


def test_launched(run: Run) -> None:
    first = run.held()
    after = run.held(first)
    assert first.cancel()
    assert first.cancelled()
    assert run.manual.held == []
    assert isinstance(after.exception(timeout=0), DependencyError)
    assert run.kernel.counts()[:7] == (0, 0, 0, 0, 0, 1, 1)


def test_begun_where_the_executor_can_stop_it(make_run: MakeRun) -> None:
    run = make_run(manual=ManualExecutor(confirm_cancels=False))
    first = run.held()
    run.manual.begin(call_id := run.call_id(first))
    assert first.cancel(), "it will be"
    assert not first.done(), "not before the executor confirms it"
    assert not first.cancelled()
    assert first.cancel(), "asking twice is no mistake"
    run.manual.confirm(call_id)
    assert first.cancelled()


def test_begun_where_the_executor_cannot(make_run: MakeRun) -> None:
    run = make_run(manual=ManualExecutor(stops_begun=False))
    first = run.held()
    run.manual.begin(run.call_id(first))
    assert not first.cancel()
    assert not first.done()
    run.complete(first, 5)
    assert first.result(timeout=0) == 5


def test_joining(run: Run) -> None:
    inner = [run.held(), run.held(run.held())]
    foreign: concurrent.futures.Future[None] = concurrent.futures.Future()
    joined = run.join(lambda: [inner, foreign])
    after = run.held(joined)
    assert joined.cancel()
    assert joined.cancelled()
    assert all(future.cancelled() for future in inner), "what it waits for is cancelled with it"
    assert foreign.cancelled()
    assert isinstance(after.exception(timeout=0), DependencyError)


def test_a_gather(run: Run) -> None:
    futures = [run.held(), run.held()]
    run.complete(futures[0], 1)
    gathered = run.kernel.gather(futures)
    assert gathered.cancel()
    assert futures[1].cancelled()
    assert futures[0].result() == 1


def test_joining_a_future_of_asyncio(run: Run) -> None:
    """Those may be touched by their own thread alone."""
    touched: list[threading.Thread] = []

    class Watched(asyncio.Future):  # type: ignore[type-arg]
        def cancel(self, msg: Any = None) -> bool:
            touched.append(threading.current_thread())
            return super().cancel(msg)

    async def main() -> None:
        inner = Watched()
        joined = run.kernel.gather([inner])
        assert await asyncio.get_running_loop().run_in_executor(None, joined.cancel)
        with pytest.raises(asyncio.CancelledError):
            await inner

    asyncio.run(asyncio.wait_for(main(), PATIENCE))
    assert touched == [threading.current_thread()]


def test_joins_nested_deeper_than_the_stack(run: Run) -> None:
    inner = outer = run.held()
    for _ in range(3_000):
        outer = run.kernel.gather([outer])
    assert outer.cancel()
    assert inner.cancelled()
    assert run.kernel.counts().active == 0


def test_between_two_tries(make_run: MakeRun) -> None:
    run = make_run(retries=9, retry_policy=BackoffRetryPolicy(delay=0.05))
    first, second = run.held(), run.held()
    for future in (first, first, second, second):
        run.fail(future)
    assert first.cancel()
    assert first.cancelled()
    run.manual.wait_held(1)  # the other one's next try, which comes later
    assert run.is_held(second)
    assert run.manual.held == [run.call_id(second)]


def test_done(run: Run) -> None:
    first = run.held()
    run.complete(first)
    assert not first.cancel()


# -- while it is handed over -----------------------------------------------------------------------------


class Gated(ManualExecutor):
    """Calls ``during`` in the middle of a submission, before or after it has the calls."""

    def __init__(self, *, after: bool, **options: Any) -> None:
        super().__init__(**options)
        self.after = after
        self.during: Callable[[Sequence[Call]], None] = lambda calls: None

    def submit(self, calls: Sequence[Call]) -> None:
        if self.after:
            super().submit(calls)
        during, self.during = self.during, lambda calls: None
        during(calls)
        if not self.after:
            super().submit(calls)


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("ends", ["stopped", "completes", "fails", "is refused"])
def test_while_it_is_handed_over(make_run: MakeRun, after: bool, ends: str) -> None:
    """True was the answer, so it is cancelled, whatever becomes of the call."""
    run = make_run(manual=Gated(after=after, stops_begun=False), retries=3)
    gate = run.held()
    future = run.held(gate)
    answers = []

    def during(calls: Sequence[Call]) -> None:
        answers.append(future.cancel())
        if ends == "is refused" and not after:
            raise OSError("no connection")
        if after and ends != "stopped":
            run.manual.begin(calls[0].id)

    run.manual.during = during
    run.complete(gate)
    assert answers == [True]
    for call_id in run.manual.held:
        if ends == "completes":
            run.manual.complete(call_id, 1)
        else:
            run.manual.fail(call_id, ValueError("broken"))
    assert future.cancelled()
    with pytest.raises(CancelledError, match=r"task 1 \(nothing\) was cancelled"):
        future.result(timeout=0)
    assert run.kernel.counts().cancelled == 1


def test_a_task_on_its_way_to_an_executor_is_not_cancelled_behind_its_back(make_run: MakeRun) -> None:
    """Cancelling sees a pending task, which is then launched: its executor must be asked."""
    run = make_run()
    gate = run.held()
    future = run.held(gate)
    finish = run.kernel._finish

    def late(*args: Any, **options: Any) -> bool:
        run.kernel._finish = finish
        run.complete(gate)
        return finish(*args, **options)

    run.kernel._finish = late
    assert future.cancel()
    assert run.manual.held == [], "the executor was asked"
    assert future.cancelled()


def test_the_executor_of_the_present_try_is_asked(make_run: MakeRun) -> None:
    """The first try fails before the one who submitted it is back from the executor."""
    run = make_run(manual=Gated(after=True), retries=3, retry_policy=BackoffRetryPolicy(delay=0.0))
    run.manual.during = lambda calls: run.manual.fail(calls[0].id, ValueError("at once"))
    future = run.held()
    assert run.is_held(future)
    assert future._task.call_id != 0
    run.manual.begin(run.call_id(future))
    assert future.running()
    assert future.cancel()
    assert future.cancelled()


def test_a_try_that_waits_has_no_executor(make_run: MakeRun) -> None:
    run = make_run(manual=Gated(after=True), retries=3, retry_policy=BackoffRetryPolicy(delay=0.02))

    def fail(calls: Sequence[Call]) -> None:
        run.manual.during = fail_again
        run.manual.fail(calls[0].id, ValueError("at once"))

    def fail_again(calls: Sequence[Call]) -> None:
        run.manual.fail(calls[0].id, ValueError("again"))

    run.manual.during = fail
    future = run.held()
    assert future._task.executor is None
    run.manual.wait_held(1)
    assert future.cancel()
    with pytest.raises(CancelledError):
        future.result(timeout=PATIENCE)


def test_a_task_that_raises_cancelled_is_cancelled(make_run: MakeRun) -> None:
    """As one does that asks for the result of a cancelled future."""
    run = make_run(retries=3)
    future = run.held()
    run.fail(future, CancelledError("task 7 was cancelled"))
    assert future.cancelled()
    with pytest.raises(CancelledError, match="task 7"):
        future.result()


# -- all at once --------------------------------------------------------------------------------------------


def test_cancel_all(make_run: MakeRun) -> None:
    run = make_run(retries=5, retry_policy=BackoffRetryPolicy(delay=60))
    launched, begun, retrying = run.held(), run.held(), run.held()
    run.fail(retrying)
    run.fail(retrying)
    pending = run.held(launched)
    foreign: concurrent.futures.Future[None] = concurrent.futures.Future()
    joining = run.kernel.gather([begun, foreign])
    run.manual.begin(run.call_id(begun))
    run.kernel.cancel_all(begun=True)
    assert all(future.cancelled() for future in (launched, begun, retrying, pending, joining, foreign))
    assert run.kernel.counts().cancelled == 5


def test_cancel_what_has_not_begun(run: Run) -> None:
    launched, begun = run.held(), run.held()
    pending = run.held(begun)
    joining, doomed = run.kernel.gather([begun]), run.kernel.gather([launched])
    run.manual.begin(run.call_id(begun))
    run.kernel.cancel_all(begun=False)
    assert all(future.cancelled() for future in (launched, pending, doomed))
    assert not begun.done()
    run.complete(begun, 1)
    assert joining.result(timeout=0) == [1], "its work was done"


def test_cancel_all_with_joins_nested_deeply(run: Run) -> None:
    outer = run.held()
    for _ in range(3_000):
        outer = run.kernel.gather([outer])
    run.kernel.close(cancel=True)
    assert outer.cancelled()


def test_cancelling_while_it_completes(run: Run, in_threads: Callable[..., list[Any]]) -> None:
    """Many times, since it is a race: the answer and what happens always agree."""
    for _ in range(300):
        gate, calls = run.held(), []
        future = run.held(gate)
        future.add_done_callback(calls.append)
        call_id = run.call_id(gate)
        answer, _ = in_threads(future.cancel, lambda i=call_id: run.manual.complete(i))
        assert answer
        assert future.cancelled()
        assert calls == [future]
        assert run.manual.held == []


def test_many_threads_cancel_the_same(run: Run, in_threads: Callable[..., list[Any]]) -> None:
    for _ in range(50):
        future, calls = run.held(), []
        future.add_done_callback(calls.append)
        assert in_threads(*[future.cancel] * 4) == [True] * 4
        assert calls == [future]


class Silent(ManualExecutor):
    """Accepts nothing."""

    def cancel(self, ids: Collection[int]) -> Collection[int]:
        return ()


def test_an_executor_that_cannot_cancel(make_run: MakeRun) -> None:
    run = make_run(manual=Silent())
    future = run.held()
    assert not future.cancel()
    run.complete(future, 2)
    assert future.result(timeout=0) == 2
