"""An executor that does only what a test tells it to."""

from __future__ import annotations

import threading
from collections.abc import Collection, Sequence
from concurrent.futures import CancelledError
from typing import Any

from ..call import Call, Outcome
from ..errors import ConfigError, DeathCertificate, ResourcesError, RunClosedError, WorkerLostError
from ..executor import BaseExecutor, ExecutorContext, Load
from ..resources import Resources
from ..serializer import Serializer
from ..worker import WorkerContext
from .execution import run_call

__all__ = ["ManualExecutor"]


class ManualExecutor(BaseExecutor):
    """Holds calls until the test drives them, from any thread::

        submit ──> held ── begin ──> begun ── complete, fail, lose, run ──> outcome
                     └── cancel ──> cancelling ── confirm ──> CancelledError

    ``complete``, ``fail``, ``lose`` and ``run`` also take a call that has not begun. What would give a call a
    second outcome, or an id a second call, raises :class:`AssertionError` and is kept in ``misuses``.
    ``submitted`` holds all calls by id. ``confirm_cancels=False`` holds a cancel until ``confirm``.
    ``stops_begun=False`` refuses to cancel what has begun. ``shutdown`` runs what is held, or cancels it.
    """

    def __init__(
        self,
        label: str = "manual",
        slots: int = 1,
        *,
        confirm_cancels: bool = True,
        stops_begun: bool = True,
        serializer: Serializer | None = None,
    ) -> None:
        super().__init__(label)
        self.in_process = serializer is None
        self.misuses: list[str] = []
        self.submitted: dict[int, Call] = {}
        self._slots = slots
        self._serializer = serializer
        self._confirm_cancels = confirm_cancels
        self._stops_begun = stops_begun
        self._context: ExecutorContext | None = None
        self._changed = threading.Condition()
        self._held: dict[int, Call] = {}
        self._begun: set[int] = set()
        self._cancelling: set[int] = set()
        self._executing: dict[int, WorkerContext] = {}
        self._reporting = 0
        self._closing = False

    # -- the test's side ------------------------------------------------------------------------------------

    @property
    def held(self) -> list[int]:
        """The ids of the calls without an outcome, in the order in which they came."""
        with self._changed:
            return list(self._held)

    @property
    def cancelling(self) -> list[int]:
        """The ids of the calls whose cancel was accepted and is to be confirmed."""
        with self._changed:
            return [call_id for call_id in self._held if call_id in self._cancelling]

    def wait_held(self, count: int, timeout: float = 10.0) -> list[int]:
        """Wait until at least so many calls are held. Raises :class:`TimeoutError`."""
        with self._changed:
            if not self._changed.wait_for(lambda: len(self._held) >= count, timeout):
                raise TimeoutError(f"{len(self._held)} calls are held after {timeout:g} s, not {count}")
            return list(self._held)

    def begin(self, call_id: int) -> None:
        """A worker begins the call."""
        with self._changed:
            self._require(call_id in self._held, f"begin({call_id}): no such call is held")
            self._require(call_id not in self._begun, f"begin({call_id}): it has begun before")
            self._require(call_id not in self._cancelling, f"begin({call_id}): its cancel was accepted")
            self._begun.add(call_id)

    def complete(self, call_id: int, value: Any = None) -> None:
        """The call returns ``value``."""
        self._take(call_id, "complete")
        self._report([Outcome(call_id, value)])

    def fail(self, call_id: int, error: BaseException) -> None:
        """The call raises ``error``."""
        self._take(call_id, "fail")
        self._report([Outcome(call_id, error=error)])

    def lose(self, call_id: int, certificate: DeathCertificate | None = None) -> None:
        """The call's worker dies."""
        self._take(call_id, "lose")
        certificate = certificate or DeathCertificate(kind="worker", signal=9)
        self._report([Outcome(call_id, error=WorkerLostError("the worker of the task died", [certificate]))])

    def run(self, call_id: int) -> None:
        """Really run the call, in this thread.

        Meanwhile it can be lost, and cancelled if it is interruptible.
        """
        with self._changed:
            self._require(call_id in self._held, f"run({call_id}): no such call is held: an outcome too many")
            self._require(
                call_id not in self._cancelling, f"run({call_id}): its cancel was accepted: confirm it"
            )
            self._require(call_id not in self._executing, f"run({call_id}): it runs already")
            call = self._held[call_id]
            self._begun.add(call_id)
            worker = self._executing[call_id] = WorkerContext(in_process=self.in_process)
        refusal = self.refusal(call.options.resources)
        if refusal is not None:
            outcome = Outcome(call_id, error=ResourcesError(refusal))
        else:
            outcome = run_call(call, worker, self._serializer)
        with self._changed:
            del self._executing[call_id]
            mine = self._held.get(call_id) is call
            if call_id in self._cancelling:
                outcome = Outcome(call_id, error=CancelledError())
            if mine:
                self._remove(call_id)
        if mine:
            self._report([outcome])

    def run_all(self) -> None:
        """Run what is held, and what is submitted meanwhile, until nothing is; confirm what is cancelling."""
        while True:
            for call_id in self.cancelling:
                if call_id not in self._executing:
                    self.confirm(call_id)
            runnable = self._runnable()
            if not runnable:
                return
            for call_id in runnable:
                if call_id in self._held and call_id not in self._cancelling:
                    self.run(call_id)

    def confirm(self, call_id: int) -> None:
        """The call whose cancel was accepted is certain not to run any more."""
        with self._changed:
            self._require(call_id in self._cancelling, f"confirm({call_id}): no cancel of it was accepted")
            self._remove(call_id)
        self._report([Outcome(call_id, error=CancelledError())])

    # -- the contract ---------------------------------------------------------------------------------------

    def start(self, context: ExecutorContext) -> None:
        with self._changed:
            if self._context is not None:
                raise ConfigError(
                    f"executor {self.label!r} is already running: shut it down before it is started again"
                )
            self._context = context
            self.submitted.clear()

    def submit(self, calls: Sequence[Call]) -> None:
        with self._changed:
            if self._context is None or self._closing:
                raise RunClosedError(
                    f"executor {self.label!r} is not running: start it before submitting to it"
                )
            for call in calls:
                self._require(call.id not in self.submitted, f"submit({call.id}): this id had a call before")
            self.submitted.update((call.id, call) for call in calls)
            self._held.update((call.id, call) for call in calls)
            self._changed.notify_all()

    def cancel(self, ids: Collection[int]) -> Collection[int]:
        with self._changed:
            accepted = [i for i in dict.fromkeys(ids) if i in self._held and self._stoppable(i)]
            fresh = [i for i in accepted if i not in self._cancelling]
            self._cancelling.update(fresh)
            confirmed = [i for i in fresh if self._confirm_cancels and i not in self._executing]
            for call_id in confirmed:
                self._remove(call_id)
        if confirmed:
            self._report([Outcome(call_id, error=CancelledError()) for call_id in confirmed])
        return accepted

    def running(self) -> Collection[int]:
        with self._changed:
            return list(self._begun)

    def load(self) -> Load:
        begun = len(self._begun)
        return Load(max(0, len(self._held) - begun), begun, self._slots, self._slots)

    def refusal(self, resources: Resources) -> str | None:
        if resources.slots > self._slots:
            return f"executor {self.label!r} has {self._slots} cpus, the task asks for {resources.cpus:g}"
        return super().refusal(resources)

    def shutdown(self, *, cancel: bool = False, timeout: float = 10.0) -> list[str]:
        with self._changed:
            if self._context is None or self._closing:
                return []
            self._closing = True
            if cancel:
                self._cancelling.update(
                    [i for i in self._held if i not in self._executing or self._stoppable(i)]
                )
        self.run_all()
        with self._changed:
            self._changed.wait_for(lambda: not self._held and not self._reporting, timeout)
            left = list(self._held.values())
            self._cancelling.clear()  # an interrupted call that still runs is lost: it was not stopped
        for call in left:
            self.lose(call.id)
        with self._changed:
            self._context, self._closing = None, False
        return [f"a thread still runs the task {call.options.name!r}" for call in left]

    # -- bookkeeping ----------------------------------------------------------------------------------------

    def _take(self, call_id: int, doing: str) -> None:
        """Decide that the call gets its outcome now."""
        with self._changed:
            self._require(
                call_id in self._held, f"{doing}({call_id}): no such call is held: an outcome too many"
            )
            self._require(
                call_id not in self._cancelling, f"{doing}({call_id}): its cancel was accepted: confirm it"
            )
            self._remove(call_id)

    def _stoppable(self, call_id: int) -> bool:
        if call_id in self._executing:
            return call_id in self._cancelling or self._executing[call_id].interrupt(call_id)
        return self._stops_begun or call_id not in self._begun

    def _runnable(self) -> list[int]:
        with self._changed:
            return [i for i in self._held if i not in self._cancelling and i not in self._executing]

    def _remove(self, call_id: int) -> None:
        del self._held[call_id]
        self._begun.discard(call_id)
        self._cancelling.discard(call_id)
        self._reporting += 1

    def _report(self, outcomes: Sequence[Outcome]) -> None:
        try:
            if self._context is not None:
                self._context.completed(outcomes)
        finally:
            with self._changed:
                self._reporting -= len(outcomes)
                self._changed.notify_all()

    def _require(self, holds: bool, message: str) -> None:
        if not holds:
            self.misuses.append(message)
            raise AssertionError(message)
