"""An executor whose workers arrive in blocks, without processes or sockets."""

from __future__ import annotations

import heapq
import itertools
import time
import uuid
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import CancelledError

from ..block import BlockCommand, BlockLoad, Blocks, ExecutorDemand
from ..call import Call, Outcome
from ..errors import BlockLostError, DeathCertificate, NoBlocksError, ResourcesError
from ..executor import Load
from ..provider import JobStatus
from ..resources import Resources
from ..serializer import Serializer
from .manager import MANAGER_PROGRAM, announce
from .manual import ManualExecutor

__all__ = ["InMemoryBlockExecutor"]


class InMemoryBlockExecutor(ManualExecutor):
    """Calls wait until a manager registers, then begin in its block, the highest priority first.

    ``register`` is what a manager does; a job of :class:`InMemoryProvider` that runs ``command`` calls it.
    Begun calls run at once, one after another, in the thread that gave them their slot (so a call cannot wait
    for another), or, with ``hold=True``, when the test drives them as it drives a :class:`ManualExecutor`.
    ``clock`` tells seconds, for the time that a block is idle. ``ends``: when blocks end, as it was told.
    """

    in_blocks = True

    def __init__(
        self,
        blocks: Blocks,
        label: str = "blocks",
        *,
        slots_per_manager: int = 1,
        hold: bool = False,
        confirm_cancels: bool = True,
        serializer: Serializer | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(label, slots_per_manager, confirm_cancels=confirm_cancels, serializer=serializer)
        self._blocks = blocks
        self._hold = hold
        self._clock = clock
        self.ends: dict[str, float] = {}
        self._up: dict[str, _Block] = {}
        self._places: dict[int, _Block] = {}
        self._waiting: list[tuple[int, int, int]] = []
        self._order = itertools.count()
        self._hopeless: str | None = None
        self._dispatching = False
        self._key = uuid.uuid4().hex
        announce(self._key, self)

    # -- the managers' side ---------------------------------------------------------------------------------

    def register(self, block_id: str) -> None:
        """A manager came up in this block."""
        with self._changed:
            block = self._up.setdefault(block_id, _Block(block_id, self._clock()))
            block.managers += 1
            block.free += self._slots
            self._hopeless = None
        self._dispatch()

    def block_of(self, call_id: int) -> str | None:
        """The block that a begun call runs in."""
        with self._changed:
            block = self._places.get(call_id)
            return None if block is None else block.id

    # -- the contract ---------------------------------------------------------------------------------------

    @property
    def blocks(self) -> Blocks:
        return self._blocks

    def command(self, block_id: str) -> BlockCommand:
        return BlockCommand((MANAGER_PROGRAM, self._key, block_id))

    def submit(self, calls: Sequence[Call]) -> None:
        super().submit(calls)
        refused = [
            Outcome(c.id, error=ResourcesError(r)) for c in calls if (r := self.refusal(c.options.resources))
        ]
        with self._changed:
            for outcome in refused:
                self._remove(outcome.id)
        if refused:
            self._report(refused)
        with self._changed:
            for call in calls:
                heapq.heappush(self._waiting, (-call.options.priority, next(self._order), call.id))
        self._dispatch()
        if self._hopeless is not None:
            self.no_more_blocks(self._hopeless)

    def demand(self) -> ExecutorDemand:
        with self._changed:
            waiting = [call for call in self._held.values() if call.id not in self._places]
            queued = sum(call.options.resources.slots for call in waiting)
            running = sum(self._held[call_id].options.resources.slots for call_id in self._places)
            loads = {block.id: block.load(self._clock()) for block in self._up.values()}
        return ExecutorDemand(queued, running, self._slots * self._blocks.nodes, loads)

    def load(self) -> Load:
        with self._changed:
            slots = self._slots * sum(block.managers for block in self._up.values())
            most = self._slots * self._blocks.nodes * self._blocks.max
            most = slots if self._hopeless is not None else max(slots, most)
            return Load(len(self._held) - len(self._begun), len(self._begun), slots, most)

    def refusal(self, resources: Resources) -> str | None:
        if resources.nodes > self._blocks.nodes:
            return f"blocks of executor {self.label!r} have {self._blocks.nodes} nodes, not {resources.nodes}"
        if resources.gpus > (self._blocks.gpus or 0):
            return f"executor {self.label!r} has {self._blocks.gpus or 0} gpus a node, not {resources.gpus:g}"
        if resources.slots > self._slots:
            return f"executor {self.label!r} has {self._slots} cpus a node, not {resources.cpus:g}"
        return None

    def drain(self, block_ids: Collection[str]) -> None:
        with self._changed:
            for block_id in block_ids:
                if block_id in self._up:
                    self._up[block_id].draining = True

    def block_ends(self, block_id: str, ends_at: float) -> None:
        with self._changed:
            self.ends[block_id] = ends_at

    def block_ended(self, block_id: str, status: JobStatus) -> None:
        certificate = DeathCertificate(
            kind="block",
            block_id=block_id,
            exit_code=status.exit_code,
            reason=status.reason or status.state.value,
            stderr_tail=status.stderr_tail,
        )
        with self._changed:
            self._up.pop(block_id, None)
            lost = [call_id for call_id, block in self._places.items() if block.id == block_id]
        error = f"block {block_id} ended while the task ran in it"
        self._end_all(lost, lambda: BlockLostError(error, [certificate]))

    def no_more_blocks(self, reason: str) -> None:
        with self._changed:
            self._hopeless = reason
            waiting = [call_id for call_id in self._held if call_id not in self._places]
        error = f"executor {self.label!r} gets no block: {reason}"
        self._end_all(waiting, lambda: NoBlocksError(error))

    def shutdown(self, *, cancel: bool = False, timeout: float = 10.0) -> list[str]:
        if self._context is not None and not cancel:
            self.no_more_blocks("the executor is shut down")
        left = super().shutdown(cancel=cancel, timeout=timeout)
        with self._changed:
            self._up.clear()
            self._hopeless = None
        return left

    # -- calls meet slots -----------------------------------------------------------------------------------

    def _end_all(self, call_ids: Sequence[int], error: Callable[[], BaseException]) -> None:
        with self._changed:
            mine = [call_id for call_id in call_ids if call_id in self._held]
            cancelled = {call_id for call_id in mine if call_id in self._cancelling}
            for call_id in mine:
                self._remove(call_id)
        if mine:
            outcomes = [Outcome(i, error=CancelledError() if i in cancelled else error()) for i in mine]
            self._report(outcomes)

    def _runnable(self) -> list[int]:
        return [call_id for call_id in super()._runnable() if call_id in self._places]

    def _remove(self, call_id: int) -> None:
        block = self._places.pop(call_id, None)
        if block is not None:
            block.release(self._held[call_id], self._clock())
        super()._remove(call_id)

    def _report(self, outcomes: Sequence[Outcome]) -> None:
        super()._report(outcomes)
        self._dispatch()

    def _dispatch(self) -> None:
        """Begin what can begin. One thread does it at a time; what others add meanwhile, it finds."""
        with self._changed:
            if self._dispatching:
                return
            self._dispatching = True
        try:
            while (call_id := self._place_next()) is not None:
                if not self._hold:
                    self.run(call_id)
        except BaseException:
            self._dispatching = False
            raise

    def _place_next(self) -> int | None:
        """Give the first waiting call that fits into a block its slots.

        None: none does, and dispatching ends.
        """
        with self._changed:
            passed_over, placed = [], None
            free = sum(block.free for block in self._up.values() if not block.draining)
            while placed is None and free and self._waiting:
                item = heapq.heappop(self._waiting)
                call = self._held.get(item[-1])
                if call is None or call.id in self._begun or call.id in self._cancelling:
                    continue
                if self._place(call):
                    placed = call.id
                else:
                    passed_over.append(item)
            for item in passed_over:
                heapq.heappush(self._waiting, item)
            self._dispatching = placed is not None
            return placed

    def _place(self, call: Call) -> bool:
        for block in self._up.values():
            if block.take(call):
                self._places[call.id] = block
                self._begun.add(call.id)
                return True
        return False


class _Block:
    """A block that has registered, and its free worker slots."""

    def __init__(self, block_id: str, now: float) -> None:
        self.id = block_id
        self.managers = self.free = self.running = 0
        self.draining = False
        self._idle_since = now

    def take(self, call: Call) -> bool:
        slots = call.options.resources.slots
        if self.draining or slots > self.free:
            return False
        self.free -= slots
        self.running += 1
        return True

    def release(self, call: Call, now: float) -> None:
        self.free += call.options.resources.slots
        self.running -= 1
        self._idle_since = now

    def load(self, now: float) -> BlockLoad:
        return BlockLoad(self.managers, self.running, 0.0 if self.running else now - self._idle_since)
