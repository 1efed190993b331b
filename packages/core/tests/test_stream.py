"""Results as they come, and submission that keeps pace with them."""

from __future__ import annotations

import concurrent.futures
import itertools
import threading
from collections.abc import Callable
from typing import Any

import pytest
from weft_core import Kernel, as_completed, map_bounded

Run = Any  # the class of conftest.py
PATIENCE = 20.0


def test_as_completed_follows_the_order_of_completion(run: Run) -> None:
    futures = [run.held() for _ in range(4)]
    foreign: concurrent.futures.Future[int] = concurrent.futures.Future()
    stream = as_completed([*futures, foreign, futures[0]], timeout=PATIENCE)
    order = []
    for finish in (
        lambda: run.complete(futures[2]),
        lambda: foreign.set_result(1),
        lambda: run.fail(futures[0]),
        futures[3].cancel,
        lambda: run.complete(futures[1]),
    ):
        finish()
        order.append(next(stream))
    assert order == [futures[2], foreign, futures[0], futures[3], futures[1]]
    assert next(stream, None) is None, "each once"


def test_as_completed_ends_at_its_timeout(run: Run) -> None:
    done, waiting = run.held(), run.held()
    run.complete(done)
    stream = as_completed([done, waiting], timeout=0.01)
    assert next(stream) is done
    with pytest.raises(concurrent.futures.TimeoutError, match="1 of 2 futures are not done in time"):
        next(stream)
    assert list(as_completed([])) == []


def test_as_completed_waits(run: Run, in_threads: Callable[..., Any], eventually: Any) -> None:
    future = run.held()

    def complete() -> None:
        eventually(lambda: future.subscribers(), "it waits")
        run.complete(future, 3)

    [seen], _ = in_threads(lambda: [f.result() for f in as_completed([future])], complete)
    assert seen == 3


@pytest.mark.parametrize("ordered", [True, False])
def test_map_submits_only_so_far_ahead(run: Run, ordered: bool) -> None:
    taken = []

    def arguments() -> Any:
        for i in itertools.count():
            taken.append(i)
            yield i

    futures: dict[int, Any] = {}

    def submit(i: int) -> Any:
        futures[i] = run.held(i)
        if ordered or i != 2:
            run.complete(futures[i], i * i)
        return futures[i]

    results = map_bounded(submit, [arguments()], limit=3, ordered=ordered)
    for expected in (0, 1, 4, 9) if ordered else (0, 1, 9, 16):
        assert next(results) == expected
        assert len(taken) <= expected**0.5 + 1 + 3, "never more than three ahead, of an endless iterable"
    results.close()  # type: ignore[attr-defined]
    assert all(future.done() for future in futures.values()), "what is left was cancelled"
    assert ordered or futures[2].cancelled()


@pytest.mark.parametrize("ordered", [True, False])
def test_map_gives_everything(memory_kernel: Kernel, spec: Any, ordered: bool) -> None:
    task = spec(lambda a, b: a * b)
    results = map_bounded(
        lambda *args: memory_kernel.submit(task, args), [range(100), range(1, 101)], limit=7, ordered=ordered
    )
    expected = [i * (i + 1) for i in range(100)]
    assert (list(results) if ordered else sorted(results)) == expected


@pytest.mark.parametrize("ordered", [True, False])
def test_map_ends_at_an_error_and_cancels_the_rest(run: Run, ordered: bool) -> None:
    futures = []

    def submit(i: int) -> Any:
        futures.append(run.held())
        if i == 1:
            run.fail(futures[1], KeyError("one"))
        elif i == 0:
            run.complete(futures[0], "zero")
        return futures[i]

    results = map_bounded(submit, [range(10)], limit=4, ordered=ordered)
    assert next(results) == "zero"
    with pytest.raises(KeyError):
        next(results)
    assert 4 <= len(futures) <= 5
    assert all(future.cancelled() for future in futures[2:])


def test_map_of_nothing(run: Run) -> None:
    assert list(map_bounded(run.held, [[]], limit=3)) == []


def test_a_map_inside_a_task_lends_the_slot(spawning_kernel: Kernel, spec: Any) -> None:
    """In a task, waiting for others is announced to the worker."""
    inner = spec(lambda i: i + 1)

    def outer() -> int:
        submit = lambda i: spawning_kernel.submit(inner, (i,))  # noqa: E731
        return sum(map_bounded(submit, [range(50)], limit=5)) + sum(
            future.result() for future in as_completed([submit(1), submit(2)])
        )

    assert spawning_kernel.submit(spec(outer)).result(timeout=PATIENCE) == sum(range(1, 51)) + 5
    assert threading.active_count() < 60
