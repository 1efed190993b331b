"""Executors whose workers arrive in blocks, and what a block is.

A block is one job of a batch system: some nodes for some time, with one manager of the executor on each.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

from .errors import ConfigError
from .event import Event
from .executor import Executor
from .launcher import Launcher
from .provider import JobId, JobStatus, Provider
from .units import parse_bytes, parse_count, parse_seconds

__all__ = [
    "BlockCommand",
    "BlockExecutor",
    "BlockLoad",
    "BlockScaler",
    "BlockShape",
    "Blocks",
    "ExecutorDemand",
    "OutlineExecutor",
    "Scalable",
    "ScalerMaker",
    "block_id",
    "block_number",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockShape:
    """The size of a block. ``memory`` (bytes), ``cpus`` and ``gpus`` are per node, None is whatever a node
    has.

    ``walltime`` is in seconds, None is the site's default.
    """

    nodes: int = 1
    cpus: int | None = None
    memory: int | None = None
    gpus: int | None = None
    walltime: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocks:
    """How many blocks of which shape an executor gets, and from whom.

    provider, launcher: who is asked for blocks, and how a command is started on each node (None: as it is).
    nodes, cpus, memory, gpus: the shape; all but nodes are per node. walltime: seconds or text such as
    ``"01:30:00"``. init, min, max: blocks at the start, at least, at most.
    parallelism: worker slots wanted for each waiting or running task.
    idle_timeout: seconds that a block may be idle before it is given back, as long as ``min`` remain.
    register_timeout: seconds that a running job's managers may take to register before the block is
    diagnosed.
    """

    provider: Provider
    launcher: Launcher | None = None
    nodes: int = 1
    cpus: int | None = None
    memory: int | str | None = None
    gpus: int | None = None
    walltime: float | str | None = None
    min: int = 0
    init: int = 1
    max: int = 1
    parallelism: float = 1.0
    idle_timeout: float | str = 120.0
    register_timeout: float | str = 120.0

    def __post_init__(self) -> None:
        for field, least in (("nodes", 1), ("min", 0), ("init", 0), ("max", 1)):
            self._set(field, parse_count(getattr(self, field), f"blocks.{field}", least=least, whole=True))
        if not self.min <= self.init <= self.max:
            raise ConfigError(
                f"blocks: min <= init <= max must hold, not min={self.min}, init={self.init}, max={self.max}",
                "blocks",
            )
        self._set("parallelism", parse_count(self.parallelism, "blocks.parallelism"))
        for field in ("walltime", "idle_timeout", "register_timeout"):
            value = getattr(self, field)
            self._set(field, None if value is None else parse_seconds(value, f"blocks.{field}"))
        if self.memory is not None:
            self._set("memory", parse_bytes(self.memory, "blocks.memory"))

    def _set(self, field: str, value: Any) -> None:
        object.__setattr__(self, field, value)

    @property
    def shape(self) -> BlockShape:
        """The size of one block."""
        return BlockShape(
            nodes=self.nodes,
            cpus=self.cpus,
            memory=None if self.memory is None else int(self.memory),
            gpus=self.gpus,
            walltime=None if self.walltime is None else float(self.walltime),
        )


class BlockCommand(NamedTuple):
    """What starts one node's manager: its arguments, and bytes for its standard input (keys: never in the
    arguments).
    """

    argv: Sequence[str]
    input: bytes = b""


class BlockLoad(NamedTuple):
    """One block, as its executor sees it: managers registered, calls begun in it, seconds since it last had
    one.
    """

    managers: int = 0
    running: int = 0
    idle_for: float = 0.0


class ExecutorDemand(NamedTuple):
    """What the scaler needs to know of an executor: worker slots that its calls ask for, and its blocks.

    queued, running: worker slots wanted by waiting calls, taken by begun ones.
    slots_per_block: worker slots that one block of the configured shape has, as far as it is known; at least
    1.
    blocks: the blocks that have registered, by block id.
    """

    queued: int
    running: int
    slots_per_block: int
    blocks: Mapping[str, BlockLoad]


class Scalable(Protocol):
    """What a scaler needs of an executor. It asks for blocks and gives them back::

        scaler ── command(block) ──> launcher.wrap ──> provider.submit        requested
        provider.status: running ── managers register with the executor ──>   up
        provider.status: ends_at is known, or moved ── block_ends(block, ends_at)
        scaler ── drain(blocks): no new calls ──> provider.cancel             given back
        provider.status: terminal ── block_ended(block, status) ──>           ended; its calls are lost

    Its calls wait while there is no block. All methods may be called from any thread, and do not wait.
    """

    @property
    def label(self) -> str:
        """Names the executor, in messages and in events."""

    @property
    def blocks(self) -> Blocks:
        """How many blocks of which shape it wants, and from whom. Looked at before each decision: the numbers
        may change, the provider does not.
        """

    def command(self, block_id: str) -> BlockCommand:
        """What starts the manager of one node of this block. Calling it twice does no harm."""

    def demand(self) -> ExecutorDemand:
        """What its calls ask for and what its blocks do."""

    def drain(self, block_ids: Collection[str]) -> None:
        """Give these blocks no new calls; calls that they hold but have not begun go elsewhere."""

    def block_ends(self, block_id: str, ends_at: float) -> None:
        """The batch system says when this block's walltime is over, in seconds since the epoch. It may do so
        before managers register, and again, as the end can be moved. What is said last counts, and more than
        ``Blocks.walltime``.
        """

    def block_ended(self, block_id: str, status: JobStatus) -> None:
        """A block's job ended, or was never accepted (``status.reason`` says why).

        Calls begun in it get a :class:`BlockLostError` with the certificate, others go elsewhere. With no
        block left and none to come, waiting calls fail with the reason: they never wait for ever. The kernel
        says that none is to come with :meth:`no_more_blocks`.
        """

    def no_more_blocks(self, reason: str) -> None:
        """No block is there and none will come: fail what waits, with the reason, and what comes later,
        until a manager registers after all. None of it was lost: nothing has begun.
        """


@runtime_checkable
class BlockExecutor(Executor, Scalable, Protocol):
    """An executor whose workers arrive in blocks. The kernel's scaler gets them, unless the executor has
    found a better place for a scaler: see :attr:`Executor.scales_itself`.
    """


@runtime_checkable
class OutlineExecutor(BlockExecutor, Protocol):
    """An executor whose commands people can look at before it is started."""

    def outline(self, block_id: str) -> BlockCommand:
        """What :meth:`~BlockExecutor.command` would say of this block. Nothing is started, packed or sent,
        and no other host is asked; what is known only then is in capital letters. Raises
        :class:`ConfigError`.
        """


class BlockScaler(Protocol):
    """Asks for the blocks of executors, follows them, and gives them back, in a thread of its own."""

    def start(self) -> None:
        """Begin."""

    def wake(self) -> None:
        """Demand has changed: decide anew, soon. Cheap, from any thread."""

    def freeze(self, reason: str = "the run is closing") -> None:
        """From now on ask for no block and give none back; jobs are still followed."""

    def close(self, timeout: float = 10.0, *, tidy: bool = True) -> list[str]:
        """Cancel every job that has not ended, and remove their files on other hosts, unless these are to
        stay (``tidy``). Returns within ``timeout`` seconds; what could not be done is in the returned list,
        in words.
        """


class ScalerMaker(Protocol):
    """Makes a scaler. It can be pickled, unless the run's policy cannot: then the scaler works elsewhere."""

    def __call__(
        self,
        executors: Sequence[Scalable],
        *,
        emit: Callable[[Sequence[Event]], None],
        directory: str = ...,
        first: int = ...,
        keep: Callable[[Mapping[str, bytes]], None] | None = ...,
        adopt: Mapping[str, JobId] = ...,
    ) -> BlockScaler:
        """A scaler of these executors, not started yet.

        emit: takes its events, from any thread. directory: where the jobs' files go; empty for a directory of
        the run below the home of each provider's channel, also where that is no other host. first: the number
        of the first block, so that no other scaler of the run gives its blocks the same ids. keep: takes what
        blocks wrote that failed, by the names of its files, before these are removed from another host.
        adopt: jobs that an earlier scaler of the run has asked for, by block id: they are followed as if this
        one had.
        """


def block_id(tag: str, label: str, number: int) -> str:
    """What the scaler of these jobs' tag calls a block of the executor with this label. It is the job's
    ``spec.id``.
    """
    return f"{tag}-{label}-{number}"


def block_number(block: str, tag: str, label: str) -> int | None:
    """The number in a block's id; None if no scaler with this tag calls a block of this executor so."""
    number = block.rpartition("-")[2]
    known = number.isdecimal() and number.isascii()
    return int(number) if known and block == block_id(tag, label, int(number)) else None
