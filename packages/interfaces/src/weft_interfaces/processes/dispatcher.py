"""Shares calls out among workers. It does no I/O but to send to them.

Two things hold exactly, by means of the tokens (see ``worker.py``): a call runs once at most, whoever dies;
and no call waits behind another one while a worker is idle, because an idle worker is given what others have
in advance.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import CancelledError

from ..errors import TaskTimeoutError, WorkerLostError
from ..executor import Load
from ..units import format_seconds
from .backlog import Backlog
from .catalogue import Entry
from .worker_link import WorkerLink

__all__ = ["Dispatcher"]

_STALL = 0.02  # seconds without a report after which calls sent ahead are taken back
_WATCH = 0.1  # seconds between looks at the memory of calls that asked for some
_SMOOTHING = 0.2  # weight of the latest call in the mean duration of its function


class Dispatcher:
    """Calls, and the workers that they are for. Every method is called under the lock of the staff.

    check_at: when :meth:`check` is to be called, in seconds of :func:`time.monotonic`; so does ``watch_at``
    say when the memory of the :meth:`watched` is to be looked at.
    unconfirmed: the begun calls whose workers were killed for them, until their outcome has been reported.
    """

    def __init__(
        self,
        slots: int,
        on_blocked: Callable[[WorkerLink], None],
        handing: Callable[[Sequence[Entry]], object] | None = None,
    ) -> None:
        """``on_blocked`` is told of workers whose socket is full, ``handing`` of calls just before they are
        sent.
        """
        self.entries: dict[int, Entry] = {}
        self.links: dict[int, WorkerLink] = {}
        self.check_at = math.inf
        self.watch_at = math.inf
        self.unconfirmed: set[int] = set()
        self._slots = slots
        self._free = slots
        self._on_blocked = on_blocked
        self._handing = handing
        self._backlog = Backlog()
        self._idle: dict[int, WorkerLink] = {}

    def add(self, entries: Sequence[Entry]) -> None:
        """Take calls over."""
        for entry in entries:
            self.entries[entry.id] = entry
        self._backlog.add(entries)
        if self._idle:
            self.dispatch()

    def load(self) -> Load:
        """See :meth:`Executor.load`."""
        busy = sum(1 for link in self.links.values() if link.in_flight)
        return Load(len(self.entries) - busy, busy, self._slots, self._slots)

    def dispatch(self, link: WorkerLink | None = None) -> None:
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
        share = -(-len(self._backlog) // len(self.links))
        entries: list[Entry] = []
        while self._backlog and len(entries) < share and link.takes(self._backlog.first(), len(entries)):
            entry = self._backlog.pop()
            link.choose(entry)
            entries.append(entry)
        if not entries:
            return
        if not link.in_flight:
            link.since = time.monotonic()
        if self._handing is not None:
            self._handing(entries)
        if not link.send(entries):
            self._on_blocked(link)
        self.check_at = min(self.check_at, self._next_check(link))

    def _take_from_the_richest(self) -> bool:
        """Have calls back that were sent ahead; whether there were any."""
        rich = [link for link in self.links.values() if len(link.in_flight) > 1]
        rich.sort(key=lambda link: len(link.in_flight), reverse=True)
        return any(self._take_back(link, len(link.in_flight) // 2) for link in rich)

    def _take_back(self, link: WorkerLink, count: int) -> list[Entry]:
        entries = link.take_back(count)
        self._backlog.put_back(entries)
        self.release(link)
        return entries

    def release(self, link: WorkerLink) -> None:
        """Free the slots of a worker that has nothing to do."""
        if not link.in_flight:
            self._free += link.slots
            link.slots = 0
            if link.sendable:
                self._idle[link.number] = link

    # -- what became of them ------------------------------------------------------------------------------

    def complete(self, link: WorkerLink, seconds: float, now: float) -> Entry:
        """The worker has run its first call in flight, in so many seconds."""
        entry = link.complete(now)
        del self.entries[entry.id]
        function = entry.function
        mean = function.mean
        function.mean = seconds if mean is None else mean + _SMOOTHING * (seconds - mean)
        return entry

    def remove(self, link: WorkerLink) -> list[Entry]:
        """The worker is dead. Returns the calls that it had begun, one at most; others are queued again."""
        self._backlog.put_back(link.take_back(len(link.in_flight)))
        lost = list(link.in_flight)
        link.in_flight.clear()
        self.release(link)
        self._idle.pop(link.number, None)
        del self.links[link.number]
        for entry in lost:
            del self.entries[entry.id]
        return lost

    def cancel(self, ids: Iterable[int]) -> tuple[list[Entry], list[int]]:
        """The calls that were cancelled, and the ids of those that will be when their workers are dead."""
        ended: list[Entry] = []
        begun: list[int] = []
        for call_id in ids:
            entry = self.entries.get(call_id)
            if entry is None or (entry.verdict is None and not self._stop(entry, CancelledError())):
                continue
            if entry.worker is None:
                self._dismiss(entry)
                ended.append(entry)
            else:
                entry.verdict = CancelledError()  # even if it was its timeout that its worker was killed for
                begun.append(call_id)
        self.dispatch()
        return ended, begun

    def dismiss_waiting(self) -> list[Entry]:
        """Take all calls out that have not been sent."""
        waiting = list(self._backlog)
        for entry in waiting:
            self._dismiss(entry)
        return waiting

    def _dismiss(self, entry: Entry) -> None:
        self._backlog.dismiss(entry)
        del self.entries[entry.id]

    def _stop(self, entry: Entry, verdict: BaseException) -> bool:
        """See to it that the call does not run (any more): it is queued afterwards, or its worker is being
        killed.

        False if it is done already, and its report on the way.
        """
        if entry.worker is None:
            return True
        link = self.links[entry.worker]
        wanted = len(link.in_flight) - link.in_flight.index(entry)
        got = len(self._take_back(link, wanted))
        if got == wanted:
            return True
        if got < wanted - 1:
            return False
        # It has begun, and no later one can: the worker runs this one or none.
        entry.verdict = verdict
        self.unconfirmed.add(entry.id)
        link.kill()
        return True

    # -- time ---------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Take back what waits behind long calls, and stop calls that have reached their timeout."""
        now = time.monotonic()
        if now < self.check_at:
            return
        for link in self.links.values():
            if len(link.in_flight) > 1 and now >= link.since + _STALL:
                self._take_back(link, len(link.in_flight) - 1)
            if link.in_flight and not link.killed:
                self._check_timeout(link, link.in_flight[0], now)
        self.dispatch()
        self.check_at = min(map(self._next_check, self.links.values()), default=math.inf)

    def _next_check(self, link: WorkerLink) -> float:
        """When to look after this worker, if it does not report before."""
        stall = link.since + _STALL if len(link.in_flight) > 1 else math.inf
        if not link.in_flight or link.killed:
            return stall
        options = link.in_flight[0].options
        if options.memory is not None:
            if self.watch_at == math.inf:
                self.watch_at = time.monotonic() + _WATCH
            stall = min(stall, self.watch_at)
        return stall if options.timeout is None else min(stall, link.since + options.timeout)

    def _check_timeout(self, link: WorkerLink, entry: Entry, now: float) -> None:
        timeout = entry.options.timeout
        if timeout is None or now < link.since + timeout:
            return
        name = entry.options.options.name
        message = f"task {name!r} ran longer than its timeout of {format_seconds(timeout)} and was stopped"
        self._stop(entry, TaskTimeoutError(message, timeout))

    # -- memory -------------------------------------------------------------------------------------------

    def watched(self, pause: float) -> list[tuple[int, Entry, int]]:
        """The calls that asked for memory and may have begun, each with the process of its worker, and how
        much they asked for. To be asked again after ``pause`` seconds at the soonest.
        """
        found = []
        for link in self.links.values():
            if link.in_flight and link.pid is not None and not link.killed:
                entry = link.in_flight[0]
                if entry.options.memory is not None:
                    found.append((link.pid, entry, entry.options.memory))
        self.watch_at = time.monotonic() + max(pause, _WATCH) if found else math.inf
        self.check_at = min(self.check_at, self.watch_at)
        return found

    def stop_for_memory(self, entry: Entry, error: WorkerLostError) -> None:
        """Kill its worker, if it still runs this call."""
        if entry.id in self.entries and entry.verdict is None and entry.worker is not None:
            self._stop(entry, error)
