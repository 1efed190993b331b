"""The client's end: what was submitted, and what becomes of it.

::

    submit ──> Backlog ── pull, as much as the interchange is to have ──> Tasks
    Results ──> unpickled ──> completed(outcomes)        Returned ──> Backlog        Lost ──> completed

    the interchange is lost: what it had is adrift ─┬─ a manager comes back with it: as before
                                                    ├─ all are back, without it ──> Backlog
                                                    └─ not all come back ──> completed, as lost

What is to be sent waits here until the placement of the interchange pulls it (see ``placement.py``): one
thread at a time, and one thread calls ``receive``. All else may be called from any thread.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import CancelledError
from typing import TypeAlias

from weft_interfaces import (
    BlockLostError,
    DeathCertificate,
    Event,
    ExecutorContext,
    HotLock,
    InterchangeLostError,
    LostError,
    ManagerLostError,
    NoBlocksError,
    Outcome,
    RunClosedError,
    Serializer,
)
from weft_interfaces.processes import Backlog, Entry, unpack_result

from .client_blobs import ClientBlob, ClientBlobs
from .far_clock import event_of
from .messages import (
    Begun,
    BlobHeader,
    BlocksClosed,
    Cancel,
    Dropped,
    Forget,
    Frame,
    GiveBack,
    Group,
    Held,
    Holding,
    Lost,
    ManagerGone,
    ManagerUp,
    Message,
    NoMoreBlocks,
    Notes,
    Options,
    Outputs,
    Regained,
    Register,
    Results,
    Returned,
    Settled,
    Tasks,
    Trouble,
)
from .packing import BlobSerializer
from .result_groups import only
from .versions import describe, remedy

__all__ = ["Client", "Send"]

_log = logging.getLogger("weft")

Send: TypeAlias = "Callable[[Message, Sequence[Frame]], object]"

# Calls that the interchange and managers have at most, unless there are half as many slots ...
_WINDOW = 8192
_WINDOW_BYTES = 64 << 20  # ... and the size of their arguments, unless said
_MESSAGE = 8 << 20  # bytes of blobs in one message, and the last one
_LARGE = 1 << 16  # bytes from which on the arguments of a call travel in a frame of their own
_BATCH = 1024  # calls in one group
_MOST_KNOWN = 1000  # functions and options that the interchange is to remember
_SENT = 0  # in Entry.worker: the interchange has it


class Client:
    """See the module. window: bytes of arguments that the interchange and managers have at most, unless there
    are more slots than calls; what there is no room for waits here. None: the interchange gets all at once,
    so that it can go on without this client. skew: seconds that the clock of the interchange's host is ahead
    of ours. strangers: whether results may come of calls that are not here: of another client's, or of those
    that have ended.
    """

    def __init__(
        self,
        label: str,
        context: ExecutorContext,
        serializer: BlobSerializer,
        blobs: ClientBlobs,
        window: int | None = _WINDOW_BYTES,
    ) -> None:
        self._window = window
        self.managers: dict[str, Register] = {}
        self.skew = 0.0
        self.strangers = False
        self._label = label
        self._context = context
        self._serializer = serializer
        self._blobs = blobs
        self._known_blobs: set[bytes] = set()  # that the interchange has
        self._window_blobs: Counter[bytes] = Counter()  # that calls need which were sent
        self._lock = HotLock()
        self.changed = threading.Condition(self._lock)
        self._entries: dict[int, Entry] = {}
        self._begun: set[int] = set()
        self._adrift: set[int] = set()
        self._awaited: set[tuple[str, int]] = set()  # managers, by host and process, that may have some of it
        self._wreck: DeathCertificate | None = None  # of the last interchange that was lost
        self._slots_wanted = 0
        self._backlog = Backlog()
        self._messages: list[Message] = []
        self._slots = 0  # of all managers
        self._sent = 0
        self._sent_bytes = 0
        self._sent_slots = 0
        self._told_held = 0
        self._introduction: Callable[[], Message | None] | None = None
        self._introduced = False
        self.blocks_left: list[str] | None = None
        self._known: set[int] = set()
        self._reporting = 0
        self._hopeless: str | None = None
        self._closing = False
        self._differences: set[str] = set()

    # -- from any thread ------------------------------------------------------------------------------------

    def submit(self, entries: Sequence[Entry]) -> None:
        """Take calls over. Raises :class:`RunClosedError`, having taken none."""
        with self._lock:
            if self._closing:
                raise RunClosedError(f"executor {self._label!r} was shut down and takes no more calls")
            for entry in entries:
                self._entries[entry.id] = entry
                self._slots_wanted += entry.options.demand
            self._backlog.add(entries)
            hopeless = self._hopeless
        if hopeless is not None:
            self.give_up(hopeless)

    def restore(self, entries: Sequence[Entry]) -> None:
        """The interchange has these calls: an earlier client has sent them."""
        with self._lock:
            for entry in entries:
                entry.worker = _SENT
                self._entries[entry.id] = entry
                self._slots_wanted += entry.options.demand
                self._sent += 1
                self._sent_bytes += len(entry.arguments)
                for blob in entry.blobs:
                    if not self._window_blobs[blob.digest]:
                        self._sent_bytes += blob.size
                    self._window_blobs[blob.digest] += 1

    def cancel(self, ids: Collection[int]) -> Collection[int]:
        """See :meth:`Executor.cancel`. What is accepted here is cancelled, whatever its worker says."""
        ended: list[Entry] = []
        accepted: list[int] = []
        sent: list[int] = []
        with self._lock:
            for call_id in ids:
                entry = self._entries.get(call_id)
                if entry is None:
                    continue
                accepted.append(call_id)
                if entry.worker is None:
                    self._backlog.dismiss(entry)
                    self._remove(entry)
                    ended.append(entry)
                elif entry.verdict is None:
                    entry.verdict = CancelledError()
                    sent.append(call_id)
            if sent:
                self._messages.append(Cancel(sent))
            self._reporting += 1
        self._report([Outcome(entry.id, None, CancelledError()) for entry in ended])
        return accepted

    @property
    def urgent(self) -> bool:
        """Whether what there is to send should not wait to be sent with more: workers are idle."""
        return self._sent < self._slots

    @property
    def has_news(self) -> bool:
        """Whether there may be something to pull."""
        return bool(self._messages or self._backlog)

    @property
    def has_messages(self) -> bool:
        """Whether there is something to be said, calls apart."""
        return bool(self._messages)

    def running(self) -> list[int]:
        """The calls that were handed to workers."""
        with self._lock:
            return list(self._begun)

    def queued(self) -> int:
        """How many calls no worker has."""
        return len(self._entries) - len(self._begun)

    def slots(self) -> tuple[int, int]:
        """Worker slots that waiting calls ask for, and those that begun ones take."""
        with self._lock:
            running = sum(self._entries[call_id].options.demand for call_id in self._begun)
            return self._slots_wanted - running, running

    def tell(self, message: Message) -> None:
        """Have a message passed on to the interchange."""
        with self._lock:
            self._messages.append(message)

    def give_up(self, reason: str) -> None:
        """No block is there and none will come: end what waits, and what comes until a manager registers."""
        with self._lock:
            self._hopeless = reason
            waiting = [entry for entry in self._entries.values() if entry.worker is None]
            for entry in waiting:
                self._backlog.dismiss(entry)
                self._remove(entry)
            if len(self._entries) > len(self._begun):
                self._messages.append(GiveBack())
            self._reporting += 1
        message = f"executor {self._label!r} gets no block: {reason}"
        self._report([Outcome(entry.id, None, NoBlocksError(message)) for entry in waiting])

    def introduce(self, introduction: Callable[[], Message | None]) -> None:
        """Have each interchange told this first, as soon as it is more than None: it gets blocks itself."""
        self._introduction = introduction

    @property
    def scaled(self) -> bool:
        """Whether interchanges get blocks themselves. What they leave behind when they end is in
        ``blocks_left``, in words, once they have said so.
        """
        return self._introduction is not None

    @property
    def hopeless(self) -> bool:
        """Whether no block will come."""
        return self._hopeless is not None

    def hope(self) -> None:
        """A block is about to come after all."""
        self._hopeless = None

    def close(self) -> None:
        """Take no more calls."""
        with self._lock:
            self._closing = True

    def wait(self, timeout: float) -> bool:
        """Wait until all calls have had their outcome."""
        with self.changed:
            return self.changed.wait_for(lambda: not self._entries and not self._reporting, timeout)

    def abandon(self) -> None:
        """Nothing will come any more: end what is left."""
        with self._lock:
            left = list(self._entries)
            self._entries.clear()
            self._begun.clear()
            self._reporting += 1
        self._report([Outcome(call_id, None, CancelledError()) for call_id in left])

    def unfinished(self) -> list[int]:
        """The calls without an outcome."""
        with self._lock:
            return list(self._entries)

    # -- to the interchange ---------------------------------------------------------------------------------

    def pull(self, send: Send) -> None:
        """Send what there is to say, and the calls that the interchange has room for."""
        if self._introduction is not None and not self._introduced and not self.hopeless:
            introduction = self._introduction()
            if introduction is not None:
                self._introduced, self._told_held = True, 0
                send(introduction, ())
        while True:
            messages: list[Message] = []
            with self._lock:
                if self._messages:
                    messages, self._messages = self._messages, []
                tasks = self._next_tasks() if self._backlog else None
                held = self._slots_wanted - self._sent_slots
            if tasks is None and self._introduced and held != self._told_held:
                self._told_held = held
                messages.append(Held(held))
            for message in messages:
                send(message, ())
            if tasks is None:
                return
            send(*tasks)

    def _next_tasks(self) -> tuple[Message, list[Frame]] | None:
        backlog = self._backlog
        if len(self._known) > _MOST_KNOWN:
            self._known.clear()
            return Forget(), []
        functions: dict[int, Frame] = {}
        options: list[tuple[int, Options]] = []
        groups: list[Group] = []
        payloads: list[Frame] = []
        blobs: dict[bytes, ClientBlob] = {}
        count = size = 0
        while backlog and count < _BATCH and size < _MESSAGE and self._has_window():
            run = self._next_run(_BATCH - count)
            function, wishes = run[0].function, run[0].options
            if function.number not in self._known:
                self._known.add(function.number)
                functions[function.number] = function.data
            if wishes.number not in self._known:
                self._known.add(wishes.number)
                options.append((wishes.number, Options.of(wishes.options)))
            sizes = [len(entry.arguments) for entry in run]
            needs = [blob.digest for blob in run[0].blobs]
            groups.append(
                Group(function.number, wishes.number, [entry.id for entry in run], sizes, blobs=needs)
            )
            payloads.append(run[0].arguments if len(run) == 1 else b"".join([e.arguments for e in run]))
            self._sent += len(run)
            self._sent_slots += len(run) * wishes.demand
            self._sent_bytes += sum(sizes)
            count += len(run)
            for blob in run[0].blobs:
                size += self._count_blob(blob, len(run), blobs)
        if not groups:
            return None
        headers = [BlobHeader(digest, blob.size) for digest, blob in blobs.items()]
        frames = [*functions.values(), *payloads, *(blob.data for blob in blobs.values())]
        return Tasks(list(functions), options, groups, headers), frames

    def _has_window(self) -> bool:
        """Whether the interchange is to have more: what slots can take at once it may have in any case."""
        return self._window is None or (
            self._sent < max(_WINDOW, 2 * self._slots)
            and (self._sent_bytes < self._window or self._sent < self._slots)
        )

    def _count_blob(self, blob: ClientBlob, calls: int, sending: dict[bytes, ClientBlob]) -> int:
        """So many calls that need it are sent, and it goes with them unless the interchange has it.

        Returns the bytes to be sent.
        """
        if not self._window_blobs[blob.digest]:
            self._sent_bytes += blob.size
        self._window_blobs[blob.digest] += calls
        if blob.digest in self._known_blobs:
            return 0
        self._known_blobs.add(blob.digest)
        sending[blob.digest] = blob
        return blob.size

    def _next_run(self, most: int) -> list[Entry]:
        """The next calls of one function with the same options."""
        backlog = self._backlog
        first = backlog.pop()
        first.worker = _SENT
        run = [first]
        if len(first.arguments) > _LARGE:
            return run
        function, options, blobs = first.function, first.options, first.blobs
        while backlog and len(run) < most:
            entry = backlog.first()
            if (
                entry.function is not function
                or entry.options is not options
                or (entry.blobs is not blobs and entry.blobs != blobs)
                or len(entry.arguments) > _LARGE
            ):
                break
            backlog.pop()
            entry.worker = _SENT
            run.append(entry)
        return run

    # -- from the interchange -------------------------------------------------------------------------------

    def receive(self, message: Message, payloads: Sequence[Frame]) -> None:
        """Take what the interchange says."""
        if type(message) is Results:
            self._complete(message, payloads)
        elif type(message) is Begun:
            with self._lock:
                self._begun.update(call_id for call_id in message.ids if call_id in self._entries)
        elif type(message) is Returned:
            self._put_back(message.ids)
        elif type(message) is Dropped:
            with self._lock:
                self._known_blobs.difference_update(message.digests)
        elif type(message) is Lost:
            self._lose(message)
        elif type(message) is ManagerUp:
            self._welcome(message)
        elif type(message) is ManagerGone:
            with self.changed:
                gone = self.managers.pop(message.manager, None)
                self._slots -= gone.slots if gone else 0
                self.changed.notify_all()
            self._emit("manager.gone", block=message.block, reason=message.reason)
        elif type(message) is Trouble:
            self._emit("interchange.trouble", reason=message.reason)
        elif type(message) is Settled:
            self.settle()
        else:
            self._hear_of_blocks(message)

    def _welcome(self, message: ManagerUp) -> None:
        info = message.info
        self.hope()
        self.managers[message.manager] = info
        self._slots += info.slots
        self._emit("manager.up", host=info.host, pid=info.pid, block=info.block, slots=info.slots)
        self._compare(info)
        if info.holds:
            self._recognise(info.holds)
        if self._awaited:
            self._awaited.discard((info.host, info.pid))
            self.look_around()

    def _recognise(self, holds: Sequence[Holding]) -> None:
        """A manager has these calls. It is to drop those that were cancelled, or that others have by now."""
        unwanted: list[int] = []
        regained: list[int] = []
        with self._lock:
            for holding in holds:
                for call_id in holding.ids:
                    entry = self._entries.get(call_id) if call_id in self._adrift else None
                    wanted = entry is not None and entry.verdict is None
                    (regained if wanted else unwanted).append(call_id)
                    if entry is not None:
                        self._adrift.discard(call_id)
                self._begun.update(call_id for call_id in holding.begun if call_id in self._entries)
            if regained and self._window is None:
                self._messages.append(Regained(regained))
            if unwanted:
                self._messages.append(Cancel(unwanted))

    def _hear_of_blocks(self, message: Message) -> None:
        """What an agent says that gets its blocks itself."""
        if type(message) is Notes:
            self._context.emit([event_of(note, self.skew) for note in message.notes])
        elif type(message) is Outputs:
            self._keep(message)
        elif type(message) is NoMoreBlocks:
            self.give_up(message.reason)
        elif type(message) is BlocksClosed:
            with self.changed:
                self.blocks_left = message.leftovers
                self.changed.notify_all()

    def _keep(self, outputs: Outputs) -> None:
        folder = self._context.directory / "blocks"
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            for name, data in zip(outputs.names, outputs.data, strict=True):
                path = folder / os.path.basename(name)
                path.touch(0o600)
                path.write_bytes(data)
        except OSError as error:
            self._emit("interchange.trouble", reason=f"what failed blocks wrote cannot be kept: {error}")

    def _complete(self, results: Results, payloads: Sequence[Frame]) -> None:
        if self.strangers:
            ids = [call_id for group in results.groups for call_id in group.ids]
            self._adrift.difference_update(ids)
            if not self._entries.keys() >= set(ids):
                results, payloads = only(results, payloads, self._entries)
        entries: list[Entry] = []
        with self._lock:
            for group in results.groups:
                entries += [self._remove(self._entries[call_id]) for call_id in group.ids]
            self._begun.difference_update([entry.id for entry in entries])
            self._reporting += 1
        outcomes: list[Outcome] = []
        position = 0
        frames = iter(payloads)
        for group in results.groups:
            payload, start = next(frames), 0
            if len(group.ids) > 1:
                payload = bytes(payload)  # of which slices are faster
            serializer: Serializer = self._serializer
            if group.blobs:
                arrived = [(blob.digest, next(frames)) for blob in group.blobs]
                serializer = self._serializer.finding_in(self._blobs.arrived(arrived))
            for kind, size in zip(group.kinds, group.sizes, strict=True):
                entry = entries[position]
                position += 1
                stop = start + size
                if entry.verdict is not None:
                    outcomes.append(Outcome(entry.id, None, entry.verdict))
                else:
                    name = entry.options.options.name
                    outcomes.append(unpack_result(entry.id, kind, payload[start:stop], serializer, name))
                start = stop
        self._report(outcomes)

    def lose_interchange(self, certificate: DeathCertificate) -> None:
        """It is gone, and what it was sent is adrift: the next one may have managers come back with it, or
        :meth:`settle` is to be called. What it was not sent waits for the next one.
        """
        with self.changed:
            self._wreck = certificate
            self.strangers = True  # what it has passed on may come again
            self._adrift.update(i for i, entry in self._entries.items() if entry.worker is not None)
            self._known.clear()
            self._known_blobs.clear()
            self._introduced = False
            managers = list(self.managers.values())
            self.managers.clear()
            self._slots = 0
        self._awaited.update((info.host, info.pid) for info in managers)
        for info in managers:
            self._emit("manager.gone", block=info.block, reason="the interchange is gone")
        self._emit("interchange.lost", reason=str(certificate))

    def look_around(self) -> None:
        """The next interchange is there: once no manager is missing, it is known who has what."""
        if not self._awaited:
            self.settle()

    def settle(self) -> None:
        """What is adrift now has nobody, as far as will ever be known. If a manager is missing, it may have
        begun any of it.
        """
        with self._lock:
            adrift = [self._entries[call_id] for call_id in sorted(self._adrift & self._entries.keys())]
            missing = bool(self._awaited)
            self._adrift.clear()
            self._awaited.clear()
            lost = [entry for entry in adrift if missing or entry.verdict or entry.id in self._begun]
            for entry in lost:
                self._remove(entry)
            self._begun.difference_update([entry.id for entry in lost])
            self._reporting += 1
        self._report([Outcome(entry.id, None, entry.verdict or self._wrecked(entry)) for entry in lost])
        self._put_back([entry.id for entry in adrift if entry.id in self._entries])

    def _wrecked(self, entry: Entry) -> InterchangeLostError:
        certificates = [] if self._wreck is None else [self._wreck]
        message = f"the interchange that had task {entry.options.options.name!r} is gone"
        return InterchangeLostError(message, certificates)

    def _put_back(self, ids: Sequence[int]) -> None:
        with self._lock:
            entries = [self._entries[call_id] for call_id in ids if call_id in self._entries]
            self._begun.difference_update(ids)
            cancelled = [entry for entry in entries if entry.verdict is not None]
            for entry in cancelled:
                self._remove(entry)
            kept = [entry for entry in entries if entry.verdict is None]
            for entry in kept:
                self._uncount(entry)
            self._backlog.put_back(sorted(kept, key=lambda entry: entry.id))
            self._reporting += 1
            hopeless = self._hopeless
        self._report([Outcome(entry.id, None, entry.verdict) for entry in cancelled])
        if hopeless is not None:
            self.give_up(hopeless)

    def _lose(self, lost: Lost) -> None:
        certificate = DeathCertificate(
            kind=lost.kind,
            host=lost.host,
            pid=lost.pid,
            exit_code=lost.exit_code,
            block_id=lost.block,
            job_id=lost.job,
            reason=lost.reason,
            stderr_tail=lost.stderr_tail,
            time=time.time(),
        )
        with self._lock:
            entries = [self._remove(self._entries[i]) for i in lost.ids if i in self._entries]
            self._begun.difference_update(lost.ids)
            self._reporting += 1
        outcomes = []
        for entry in entries:
            name = entry.options.options.name
            error: LostError
            if lost.kind == "block":
                error = BlockLostError(
                    f"block {lost.block} ended while task {name!r} ran in it", [certificate]
                )
            else:
                error = ManagerLostError(f"the manager that ran task {name!r} is gone", [certificate])
            outcomes.append(Outcome(entry.id, None, entry.verdict or error))
        self._report(outcomes)

    # -- under the lock -------------------------------------------------------------------------------------

    def _remove(self, entry: Entry) -> Entry:
        del self._entries[entry.id]
        self._slots_wanted -= entry.options.demand
        if entry.worker is not None:
            self._uncount(entry)
        return entry

    def _uncount(self, entry: Entry) -> None:
        self._sent -= 1
        self._sent_slots -= entry.options.demand
        self._sent_bytes -= len(entry.arguments)
        for blob in entry.blobs:
            self._window_blobs[blob.digest] -= 1
            if not self._window_blobs[blob.digest]:
                del self._window_blobs[blob.digest]
                self._sent_bytes -= blob.size

    # -- reports --------------------------------------------------------------------------------------------

    def _report(self, outcomes: Sequence[Outcome]) -> None:
        """Pass outcomes on, without the lock; ``_reporting`` has been counted up for it."""
        try:
            if outcomes:
                self._context.completed(outcomes)
        finally:
            with self.changed:
                self._reporting -= 1
                if not self._entries:
                    self.changed.notify_all()

    def report(self, kind: str, **data: object) -> None:
        """Pass an event on."""
        self._emit(kind, **data)

    def _compare(self, info: Register) -> None:
        """Say once that packages of managers are not those of the client."""
        words = describe(info.versions)
        if words and words not in self._differences:
            self._differences.add(words)
            self._emit("environment.differs", host=info.host, packages=dict(info.versions), words=words)
            _log.warning(
                "executor %r: packages on %s are others: %s; %s",
                self._label,
                info.host,
                words,
                remedy(info.versions),
            )

    def _emit(self, kind: str, **data: object) -> None:
        self._context.emit([Event(time.time(), kind, self._label, data)])
