"""The dataflow kernel: takes calls, waits for what they depend on, hands them to executors, completes their
futures.

Who does what: the submitting thread does all the work up to handing a call to its executor; the thread in
which an executor reports an outcome completes the future, tells those who wait for it, and launches the tasks
that it made ready. The kernel has one lock, held for a few instructions at a time, never while code of an
executor, a policy or a user runs.
"""

from __future__ import annotations

import dataclasses
import itertools
import threading
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import CancelledError
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from ._interfaces import (
    Call,
    CallOptions,
    ConfigError,
    DeadlockError,
    DependencyResolver,
    DetachedError,
    EventSink,
    Executor,
    Failure,
    HotLock,
    InternalError,
    LostError,
    Memoizer,
    NoBlocksError,
    Outcome,
    RetryDecision,
    RetryPolicy,
    RunClosedError,
    ScalingPolicy,
    Shared,
    WorkerLostError,
    current_worker,
)
from .cycle import cycle_error, find_cycle
from .dependencies import (
    ATOMS,
    DEEP,
    cancel_foreign,
    error_of,
    is_future,
    unshare,
    value_of,
    watch_foreign,
)
from .failure import dependency_error, lost_error, safe_repr
from .future import Future, Waiter, tell
from .journal import Journal
from .memo import Memory, followed_by
from .patience import wait_in_pieces
from .retry import BackoffRetryPolicy
from .router import Router
from .state import FINAL, TaskState
from .task import Task, TaskSpec, Tries
from .timer import Timer

if TYPE_CHECKING:
    from ._interfaces import BlockExecutor, ScalerMaker
    from .scaler import Scaler

__all__ = ["Counts", "Kernel"]

NO_KWARGS: Mapping[str, Any] = {}
_LOOKING_UP = 0.01  # seconds: ready tasks are not held back for longer while others are looked up
_GATHER = TaskSpec(function=lambda: None, options=CallOptions(name="gather"))

PENDING, LAUNCHED, JOINING = TaskState.PENDING, TaskState.LAUNCHED, TaskState.JOINING
RETRYING, DONE, FAILED = TaskState.RETRYING, TaskState.DONE, TaskState.FAILED
CANCELLED = TaskState.CANCELLED


class Counts(NamedTuple):
    """How many tasks are where.

    ``retries`` counts tries beyond the first, ``memo_hits`` those of the done and failed ones that did not
    run because what they give was remembered, or an equal task gave it.
    """

    pending: int
    launched: int
    joining: int
    done: int
    failed: int
    dependency_failed: int
    cancelled: int
    retries: int
    memo_hits: int = 0

    @property
    def active(self) -> int:
        """Tasks that are not finished."""
        return self.pending + self.launched + self.joining

    @property
    def finished(self) -> int:
        """Tasks whose future is done."""
        return self.done + self.failed + self.dependency_failed + self.cancelled

    @property
    def total(self) -> int:
        """All tasks so far."""
        return self.active + self.finished


