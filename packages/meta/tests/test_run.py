from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import weft


@weft.task
def add(a: int, b: int = 0) -> int:
    return a + b


@weft.task
def fail(message: str) -> int:
    raise ValueError(message)


@weft.task
def wait_for(event: threading.Event) -> bool:
    return event.wait(30)


@weft.task
def where() -> str:
    current = weft.current_run()
    assert current is not None
    return current.id


def in_thread(function: Callable[[], Any]) -> Any:
    """What the function gives in a thread that is in no run's context."""
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result(30)


def runs(tmp_path: Path, **settings: Any) -> weft.Run:
    return weft.run(run_dir=tmp_path, **{"shutdown_timeout": 5, **settings})


# -- leaving ------------------------------------------------------------------------------------------------


def test_leaving_waits_for_what_was_submitted(tmp_path: Path) -> None:
    event = threading.Event()
    with runs(tmp_path) as run:
        futures = [wait_for(event), add(wait_for(event), 1)]
        threading.Thread(target=event.set).start()
    assert [future.result(0) for future in futures] == [True, 2]
    assert run.closed
    assert run.leftovers == []
    assert run.counts().done == 3


def test_an_exception_cancels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = {"type": "threads", "workers": 1}
    futures: list[weft.Future[Any]] = []
    event = threading.Event()

    def work() -> None:
        with runs(tmp_path, executors=[table]):
            futures.extend([wait_for(event), add(1), add(fail("x"))])
            futures[2].add_done_callback(lambda _: event.set())
            raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        work()
    assert all(future.done() for future in futures)
    assert futures[2].cancelled()


def test_what_cannot_be_cancelled_is_waited_for_and_then_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    event = threading.Event()
    run = runs(tmp_path, shutdown_timeout=1.5)
    run.start()
    future = wait_for(event)
    while not future.running():
        pass
    run.end(RuntimeError())
    event.set()
    assert future.done()
    said = capsys.readouterr().err
    assert f"weft: run {run.id} waits up to " in said
    assert "(wait_for): runs on 'threads'" in said
    assert f"weft: run {run.id} left over: " in said
    assert "still runs task 'wait_for'" in run.leftovers[0]


def test_calls_to_a_run_that_has_ended_are_refused(tmp_path: Path) -> None:
    with runs(tmp_path) as run:
        add(1).result()
        context = contextvars.copy_context()
    with pytest.raises(weft.RunClosedError, match=f"run {run.id} is closed"):
        context.run(add, 1)
    with pytest.raises(weft.ConfigError, match="was started before"):
        run.start()


def test_calls_while_it_closes_are_refused_and_those_of_tasks_are_not(tmp_path: Path) -> None:
    event, submitted = threading.Event(), threading.Event()

    @weft.task
    def nested() -> weft.Future[int]:
        submitted.set()
        event.wait(30)
        return add(20, 1)

    refused = []

    def late(run: weft.Run) -> None:
        submitted.wait(30)
        while True:
            try:
                run.gather([])
            except weft.RunClosedError as error:
                refused.append(error)
                event.set()
                return

    with runs(tmp_path) as run:
        future = nested()
        thread = threading.Thread(target=late, args=(run,))
        thread.start()
    thread.join(30)
    assert "is closing" in str(refused[0])
    assert future.result(0) == 21


def test_start_and_close_without_a_block(tmp_path: Path) -> None:
    run = runs(tmp_path).start()
    assert weft.current_run() is run
    future = add(1, 2)
    run.close()
    assert future.result(0) == 3
    assert weft.current_run() is None
    other = runs(tmp_path).start()
    event = threading.Event()
    waiting = [wait_for(event) for _ in range(20)]
    for each in waiting:  # those that run go on until one that does not run is cancelled
        each.add_done_callback(lambda _: event.set())
    other.close(cancel=True)
    assert any(future.cancelled() for future in waiting)


