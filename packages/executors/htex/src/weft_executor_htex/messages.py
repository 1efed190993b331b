"""What client, interchange and managers say to each other.

A message is a list of frames: a header, which is msgpack and checked against the types below, and payloads,
which nobody but the client and the workers looks into. Calls and results travel in groups, whose payload is
one frame: the pieces one after the other, with their sizes in the header.

::

    client to interchange     Tasks, Forget, Cancel, GiveBack, Drain, MoveEnd, EndBlock, Stop
    interchange to client     Results, Begun, Returned, Dropped, Lost, ManagerUp, ManagerGone, Trouble
    the same, on a stream     Sync, answered by Sync; Listening, InterchangeState, Heartbeat, Settled
    client to agent           Scale, Held, Regained; CloseBlocks, answered by BlocksClosed
    agent to client           Notes, NoMoreBlocks, Outputs
    interchange to manager    Accepted, Refused, Tasks, Forget, Cancel, Drain, MoveEnd, Heartbeat, Stop
    the same, see below       Rejoin
    manager to interchange    Register, Begun, Results, Returned, Dropped, Drain, MoveEnd, Heartbeat, Leave

What is large in arguments and results is a blob, named by the digest of its content (see ``blobs.py``). A
group says which blobs its calls need; a blob itself stands in the first message that needs it, and not again:
who sends knows what the receiver has. Who has dropped some says so; calls that come without their blobs go
back as Returned, and are sent again with them.

When an interchange is lost that others can follow, managers look for the next one, which tells them to
Rejoin: they register with the calls that they have. The client sends again what nobody has.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TypeAlias

import msgspec
from weft_interfaces import CallOptions, Resources

from .setup import ManagerAccess

__all__ = [
    "DIGEST",
    "PROTOCOL",
    "PYTHON",
    "Accepted",
    "Begun",
    "BlobHeader",
    "BlockState",
    "BlocksClosed",
    "Cancel",
    "CloseBlocks",
    "Drain",
    "Dropped",
    "EndBlock",
    "Forget",
    "Frame",
    "GiveBack",
    "Group",
    "Heartbeat",
    "Held",
    "Holding",
    "InterchangeState",
    "Leave",
    "Listening",
    "Lost",
    "MalformedError",
    "ManagerGone",
    "ManagerUp",
    "Message",
    "MoveEnd",
    "NoMoreBlocks",
    "Note",
    "Notes",
    "Options",
    "Outputs",
    "Refused",
    "Regained",
    "Register",
    "Rejoin",
    "ResultGroup",
    "Results",
    "Returned",
    "Scale",
    "Settled",
    "Stop",
    "Sync",
    "Tasks",
    "Trouble",
    "decode",
    "encode",
]

PROTOCOL = 2
PYTHON = "{}.{}".format(*sys.version_info[:2])  # pickles of functions do not pass between minor versions

DIGEST = 32  # bytes of the name of a blob

Frame: TypeAlias = "bytes | memoryview"


class MalformedError(ValueError):
    """Frames that are no message of this protocol."""


class _Message(msgspec.Struct, array_like=True, tag=True, frozen=True):
    """Any message."""


class Options(msgspec.Struct, array_like=True, frozen=True):
    """What :class:`CallOptions` holds, in plain types."""

    name: str
    cpus: float
    memory: int | None
    gpus: float
    nodes: int
    ranks: int
    walltime: float | None
    timeout: float | None
    priority: int
    stdout: str | None
    stderr: str | None
    cwd: str | None

    @classmethod
    def of(cls, options: CallOptions) -> Options:
        """The options as they travel."""
        wants = options.resources
        return cls(
            options.name,
            wants.cpus,
            None if wants.memory is None else int(wants.memory),
            wants.gpus,
            wants.nodes,
            wants.ranks,
            None if wants.walltime is None else float(wants.walltime),
            options.timeout,
            options.priority,
            options.stdout,
            options.stderr,
            options.cwd,
        )

    def call_options(self) -> CallOptions:
        """The options as they were."""
        resources = Resources(
            cpus=self.cpus,
            memory=self.memory,
            gpus=self.gpus,
            nodes=self.nodes,
            ranks=self.ranks,
            walltime=self.walltime,
        )
        return CallOptions(
            name=self.name,
            resources=resources,
            timeout=self.timeout,
            priority=self.priority,
            stdout=self.stdout,
            stderr=self.stderr,
            cwd=self.cwd,
        )


class BlobHeader(msgspec.Struct, array_like=True, frozen=True):
    """A blob that stands in the message. ``size``: in bytes."""

    digest: bytes
    size: int


class Group(msgspec.Struct, array_like=True, frozen=True):
    """Calls of the same function with the same options, both by number. ``sizes``: of their arguments, in
    bytes. ``hosts``: to a manager, the nodes of a call that takes several, of which its own is the first.
    blobs: what each of the calls needs.
    """

    function: int
    options: int
    ids: list[int]
    sizes: list[int]
    hosts: tuple[str, ...] = ()
    blobs: list[bytes] = []


class Tasks(_Message, frozen=True):
    """Calls, behind the functions, options and blobs that the receiver has not been told of before.

    Payloads: one for each function in ``functions``, then one for each group, then one for each blob.
    """

    functions: list[int]
    options: list[tuple[int, Options]]
    groups: list[Group]
    blobs: list[BlobHeader] = []


class Forget(_Message, frozen=True):
    """No call that comes later uses a function or options told before this."""


class Cancel(_Message, frozen=True):
    """These calls are not to run, or are to be stopped."""

    ids: list[int]


class GiveBack(_Message, frozen=True):
    """No block will come: calls that no manager has are to be returned."""


class Drain(_Message, frozen=True):
    """These blocks (to and from a manager: it) get no new calls, and give back what they have not begun."""

    blocks: list[str]


class MoveEnd(_Message, frozen=True):
    """The block ends then, in seconds since the epoch; from a manager: it does."""

    block: str
    ends_at: float


class EndBlock(_Message, frozen=True):
    """The block's job has ended, for this reason."""

    block: str
    job: str | None
    reason: str
    exit_code: int | None
    stderr_tail: str


