"""A thread as seen by the code that it runs: it lends its slot while it waits, and remembers why it was
interrupted.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import AbstractContextManager
from typing import Protocol

from weft_interfaces import WorkerContext

__all__ = ["Lender", "ThreadWorker"]


class Lender(Protocol):
    """Finds substitutes for workers that wait."""

    def lend(self, worker: ThreadWorker) -> None:
        """Let others use its slots. Raises :class:`DeadlockError` when there can be no substitute."""

    def take_back(self, worker: ThreadWorker) -> None:
        """The worker goes on; there may be one too many now."""


class ThreadWorker(WorkerContext):
    """One thread of a crew.

    verdict: what the running call gets in place of its own outcome, because it was interrupted.
    slots: how many the running call takes. lent: how many waits it is in, one inside the other.
    gathered: what the workers wait for that gave their slots to the call.
    given_up: the outcome of what it runs was given without it; it ends when that ends.
    """

    def __init__(self, lender: Lender) -> None:
        super().__init__(in_process=True)
        self.verdict: BaseException | None = None
        self.slots = 1
        self.lent = 0
        self.given_up = False
        self.gathered: threading.Event | None = None
        self._lender = lender
        self._reason: BaseException | None = None
        self._stopping = threading.Lock()

    def waiting(self) -> AbstractContextManager[object]:
        return self._waiting()

    @contextlib.contextmanager
    def _waiting(self) -> Iterator[None]:
        self._lender.lend(self)
        try:
            yield
        finally:
            self._lender.take_back(self)

    @contextlib.contextmanager
    def interruptible(self, interrupt: Callable[[], None]) -> Iterator[None]:
        def stop() -> None:
            # A call whose cancelling was accepted is cancelled, whatever else happens to it.
            if not isinstance(self.verdict, CancelledError):
                self.verdict = self._reason
            interrupt()

        with super().interruptible(stop):
            if self.given_up:  # its time was over before it came here
                interrupt()
            yield

    def stop(self, call_id: int, reason: BaseException) -> bool:
        """Interrupt this call, if it runs here and can be interrupted; its outcome will be ``reason``."""
        with self._stopping:
            self._reason = reason
            try:
                return self.interrupt(call_id)
            except Exception:  # noqa: BLE001  a kill that fails finds nothing to kill: the call is about to end
                return True
