"""The worker processes of one :class:`ProcessExecutor` between ``start`` and ``shutdown``, and how calls get to them.

::

    submit ──> Backlog ──┬─ an idle worker ──> sent at once, by the submitting thread
                         └─ else, when reports arrive ──> sent in batches, some ahead, by the I/O thread
    cancel, timeout ──> queued: dismissed; sent ahead: taken back; begun: the worker is killed
    worker dies ──> what it had begun is lost, what was sent ahead goes back to the Backlog, a new one is forked

One I/O thread reads all sockets. ``_lock`` guards everything but the reading; outcomes are reported without it.

Two things hold exactly, by means of the tokens (see ``worker.py``): a call runs once at most, whoever dies; and no
call waits behind another one while a worker is idle, because an idle worker is given what others have in advance.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import selectors
import socket
import threading
import sys
import time
import weakref
from collections.abc import Collection, Sequence
from concurrent.futures import CancelledError
from functools import partial
from typing import Any

from weft_interfaces import (
    DeathCertificate,
    Event,
    ExecutorContext,
    Load,
    Outcome,
    RunClosedError,
    SerializationError,
    Serializer,
    TaskTimeoutError,
    WorkerLostError,
    format_seconds,
)

from . import frames
from .backlog import Backlog
from .catalogue import Entry
from .certificate import OomCounter, certify, tail_of_file
from .failures import unpack_error
from .kill import kill_group, kill_tree
from .notices import ENDED, STARTED, Notice
from .template_process import TemplateProcess
from .worker_link import WorkerLink

__all__ = ["Staff"]

_STALL = 0.02  # seconds without a report after which calls sent ahead are taken back
_CONFIRM = 2.0  # seconds that ``cancel`` waits for the death of a worker
_STILLBORN = 5  # workers in a row that may die before they are up
_RETRY = 0.5  # seconds until workers that could not be started are tried again
_SMOOTHING = 0.2  # weight of the latest call in the mean duration of its function
_NOTES = (frames.READY, frames.DROPPED)  # reports that are not of calls
_BOTH = selectors.EVENT_READ | selectors.EVENT_WRITE


class Staff:
    """``size`` worker processes that run entries and report to ``context``. Raises :class:`OSError` if there can be none."""

    def __init__(self, label: str, size: int, context: ExecutorContext, serializer: Serializer) -> None:
        self._label = label
        self._size = size
        self._context = context
        self._serializer = serializer
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._entries: dict[int, Entry] = {}
        self._backlog = Backlog()
        self._links: dict[int, WorkerLink] = {}
        self._idle: dict[int, WorkerLink] = {}
        self._free = size
        self._numbers = itertools.count(1)
        self._oom = OomCounter()
        self._closing = False
        self._stopping = False
        self._stillborn = 0
        self._retry_at = math.inf
        self._check_at = math.inf
        self._awake_until = 0.0  # until when the I/O thread sleeps, 0 while it does not
        self._unconfirmed: set[int] = set()
        self._reporting = 0
        self._pid = os.getpid()
        self._lifeline, self._lifeline_end = os.pipe()
        self._wakeup, self._waker = socket.socketpair()
        self._wakeup.setblocking(False)
        self._waker.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._wakeup, selectors.EVENT_READ, self._woken)
        try:
            self._template = self._start_template()
        except BaseException:
            self._close_descriptors()
            raise
        with self._lock:
            self._recruit()
        self._thread = threading.Thread(target=self._run, name=f"{label}-io", daemon=True)
        self._thread.start()
        _staffs.add(self)

    # -- calls -----------------------------------------------------------------------------------------------------

    def submit(self, entries: Sequence[Entry]) -> None:
        """Take calls over. Raises :class:`RunClosedError`, having taken none."""
        with self._lock:
            if self._closing:
                raise RunClosedError(f"executor {self._label!r} was shut down and takes no more calls")
            for entry in entries:
                self._entries[entry.id] = entry
            self._backlog.add(entries)
            if self._idle:
                self._dispatch()
            self._wake_for_check()

    def completed(self, outcomes: Sequence[Outcome]) -> None:
        """Report calls that were never taken over."""
        self._context.completed(outcomes)

    def cancel(self, ids: Collection[int]) -> Collection[int]:
        """See :meth:`Executor.cancel`. The death of workers is waited for, but not in the I/O thread."""
        accepted: list[int] = []
        begun: list[int] = []
        dismissed: list[int] = []
        with self._lock:
            for call_id in ids:
                entry = self._entries.get(call_id)
                if entry is None:
                    continue
                if entry.verdict is not None or self._stop(entry, CancelledError()):
                    entry.verdict = CancelledError()  # also of one that was about to be killed by its timeout
                    accepted.append(call_id)
                    (begun if entry.worker is not None else dismissed).append(call_id)
            for call_id in dismissed:
                self._backlog.dismiss(self._entries.pop(call_id))
            self._dispatch()
        if dismissed:
            self._context.completed([Outcome(call_id, None, CancelledError()) for call_id in dismissed])
        if begun and threading.current_thread() is not self._thread:
            with self._changed:
                self._changed.wait_for(lambda: self._unconfirmed.isdisjoint(begun), _CONFIRM)
        return accepted

    def running(self) -> list[int]:
        """See :meth:`Executor.running`."""
        with self._lock:
            return [link.in_flight[0].id for link in self._links.values() if link.in_flight and link.begun()]

    def load(self) -> Load:
        """See :meth:`Executor.load`."""
        with self._lock:
            busy = sum(1 for link in self._links.values() if link.in_flight)
            return Load(len(self._entries) - busy, busy, self._size, self._size)

    # -- sharing out, under the lock -------------------------------------------------------------------------------

    def _dispatch(self, link: WorkerLink | None = None) -> None:
        """Give waiting calls to idle workers, and to this one as many as it should have ahead."""
        self._serve_idle()
        if link is not None and link.in_flight and self._backlog and link.wants_more():
            self._fill(link)
        while self._idle and not self._backlog and self._take_from_the_richest():
            self._serve_idle()

    def _serve_idle(self) -> None:
        while self._backlog and self._idle:
            slots = self._backlog.first().options.slots
            if slots > self._free:  # it must have its turn: nothing overtakes it
                return
            _, link = self._idle.popitem()
            self._free -= slots
            self._fill(link)

    def _fill(self, link: WorkerLink) -> None:
        share = -(-len(self._backlog) // len(self._links))
        entries: list[Entry] = []
        while self._backlog and len(entries) < share and link.takes(self._backlog.first(), len(entries)):
            entry = self._backlog.pop()
            link.choose(entry)
            entries.append(entry)
        if not entries:
            return
        if not link.in_flight:
            link.since = time.monotonic()
        if not link.send(entries):
            self._selector.modify(link.connection, _BOTH, partial(self._read_reports, link))
            self._wake()
        self._check_at = min(self._check_at, self._next_check(link))

    def _take_from_the_richest(self) -> bool:
        """Have calls back that were sent ahead; whether there were any."""
        rich = [link for link in self._links.values() if len(link.in_flight) > 1]
        rich.sort(key=lambda link: len(link.in_flight), reverse=True)
        return any(self._take_back(link, len(link.in_flight) // 2) for link in rich)

    def _take_back(self, link: WorkerLink, count: int) -> list[Entry]:
        entries = link.take_back(count)
        self._backlog.put_back(entries)
        self._release(link)
        return entries

    def _release(self, link: WorkerLink) -> None:
        """Free the slots of a worker that has nothing to do."""
        if not link.in_flight:
            self._free += link.slots
            link.slots = 0
            if link.sendable:
                self._idle[link.number] = link

    def _stop(self, entry: Entry, verdict: BaseException) -> bool:
        """See to it that the call does not run (any more): it is queued afterwards, or its worker is being killed.

        False if it is done already, and its report on the way.
        """
        if entry.worker is None:
            return True
        link = self._links[entry.worker]
        wanted = len(link.in_flight) - link.in_flight.index(entry)
        got = len(self._take_back(link, wanted))
        if got == wanted:
            return True
        if got < wanted - 1:
            return False
        # It has begun, and no later one can: the worker runs this one or none.
        entry.verdict = verdict
        self._unconfirmed.add(entry.id)
        link.killed = True
        kill_tree(link.pid or 0)
        return True

    # -- time ------------------------------------------------------------------------------------------------------

    def _next_check(self, link: WorkerLink) -> float:
        """When to look after this worker, if it does not report before."""
        stall = link.since + _STALL if len(link.in_flight) > 1 else math.inf
        timeout = link.in_flight[0].options.timeout if link.in_flight and not link.killed else None
        return stall if timeout is None else min(stall, link.since + timeout)

    def _check(self) -> None:
        """Take back what waits behind a call that takes long, and stop calls that have reached their timeout."""
        now = time.monotonic()
        with self._lock:
            if now >= self._retry_at:
                self._retry_at = math.inf
                self._recruit()
            if now < self._check_at:
                return
            for link in list(self._links.values()):
                if len(link.in_flight) > 1 and now >= link.since + _STALL:
                    self._take_back(link, len(link.in_flight) - 1)
                if link.in_flight and not link.killed:
                    self._check_timeout(link, link.in_flight[0], now)
            self._dispatch()
            self._check_at = min(map(self._next_check, self._links.values()), default=math.inf)

    def _check_timeout(self, link: WorkerLink, entry: Entry, now: float) -> None:
        timeout = entry.options.timeout
        if timeout is None or now < link.since + timeout:
            return
        name = entry.options.options.name
        message = f"task {name!r} ran longer than its timeout of {format_seconds(timeout)} and was stopped"
        self._stop(entry, TaskTimeoutError(message, timeout))

    def _wake_for_check(self) -> None:
        if self._check_at < self._awake_until:
            self._wake()

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._waker.send(b"\0")

    # -- the I/O thread --------------------------------------------------------------------------------------------

    def _run(self) -> None:
        deadline = math.inf
        while not self._stopping or (self._links and time.monotonic() < deadline):
            try:
                ready = self._selector.select(self._sleep())
                self._awake_until = 0.0
                for key, mask in ready:
                    key.data(mask)
                self._check()
            except Exception:  # noqa: BLE001  the other calls must go on
                sys.excepthook(*sys.exc_info())
            if self._stopping and deadline == math.inf:
                deadline = time.monotonic() + _CONFIRM
                with self._lock:
                    for link in self._links.values():
                        link.hang_up()

    def _sleep(self) -> float | None:
        """How long to wait for something to read, at most."""
        if self._stopping:
            return 0.1
        with self._lock:
            self._awake_until = min(self._check_at, self._retry_at)
            return None if self._awake_until == math.inf else max(0.0, self._awake_until - time.monotonic())

    def _woken(self, mask: int) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._wakeup.recv(4096):
                pass

    def _read_reports(self, link: WorkerLink, mask: int) -> None:
        if mask & selectors.EVENT_WRITE:
            with self._lock:
                if link.flush():
                    self._selector.modify(
                        link.connection, selectors.EVENT_READ, partial(self._read_reports, link)
                    )
        if mask & selectors.EVENT_READ:
            reports = link.reader.read()
            if reports:
                self._settle(link, reports)
            elif link.reader.ended:
                self._hung_up(link)

    def _settle(self, link: WorkerLink, reports: Sequence[frames.Report]) -> None:
        """Take note of reports, keep the workers busy, and pass the outcomes on."""
        ended = [report for report in reports if report.kind not in _NOTES]
        with self._lock:
            entries = list(itertools.islice(link.in_flight, len(ended)))
        # Values are unpickled without the lock: that may take its time.
        outcomes = [self._unpack(entry, report) for entry, report in zip(entries, ended, strict=True)]
        now = time.monotonic()
        with self._lock:
            for index, report in enumerate(ended):
                entry = self._complete(link, report.seconds, now)
                if entry.verdict is not None:
                    outcomes[index] = Outcome(entry.id, None, entry.verdict)
            if len(ended) < len(reports):
                self._note(link, reports)
            self._release(link)
            self._dispatch(link)
            self._reporting += 1
        self._report(outcomes)

    def _unpack(self, entry: Entry, report: frames.Report) -> Outcome:
        if report.kind == frames.NOTHING:
            return Outcome(entry.id)
        if report.kind == frames.ERROR:
            error = unpack_error(report.payload, self._serializer, entry.options.options.name)
            return Outcome(entry.id, None, error)
        try:
            return Outcome(entry.id, self._serializer.loads(report.payload, entry.options.result))
        except SerializationError as unreadable:
            return Outcome(entry.id, None, unreadable)

    def _complete(self, link: WorkerLink, seconds: float, now: float) -> Entry:
        entry = link.complete(now)
        del self._entries[entry.id]
        function = entry.function
        mean = function.mean
        function.mean = seconds if mean is None else mean + _SMOOTHING * (seconds - mean)
        return entry

    def _note(self, link: WorkerLink, reports: Sequence[frames.Report]) -> None:
        for report in reports:
            if report.kind == frames.READY:
                link.ready = True
                self._stillborn = 0
            elif report.kind == frames.DROPPED:
                link.stale -= int(report.payload)

    def _report(self, outcomes: Sequence[Outcome]) -> None:
        """Pass outcomes on, without the lock; ``_reporting`` has been counted up for it."""
        if outcomes:
            self._context.completed(outcomes)
        with self._changed:
            self._reporting -= 1
            if self._unconfirmed:
                self._unconfirmed.difference_update([outcome.id for outcome in outcomes])
            self._changed.notify_all()

    # -- births and deaths, in the I/O thread ----------------------------------------------------------------------

    def _start_template(self) -> TemplateProcess:
        template = TemplateProcess(self._lifeline)
        self._selector.register(template.control, selectors.EVENT_READ, self._read_notices)
        return template

    def _recruit(self) -> None:
        """Have as many workers as there should be, or try again later."""
        try:
            while len(self._links) < self._size and not self._stopping:
                link = WorkerLink(next(self._numbers), self._template)
                self._links[link.number] = link
                self._selector.register(
                    link.connection, selectors.EVENT_READ, partial(self._read_reports, link)
                )
        except OSError:  # no descriptors, or no template: its end will be noticed
            self._retry_at = time.monotonic() + _RETRY

    def _read_notices(self, mask: int) -> None:
        notices = self._template.read()
        if notices is None:
            self._replace_template()
        for notice in notices or ():
            link = self._links.get(notice.number)
            if link is None:
                continue
            if notice.kind == STARTED:
                self._welcome(link, notice)
            elif notice.kind == ENDED:
                self._bury(link, notice.status)
            else:
                self._bury(link, None, f"it could not be started: {os.strerror(notice.status)}")

    def _welcome(self, link: WorkerLink, notice: Notice) -> None:
        with self._lock:
            link.pid = notice.pid
            if self._stopping:
                link.hang_up()
            self._release(link)
            self._dispatch()
        self._emit("worker.started", worker=link.number, pid=link.pid)

    def _hung_up(self, link: WorkerLink) -> None:
        """A worker has closed its end: it has died, or is of no use any more. Its template will say how it ended."""
        with self._lock:
            self._selector.unregister(link.connection)
            link.killed = True
            self._idle.pop(link.number, None)
        if link.template is not self._template:
            self._bury(link, None)
        elif link.pid is not None:
            kill_group(link.pid)

    def _replace_template(self) -> None:
        """The template is dead. Its workers live on, but nobody can say how they end."""
        old = self._template
        with self._lock:
            self._selector.unregister(old.control)
        old.close(0.0)
        self._emit("template.lost", pid=old.pid)
        if self._stopping:
            return
        self._template = self._start_template()
        for link in list(self._links.values()):
            if link.pid is None or link.reader.ended:
                self._bury(link, None, "the template process died")

    def _bury(self, link: WorkerLink, status: int | None, reason: str = "") -> None:
        """Settle everything with a worker that has ended, and start another."""
        link.killed = True
        while (reports := link.reader.read()) is not None:
            self._settle(link, reports)
        certificate = self._certify(link, status, reason)
        with self._lock:
            self._backlog.put_back(link.take_back(len(link.in_flight)))
            outcomes = [self._lose(link, entry, certificate) for entry in link.in_flight]
            link.in_flight.clear()
            self._release(link)
            self._forget(link)
            if not link.ready and not self._stopping:
                self._stillborn += 1
                if self._stillborn >= _STILLBORN and not any(other.ready for other in self._links.values()):
                    outcomes += self._give_up(certificate)
            if self._stillborn:
                self._retry_at = time.monotonic() + _RETRY * (self._stillborn > 1)
            else:
                self._recruit()
            self._dispatch()
            self._reporting += 1
        if not self._stopping:
            self._emit("worker.lost", worker=link.number, pid=link.pid, reason=str(certificate))
        self._report(outcomes)

    def _lose(self, link: WorkerLink, entry: Entry, certificate: DeathCertificate) -> Outcome:
        del self._entries[entry.id]
        if entry.verdict is not None:
            return Outcome(entry.id, None, entry.verdict)
        name = entry.options.options.name
        return Outcome(
            entry.id, None, WorkerLostError(f"the worker that ran task {name!r} is gone", [certificate])
        )

    def _forget(self, link: WorkerLink) -> None:
        with contextlib.suppress(KeyError):
            self._selector.unregister(link.connection)
        self._idle.pop(link.number, None)
        del self._links[link.number]
        link.close()

    def _give_up(self, certificate: DeathCertificate) -> list[Outcome]:
        """End the waiting calls: the workers die before they are up, so nothing will ever run them."""
        message = f"executor {self._label!r}: {self._stillborn} workers in a row died before they were up"
        outcomes = []
        for entry in list(self._backlog):
            self._backlog.dismiss(entry)
            del self._entries[entry.id]
            outcomes.append(Outcome(entry.id, None, WorkerLostError(message, [certificate])))
        return outcomes

    def _certify(self, link: WorkerLink, status: int | None, reason: str) -> DeathCertificate:
        tail = link.crash_report()
        for entry in list(link.in_flight)[:1]:
            path = entry.options.options.stderr
            if path is not None:
                tail = f"{tail_of_file(path)}\n{tail}".strip()
        return certify(link.pid, status, self._oom, tail, reason)

    def _emit(self, kind: str, **data: Any) -> None:
        self._context.emit([Event(time.time(), kind, self._label, data)])

    # -- the end ---------------------------------------------------------------------------------------------------

    def finish(self, cancel: bool, timeout: float) -> list[str]:
        """See :meth:`Executor.shutdown`."""
        if os.getpid() != self._pid:  # a fork of the client inherits nothing that it could end
            return []
        with self._lock:
            self._closing = True
        if threading.current_thread() is self._thread:  # whose work is needed for it
            threading.Thread(target=self.finish, args=(cancel, timeout), name=f"{self._label}-end").start()
            return [
                f"executor {self._label!r} is ending, in a thread of its own, as it was reporting outcomes"
            ]
        deadline = time.monotonic() + timeout
        if cancel:
            self.cancel(list(self._entries))
        if not self._wait_for_outcomes(deadline):
            self.cancel(list(self._entries))
            self._wait_for_outcomes(time.monotonic() + _CONFIRM)
        self._stopping = True
        self._wake()
        self._thread.join(_CONFIRM + timeout)
        leftovers = (
            [f"thread {self._thread.name!r} still reports outcomes"] if self._thread.is_alive() else []
        )
        return leftovers + self._clear()

    def _wait_for_outcomes(self, deadline: float) -> bool:
        with self._changed:
            return self._changed.wait_for(
                lambda: not self._entries and not self._reporting, max(0.0, deadline - time.monotonic())
            )

    def _clear(self) -> list[str]:
        """Kill and close whatever is left."""
        pids = [link.pid for link in self._links.values() if link.pid is not None]
        for pid in pids:
            kill_group(pid)
        leftovers = []
        if not self._template.close(_CONFIRM):
            leftovers.append(
                f"the template process {self._template.pid} of executor {self._label!r} had to be killed"
            )
        for link in list(self._links.values()):
            self._forget(link)
        self._close_descriptors()
        remaining, self._entries = self._entries, {}
        if remaining:
            error = CancelledError()
            self._context.completed([Outcome(call_id, None, error) for call_id in remaining])
        return leftovers

    def _close_descriptors(self) -> None:
        """Close the lifeline too, at which the kernel kills every worker that is left."""
        self._selector.close()
        self._wakeup.close()
        self._waker.close()
        for name in ("_lifeline", "_lifeline_end"):
            descriptor = getattr(self, name)
            if descriptor >= 0:
                setattr(self, name, -1)
                os.close(descriptor)

    def forget_in_fork(self) -> None:
        """Close what a fork of the client has inherited, so that the workers notice when the client itself is gone."""
        for link in self._links.values():
            link.close()
        self._template.control.close()
        self._close_descriptors()


_staffs: weakref.WeakSet[Staff] = weakref.WeakSet()


def _forget_in_fork() -> None:
    for staff in list(_staffs):
        staff.forget_in_fork()


os.register_at_fork(after_in_child=_forget_in_fork)
