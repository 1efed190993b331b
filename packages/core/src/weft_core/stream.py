"""Many tasks at once: results as they come, and submission that keeps pace with them."""

from __future__ import annotations

import queue
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future as AnyFuture
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import nullcontext
from typing import Any, TypeVar, cast

from ._interfaces import current_worker
from .patience import wait_in_pieces

__all__ = ["as_completed", "map_bounded"]

F = TypeVar("F", bound="AnyFuture[Any]")


def as_completed(futures: Iterable[F], timeout: float | None = None) -> Iterator[F]:
    """The futures, each once, in the order in which they get done.

    Raises :class:`TimeoutError` when some are not done ``timeout`` seconds after the first was asked for.
    """
    waiting = set(futures)
    done: queue.SimpleQueue[F] = queue.SimpleQueue()
    for future in waiting:
        future.add_done_callback(cast("Callable[[AnyFuture[Any]], object]", done.put))
    deadline = None if timeout is None else time.monotonic() + timeout
    total = len(waiting)
    while waiting:
        future = _next_done(done, deadline, len(waiting), total)
        waiting.discard(future)
        yield future


def map_bounded(
    submit: Callable[..., AnyFuture[Any]],
    iterables: Iterable[Iterable[Any]],
    *,
    limit: int,
    ordered: bool = True,
) -> Iterator[Any]:
    """The results of ``submit(*arguments)`` for the arguments that ``zip(*iterables)`` gives.

    At most ``limit`` tasks are submitted ahead of the result that is asked for, so that memory stays flat
    however long the iterables are. Results come in the order of the arguments, or with ``ordered=False`` as
    they get done. A task's error is raised in its place. Ending the iteration early, also by an error,
    cancels the tasks that are left.
    """
    ahead = _InOrder() if ordered else _AsDone()
    try:
        for arguments in zip(*iterables, strict=False):
            ahead.add(submit(*arguments))
            if len(ahead) >= limit:
                yield ahead.take()
        while len(ahead):
            yield ahead.take()
    finally:
        ahead.cancel()


class _InOrder:
    """Futures whose results are taken in the order in which they were added."""

    def __init__(self) -> None:
        self._futures: deque[AnyFuture[Any]] = deque()

    def __len__(self) -> int:
        return len(self._futures)

    def add(self, future: AnyFuture[Any]) -> None:
        self._futures.append(future)

    def take(self) -> Any:
        return self._futures.popleft().result()

    def cancel(self) -> None:
        for future in self._futures:
            future.cancel()


class _AsDone:
    """Futures whose results are taken in the order in which they get done."""

    def __init__(self) -> None:
        self._futures: set[AnyFuture[Any]] = set()
        self._done: queue.SimpleQueue[AnyFuture[Any]] = queue.SimpleQueue()

    def __len__(self) -> int:
        return len(self._futures)

    def add(self, future: AnyFuture[Any]) -> None:
        self._futures.add(future)
        future.add_done_callback(self._done.put)

    def take(self) -> Any:
        future = _next_done(self._done, None, len(self._futures), len(self._futures))
        self._futures.discard(future)
        return future.result()

    def cancel(self) -> None:
        for future in self._futures:
            future.cancel()


def _next_done(done: queue.SimpleQueue[F], deadline: float | None, left: int, total: int) -> F:
    found: list[F] = []

    def take(seconds: float) -> bool:
        try:
            found.append(done.get(timeout=seconds))
        except queue.Empty:
            return False
        return True

    worker = current_worker()
    if not take(0):
        with worker.waiting() if worker else nullcontext():
            if not wait_in_pieces(take, None if deadline is None else deadline - time.monotonic()):
                raise FutureTimeoutError(f"{left} of {total} futures are not done in time")
    return found[0]
