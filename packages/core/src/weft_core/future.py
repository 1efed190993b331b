"""Futures: light, awaitable, and at home wherever a :class:`concurrent.futures.Future` is.

The standard future makes a condition variable for each (1.4 kB, most of its cost). Ours makes one only when
code of the standard library asks for it; own waits use a bare lock. A state is set either with no condition
in existence, under the module's guard, or under the condition: so the standard library's ``wait`` and
``as_completed`` see what they expect.
"""

from __future__ import annotations

import concurrent.futures
import logging
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures._base import CANCELLED_AND_NOTIFIED, FINISHED, PENDING
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, TypeVar

from ._interfaces import FutureMisuseError, HotLock, current_worker
from .patience import wait_in_pieces

if TYPE_CHECKING:
    from ._interfaces import Call
    from .task import Task

__all__ = ["Future", "Owner", "Waiter"]

T = TypeVar("T")

_log = logging.getLogger("weft")
_guard = HotLock()


class Owner(Protocol):
    """What a future asks of the kernel that it belongs to, while it is not done."""

    def cancel(self, task: Task) -> bool: ...

    def running(self, task: Task) -> bool: ...

    def check_wait(self, task: Task, waiting: Task) -> None: ...

    def awaited_by(self, task: Task) -> Sequence[Any]: ...

    def task_of_call(self, call: Call) -> Task | None: ...


class Waiter:
    """A thread that waits for a future; ``task`` is the task that runs in it, if one does."""

    __slots__ = ("_lock", "future", "task")

    def __init__(self, future: Future[Any], task: Task | None) -> None:
        self.future = future
        self.task = task
        self._lock = threading.Lock()
        self._lock.acquire()

    def __call__(self, future: object) -> None:
        self._lock.release()

    def wait(self, timeout: float | None) -> bool:
        return wait_in_pieces(lambda seconds: self._lock.acquire(timeout=seconds), timeout)


class _Waiters(list[Any]):
    """Those who wait in the standard library's ``wait`` and ``as_completed``, for any of several futures
    each.

    In a task such a wait lends the worker's slot, as :meth:`Future.result` does: from the first future that
    the waiter is put on to the last that it is taken off.
    """

    def append(self, waiter: Any) -> None:
        worker = current_worker()
        if worker is not None:
            if not hasattr(waiter, "weft_futures"):
                waiter.weft_lent = worker.waiting()
                waiter.weft_lent.__enter__()
                waiter.weft_futures = 0
            waiter.weft_futures += 1
        super().append(waiter)

    def remove(self, waiter: Any) -> None:
        super().remove(waiter)
        if hasattr(waiter, "weft_futures"):
            waiter.weft_futures -= 1
            if not waiter.weft_futures:
                waiter.weft_lent.__exit__(None, None, None)


