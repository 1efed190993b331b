"""The calls that wait in the interchange, in the batches in which they came."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import NamedTuple

from .interchange_blobs import InterchangeBlobs
from .messages import Frame, Group, Options, Tasks
from .places import Places

__all__ = ["PLAIN", "Batch", "Needs", "OptionsRecord", "Queue"]


class Needs(NamedTuple):
    """What each call of a batch takes of a node; ``walltime``: seconds that its block must have left.

    With ``nodes`` above 1 it takes so many whole ones, each of which must have the rest.
    """

    slots: int = 1
    memory: int = 0
    gpus: float = 0
    nodes: int = 1
    walltime: float | None = None

    @classmethod
    def of(cls, options: Options) -> Needs:
        """What calls with these options take: ``PLAIN`` itself for one slot and nothing else."""
        slots = max(1, -int(-options.cpus // 1))
        needs = cls(slots, options.memory or 0, options.gpus, options.nodes, options.walltime)
        return PLAIN if needs == PLAIN else needs

    def demand(self, node_slots: int) -> int:
        """The slots that it takes in all, where nodes have so many."""
        return self.slots if self.nodes == 1 else self.nodes * max(self.slots, node_slots)


PLAIN = Needs()


class OptionsRecord(NamedTuple):
    """Options of calls, and what is read of them here."""

    header: Options
    needs: Needs


class Batch:
    """Calls of one group that are left to be given out. ``left``: how many. As long as there are some, what
    they need stays in ``blobs``.
    """

    __slots__ = (
        "_blobs",
        "_gone",
        "_ids",
        "_offset",
        "_payload",
        "_positions",
        "_sizes",
        "_start",
        "blobs",
        "function",
        "left",
        "needs",
        "options",
        "order",
        "place",
    )

    def __init__(
        self, group: Group, needs: Needs, order: tuple[int, int], payload: Frame, blobs: InterchangeBlobs
    ) -> None:
        self.function = group.function
        self.options = group.options
        self.blobs = group.blobs
        self._blobs = blobs
        if group.blobs:
            blobs.need(group.blobs)
        self.needs = needs
        self.order = order
        self.left = len(group.ids)
        self.place: object = None
        self._ids = group.ids
        self._sizes = group.sizes
        self._payload = payload
        self._start = 0  # position of the next call ...
        self._offset = 0  # ... and of its arguments
        self._gone: set[int] = set()  # positions of those that were removed
        self._positions: dict[int, int] | None = None

    def __lt__(self, other: Batch) -> bool:
        return self.order < other.order

    def __iter__(self) -> Iterator[int]:
        positions = range(self._start, len(self._ids))
        return (self._ids[position] for position in positions if position not in self._gone)

    def take(self, count: int) -> tuple[Group, Frame]:
        """Take the first of them out: so many, or fewer where others between them are gone."""
        while self._start in self._gone:
            self._offset += self._sizes[self._start]
            self._start += 1
        start, stop = self._start, min(self._start + count, len(self._ids))
        if self._gone:
            stop = next((place for place in range(start, stop) if place in self._gone), stop)
        ids, sizes, payload = self._ids, self._sizes, self._payload
        if start or stop < len(ids):
            ids, sizes = ids[start:stop], sizes[start:stop]
            end = self._offset + sum(sizes)
            payload = memoryview(payload)[self._offset : end]
            self._offset = end
        self._start = stop
        self._drop(len(ids))
        return Group(self.function, self.options, ids, sizes, blobs=self.blobs), payload

    def remove(self, call_id: int) -> bool:
        """Take one out; whether it was there."""
        if self._positions is None:
            self._positions = {each: position for position, each in enumerate(self._ids)}
        position = self._positions.get(call_id, -1)
        if position < self._start or position in self._gone:
            return False
        self._gone.add(position)
        self._drop(1)
        return True

    def clear(self) -> None:
        """Take all out."""
        if self.left:
            self._drop(self.left)

    def _drop(self, count: int) -> None:
        self.left -= count
        if not self.left:
            if self.blobs:
                self._blobs.release(self.blobs)
            self._ids, self._sizes, self._payload, self._positions, self._start = [], [], b"", {}, 0


class Queue:
    """Higher priority first, equal ones first in, first out.

    functions, options: by number, as the client told them. wide: the batches of calls for several nodes, a
    heap of its own: they wait for their nodes while others that came later run on the rest. held: calls that
    have nodes, which are not free yet. ``blobs``: where those are that the calls need.
    """

    def __init__(self, blobs: InterchangeBlobs) -> None:
        self._blobs = blobs
        self.functions: dict[int, Frame] = {}
        self.options: dict[int, OptionsRecord] = {}
        self.wide: list[Batch] = []
        self.held: list[Batch] = []
        self._heap: list[Batch] = []
        self._parked: list[Batch] = []
        self._order = itertools.count()
        self._length = 0
        self._places: Places[Batch] = Places(lambda: ((batch, batch) for batch in iter(self)))

    def __len__(self) -> int:
        """How many calls for one node wait, but the parked ones."""
        return self._length

    @property
    def empty(self) -> bool:
        """Whether no call waits, for whatever."""
        return not any(batch.left for batch in self)

    def __iter__(self) -> Iterator[Batch]:
        """All batches, also those that no manager could run."""
        return itertools.chain(self._heap, self.wide, self._parked, self.held)

    def add(self, tasks: Tasks, payloads: Sequence[Frame]) -> list[int]:
        """Put calls behind those of their priority. Returns those whose blobs are not here."""
        told = len(tasks.functions)
        self.functions.update(zip(tasks.functions, payloads[:told], strict=True))
        for number, header in tasks.options:
            self.options[number] = OptionsRecord(header, Needs.of(header))
        count = len(tasks.groups)
        for blob, frame in zip(tasks.blobs, payloads[told + count :], strict=True):
            self._blobs.add(blob.digest, frame)
        refused: list[int] = []
        for group, payload in zip(tasks.groups, payloads[told : told + count], strict=True):
            if any(digest not in self._blobs for digest in group.blobs):
                refused += group.ids
                continue
            record = self.options[group.options]
            order = (-record.header.priority, next(self._order))
            batch = Batch(group, record.needs, order, payload, self._blobs)
            self._push(batch)
            self._places.note(group.ids, batch)
        return refused

    def _push(self, batch: Batch) -> None:
        if not batch.left:
            return
        if batch.needs.nodes > 1:
            heap = self.wide
        else:
            heap = self._heap
            self._length += batch.left
        batch.place = heap
        heapq.heappush(heap, batch)

    def first(self) -> Batch:
        """The batch for one node that is next. There must be one."""
        _prune(self._heap)
        return self._heap[0]

    def wide_in_turn(self) -> Batch | None:
        """The batch for several nodes that is next, if none for one node is to be served before."""
        _prune(self.wide)
        if not self.wide or (self._length and self.first() < self.wide[0]):
            return None
        return self.wide[0]

    def take(self, batch: Batch, count: int) -> tuple[Group, Frame]:
        """Take calls of the batch that is next: so many at most, one at least."""
        group, payload = batch.take(count)
        self._length -= len(group.ids)
        if not batch.left:
            heapq.heappop(self._heap)
        return group, payload

    # -- calls for several nodes ----------------------------------------------------------------------------

    def hold(self, batch: Batch) -> Batch:
        """Set the first call of a batch aside: it has nodes, or is the next to get some."""
        group, payload = batch.take(1)
        held = Batch(group, batch.needs, batch.order, payload, self._blobs)
        held.place = self.held
        self.held.append(held)
        self._places.note(group.ids, held)
        _prune(self.wide)
        return held

    def put_back(self, held: Batch) -> None:
        """It has no nodes after all; if it was not cancelled, it waits again."""
        if held.left:
            self.held.remove(held)
            self._push(held)

    def park_held(self, held: Batch) -> None:
        """No block could ever run it."""
        self.held.remove(held)
        held.place = self._parked
        self._parked.append(held)

    def take_held(self, held: Batch) -> tuple[Group, Frame]:
        """Take a call that was set aside."""
        self.held.remove(held)
        return held.take(1)

    # -- calls that cannot run ------------------------------------------------------------------------------

    def park(self, batch: Batch) -> None:
        """Put the batch that is next aside: no manager could ever run it."""
        heapq.heappop(self._heap)
        self._length -= batch.left
        batch.place = self._parked
        self._parked.append(batch)

    def unpark(self, able: Callable[[Needs], bool]) -> None:
        """Have back what was put aside and can be run now."""
        if self._parked:
            parked, self._parked = self._parked, []
            for batch in parked:
                if able(batch.needs):
                    self._push(batch)
                else:
                    batch.place = self._parked
                    self._parked.append(batch)

    # -- calls that are not to run --------------------------------------------------------------------------

    def remove(self, ids: Collection[int]) -> list[int]:
        """Take calls out, wherever they are. Returns those that were here."""
        removed: list[int] = []
        for call_id in ids:
            batch = self._places.find(call_id)
            if batch is None or not batch.remove(call_id):
                continue
            removed.append(call_id)
            if batch.place is self._heap:
                self._length -= 1
            elif not batch.left:
                for batches in (self._parked, self.held):
                    if batch.place is batches:
                        batches.remove(batch)
        return removed

    def clear(self) -> list[int]:
        """Take all calls out."""
        removed = [call_id for batch in iter(self) for call_id in batch]
        for batch in iter(self):
            batch.clear()
        for batches in (self._heap, self.wide, self._parked, self.held):
            batches.clear()
        self._length = 0
        self._places.forget()
        return removed

    def forget(self) -> None:
        """Drop the functions and options that no waiting call uses."""
        functions = {batch.function for batch in iter(self)}
        options = {batch.options for batch in iter(self)}
        self.functions = {number: data for number, data in self.functions.items() if number in functions}
        self.options = {number: record for number, record in self.options.items() if number in options}


def _prune(heap: list[Batch]) -> None:
    """Drop the first ones that are empty."""
    while heap and not heap[0].left:
        heapq.heappop(heap)