class Kernel:
    """Runs tasks as a graph of futures on executors.

    executors: where tasks run; each has its own label.
    directory: for files of the run; made when something is first put there.
    helper: an executor of this process for the bodies of join tasks; the first in-process executor without
    it.
    retries: failed tries that are forgiven each task, unless it says otherwise.
    retry_policy, resolver, scaling_policy: see the contracts; sensible ones are the default.
    memoizer: remembers what calls gave; closed with the kernel.
    detached: where executors keep what another process needs to go on with their calls, each in a directory
    of its own; None for a run that ends with this process.
    sinks: take the run's events.

    ``start`` before use and ``close`` afterwards, or use it as a context manager: leaving it waits for what
    was submitted, or cancels it when an exception is on its way. All methods may be called from any thread.
    """

    def __init__(
        self,
        executors: Sequence[Executor],
        *,
        directory: Path,
        run_id: str | None = None,
        helper: Executor | None = None,
        retries: int = 0,
        retry_policy: RetryPolicy | None = None,
        resolver: DependencyResolver = DEEP,
        scaling_policy: ScalingPolicy | None = None,
        memoizer: Memoizer | None = None,
        sinks: Sequence[EventSink] = (),
        detached: Path | None = None,
    ) -> None:
        self.detached = detached
        self.run_id = run_id or uuid.uuid4().hex[:12]
        self.directory = Path(directory)
        self.executors = _by_label(executors)
        self._all_executors = list(self.executors.values())
        if helper is not None and helper not in self._all_executors:
            _by_label([*self._all_executors, helper])
            self._all_executors.append(helper)
        self._router = Router(self.executors, helper)
        self._retries = retries
        self._retry_policy = retry_policy or BackoffRetryPolicy()
        self._resolver = resolver
        self._timer = Timer(f"weft-timer-{self.run_id}")
        self._journal = Journal(sinks, self.run_id)
        self._scaling_policy = scaling_policy
        self._scaler: Scaler | None = None
        self._memory = None if memoizer is None else Memory(memoizer)

        self._ids = itertools.count()
        self._lock = HotLock()
        self._became_idle = threading.Condition(self._lock)
        self._ending = threading.RLock()
        self._tasks: dict[int, Task] = {}  # the unfinished ones, by the call id of their present try
        self._numbers = [0] * len(TaskState)
        self._retried = self._memo_hits = 0
        self._phase = "new"
        self._reporting = threading.local()
        self._no_kwargs: Mapping[str, Any] = {}  # this run's own: it tells its calls from those of others

    def _make_scaler(self) -> Scaler | None:
        """Of the executors that have not seen to it themselves."""
        in_blocks = [
            cast("BlockExecutor", executor)
            for executor in self._all_executors
            if executor.in_blocks and not executor.scales_itself
        ]
        if not in_blocks:
            return None
        return self.scaler_maker()(in_blocks, emit=self._journal.emit)

    def scaler_maker(self) -> partial[Scaler]:
        """Makes scalers that work as this run's own; see :class:`ScalerMaker`."""
        from .scaler import Scaler  # not at the top: a run on one machine has no use for it

        return partial(
            Scaler,
            run_id=self.run_id,
            directory=str(self.directory / "blocks"),
            policy=self._scaling_policy,
        )

    # -- life -----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the executors. Raises what they raise; then nothing was left running."""
        with self._lock:
            if self._phase != "new":
                raise ConfigError(f"run {self.run_id} was started before; make a new one")
            self._phase = "open"
        started: list[Executor] = []
        try:
            for executor in self._all_executors:
                executor.start(_Context(self, executor))
                started.append(executor)
            self._scaler = self._make_scaler()
            if self._scaler is not None:
                self._scaler.start()
        except BaseException:
            with self._lock:
                self._phase = "closed"
            for executor in reversed(started):
                _shut_down(executor, 10.0)
            self._close_memory(10.0)
            raise
        self._journal.start()
        self._journal.note("run.started", {"executors": list(self.executors)})

    def close(self, *, cancel: bool = False, timeout: float = 10.0) -> list[str]:
        """Wait for what was submitted, as long as it takes, or cancel it; then end the executors within
        ``timeout`` seconds.

        Meanwhile only running tasks and done callbacks may submit more. Returning: every future is done, and
        no thread, process or file of the run is left but those named, in words, in the returned list. Closing
        again does nothing; when a first close was interrupted, a second goes on. Raises
        :class:`DeadlockError` in a task or a done callback of the run, which closing would wait for.
        """
        self._refuse_to_wait_for_itself()
        deadline = time.monotonic() + timeout
        with self._lock:
            if self._phase == "closed":
                return []
            began = self._phase != "new"
            if not began:
                self._phase = "closed"
            elif cancel:
                self._phase = "cancelling"
            elif self._phase == "open":
                self._phase = "draining"
        if not began:
            return self._close_memory(timeout)
        if cancel:
            self.cancel_all(begun=True)
        else:
            self._drain()
            deadline = time.monotonic() + timeout
        with self._ending:  # of two who close at once, one ends the run and the other waits for that
            if self.closed:
                return []
            leftovers = self._end(deadline)
            self._abandon()
        return leftovers

    def detach(self, timeout: float = 10.0) -> list[str]:
        """Leave now: calls that executors have which can detach go on without this process, all else ends.

        Waits up to ``timeout`` seconds for calls to be handed over. Returning: every future is done, those of
        unfinished tasks with a :class:`DetachedError`, and no thread or process of the run is left here but
        those named, in words, in the returned list; so is what could not be handed over. Raises
        :class:`ConfigError` for a run without ``detached``, :class:`RunClosedError` for one that is closing,
        and :class:`DeadlockError` as :meth:`close` does; then nothing was changed.
        """
        self._refuse_to_wait_for_itself()
        deadline = time.monotonic() + timeout
        if self.detached is None:
            raise ConfigError(f"run {self.run_id} ends with this process: set detach=True for it", "detach")
        with self._lock:
            if self._phase != "open":
                raise RunClosedError(f"run {self.run_id} is not open: it cannot be left any more")
            self._phase = "cancelling"
        leaving = [executor for executor in self._all_executors if executor.can_detach]
        with self._ending:
            if self._scaler is not None:
                self._scaler.freeze("the run was left")
                self._scaler.let_go(leaving)
            leftovers: list[str] = []
            for executor in leaving:
                leftovers += _leave(executor, max(1.0, deadline - time.monotonic()))
            self._finish_left(leaving)
            leftovers += self._end(deadline)
            self._abandon()
        return leftovers

    def _finish_left(self, leaving: Sequence[Executor]) -> None:
        with self._lock:
            tasks = list(self._tasks.values())
        with _Report(self) as report:  # those that depend on them hear of it when all are finished
            for task in tasks:
                handed_over = task.state is LAUNCHED and task.executor in leaving
                what = "goes on without it" if handed_over else "had not been handed over, and does not run"
                error = DetachedError(f"this process has left run {self.run_id}: {task} {what}")
                self._finish(task, FAILED, None, error, report)

    def _refuse_to_wait_for_itself(self) -> None:
        worker = current_worker()
        in_task = worker is not None and worker.call is not None and self.task_of_call(worker.call)
        if in_task or getattr(self._reporting, "active", False):
            raise DeadlockError(
                f"run {self.run_id} was asked to close by {in_task or 'a done callback'}, which closing "
                "would wait for: close it from outside; cancel_all() may be called anywhere"
            )

    def _drain(self) -> None:
        """Wait until no task is unfinished, and from then on take none, also from what outlived its task."""
        with self._became_idle:
            self._wait_idle(None)
            if self._phase == "draining":
                self._phase = "ending"

    def __enter__(self) -> Kernel:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close(cancel=kind is not None)

    @property
    def closed(self) -> bool:
        """Whether it has ended."""
        return self._phase == "closed"

    def wait_idle(self, timeout: float | None = None) -> bool:
        """Wait until no task is unfinished; False if some are after ``timeout`` seconds."""
        with self._became_idle:
            return self._wait_idle(timeout)

    def _wait_idle(self, timeout: float | None) -> bool:
        return wait_in_pieces(
            lambda seconds: self._became_idle.wait_for(lambda: not self._tasks, seconds), timeout
        )

    # -- submission -----------------------------------------------------------------------------------------

    def submit(
        self, spec: TaskSpec, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] = NO_KWARGS
    ) -> Future[Any]:
        """Run ``spec.function(*args, **kwargs)`` once the futures in its arguments are done.

        Returning: the future will complete. Raising: nothing was submitted. Raises :class:`RunClosedError`
        when the run is closing, :class:`ConfigError` for an unknown executor and :class:`ResourcesError` when
        none can ever run it.
        """
        route = self._router.route(spec)
        task = Task(self, next(self._ids), spec, args, kwargs or self._no_kwargs)
        future = task.future
        futures = self._futures_in(args, kwargs)
        try:
            if futures or (self._memory is not None and self._memory.options(spec) is not None):
                self._admit(task, PENDING)
                with _Report(self) as report:
                    self._wait_for(task, futures, report)
            else:
                executor = route.choose()
                self._admit(task, LAUNCHED)
                error = self._hand_over(executor, (task,))
                if error is not None:
                    self.completed((Outcome(task.id, None, error),))
        except BaseException:
            self._withdraw(task)
            raise
        return future

    def gather(self, value: Any) -> Future[Any]:
        """A future of ``value`` with every future in it, at any depth, replaced by its value.

        When one of them fails it fails with the same error, at once. Cancelling it cancels those that are not
        done.
        """
        futures = DEEP.futures(value)
        task = Task(self, next(self._ids), _GATHER, (), NO_KWARGS)
        future = task.future
        try:
            self._admit(task, JOINING)
            with _Report(self) as report:
                self._join(task, value, futures, report)
        except BaseException:
            self._withdraw(task)
            raise
        return future

    def _withdraw(self, task: Task) -> None:
        """Forget a task whose submission was interrupted: by Ctrl-C, which may strike at any point.

        Nobody has its future, and an executor may have the call, or not: nothing must wait for it.
        """
        if self._tasks.get(task.call_id) is not task:
            return
        if task.state is LAUNCHED:
            for executor in self._router.route(task.spec).executors:
                executor.cancel((task.call_id,))
        with _Report(self) as report:
            self._finish(task, CANCELLED, None, CancelledError(f"{task} was cancelled"), report)
            report.finished.append(task.call_id)

    def _admit(self, task: Task, state: TaskState) -> None:
        with self._lock:
            if self._phase != "open" and not self._may_submit_while_closing():
                raise RunClosedError(self._closed_message(task))
            task.state = state
            self._tasks[task.call_id] = task
            self._numbers[state] += 1
        if self._journal.active:
            self._journal.note("task.submitted", {"task": task.id, "name": task.spec.options.name})

    def _may_submit_while_closing(self) -> bool:
        if self._phase != "draining":
            return False
        worker = current_worker()
        return getattr(self._reporting, "active", False) or (worker is not None and worker.call is not None)

    def _closed_message(self, task: Task) -> str:
        name = task.spec.options.name
        if self._phase == "new":
            return f"run {self.run_id} was not started: task {name!r} was not submitted"
        state = "is closed" if self._phase == "closed" else "is closing"
        return f"run {self.run_id} {state} and takes no more tasks: task {name!r} was not submitted"

    # -- dependencies ---------------------------------------------------------------------------------------

    def _futures_in(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Any]:
        futures: list[Any] = []
        for value in (*args, *kwargs.values()) if kwargs else args:
            kind = type(value)
            if kind is Future:
                futures.append(value)
            elif kind not in ATOMS:
                futures += self._resolver.futures(value)
        return futures

    def _value(self, value: Any) -> Any:
        """An argument with values in the place of futures."""
        kind = type(value)
        if kind in ATOMS:
            return value
        return value_of(value) if kind is Future else self._resolver.resolve(value, value_of)

    def _wait_for(self, task: Task, futures: Sequence[Any], report: _Report) -> None:
        """Have the task told when the futures are done. It is pending or joining, and not yet waiting for
        anything.
        """
        task.missing = len(futures) + 1  # the one more keeps it from going on before all are asked
        for future in futures:
            if not self._subscribe(task, future):
                self._dependency_done(task, future, report)
        self._dependency_done(task, None, report)

    def _subscribe(self, task: Task, future: Any) -> bool:
        if isinstance(future, Future):
            awaited = future._task
            if awaited is None or awaited.owner is task.owner:
                return future.subscribe(task)
        return watch_foreign(future, lambda done: self._foreign_done(task, done))

    def _foreign_done(self, task: Task, future: Any) -> None:
        with _Report(self) as report:
            self._dependency_done(task, future, report)

    def _dependency_done(self, task: Task, future: Any, report: _Report) -> None:
        """A future that the task waits for is done; None for the one more of ``_wait_for``."""
        error = None if future is None else error_of(future)
        with self._lock:
            if task.state is not PENDING and task.state is not JOINING:
                return
            if error is None:  # else never 0: no other thread may launch it before it is failed below
                task.missing -= 1
                if task.missing:
                    return
            joining = task.state is JOINING
        if joining:
            self._end_join(task, error, report)
        elif error is None:
            report.ready.append(task)
        else:
            self._finish(
                task, TaskState.DEPENDENCY_FAILED, None, dependency_error(task, future, error), report
            )

    # -- joins ----------------------------------------------------------------------------------------------

    def _begin_join(self, task: Task, value: Any, report: _Report) -> None:
        try:
            futures = DEEP.futures(value)
        except Exception as error:  # noqa: BLE001  what the user's classes raise fails the task
            self._finish(task, FAILED, None, error, report)
            return
        with self._lock:
            if task.state is not LAUNCHED:
                return
            self._move(task, JOINING)
        self._join(task, value, futures, report)

    def _join(self, task: Task, value: Any, futures: Sequence[Any], report: _Report) -> None:
        """Complete the joining task with ``value``, once the futures in it are done."""
        task.waits_for = value
        self._wait_for(task, futures, report)
        # After subscribing, so that of two tasks that come to wait for each other at once, one at least sees
        # it.
        awaited = {
            future._task for future in futures if isinstance(future, Future) and future._task is not None
        }
        if awaited and (cycle := find_cycle(task, awaited)):
            self._finish(task, FAILED, None, cycle_error(cycle), report)

    def _end_join(self, task: Task, error: BaseException | None, report: _Report) -> None:
        state, value = DONE, None
        if error is None:
            try:
                value = DEEP.resolve(task.waits_for, value_of)
            except Exception as failure:  # noqa: BLE001  a value that cannot be rebuilt fails the join
                error = failure
        if error is not None:
            state = CANCELLED if isinstance(error, CancelledError) else FAILED
        self._remember(task, value, error)
        self._finish(task, state, value, error, report)

    # -- launching ------------------------------------------------------------------------------------------

    def _launch(self, tasks: Iterable[Task], report: _Report) -> None:
        """Hand tasks whose dependencies are done to executors, in one batch for each."""
        batches: dict[Executor, list[Task]] = {}
        began = None if self._memory is None else time.monotonic()
        for task in tasks:
            executor = self._prepare(task, report)
            if executor is None:
                continue
            with self._lock:
                if task.state is not PENDING:
                    continue
                self._move(task, LAUNCHED)
            batches.setdefault(executor, []).append(task)
            if began is not None and time.monotonic() - began > _LOOKING_UP:
                self._hand_over_all(batches, report)
                batches, began = {}, time.monotonic()
        self._hand_over_all(batches, report)

    def _hand_over_all(self, batches: Mapping[Executor, Sequence[Task]], report: _Report) -> None:
        for executor, batch in batches.items():
            error = self._hand_over(executor, batch)
            if error is not None:
                for task in batch:
                    self._try_failed(task, error, report)

    def _prepare(self, task: Task, report: _Report) -> Executor | None:
        """Put values in the place of futures and choose an executor; None if the task needs none: it is
        finished, or waits for an equal one.
        """
        try:
            # Once: a task that was prepared before has values, which may hold futures themselves.
            if task.call_id == task.id and task.memo is None:
                task.args = tuple([self._value(value) for value in task.args])
                if task.kwargs:
                    task.kwargs = {name: self._value(value) for name, value in task.kwargs.items()}
            if self._memory is not None and not self._must_run(self._memory, task, report):
                return None
            return self._router.route(task.spec).choose()
        except Exception as error:  # noqa: BLE001  an argument that cannot be rebuilt, for one
            self._finish(task, FAILED, None, error, report)
            return None

    def _drop(self, tasks: Iterable[Task]) -> None:
        """Cancel those whose launch was interrupted, as by Ctrl-C: nobody else would ever go on with them."""
        with _Report(self) as report:
            for task in tasks:
                if task.state is PENDING and followed_by(task) is None:
                    self._finish(task, CANCELLED, None, CancelledError(f"{task} was cancelled"), report)

    # -- equal calls ----------------------------------------------------------------------------------------

    def _must_run(self, memory: Memory, task: Task, report: _Report) -> bool:
        """Whether a task whose arguments are values needs an executor. Raises what identifying it raises."""
        options = memory.options(task.spec)
        if options is None or task.call_id != task.id:
            return True  # in a retry it leads since its first try
        if task.state is not PENDING:
            return False
        lookup = task.memo
        if lookup is None:
            task.memo = lookup = memory.identify(task, options)
        with self._lock:
            if task.state is not PENDING:
                return False
            leads = memory.enter(task, lookup)
        if not leads:
            # After it follows, for the same reason as in _join.
            leader = followed_by(task)
            if leader is not None and (cycle := find_cycle(task, {leader})):
                self._finish(task, FAILED, None, cycle_error(cycle), report)
            return False
        entry = memory.recall(task, lookup)
        if entry is None:
            return True
        state = DONE if entry.error is None else FAILED
        self._finish(task, state, entry.value, entry.error, report, memo_hit=True)
        return False

    def _pass_on(
        self,
        tasks: Sequence[Task],
        leader: Task,
        state: TaskState,
        value: Any,
        error: BaseException | None,
        report: _Report,
    ) -> None:
        """Give what an equal task gave to those that followed it; if it was cancelled, one leads now."""
        if state is CANCELLED:
            report.ready.extend(tasks)
            return
        for task in tasks:
            lookup = task.memo
            if lookup is not None:  # else it was cancelled
                cast("Memory", self._memory).share(task, lookup, leader.id)
                self._finish(task, state, value, error, report, memo_hit=True)

    def _remember(self, task: Task, value: Any, error: BaseException | None) -> None:
        """Before the task is finished, so that no equal call runs in between."""
        lookup = task.memo
        if lookup is not None and self._memory is not None:
            self._memory.remember(lookup, value, error)

    def _hand_over(self, executor: Executor, tasks: Sequence[Task]) -> Exception | None:
        """Submit launched tasks. Returns what the executor raised: then it has none of them."""
        try:
            calls = [
                Call(
                    task.call_id,
                    task.spec.function,
                    task.args,
                    task.kwargs,
                    self._options(task),
                    None if task.call_id == task.id else task.id,
                )
                for task in tasks
            ]
            if Shared.used and executor.in_process:
                calls = [_unshared(task, call) for task, call in zip(tasks, calls, strict=True)]
            executor.submit(calls)
        except Exception as error:  # noqa: BLE001  whatever an executor raises is the outcome
            return error
        if self._scaler is not None:
            self._scaler.wake()
        with self._lock:
            cancelling = []
            for task, call in zip(tasks, calls, strict=True):
                if task.call_id == call.id:  # else it has failed meanwhile, and is at its next try
                    task.executor = executor
                    if task.cancelling:
                        cancelling.append(call.id)
        if cancelling:
            executor.cancel(cancelling)
        return None

    def _options(self, task: Task) -> CallOptions:
        options = task.spec.options
        if not self._router.route(task.spec).templated:
            return options
        paths = {
            field: path.replace("{id}", str(task.id)).replace("{name}", options.name)
            for field in ("stdout", "stderr", "cwd")
            if (path := getattr(options, field))
        }
        return dataclasses.replace(options, **paths)

    # -- outcomes -------------------------------------------------------------------------------------------

    def completed(self, outcomes: Sequence[Outcome]) -> None:
        """What executors report. An outcome of a try that is over is ignored."""
        with _Report(self) as report:
            for call_id, value, error in outcomes:
                task = self._tasks.get(call_id)
                if task is None or task.state is not LAUNCHED:
                    continue
                if error is not None or task.cancelling:
                    self._try_failed(task, error or CancelledError(), report, ran=True)
                elif task.spec.join or (type(value) not in ATOMS and is_future(value)):
                    self._begin_join(task, value, report)
                else:
                    if task.memo is not None:
                        self._remember(task, value, None)
                    self._finish(task, DONE, value, None, report)

    def _finish(
        self,
        task: Task,
        state: TaskState,
        value: Any,
        error: BaseException | None,
        report: _Report,
        unless: TaskState | None = None,
        memo_hit: bool = False,
    ) -> bool:
        """Complete the task's future, once; False if something else did, or in the state ``unless``."""
        with self._lock:
            if task.state in FINAL or task.state is unless:
                return False
            self._move(task, state)
            future, followers = task.future, None
            if task.memo is not None:
                followers = cast("Memory", self._memory).leave(task, state is CANCELLED)
                self._memo_hits += memo_hit
                future.memo_hit = memo_hit
        report.finished.append(task.call_id)
        task.args, task.kwargs, task.waits_for, task.tries = (), NO_KWARGS, None, None
        subscribers = future.finish(value, error)
        if subscribers:
            report.told.append((future, subscribers))
        if self._journal.active:
            data = {"task": task.id, "error": error and safe_repr(error), "memo_hit": memo_hit}
            self._journal.note(f"task.{state.name.lower()}", data)
        if followers:
            self._pass_on(followers, task, state, value, error, report)
        return True

    def _move(self, task: Task, state: TaskState) -> None:
        self._numbers[task.state] -= 1
        task.move(state)
        self._numbers[state] += 1

    # -- tries ----------------------------------------------------------------------------------------------

    def _try_failed(self, task: Task, error: BaseException, report: _Report, ran: bool = False) -> None:
        """A try ended with an error: the call's if it ``ran``, else its executor's, which did not take it."""
        if task.cancelling or isinstance(error, CancelledError):
            said_why = isinstance(error, CancelledError) and error.args
            cancelled = error if said_why else CancelledError(f"{task} was cancelled")
            self._finish(task, CANCELLED, None, cancelled, report)
            return
        call_id = task.call_id
        if isinstance(error, NoBlocksError) and self._goes_elsewhere(task):
            reason = f"it has not begun, and another executor can take it: {error}"
            if self._set_retrying(task, call_id, RetryDecision(True, 0.0, reason)):
                self._set_pending(task, report)
            return
        tries = task.tries = task.tries or Tries()
        tries.failures += not isinstance(error, LostError) or isinstance(error, WorkerLostError)
        if isinstance(error, LostError):
            tries.losses += 1
            tries.certificates.extend(error.certificates)
            error = lost_error(error, tries.certificates)
        decision = self._decide(task, tries, error)
        if not decision.retry:
            if ran:
                self._remember(task, None, error)
            self._finish(task, FAILED, None, error, report)
        elif self._set_retrying(task, call_id, decision):
            if decision.delay > 0:
                self._timer.call_later(decision.delay, lambda: self._try_again(task))
            else:
                self._set_pending(task, report)

    def _goes_elsewhere(self, task: Task) -> bool:
        executor = task.executor
        running = self._phase not in ("cancelling", "closed")
        return running and executor is not None and self._router.route(task.spec).others(executor)

    def _decide(self, task: Task, tries: Tries, error: BaseException) -> RetryDecision:
        if self._phase in ("cancelling", "closed"):
            return RetryDecision(False, reason="the run is closing")
        retries = self._retries if task.spec.retries is None else task.spec.retries
        name = task.spec.options.name
        try:
            failure = Failure(task.id, name, error, retries, tries.failures, tries.losses)
            decision = self._retry_policy.decide(failure)
            if not isinstance(decision, RetryDecision):
                raise TypeError(f"a retry policy must return a RetryDecision, not {safe_repr(decision)}")
            return decision
        except Exception as broken:  # noqa: BLE001  a policy of the user's may raise anything
            if error.__cause__ is None:
                error.__cause__ = broken
            return RetryDecision(False, reason=f"the retry policy raised {safe_repr(broken)}")

    def _set_retrying(self, task: Task, call_id: int, decision: RetryDecision) -> bool:
        """The next try gets a call id of its own, so that a late outcome of this one is not taken for it.

        False if the try is over already: an executor reported it twice, or the run was closed.
        """
        with self._lock:
            if task.state is not LAUNCHED or task.call_id != call_id:
                return False
            self._move(task, RETRYING)
            del self._tasks[call_id]
            task.call_id = next(self._ids)
            task.executor = None
            self._tasks[task.call_id] = task
            self._retried += 1
        if self._journal.active:
            self._journal.note(
                "task.retrying", {"task": task.id, "delay": decision.delay, "reason": decision.reason}
            )
        return True

    def _try_again(self, task: Task) -> None:
        with _Report(self) as report:
            self._set_pending(task, report)

    def _set_pending(self, task: Task, report: _Report) -> None:
        with self._lock:
            if task.state is not RETRYING:
                return
            self._move(task, PENDING)
        report.ready.append(task)

    # -- cancelling -----------------------------------------------------------------------------------------

    def cancel(self, task: Task) -> bool:
        """Cancel one task: see :meth:`Future.cancel`. What a join waits for is cancelled with it."""
        accepted = False
        tasks, foreign = [task], list[Any]()
        while tasks:  # not by recursion: joins may be nested deeper than the stack
            launched: list[Task] = []
            # Those who depend on them hear of it when all are cancelled: they may be among them.
            with _Report(self) as report:
                while tasks:
                    each = tasks.pop()
                    if not self._cancel_waiting(each, report, tasks, foreign):
                        launched.append(each)
                    elif each is task:
                        accepted = True
            for each in launched:
                if self._cancel_launched(each, tasks, foreign) and each is task:
                    accepted = True
        for future in foreign:
            cancel_foreign(future)
        return accepted

    def _cancel_launched(self, task: Task, tasks: list[Task], foreign: list[Any]) -> bool:
        """Cancel a task that an executor may have; whether it is, or will be."""
        while task.state not in FINAL:
            with self._lock:
                launched, executor, call_id = task.state is LAUNCHED, task.executor, task.call_id
                if launched and executor is None:
                    task.cancelling = True  # it is just being handed over: _hand_over will see it
                    return True
            if launched and executor is not None:
                return call_id in executor.cancel((call_id,))
            with _Report(self) as report:
                if self._cancel_waiting(task, report, tasks, foreign):
                    return True
            # Otherwise it was launched, or is done, since it was looked at.
        return False

    def _cancel_waiting(self, task: Task, report: _Report, tasks: list[Task], foreign: list[Any]) -> bool:
        """Cancel a task that no executor has; what it joins is added to ``tasks`` or ``foreign``."""
        value = task.waits_for
        error = CancelledError(f"{task} was cancelled")
        cancelled = self._finish(task, CANCELLED, None, error, report, unless=LAUNCHED)
        if cancelled and value is not None:
            for future in DEEP.futures(value):
                inner = future._task if isinstance(future, Future) else None
                if inner is not None and inner.owner is self:
                    tasks.append(inner)
                else:
                    foreign.append(future)
        return cancelled

    def cancel_all(self, *, begun: bool) -> None:
        """Cancel every task, or only those that no worker has begun, and that do not wait for such ones."""
        with self._lock:
            tasks = list(self._tasks.values())
            for task in tasks:
                if task.state is LAUNCHED and task.executor is None:
                    task.cancelling = True
        foreign: list[Any] = []
        with _Report(self) as report:
            for task in tasks:
                if task.state is not LAUNCHED and (begun or task.state is not JOINING):
                    self._cancel_waiting(task, report, [], foreign)
        for future in foreign:
            if not isinstance(future, Future):
                cancel_foreign(future)
        for executor in self._all_executors:
            spared = () if begun else frozenset(executor.running())
            launched = [task for task in tasks if task.executor is executor and task.state is LAUNCHED]
            executor.cancel([task.call_id for task in launched if task.call_id not in spared])

    # -- what futures ask -----------------------------------------------------------------------------------

    def running(self, task: Task) -> bool:
        """Whether a worker has begun the task."""
        executor = task.executor
        return executor is not None and task.state is LAUNCHED and task.call_id in executor.running()

    def task_of_call(self, call: Call) -> Task | None:
        """The unfinished task whose present try this is; None if it is no call of this run."""
        task = self._tasks.get(call.id)
        # Calls of another run, or pool, may have the same id, but not the same mapping: see _no_kwargs.
        return task if task is not None and task.kwargs is call.kwargs else None

    def check_wait(self, task: Task, waiting: Task) -> None:
        """Raises :class:`CycleError` if ``waiting``, which is about to wait for ``task``, would wait for
        itself.
        """
        if cycle := find_cycle(waiting, {task}):
            raise cycle_error(cycle)

    def awaited_by(self, task: Task) -> Sequence[Any]:
        """The futures that a task waits for."""
        leader, awaited = followed_by(task), task.waits_for
        if leader is not None:
            return (leader.future,)
        if type(awaited) is Waiter:
            return (awaited.future,)
        try:
            return (
                DEEP.futures(awaited) if task.state is JOINING else self._futures_in(task.args, task.kwargs)
            )
        except Exception:  # noqa: BLE001  containers that change meanwhile, for one; nothing was promised
            return ()

    # -- views ----------------------------------------------------------------------------------------------

    def counts(self) -> Counts:
        """How many tasks are where, now."""
        with self._lock:
            numbers, others = list(self._numbers), (self._retried, self._memo_hits)
        numbers[PENDING] += numbers.pop(RETRYING)
        return Counts._make([*numbers, *others])

    def unfinished(self, limit: int = 10) -> list[str]:
        """What is waited for, in words: at most ``limit`` lines, those that have begun first."""
        with self._lock:
            tasks = [task for task in list(self._tasks.values()) if task.state not in FINAL]
        running = {call_id for executor in self._all_executors for call_id in executor.running()}
        tasks.sort(key=lambda task: (task.call_id not in running, task.state != LAUNCHED, task.id))
        lines = [f"{task}: {self._whereabouts(task, running)}" for task in tasks[:limit]]
        return lines + ([f"and {len(tasks) - limit} more"] if len(tasks) > limit else [])

    def _whereabouts(self, task: Task, running: set[int]) -> str:
        if task.state is LAUNCHED and task.executor is not None:
            state = "runs on" if task.call_id in running else "waits for a worker of"
            return f"{state} {task.executor.label!r}"
        leader = followed_by(task)
        if leader is not None:
            return f"waits for an equal call, task {leader.id}"
        return {
            PENDING: f"waits for {task.missing} futures",
            JOINING: f"waits for {task.missing} futures that it returned",
            RETRYING: "waits for its next try",
        }.get(task.state, "is being launched")

    # -- ending ---------------------------------------------------------------------------------------------

    def _forget(self, call_ids: Sequence[int]) -> None:
        for call_id in call_ids:
            self._tasks.pop(call_id, None)
        if not self._tasks:
            with self._lock:
                self._became_idle.notify_all()

    def _end(self, deadline: float) -> list[str]:
        leftovers: list[str] = []
        if self._scaler is not None:
            self._scaler.freeze()
        for executor in self._all_executors:
            leftovers += _shut_down(executor, max(1.0, deadline - time.monotonic()))
        if self._scaler is not None:
            # After the executors: their managers were told to end, so that what is cancelled here is only
            # what did not.
            leftovers += self._scaler.close(max(1.0, deadline - time.monotonic()))
        self._timer.close()
        # After the last outcome: what was done is remembered, however the run ends.
        return leftovers + self._close_memory(max(1.0, deadline - time.monotonic()))

    def _close_memory(self, timeout: float) -> list[str]:
        return [] if self._memory is None else self._memory.close(timeout)

    def _abandon(self) -> None:
        """Every future completes: also those that an executor which broke its promise never reported."""
        with self._lock:
            self._phase = "closed"
            tasks = list(self._tasks.values())
        with _Report(self) as report:
            for task in tasks:
                error: BaseException = CancelledError(f"{task} was cancelled: its run was closed")
                state = CANCELLED
                if task.state is LAUNCHED and not task.cancelling:
                    whose = f"executor {task.executor.label!r}" if task.executor else "its executor"
                    error, state = InternalError(f"{task}: {whose} never reported its outcome"), FAILED
                self._finish(task, state, None, error, report)
        self._journal.note("run.closed", self.counts()._asdict())
        self._journal.close()


