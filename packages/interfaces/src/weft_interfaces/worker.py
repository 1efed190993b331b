"""What code may ask of the worker that runs it, and tell it."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from .call import Call
from .notice import Notice

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
        self._signal: Callable[[int], None] | None = None
        self._notices: list[Notice] = []

    def ends_at(self) -> float | None:
        """When the worker ends, in seconds since the epoch, as far as it is known now; None if it is not."""
        return None

    def remaining(self) -> float | None:
        """Seconds until the call is stopped, by its timeout or by the end of its block; None if nothing
        will. The end of a block may be moved while the call runs.
        """
        left = [] if self.deadline is None else [self.deadline - time.monotonic()]
        end = self.ends_at()
        if end is not None:
            left.append(end - time.time())
        return max(0.0, min(left)) if left else None

    # -- notices --------------------------------------------------------------------------------------------

    def notify(self, tell: Callable[[], object], seconds: float) -> Notice:
        """Have this called, in another thread, when the call has no more than so many seconds left. There it
        finds this worker as the current one.

        Once, and at the latest before :meth:`end_notices` returns, which ends it.
        """

        def tell_inside() -> None:
            adopt_worker(self)
            tell()

        notice = Notice(self.remaining, tell_inside, seconds)
        self._notices.append(notice)
        return notice

    def end_notices(self) -> None:
        """The call has ended: for executors. A notice that is being given is waited for."""
        while self._notices:
            self._notices.pop().cancel()

    @property
    def takes_signals(self) -> bool:
        """Whether what runs is a process of its own, which signals can be sent to."""
        return self._signal is not None or not self.in_process

    def signal(self, number: int) -> None:
        """Send a signal to what runs: to the command, if it is one, else to the worker's process."""
        if self._signal is not None:
            self._signal(number)
        elif not self.in_process:
            os.kill(os.getpid(), number)

    @contextmanager
    def signalling(self, signal: Callable[[int], None]) -> Iterator[None]:
        """While inside, signals for the call go there."""
        self._signal = signal
        try:
            yield
        finally:
            self.end_notices()
            self._signal = None

    # -- stopping -------------------------------------------------------------------------------------------

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
