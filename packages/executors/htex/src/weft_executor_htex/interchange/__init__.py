"""Shares calls out among managers, and says what became of them. It does no I/O.

::

    client ── Tasks ──> queue ── Tasks ──> manager          Results, Begun ──> client
                          ^                   │ gone: what it had begun is Lost,
                          └──── client <──────┘       the rest is Returned, and sent again

    an earlier interchange's manager: returning ── Rejoin, answered by Register with its calls ──> known
                                          │ its results, which were not safe, go to the client

All methods are called by one thread. Nothing that a manager sends raises: what is malformed, or out of turn,
is counted and dropped.
"""

from __future__ import annotations

import math
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence

import msgspec

from ..allocation import Allocation, Allocations
from ..interchange_blobs import InterchangeBlobs
from ..messages import (
    PROTOCOL,
    PYTHON,
    Accepted,
    Begun,
    BlobHeader,
    BlockState,
    Cancel,
    Drain,
    Dropped,
    EndBlock,
    Forget,
    Frame,
    GiveBack,
    Group,
    Heartbeat,
    Holding,
    Leave,
    Lost,
    MalformedError,
    ManagerGone,
    ManagerUp,
    Message,
    MoveEnd,
    Refused,
    Register,
    Rejoin,
    Results,
    Returned,
    Settled,
    Stop,
    Tasks,
    Trouble,
    decode,
    encode,
)
from ..queue import Batch, Needs, Queue
from ..result_groups import only
from ..roster import Manager, Roster
from ..selector import Selector

__all__ = ["Interchange"]

_MESSAGE = 8 << 20  # bytes of blobs in one message, and the last one
_WAKE = 1.0  # seconds in which the batch system may say why a manager's process has ended


