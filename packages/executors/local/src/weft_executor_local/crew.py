"""The threads of one :class:`ThreadExecutor` between ``start`` and ``shutdown``, and how they share out the
calls.

::

    submit ──> _waiting {id: call} ── its id ──> _queue ──> a worker takes the id, pops the call, runs it
                   │
                cancel pops it

The plain path takes no lock: who pops a call from ``_waiting`` owns it, who pops it from ``_running`` gives
its outcome, and a dict's pop is atomic. All that is rare (priorities, calls of several slots, lent slots,
threads given up) is under ``_lock`` and makes ``_attention`` true, which workers look at before each call.
One that sleeps on the queue is woken by a hint; who finds more to do than one worker can take, passes the
hint on.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import CancelledError
from contextvars import copy_context
from functools import partial
from queue import SimpleQueue
from typing import Any

from weft_interfaces import (
    Call,
    CallOptions,
    DeadlockError,
    ExecutorContext,
    InputError,
    Load,
    Outcome,
    ResourcesError,
    RunClosedError,
    TaskTimeoutError,
    WorkerLostError,
    adopt_worker,
    format_seconds,
)
from weft_interfaces.processes import exit_error

from .streams import redirected
from .thread_worker import ThreadWorker
from .timers import Timers

__all__ = ["Crew"]

# In the queue beside the ids, and equal to none of them.
_HINT = -0.5  # look at what needs attention
_STOP = -1.5  # nothing comes after this
_GRACE = 2.0  # seconds that an interrupted call has to end before its thread is given up


class _Gather:
    """A call of several slots, taken from the queue, and how many workers must still come free for it.

    Those that have wait for ``over``; the last one runs the call.
    """

    __slots__ = ("call", "missing", "over")

    def __init__(self, call: Call) -> None:
        self.call = call
        self.missing = call.options.resources.slots - 1
        self.over = threading.Event()


class Crew:
    """Threads that run calls and report to ``context``. They work in copies of the contextvars that it is
    made in.

    ``slots`` threads are active at any time, apart from those whose calls wait for other tasks: up to
    ``max_waiting``.
    """

    def __init__(self, label: str, slots: int, max_waiting: int, context: ExecutorContext) -> None:
        self._label = label
        self._slots = slots
        self._max_waiting = max_waiting
        self._completed = context.completed
        self._contextvars = copy_context()
        self._queue: SimpleQueue[float] = SimpleQueue()
        self._waiting: dict[int, Call] = {}
        self._running: dict[int, ThreadWorker] = {}
        self._plain_options: CallOptions | None = None
        self._timers = Timers(f"{label}-timers")
        self._closed = False
        self._ended = False

        self._lock = threading.Lock()
        self._attention = False
        self._hinted = False
        self._order = itertools.count()
        self._prior: list[
            tuple[int, int, int]
        ] = []  # a heap of (-priority, order, id) for the calls in _prior_calls
        self._prior_calls: dict[int, Call] = {}  # those with a priority; all others go first in, first out
        self._gather: _Gather | None = None
        self._threads: dict[ThreadWorker, threading.Thread] = {}
        self._leaving: list[threading.Thread] = []
        self._given_up: dict[ThreadWorker, threading.Thread] = {}
        self._names = itertools.count()
        self._ungrown = slots  # threads that have not been needed yet
        self._lent = 0  # slots of calls that wait for others
        self._lenders = 0  # and the number of these calls

    # -- calls
    # -------------------------------------------------------------------------------------------------

    def submit(self, calls: Sequence[Call]) -> None:
        """See :meth:`Executor.submit`."""
        if self._closed:
            raise RunClosedError(f"executor {self._label!r} was shut down and takes no more calls")
        if self._ungrown:
            self._grow(len(calls))
        waiting, put = self._waiting, self._queue.put
        for call in calls:
            if call.options is self._plain_options or self._is_plain(call.options):
                waiting[call.id] = call
                put(call.id)
            else:
                self._submit_carefully(call)
        # There is no lock around this method, so the end may have come in between. It sets _ended before it
        # drops what waits: what is found there now, nobody else will drop.
        if self._ended:
            self._drop([call.id for call in calls], self._too_late())

    def cancel(self, ids: Collection[int]) -> Collection[int]:
        """See :meth:`Executor.cancel`."""
        accepted = self._drop(ids, CancelledError())
        wanted = set(ids).difference(accepted)
        for call_id in wanted:
            worker = self._running.get(call_id)
            if worker is not None and worker.stop(call_id, CancelledError()):
                accepted.append(call_id)
        return accepted

    def running(self) -> list[int]:
        """See :meth:`Executor.running`."""
        return list(self._running)

    def load(self) -> Load:
        """See :meth:`Executor.load`."""
        gathering = self._gather is not None
        queued = len(self._waiting) + len(self._prior_calls) + gathering
        return Load(queued, len(self._running), self._slots, self._slots)

    def refusal(self, options: CallOptions) -> str | None:
        """Why calls with these options can never run here; None if they can."""
        resources = options.resources
        if resources.nodes > 1:
            return f"executor {self._label!r} has one node, the task asks for {resources.nodes}"
        if resources.gpus:
            return f"executor {self._label!r} has no gpus, the task asks for {resources.gpus:g}"
        if resources.slots > self._slots:
            return f"executor {self._label!r} has {self._slots} workers, the task asks for {resources}"
        return None

    def _is_plain(self, options: CallOptions) -> bool:
        plain = (
            options.priority == 0
            and options.timeout is None
            and options.stdout is None
            and options.stderr is None
            and options.cwd is None
            and options.resources.slots == 1
            and self.refusal(options) is None
        )
        if plain:
            self._plain_options = options  # the next calls of the same task have the same object
        return plain

    def _submit_carefully(self, call: Call) -> None:
        error = self._refuse(call)
        if error is not None:
            self._completed([Outcome(call.id, None, error)])
        elif call.options.priority == 0:
            self._waiting[call.id] = call
            self._queue.put(call.id)
        else:
            with self._lock:
                self._put_prior(-call.options.priority, next(self._order), call)

    def _refuse(self, call: Call) -> InputError | None:
        options = call.options
        refusal = self.refusal(options)
        if refusal is not None:
            return ResourcesError(refusal)
        self._grow(options.resources.slots)
        if options.resources.slots > self._slots - self._ungrown:
            return ResourcesError(
                f"executor {self._label!r}: the system gives too few threads for {options.resources}"
            )
        if options.cwd is not None and not _handles_streams(call):
            return InputError(
                f"cwd: executor {self._label!r} cannot run task {options.name!r} in {options.cwd!r}, because "
                f"its threads share one working directory; run the task on a ProcessExecutor, or pass the "
                f"directory as an argument"
            )
        return None

    def _drop(self, ids: Iterable[int], error: BaseException) -> list[int]:
        """End those of these calls that have not begun, with this error. Returns their ids."""
        dropped = []
        for call_id in ids:
            if self._waiting.pop(call_id, None) is not None:
                dropped.append(call_id)
            elif self._prior_calls or self._gather:
                with self._lock:
                    if self._prior_calls.pop(call_id, None) is not None or self._ungather(call_id):
                        dropped.append(call_id)
        if dropped:
            self._completed([Outcome(call_id, None, error) for call_id in dropped])
        return dropped

    def _too_late(self) -> RunClosedError:
        return RunClosedError(f"executor {self._label!r} was shut down before the call began")

    # -- workers
    # -----------------------------------------------------------------------------------------------

    def _grow(self, wanted: int) -> None:
        """Have up to ``wanted`` threads more, within the slots. Raises :class:`RuntimeError` when there can
        be none.
        """
        with self._lock:
            while wanted > 0 and self._ungrown:
                try:
                    self._start_thread()
                except RuntimeError:  # the system gives no more: fewer will do
                    if self._threads:
                        return
                    raise
                self._ungrown -= 1
                wanted -= 1

    def _start_thread(self) -> None:
        worker = ThreadWorker(self)
        name = f"{self._label}-{next(self._names)}"
        run = self._contextvars.copy().run
        thread = threading.Thread(target=run, args=(self._work, worker), name=name, daemon=True)
        self._threads[worker] = thread
        try:
            thread.start()
        except BaseException:
            del self._threads[worker]
            raise

    def _work(self, worker: ThreadWorker) -> None:
        """What each thread does."""
        adopt_worker(worker)
        get, pop = self._queue.get, self._waiting.pop
        while worker in self._threads:  # until it is retired or given up
            call = self._attend(worker) if self._attention else None
            if call is None:
                if worker not in self._threads:
                    return
                item = get()
                call = pop(item, None)  # type: ignore[call-overload]
                if call is None:
                    if item == _HINT:
                        self._hinted = False
                    elif item == _STOP:
                        self._stop(worker)
                    continue
            if call.options is self._plain_options or self._is_plain(call.options):
                self._run(worker, call)
            elif call.options.resources.slots == 1:
                self._run_carefully(worker, call)
            else:
                self._begin_gather(call)
            del call  # what it refers to must not wait for the next one

    def _run(self, worker: ThreadWorker, call: Call) -> None:
        call_id = call.id
        worker.call = call
        self._running[call_id] = worker
        try:
            outcome = Outcome(call_id, call.function(*call.args, **call.kwargs))
        except BaseException as error:  # noqa: BLE001  whatever the call raises is its outcome
            outcome = Outcome(call_id, None, _as_outcome(error, call))
        worker.end_notices()
        if self._running.pop(call_id, None) is None:
            self._leave(worker)  # its outcome was given without it
            return
        worker.call = None
        if worker.verdict is not None:
            outcome, worker.verdict = Outcome(call_id, None, worker.verdict), None
        self._completed((outcome,))

    def _run_carefully(self, worker: ThreadWorker, call: Call) -> None:
        """Run a call that has a timeout or streams of its own, or took several slots."""
        options = call.options
        timer = None
        if options.timeout is not None:
            worker.deadline = time.monotonic() + options.timeout
            timer = self._timers.at(worker.deadline, partial(self._time_out, call.id, options))
        if (options.stdout or options.stderr) and not _handles_streams(call):
            call = call._replace(function=partial(_call_redirected, call.function, options))
        try:
            self._run(worker, call)
        finally:
            worker.deadline = None
            if timer is not None:
                timer.cancel()

    # -- what is rare, under the lock
    # --------------------------------------------------------------------------

    def _notify(self) -> None:
        """Make workers look, as long as there is something to look at."""
        self._attention = bool(self._prior_calls or self._gather or self._surplus() > 0)
        if self._attention and not self._hinted:
            self._hinted = True
            self._queue.put(_HINT)

    def _attend(self, worker: ThreadWorker) -> Call | None:
        """Do what needs attention. Returns a call that is to be run before those in the queue, if there is
        one.
        """
        while self._attention:
            with self._lock:
                if self._surplus() > 0:
                    self._retire(worker)
                    return None
                gather = self._gather
                if gather is None:
                    call = self._take_prior()
                    self._notify()
                    return call
                gather.missing -= 1
                complete = gather.missing == 0
                if complete:
                    self._gather = None
                self._notify()
            if complete:
                self._run_gathered(worker, gather)
                return None
            gather.over.wait()
        return None

    def _run_gathered(self, worker: ThreadWorker, gather: _Gather) -> None:
        worker.gathered = gather.over
        worker.slots = gather.call.options.resources.slots
        self._run_carefully(worker, gather.call)
        gather.over.set()
        worker.gathered, worker.slots = None, 1

    def _put_prior(self, rank: int, order: int, call: Call) -> None:
        self._prior_calls[call.id] = call
        heapq.heappush(self._prior, (rank, order, call.id))
        self._notify()

    def _take_prior(self) -> Call | None:
        while self._prior:
            rank, _, call_id = self._prior[0]
            if call_id in self._prior_calls and rank > 0 and self._waiting:
                return None
            heapq.heappop(self._prior)
            call = self._prior_calls.pop(call_id, None)
            if call is not None:
                return call
        return None

    def _begin_gather(self, call: Call) -> None:
        """Wait with others for as many workers as the call has slots; the last one runs it."""
        with self._lock:
            if self._gather is not None:  # one at a time, or two would wait for each other's workers
                self._put_prior(-call.options.priority, next(self._order) - sys.maxsize, call)
                return
            gather = self._gather = _Gather(call)
            self._balance()  # workers may have stopped because they saw nothing that needs them
            self._notify()
        del call
        gather.over.wait()

    def _ungather(self, call_id: int) -> bool:
        if self._gather is None or self._gather.call.id != call_id:
            return False
        self._gather.over.set()
        self._gather = None
        return True

    def _surplus(self) -> int:
        """How many active threads there are beyond those that there should be."""
        return len(self._threads) - self._lent - (self._slots - self._ungrown)

    def _balance(self) -> None:
        while self._surplus() < 0:
            self._start_thread()

    def _retire(self, worker: ThreadWorker) -> None:
        self._leaving = [thread for thread in self._leaving if thread.is_alive()]
        self._leaving.append(self._threads.pop(worker))
        self._notify()

    def _stop(self, worker: ThreadWorker) -> None:
        """End the worker, unless there is something left to attend to."""
        self._queue.put(_STOP)
        with self._lock:
            if not self._prior_calls and self._gather is None:
                self._retire(worker)

    # -- waiting for others
    # ------------------------------------------------------------------------------------

    def lend(self, worker: ThreadWorker) -> None:
        """See :meth:`Lender.lend`."""
        with self._lock:
            if worker.lent or worker.given_up:
                worker.lent += 1
                return
            if self._lenders >= self._max_waiting:
                raise self._deadlock(worker.call)
            self._lent += worker.slots
            try:
                self._balance()
            except RuntimeError as error:
                self._lent -= worker.slots
                raise self._deadlock(worker.call) from error
            self._lenders += 1
            worker.lent = 1

    def take_back(self, worker: ThreadWorker) -> None:
        """See :meth:`Lender.take_back`."""
        with self._lock:
            worker.lent -= 1
            if not worker.lent and not worker.given_up:
                self._return_slots(worker)
                self._notify()

    def _return_slots(self, worker: ThreadWorker) -> None:
        self._lent -= worker.slots
        self._lenders -= 1

    def _deadlock(self, call: Call | None) -> DeadlockError:
        name = call.options.name if call else "a callback"
        return DeadlockError(
            f"task {name!r} waits for another task, as {self._lenders} others already do in "
            f"executor {self._label!r}, and there can be no more threads to run those that they wait for; "
            f"let it return the futures instead (@weft.join), or give the executor more workers"
        )

    # -- calls that do not end
    # ---------------------------------------------------------------------------------

    def _time_out(self, call_id: int, options: CallOptions) -> None:
        worker = self._running.get(call_id)
        if worker is None:
            return
        timeout = options.timeout or 0.0
        ran = f"task {options.name!r} ran longer than its timeout of {format_seconds(timeout)}"
        late = TaskTimeoutError(f"{ran} and was stopped", timeout)
        if worker.stop(call_id, late):
            self._timers.at(time.monotonic() + _GRACE, partial(self._give_up, call_id, late))
            return
        advice = "its thread goes on, because threads cannot be stopped; a ProcessExecutor can stop it"
        self._give_up(call_id, TaskTimeoutError(f"{ran}; {advice}", timeout))

    def _give_up(self, call_id: int, error: BaseException) -> None:
        """Give the call this outcome and its thread a substitute, if it still runs."""
        with self._lock:
            worker = self._running.pop(call_id, None)
            if worker is None:
                return
            worker.given_up = True
            self._given_up[worker] = self._threads.pop(worker)
            if worker.lent:
                self._return_slots(worker)
            if worker.gathered is not None:
                worker.gathered.set()
            with contextlib.suppress(RuntimeError):  # without a thread for the slot, the others have to do
                self._balance()
            self._notify()
        worker.stop(call_id, error)  # in case that it has become possible meanwhile
        self._completed([Outcome(call_id, None, worker.verdict or error)])

    def _leave(self, worker: ThreadWorker) -> None:
        with self._lock:
            self._leaving.append(self._given_up.pop(worker))

    # -- the end
    # -----------------------------------------------------------------------------------------------

    def finish(self, cancel: bool, timeout: float) -> list[str]:
        """See :meth:`Executor.shutdown`."""
        deadline = time.monotonic() + timeout
        self._closed = True
        if cancel:
            self._cancel_all()
        self._queue.put(_STOP)
        if not self._join(deadline):
            self._cancel_all()
            if not self._join(time.monotonic() + min(timeout, _GRACE)):
                self._give_all_up()
        self._ended = True
        self._drop([*self._waiting, *self._prior_calls], self._too_late())
        self._timers.close()
        return self._leftovers()

    def _cancel_all(self) -> None:
        gather = self._gather
        gathering = [] if gather is None else [gather.call.id]
        self.cancel([*list(self._waiting), *list(self._prior_calls), *gathering, *self.running()])

    def _join(self, deadline: float) -> bool:
        """Whether all threads have ended by then. A worker that shuts its own executor down is not waited
        for.
        """
        while True:
            with self._lock:
                threads = [*self._threads.values(), *self._leaving]
            threads = [
                thread for thread in threads if thread.is_alive() and thread is not threading.current_thread()
            ]
            if not threads:
                return True
            threads[0].join(max(0.0, deadline - time.monotonic()))
            if threads[0].is_alive():
                return False

    def _give_all_up(self) -> None:
        """Give the calls that run an outcome, and those their own that are just being reported the time for
        it.
        """
        until = time.monotonic() + 1.0
        while not self._join(time.monotonic() + 0.01) and time.monotonic() < until:
            for call_id in self.running():
                self._give_up(call_id, self._still_runs(call_id))

    def _still_runs(self, call_id: int) -> WorkerLostError:
        worker = self._running.get(call_id)
        name = worker.call.options.name if worker and worker.call else call_id
        return WorkerLostError(
            f"task {name!r} still ran when executor {self._label!r} was shut down; its thread goes on, "
            f"because threads cannot be stopped, and its outcome will not be known"
        )

    def _leftovers(self) -> list[str]:
        with self._lock:
            threads = {**self._threads, **self._given_up}
        return [
            f"thread {thread.name!r} of executor {self._label!r} still runs {_doing(worker.call)}"
            for worker, thread in threads.items()
            if thread.is_alive()
        ]


def _doing(call: Call | None) -> str:
    return "the callbacks of a task" if call is None else f"task {call.options.name!r} (call {call.id})"


def _handles_streams(call: Call) -> bool:
    """Whether the function itself sees to its streams and its directory: one that runs a command does."""
    return bool(getattr(call.function, "handles_streams", False))


def _call_redirected(function: Callable[..., Any], options: CallOptions, /, *args: Any, **kwargs: Any) -> Any:
    with redirected(options.stdout, options.stderr):
        return function(*args, **kwargs)


def _as_outcome(error: BaseException, call: Call) -> BaseException:
    """The error to report: without the executor's own frame, and never one that would end the program."""
    if error.__traceback__ is not None:
        error.__traceback__ = error.__traceback__.tb_next
    return exit_error(error, call.options.name)
