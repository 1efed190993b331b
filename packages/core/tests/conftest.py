from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from weft_core import Future, Kernel, TaskSpec
from weft_interfaces import BaseExecutor, Call, CallOptions, ExecutorContext, Resources, RunClosedError
from weft_interfaces.memory import InMemoryExecutor, ManualExecutor, run_call

PATIENCE = 20.0  # no test waits longer for what must happen


class Run:
    """A kernel on one ManualExecutor, and what tests say to both in one word."""

    def __init__(self, kernel: Kernel, manual: ManualExecutor) -> None:
        self.kernel = kernel
        self.manual = manual
        self._held = spec(nothing)

    def submit(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Future[Any]:
        """A call whose keyword arguments all go to the function."""
        return self.kernel.submit(spec(function), args, kwargs)

    def held(self, *args: Any) -> Future[Any]:
        """A task that waits for ``args``; the test says what comes of it."""
        return self.kernel.submit(self._held, args)

    def join(self, function: Callable[..., Any], *args: Any, **options: Any) -> Future[Any]:
        return self.kernel.submit(spec(function, join=True, **options), args)

    def call_id(self, future: Future[Any]) -> int:
        task = future._task
        assert task is not None, f"{future} is done"
        return task.call_id

    def complete(self, future: Future[Any], value: Any = None) -> None:
        self.manual.complete(self.call_id(future), value)

    def fail(self, future: Future[Any], error: BaseException | None = None) -> None:
        self.manual.fail(self.call_id(future), error or ValueError("broken"))

    def is_held(self, future: Future[Any]) -> bool:
        return future._task is not None and future._task.call_id in self.manual.held

    def args_of(self, future: Future[Any]) -> Any:
        """What the executor was given for a task that is launched."""
        return self.manual.submitted[self.call_id(future)].args


def nothing(*args: Any, **kwargs: Any) -> None:
    """A body that no test runs, or that does nothing."""


def spec(
    function: Callable[..., Any],
    *,
    name: str | None = None,
    join: bool = False,
    retries: int | None = None,
    executors: tuple[str, ...] | None = None,
    cpus: float = 1,
    **options: Any,
) -> TaskSpec:
    name = name or getattr(function, "__name__", "task")
    call_options = CallOptions(name=name, resources=Resources(cpus=cpus), **options)
    return TaskSpec(function=function, options=call_options, join=join, retries=retries, executors=executors)


def eventually(condition: Callable[[], object], what: str) -> None:
    """Wait for something of which no notice is given."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"not within {PATIENCE:g} s: {what}"
        time.sleep(0.001)


def in_threads(*functions: Callable[[], Any]) -> list[Any]:
    """Run functions at once, each in a thread; what they returned. What one raises is raised."""
    results: list[Any] = [None] * len(functions)
    errors: list[BaseException] = []
    barrier = threading.Barrier(len(functions))

    def run(index: int, function: Callable[[], Any]) -> None:
        try:
            barrier.wait(PATIENCE)
            results[index] = function()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=item, daemon=True) for item in enumerate(functions)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert not any(thread.is_alive() for thread in threads), "a thread hangs"
    if errors:
        raise errors[0]
    return results


MakeRun = Callable[..., Run]


@pytest.fixture
def make_run(tmp_path: Path) -> Iterator[MakeRun]:
    """Make started runs; options go to the kernel. All are closed afterwards, and kept their promises."""
    runs: list[Run] = []

    def make(*, manual: ManualExecutor | None = None, inline: bool = True, **options: Any) -> Run:
        manual = manual or ManualExecutor("manual", slots=4)
        # Bodies of join tasks run at once in memory; all else waits for the test.
        helper = InMemoryExecutor("inline") if inline else None
        kernel = Kernel([manual], directory=tmp_path / "run", helper=helper, **options)
        kernel.start()
        runs.append(Run(kernel, manual))
        return runs[-1]

    yield make
    for run in runs:
        run.kernel.close(cancel=True)
        assert run.kernel.closed
        assert run.manual.misuses == []
        assert not run.kernel._tasks, "tasks are left"
        assert run.kernel.counts().active == 0


@pytest.fixture
def run(make_run: MakeRun) -> Run:
    """A started run; the test drives its executor by hand."""
    return make_run()


@pytest.fixture
def memory_kernel(tmp_path: Path) -> Iterator[Kernel]:
    """A started kernel that runs every call at once, in the thread that submits it."""
    kernel = Kernel([InMemoryExecutor(slots=4)], directory=tmp_path / "run")
    kernel.start()
    yield kernel
    kernel.close(cancel=True)
    assert not kernel._tasks, "tasks are left"


@pytest.fixture(name="spec")
def _spec() -> Callable[..., TaskSpec]:
    return spec


@pytest.fixture(name="eventually")
def _eventually() -> Callable[..., None]:
    return eventually


@pytest.fixture(name="in_threads")
def _in_threads() -> Callable[..., list[Any]]:
    return in_threads


@pytest.fixture
def no_gc() -> Iterator[None]:
    """Without the collector of cycles, what dies has died by reference counting alone."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


class Spawning(BaseExecutor):
    """Runs each call in a thread of its own, so that no call ever waits for a worker."""

    in_process = True

    def __init__(self, label: str = "spawning") -> None:
        super().__init__(label)
        self._context: ExecutorContext | None = None
        self._threads: dict[int, threading.Thread] = {}

    def start(self, context: ExecutorContext) -> None:
        self._context = context

    def submit(self, calls: Sequence[Call]) -> None:
        if self._context is None:
            raise RunClosedError(f"executor {self.label!r} is not running")
        for call in calls:
            thread = threading.Thread(target=self._run, args=(call, self._context), daemon=True)
            self._threads[call.id] = thread
            thread.start()

    def _run(self, call: Call, context: ExecutorContext) -> None:
        context.completed([run_call(call)])
        del self._threads[call.id]

    def running(self) -> Collection[int]:
        return list(self._threads)

    def shutdown(self, *, cancel: bool = False, timeout: float = 10.0) -> list[str]:
        self._context = None
        for thread in list(self._threads.values()):
            thread.join(PATIENCE)
            assert not thread.is_alive(), "a task hangs"
        return []


@pytest.fixture
def spawning_kernel(tmp_path: Path) -> Iterator[Kernel]:
    """A started kernel on threads, as many as there are calls."""
    kernel = Kernel([Spawning()], directory=tmp_path / "run")
    kernel.start()
    yield kernel
    kernel.close(cancel=True)
    assert not kernel._tasks, "tasks are left"