class Stop(_Message, frozen=True):
    """End, with all that you have started."""

    reason: str


class ResultGroup(msgspec.Struct, array_like=True, frozen=True):
    """What became of some calls. ``kinds`` as in the reports of workers; ``sizes``: of the payloads, in
    bytes. blobs: of the results, but those that the calls needed themselves; the sender keeps them, too.
    """

    ids: list[int]
    kinds: list[int]
    sizes: list[int]
    blobs: list[BlobHeader] = []


class Results(_Message, frozen=True):
    """Calls that are done. Payloads: one for each group, each followed by one for each of its blobs."""

    groups: list[ResultGroup]


class Begun(_Message, frozen=True):
    """Calls that were handed to workers: should the manager be lost, it is not known what became of them."""

    ids: list[int]


class Returned(_Message, frozen=True):
    """Calls that have not begun, and that nobody has any more: they are to be sent again."""

    ids: list[int]


class Dropped(_Message, frozen=True):
    """The sender has these blobs no more."""

    digests: list[bytes]


class Lost(_Message, frozen=True):
    """Calls whose manager, or block, is gone.

    ``kind``: "manager" or "block".
    """

    ids: list[int]
    kind: str
    host: str | None
    pid: int | None
    block: str | None
    job: str | None
    exit_code: int | None
    reason: str
    stderr_tail: str


class Holding(msgspec.Struct, array_like=True, frozen=True):
    """Calls with the same options that a manager has. ``begun``: those of them that workers have."""

    options: Options
    ids: list[int]
    begun: list[int]


class Register(_Message, frozen=True):
    """A manager is there. ``memory``: bytes of its node; ``ends_at``: when its block is over, seconds since
    the epoch. ``once``: what no other registration has; empty is for who has nothing to fear from others that
    send the same. ``versions``: of packages of which the client has another version; empty is for none.
    ``holds``: the calls of one that was told to rejoin, None for one that is new. ``draining``: it takes no
    more.
    """

    protocol: int
    python: str
    host: str
    pid: int
    block: str
    slots: int
    memory: int | None
    gpus: int
    ends_at: float | None
    once: bytes = b""
    versions: dict[str, str] = {}
    holds: list[Holding] | None = None
    draining: bool = False


class ManagerUp(_Message, frozen=True):
    """A manager has registered."""

    manager: str
    info: Register


class ManagerGone(_Message, frozen=True):
    """A manager is gone, for this reason."""

    manager: str
    block: str
    reason: str


class BlockState(msgspec.Struct, array_like=True, frozen=True):
    """A block that has registered. ``running``: calls that its managers have; ``idle_for``: seconds since it
    last had one.
    """

    block: str
    managers: int
    running: int
    idle_for: float


class InterchangeState(_Message, frozen=True):
    """What the interchange tells of itself: its blocks, messages that it could not read, and peers that it
    has refused, by what was wrong.
    """

    blocks: list[BlockState]
    malformed: dict[str, int]
    refused: dict[str, int]


class Listening(_Message, frozen=True):
    """Managers are welcome."""

    access: ManagerAccess


class Settled(_Message, frozen=True):
    """No manager of an earlier interchange comes back any more."""


class Sync(_Message, frozen=True):
    """To be answered by the same: all that was said before has been heard then."""

    number: int


class Trouble(_Message, frozen=True):
    """Something keeps managers away that only the user can put right: what, and how."""

    reason: str


class Scale(_Message, frozen=True):
    """Get blocks from now on, as the plan says: see ``agent/plan.py``."""

    plan: bytes