def test_a_run_that_cannot_start_leaves_nothing(tmp_path: Path) -> None:
    executor = weft.ThreadExecutor()
    with runs(tmp_path, executors=[executor]) as outer:
        with pytest.raises(weft.ConfigError, match="is running already"):
            runs(tmp_path, executors=[executor]).start()
        assert weft.current_run() is outer
        assert add(1).result() == 1


# -- which run ----------------------------------------------------------------------------------------------


def test_nested_runs(tmp_path: Path) -> None:
    with runs(tmp_path) as outer:
        with runs(tmp_path) as inner:
            assert where().result() == inner.id
            assert in_thread(lambda: where().result()) == inner.id
        assert where().result() == outer.id
        assert in_thread(weft.current_run) is outer
    assert weft.current_run() is None
    assert outer.id != inner.id
    assert outer.directory != inner.directory


def test_two_runs_at_once_in_two_threads(tmp_path: Path) -> None:
    both = threading.Barrier(2, timeout=30)

    def work() -> tuple[str, set[str], str]:
        with runs(tmp_path) as run:
            both.wait()
            seen = set(weft.gather([where() for _ in range(50)]).result())
            try:
                in_thread(where)
                said = ""
            except weft.InputError as error:
                said = str(error)
            with run.use():
                assert weft.current_run() is run
            both.wait()
            return run.id, seen, said

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda _: work(), range(2)))
    for run_id, seen, said in results:
        assert seen == {run_id}
        assert said.startswith("where: 2 runs are open (")
        assert "with run.use():" in said


def test_a_task_sees_its_own_run_also_when_it_submits(tmp_path: Path) -> None:
    @weft.task
    def nested() -> str:
        return where().result()

    @weft.join
    def joined() -> list[weft.Future[str]]:
        return [where()]

    with runs(tmp_path) as outer:
        event = threading.Event()

        @weft.task
        def late() -> str:
            event.wait(30)
            return nested().result()

        future, join_future = late(), joined()
        with runs(tmp_path):
            event.set()
            assert future.result() == outer.id
            assert join_future.result() == [outer.id]


def test_futures_of_another_run_are_arguments_as_any_other(tmp_path: Path) -> None:
    with runs(tmp_path):
        event = threading.Event()
        foreign = wait_for(event)
        with runs(tmp_path):
            future = add(foreign, 1)
            event.set()
            assert future.result() == 2
            with pytest.raises(weft.DependencyError, match="fail"):
                add(fail("x")).result()


def test_foreign_futures_of_the_standard_library(run: weft.Run) -> None:
    done: concurrent.futures.Future[int] = concurrent.futures.Future()
    future = add(done, 1)
    done.set_result(41)
    assert future.result() == 42
    failed: concurrent.futures.Future[int] = concurrent.futures.Future()
    failed.set_exception(OSError("disk"))
    with pytest.raises(weft.DependencyError) as caught:
        add(failed).result()
    assert isinstance(caught.value.__cause__, OSError)
    cancelled: concurrent.futures.Future[int] = concurrent.futures.Future()
    cancelled.cancel()
    with pytest.raises(weft.DependencyError):
        add(cancelled).result()


def test_asyncio(tmp_path: Path) -> None:
    async def work() -> list[int]:
        with runs(tmp_path):
            return [await add(1, 2), *await asyncio.gather(*(asyncio.wrap_future(add(i)) for i in range(3)))]

    assert asyncio.run(work()) == [3, 0, 1, 2]


def test_a_future_is_not_its_value(run: weft.Run) -> None:
    future = add(1)
    before = run.counts().total
    for misuse in (bool, list, lambda f: f < 2, lambda f: f == 1, lambda f: f[0]):
        with pytest.raises(weft.FutureMisuseError, match=r"\.result\(\)"):
            misuse(future)
    assert not hasattr(future, "x")
    assert run.counts().total == before


# -- joins, gather, as_completed ----------------------------------------------------------------------------


