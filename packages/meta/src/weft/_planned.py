"""Stands in for a kernel while a script is planned: looks calls up, and runs none of them.

::

    submit ──┬─ an argument is not known ──> unknown
             ├─ not memoized ──────────────> runs
             ├─ an equal call came before ─> shared
             ├─ remembered ────────────────> hit: its future has the value
             └─ not remembered ────────────> miss, and why

    The body of a join task runs, in place, unless its value is remembered: all it does is call tasks.
    Who asks for a value that is not known ends the plan there, as ``sys.exit()`` ends a script, or a thread.
"""

from __future__ import annotations

import itertools
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

from weft_core import DEEP, Counts, Future
from weft_core.dependencies import error_of, unshare, value_of
from weft_core.failure import dependency_error
from weft_interfaces import Executor, MemoOptions, RunClosedError, Shared, WorkerContext

if TYPE_CHECKING:
    from types import FrameType

    from weft_core import TaskSpec
    from weft_interfaces import DependencyResolver, MemoEntry
    from weft_memo import Explanation

    from ._plan import PlanMemory

__all__ = ["Plan", "PlanKernel", "PlannedCall"]

_DEPTH = 100  # join tasks inside join tasks
_POLLS = 1000  # times that a script may ask whether an unknown value is there
_DEFAULT = MemoOptions()
_NOT_THE_USERS = ("weft", "concurrent.", "asyncio.", "threading")


@dataclass(frozen=True, slots=True)
class PlannedCall:
    """What would become of one call.

    outcome: ``"hit"``, ``"miss"``, ``"shared"``, ``"unknown"``, ``"runs"`` or ``"fails"``. group: the reason
    without what is peculiar to this call.
    """

    task: int
    name: str
    outcome: str
    reason: str
    explanation: Explanation | None = None
    group: str = ""


@dataclass
class Plan:
    """What a script would do, as far as that can be told: its calls, and where the plan ended, if it did."""

    calls: list[PlannedCall] = field(default_factory=list)
    ended: str = ""
    ends: int = 0
    lock: Any = field(default_factory=threading.Lock)

    def note(self, call: PlannedCall) -> None:
        """Add a call."""
        with self.lock:
            self.calls.append(call)

    def end(self, what: str) -> NoReturn:
        """End the plan, and with it the code that called this."""
        self.ends += 1
        if not self.ended:
            self.ended = f"{_place()} needs {what}"
        raise SystemExit  # itself: threads say nothing of it, but tracebacks of its subclasses


class UnknownFuture(Future[Any]):
    """The value of a call that would run: nobody can wait for it."""

    __slots__ = ("_plan", "_polls")

    def __init__(self, task_id: int, name: str, plan: Plan) -> None:
        super().__init__(task_id, name)
        self._plan = plan
        self._polls = 0

    def done(self) -> bool:
        self._polls += 1
        if self._polls > _POLLS:
            self._end()
        return False

    def cancel(self) -> bool:
        return False

    def _wait(self, timeout: float | None) -> None:
        self._end()

    def __await__(self) -> Any:
        self._end()

    @property
    def _waiters(self) -> Any:  # type: ignore[override]
        self._end()

    def _end(self) -> NoReturn:
        self._plan.end(f"the value of task {self.task_id} ({self.task_name})")