class Held(_Message, frozen=True):
    """Worker slots that calls ask for which have not been sent yet."""

    slots: int


class Regained(_Message, frozen=True):
    """Managers have come back with these calls, which an earlier interchange was sent. For who reads what the
    client has said to the agents of a detached run.
    """

    ids: list[int]


class CloseBlocks(_Message, frozen=True):
    """Cancel the jobs of all blocks, within so many seconds."""

    timeout: float


class BlocksClosed(_Message, frozen=True):
    """That was done, but for what is said in words."""

    leftovers: list[str]


class NoMoreBlocks(_Message, frozen=True):
    """No block is there, and none will come, for this reason."""

    reason: str


class Note(msgspec.Struct, array_like=True, frozen=True):
    """An event. ``time``: of the agent's clock, in seconds since the epoch. ``data``: as JSON."""

    time: float
    kind: str
    source: str
    data: str


class Notes(_Message, frozen=True):
    """Events of the blocks."""

    notes: list[Note]


class Outputs(_Message, frozen=True):
    """What blocks wrote that failed: the ends of these files."""

    names: list[str]
    data: list[bytes]


class Accepted(_Message, frozen=True):
    """The manager is known. ``period`` and ``threshold``: of heartbeats, in seconds."""

    period: float
    threshold: float


class Rejoin(_Message, frozen=True):
    """The interchange that the manager has known is lost, and this is the next one: it is to register with
    the calls that it has.
    """


class Refused(_Message, frozen=True):
    """The manager is not wanted, for this reason; it ends."""

    reason: str


class Heartbeat(_Message, frozen=True):
    """Still there."""


class Leave(_Message, frozen=True):
    """The manager ends, for this reason; it has nothing left. ``over``: so does its block."""

    reason: str
    over: bool = False


Message: TypeAlias = (
    Tasks
    | Forget
    | Cancel
    | GiveBack
    | Drain
    | MoveEnd
    | EndBlock
    | Stop
    | Results
    | Begun
    | Returned
    | Dropped
    | Lost
    | Register
    | ManagerUp
    | ManagerGone
    | InterchangeState
    | Listening
    | Settled
    | Sync
    | Trouble
    | Accepted
    | Rejoin
    | Refused
    | Heartbeat
    | Leave
    | Scale
    | Held
    | Regained
    | CloseBlocks
    | BlocksClosed
    | NoMoreBlocks
    | Notes
    | Outputs
)

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)


def encode(message: Message, payloads: Sequence[Frame] = ()) -> list[Frame]:
    """The frames of a message."""
    return [_encoder.encode(message), *payloads]


def decode(frames: Sequence[Frame]) -> Message:
    """The message whose header is the first of these frames; the others are its payloads.

    Raises :class:`MalformedError` when they are none: sizes and numbers of payloads have been checked, too.
    """
    if not frames:
        raise MalformedError("no frames")
    try:
        message = _decoder.decode(frames[0])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise MalformedError(str(error)) from error
    sizes = _payload_sizes(message)
    if len(frames) - 1 != len(sizes):
        raise MalformedError(f"{len(frames) - 1} payloads, not {len(sizes)}")
    for frame, size in zip(frames[1:], sizes, strict=True):
        if size is not None and len(frame) != size:
            raise MalformedError(f"a payload of {len(frame)} bytes, not {size}")
    return message


def _payload_sizes(message: Message) -> list[int | None]:
    """How large each payload is; None: of any size."""
    if type(message) is Tasks:
        found: list[int | None] = [None] * len(message.functions)
        found += [_size(group.ids, group.sizes) for group in message.groups]
        for group in message.groups:
            if group.blobs:
                _check_digests(group.blobs)
        return found + _blob_sizes(message.blobs)
    if type(message) is Results:
        for ended in message.groups:
            if len(ended.kinds) != len(ended.ids):
                raise MalformedError("as many kinds as ids are wanted")
        found = []
        for ended in message.groups:
            found.append(_size(ended.ids, ended.sizes))
            found += _blob_sizes(ended.blobs)
        return found
    if type(message) is Dropped:
        _check_digests(message.digests)
    return []


def _blob_sizes(blobs: Sequence[BlobHeader]) -> list[int]:
    if blobs:
        _check_digests([blob.digest for blob in blobs])
    return [blob.size for blob in blobs]


def _check_digests(digests: Sequence[bytes]) -> None:
    if any(len(digest) != DIGEST for digest in digests):
        raise MalformedError("a digest of the wrong length")


def _size(ids: list[int], sizes: list[int]) -> int:
    if len(ids) != len(sizes):
        raise MalformedError("as many sizes as ids are wanted")
    if sizes and min(sizes) < 0:
        raise MalformedError("a negative size")
    return sum(sizes)
