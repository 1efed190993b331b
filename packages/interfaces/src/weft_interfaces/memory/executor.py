"""An executor that runs calls in the thread that submits them."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import AbstractContextManager, contextmanager, nullcontext

from ..call import Call, Outcome
from ..errors import ConfigError, ResourcesError, RunClosedError, WorkerLostError
from ..executor import BaseExecutor, ExecutorContext, Load
from ..resources import Resources
from ..serializer import Serializer
from ..worker import WorkerContext
from .execution import run_call

__all__ = ["InMemoryExecutor"]


class InMemoryExecutor(BaseExecutor):
    """Runs each call inside ``submit``, in the thread that submits it; there is no thread of its own.

    Calls submitted while an outcome is being reported run once the report has returned, so that a chain of
    any length needs no stack; calls submitted by the body of a call run at once, so that it can wait for
    them. ``slots`` is what ``load`` and ``refusal`` say; it limits nothing. ``stdout``, ``stderr`` and
    ``cwd`` of a call are ignored: they belong to the process. A call past its timeout fails when it ends; a
    begun one can be cancelled where it is interruptible. With a ``serializer``, calls and outcomes cross it,
    as if the worker were another process.
    """

    def __init__(
        self, label: str = "memory", slots: int = 1, *, serializer: Serializer | None = None
    ) -> None:
        super().__init__(label)
        self.in_process = serializer is None
        self._slots = slots
        self._serializer = serializer
        self._context: ExecutorContext | None = None
        self._closing = False
        self._changed = threading.Condition()
        self._entries: dict[int, _Entry] = {}
        self._begun: set[int] = set()
        self._local = _Local()

    def start(self, context: ExecutorContext) -> None:
        with self._changed:
            if self._context is not None:
                raise ConfigError(
                    f"executor {self.label!r} is already running: shut it down before it is started again"
                )
            self._context = context

    def submit(self, calls: Sequence[Call]) -> None:
        entries = [_Entry(call) for call in calls]
        with self._changed:
            if self._context is None or self._closing:
                raise RunClosedError(
                    f"executor {self.label!r} is not running: start it before submitting to it"
                )
            self._entries.update((entry.call.id, entry) for entry in entries)
        frame = self._local.frame
        if frame is not None and frame.reporting:
            frame.push(entries)
        else:
            self._drain(_Frame(frame, entries))

    def cancel(self, ids: Collection[int]) -> Collection[int]:
        accepted, confirmed = [], []
        with self._changed:
            for entry in filter(None, map(self._entries.get, ids)):
                if not entry.settled and (entry.call.id not in self._begun or self._interrupt(entry)):
                    accepted.append(entry.call.id)
                    if entry.call.id not in self._begun:
                        entry.settled = True
                        confirmed.append(entry.call.id)
        self._report_cancelled(confirmed)
        return accepted

    def running(self) -> Collection[int]:
        with self._changed:
            return list(self._begun)

    def load(self) -> Load:
        begun = len(self._begun)
        return Load(max(0, len(self._entries) - begun), begun, self._slots, self._slots)

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
            self.cancel(list(self._entries))
        self.run_waiting()
        left = self._wait_for_others(time.monotonic() + timeout)
        self._report([Outcome(entry.call.id, error=_abandoned(entry)) for entry in left])
        with self._changed:
            self._context, self._closing = None, False
        begun = [entry for entry in left if entry.thread_name]
        return [
            f"thread {entry.thread_name!r} still runs the task {entry.call.options.name!r}" for entry in begun
        ]

    def run_waiting(self) -> None:
        """Run what this thread has been given and has not begun: a body that waits for it does this first."""
        frame = self._local.frame
        while frame is not None:
            self._drain(frame)
            frame = frame.parent

    def _drain(self, frame: _Frame) -> None:
        with self._local.entered(frame, reporting=False):
            while frame.waiting:
                entry = heapq.heappop(frame.waiting)[-1]
                if self._begin(entry):
                    outcome = self._run(entry)
                    if self._settle(entry):
                        self._report(
                            [Outcome(outcome.id, error=CancelledError()) if entry.cancelled else outcome]
                        )

    def _run(self, entry: _Entry) -> Outcome:
        refusal = self.refusal(entry.call.options.resources)
        if refusal is not None:
            return Outcome(entry.call.id, error=ResourcesError(refusal))
        return run_call(entry.call, _InlineWorker(self, entry), self._serializer)

    def _begin(self, entry: _Entry) -> bool:
        with self._changed:
            if entry.settled:
                return False
            entry.thread_name, entry.thread_id = threading.current_thread().name, threading.get_ident()
            self._begun.add(entry.call.id)
            return True

    def _interrupt(self, entry: _Entry) -> bool:
        if not entry.cancelled:
            entry.cancelled = entry.worker is not None and entry.worker.interrupt(entry.call.id)
        return entry.cancelled

    def _settle(self, entry: _Entry) -> bool:
        with self._changed:
            first, entry.settled = not entry.settled, True
            return first

    def _report(self, outcomes: Sequence[Outcome]) -> None:
        if self._context is None or not outcomes:
            return
        frame = self._local.frame
        try:
            with self._local.entered(frame, reporting=True) if frame else nullcontext():
                self._context.completed(outcomes)
        finally:
            with self._changed:
                for outcome in outcomes:
                    self._entries.pop(outcome.id, None)
                    self._begun.discard(outcome.id)
                self._changed.notify_all()

    def _report_cancelled(self, ids: Iterable[int]) -> None:
        outcomes = [Outcome(call_id, error=CancelledError()) for call_id in ids]
        if self._local.frame is not None and self._local.frame.reporting:
            self._report(outcomes)
            return
        frame = _Frame(self._local.frame)
        with self._local.entered(frame, reporting=False):
            self._report(outcomes)
        self._drain(frame)

    def _wait_for_others(self, end: float) -> list[_Entry]:
        """Wait until no other thread has a call of this executor.

        Returns what is left, for which none else will report.
        """
        me = threading.get_ident()
        with self._changed:
            while any(entry.thread_id != me for entry in self._entries.values()):
                left = end - time.monotonic()
                if left <= 0:
                    break
                self._changed.wait(left)
            abandoned = [entry for entry in self._entries.values() if not entry.settled]
            for entry in abandoned:
                entry.settled = True
            return abandoned


class _Entry:
    """A call that has not had its outcome.

    ``settled``: its outcome is decided, and whoever decided it reports it.
    """

    __slots__ = ("call", "cancelled", "settled", "thread_id", "thread_name", "worker")

    def __init__(self, call: Call) -> None:
        self.call = call
        self.cancelled = self.settled = False
        self.thread_id = 0
        self.thread_name = ""
        self.worker: WorkerContext | None = None


class _Frame:
    """What one ``submit`` of one thread has to run. ``parent``: the frame whose call's body called it."""

    __slots__ = ("parent", "reporting", "waiting")
    _order = itertools.count()

    def __init__(self, parent: _Frame | None, entries: Iterable[_Entry] = ()) -> None:
        self.parent = parent
        self.reporting = False
        self.waiting: list[tuple[int, int, _Entry]] = []
        self.push(entries)

    def push(self, entries: Iterable[_Entry]) -> None:
        for entry in entries:
            heapq.heappush(self.waiting, (-entry.call.options.priority, next(self._order), entry))


class _Local(threading.local):
    """The innermost frame of each thread."""

    frame: _Frame | None = None

    @contextmanager
    def entered(self, frame: _Frame, *, reporting: bool) -> Iterator[None]:
        before, reported = self.frame, frame.reporting
        self.frame, frame.reporting = frame, reporting
        try:
            yield
        finally:
            self.frame, frame.reporting = before, reported


class _InlineWorker(WorkerContext):
    def __init__(self, executor: InMemoryExecutor, entry: _Entry) -> None:
        super().__init__(in_process=executor.in_process)
        self._executor = executor
        entry.worker = self

    def waiting(self) -> AbstractContextManager[object]:
        self._executor.run_waiting()
        return nullcontext()


def _abandoned(entry: _Entry) -> WorkerLostError:
    return WorkerLostError(f"the task {entry.call.options.name!r} still ran when its executor was shut down")
