"""The calls that wait in the interchange, in the batches in which they came."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Collection, Sequence
from typing import NamedTuple

from .messages import Frame, Group, Options, Tasks

__all__ = ["Batch", "Needs", "OptionsRecord", "Queue"]


class Needs(NamedTuple):
    """What each call of a batch takes of a node; ``walltime``: seconds that its block must have left."""

    slots: int = 1
    memory: int = 0
    gpus: float = 0
    nodes: int = 1
    walltime: float | None = None

    @classmethod
    def of(cls, options: Options) -> Needs:
        """What calls with these options take."""
        slots = max(1, -int(-options.cpus // 1))
        return cls(slots, options.memory or 0, options.gpus, options.nodes, options.walltime)


class OptionsRecord(NamedTuple):
    """Options of calls, and what is read of them here."""

    header: Options
    needs: Needs


class Batch:
    """Calls of one group that are left to be given out."""

    __slots__ = ("function", "ids", "needs", "options", "order", "payload", "sizes")

    def __init__(self, group: Group, needs: Needs, order: tuple[int, int], payload: Frame) -> None:
        self.function = group.function
        self.options = group.options
        self.ids = group.ids
        self.sizes = group.sizes
        self.needs = needs
        self.order = order
        self.payload = memoryview(payload)

    def __lt__(self, other: Batch) -> bool:
        return self.order < other.order


class Queue:
    """Higher priority first, equal ones first in, first out.

    functions, options: by number, as the client told them.
    """

    def __init__(self) -> None:
        self.functions: dict[int, Frame] = {}
        self.options: dict[int, OptionsRecord] = {}
        self._heap: list[Batch] = []
        self._parked: list[Batch] = []
        self._order = itertools.count()
        self._length = 0

    def __len__(self) -> int:
        """How many calls wait, but the parked ones."""
        return self._length

    def add(self, tasks: Tasks, payloads: Sequence[Frame]) -> None:
        """Put calls behind those of their priority."""
        told = len(tasks.functions)
        self.functions.update(zip(tasks.functions, payloads[:told], strict=True))
        for number, header in tasks.options:
            self.options[number] = OptionsRecord(header, Needs.of(header))
        for group, payload in zip(tasks.groups, payloads[told:], strict=True):
            record = self.options[group.options]
            order = (-record.header.priority, next(self._order))
            heapq.heappush(self._heap, Batch(group, record.needs, order, payload))
            self._length += len(group.ids)

    def first(self) -> Batch:
        """The batch that is next. There must be one."""
        return self._heap[0]

    def take(self, batch: Batch, count: int) -> tuple[Group, Frame]:
        """Take the first calls of the batch that is next."""
        if count >= len(batch.ids):
            heapq.heappop(self._heap)
            group, payload = Group(batch.function, batch.options, batch.ids, batch.sizes), batch.payload
        else:
            sizes = batch.sizes[:count]
            length = sum(sizes)
            group = Group(batch.function, batch.options, batch.ids[:count], sizes)
            payload = batch.payload[:length]
            batch.ids, batch.sizes = batch.ids[count:], batch.sizes[count:]
            batch.payload = batch.payload[length:]
        self._length -= len(group.ids)
        return group, payload

    def park(self, batch: Batch) -> None:
        """Put the batch that is next aside: no manager could ever run it."""
        heapq.heappop(self._heap)
        self._length -= len(batch.ids)
        self._parked.append(batch)

    def unpark(self) -> None:
        """Have back what was put aside: a manager has come that may run it."""
        for batch in self._parked:
            heapq.heappush(self._heap, batch)
            self._length += len(batch.ids)
        self._parked.clear()

    def remove(self, ids: Collection[int]) -> list[int]:
        """Take calls out, wherever they are. Returns those that were here."""
        removed: list[int] = []
        wanted = set(ids)
        for batch in (*self._heap, *self._parked):
            if not wanted.isdisjoint(batch.ids):
                removed += self._remove_from(batch, wanted)
        self._heap = [batch for batch in self._heap if batch.ids]
        heapq.heapify(self._heap)
        self._parked = [batch for batch in self._parked if batch.ids]
        self._length = sum(len(batch.ids) for batch in self._heap)
        return removed

    def _remove_from(self, batch: Batch, ids: Collection[int]) -> list[int]:
        kept, removed, start = [], [], 0
        for call_id, size in zip(batch.ids, batch.sizes, strict=True):
            if call_id in ids:
                removed.append(call_id)
            else:
                kept.append((call_id, size, batch.payload[start : start + size]))
            start += size
        batch.ids = [call_id for call_id, _, _ in kept]
        batch.sizes = [size for _, size, _ in kept]
        batch.payload = memoryview(b"".join(piece for _, _, piece in kept))
        return removed

    def clear(self) -> list[int]:
        """Take all calls out."""
        removed = [call_id for batch in (*self._heap, *self._parked) for call_id in batch.ids]
        self._heap.clear()
        self._parked.clear()
        self._length = 0
        return removed

    def forget(self) -> None:
        """Drop the functions and options that no waiting call uses."""
        functions = {batch.function for batch in (*self._heap, *self._parked)}
        options = {batch.options for batch in (*self._heap, *self._parked)}
        self.functions = {number: data for number, data in self.functions.items() if number in functions}
        self.options = {number: record for number, record in self.options.items() if number in options}
