"""The managers that have registered: what each has, what it was given, and which one is next."""

from __future__ import annotations

import heapq
import itertools
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from .messages import Register
from .places import Places
from .queue import PLAIN, Needs
from .selector import LeastLoaded, Selector, guarded

if TYPE_CHECKING:
    from .allocation import Allocation

__all__ = ["Manager", "Roster"]

_AHEAD_SECONDS = 0.02  # of work, by the rate at which a manager completes calls, that it is sent ahead
_SMOOTHING = 0.3  # weight of the latest measurement in the rate
_MOST_AHEAD = 4096
_MOST_LINES = 8  # kinds of needs for which managers are kept in order
_BEATS = 50  # steps in which all managers get their heartbeats


class Manager:
    """One manager. ``address``: where the transport finds it; ``number``: the how manieth it is.

    calls: what it was given and has not reported, with what each takes; None is one slot. begun: those that
    it handed to workers. known: the functions and options that it was told, in this ``era``. blobs: those
    that its node has. crowded: it had no room for what it was sent ahead. heard_at, back_by: in seconds of
    the clock. draining: it gets no new calls. allocation: the call for several nodes that it is held for.
    """

    def __init__(self, address: bytes, number: int, info: Register, prefetch: int, now: float) -> None:
        self.address = address
        self.number = number
        self.info = info
        self.heard_at = now
        self.back_by = math.inf
        self.suspicion = ""
        self.draining = False
        self.allocation: Allocation | None = None
        self.crowded = False
        self.calls: dict[int, Needs | None] = {}
        self.begun: set[int] = set()
        self.known: set[int] = set()
        self.blobs: set[bytes] = set()
        self.era = 0
        self.idle_since = now
        self._slots = info.slots
        self._prefetch = prefetch * info.slots
        self._rate = 0.0
        self._rate_at = now
        self._completed = 0
        self._extra_slots = 0  # that calls take beyond one each
        self._memory = info.memory or 0
        self._gpus = float(info.gpus)

    @property
    def busy(self) -> float:
        """How many calls it has for each slot."""
        return len(self.calls) / self._slots

    @property
    def open(self) -> bool:
        """Whether it may get calls at all."""
        return not self.draining and self.allocation is None and not self.absent

    @property
    def absent(self) -> bool:
        """Whether it cannot be reached, but may come back."""
        return self.back_by < math.inf

    def suspect(self, reason: str, back_by: float) -> None:
        """Give it no new calls: it is lost, for this reason, unless it is heard of by then."""
        self.suspicion, self.back_by = reason, back_by

    def room(self, needs: Needs) -> int:
        """How many calls with these needs, which are of one node, it may be given now."""
        if self.draining or self.allocation is not None or self.back_by < math.inf:
            return 0
        taken = len(self.calls) + self._extra_slots
        if needs is PLAIN:
            ahead = 0 if self.crowded else self._prefetch + self._sent_ahead()
            return max(0, self._slots + ahead - taken)
        if not self.could_run(needs):
            return 0
        # What takes more than a slot is not sent ahead: it waits where it can still go elsewhere.
        room = (self._slots - taken) // needs.slots
        if needs.memory:
            room = min(room, self._memory // needs.memory)
        if needs.gpus:
            room = min(room, int(self._gpus // needs.gpus))
        return max(0, room)

    def could_run(self, needs: Needs) -> bool:
        """Whether it could run such a call, or be one of its nodes, if it had nothing else to do, before its
        block ends.
        """
        info = self.info
        if needs.slots > info.slots or needs.gpus > info.gpus:
            return False
        if needs.memory and needs.memory > (info.memory or 0):
            return False
        if needs.walltime is not None and info.ends_at is not None:
            return time.time() + needs.walltime <= info.ends_at
        return True

    def doubtful(self) -> tuple[list[int], list[int]]:
        """The calls that may have begun, and those that surely have not.

        It says what it has begun only after a moment. As long as it was sent no more than its slots take, no
        other can have begun without a result that came first.
        """
        if self._sent_ahead():
            return list(self.calls), []
        first = set(itertools.islice(self.calls, self.info.slots)) | self.begun
        return [i for i in self.calls if i in first], [i for i in self.calls if i not in first]

    def _sent_ahead(self) -> int:
        """How many calls it may be sent because they are short."""
        return min(_MOST_AHEAD, int(self._rate * _AHEAD_SECONDS))

    def give(self, ids: Iterable[int], needs: Needs) -> None:
        """Count calls that are sent to it."""
        if needs is PLAIN:
            self.calls.update(dict.fromkeys(ids))
            return
        for call_id in ids:
            self.calls[call_id] = needs
            self._take(needs, 1)

    def complete(self, ids: Iterable[int]) -> None:
        """Count calls that it has no more."""
        calls = self.calls
        for call_id in ids:
            needs = calls.pop(call_id)
            if needs is not None:
                self._take(needs, -1)
        if self.begun:
            self.begun.difference_update(ids)

    def _take(self, needs: Needs, sign: int) -> None:
        self._extra_slots += sign * (needs.slots - 1)
        self._memory -= sign * needs.memory
        self._gpus -= sign * needs.gpus

    def note_completions(self, count: int, now: float) -> None:
        """Measure how fast it is."""
        self.crowded = False
        self._completed += count
        seconds = now - self._rate_at
        if seconds >= 0.002:
            self._rate += _SMOOTHING * (self._completed / seconds - self._rate)
            self._completed, self._rate_at = 0, now
        if not self.calls:
            self.idle_since = now


class _Line:
    """Managers in the order in which they get calls of some needs.

    A heap with an entry for each manager that may have room, which stands no lower than its rank: an entry
    that has become too high is put right when it comes to the top, and a manager that has got lower is
    entered again; of its entries the latest counts. So nobody looks at all managers.
    """

    def __init__(self, needs: Needs, selector: Selector, managers: Iterable[Manager]) -> None:
        self.needs = needs
        self.able: Manager | None = None  # one that could run such calls
        self._rank = selector.rank
        self._entries: dict[int, float] = {}
        self._heap: list[tuple[float, int, Manager]] = []
        for manager in managers:
            self.enter(manager)

    def enter(self, manager: Manager) -> None:
        """It may have more room than before, or another rank."""
        rank, number = self._rank(manager), manager.number
        entered = self._entries.get(number)
        if entered is None or rank < entered:
            self._entries[number] = rank
            heapq.heappush(self._heap, (rank, number, manager))
            if len(self._heap) > 2 * len(self._entries) + 64:
                self._tidy()

    def remove(self, manager: Manager) -> None:
        """It is gone."""
        self._entries.pop(manager.number, None)

    def first(self) -> Manager | None:
        """The one that is next, if any has room."""
        heap, entries = self._heap, self._entries
        while heap:
            rank, number, manager = heap[0]
            if entries.get(number) != rank:
                heapq.heappop(heap)
            elif not manager.room(self.needs):
                heapq.heappop(heap)
                del entries[number]
            elif (now := self._rank(manager)) > rank:
                entries[number] = now
                heapq.heapreplace(heap, (now, number, manager))
            else:
                return manager
        return None

    def _tidy(self) -> None:
        latest = {entry[1]: entry for entry in self._heap if self._entries.get(entry[1]) == entry[0]}
        self._heap = list(latest.values())
        heapq.heapify(self._heap)


class Roster:
    """All managers. ``blocks``: those of each block, by address; ``free``: those of them that no call for
    several nodes holds, of blocks that have some.
    """

    def __init__(self, prefetch: int, selector: Selector | None = None) -> None:
        self.blocks: dict[str, dict[bytes, Manager]] = {}
        self.free: dict[str, dict[bytes, Manager]] = {}
        self._prefetch = prefetch
        self._selector = guarded(selector or LeastLoaded())
        self._managers: dict[bytes, Manager] = {}
        self._ring: dict[bytes, Manager] = {}  # in the order of their next heartbeats
        self._numbers = itertools.count()
        self._lines = [_Line(PLAIN, self._selector, ())]
        self._places: Places[Manager] = Places(lambda: ((each.calls, each) for each in self))

    def __iter__(self) -> Iterator[Manager]:
        return iter(self._managers.values())

    def __len__(self) -> int:
        return len(self._managers)

    def get(self, address: bytes) -> Manager | None:
        """The manager with this address."""
        return self._managers.get(address)

    def of_block(self, block: str) -> list[Manager]:
        """The managers of a block."""
        return list(self.blocks.get(block, {}).values())

    def add(self, address: bytes, info: Register, now: float) -> Manager:
        """Take a manager in."""
        manager = Manager(address, next(self._numbers), info, self._prefetch, now)
        self._managers[address] = self._ring[address] = manager
        self.blocks.setdefault(info.block, {})[address] = manager
        self.release(manager)
        return manager

    def remove(self, manager: Manager) -> None:
        """Take a manager out."""
        self._managers.pop(manager.address, None)
        self._ring.pop(manager.address, None)
        for blocks in (self.blocks, self.free):
            _take_out(blocks, manager)
        for line in self._lines:
            line.remove(manager)

    # -- which one is next ----------------------------------------------------------------------------------

    def give(self, manager: Manager, ids: Sequence[int], needs: Needs) -> None:
        """Count calls that are sent to it."""
        manager.give(ids, needs)
        self._places.note(ids, manager)

    def freed(self, manager: Manager) -> None:
        """It was given calls, has completed some, or may get some again: it has another place in line."""
        for line in self._lines:
            line.enter(manager)

    def choose(self, needs: Needs) -> Manager | None:
        """The manager that gets the next calls with these needs: the first by the selector of those that have
        room.
        """
        return self._line(needs).first()

    def could_run(self, needs: Needs) -> bool:
        """Whether any of them could run such a call: for several nodes, whether a block has so many."""
        if needs.nodes > 1:
            return any(self.block_could_run(block, needs) for block in self.blocks)
        if needs is PLAIN:
            return bool(self._managers)
        line = self._line(needs)
        able = line.able
        if able is None or able.address not in self._managers or not able.could_run(needs):
            able = line.able = next((each for each in self if each.could_run(needs)), None)
        return able is not None

    def block_could_run(self, block: str, needs: Needs) -> bool:
        """Whether this block has as many nodes as such a call takes, of which each could be one."""
        managers = self.blocks.get(block, {})
        if len(managers) < needs.nodes:
            return False
        able = sum(1 for each in managers.values() if not each.draining and each.could_run(needs))
        return able >= needs.nodes

    def _line(self, needs: Needs) -> _Line:
        for line in self._lines:
            if line.needs is needs or line.needs == needs:
                return line
        if len(self._lines) == _MOST_LINES:
            del self._lines[1]
        self._lines.append(_Line(needs, self._selector, self))
        return self._lines[-1]

    def find(self, call_id: int) -> Manager | None:
        """The manager that has this call."""
        manager = self._places.find(call_id)
        return manager if manager is not None and call_id in manager.calls else None

    # -- calls for several nodes ----------------------------------------------------------------------------

    def hold(self, manager: Manager, allocation: Allocation) -> None:
        """It gets no calls but this one."""
        manager.allocation = allocation
        _take_out(self.free, manager)

    def release(self, manager: Manager) -> None:
        """It may get calls, if it is still there."""
        manager.allocation = None
        if manager.address in self._managers:
            self.free.setdefault(manager.info.block, {})[manager.address] = manager
            self.freed(manager)

    # -- heartbeats -----------------------------------------------------------------------------------------

    def step(self, period: float) -> float:
        """Seconds between two calls of :meth:`next_to_beat`, so that everybody has a turn in each period."""
        return period / max(1, min(_BEATS, len(self._ring)))

    def next_to_beat(self, steps: int) -> list[Manager]:
        """Those that are to get a heartbeat after so many steps: a part of all."""
        count = steps * -(-len(self._ring) // _BEATS)
        chosen = list(itertools.islice(self._ring.values(), count))
        for manager in chosen:
            del self._ring[manager.address]
            self._ring[manager.address] = manager
        return chosen


def _take_out(blocks: dict[str, dict[bytes, Manager]], manager: Manager) -> None:
    managers = blocks.get(manager.info.block, {})
    managers.pop(manager.address, None)
    if not managers:
        blocks.pop(manager.info.block, None)