class Future(concurrent.futures.Future[T]):
    """The value that a task will have.

    It is a :class:`concurrent.futures.Future`, so that ``wait``, ``as_completed`` and ``asyncio.wrap_future``
    take it, and it can be awaited. Pass it to other tasks instead of waiting for it. All methods may be
    called from any thread.

    ``task_id`` is unique in its run; ``task_name`` is the name of the task's function unless another was
    given. ``memo_hit``: it is done and did not run: its value or error was remembered, or an equal task gave
    it.
    """

    __slots__ = (
        "__lazy_condition",
        "__lazy_waiters",
        "_callbacks",
        "_exception",
        "_result",
        "_state",
        "_task",
        "memo_hit",
        "task_id",
        "task_name",
    )

    def __init__(self, task_id: int, task_name: str) -> None:
        # Not the base's __init__: it would make the condition.
        self.task_id = task_id
        self.task_name = task_name
        self.memo_hit = False
        self._state = PENDING
        self._result: Any = None
        self._exception: BaseException | None = None
        self._callbacks: list[Any] | None = None
        self._task: Task | None = None
        self.__lazy_condition: threading.Condition | None = None

    # -- for everybody --------------------------------------------------------------------------------------

    def done(self) -> bool:
        """Whether the value, an error or the cancellation is there."""
        return self._state is not PENDING

    def cancelled(self) -> bool:
        """Whether the task was cancelled, and does not run."""
        return self._state is CANCELLED_AND_NOTIFIED

    def running(self) -> bool:
        """Whether a worker has begun the task, as far as its executor knows."""
        task = self._task
        return task is not None and task.owner.running(task)

    def cancel(self) -> bool:
        """Cancel the task, also while it runs if its executor can stop it.

        True: the future is cancelled, or will be as soon as the executor confirms that the task does not run.
        False: it is done, or runs and cannot be stopped.
        """
        task = self._task
        if task is not None and task.owner.cancel(task):
            return True
        return self.cancelled()

    def result(self, timeout: float | None = None) -> T:
        """The value; waits for it up to ``timeout`` seconds.

        Raises the task's error, :class:`concurrent.futures.CancelledError`, or :class:`TimeoutError`.
        """
        if self._state is PENDING:
            self._wait(timeout)
        if self._exception is not None:
            try:
                raise self._exception
            finally:
                # The traceback would hold the future, and the future the error.
                self = None  # type: ignore[assignment]  # noqa: PLW0642
        return self._result  # type: ignore[no-any-return]

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """The task's error, or None if it has a value; waits up to ``timeout`` seconds.

        Raises :class:`concurrent.futures.CancelledError` or :class:`TimeoutError`.
        """
        if self._state is PENDING:
            self._wait(timeout)
        if self._state is CANCELLED_AND_NOTIFIED:
            raise concurrent.futures.CancelledError(f"{self!r} was cancelled")
        return self._exception

    def add_done_callback(self, fn: Callable[[Future[T]], object]) -> None:
        """Call ``fn(future)`` once it is done: at once if it is, else in the thread that reports it."""
        if not self.subscribe(fn):
            tell(fn, self)

    def __await__(self) -> Generator[Any, None, T]:
        import asyncio

        return asyncio.wrap_future(self).__await__()

    # -- for the kernel -------------------------------------------------------------------------------------

    def subscribe(self, callback: Any) -> bool:
        """Have ``callback`` (a callable, or a task that depends on this future) told; False if it is done
        already.
        """
        with _guard:
            if self._state is not PENDING:
                return False
            if self._callbacks is None:
                self._callbacks = [callback]
            else:
                self._callbacks.append(callback)
            return True

    def subscribers(self) -> list[Any]:
        """Who will be told, as of now."""
        with _guard:
            return list(self._callbacks or ())

    def finish(self, result: Any, exception: BaseException | None) -> list[Any] | None:
        """Complete it, once, and return those who subscribed; telling them is left to the caller."""
        with _guard:
            condition = self.__lazy_condition
            if condition is None:
                return self._set(result, exception)
        with condition:
            with _guard:
                callbacks = self._set(result, exception)
            for waiter in self.__lazy_waiters:
                if self._state is CANCELLED_AND_NOTIFIED:
                    waiter.add_cancelled(self)
                elif exception is not None:
                    waiter.add_exception(self)
                else:
                    waiter.add_result(self)
            condition.notify_all()
        return callbacks

    def _set(self, result: Any, exception: BaseException | None) -> list[Any] | None:
        self._result = result
        self._exception = exception
        self._task = None
        cancelled = isinstance(exception, concurrent.futures.CancelledError)
        self._state = CANCELLED_AND_NOTIFIED if cancelled else FINISHED
        callbacks, self._callbacks = self._callbacks, None
        return callbacks

    def _wait(self, timeout: float | None) -> None:
        task = self._task
        worker = current_worker()
        if worker is None or task is None:
            self._block(None, timeout)
            return
        waiting = None if worker.call is None else task.owner.task_of_call(worker.call)
        with worker.waiting():
            self._block(waiting, timeout)

    def _block(self, waiting: Task | None, timeout: float | None) -> None:
        waiter = Waiter(self, waiting)
        if not self.subscribe(waiter):
            return
        try:
            task = self._task
            if waiting is not None and task is not None:
                waiting.waits_for = waiter
                task.owner.check_wait(task, waiting)
            if not waiter.wait(timeout):
                raise concurrent.futures.TimeoutError(f"{self!r} is not done after {timeout:g} seconds")
        finally:
            self._unsubscribe(waiter)
            if waiting is not None and waiting.waits_for is waiter:
                waiting.waits_for = None

    def _unsubscribe(self, callback: Any) -> None:
        with _guard:
            if self._callbacks is not None:
                self._callbacks = [other for other in self._callbacks if other is not callback]

    # -- for the standard library ---------------------------------------------------------------------------

    @property
    def _condition(self) -> threading.Condition:  # type: ignore[override]
        with _guard:
            if self.__lazy_condition is None:
                self.__lazy_waiters = _Waiters()
                self.__lazy_condition = threading.Condition()
            return self.__lazy_condition

    @property
    def _waiters(self) -> list[Any]:  # type: ignore[override]
        self._condition  # noqa: B018  # makes the list
        return self.__lazy_waiters

    def set_result(self, result: T) -> NoReturn:
        """Refused: the run sets it."""
        raise FutureMisuseError(f"{self!r}: its run sets the result; nobody else can")

    def set_exception(self, exception: BaseException | None) -> NoReturn:
        """Refused: the run sets it."""
        raise FutureMisuseError(f"{self!r}: its run sets the exception; nobody else can")

    def set_running_or_notify_cancel(self) -> NoReturn:
        """Refused: the run decides."""
        raise FutureMisuseError(f"{self!r}: its run decides when it runs; nobody else can")

    # -- mistakes, named ------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        if self._state is PENDING:
            task = self._task
            state = task.state.name.lower() if task else "pending"
        elif self._exception is not None:
            state = "cancelled" if self.cancelled() else f"failed: {type(self._exception).__name__}"
        else:
            state = f"done: {type(self._result).__name__}"
        return f"<Future of task {self.task_id} ({self.task_name}), {state}>"

    def _misused(self, how: str) -> FutureMisuseError:
        return FutureMisuseError(
            f"{self!r} cannot be {how}: it is not the value but stands for it; pass it to another task, "
            "or get the value with .result()"
        )

    def __bool__(self) -> NoReturn:
        raise self._misused("used as true or false")

    def __iter__(self) -> NoReturn:
        raise self._misused("iterated")

    def __contains__(self, item: object) -> NoReturn:
        raise self._misused("searched")

    def __getitem__(self, key: object) -> NoReturn:
        raise self._misused(f"indexed with {key!r}")

    def __eq__(self, other: object) -> bool:
        if isinstance(other, concurrent.futures.Future):
            return self is other
        raise self._misused(f"compared with {type(other).__name__}")

    __hash__ = object.__hash__

    def __lt__(self, other: object) -> NoReturn:
        raise self._misused(f"compared with {type(other).__name__}")

    __le__ = __gt__ = __ge__ = __lt__

    def __getattr__(self, name: str) -> NoReturn:
        message = f"a Future has no attribute {name!r}"
        if not name.startswith("_"):
            message += f"; if the value of task {self.task_id} ({self.task_name}) has it: .result().{name}"
        raise AttributeError(message, name=name, obj=self)

    def __reduce__(self) -> NoReturn:
        raise FutureMisuseError(
            f"{self!r} cannot be pickled: pass it to a task as an argument (at any depth in lists, tuples, "
            "dicts, sets and dataclasses); a task that returns futures must be a join task"
        )


def tell(callback: Callable[[Any], object], future: concurrent.futures.Future[Any]) -> None:
    """Call a done callback; what it raises is logged, as the standard library does."""
    try:
        callback(future)
    except BaseException:  # noqa: BLE001  SystemExit too would end the thread that completes all futures
        _log.exception("a done callback of %r raised", future)
