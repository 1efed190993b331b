"""Worker processes of this machine, and how calls get to them.

::

    submit ──> Backlog ──┬─ an idle worker ──> sent at once, by the submitting thread
                         └─ else, when reports arrive ──> sent in batches, some ahead, by the I/O thread
    cancel, timeout ──> queued: dismissed; sent ahead: taken back; begun: the worker is killed
    worker dies ──> what it had begun is lost, what was sent ahead is queued again, a new one is forked

One I/O thread reads all sockets. ``_lock`` guards the dispatcher and what is sent; outcomes are reported
without it.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import selectors
import socket
import sys
import threading
import time
import weakref
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import CancelledError
from functools import partial
from typing import Any, NamedTuple

from ..errors import DeathCertificate, RunClosedError, WorkerLostError
from ..executor import Load
from ..lock import HotLock
from . import frames
from .catalogue import Entry
from .certificate import OomCounter, certify, certify_excess, tail_of_file
from .dispatcher import Dispatcher
from .kill import kill_group
from .notices import ENDED, STARTED, Notice
from .settings import WorkerSettings
from .template_process import TemplateProcess
from .usage import memory_of, process_trees
from .worker_link import WorkerLink

__all__ = ["Ending", "Staff"]

_CONFIRM = 2.0  # seconds that ``cancel`` waits for the death of a worker
_STILLBORN = 5  # workers in a row that may die before they are up
_LONGEST_SLEEP = 3600.0  # selectors take no infinity
_WATCH_SHARE = 0.05  # of a processor that looks at the memory of calls may take
_RETRY = 0.5  # seconds until workers that could not be started are tried again
_NOTES = (frames.READY, frames.DROPPED)  # reports that are not of calls
_BOTH = selectors.EVENT_READ | selectors.EVENT_WRITE


class Ending(NamedTuple):
    """How a call ended: what its worker reported (see ``frames.py``), or the ``error`` that was decided."""

    entry: Entry
    kind: int = frames.ERROR
    payload: bytes | memoryview = b""
    error: BaseException | None = None


class Staff:
    """Worker processes that run calls.

    ``report`` takes the endings, in batches and from any thread, ``emit`` an event's kind and its data.
    Neither is called with a lock held. ``handing`` is told of calls just before they are sent to a worker,
    under the lock. Without a ``thread`` of its own it works inside :meth:`serve`. Raises :class:`OSError`,
    with nothing left running, if the template process cannot be started.
    """

    def __init__(
        self,
        label: str,
        settings: WorkerSettings,
        report: Callable[[Sequence[Ending]], object],
        emit: Callable[[str, dict[str, Any]], object],
        *,
        handing: Callable[[Sequence[Entry]], object] | None = None,
        thread: bool = True,
    ) -> None:
        self._label = label
        self._settings = settings
        self._size = settings.count
        self._deliver = report
        self._tell = emit
        self._lock = HotLock()
        self._changed = threading.Condition(self._lock)
        self._dispatcher = Dispatcher(settings.count, self._await_room, handing)
        self._links = self._dispatcher.links
        self._numbers = itertools.count(1)
        self._oom = OomCounter()
        self._watch_pause = 0.0
        self._closing = False
        self._stopping = False
        self._mourning = False  # whether a worker has closed its end, and how it ended is not known yet
        self._cleared = False
        self._ending = threading.Lock()
        self._stillborn = 0
        self._retry_at = math.inf
        self._sleeps_until = 0.0  # 0 while the I/O thread does not sleep
        self._reporting = 0
        self._pid = os.getpid()
        self._template: TemplateProcess | None = None
        self._lifeline, self._lifeline_end = os.pipe()
        self._wakeup, self._waker = socket.socketpair()
        self._wakeup.setblocking(False)
        self._waker.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._wakeup, selectors.EVENT_READ, self._woken)
        self._thread = threading.Thread(target=self._run, name=f"{label}-io", daemon=True)
        try:
            self._template = self._start_template()
            self._recruit()
            if thread:
                self._thread.start()
        except BaseException:
            self._clear()
            raise
        _staffs.add(self)

    # -- calls --------------------------------------------------------------------------------------------

    def submit(self, entries: Sequence[Entry]) -> None:
        """Take calls over. Raises :class:`RunClosedError`, having taken none."""
        with self._lock:
            if self._closing:
                raise RunClosedError(f"executor {self._label!r} was shut down and takes no more calls")
            self._dispatcher.add(entries)
            if self._dispatcher.check_at < self._sleeps_until:
                self._wake()

    def cancel(self, ids: Collection[int]) -> Collection[int]:
        """See :meth:`Executor.cancel`.

        The death of workers is waited for, up to two seconds, but not in the I/O thread.
        """
        with self._lock:
            ended, begun = self._dispatcher.cancel(ids)
            self._reporting += 1
        self._report([Ending(entry, error=CancelledError()) for entry in ended])
        if begun and threading.current_thread() is not self._thread:
            with self._changed:
                self._changed.wait_for(lambda: self._dispatcher.unconfirmed.isdisjoint(begun), _CONFIRM)
        return [entry.id for entry in ended] + begun

    def take_back_waiting(self) -> list[int]:
        """Have back the calls that have not been sent to a worker; nothing is reported of them."""
        with self._lock:
            return [entry.id for entry in self._dispatcher.dismiss_waiting()]

    def entries(self) -> list[Entry]:
        """The calls that have not ended; no worker has those whose ``worker`` is None."""
        with self._lock:
            return list(self._dispatcher.entries.values())

    def running(self) -> list[int]:
        """See :meth:`Executor.running`."""
        with self._lock:
            return [link.in_flight[0].id for link in self._links.values() if link.begun()]

    def load(self) -> Load:
        """See :meth:`Executor.load`."""
        with self._lock:
            return self._dispatcher.load()

    # -- the I/O thread -----------------------------------------------------------------------------------

    def serve(self, descriptor: int, pump: Callable[[], float | None]) -> None:
        """Work in the calling thread, until ``pump`` returns None. Then everything left is killed.

        ``pump`` is called again and again: at once when ``descriptor`` can be read, and at the time that it
        returned, in seconds of :func:`time.monotonic`.
        """
        self._thread = threading.current_thread()
        self._selector.register(descriptor, selectors.EVENT_READ, _ignore)
        try:
            while (due := pump()) is not None:
                if self._check():  # after the pump: what calls wait for comes before what can wait
                    continue
                for key, mask in self._selector.select(min(self._sleep(), max(0.0, due - time.monotonic()))):
                    key.data(mask)
                self._sleeps_until = 0.0
        finally:
            self._stopping = self._closing = True
            self._clear()

    def _run(self) -> None:
        deadline = math.inf
        while not self._stopping or (self._links and time.monotonic() < deadline):
            try:
                ready = self._selector.select(self._sleep())
                self._sleeps_until = 0.0
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

    def _sleep(self) -> float:
        """How long to wait for something to read, at most."""
        if self._stopping:
            return 0.1
        with self._lock:
            self._sleeps_until = min(self._dispatcher.check_at, self._retry_at)
            return min(_LONGEST_SLEEP, max(0.0, self._sleeps_until - time.monotonic()))

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._waker.send(b"\0")

    def _woken(self, mask: int) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._wakeup.recv(4096):
                pass

    def _check(self) -> bool:
        """Do what is due; whether there is something to report because of it."""
        endings: list[Ending] = []
        if time.monotonic() >= self._dispatcher.watch_at:
            self._watch_memory()
        with self._lock:
            self._dispatcher.check()
            if time.monotonic() >= self._retry_at:
                self._retry_at = math.inf
                endings = self._recruit()
        self._report_later(endings)
        if not self._mourning:
            return bool(endings)
        unburied = [link for link in self._links.values() if link.mourned_at < time.monotonic()]
        for link in unburied:
            link.kill()
            self._bury(link, None, "its template process does not say how it ended")
        self._mourning = any(link.mourned_at < math.inf for link in self._links.values())
        return bool(endings or unburied)

    def _watch_memory(self) -> None:
        """Stop calls that use more memory than they asked for."""
        with self._lock:
            watched = self._dispatcher.watched(self._watch_pause)
        if not watched:
            return
        begun = time.thread_time()  # a busy machine makes it no dearer
        trees = process_trees({pid for pid, _, _ in watched})
        for pid, entry, limit in watched:
            used = memory_of(trees[pid], limit)
            if used:
                options = entry.options.options
                tail = "" if options.stderr is None else tail_of_file(options.stderr)
                certificate = certify_excess(pid, used, limit, tail)
                message = f"task {options.name!r} used more memory than it asked for, and was stopped"
                with self._lock:
                    self._dispatcher.stop_for_memory(entry, WorkerLostError(message, [certificate]))
        self._watch_pause = (time.thread_time() - begun) / _WATCH_SHARE

    def _await_room(self, link: WorkerLink) -> None:
        self._selector.modify(link.connection, _BOTH, partial(self._read_reports, link))
        self._wake()  # not every selector notices what changes while it waits

    def _read_reports(self, link: WorkerLink, mask: int) -> None:
        if link.number not in self._links:  # it was buried since the selector saw it
            return
        if mask & selectors.EVENT_WRITE:
            with self._lock:
                if link.flush():
                    link.since = time.monotonic()
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
        """Take note of reports, keep the workers busy, and pass the endings on."""
        now = time.monotonic()
        dispatcher = self._dispatcher
        endings: list[Ending] = []
        with self._lock:
            for kind, seconds, payload in reports:
                if kind in _NOTES:
                    self._note(link, kind, payload, now)
                    continue
                entry = dispatcher.complete(link, seconds, now)
                endings.append(Ending(entry, kind, payload, entry.verdict))
            dispatcher.release(link)
            dispatcher.dispatch(link)
            self._reporting += 1
        self._report(endings)

    def _note(self, link: WorkerLink, kind: int, payload: bytes | memoryview, now: float) -> None:
        if kind == frames.READY:
            link.ready = True
            link.since = now
            self._stillborn = 0
        else:
            link.stale -= int(payload)

    def _report_later(self, endings: Sequence[Ending]) -> None:
        """Pass endings on that were not counted in ``_reporting`` while the lock was held."""
        if endings:
            with self._lock:
                self._reporting += 1
            self._report(endings)

    def _report(self, endings: Sequence[Ending]) -> None:
        """Pass endings on, without the lock; ``_reporting`` has been counted up for it."""
        try:
            if endings:
                self._deliver(endings)
        finally:
            with self._changed:
                self._reporting -= 1
                if self._dispatcher.unconfirmed:
                    self._dispatcher.unconfirmed.difference_update([ending.entry.id for ending in endings])
                self._changed.notify_all()

    # -- births and deaths, in the I/O thread -------------------------------------------------------------

    def _start_template(self) -> TemplateProcess:
        template = TemplateProcess(self._lifeline, self._settings)
        self._selector.register(template.control, selectors.EVENT_READ, self._read_notices)
        return template

    def _recruit(self) -> list[Ending]:
        """Have as many workers as there should be, or try again later. Under the lock.

        Returns endings of calls that must not wait any longer.
        """
        try:
            while len(self._links) < self._size and not self._stopping:
                if self._template is None:
                    self._template = self._start_template()
                link = WorkerLink(next(self._numbers), self._free_seat(), self._template)
                self._links[link.number] = link
                self._selector.register(
                    link.connection, selectors.EVENT_READ, partial(self._read_reports, link)
                )
        except OSError as error:  # no descriptors, no processes, or no template: its end will be noticed
            self._retry_at = time.monotonic() + _RETRY
            if not self._links:
                return self._miscarry(certify(None, None, self._oom, "", f"it could not be started: {error}"))
        return []

    def _free_seat(self) -> int:
        taken = {link.seat for link in self._links.values()}
        return next(seat for seat in itertools.count() if seat not in taken)

    def _miscarry(self, certificate: DeathCertificate) -> list[Ending]:
        """A worker did not come up. When that goes on, nothing will ever run the waiting calls: end them."""
        self._stillborn += 1
        if self._stillborn < _STILLBORN or any(link.ready for link in self._links.values()):
            return []
        message = f"executor {self._label!r}: {self._stillborn} workers in a row did not come up"
        error = WorkerLostError(message, [certificate])
        return [Ending(entry, error=error) for entry in self._dispatcher.dismiss_waiting()]

    def _read_notices(self, mask: int) -> None:
        notices = self._template.read() if self._template is not None else []
        if notices is None:
            self._lose_template()
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
            self._dispatcher.release(link)
            self._dispatcher.dispatch()
        self._emit("worker.started", worker=link.number, pid=link.pid)

    def _hung_up(self, link: WorkerLink) -> None:
        """A worker has closed its end: it has died, or is of no use any more."""
        with self._lock:
            self._selector.unregister(link.connection)
            link.killed = True
            link.mourned_at = time.monotonic() + _CONFIRM
            self._mourning = True
            self._retry_at = min(self._retry_at, link.mourned_at)
        if link.template is not self._template:
            self._bury(link, None, "its template process had died before")
        else:
            link.kill()  # its template will say how it ended

    def _lose_template(self) -> None:
        """The template is dead. Its workers live on, but nobody can say how they end."""
        template = self._template
        if template is None:
            return
        with self._lock:
            self._selector.unregister(template.control)
            self._template = None
        template.close(0.0)
        self._emit("template.lost", pid=template.pid)
        for link in list(self._links.values()):
            if link.pid is None or link.reader.ended:
                self._bury(link, None, "its template process died")
        with self._lock:
            endings = self._recruit()
        self._report_later(endings)

    def _bury(self, link: WorkerLink, status: int | None, reason: str = "") -> None:
        """Settle everything with a worker that has ended, and start another."""
        with self._lock:
            link.killed = True
        while (reports := link.reader.read()) is not None:
            self._settle(link, reports)
        certificate = self._certify(link, status, reason)
        with self._lock:
            if link.number not in self._links:  # a shutdown has run out of patience meanwhile
                return
            endings = [_lost(entry, certificate) for entry in self._dispatcher.remove(link)]
            self._close(link)
            if not link.ready and not self._stopping:
                endings += self._miscarry(certificate)
            if self._stillborn > 1:
                self._retry_at = min(self._retry_at, time.monotonic() + _RETRY)
            else:
                endings += self._recruit()
            self._dispatcher.dispatch()
            self._reporting += 1
        if not self._stopping:
            self._emit("worker.lost", worker=link.number, pid=link.pid, reason=str(certificate))
        self._report(endings)

    def _close(self, link: WorkerLink) -> None:
        with contextlib.suppress(KeyError):
            self._selector.unregister(link.connection)
        link.close()

    def _certify(self, link: WorkerLink, status: int | None, reason: str) -> DeathCertificate:
        tail = link.crash_report()
        path = link.in_flight[0].options.options.stderr if link.in_flight else None
        if path is not None:
            tail = f"{tail_of_file(path)}\n{tail}".strip()
        return certify(link.pid, status, self._oom, tail, reason)

    def _emit(self, kind: str, **data: Any) -> None:
        self._tell(kind, data)

    # -- the end ------------------------------------------------------------------------------------------

    def finish(self, cancel: bool, timeout: float) -> list[str]:
        """See :meth:`Executor.shutdown`."""
        if os.getpid() != self._pid:  # a fork of the client has inherited nothing that it could end
            return []
        with self._lock:
            self._closing = True
        if threading.current_thread() is self._thread:  # whose work is needed for it
            threading.Thread(target=self.finish, args=(cancel, timeout), name=f"{self._label}-end").start()
            return [f"executor {self._label!r} is ending, in a thread of its own: it was reporting outcomes"]
        with self._ending:  # a second one waits for the first
            return [] if self._cleared else self._finish(cancel, time.monotonic() + timeout)

    def _finish(self, cancel: bool, deadline: float) -> list[str]:
        if cancel:
            self.cancel(list(self._dispatcher.entries))
        if not self._wait_for_outcomes(deadline):
            self.cancel(list(self._dispatcher.entries))
            self._wait_for_outcomes(time.monotonic() + _CONFIRM)
        self._stopping = True
        self._wake()
        self._thread.join(2 * _CONFIRM)
        busy = self._thread.is_alive()
        leftovers = self._clear()
        if busy:
            leftovers.append(f"thread {self._thread.name!r} still reports outcomes")
        return leftovers

    def _wait_for_outcomes(self, deadline: float) -> bool:
        with self._changed:
            return self._changed.wait_for(
                lambda: not self._dispatcher.entries and not self._reporting,
                max(0.0, deadline - time.monotonic()),
            )

    def _clear(self) -> list[str]:
        """Kill and close whatever is left."""
        self._cleared = True
        leftovers = []
        for link in self._links.values():
            if link.pid is not None:
                kill_group(link.pid)
            self._close(link)
        template = self._template
        if template is not None and not template.close(_CONFIRM):
            leftovers.append(f"template process {template.pid} of executor {self._label!r} had to be killed")
        self._links.clear()
        self._close_descriptors()
        remaining = list(self._dispatcher.entries.values())
        self._dispatcher.entries.clear()
        if remaining:
            self._deliver([Ending(entry, error=CancelledError()) for entry in remaining])
        return leftovers

    def _close_descriptors(self) -> None:
        self._selector.close()
        self._wakeup.close()
        self._waker.close()
        os.close(self._lifeline)
        os.close(self._lifeline_end)  # at which the kernel kills every worker that might be left

    def forget_in_fork(self) -> None:
        """Close what a fork of the client has inherited, so that workers notice when the client is gone."""
        if self._cleared:
            return
        self._cleared = True
        for link in self._links.values():
            link.close()
        if self._template is not None:
            self._template.control.close()
        self._close_descriptors()


def _ignore(mask: int) -> None:
    """What is to be done, ``pump`` does."""


def _lost(entry: Entry, certificate: DeathCertificate) -> Ending:
    if entry.verdict is not None:
        return Ending(entry, error=entry.verdict)
    message = f"the worker that ran task {entry.options.options.name!r} is gone"
    return Ending(entry, error=WorkerLostError(message, [certificate]))


_staffs: weakref.WeakSet[Staff] = weakref.WeakSet()


def _forget_in_fork() -> None:
    for staff in list(_staffs):
        staff.forget_in_fork()


os.register_at_fork(after_in_child=_forget_in_fork)
