"""The managers that have registered: what each has, what it was given, and which one is next."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterable, Iterator

from .messages import Register
from .queue import Needs

__all__ = ["Manager", "Roster"]

_AHEAD_SECONDS = 0.02  # of work, by the rate at which a manager completes calls, that it is sent ahead
_SMOOTHING = 0.3  # weight of the latest measurement in the rate
_MOST_AHEAD = 4096
_PLAIN = Needs()


class Manager:
    """One manager. ``address``: where the transport finds it.

    calls: what it was given and has not reported, with what each takes; None is one slot. begun: those that
    it handed to workers. known: the functions and options that it was told. heard_at, back_by: in seconds of
    the clock. draining: it gets no new calls.
    """

    def __init__(self, address: bytes, info: Register, prefetch: int, now: float) -> None:
        self.address = address
        self.info = info
        self.heard_at = now
        self.back_by = math.inf
        self.suspicion = ""
        self.draining = False
        self.calls: dict[int, Needs | None] = {}
        self.begun: set[int] = set()
        self.known: set[int] = set()
        self.idle_since = now
        self._prefetch = prefetch * info.slots
        self._rate = 0.0
        self._rate_at = now
        self._completed = 0
        self._extra_slots = 0  # that calls take beyond one each
        self._memory = info.memory or 0
        self._gpus = float(info.gpus)

    def suspect(self, reason: str, back_by: float) -> None:
        """Give it no new calls: it is lost, for this reason, unless it is heard of by then."""
        self.suspicion, self.back_by = reason, back_by

    def room(self, needs: Needs) -> int:
        """How many calls with these needs it may be given now."""
        if self.draining or self.back_by < math.inf or not self.could_run(needs):
            return 0
        taken = len(self.calls) + self._extra_slots
        if needs is _PLAIN or needs == _PLAIN:
            return max(0, self.info.slots + self._prefetch + self._sent_ahead() - taken)
        # What takes more than a slot is not sent ahead: it waits where it can still go elsewhere.
        room = (self.info.slots - taken) // needs.slots
        if needs.memory:
            room = min(room, self._memory // needs.memory)
        if needs.gpus:
            room = min(room, int(self._gpus // needs.gpus))
        return max(0, room)

    def could_run(self, needs: Needs) -> bool:
        """Whether it could run such a call if it had nothing else to do, before its block ends."""
        info = self.info
        if needs.slots > info.slots or needs.gpus > info.gpus or needs.nodes > 1:
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
        if needs == _PLAIN:
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
        self._completed += count
        seconds = now - self._rate_at
        if seconds >= 0.002:
            self._rate += _SMOOTHING * (self._completed / seconds - self._rate)
            self._completed, self._rate_at = 0, now
        if not self.calls:
            self.idle_since = now


class Roster:
    """All managers, in the order in which they get their next calls: the one that waited longest first."""

    def __init__(self, prefetch: int) -> None:
        self._prefetch = prefetch
        self._managers: dict[bytes, Manager] = {}

    def __iter__(self) -> Iterator[Manager]:
        return iter(self._managers.values())

    def __len__(self) -> int:
        return len(self._managers)

    def get(self, address: bytes) -> Manager | None:
        """The manager with this address."""
        return self._managers.get(address)

    def add(self, address: bytes, info: Register, now: float) -> Manager:
        """Take a manager in."""
        manager = self._managers[address] = Manager(address, info, self._prefetch, now)
        return manager

    def remove(self, manager: Manager) -> None:
        """Take a manager out."""
        self._managers.pop(manager.address, None)

    def could_run(self, needs: Needs) -> bool:
        """Whether any of them could run such a call."""
        return any(manager.could_run(needs) for manager in self._managers.values())

    def choose(self, needs: Needs) -> Manager | None:
        """The manager that gets the next calls with these needs: one with room, and with the least to do for
        each slot.
        """
        best, least = None, math.inf
        for manager in self._managers.values():
            if manager.room(needs) > 0:
                busy = len(manager.calls) / manager.info.slots
                if busy < least:
                    best, least = manager, busy
        return best