def test_join_tasks_occupy_no_worker(tmp_path: Path) -> None:
    @weft.join
    def fibonacci(n: int) -> weft.Future[int]:
        if n < 2:
            return add(n)
        return add(fibonacci(n - 1), fibonacci(n - 2))

    with runs(tmp_path, executors=[{"type": "threads", "workers": 1}]):
        assert fibonacci(10).result(60) == 55


def test_gather(run: weft.Run) -> None:
    assert weft.gather([add(1), add(2)]).result() == [1, 2]
    assert weft.gather({"a": add(1), "b": [add(2), 3]}).result() == {"a": 1, "b": [2, 3]}
    assert weft.gather(add(1), add(2)).result() == (1, 2)
    with pytest.raises(ValueError, match="broken"):
        weft.gather([add(1), fail("broken")]).result()


def test_as_completed(run: weft.Run) -> None:
    event = threading.Event()
    slow, quick = wait_for(event), add(1)
    iterator = weft.as_completed([slow, quick], timeout=30)
    assert next(iterator) is quick
    event.set()
    assert next(iterator) is slow


# -- map ----------------------------------------------------------------------------------------------------


def test_map_in_order_and_as_done(run: weft.Run) -> None:
    assert list(weft.map(add, range(1000), range(1000))) == [2 * i for i in range(1000)]
    assert sorted(weft.map(abs, range(-5, 0), ordered=False)) == [1, 2, 3, 4, 5]
    assert list(weft.map(add, [])) == []


def test_map_keeps_pace(run: weft.Run) -> None:
    taken = 0

    def source() -> Iterator[int]:
        nonlocal taken
        while taken < 100_000:
            yield taken
            taken += 1

    for index, value in enumerate(weft.map(add, source(), limit=10)):
        assert value == index
        assert taken <= index + 10
        if index == 2000:
            break
    assert run.counts().total <= 2020


def test_ending_a_map_early_cancels_what_has_not_begun(tmp_path: Path) -> None:
    event = threading.Event()
    with runs(tmp_path, executors=[{"type": "threads", "workers": 1}]) as run:

        def work(index: int) -> int:
            if index:
                event.wait(30)
            return index

        results = weft.map(work, range(1000), limit=50)
        assert next(results) == 0
        results.close()  # type: ignore[attr-defined]
        event.set()
        assert run.wait(30)
        assert run.counts().cancelled >= 45


def test_map_belongs_to_the_run_in_which_it_was_called(tmp_path: Path) -> None:
    with runs(tmp_path) as outer:
        results = weft.map(lambda _: where.function(), range(3))
        with runs(tmp_path):
            assert set(weft.map(lambda _: where.function(), range(3))) != {outer.id}
            assert set(weft.map(lambda _: 1, range(3))) == {1}
    with pytest.raises(weft.RunClosedError):
        list(results)


