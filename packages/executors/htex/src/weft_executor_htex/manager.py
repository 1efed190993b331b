"""One node's manager: takes calls from the interchange, has its workers run them, and sends back the results.

``python -m weft_executor_htex.manager`` reads its setup from the standard input. One thread does everything,
so that the interchange is told of calls before a worker can begin them.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
import secrets
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import Any

import msgspec
from weft_interfaces import (
    CallOptions,
    LostError,
    PickleSerializer,
    ResourcesError,
    SerializationError,
    WorkerLostError,
)
from weft_interfaces.processes import (
    Ending,
    Entry,
    FunctionRecord,
    OptionsRecord,
    Staff,
    available_cpus,
    pack_error,
    write_end,
)

from .blobs import MAGIC, read_head
from .link import connect
from .messages import (
    PROTOCOL,
    PYTHON,
    Accepted,
    Begun,
    BlobHeader,
    Cancel,
    Drain,
    Dropped,
    Forget,
    Frame,
    Group,
    Heartbeat,
    Holding,
    Leave,
    MalformedError,
    Message,
    MoveEnd,
    Options,
    Refused,
    Register,
    Rejoin,
    ResultGroup,
    Results,
    Returned,
    Stop,
    Tasks,
    decode,
    encode,
)
from .node_store import NodeStore, StoreError
from .nodes import HostFiles, find_mpi, node_name, variables
from .seats import SeatError, seat_settings
from .setup import Endpoint, ManagerSetup, boot_id
from .versions import differing, unloadable
from .walltime import Walltime

__all__ = ["ManagerProcess", "main"]

_LARGE = 1 << 16  # bytes from which on a result travels in a frame of its own
_ERROR = 3  # see frames.ERROR
_SAME_BLOW = 0.5  # seconds in which what has ended a worker may end this process, too
_SAY_AFTER = 0.02  # seconds that a call has run when the interchange is told that it has begun


class ManagerProcess:
    """See the module."""

    def __init__(self, setup: ManagerSetup) -> None:
        self._setup = setup
        self._slots = setup.workers or available_cpus()
        self._host = node_name(os.environ, socket.gethostname())
        self._mpi = list(setup.mpi) or find_mpi(os.environ)
        self._walltime = Walltime(setup.walltime, os.environ)
        settings = seat_settings(setup, self._slots, self._host, self._walltime.ends_at)
        try:
            self._link = connect(_choose(setup.access.endpoints), setup)
        except OSError as error:
            raise SystemExit(f"weft manager: the interchange is not there (any more): {error}") from error
        self._serializer = PickleSerializer()
        self._store = NodeStore(setup.store)
        self._needs: dict[int, Sequence[bytes]] = {}  # the blobs of calls that are here
        self._dead_workers: list[int] = []
        self._functions: dict[int, FunctionRecord] = {}
        self._options: dict[int, OptionsRecord] = {}
        self._own_options = itertools.count(-1, -1)  # numbers of options that hold for one call
        self._endings: list[Ending] = []
        self._doubtful: list[tuple[float, Ending]] = []  # and when they are told, see _note_endings
        self._handed: list[Entry] = []  # of which the interchange has not been told
        self._say_at = math.inf
        self._heard_at = time.monotonic()
        self._period = setup.heartbeat_threshold / 3
        self._threshold = setup.heartbeat_threshold
        self._next_beat = time.monotonic() + self._period
        self._accepted = False
        self._look_at = 0.0  # when to see how much of the walltime is left
        self._draining = ""  # why, once it is
        self._over = False
        self._reason: str | None = None
        places = self._store.places
        # Beside the blobs, not in the temporary directory: some batch systems remove that early.
        self._host_files = HostFiles(os.path.join(places.memory, "hosts"))
        self._end_file = os.path.join(places.memory, "end")
        settings = dataclasses.replace(
            settings,
            serializer=f"{__package__}.node_store:make_worker_serializer",
            serializer_settings={"places": places, "large": setup.large},
            scratch=[places.memory, places.disk],
            end_file=self._end_file,
        )
        try:
            self._staff = Staff(
                "manager", settings, self._note_endings, self._note, handing=self._hand, thread=False
            )
        except BaseException:
            self._store.close()
            raise

    def run(self) -> str:
        """Work until there is nothing more to do here. Returns why, in words."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._interrupted)
        self._send(self._registration())
        try:
            self._staff.serve(self._link.fileno(), self._pump)
        finally:
            if self._reason is not None:
                self._send(Leave(self._reason, self._over))
            self._link.close()
            self._host_files.close()
            self._store.close()
        return self._reason or "an error"

    def _interrupted(self, number: int, frame: FrameType | None) -> None:
        self._reason = f"it was ended by {signal.Signals(number).name}"
        if time.time() >= self._walltime.drains_at:
            self._reason += f", and {self._walltime} was almost over"
            self._over = True

    def _registration(self, holds: list[Holding] | None = None) -> Register:
        return Register(
            PROTOCOL,
            PYTHON,
            self._host,
            os.getpid(),
            self._setup.block,
            self._slots,
            _memory(),
            self._setup.gpus,
            self._walltime.ends_at,
            secrets.token_bytes(16),
            {**differing(self._setup.versions), **unloadable(self._setup.glibc)},
            holds,
            bool(self._draining),
        )

    def _rejoin(self) -> None:
        """Tell another interchange what is here. Results that have not been sent go before that."""
        self._flush()
        holdings: dict[int, Holding] = {}
        for entry in [*self._staff.entries(), *(ending.entry for _, ending in self._doubtful)]:
            record = entry.options
            holding = holdings.setdefault(record.number, Holding(Options.of(record.options), [], []))
            holding.ids.append(entry.id)
            if entry.worker is not None:
                holding.begun.append(entry.id)
        self._send(self._registration(list(holdings.values())))

    # -- the loop -------------------------------------------------------------------------------------------

    def _pump(self) -> float | None:
        """Send and receive what there is. Returns when to come back at the latest; None to end."""
        now = time.monotonic()
        if self._reason is None:
            self._believe(now)
        self._flush()
        if now - self._heard_at > self._threshold:
            trouble = self._link.trouble()
            self._reason = f"nothing was heard of the interchange for {now - self._heard_at:.1f} s"
            self._reason += f": {trouble}" if trouble else ""
        elif now >= self._next_beat:
            self._next_beat = now + self._period
            self._send(Heartbeat() if self._accepted else self._registration())
        if now >= self._look_at:
            self._look_at = self._watch_walltime()
        if self._handed and now >= self._say_at:
            self._say_begun()
        self._receive_all()  # the last thing: sending may hide from the descriptor that something has come
        if self._draining and not any(self._staff.load()[:2]) and not self._doubtful:
            self._flush()
            self._reason = self._draining
        if self._reason is not None:
            return None
        due = min(self._look_at, self._next_beat, self._heard_at + self._threshold, self._link.due())
        if self._doubtful:
            due = min(due, self._doubtful[0][0])
        return min(due, self._say_at) if self._handed else due

    def _watch_walltime(self) -> float:
        """Take no more calls when the block is almost over, and end with it. Returns when to look again."""
        if self._reason is not None:
            return math.inf
        drains_in, ends_in = self._walltime.left()
        if ends_in <= 0:
            self._reason, self._over = f"{self._walltime} is over", True
        elif drains_in <= 0 and self._accepted and not self._draining:
            self._send(Drain([self._setup.block]))
            self._drain(f"{self._walltime} is almost over")
        pending = self._accepted and not self._draining
        return time.monotonic() + (min(drains_in, ends_in) if pending else ends_in)

    def _move_end(self, message: MoveEnd) -> None:
        ends_at = self._walltime.move(message.ends_at)
        self._look_at = 0.0
        try:
            write_end(self._end_file, ends_at)
        except OSError as error:
            print(
                f"weft manager: running calls do not know that their block's end moved: {error}",
                file=sys.stderr,
            )
        self._send(MoveEnd(message.block, ends_at))

    def _drain(self, reason: str) -> None:
        self._draining = reason
        self._look_at = 0.0
        waiting = self._staff.take_back_waiting()
        self._release(waiting)
        self._send(Returned(waiting))

    def _receive_all(self) -> None:
        while messages := self._link.receive():
            for frames in messages:
                self._receive(frames)
            self._flush()
        if messages is None:
            self._reason = "the interchange is gone"

    def _receive(self, frames: Sequence[Frame]) -> None:
        self._heard_at = time.monotonic()
        try:
            message = decode(frames)
        except MalformedError as error:
            print(f"weft manager: a message that cannot be read: {error}", file=sys.stderr)
            return
        if type(message) is Tasks:
            self._take(message, frames[1:])
        elif type(message) is Cancel:
            self._staff.cancel(message.ids)
        elif type(message) is Accepted:
            self._accepted = True
            self._look_at = 0.0
            self._period, self._threshold = message.period, message.threshold
        elif type(message) is Rejoin:
            self._rejoin()
        elif type(message) is Forget:
            self._functions.clear()
            self._options.clear()
        elif type(message) is Drain:
            self._drain("it was drained")
        elif type(message) is MoveEnd:
            self._move_end(message)
        elif type(message) is Refused:
            print(f"weft manager: refused: {message.reason}", file=sys.stderr)
            self._reason = f"refused: {message.reason}"
        elif type(message) is Stop:
            self._reason = message.reason

    def _take(self, tasks: Tasks, payloads: Sequence[Frame]) -> None:
        count = len(payloads) - len(tasks.blobs)
        if tasks.blobs:
            self._flush()  # what has ended needs no blobs any more
        held = self._hold(tasks)
        refused = self._keep(tasks.blobs, payloads[count:], held) if tasks.blobs else {}
        if self._draining:  # they were on their way when it began to
            self._store.unpin(held)
            self._say_dropped()
            self._send(Returned([call_id for group in tasks.groups for call_id in group.ids]))
            return
        waiting = deque(payloads[:count])
        for number in tasks.functions:
            self._functions[number] = FunctionRecord(number, bytes(waiting.popleft()))
        for number, header in tasks.options:
            options = header.call_options()
            self._options[number] = OptionsRecord(number, options, self._of_ranks(number, options))
        entries: list[Entry] = []
        without: list[tuple[Entry, Sequence[bytes]]] = []
        for group in tasks.groups:
            function, record = self._functions[group.function], self._options[group.options]
            if group.hosts:
                record = self._with_hosts(record.options, group)
            payload, start = bytes(waiting.popleft()), 0
            found: list[Entry] = []
            for call_id, size in zip(group.ids, group.sizes, strict=True):
                stop = start + size
                found.append(Entry(call_id, function, record, payload[start:stop]))
                start = stop
            missing = [digest for digest in group.blobs if digest not in self._store]
            if missing:
                without += [(entry, missing) for entry in found]
                continue
            entries += found
            if group.blobs:
                self._pin(group.blobs, found)
        if held:
            self._store.unpin(held)
        self._say_dropped()
        self._staff.submit(entries)
        if without:
            self._turn_away(without, refused)

    # -- blobs ----------------------------------------------------------------------------------------------

    def _hold(self, tasks: Tasks) -> list[bytes]:
        """Pin what these calls need and is here: what is stored for them must not push it out."""
        needed = {digest for group in tasks.groups for digest in group.blobs}
        held = [digest for digest in needed if digest in self._store]
        self._store.pin(held)
        return held

    def _keep(
        self, blobs: Sequence[BlobHeader], frames: Sequence[Frame], held: list[bytes]
    ) -> dict[bytes, str]:
        """Store blobs, and pin them. Returns those that could not be, with the reasons."""
        refused: dict[bytes, str] = {}
        for blob, frame in zip(blobs, frames, strict=True):
            try:
                self._store.put(blob.digest, frame)
                self._store.pin([blob.digest])
                held.append(blob.digest)
            except StoreError as error:
                refused[blob.digest] = str(error)
                print(f"weft manager: a blob was not stored: {error}", file=sys.stderr)
        return refused

    def _pin(self, digests: Sequence[bytes], entries: Sequence[Entry]) -> None:
        """See to it that the blobs of these calls stay."""
        for entry in entries:
            self._store.pin(digests)
            self._needs[entry.id] = digests

    def _turn_away(
        self, entries: Sequence[tuple[Entry, Sequence[bytes]]], refused: Mapping[bytes, str]
    ) -> None:
        """These calls have no blobs: they go back, to be sent again with them.

        But if there was no room for these, calls that were not just sent ahead fail: it would be the same the
        next time.
        """
        self._send(Dropped(list({digest for _, missing in entries for digest in missing})))
        back: list[int] = []
        ahead = sum(self._staff.load()[:2]) >= self._slots
        for entry, missing in entries:
            reasons = [refused[digest] for digest in missing if digest in refused]
            if ahead or not reasons:
                back.append(entry.id)
                continue
            message = f"an argument of task {entry.options.options.name!r} could not be stored: {reasons[0]}"
            self._endings.append(Ending(entry, error=ResourcesError(message)))
        if back:
            self._send(Returned(back))

    def _release(self, ids: Sequence[int]) -> None:
        """These calls are not here any more."""
        for call_id in ids:
            digests = self._needs.pop(call_id, None)
            if digests is not None:
                self._store.unpin(digests)

    def _say_dropped(self) -> None:
        dropped = self._store.dropped()
        if dropped:
            self._send(Dropped(dropped))

    def _note(self, kind: str, data: dict[str, Any]) -> None:
        """Events of workers are not sent: their calls' errors carry what is to be known."""
        if kind == "worker.lost" and data["pid"] is not None:
            self._dead_workers.append(data["pid"])

    # -- calls and results ----------------------------------------------------------------------------------

    def _of_ranks(self, number: int, options: CallOptions) -> dict[str, str] | None:
        """The variables of calls of one node with these options, if they have several ranks."""
        wants = options.resources
        if wants.ranks == 1 or wants.nodes > 1:
            return None
        path = self._host_files.write(-1 - number, [self._host], wants.ranks)
        return variables([self._host], wants, path, self._mpi)

    def _with_hosts(self, options: CallOptions, group: Group) -> OptionsRecord:
        """The options of a call for several nodes, which are given to it only."""
        wants = options.resources
        path = self._host_files.write(group.ids[0], group.hosts, wants.ranks_per_node)
        return OptionsRecord(next(self._own_options), options, variables(group.hosts, wants, path, self._mpi))

    def _hand(self, entries: Sequence[Entry]) -> None:
        if not self._handed:
            self._say_at = time.monotonic() + _SAY_AFTER
        self._handed += entries

    def _say_begun(self) -> None:
        """Tell of calls that workers have had for a while: of those that end soon there is no need to."""
        waiting = [entry.id for entry in self._handed if not entry.done and entry.worker is not None]
        self._handed.clear()
        if waiting:
            self._send(Begun(waiting))

    def _note_endings(self, endings: Sequence[Ending]) -> None:
        """A batch system that ends a block sends all its processes a signal, and this one may get it last:
        then calls were lost with their block, not because of what they did.
        """
        told_at = time.monotonic() + _SAME_BLOW
        for ending in endings:
            if _may_be_the_blocks_end(ending.error):
                self._doubtful.append((told_at, ending))
            else:
                self._endings.append(ending)

    def _believe(self, now: float) -> None:
        """This process has not been ended: those workers were."""
        while self._doubtful and self._doubtful[0][0] <= now:
            self._endings.append(self._doubtful.pop(0)[1])

    def _flush(self) -> None:
        """Send the endings that have come up."""
        if not self._endings:
            return
        endings, self._endings[:] = list(self._endings), ()
        groups: list[ResultGroup] = []
        payloads: list[Frame] = []
        ids: list[int] = []
        kinds: list[int] = []
        pieces: list[Frame] = []
        for entry, kind, payload, error in endings:
            entry.done = True
            if payload and payload[0] == MAGIC:
                self._flush_large(entry, kind, payload, error)
                continue
            if error is not None:
                kind, payload = _ERROR, self._pack(entry, error)
            if len(payload) > _LARGE:
                groups.append(ResultGroup([entry.id], [kind], [len(payload)]))
                payloads.append(payload)
            else:
                ids.append(entry.id)
                kinds.append(kind)
                pieces.append(payload)
        if self._host_files:
            self._host_files.remove([ending.entry.id for ending in endings])
        if ids:
            groups.append(ResultGroup(ids, kinds, [len(piece) for piece in pieces]))
            payloads.append(b"".join(pieces))
        if groups:
            self._send(Results(groups), payloads)
        if self._needs:
            self._release([ending.entry.id for ending in endings])
            self._say_dropped()
        while self._dead_workers:
            self._store.discard_of_worker(self._dead_workers.pop())

    def _flush_large(
        self, entry: Entry, kind: int, payload: bytes | memoryview, error: BaseException | None
    ) -> None:
        """Send the result of a call that has blobs, in a message of its own."""
        head = read_head(payload)
        pinned: list[bytes] = []
        blobs: dict[bytes, memoryview] = {}
        if error is None:
            try:
                pinned = self._store.adopt(head)
                own = self._needs.get(entry.id, ())
                blobs = {digest: self._store.view(digest) for digest in pinned if digest not in own}
            except (StoreError, OSError) as problem:
                name = entry.options.options.name
                error = SerializationError(f"the result of task {name!r} is lost: {problem}")
        else:
            self._store.discard(head)
        if error is not None:
            kind, payload, blobs = _ERROR, self._pack(entry, error), {}
        headers = [BlobHeader(digest, len(data)) for digest, data in blobs.items()]
        group = ResultGroup([entry.id], [kind], [len(payload)], headers)
        self._send(Results([group]), [payload, *blobs.values()])
        self._store.unpin(pinned)
        self._say_dropped()

    def _pack(self, entry: Entry, error: BaseException) -> bytes:
        if isinstance(error, LostError):
            places = [dataclasses.replace(each, block_id=self._setup.block) for each in error.certificates]
            error = type(error)(str(error.args[0]), places)
        return pack_error(error, self._serializer, entry.options.options.name)

    def _send(self, message: Message, payloads: Sequence[Frame] = ()) -> None:
        self._link.send(encode(message, payloads))