class Interchange:
    """See the module. ``to_client`` takes a message and its payloads, ``to_manager`` a manager's address and
    frames; so does ``dismiss``, after which nothing more will be sent to that address.

    heartbeat_period, heartbeat_threshold: seconds; a manager that was not heard of for so long is lost.
    prefetch: calls sent ahead for each slot of a manager, however long they take. selector: which manager
    gets the next calls; the least loaded unless said. remainder: bytes of blobs that it keeps although no
    waiting call needs them.
    most_managers: how many it holds; it refuses more, and ``remedy`` says what is to be done about it.
    python: the client's, which managers must have, too; that of this process unless said.
    regain: seconds in which managers of an earlier interchange may come back; then the client hears Settled.
    """

    def __init__(
        self,
        to_client: Callable[[Message, Sequence[Frame]], None],
        to_manager: Callable[[bytes, list[Frame]], None],
        dismiss: Callable[[bytes, list[Frame]], None],
        *,
        heartbeat_period: float,
        heartbeat_threshold: float,
        prefetch: int = 0,
        selector: Selector | None = None,
        most_managers: int = sys.maxsize,
        remedy: str = "",
        remainder: int = 0,
        python: str = "",
        regain: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.malformed: Counter[str] = Counter()
        self.roster = Roster(prefetch, selector)
        self.blobs = InterchangeBlobs(remainder)
        self.queue = Queue(self.blobs)
        self._allocations = Allocations(self.roster, self.queue)
        self._to_client = to_client
        self._to_manager = to_manager
        self._dismiss = dismiss
        self._period = heartbeat_period
        self._threshold = heartbeat_threshold
        self._grace = heartbeat_threshold / 3
        self._most_managers = most_managers
        self._remedy = remedy
        self._python = python or PYTHON
        self._held = False
        self._clock = clock
        self._next_beat = clock() + heartbeat_period
        self._listening = False
        self._next_loss = math.inf  # when a suspect is lost, unless it comes back
        self._era = 0  # how often the client has told to forget
        self._ended_blocks: dict[str, EndBlock] = {}
        self._ends: dict[str, MoveEnd] = {}
        self._registered: set[bytes] = set()  # what was in registrations, lest one is sent again by another
        self._draining: set[str] = set()
        self._suspects: dict[bytes, Manager] = {}
        self._settle_at = clock() + regain if regain else None  # None: nobody comes back (any more)
        self._returning: set[bytes] = set()
        self._parted: set[bytes] = set()  # with whom it has parted while others may come back

    # -- from the client ------------------------------------------------------------------------------------

    def from_client(self, message: Message, payloads: Sequence[Frame]) -> None:
        """Take a message of the client's, which is trusted."""
        if type(message) is Tasks:
            without_blobs = self.queue.add(message, payloads)
            if without_blobs:
                needed = {digest for group in message.groups for digest in group.blobs}
                self._to_client(Dropped([digest for digest in needed if digest not in self.blobs]), ())
                self._to_client(Returned(without_blobs), ())
        elif type(message) is Cancel:
            self._cancel(message.ids)
        elif type(message) is GiveBack:
            self._to_client(Returned(self.queue.clear()), ())
            self._allocations.drop_cancelled()
        elif type(message) is Drain:
            self._drain(message.blocks)
        elif type(message) is MoveEnd:
            self._move_end(message)
        elif type(message) is EndBlock:
            self._end_block(message)
        elif type(message) is Forget:
            self.queue.forget()
            self._era += 1  # managers are told with their next calls
        elif type(message) is Stop:
            for manager in list(self.roster):
                self._send(manager, message)
        self._dispatch()

    def listen(self, pull: Callable[[Callable[[Message, Sequence[Frame]], None]], object]) -> None:
        """Take all that the client has to say, which ``pull`` passes to its argument.

        Only then is anything given out: else each manager would get its share of each message in a message
        of its own.
        """
        self._listening = True
        try:
            pull(self.from_client)
        finally:
            self._listening = False
        self._dispatch()

    def hold(self, held: bool) -> None:
        """Give nothing out for now, or go on."""
        if held is not self._held:
            self._held = held
            self._dispatch()

    @property
    def idle(self) -> bool:
        """Whether no call runs, and none waits for what could run it."""
        queue, roster = self.queue, self.roster
        if not roster:
            return True
        return not (queue or queue.wide or queue.held or any(manager.calls for manager in roster))

    @property
    def awaited(self) -> bool:
        """Whether calls wait that a new block might run."""
        queue = self.queue
        return bool(queue or queue.wide or queue.held)

    def slots(self, node_slots: int) -> tuple[int, int]:
        """Worker slots that waiting calls ask for, and those that begun ones take; a call for several nodes
        takes all slots of each, of which a node has so many. Looks at all calls.
        """
        waiting = sum(batch.left * batch.needs.demand(node_slots) for batch in self.queue)
        taken = 0
        for manager in self.roster:
            for call_id, needs in manager.calls.items():
                slots = 1 if needs is None else needs.demand(node_slots)
                if call_id in manager.begun:
                    taken += slots
                else:
                    waiting += slots
        return waiting, taken

    @property
    def running(self) -> bool:
        """Whether a manager has calls."""
        return any(manager.calls for manager in self.roster)

    @property
    def empty(self) -> bool:
        """Whether there is no call, wherever."""
        return self.queue.empty and not self.running

    def _cancel(self, ids: Collection[int]) -> None:
        wanted = set(ids)
        queued = self.queue.remove(wanted)
        if queued:
            self._to_client(Returned(queued), ())
            wanted.difference_update(queued)
            self._allocations.drop_cancelled()
        given: dict[bytes, list[int]] = {}
        for call_id in wanted:
            manager = self.roster.find(call_id)
            if manager is not None:
                given.setdefault(manager.address, []).append(call_id)
        for address, theirs in given.items():
            self._to_manager(address, encode(Cancel(theirs)))

    def _drain(self, blocks: Collection[str]) -> None:
        self._draining.update(blocks)
        for block in blocks:
            for manager in self.roster.of_block(block):
                self._drain_manager(manager)

    def _drain_manager(self, manager: Manager, *, knows: bool = False) -> None:
        """It gets no calls any more; it is told so, unless it ``knows``."""
        if manager.draining:
            return
        manager.draining = True
        allocation = manager.allocation
        if allocation is not None and allocation.call is not None:
            return  # it is told when the call for several nodes has ended: before, it must not go
        if not knows:
            self._send(manager, Drain([manager.info.block]))
        if allocation is not None:
            self._allocations.dissolve(allocation)
        self._allocations.stir()

    def _move_end(self, move: MoveEnd) -> None:
        """Managers are told, and answer when they end; those that register later, too."""
        self._ends[move.block] = move
        for manager in self.roster.of_block(move.block):
            self._send(manager, move)

    def _end_block(self, end: EndBlock) -> None:
        self._ended_blocks[end.block] = end
        self._ends.pop(end.block, None)
        for manager in self.roster.of_block(end.block):
            self._lose(manager, end.reason or "its job has ended", end)

    # -- from managers --------------------------------------------------------------------------------------

    def from_manager(self, address: bytes, frames: Sequence[Frame]) -> None:
        """Take what came from a manager, or from somebody who says so."""
        try:
            message = decode(frames)
        except MalformedError as error:
            self.malformed[str(error)[:80]] += 1
            return
        if address in self._returning:
            self._hear_returning(address, message, frames[1:])
            return
        if type(message) is Register:
            self._register(address, message)
            return
        manager = self.roster.get(address)
        if manager is None:
            if type(message) is not Leave:
                word = Stop("the interchange does not know this manager (any more)")
                self._dismiss(address, encode(word))
            return
        manager.heard_at = self._clock()
        if manager.back_by < math.inf:  # it has come back
            manager.back_by = math.inf
            self._suspects.pop(address, None)
            self.roster.freed(manager)
            self._allocations.idle(manager)
            self._allocations.stir(manager.allocation)
        self._hear(manager, message, frames[1:])
        self._dispatch()

    def _hear(self, manager: Manager, message: Message, payloads: Sequence[Frame]) -> None:
        if type(message) is Results:
            self._complete(manager, message, payloads)
        elif type(message) is Begun:
            begun = [call_id for call_id in message.ids if call_id in manager.calls]
            manager.begun.update(begun)
            self._to_client(Begun(begun), ())
        elif type(message) is Returned:
            self._take_back(manager, message.ids)
        elif type(message) is Dropped:
            manager.blobs.difference_update(message.digests)
        elif type(message) is Leave:
            self._part_with(manager, message)
        elif type(message) is Drain:
            self._drain_manager(manager, knows=True)
        elif type(message) is MoveEnd:
            manager.info = msgspec.structs.replace(manager.info, ends_at=message.ends_at)
            self._reconsider(manager)
        elif type(message) is not Heartbeat:
            self.malformed[f"{type(message).__name__} from a manager"] += 1

    def returning(self, address: bytes) -> None:
        """A manager has come that has been in session with an earlier interchange, or with this one, which
        has forgotten it.
        """
        if self._settle_at is not None and address not in self._parted:
            self._returning.add(address)
            self._to_manager(address, encode(Rejoin()))

    def _hear_returning(self, address: bytes, message: Message, payloads: Sequence[Frame]) -> None:
        """What it had said to the earlier one comes first; of that, only results have not become void."""
        if type(message) is Results:
            self._to_client(message, payloads)
        elif type(message) is Leave:
            self._returning.discard(address)
        elif type(message) is Register and message.holds is not None:
            self._returning.discard(address)
            self._register(address, message)

    def _take_over(self, manager: Manager, holds: Sequence[Holding]) -> None:
        """A manager has these calls. Those for several nodes end: nobody knows any more which they have."""
        wide: list[int] = []
        for holding in holds:
            needs = Needs.of(holding.options)
            if needs.nodes > 1:
                wide += holding.ids
                continue
            self.roster.give(manager, holding.ids, needs)
            manager.begun.update(holding.begun)
        if wide:
            self._send(manager, Cancel(wide))
            self._to_client(_lost(wide, manager, "the interchange that held its nodes is gone", None), ())

    def _settle(self) -> None:
        self._settle_at = None
        self._returning.clear()
        self._parted.clear()
        self._to_client(Settled(), ())

    def _part_with(self, manager: Manager, leave: Leave) -> None:
        end = EndBlock(manager.info.block, None, leave.reason, None, "") if leave.over else None
        self._lose(manager, leave.reason, end)

    def _register(self, address: bytes, info: Register) -> None:
        known = self.roster.get(address)
        if known is None and info.once in self._registered:
            self.malformed["a registration that another has sent before"] += 1
            self._dismiss(address, encode(Refused("another has registered in the same words")))
            return
        refusal = self._refusal(info) if known is None else None
        if refusal is not None:
            self._dismiss(address, encode(Refused(refusal)))
            self._to_client(ManagerGone(address.hex(), info.block, refusal), ())
            return
        if known is not None:
            known.heard_at = self._clock()
            return
        now = self._clock()
        if info.once:
            self._registered.add(info.once)
        manager = self.roster.add(address, msgspec.structs.replace(info, holds=None), now)
        manager.era = self._era
        self._next_beat = min(self._next_beat, now + self.roster.step(self._period))
        self._to_manager(address, encode(Accepted(self._period, self._threshold)))
        self._to_client(ManagerUp(address.hex(), info), ())
        if info.holds:
            self._take_over(manager, info.holds)
        if info.draining or info.block in self._draining:
            self._drain_manager(manager, knows=info.draining)
        if info.block in self._ends:
            self._send(manager, self._ends[info.block])
        self._reconsider(manager)
        self._dispatch()

    def _reconsider(self, manager: Manager) -> None:
        """It may run calls that nobody could run before."""
        block = manager.info.block
        self.roster.freed(manager)
        self._allocations.idle(manager)
        self._allocations.stir()
        self.queue.unpark(
            lambda needs: (
                manager.could_run(needs) and (needs.nodes == 1 or self.roster.block_could_run(block, needs))
            )
        )

    def _refusal(self, info: Register) -> str | None:
        if info.protocol != PROTOCOL:
            return (
                f"the manager on {info.host} speaks protocol {info.protocol}, the interchange {PROTOCOL}: "
                "install the same version of weft-executor-htex on both sides"
            )
        if info.python != self._python:
            return (
                f"the manager on {info.host} runs on Python {info.python}, the client on Python "
                f"{self._python}: "
                "functions cannot pass between them; use the same minor version on both sides"
            )
        if info.block in self._ended_blocks:
            return f"block {info.block} has ended: {self._ended_blocks[info.block].reason}"
        if info.slots < 1:
            return f"the manager on {info.host} has no slots"
        if len(self.roster) >= self._most_managers:
            held = len(self.roster)
            return f"there are {held} managers, and no room for that on {info.host}: {self._remedy}"
        return None

    def _complete(self, manager: Manager, results: Results, payloads: Sequence[Frame]) -> None:
        ids = [call_id for group in results.groups for call_id in group.ids]
        if len(set(ids)) < len(ids) or not manager.calls.keys() >= set(ids):
            self.malformed["results of calls that the manager does not have"] += 1
            results, payloads = only(results, payloads, manager.calls)
            ids = [call_id for group in results.groups for call_id in group.ids]
        for group in results.groups:
            if group.blobs:
                manager.blobs.update([blob.digest for blob in group.blobs])
        manager.complete(ids)
        manager.note_completions(len(ids), self._clock())
        self.roster.freed(manager)
        if not manager.calls:
            self._allocations.idle(manager)
        if manager.allocation is not None and (lost := self._end_allocation(manager, manager.allocation)):
            self._to_client(lost, ())
            return
        self._to_client(results, payloads)

    def _end_allocation(self, manager: Manager, allocation: Allocation) -> Lost | None:
        """A node that is held has completed calls. Returns what is to be said of the call for several nodes
        instead of its outcome, if that has ended and has lost a node.
        """
        if manager.calls:
            return None
        if allocation.call is None:
            self._allocations.stir(allocation)
            return None
        if manager is not allocation.managers[0]:
            return None
        self._release(allocation)
        return allocation.lost

    def _take_back(self, manager: Manager, ids: Sequence[int]) -> None:
        mine = [call_id for call_id in ids if call_id in manager.calls]
        manager.complete(mine)
        manager.crowded = True  # it gets no more than its slots take until one of these is free
        self.roster.freed(manager)
        if not manager.calls:
            self._allocations.idle(manager)
        if manager.allocation is not None:
            self._end_allocation(manager, manager.allocation)
        self._to_client(Returned(mine), ())

    # -- losses ---------------------------------------------------------------------------------------------

    def disconnected(self, address: bytes) -> bool:
        """The connection of a manager broke: unless it comes back soon, the manager is lost. Returns whether
        there is such a manager.
        """
        manager = self.roster.get(address)
        if manager is not None and manager.back_by == math.inf:
            reason = f"its connection broke, and it did not come back within {self._grace:g} s"
            self._suspect(manager, reason, self._grace)
        return manager is not None

    def hung_up(self, address: bytes) -> None:
        """The connection of a manager ended, and cannot come back."""
        manager = self.roster.get(address)
        if manager is not None:
            self._suspect(manager, "its process has ended", _WAKE)

    def _suspect(self, manager: Manager, reason: str, seconds: float) -> None:
        manager.suspect(reason, self._clock() + seconds)
        self._suspects[manager.address] = manager
        self._next_loss = min(self._next_loss, manager.back_by)

    def trouble(self, reason: str) -> None:
        """Something keeps managers away, says the transport."""
        self._to_client(Trouble(reason), ())

    def _lose(self, manager: Manager, reason: str, end: EndBlock | None = None) -> None:
        self.roster.remove(manager)
        if self._settle_at is not None:
            self._parted.add(manager.address)
        self._suspects.pop(manager.address, None)
        self._dismiss(manager.address, encode(Stop(f"it was given up: {reason}")))
        begun, waiting = manager.doubtful()
        if begun:
            self._to_client(_lost(begun, manager, reason, end), ())
        if waiting:
            self._to_client(Returned(waiting), ())
        if manager.allocation is not None:
            self._lose_node(manager, manager.allocation, reason, end)
        self._allocations.stir()
        self._to_client(ManagerGone(manager.address.hex(), manager.info.block, reason), ())

    def _lose_node(self, manager: Manager, allocation: Allocation, reason: str, end: EndBlock | None) -> None:
        """A manager that was held for a call for several nodes is gone."""
        if allocation.call is None:
            self._allocations.dissolve(allocation)
            return
        first = allocation.managers[0]
        allocation.managers.remove(manager)
        if manager is first:
            self._release(allocation)
        elif allocation.lost is None:
            # Nobody else gets its nodes, and it is not tried again, as long as it runs.
            allocation.lost = _lost([allocation.call], manager, reason, end)
            self._send(first, Cancel([allocation.call]))

    def _release(self, allocation: Allocation) -> None:
        managers = allocation.managers
        self._allocations.release(allocation, self._clock())
        for manager in managers:
            if manager.draining:
                self._send(manager, Drain([manager.info.block]))

    # -- time -----------------------------------------------------------------------------------------------

    def tick(self) -> float:
        """Do what is due. Returns when to come back, in seconds of the clock."""
        now = self._clock()
        if now >= self._next_beat:
            self._beat(now)
        if self._settle_at is not None and now >= self._settle_at:
            self._settle()
        if now >= self._next_loss:
            for manager in [manager for manager in self._suspects.values() if manager.back_by <= now]:
                self._lose(manager, manager.suspicion)
            self._next_loss = min((each.back_by for each in self._suspects.values()), default=math.inf)
        self._dispatch()
        due = min(self._next_beat, self._next_loss)
        return due if self._settle_at is None else min(due, self._settle_at)

    def blocks(self) -> list[BlockState]:
        """The blocks that have registered, and what they do."""
        managers: Counter[str] = Counter()
        running: Counter[str] = Counter()
        idle_since: dict[str, float] = {}
        for manager in self.roster:
            block = manager.info.block
            managers[block] += 1
            running[block] += len(manager.calls)
            idle_since[block] = max(idle_since.get(block, 0.0), manager.idle_since)
        now = self._clock()
        return [
            BlockState(block, number, running[block], 0.0 if running[block] else now - idle_since[block])
            for block, number in managers.items()
        ]

    def _beat(self, now: float) -> None:
        """Send heartbeats to those whose turn it is; see who has fallen silent."""
        step = self.roster.step(self._period)
        steps = 1 + int(min(self._period, now - self._next_beat) / step)
        beat = encode(Heartbeat())
        for manager in self.roster.next_to_beat(steps):
            if manager.back_by < math.inf:
                continue
            if now - manager.heard_at > self._threshold:
                self._lose(manager, f"nothing was heard of it for {now - manager.heard_at:.1f} s")
            else:
                self._to_manager(manager.address, beat)
        self._next_beat = max(self._next_beat + steps * step, now)

    # -- dispatch -------------------------------------------------------------------------------------------

    def _dispatch(self) -> None:
        """Give waiting calls to managers that have room."""
        if self._listening:
            return
        if not self._held:
            self._give_out()
        if self.blobs and (dropped := self.blobs.evict()):
            self._to_client(Dropped(dropped), ())

    def _give_out(self) -> None:
        queue, allocations = self.queue, self._allocations
        while True:
            if queue.wide or allocations.pending:
                self._begin_ready()
            if not queue:
                return
            batch = queue.first()
            manager = self.roster.choose(batch.needs)
            if manager is not None:
                self._give(manager, batch)
            elif self.roster and not self.roster.could_run(batch.needs):
                queue.park(batch)
            elif not allocations.yield_to(batch):
                return

    def _begin_ready(self) -> None:
        """Begin the calls for several nodes whose nodes are idle."""
        for allocation in self._allocations.advance():
            needs = allocation.batch.needs
            if not all(manager.could_run(needs) for manager in allocation.managers):  # not in time any more
                self._allocations.put_back(allocation)
                continue
            group, payload = self.queue.take_held(allocation.batch)
            hosts = tuple(manager.info.host for manager in allocation.managers)
            allocation.call = group.ids[0]
            first = allocation.managers[0]
            self.roster.give(first, group.ids, needs)
            self._deliver(first, [msgspec.structs.replace(group, hosts=hosts)], [payload])

    def _give(self, manager: Manager, first: Batch) -> None:
        """Send one message with as many calls as the manager has room for, and its share allows."""
        share = -(-len(self.queue) // len(self.roster))
        groups, payloads, size = [], [], 0
        batch: Batch | None = first
        while batch is not None and (room := min(manager.room(batch.needs), share)) > 0:
            group, payload = self.queue.take(batch, room)
            groups.append(group)
            payloads.append(payload)
            self.roster.give(manager, group.ids, batch.needs)
            share -= len(group.ids)
            for digest in group.blobs:
                if digest not in manager.blobs:
                    size += len(self.blobs[digest])
            batch = self.queue.first() if self.queue and size < _MESSAGE else None
        self.roster.freed(manager)
        self._deliver(manager, groups, payloads)

    def _deliver(self, manager: Manager, groups: list[Group], payloads: list[Frame]) -> None:
        """Send calls, with the functions, options and blobs that the manager has not got."""
        if manager.era != self._era:
            manager.era = self._era
            manager.known.clear()
            self._send(manager, Forget())
        known = manager.known
        functions: dict[int, Frame] = {}
        options = []
        blobs: dict[bytes, Frame] = {}
        for group in groups:
            if group.function not in known:
                known.add(group.function)
                functions[group.function] = self.queue.functions[group.function]
            if group.options not in known:
                known.add(group.options)
                options.append((group.options, self.queue.options[group.options].header))
            for digest in group.blobs:
                if digest not in manager.blobs:
                    manager.blobs.add(digest)
                    blobs[digest] = self.blobs[digest]
        headers = [BlobHeader(digest, len(frame)) for digest, frame in blobs.items()]
        tasks = Tasks(list(functions), options, groups, headers)
        self._to_manager(manager.address, encode(tasks, [*functions.values(), *payloads, *blobs.values()]))

    def _send(self, manager: Manager, message: Message) -> None:
        self._to_manager(manager.address, encode(message))


def _lost(ids: list[int], manager: Manager, reason: str, end: EndBlock | None) -> Lost:
    """What is said of calls whose manager, or block, is gone."""
    info = manager.info
    if end is None:
        return Lost(ids, "manager", info.host, info.pid, info.block, None, None, reason, "")
    return Lost(ids, "block", info.host, None, info.block, end.job, end.exit_code, reason, end.stderr_tail)