def test_errors_come_in_place(run: weft.Run) -> None:
    results = weft.map(lambda x: 1 // x, [1, 0, 2])
    assert next(results) == 1
    with pytest.raises(ZeroDivisionError):
        next(results)


@pytest.mark.parametrize(
    ("arguments", "settings", "said"),
    [
        ((add,), {}, "it needs at least one iterable"),
        ((add, [1]), {"limit": 0}, "limit: 0 is not a whole number, at least 1"),
        ((add, [1]), {"limit": "x"}, "limit: 'x' is not a whole number, at least 1"),
        ((add, 3), {}, "'int' object is not iterable"),
        ((3, [1]), {}, "3 is no function"),
    ],
)
def test_a_wrong_map_fails_at_the_call(
    run: weft.Run, arguments: tuple[Any, ...], settings: dict[str, Any], said: str
) -> None:
    with pytest.raises((weft.InputError, TypeError)) as caught:
        weft.map(*arguments, **settings)
    assert said in str(caught.value)
    assert run.counts().total == 0


# -- the rest -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("executor", [None, "threads", {"type": "threads", "workers": 1}])
def test_pool(executor: Any) -> None:
    with weft.pool(executor) as pool:
        assert list(pool.map(pow, [2, 3], [2, 2])) == [4, 9]


def test_pool_of_an_executor_object() -> None:
    with weft.pool(weft.ThreadExecutor()) as pool:
        assert pool.submit(lambda: 3).result() == 3


def test_remaining(run: weft.Run) -> None:
    assert weft.remaining() is None

    @weft.task
    def left() -> float | None:
        return weft.remaining()

    assert left().result() is None
    seconds = left.options(timeout=50)().result()
    assert seconds is not None
    assert 0 < seconds <= 50


def test_a_task_is_told_before_its_time_is_over(run: weft.Run) -> None:
    @weft.task(timeout=30)
    def told(seconds: float) -> float | None:
        left: list[float | None] = []
        said = threading.Event()

        def tell() -> None:
            left.append(weft.remaining())
            said.set()

        with weft.on_walltime(tell, seconds):
            said.wait(5.0 if seconds > 1 else 0.2)
        return left[0] if left else None

    early = told(29.5).result(timeout=20)
    assert early is not None
    assert 28 < early <= 29.5
    assert told(1).result(timeout=20) is None, "there is more time than that"


def test_nothing_is_told_of_a_task_that_has_ended(run: weft.Run) -> None:
    told = threading.Event()

    @weft.task(timeout=2)
    def short() -> None:
        weft.on_walltime(told.set, seconds=1)

    short().result(timeout=20)
    assert not told.wait(1.5)


def test_notices_belong_to_tasks(run: weft.Run) -> None:
    with pytest.raises(weft.InputError, match="outside a task"):
        weft.on_walltime(print)

    @weft.task
    def in_a_thread() -> None:
        weft.on_walltime(signal.SIGUSR1)

    with pytest.raises(weft.InputError, match="takes no signals"):
        in_a_thread().result(timeout=20)


def test_the_words_that_start_ranks(run: weft.Run) -> None:
    with pytest.raises(weft.InputError, match="outside a task"):
        weft.mpi_prefix()
    prefix = weft.task(weft.mpi_prefix)
    assert prefix().result(timeout=20) == []
    assert prefix.options(ranks=4)().result(timeout=20) == ["mpirun", "-n", "4"]


def test_nothing_is_written_unless_something_is_put_there(tmp_path: Path) -> None:
    with runs(tmp_path / "runs") as run:
        add(1).result()
    assert not (tmp_path / "runs").exists()
    assert run.directory.parent == tmp_path / "runs"


def test_names_of_runs_are_never_the_same(tmp_path: Path) -> None:
    ids = {runs(tmp_path, name="census").id for _ in range(200)}
    assert len(ids) == 200
    assert all(one.startswith("census-2") for one in ids)


def test_a_configuration_serves_many_runs(tmp_path: Path) -> None:
    for executors in (["threads"], [weft.ThreadExecutor("mine", workers=2)]):
        config = weft.Config(executors=executors, run_dir=tmp_path, retries=1)
        before = repr(config)
        for _ in range(3):
            with weft.run(config):
                assert add(1).result() == 1
        assert repr(config) == before
    config = weft.Config(run_dir=tmp_path)
    with weft.run(config), weft.run(config):
        assert add(1).result() == 1


@pytest.mark.parametrize("wrong", [3, ["threads"], object()])
def test_what_is_no_configuration(wrong: Any) -> None:
    with pytest.raises(weft.ConfigError, match=r"neither a weft\.Config nor the path of a TOML file"):
        weft.run(wrong)


def test_overrides(tmp_path: Path) -> None:
    file = tmp_path / "site.toml"
    file.write_text('retries = 3\n[[executors]]\ntype = "threads"\nworkers = 3\n')
    run = weft.run(file, retries=1, run_dir=tmp_path)
    assert run.config.retries == 1
    assert run.executors["threads"].load().max_slots == 3
    with pytest.raises(weft.ConfigError, match="retris: unknown key; did you mean 'retries'"):
        weft.run(file, retris=1)
    assert "on threads: 0 of 0 tasks done" in repr(run)
