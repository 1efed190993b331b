"""What code may ask of the worker that runs it, and tell it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from .call import Call

__all__ = ["WorkerContext", "adopt_worker", "current_worker"]

_local = threading.local()


class WorkerContext:
    """One worker: the call that it runs, when that must end, and how to interrupt it.

    ``in_process``: whether the worker is a thread of the process that holds the run, so that its tasks may
    submit others.
    """

    def __init__(self, *, in_process: bool) -> None:
        self.in_process = in_process
        self.call: Call | None = None
        self.deadline: float | None = None
        self._interrupt: Callable[[], None] | None = None
        self._interrupt_lock = threading.Lock()

    def remaining(self) -> float | None:
        """Seconds until the call is stopped, by its timeout or by the end of its block; None if nothing
        will.
        """
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())

    def waiting(self) -> AbstractContextManager[object]:
        """Enter it around a wait for another task, so that the worker may lend its slot meanwhile.

        Raises :class:`DeadlockError` on entry when the wait could never end.
        """
        return nullcontext()

    @contextmanager
    def interruptible(self, interrupt: Callable[[], None]) -> Iterator[None]:
        """While inside, cancelling the call or reaching its timeout calls ``interrupt``, from another
        thread.
        """
        with self._interrupt_lock:
            self._interrupt = interrupt
        try:
            yield
        finally:
            with self._interrupt_lock:
                self._interrupt = None

    def interrupt(self, call_id: int) -> bool:
        """Interrupt this call, if it is what runs and it can be interrupted. ``interruptible`` waits until
        this returns.
        """
        with self._interrupt_lock:
            if self._interrupt is None or self.call is None or self.call.id != call_id:
                return False
            self._interrupt()
            return True


def current_worker() -> WorkerContext | None:
    """The worker that runs the calling code, or None outside of a task."""
    return getattr(_local, "worker", None)


def adopt_worker(worker: WorkerContext | None) -> None:
    """Make this thread's code run in ``worker``: for executors."""
    _local.worker = worker