def _unshared(task: Task, call: Call) -> Call:
    """The call with values in the place of what stands for shared ones."""
    kwargs = call.kwargs
    found = {name: unshare(value) for name, value in kwargs.items()}
    if any(found[name] is not value for name, value in kwargs.items()):
        kwargs = task.kwargs = found  # the same mapping for both: see Kernel.task_of_call
    return call._replace(args=tuple([unshare(value) for value in call.args]), kwargs=kwargs)


class _Report:
    """What follows from some outcomes: futures to tell of, tasks to launch. Done, and over, when its block is
    left.
    """

    __slots__ = ("_kernel", "finished", "ready", "told")

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self.finished: list[int] = []
        self.ready: list[Task] = []
        self.told: list[tuple[Future[Any], list[Any]]] = []

    def __enter__(self) -> _Report:
        return self

    def __exit__(self, *_: object) -> None:
        kernel = self._kernel
        try:
            if self.told:
                self._tell()
            while self.ready:
                ready, self.ready = self.ready, []
                try:
                    kernel._launch(ready, self)
                except BaseException:
                    kernel._drop(ready)
                    raise
                if self.told:
                    self._tell()
        finally:
            if self.finished:
                # Only now: the run is not idle before those who were told have submitted what follows.
                kernel._forget(self.finished)

    def _tell(self) -> None:
        kernel, told = self._kernel, self.told
        reporting = kernel._reporting
        outer = getattr(reporting, "active", False)
        reporting.active = True
        try:
            while told:
                future, subscribers = told.pop()
                for subscriber in subscribers:
                    if type(subscriber) is Task:
                        kernel._dependency_done(subscriber, future, self)
                    else:
                        tell(subscriber, future)
        finally:
            reporting.active = outer


