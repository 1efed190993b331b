"""A future is at home wherever a concurrent.futures.Future is, and names mistakes."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import copy
import gc
import logging
import pickle
import threading
import tracemalloc
import weakref
from collections.abc import Callable
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION, CancelledError
from typing import Any

import pytest
import weft_core.future
from weft_core import Future
from weft_interfaces import FutureMisuseError

Run = Any  # the class of conftest.py
InThreads = Callable[..., list[Any]]
SOON = 0.01  # a timeout that is meant to be reached
PATIENCE = 20.0


def nothing(_: object) -> None:
    """A callback."""


class Value:
    """Something that can be watched as it dies."""


# -- results --------------------------------------------------------------------------------------------


def test_a_value(run: Run) -> None:
    future = run.held()
    assert isinstance(future, concurrent.futures.Future)
    assert not future.done()
    assert not future.cancelled()
    run.complete(future, 42)
    assert future.done()
    assert not future.running()
    assert not future.cancelled()
    assert future.result() == 42
    assert future.exception() is None


def test_an_error(run: Run) -> None:
    future, error = run.held(), KeyError("lost key")
    run.fail(future, error)
    assert future.done()
    assert not future.cancelled()
    assert future.exception() is error
    with pytest.raises(KeyError, match="lost key"):
        future.result()


def test_running_is_asked_of_the_executor(run: Run) -> None:
    future = run.held()
    assert not future.running()
    run.manual.begin(run.call_id(future))
    assert future.running()
    run.complete(future)
    assert not future.running()


@pytest.mark.parametrize("method", ["result", "exception"])
@pytest.mark.parametrize("timeout", [SOON, 0, -1])
def test_a_wait_ends_at_its_timeout(run: Run, method: str, timeout: float) -> None:
    future = run.held()
    with pytest.raises(concurrent.futures.TimeoutError, match=r"task 0 \(nothing\).* is not done after"):
        getattr(future, method)(timeout=timeout)
    run.complete(future, 1)
    assert future.result(timeout=0) == 1


def test_waiting_again_and_again_leaves_nothing_behind(run: Run) -> None:
    future = run.held()
    for _ in range(50):
        with pytest.raises(concurrent.futures.TimeoutError):
            future.result(timeout=0)
    assert future.subscribers() == []


def test_many_threads_wait_for_one_future(run: Run, in_threads: InThreads, eventually: Any) -> None:
    future = run.held()

    def complete() -> None:
        eventually(lambda: len(future.subscribers()) == 16, "16 threads wait")
        run.complete(future, "x")

    *values, _ = in_threads(*[lambda: future.result(timeout=PATIENCE)] * 16, complete)
    assert values == ["x"] * 16


def test_an_error_is_raised_again_and_again(run: Run) -> None:
    future = run.held()
    run.fail(future, ValueError("no"))
    for _ in range(3):
        with pytest.raises(ValueError, match="no"):
            future.result()


# -- the standard library's functions ---------------------------------------------------------------------


@pytest.mark.parametrize("when", [FIRST_COMPLETED, FIRST_EXCEPTION, ALL_COMPLETED])
@pytest.mark.parametrize("ending", ["complete", "fail", "cancel"])
def test_wait(run: Run, in_threads: InThreads, eventually: Any, when: str, ending: str) -> None:
    first, second = run.held(), run.held()
    other: concurrent.futures.Future[None] = concurrent.futures.Future()

    def waits() -> Any:
        return concurrent.futures.wait([first, second, other], timeout=PATIENCE, return_when=when)

    def end() -> None:
        eventually(lambda: other._waiters, "the other thread waits")  # type: ignore[attr-defined]
        {"complete": run.complete, "fail": run.fail, "cancel": Future.cancel}[ending](second)
        if when == ALL_COMPLETED or (when == FIRST_EXCEPTION and ending != "fail"):
            run.complete(first)
            other.set_result(None)

    (done, not_done), _ = in_threads(waits, end)
    assert done | not_done == {first, second, other}
    everything = when == ALL_COMPLETED or (when == FIRST_EXCEPTION and ending != "fail")
    assert done == ({first, second, other} if everything else {second})


def test_wait_sees_what_is_done(run: Run) -> None:
    done, waiting = run.held(), run.held()
    run.complete(done)
    assert concurrent.futures.wait([done, waiting], timeout=SOON) == ({done}, {waiting})
    assert concurrent.futures.wait([done], timeout=0).done == {done}
    assert concurrent.futures.wait([done, waiting], return_when=FIRST_COMPLETED).done == {done}


def test_as_completed(run: Run) -> None:
    futures = [run.held() for _ in range(4)]
    run.complete(futures[2])
    what_next = [lambda: run.complete(futures[3]), lambda: run.fail(futures[1]), futures[0].cancel]
    order = []
    for future in concurrent.futures.as_completed(futures, timeout=PATIENCE):
        order.append(futures.index(future))
        if what_next:
            what_next.pop(0)()
    assert order == [2, 3, 1, 0]
    with pytest.raises(concurrent.futures.TimeoutError):
        next(concurrent.futures.as_completed([run.held()], timeout=SOON))


def test_the_standard_library_waits_in_threads_while_others_complete(run: Run, in_threads: Any) -> None:
    """The condition is made while another thread completes the future: neither may miss the other."""
    for _ in range(200):
        future = run.held()
        in_threads(
            lambda f=future: run.complete(f),
            lambda f=future: concurrent.futures.wait([f], timeout=PATIENCE),
            lambda f=future: next(concurrent.futures.as_completed([f], timeout=PATIENCE)),
            lambda f=future: f.result(timeout=PATIENCE),
        )


# -- callbacks --------------------------------------------------------------------------------------------


def test_callbacks_are_called_once_in_order(run: Run) -> None:
    future, called = run.held(), []
    for i in range(5):
        future.add_done_callback(lambda done, i=i: called.append((i, done)))
    assert called == []
    run.complete(future)
    future.add_done_callback(lambda done: called.append((5, done)))
    assert [i for i, _ in called] == list(range(6))
    assert all(done is future for _, done in called)


def test_a_callback_sees_the_value(run: Run) -> None:
    future, seen = run.held(), []
    future.add_done_callback(lambda done: seen.append((done.done(), done.result())))
    run.complete(future, 7)
    assert seen == [(True, 7)]


@pytest.mark.parametrize("raised", [RuntimeError("oops"), SystemExit(3), KeyboardInterrupt()])
@pytest.mark.parametrize("late", [False, True])
def test_a_callback_that_raises_harms_nobody(
    run: Run, caplog: pytest.LogCaptureFixture, raised: BaseException, late: bool
) -> None:
    future, called = run.held(), []
    dependent = run.held(future)

    def broken(_: object) -> None:
        raise raised

    if not late:
        future.add_done_callback(broken)
    future.add_done_callback(called.append)
    with caplog.at_level(logging.ERROR, logger="weft"):
        run.complete(future)
        if late:
            future.add_done_callback(broken)
    assert called == [future]
    assert run.is_held(dependent)
    [record] = caplog.records
    assert "a done callback of <Future of task 0 (nothing), done: NoneType> raised" in record.getMessage()
    assert record.exc_info is not None
    assert record.exc_info[1] is raised


def test_a_callback_may_do_anything(run: Run) -> None:
    future, other, results = run.held(), run.held(), []

    def busy(done: Future[Any]) -> None:
        results.append(run.held())
        results.append(other.cancel())
        done.add_done_callback(results.append)

    future.add_done_callback(busy)
    run.complete(future)
    assert results[1:] == [True, future]
    assert run.is_held(results[0])


# -- cancellation, as the standard library's has it ---------------------------------------------------------


def test_cancelled(run: Run) -> None:
    future, called = run.held(), []
    future.add_done_callback(called.append)
    assert future.cancel()
    assert future.cancelled()
    assert future.done()
    assert called == [future]
    assert future.cancel(), "cancelling again says that it is"
    with pytest.raises(CancelledError, match=r"task 0 \(nothing\)"):
        future.result()
    with pytest.raises(CancelledError, match=r"task 0 \(nothing\)"):
        future.exception()


@pytest.mark.parametrize("ending", ["complete", "fail"])
def test_what_is_done_cannot_be_cancelled(run: Run, ending: str) -> None:
    future = run.held()
    getattr(run, ending)(future)
    assert not future.cancel()
    assert not future.cancelled()


# -- asyncio ----------------------------------------------------------------------------------------------


def test_await(run: Run) -> None:
    value, error, cancelled = run.held(), run.held(), run.held()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        for do in (lambda: run.complete(value, 5), lambda: run.fail(error), cancelled.cancel):
            loop.run_in_executor(None, do)
        assert await value == 5
        assert await value == 5, "a done one too"
        with pytest.raises(ValueError, match="broken"):
            await error
        with pytest.raises(asyncio.CancelledError):
            await cancelled

    asyncio.run(asyncio.wait_for(main(), PATIENCE))


def test_wrap_future_and_gather(run: Run) -> None:
    futures = [run.held() for _ in range(3)]

    async def main() -> list[int]:
        for i, future in enumerate(futures):
            asyncio.get_running_loop().run_in_executor(None, run.complete, future, i)
        wrapped = asyncio.wrap_future(futures[0])
        return [*await asyncio.gather(*futures), await wrapped]

    assert asyncio.run(asyncio.wait_for(main(), PATIENCE)) == [0, 1, 2, 0]


def test_cancelling_what_awaits_cancels_the_task(run: Run) -> None:
    future = run.held()

    async def main() -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.wrap_future(future), SOON)

    asyncio.run(main())
    assert future.cancelled()


def test_shielding_does_not_cancel_the_task(run: Run) -> None:
    future = run.held()

    async def main() -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(future)), SOON)

    asyncio.run(main())
    assert not future.done()


# -- mistakes ---------------------------------------------------------------------------------------------

MISUSES: dict[str, Callable[[Any], object]] = {
    "used as true or false": bool,
    "iterated": list,
    "indexed with 0": lambda future: future[0],
    "indexed with 'key'": lambda future: future["key"],
    "compared with int": lambda future: future == 3,
    "compared with str": lambda future: future != "a",
    "compared with NoneType": lambda future: future == None,  # noqa: E711
    "compared with float": lambda future: future < 1.0,
    "compared with tuple": lambda future: future >= (),
    "compared with bool": lambda future: future >= True,
    "pickled": pickle.dumps,
}

MISUSE_CASES = [
    *MISUSES.items(),
    ("used as true or false", lambda future: not future),
    ("used as true or false", lambda future: 1 if future else 2),
    ("searched", lambda future: 3 in future),
    ("iterated", lambda future: [*future]),
    ("iterated", lambda future: dict(future)),
    ("iterated", lambda future: max(*future)),
    ("compared with int", lambda future: future in [1, 2]),
    ("compared with Future", lambda future: future < future),
    ("compared with Future", lambda future: sorted([future, future])),
    ("pickled", lambda future: pickle.dumps({"a": [future]})),
    ("pickled", copy.copy),
    ("pickled", lambda future: copy.deepcopy([future])),
]


@pytest.mark.parametrize(("how", "misuse"), MISUSE_CASES)
@pytest.mark.parametrize("done", [False, True])
def test_a_misuse_is_named(run: Run, how: str, misuse: Callable[[Any], object], done: bool) -> None:
    future = run.held()
    if done:
        run.complete(future, 3)
    match = r"^<Future of task 0 \(nothing\), .*> cannot be " + how
    with pytest.raises(FutureMisuseError, match=match) as raised:
        misuse(future)
    assert isinstance(raised.value, TypeError)
    remedy = "as an argument" if how == "pickled" else r".result()"
    assert remedy in str(raised.value)
    assert run.kernel.counts().total == 1, "nothing was submitted by accident"


@pytest.mark.parametrize(
    "misuse",
    [
        lambda future: future.set_result(1),
        lambda future: future.set_exception(ValueError()),
        lambda future: future.set_running_or_notify_cancel(),
    ],
)
def test_nobody_else_completes_it(run: Run, misuse: Callable[[Any], object]) -> None:
    future = run.held()
    with pytest.raises(FutureMisuseError, match=r"task 0 \(nothing\).*its run"):
        misuse(future)
    assert not future.done()


@pytest.mark.parametrize("misuse", [lambda f: f + 1, lambda f: f(), len, int, lambda f: f @ f, lambda f: -f])
def test_other_misuses_are_type_errors(run: Run, misuse: Callable[[Any], object]) -> None:
    future = run.held()
    with pytest.raises(TypeError, match="Future"):
        misuse(future)
    assert run.kernel.counts().total == 1


def test_what_it_lacks_is_named_and_nothing_is_submitted(run: Run) -> None:
    future = run.held()
    assert not hasattr(future, "shape")
    assert getattr(future, "shape", None) is None
    with pytest.raises(AttributeError, match=r"no attribute 'shape'; .* task 0 .* has it: .result\(\)"):
        _ = future.shape
    with pytest.raises(AttributeError, match=r"no attribute '_ipython_display_'$"):
        _ = future._ipython_display_
    assert run.kernel.counts().total == 1


def test_it_is_an_ordinary_object_in_containers(run: Run) -> None:
    first, second = run.held(), run.held()
    assert first == first
    assert first != second
    assert first != concurrent.futures.Future()
    assert second in [first, second]
    assert [first, second].index(second) == 1
    assert {first, second, first} == {second, first}
    assert {first: 1, second: 2}[second] == 2
    assert hash(first) == hash(first)
    assert isinstance(first, Future)


def test_it_can_be_typed() -> None:
    assert Future[int].__origin__ is Future  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("end", "text"),
    [
        (lambda run, f: None, "<Future of task 0 (nothing), launched>"),
        (lambda run, f: run.complete(f, [1]), "<Future of task 0 (nothing), done: list>"),
        (lambda run, f: run.fail(f), "<Future of task 0 (nothing), failed: ValueError>"),
        (lambda run, f: f.cancel(), "<Future of task 0 (nothing), cancelled>"),
    ],
)
def test_its_text_says_what_it_is(run: Run, end: Callable[..., Any], text: str) -> None:
    future = run.held()
    waiting = run.held(future)
    assert repr(waiting) == "<Future of task 1 (nothing), pending>"
    end(run, future)
    assert repr(future) == text


def test_its_text_does_not_need_that_of_the_value(run: Run) -> None:
    class Shy:
        def __repr__(self) -> str:
            raise AssertionError("nobody asked")

    future = run.held()
    run.complete(future, Shy())
    assert repr(future) == "<Future of task 0 (nothing), done: Shy>"


# -- memory -----------------------------------------------------------------------------------------------


def test_a_pending_task_is_light(run: Run) -> None:
    number, task = 2_000, (lambda: 1)
    first = run.held()
    make = run.submit
    keep = [None] * number
    make(task, first)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for i in range(number):
            keep[i] = make(task, first)
        size = (tracemalloc.get_traced_memory()[0] - before) / number
    finally:
        tracemalloc.stop()
    assert run.kernel.counts().pending == number + 1
    assert size <= 1_000, f"{size:.0f} bytes for each pending task"


@pytest.mark.usefixtures("no_gc")
def test_a_done_future_keeps_no_arguments(run: Run) -> None:
    value = Value()
    watch = weakref.ref(value)
    first = run.held()
    second = run.held(first, value, [value, first])
    del value
    assert watch() is not None
    run.complete(first)
    assert watch() is not None
    run.complete(second)
    run.manual.submitted.clear()
    assert watch() is None


@pytest.mark.usefixtures("no_gc")
@pytest.mark.parametrize("how", ["cancelled", "failed", "dependency failed"])
def test_one_that_does_not_run_keeps_no_arguments_either(run: Run, how: str) -> None:
    value = Value()
    watch = weakref.ref(value)
    first = run.held()
    second = run.held(first, value)
    del value
    if how == "cancelled":
        second.cancel()
    elif how == "failed":
        run.complete(first)
        run.fail(second)
    else:
        run.fail(first)
    run.manual.submitted.clear()
    assert second.done()
    assert watch() is None


@pytest.mark.usefixtures("no_gc")
@pytest.mark.parametrize("use", ["result", "wait", "callback", "dependent", "join", "gather", "await"])
def test_no_cycle_keeps_a_result(run: Run, use: str) -> None:
    value = Value()
    watch = weakref.ref(value)
    future: Future[Any] = run.held()
    future.add_done_callback(lambda done: done.result())
    dependent = run.held(future) if use == "dependent" else None
    gathered = run.kernel.gather([future]) if use == "gather" else None
    inner = [future]
    joined = run.join(lambda: [inner.pop()]) if use == "join" else None
    inner.clear()
    run.complete(future, value)
    del value
    if use == "result":
        future.result()
    elif use == "wait":
        concurrent.futures.wait([future])
    elif use == "await":
        loop = asyncio.new_event_loop()
        loop.run_until_complete(asyncio.wrap_future(future, loop=loop))
        loop.close()
        gc.collect()  # asyncio has cycles of its own
    elif dependent is not None:
        run.complete(dependent)
        run.manual.submitted.clear()
    assert watch() is not None
    run.manual.submitted.clear()
    del future, gathered, joined
    assert watch() is None


@pytest.mark.usefixtures("no_gc")
def test_no_cycle_keeps_an_error(run: Run) -> None:
    value = Value()
    watch = weakref.ref(value)
    future = run.held()
    dependent, joined = run.held(future), run.kernel.gather([future])
    run.fail(future, ValueError(value))
    del value
    for failed in (future, dependent, joined):
        with contextlib.suppress(Exception):
            failed.result()
    assert watch() is not None
    del future, dependent, joined, failed
    assert watch() is None


def test_a_finished_run_can_be_collected(run: Run) -> None:
    task = run.held()._task
    watch = weakref.ref(run.held())
    assert task is not None
    run.kernel.close(cancel=True)
    assert watch() is None, "nobody holds it but its run"


def test_a_finaliser_may_cancel_whatever_its_thread_is_doing(run: Run) -> None:
    """The collector may run one at any point, also where the kernel or a future holds its lock."""
    future, other = run.held(), run.held()
    cancelled = []

    def finalised() -> None:
        with run.kernel._lock, weft_core.future._guard:
            cancelled.append(future.cancel())
            other.add_done_callback(nothing)

    thread = threading.Thread(target=finalised, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    assert cancelled == [True], "deadlocked"
