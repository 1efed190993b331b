"""A task may return futures; it is done when they are, and no worker waits."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable
from concurrent.futures import CancelledError
from typing import Any

import pytest
from weft_core import Kernel
from weft_interfaces import ConfigError, DependencyError, PickleSerializer
from weft_interfaces.memory import InMemoryExecutor, ManualExecutor

Run = Any  # the class of conftest.py
PATIENCE = 20.0


@pytest.mark.parametrize("value", [[], {}, (), None, 3, [1, {"a": (2,)}], "text"])
def test_a_value_without_futures_is_the_value(run: Run, value: Any) -> None:
    joined = run.join(lambda: value)
    assert joined.result(timeout=0) is value


def test_one_future(run: Run) -> None:
    inner = run.held()
    joined = run.join(lambda: inner)
    assert not joined.done()
    assert run.kernel.counts().joining == 1
    run.complete(inner, 6)
    assert joined.result(timeout=0) == 6


def test_nested_structures(run: Run) -> None:
    a, b = run.held(), run.held()
    joined = run.join(lambda: {"first": [a, (b, 1)], b: a})
    run.complete(a, 1)
    assert not joined.done()
    run.complete(b, "b")
    assert joined.result(timeout=0) == {"first": [1, ("b", 1)], "b": 1}


def test_what_is_done_already(run: Run) -> None:
    inner = run.held()
    run.complete(inner, 1)
    assert run.join(lambda: [inner, inner]).result(timeout=0) == [1, 1]


def test_no_worker_is_held_while_it_waits(run: Run) -> None:
    inner = run.held()
    joined = run.join(lambda: inner)
    assert not joined.running()
    assert run.kernel._all_executors[1].load().running == 0


def test_dependents_of_a_join_get_the_values(run: Run) -> None:
    inner = run.held()
    after = run.held([run.join(lambda: [inner])])
    assert not run.is_held(after)
    run.complete(inner, 2)
    assert run.args_of(after) == ([[2]],)


def test_a_join_waits_for_its_own_arguments(run: Run) -> None:
    first, inner = run.held(), run.held()
    joined = run.join(lambda n: [inner] * n, first)
    run.complete(first, 3)
    run.complete(inner, 0)
    assert joined.result(timeout=0) == [0, 0, 0]


def test_the_first_error_is_the_joins(run: Run) -> None:
    a, b = run.held(), run.held()
    joined = run.join(lambda: [a, b])
    run.fail(b, OSError("no"))
    assert isinstance(joined.exception(timeout=0), OSError)
    assert not a.done(), "the others go on"
    run.complete(a)


def test_a_body_that_raises(make_run: Callable[..., Run]) -> None:
    run = make_run(retries=1)
    tries = []

    def body() -> None:
        tries.append(1)
        raise OSError("no")

    assert isinstance(run.join(body, retries=0).exception(timeout=0), OSError)
    assert len(tries) == 1
    assert isinstance(run.join(body).exception(timeout=0), OSError)
    assert len(tries) == 3, "a body is retried as any other"


def test_what_it_waits_for_is_not_retried_with_it(make_run: Callable[..., Run]) -> None:
    run = make_run()
    tries, inner = [], run.held()

    def body() -> Any:
        tries.append(1)
        return inner

    joined = run.join(body, retries=3)
    run.fail(inner)
    assert joined.done()
    assert tries == [1]


def test_a_cancelled_future_cancels_the_join(run: Run) -> None:
    inner = run.held()
    joined = run.join(lambda: [inner])
    inner.cancel()
    assert joined.cancelled()
    with pytest.raises(CancelledError):
        joined.result(timeout=0)


@pytest.mark.parametrize("how", ["value", "error", "cancel"])
def test_foreign_futures(run: Run, how: str) -> None:
    foreign: concurrent.futures.Future[int] = concurrent.futures.Future()
    joined = run.join(lambda: [foreign])
    if how == "value":
        foreign.set_result(1)
        assert joined.result(timeout=0) == [1]
    elif how == "error":
        foreign.set_exception(OSError("no"))
        assert isinstance(joined.exception(timeout=0), OSError)
    else:
        foreign.cancel()
        assert joined.cancelled()


def test_a_future_of_another_run(run: Run, make_run: Callable[..., Run]) -> None:
    other = make_run()
    theirs = other.held()
    joined = run.join(lambda: theirs)
    other.complete(theirs, 5)
    assert joined.result(timeout=0) == 5


def test_a_plain_task_that_returns_a_future_is_a_join(run: Run) -> None:
    inner, outer = run.held(), run.held()
    run.complete(outer, inner)
    assert not outer.done()
    run.complete(inner, 8)
    assert outer.result(timeout=0) == 8


def test_a_plain_task_that_returns_a_list_of_them_is_not(run: Run) -> None:
    inner, outer = run.held(), run.held()
    run.complete(outer, [inner])
    assert outer.result(timeout=0) == [inner]


def test_a_join_of_joins(run: Run) -> None:
    inner = run.held()

    def body(depth: int) -> Any:
        return [run.join(body, depth - 1)] if depth else inner

    joined = run.join(body, 5)
    run.complete(inner, "x")
    assert joined.result(timeout=0) == [[[[["x"]]]]]


def test_a_loop_of_joins_is_linear_and_needs_no_stack(run: Run) -> None:
    """Each turn is a join that returns the next, as a while loop is written."""
    gates = [run.held() for _ in range(3_000)]

    def turn(_: Any, i: int) -> Any:
        return run.join(turn, gates[i + 1], i + 1) if i + 1 < len(gates) else "over"

    joined = run.join(turn, gates[0], 0)
    for gate in gates:
        run.complete(gate)
    assert joined.result(timeout=0) == "over"


# -- gather -------------------------------------------------------------------------------------------------


def test_gather(run: Run) -> None:
    a, b = run.held(), run.held()
    gathered = run.kernel.gather({"a": [a], "b": b})
    assert gathered.task_name == "gather"
    run.complete(a, 1)
    run.complete(b, 2)
    assert gathered.result(timeout=0) == {"a": [1], "b": 2}
    assert len(run.manual.submitted) == 2, "it is no work for an executor"


@pytest.mark.parametrize("value", [[], None, {"a": 1}])
def test_gathering_nothing(run: Run, value: Any) -> None:
    assert run.kernel.gather(value).result(timeout=0) is value


def test_gathering_is_no_dependency(run: Run) -> None:
    a = run.held()
    gathered = run.kernel.gather([a])
    run.fail(a, KeyError("k"))
    assert isinstance(gathered.exception(timeout=0), KeyError)
    assert not isinstance(gathered.exception(), DependencyError)


# -- where the body runs ------------------------------------------------------------------------------------


def processes(label: str = "processes") -> InMemoryExecutor:
    """One whose calls cross a serializer, as if it had processes."""
    return InMemoryExecutor(label, serializer=PickleSerializer())


def test_the_body_runs_in_this_process(tmp_path: Any, spec: Any) -> None:
    manual, near = ManualExecutor("far", serializer=PickleSerializer()), InMemoryExecutor("near")
    with Kernel([manual, near], directory=tmp_path) as kernel:
        assert kernel.submit(spec(lambda: kernel.gather([1]), join=True)).result(timeout=0) == [1]
        assert not manual.submitted


def test_a_join_needs_a_process_to_run_in(tmp_path: Any, spec: Any) -> None:
    with Kernel([processes()], directory=tmp_path) as kernel:
        with pytest.raises(
            ConfigError, match=r"join task 'fan_out' needs an executor .* 'processes': add one"
        ):
            kernel.submit(spec(print, join=True, name="fan_out"))
        assert kernel.counts().total == 0


def test_the_helper_runs_joins_and_nothing_else(tmp_path: Any, spec: Any) -> None:
    manual, helper = ManualExecutor("m"), ManualExecutor("helper")
    with Kernel([manual], directory=tmp_path, helper=helper) as kernel:
        kernel.submit(spec(len, join=True), ([],))
        kernel.submit(spec(len), ([],))
        assert (manual.held, helper.held) == ([1], [0])
        with pytest.raises(ConfigError, match="'helper' is not in this run"):
            kernel.submit(spec(print, executors=("helper",)))
        helper.run_all()
        manual.run_all()
