"""What is done with futures, and with many calls at once."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any, TypeVar, overload

from weft_core import as_completed, map_bounded
from weft_interfaces import InputError, as_pool, current_worker, parse_seconds

from ._current import find_run, variable
from ._run import start_default_run
from ._task import BoundTask, TaskFunction, task

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from weft_core import Future
    from weft_interfaces import Executor, ExecutorPool, Notice

__all__ = ["as_completed", "gather", "map", "on_walltime", "pool", "remaining"]

R = TypeVar("R")
K = TypeVar("K")
_LEAST_AHEAD = 256
_AHEAD_PER_SLOT = 8


@overload
def gather(value: list[Future[R]], /) -> Future[list[R]]: ...
@overload
def gather(value: tuple[Future[R], ...], /) -> Future[tuple[R, ...]]: ...
@overload
def gather(value: dict[K, Future[R]], /) -> Future[dict[K, R]]: ...
@overload
def gather(value: Future[R], /, *more: Future[R]) -> Future[tuple[R, ...]]: ...
@overload
def gather(value: Any, /, *more: Any) -> Future[Any]: ...
def gather(value: Any, /, *more: Any) -> Any:
    """A future of ``value`` with every future in it, at any depth, replaced by its value; of several values,
    of their tuple.

    It fails with the error of the first that fails, at once; cancelling it cancels those that are not done.
    The futures may be of any run, or of :mod:`concurrent.futures`.
    """
    run = variable.get() or find_run("weft.gather", start_default_run)
    return run.gather((value, *more) if more else value)


@overload
def map(  # noqa: A001
    function: TaskFunction[..., R],
    /,
    *iterables: Iterable[Any],
    limit: int | None = None,
    ordered: bool = True,
) -> Iterator[R]: ...
@overload
def map(  # noqa: A001
    function: Callable[..., R], /, *iterables: Iterable[Any], limit: int | None = None, ordered: bool = True
) -> Iterator[R]: ...
def map(  # noqa: A001
    function: Any, /, *iterables: Iterable[Any], limit: int | None = None, ordered: bool = True
) -> Iterator[Any]:
    """The values of ``function(*arguments)`` for the arguments that ``zip(*iterables)`` gives, each call a
    task.

    At most ``limit`` tasks are submitted ahead of the value that is asked for (unless said 8 for each worker
    slot, at least 256), so that memory stays flat however long the iterables are. Values come in order, or
    with ``ordered=False`` as they get done; the error of a call is raised in its place. Ending the iteration
    early cancels what was submitted and is not done. The run is the one that is current when ``map`` is
    called.
    """
    if not iterables:
        raise InputError("weft.map: it needs at least one iterable")
    sources = [iter(iterable) for iterable in iterables]
    if limit is not None and (type(limit) is not int or limit < 1):
        raise InputError(f"weft.map: limit: {limit!r} is not a whole number, at least 1")
    if not isinstance(function, (TaskFunction, BoundTask)):
        function = task(function)
    run = variable.get() or find_run("weft.map", start_default_run)
    if limit is None:
        loads = [executor.load() for executor in run.executors.values()]
        slots = sum(max(load.slots, load.max_slots) for load in loads)
        limit = max(_LEAST_AHEAD, _AHEAD_PER_SLOT * slots)

    def submit(*arguments: Any) -> Any:
        return function.submit_to(run, *arguments)

    return map_bounded(submit, sources, limit=limit, ordered=ordered)


def pool(executor: Executor | str | Mapping[str, Any] | None = None) -> ExecutorPool:
    """A :class:`concurrent.futures.Executor` that runs its calls on this executor, without tasks and runs
    around them.

    executor: as in :class:`Config`; processes of this machine unless said: threads, the standard library has
    as well. Use it as a context manager.
    """
    if executor is None:
        executor = "processes"
    from ._config import Config

    return as_pool(Config(executors=[executor]).make_executors()[0])


def remaining() -> float | None:
    """In a task: the seconds until it is stopped, by its timeout or the end of its block. None if nothing
    will stop it.
    """
    worker = current_worker()
    return None if worker is None else worker.remaining()


def on_walltime(tell: Callable[[], object] | int, seconds: float | str = 60) -> Notice:
    """In a task: have ``tell`` called when the task has no more than so many seconds left, time to save its
    state.

    Once, in a thread of its own; at once, if there is less left already. What counts is :func:`remaining`:
    the task's timeout, and the end of its block, also when the batch system moves it. ``tell`` may be a
    signal, such as ``signal.SIGUSR1``: it is sent to the command, in a :func:`shell` task, else to the worker
    process that runs the task.

    Nothing is told once the task has ended, or the returned notice was cancelled; that is also a context
    manager. Raises :class:`InputError` outside a task, and for signals where there is no process to take
    them.
    """
    worker = current_worker()
    if worker is None or worker.call is None:
        raise InputError("weft.on_walltime: it was called outside a task, where nothing ends")
    left = parse_seconds(seconds, "seconds")
    if callable(tell):
        return worker.notify(tell, left)
    if not worker.takes_signals:
        raise InputError(
            f"weft.on_walltime: task {worker.call.options.name!r} runs in a thread, which takes no signals: "
            "give a function, or run the task on an executor with worker processes"
        )
    number = signal.Signals(tell)
    return worker.notify(lambda: worker.signal(number), left)