class PlanWorker(WorkerContext):
    """Notices waits of the thread that it is the worker of."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(in_process=True)
        self._plan = plan

    def waiting(self) -> AbstractContextManager[object]:
        self._plan.end("values of tasks that would run")


class PlanKernel:
    """Takes the place of a :class:`weft_core.Kernel` in a run; see there."""

    def __init__(
        self,
        executors: Callable[[], Sequence[Executor]],
        plan: Plan,
        memory: PlanMemory | None,
        resolver: DependencyResolver,
        run_id: str,
    ) -> None:
        self.run_id = run_id
        self._make_executors = executors
        self._executors: dict[str, Executor] | None = None
        self._plan = plan
        self._memory = memory
        self._resolver = resolver
        self._ids = itertools.count()
        self._leaders: dict[bytes, Future[Any]] = {}
        self._phase = "new"
        self._depth = 0

    # -- what a run asks of it ------------------------------------------------------------------------------

    @property
    def executors(self) -> Mapping[str, Executor]:
        """The executors that the run would have; none is started."""
        if self._executors is None:
            self._executors = {executor.label: executor for executor in self._make_executors()}
        return self._executors

    @property
    def closed(self) -> bool:
        return self._phase == "closed"

    def start(self) -> None:
        self._phase = "open"

    def close(self, *, cancel: bool = False, timeout: float = 10.0) -> list[str]:
        if self._phase != "closed" and self._memory is not None:
            self._memory.close()
        self._phase = "closed"
        return []

    def wait_idle(self, timeout: float | None = None) -> bool:
        """Nothing runs: what is waited for would be done."""
        return True

    def cancel_all(self, *, begun: bool) -> None:
        """Nothing runs."""

    def counts(self) -> Counts:
        return Counts(*[0] * len(Counts._fields))

    def unfinished(self, limit: int = 10) -> list[str]:
        return []

    def gather(self, value: Any) -> Future[Any]:
        return self._joined(next(self._ids), "gather", value)

    def submit(
        self, spec: TaskSpec, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Future[Any]:
        if self._phase != "open":
            raise RunClosedError(
                f"run {self.run_id} is not open: task {spec.options.name!r} was not submitted"
            )
        task = next(self._ids)
        needs = self._resolver.futures([*args, *(kwargs or {}).values()])
        unknown = [future for future in needs if _is_unknown(future)]
        if unknown:
            more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
            return self._note(
                task, spec, "unknown", f"depends on {_named(unknown[0])}{more}", _group(unknown[0])
            )
        for future in needs:
            error = error_of(future)
            if error is not None:
                told = dependency_error(f"task {task} ({spec.options.name})", future, error)
                return self._note(task, spec, "fails", f"needs {_named(future)}, which fails", error=told)
        try:
            args = tuple([self._value(value) for value in args])
            named = {name: self._value(value) for name, value in (kwargs or {}).items()}
            return self._looked_up(task, spec, args, named)
        except Exception as error:  # noqa: BLE001  as the kernel does: it fails the task
            return self._note(task, spec, "fails", f"{type(error).__name__}: {error}", error=error)

    # -- calls ----------------------------------------------------------------------------------------------

    def _value(self, value: Any) -> Any:
        value = self._resolver.resolve(value, value_of)
        return unshare(value) if Shared.used else value

    def _looked_up(
        self, task: int, spec: TaskSpec, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Future[Any]:
        options, memory = self._options(spec), self._memory
        if options is None or memory is None:
            return self._not_looked_up(task, spec, args, kwargs)
        call = memory.identify(spec.function, args, kwargs, options)
        leader = self._leaders.get(call.key)
        if leader is not None and isinstance(leader, UnknownFuture):
            reason = f"the same call as task {leader.task_id}"
            return self._note(task, spec, "shared", reason, "the same call as an earlier one")
        entry, explanation = memory.recall(call)
        if entry is not None and (entry.error is None or options.errors):
            return self._remembered(task, spec, entry, explanation)
        future = self._note(task, spec, "miss", explanation.reason, explanation=explanation)
        self._leaders[call.key] = future
        return self._join_body(future, spec, args, kwargs) if spec.join else future

    def _options(self, spec: TaskSpec) -> MemoOptions | None:
        if spec.memo is None:
            return _DEFAULT if self._memory is not None and self._memory.every else None
        return spec.memo or None

    def _remembered(
        self, task: int, spec: TaskSpec, entry: MemoEntry, explanation: Explanation
    ) -> Future[Any]:
        name = spec.options.name
        reason = f"run {entry.run or 'unknown'} computed it"
        self._plan.note(PlannedCall(task, name, "hit", reason, explanation))
        future: Future[Any] = Future(task, name)
        future.memo_hit = True
        future.finish(entry.value, entry.error)
        return future

    def _not_looked_up(
        self, task: int, spec: TaskSpec, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Future[Any]:
        future = self._note(task, spec, "runs", "not memoized")
        return self._join_body(future, spec, args, kwargs) if spec.join else future

    def _note(
        self,
        task: int,
        spec: TaskSpec,
        outcome: str,
        reason: str,
        group: str = "",
        explanation: Explanation | None = None,
        error: BaseException | None = None,
    ) -> Future[Any]:
        """Note a call that is not remembered, and give its future: failed with ``error``, or unknown."""
        name = spec.options.name
        self._plan.note(PlannedCall(task, name, outcome, reason, explanation, group))
        if error is None:
            return UnknownFuture(task, name, self._plan)
        future: Future[Any] = Future(task, name)
        future.finish(None, error)
        return future

    # -- joins ----------------------------------------------------------------------------------------------

    def _join_body(
        self, future: Future[Any], spec: TaskSpec, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Future[Any]:
        """Run the body of a join task, so that the calls in it are planned too."""
        if self._depth >= _DEPTH:
            return future
        self._depth += 1
        ended, ends = self._plan.ended, self._plan.ends
        try:
            value = spec.function(*args, **kwargs)
        except (Exception, SystemExit) as error:  # noqa: BLE001  it fails the task
            if self._plan.ends > ends:
                self._plan.ended = ended  # only this body waits: in a run the script would go on
                return future
            failed: Future[Any] = Future(future.task_id, future.task_name)
            failed.finish(None, error)
            return failed
        finally:
            self._depth -= 1
        return self._joined(future.task_id, future.task_name, value)

    def _joined(self, task: int, name: str, value: Any) -> Future[Any]:
        """A future of ``value`` with the values of the futures in it, if all are known."""
        futures = DEEP.futures(value)
        known = [future for future in futures if not _is_unknown(future)]
        error = next((error for future in known if (error := error_of(future)) is not None), None)
        if error is None and len(known) < len(futures):
            return UnknownFuture(task, name, self._plan)
        future: Future[Any] = Future(task, name)
        future.finish(None if error else DEEP.resolve(value, value_of), error)
        return future


def _is_unknown(future: Any) -> bool:
    return isinstance(future, UnknownFuture) or not future.done()


def _named(future: Any) -> str:
    name = getattr(future, "task_name", None)
    return "a future that is not done" if name is None else f"task {future.task_id} ({name})"


def _group(future: Any) -> str:
    name = getattr(future, "task_name", None)
    return "depends on a future that is not done" if name is None else f"depends on {name}"


def _place() -> str:
    """The innermost line of the script that is being run, in words."""
    script = getattr(sys.modules.get("__main__"), "__file__", None)
    frame: FrameType | None = sys._getframe(1)
    found = "the script"
    while frame is not None:
        place = f"{frame.f_code.co_filename}, line {frame.f_lineno},"
        if frame.f_code.co_filename == script:
            return place
        if found == "the script" and not str(frame.f_globals.get("__name__")).startswith(_NOT_THE_USERS):
            found = place
        frame = frame.f_back
    return found