def _choose(endpoints: Sequence[Endpoint]) -> Endpoint:
    here = boot_id()
    for endpoint in endpoints:
        if endpoint.boot_id in (None, here):
            return endpoint
    raise SystemExit("weft manager: the interchange listens only on its own machine, and this is another one")


def _may_be_the_blocks_end(error: BaseException | None) -> bool:
    if not isinstance(error, WorkerLostError) or error.certificate is None:
        return False
    certificate = error.certificate
    unknown = certificate.signal is None and certificate.exit_code is None
    return unknown or certificate.signal in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None


def main() -> int:
    """Read the setup, and be a manager."""
    try:
        setup = ManagerSetup.load(sys.stdin.buffer.read())
    except msgspec.MsgspecError as error:
        print(f"weft manager: no setup on the standard input: {error}", file=sys.stderr)
        return 2
    own = [folder for folder in sys.path if folder not in setup.user_path]
    sys.path[:] = [*setup.user_path, *own, *(folder for folder in setup.path if folder not in own)]
    if setup.directory:
        try:
            os.chdir(setup.directory)
        except OSError as error:
            print(f"weft manager: calls run in {os.getcwd()}: {error}", file=sys.stderr)
    try:
        process = ManagerProcess(setup)
    except SeatError as error:
        print(f"weft manager: {error}", file=sys.stderr)
        return 2
    reason = process.run()
    print(f"weft manager: ended: {reason}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
