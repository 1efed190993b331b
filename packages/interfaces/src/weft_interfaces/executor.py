"""Runs calls."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

from .call import Call, Outcome
from .event import Event
from .resources import Resources

if TYPE_CHECKING:
    from .block import ScalerMaker

__all__ = ["BaseExecutor", "Executor", "ExecutorContext", "Load", "ReapableExecutor"]


class Load(NamedTuple):
    """How busy an executor is: calls waiting, calls begun, and the worker slots that it has and could
    have: 0 says that it will have none.
    """

    queued: int = 0
    running: int = 0
    slots: int = 0
    max_slots: int = 0


class ExecutorContext(Protocol):
    """What an executor reports to. Both methods may be called from any thread, and neither raises.

    ``completed`` is called with each call's one and only outcome, in any order. Work that the outcomes make
    ready may be submitted to the executor from inside ``completed``: hold no lock of yours.
    """

    @property
    def run_id(self) -> str:
        """Names the run, unique on this machine."""

    @property
    def directory(self) -> Path:
        """The directory for files of this executor; it may not exist yet."""

    @property
    def make_scaler(self) -> ScalerMaker | None:
        """For an executor that has its blocks scaled elsewhere than in this process; None: it may not."""

    @property
    def detached(self) -> Path | None:
        """The directory in which the executor keeps what another process needs to go on with its calls,
        should this one be gone; it may not exist yet. None when they end with this process.
        """

    def completed(self, outcomes: Sequence[Outcome]) -> None: ...

    def emit(self, events: Sequence[Event]) -> None: ...


@runtime_checkable
class Executor(Protocol):
    """Runs calls, one outcome for each. The life of a call::

        submit ──> queued ──> begun ──> completed(outcome)
                     │          ├─ worker dies ──> completed(WorkerLostError with a certificate)
                     └─ cancel ─┴────────────────> completed(CancelledError), once it does not run

    All methods may be called from any thread. None waits for a call to end, but ``shutdown``.
    """

    @property
    def label(self) -> str:
        """Names the executor in its run, in messages and in events."""

    @property
    def in_process(self) -> bool:
        """Whether calls run in this process, so that they can submit tasks, and need no pickling."""

    @property
    def in_blocks(self) -> bool:
        """Whether its workers arrive in blocks: it then is a :class:`BlockExecutor`, and the kernel scales
        it, unless it ``scales_itself``.
        """

    @property
    def scales_itself(self) -> bool:
        """Whether it sees to its blocks itself, from its start to its end: it has made a scaler of its own
        with :attr:`ExecutorContext.make_scaler`, and says all that the scaler says.
        """

    @property
    def can_detach(self) -> bool:
        """Whether calls can outlive this process: see :attr:`ExecutorContext.detached`, which is None for an
        executor that cannot.
        """

    def start(self, context: ExecutorContext) -> None:
        """Get ready for calls, quickly: workers may come up afterwards.

        Returning: ``submit`` may be called. Raising: nothing was left running. An executor that was shut down
        may be started again; one that is running refuses with a :class:`ConfigError`.
        """

    def submit(self, calls: Sequence[Call]) -> None:
        """Take calls over.

        Returning: each call will get exactly one outcome, whatever happens; some may have had theirs already.
        Raising: none of them will run, none will get an outcome. A call that cannot be pickled, or that asks
        for what this executor never has, is not a reason to raise: it gets its outcome, with the error
        (:class:`SerializationError`, :class:`ResourcesError`). Before ``start`` and after ``shutdown`` this
        raises :class:`RunClosedError`.
        """

    def cancel(self, ids: Collection[int]) -> Collection[int]:
        """Cancel calls, begun ones too where that is possible.

        Returns the ids that were accepted: each of these gets the outcome
        :class:`concurrent.futures.CancelledError`, no other, as soon as the call is certain not to run (any
        more). One that can confirm at once does so before it returns. An id that is unknown, completed, or
        begun and cannot be stopped is not among them. Never raises.
        """

    def running(self) -> Collection[int]:
        """The ids of the calls that workers have begun, as far as it is known."""

    def load(self) -> Load:
        """How busy it is, from memory: cheap and without waiting."""

    def refusal(self, resources: Resources) -> str | None:
        """Why a call that asks for this can never run here, in words; None if it can."""

    def shutdown(self, *, cancel: bool = False, timeout: float = 10.0) -> list[str]:
        """End, first running the calls that are left, or cancelling them.

        Waits up to ``timeout`` seconds, then kills what can be killed. Returning: each call has had its
        outcome; no thread, process, socket or temporary file of the executor is left but those named, in
        words, in the returned list. A second shutdown does nothing.
        """

    def detach(self, timeout: float = 10.0) -> list[str]:
        """End here, and leave the calls to go on without this process, where ``context.detached`` says so.

        Waits up to ``timeout`` seconds for them to be handed over. Returning: calls get no outcome any more
        here; another process can go on from what is in that directory. What could not be handed over yet, or
        is left here, is named, in words, in the returned list. An executor that cannot detach ends as by
        ``shutdown(cancel=True)``.
        """


@runtime_checkable
class ReapableExecutor(Executor, Protocol):
    """An executor of which something may outlive its process, on another host. It need not be running to be
    asked for that. Methods wait for the host, within a bound.
    """

    def find_left(self, run_id: str) -> Sequence[str]:
        """What is there of this executor in this run, in words, one for each: also of a run that goes on.

        Raises :class:`WeftError` if that could not be found out.
        """

    def end_left(self, run_id: str) -> None:
        """End it, and remove its files. Returning: nothing of it is left. Raising :class:`WeftError`: some of
        it may be.
        """


class BaseExecutor:
    """The optional parts of an executor. Subclass it and write ``start``, ``submit`` and ``shutdown``."""

    in_process = False
    in_blocks = False
    scales_itself = False
    can_detach = False

    def __init__(self, label: str) -> None:
        self._label = label

    @property
    def label(self) -> str:
        return self._label

    def cancel(self, ids: Collection[int]) -> Collection[int]:
        """Nothing can be cancelled here."""
        return ()

    def running(self) -> Collection[int]:
        """It is not known which calls have begun."""
        return ()

    def load(self) -> Load:
        """It is not known how busy it is."""
        return Load()

    def refusal(self, resources: Resources) -> str | None:
        """One node and no accelerator, as most executors of one machine have."""
        if resources.nodes > 1:
            return f"executor {self.label!r} has one node, the task asks for {resources.nodes}"
        if resources.gpus:
            return f"executor {self.label!r} has no gpus, the task asks for {resources.gpus:g}"
        return None

    def shutdown(self, *, cancel: bool = False, timeout: float = 10.0) -> list[str]:
        """To be written."""
        raise NotImplementedError

    def detach(self, timeout: float = 10.0) -> list[str]:
        """Nothing of it outlives this process."""
        return self.shutdown(cancel=True, timeout=timeout)
