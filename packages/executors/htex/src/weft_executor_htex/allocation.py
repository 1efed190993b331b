"""Nodes for calls that take several: which ones, and from when on.

::

    queue.wide ── its turn: nodes are held ──> pending ── all of them idle ──> begun ── ended ──> released
        ^                                         │
        └── a node is lost or drained, or what ───┘
            comes before it has no room

Nodes that are held get no new calls; another node that becomes idle takes the place of a busy one. Only the
first call that cannot have all of its nodes yet (the ``incomplete`` one) holds a part of them, and no later
one passes it by: so each has its turn, and two never wait for each other. Smaller calls run on the nodes that
nobody holds.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable

from .messages import Lost
from .queue import Batch, Needs, Queue
from .roster import Manager, Roster

__all__ = ["Allocation", "Allocations"]

_LOOKED_AT = 64  # blocks that are compared, unless one has idle nodes


class Allocation:
    """Nodes for one call.

    batch: the call, until it has begun; ``call``: its id from then on. managers: the nodes; the call runs on
    the first. lost: what is to be said of the call once it is not running any more, as one of its nodes is
    gone.
    """

    __slots__ = ("batch", "call", "lost", "managers")

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self.managers: list[Manager] = []
        self.call: int | None = None
        self.lost: Lost | None = None

    @property
    def ready(self) -> bool:
        """Whether it can begin."""
        managers = self.managers
        return len(managers) == self.batch.needs.nodes and not any(map(_busy, managers))


class Allocations:
    """See the module."""

    def __init__(self, roster: Roster, queue: Queue) -> None:
        self.pending: list[Allocation] = []
        self._roster = roster
        self._queue = queue
        self._incomplete: Allocation | None = None
        self._touched: list[Allocation] = []
        self._idle: list[Manager] = []
        self._stirred = False

    # -- what happens ---------------------------------------------------------------------------------------

    def stir(self, allocation: Allocation | None = None) -> None:
        """A node of this one may have become idle; without one: nodes have come or gone."""
        if allocation is None:
            self._stirred = True
        elif allocation.call is None:
            self._touched.append(allocation)

    def idle(self, manager: Manager) -> None:
        """A node has nothing to do."""
        if self.pending:
            self._idle.append(manager)

    def release(self, allocation: Allocation, now: float) -> None:
        """The call has ended."""
        for manager in allocation.managers:
            manager.idle_since = now
            self.idle(manager)
        self._release(allocation)

    def dissolve(self, allocation: Allocation) -> None:
        """It has not begun, and gives its nodes back; the call, unless it was cancelled, waits again."""
        self.pending.remove(allocation)
        self._release(allocation)
        if allocation is self._incomplete:
            self._incomplete = None
        self._queue.put_back(allocation.batch)

    def drop_cancelled(self) -> None:
        """Calls were taken out of the queue: free the nodes of those that are among them."""
        for allocation in [each for each in self.pending if not each.batch.left]:
            self.dissolve(allocation)

    def yield_to(self, batch: Batch) -> bool:
        """There is no room for calls that come before some with nodes: have the last of these give its nodes
        back. Whether there was any.
        """
        later = [each for each in self.pending if batch < each.batch]
        if later:
            self.dissolve(max(later, key=lambda each: each.batch.order))
        return bool(later)

    # -- turns ----------------------------------------------------------------------------------------------

    def advance(self) -> list[Allocation]:
        """Hold nodes for the calls whose turn it is. Returns those that can begin; they are not pending any
        more.
        """
        idle, self._idle = self._idle, []
        for manager in idle:
            if manager.open and not manager.calls:
                self._replace_busy(manager)
        incomplete = self._incomplete
        if self._stirred and incomplete is not None:
            self._incomplete = None
            self._hold_nodes(incomplete)
        self._stirred = False
        while (batch := self._queue.wide_in_turn()) is not None and self._take_turn(batch):
            pass
        ready: list[Allocation] = []
        touched, self._touched = self._touched, []
        for allocation in touched:
            if allocation in self.pending and allocation.ready:
                self.pending.remove(allocation)
                ready.append(allocation)
        return ready

    def put_back(self, allocation: Allocation) -> None:
        """One that could begin, but no longer in time."""
        self.pending.append(allocation)
        self.dissolve(allocation)

    def _take_turn(self, batch: Batch) -> bool:
        if self._incomplete is not None:
            if not batch < self._incomplete.batch:
                return False
            self.dissolve(self._incomplete)
        allocation = Allocation(self._queue.hold(batch))
        self.pending.append(allocation)
        self._hold_nodes(allocation)
        return True

    def _hold_nodes(self, allocation: Allocation) -> None:
        batch = allocation.batch
        while True:
            self._release(allocation)
            allocation.managers = self._find(batch.needs)
            for manager in allocation.managers:
                self._roster.hold(manager, allocation)
            if len(allocation.managers) == batch.needs.nodes:
                self._touched.append(allocation)
                return
            if not self.yield_to(batch):
                break
        if self._roster.could_run(batch.needs):
            self._incomplete = allocation
        else:
            self.pending.remove(allocation)
            self._release(allocation)
            self._queue.park_held(batch)

    def _replace_busy(self, manager: Manager) -> None:
        """Have the first call that waits for a busy node of this block take this one in its place."""
        block = manager.info.block
        waiting = [
            each
            for each in self.pending
            if each.managers
            and each.managers[0].info.block == block
            and any(_busy(held) for held in each.managers)
            and manager.could_run(each.batch.needs)
        ]
        if not waiting:
            return
        first = min(waiting, key=lambda each: each.batch.order)
        spared = max(filter(_busy, first.managers), key=lambda held: len(held.calls))
        kept = [held for held in first.managers if held is not spared]
        first.managers = sorted([*kept, manager], key=lambda held: held.number)
        self._roster.release(spared)
        self._roster.hold(manager, first)
        self._touched.append(first)
        self._stirred = True

    def _release(self, allocation: Allocation) -> None:
        managers, allocation.managers = allocation.managers, []
        for manager in managers:
            self._roster.release(manager)
        self._stirred = self._stirred or bool(managers)

    def _find(self, needs: Needs) -> list[Manager]:
        """Free nodes of one block, idle ones first; a part where none has enough, of one that will have."""
        best: list[Manager] = []
        least = (needs.nodes + 1, 0)
        looked = 0
        for block, free in self._roster.free.items():
            if len(self._roster.blocks[block]) < needs.nodes:
                continue
            chosen = _least_busy((m for m in free.values() if m.open and m.could_run(needs)), needs.nodes)
            missing = needs.nodes - len(chosen)
            if missing and not self._roster.block_could_run(block, needs):
                continue
            score = (missing, sum(len(manager.calls) for manager in chosen))
            if score < least:
                best, least = chosen, score
            looked += not missing
            if score == (0, 0) or looked == _LOOKED_AT:
                break
        return sorted(best, key=lambda manager: manager.number)


def _busy(manager: Manager) -> bool:
    return bool(manager.calls) or manager.absent


def _least_busy(managers: Iterable[Manager], count: int) -> list[Manager]:
    idle: list[Manager] = []
    others: list[Manager] = []
    for manager in managers:
        (others if manager.calls else idle).append(manager)
        if len(idle) == count:
            return idle
    return idle + heapq.nsmallest(count - len(idle), others, key=lambda manager: len(manager.calls))