class _Context:
    """What an executor reports to."""

    def __init__(self, kernel: Kernel, executor: Executor) -> None:
        self.run_id = kernel.run_id
        self.directory = kernel.directory / executor.label
        keeps = kernel.detached is not None and executor.can_detach
        self.detached = kernel.detached / executor.label if keeps and kernel.detached else None
        self.completed = kernel.completed
        self.emit = kernel._journal.emit
        self._kernel = kernel

    @property
    def make_scaler(self) -> ScalerMaker:
        return self._kernel.scaler_maker()


def _shut_down(executor: Executor, timeout: float) -> list[str]:
    """Cancel what it has left, and end it. Returns what is left of it then."""
    try:
        return executor.shutdown(cancel=True, timeout=timeout)
    except Exception as error:  # noqa: BLE001  the other executors must end too
        return [f"executor {executor.label!r}: its shutdown raised {safe_repr(error)}"]


def _leave(executor: Executor, timeout: float) -> list[str]:
    """Have its calls go on without this process. Returns what is left here, and what does not."""
    try:
        return executor.detach(timeout)
    except Exception as error:  # noqa: BLE001  the other executors must end too
        return [f"executor {executor.label!r}: leaving it raised {safe_repr(error)}"]


def _by_label(executors: Sequence[Executor]) -> dict[str, Executor]:
    by_label: dict[str, Executor] = {}
    for executor in executors:
        if by_label.setdefault(executor.label, executor) is not executor:
            raise ConfigError(
                f"executors: two have the label {executor.label!r}; each needs its own", "executors"
            )
    if not by_label:
        raise ConfigError("executors: a run needs at least one", "executors")
    return by_label
