"""The pilot executor, as the kernel and pools see it."""

from __future__ import annotations

import importlib.metadata
import os
import threading
import time
import weakref
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from weft_interfaces import (
    BaseExecutor,
    BlockCommand,
    BlockLoad,
    Blocks,
    Call,
    CallOptions,
    Channel,
    ChannelError,
    ConfigError,
    Event,
    ExecutorContext,
    ExecutorDemand,
    InputError,
    JobStatus,
    Load,
    MissingPluginError,
    Outcome,
    RankLauncher,
    Resources,
    ResourcesError,
    RunClosedError,
    format_bytes,
    parse_bytes,
    parse_count,
    parse_seconds,
)
from weft_interfaces.processes import Catalogue, available_cpus

from .agent.fleet import end_of
from .agent.settings import AgentSettings
from .client import Client
from .client_blobs import ClientBlobs
from .environment import Prepared, find_environment
from .interrupt import Uninterrupted
from .messages import PYTHON, CloseBlocks, Drain, InterchangeState, Message, MoveEnd, Scale, Stop
from .nodes import check_mpi
from .packing import BlobSerializer
from .placement import InterchangeThread, Placement
from .seats import check_accelerators, check_affinity, share_of_accelerators
from .selector import Selector, find_selector
from .setup import InterchangeSetup, Keys, ManagerAccess, ManagerSetup

if TYPE_CHECKING:
    from .agent.durable import Folder
    from .agent.plan import Plan
    from .agent.remains import AgentRemains
    from .environment.contract import Report

__all__ = ["HighThroughputExecutor"]

# Bytes of blobs that an interchange elsewhere keeps for calls that may come ...
_REMAINDERS = {"thread": 0, "process": 256 << 20, "agent": 8 << 20}
# ... and of arguments of calls that wait there. An agent is to be small: a login node is for all.
_WINDOWS = {"thread": 64 << 20, "process": 64 << 20, "agent": 8 << 20}
_END = 2.0  # seconds that managers may take to say that they end, ...
_END_EACH = 0.001  # ... and so many more for each, where there are thousands


class HighThroughputExecutor(BaseExecutor):
    """Runs calls on nodes that a provider gives in blocks: one manager a node, one worker process a slot.

    workers_per_node: slots of each node; as many as it has processors unless said.
    blocks: how many blocks of which shape, and from whom; blocks of this machine unless said.
    prefetch: calls sent ahead for each worker however long they take; short ones are sent ahead in any case.
    heartbeat_period, heartbeat_threshold: seconds, or text such as ``"30s"``; a manager, or an interchange,
    of which nothing was heard for the threshold is lost.
    address: where managers on other machines reach this one, a name or an IP address, or several with commas
    between them; None is for blocks of this machine alone. Traffic that leaves the machine is encrypted, and
    both ends authenticate each other. An agent is reached by any of its host's addresses unless this is said.
    preload: modules that workers have imported before they get calls.
    accelerators: how many devices each node has, or their names; each worker gets its part of them for itself
    (``CUDA_VISIBLE_DEVICES`` and the like), and there are as many workers as accelerators unless said. A name
    that is repeated is shared. Only with them are there workers for tasks that ask for ``gpus``.
    affinity: which processors each worker is bound to: neighbouring ones ("block", and from the other end
    "block-reverse"), every n-th ("alternating"), or a text such as ``"0-3,8"`` for each worker.
    selector: which manager gets the next calls: ``"least-loaded"``, ``"packed"`` (the busiest that has room,
    so that idle blocks can be given back), or an object, see :class:`weft_executor_htex.selector.Selector`.
    interchange: where the interchange lives, ``"thread"`` (of this process), ``"process"`` (one of its own:
    it never waits for this one, and its loss costs no more than the calls that it had), or ``"agent"``: on
    the host of the provider's channel, with no other connection than the channel's own; it outlives that.
    Unless said, it is the agent where the channel leads to another host, else the thread. agent: how that
    works.
    large: bytes, or text such as ``"100kB"``; what is larger inside arguments and results is sent to a node
    once, and mapped by its workers: arrays then are read-only, and ``array.copy()`` is not.
    store: bytes of these that a node has in shared memory, as a number or text; a quarter of what is free
    unless said.
    mpi: what starts the ranks of tasks that have several: ``"srun"``, ``"mpirun"`` or ``"mpiexec"``, or a
    list of it and further options, such as ``["srun", "--mpi=pmix"]``. Unless said, it is the program of the
    block's launcher, or else what the node has.
    environment: where managers get Python and packages. ``"pack"`` sends the client's own, ``"pack:PATH"``
    another one of this machine; the path of an environment, or a command such as ``"python3"``, is one of the
    nodes. Unless said it is the client's own: as it is where nodes share its files, else packed.
    scratch: the directory of the nodes where what is sent is unpacked, such as ``"/scratch/$USER"``; a
    temporary one with enough room unless said.
    """

    in_blocks = True

    def __init__(
        self,
        label: str = "htex",
        workers_per_node: int | None = None,
        blocks: Blocks | None = None,
        *,
        prefetch: int = 0,
        heartbeat_period: float | str = 5.0,
        heartbeat_threshold: float | str = 30.0,
        address: str | None = None,
        preload: Sequence[str] = (),
        accelerators: int | Sequence[str | int] | None = None,
        affinity: Literal["none", "block", "block-reverse", "alternating"] | Sequence[str] = "none",
        selector: str | Selector = "least-loaded",
        interchange: Literal["auto", "thread", "process", "agent"] = "auto",
        agent: AgentSettings | None = None,
        large: int | str = "100kB",
        store: int | str | None = None,
        mpi: str | Sequence[str] = "auto",
        environment: str | None = None,
        scratch: str | None = None,
    ) -> None:
        super().__init__(label)
        of = f"of executor {label!r}"
        self._workers = (
            None
            if workers_per_node is None
            else int(parse_count(workers_per_node, f"workers_per_node {of}", least=1, whole=True))
        )
        self._prefetch = int(parse_count(prefetch, f"prefetch {of}", least=0, whole=True))
        self._period = parse_seconds(heartbeat_period, f"heartbeat_period {of}")
        self._threshold = parse_seconds(heartbeat_threshold, f"heartbeat_threshold {of}")
        if not 0 < self._period < self._threshold:
            raise ConfigError(
                f"heartbeat_period {of} must be more than 0 and less than heartbeat_threshold, not "
                f"{self._period:g} s and {self._threshold:g} s",
                "heartbeat_period",
            )
        self._address = address
        self._preload = list(preload)
        gpus = blocks.gpus if blocks is not None else None
        self._accelerators = check_accelerators(accelerators, self._workers, gpus, of)
        if self._accelerators is not None and self._workers is None:
            self._workers = (
                self._accelerators if isinstance(self._accelerators, int) else len(self._accelerators)
            )
        self._gpus_each = share_of_accelerators(self._accelerators, self._workers)
        self._affinity = check_affinity(affinity, self._workers, of)
        self._selector = find_selector(selector, f"selector {of}")
        if interchange not in ("auto", "thread", "process", "agent"):
            raise ConfigError(
                f'interchange {of} must be "auto", "thread", "process" or "agent", not {interchange!r}',
                "interchange",
            )
        self._agent = agent or AgentSettings()
        self._large = _parse_size(large, f"large {of}")
        self._store = None if store is None else _parse_size(store, f"store {of}")
        self._blocks = blocks or Blocks(provider=_local_provider())
        channel = self._blocks.provider.channel
        self._far = channel is not None and channel.remote
        self._interchange = _check_interchange(interchange, channel, self._far, of)
        self.can_detach = self._interchange == "agent"  # which outlives this process
        self._mpi = check_mpi(mpi, f"of executor {label!r}")
        launcher = self._blocks.launcher
        if not self._mpi and isinstance(launcher, RankLauncher):
            self._mpi = [launcher.rank_program]
        self._environment = find_environment(environment, scratch, label)
        self._lifecycle = threading.Lock()
        self._session: _Session | None = None
        self._finalizer: weakref.finalize[[bool, float], HighThroughputExecutor] | None = None

    # -- Executor -------------------------------------------------------------------------------------------

    def start(self, context: ExecutorContext) -> None:
        with self._lifecycle:
            if self._session is not None:
                raise ConfigError(
                    f"executor {self.label!r} is running already; shut it down before starting it again"
                )
            self._session = _Session(self, context)
            self.scales_itself = self._session.client.scaled
            self._finalizer = weakref.finalize(self, self._session.finish, True, 0.5)

    def submit(self, calls: Sequence[Call]) -> None:
        session = self._session
        if session is None:
            raise RunClosedError(
                f"executor {self.label!r} is not running: it was not started, or was shut down"
            )
        session.submit(calls)

    def cancel(self, ids: Collection[int]) -> Collection[int]:
        session = self._session
        return () if session is None else session.cancel(ids)

    def running(self) -> Collection[int]:
        session = self._session
        return () if session is None else session.client.running()

    def load(self) -> Load:
        session = self._session
        most = self._slots_per_block() * self._blocks.max
        if session is None:
            return Load(0, 0, 0, most)
        slots = sum(info.slots for info in list(session.client.managers.values()))
        most = slots if session.client.hopeless else max(slots, most)
        return Load(session.client.queued(), len(session.client.running()), slots, most)

    def refusal(self, resources: Resources) -> str | None:
        blocks = self._blocks
        if resources.nodes > blocks.nodes:
            have = "one node" if blocks.nodes == 1 else f"{blocks.nodes} nodes"
            return (
                f"blocks of executor {self.label!r} have {have}, the task asks for "
                f"{resources.nodes}: set nodes={resources.nodes} in its blocks"
            )
        if resources.gpus and self._accelerators is None:
            return (
                f"workers of executor {self.label!r} have no accelerators, the task asks for "
                f"gpus={resources.gpus:g}: set accelerators="
            )
        if resources.gpus > self._gpus_each:
            return (
                f"each worker of executor {self.label!r} has {self._gpus_each:g} of the accelerators, the "
                f"task asks for gpus={resources.gpus:g}: set workers_per_node= so that each has more"
            )
        memory = blocks.shape.memory
        if memory is not None and int(resources.memory or 0) > memory:
            return (
                f"blocks of executor {self.label!r} have {format_bytes(memory)} a node, the task asks for "
                f"{resources}"
            )
        if self._workers is not None and resources.slots > self._workers:
            return (
                f"executor {self.label!r} has {self._workers} workers a node, the task asks for {resources}"
            )
        return None

    def shutdown(self, *, cancel: bool = False, timeout: float = 10.0) -> list[str]:
        session = self._session
        if session is None:
            return []
        leftovers = session.finish(cancel, timeout)
        self._forget(session)
        return leftovers

    def _forget(self, session: _Session) -> None:
        with self._lifecycle:
            if self._session is session:
                self._session = None
                self.scales_itself = False
                if self._finalizer is not None:
                    self._finalizer.detach()

    def detach(self, timeout: float = 10.0) -> list[str]:
        session = self._session
        if session is None:
            return []
        leftovers = session.leave(timeout)
        self._forget(session)
        return leftovers

    # -- BlockExecutor --------------------------------------------------------------------------------------

    @property
    def blocks(self) -> Blocks:
        return self._blocks

    def command(self, block_id: str) -> BlockCommand:
        session = self._running_session()
        session.client.hope()
        return self._command(block_id, session.run_id, session.placement.access, session.prepared)

    def outline(self, block_id: str) -> BlockCommand:
        prepared = self._environment.outline(self._blocks.provider.channel)
        return self._command(block_id, "RUN", ManagerAccess([]), prepared)

    def _command(self, block_id: str, run_id: str, access: ManagerAccess, prepared: Prepared) -> BlockCommand:
        shape = self._blocks.shape
        setup = ManagerSetup(
            access=access,
            block=block_id,
            workers=self._workers,
            gpus=int(self._gpus_each * (self._workers or 0) + 0.5),
            walltime=shape.walltime,
            heartbeat_threshold=self._threshold,
            path=prepared.path,
            preload=self._preload,
            user_path=prepared.user_path,
            accelerators=self._accelerators or 0,
            affinity=self._affinity,
            environment={"WEFT_EXECUTOR": self.label, "WEFT_RUN_ID": run_id},
            directory="" if self._far else os.getcwd(),
            large=self._large,
            store=self._store,
            mpi=tuple(self._mpi),
            versions=prepared.versions,
            glibc=prepared.glibc,
        )
        return BlockCommand(prepared.command(f"{__package__}.manager"), setup.dump())

    def demand(self) -> ExecutorDemand:
        session = self._session
        if session is None:
            return ExecutorDemand(0, 0, self._slots_per_block(), {})
        queued, running = session.client.slots()
        return ExecutorDemand(queued, running, self._slots_per_block(), _loads(session.placement.state()))

    def drain(self, block_ids: Collection[str]) -> None:
        if self._session is not None:
            self._session.tell(Drain(list(block_ids)))

    def block_ends(self, block_id: str, ends_at: float) -> None:
        if self._session is not None:
            self._session.tell(MoveEnd(block_id, ends_at + self._session.client.skew))

    def block_ended(self, block_id: str, status: JobStatus) -> None:
        if self._session is not None:
            self._session.tell(end_of(block_id, status))

    def no_more_blocks(self, reason: str) -> None:
        if self._session is not None:
            self._session.client.give_up(reason)
            self._session.placement.wake()

    # -- ReapableExecutor -----------------------------------------------------------------------------------

    def find_left(self, run_id: str) -> Sequence[str]:
        remains = self._remains(run_id)
        return remains.find() if remains is not None else []

    def end_left(self, run_id: str) -> None:
        remains = self._remains(run_id)
        if remains is not None:
            remains.end()

    def _remains(self, run_id: str) -> AgentRemains | None:
        channel = self._blocks.provider.channel
        if self._interchange != "agent" or channel is None:
            return None
        from .agent.remains import AgentRemains, owner_of

        return AgentRemains(channel, self._agent, owner_of(run_id, self.label))

    # -- for people -----------------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """Managers, blocks, and queue lengths, as plain data."""
        session = self._session
        if session is None:
            return {"running": False}
        state = session.placement.state()
        return {
            "running": True,
            "queued": session.client.queued(),
            "begun": len(session.client.running()),
            "managers": [
                {"host": info.host, "pid": info.pid, "block": info.block, "workers": info.slots}
                for info in list(session.client.managers.values())
            ],
            "blocks": {block: load._asdict() for block, load in _loads(state).items()},
            "malformed": state.malformed,
            "refused_peers": state.refused,
        }

    def _slots_per_block(self) -> int:
        return self._slots_per_node() * self._blocks.nodes

    def _plan(self, context: ExecutorContext, report: Report) -> Plan | None:
        """How an agent gets its blocks itself; None: whoever has started this executor gets them.

        Raises :class:`ConfigError` where that is what was asked for, and cannot be.
        """
        wanted, maker = self._agent.blocks, context.make_scaler
        if self._interchange != "agent" or wanted == "client" or maker is None:
            return None
        from .agent.bundle import bundle
        from .agent.lower import UnfitError
        from .agent.plan import Plan

        try:
            plan = Plan(self.label, context.run_id, maker, self._blocks)
            bundle(plan.modules)
        except UnfitError as error:
            words = f"the agent of executor {self.label!r} cannot get blocks itself: {error}"
            if wanted == "agent":
                raise ConfigError(
                    f'{words}; AgentSettings(blocks="client") has this process do it', "agent.blocks"
                ) from error
            report("scaling.here", reason=f"{words}; this process does it, as long as it runs")
            return None
        return plan

    def _place(
        self,
        client: Client,
        setup: InterchangeSetup,
        run_id: str,
        modules: Sequence[str],
        folder: Folder | None,
    ) -> Placement:
        if self._interchange == "thread":
            return InterchangeThread(self.label, client, setup, self._selector)
        from .remote import InterchangeStream, serve_in_process

        if self._interchange == "process":
            return InterchangeStream(self.label, client, setup, self._selector, serve_in_process)
        from .agent.open import agent_opener
        from .agent.remains import owner_of

        channel = self._blocks.provider.channel
        assert channel is not None, "checked when the executor was made"
        opener = agent_opener(
            channel,
            self._agent,
            setup,
            client.report,
            modules,
            owner=owner_of(run_id, self.label),
            label=self.label,
            large=self._large,
            folder=folder,
        )
        return InterchangeStream(
            self.label, client, setup, self._selector, opener, watched=False, whole=folder is not None
        )

    def _slots_per_node(self) -> int:
        return self._workers or self._blocks.cpus or available_cpus()

    def _running_session(self) -> _Session:
        session = self._session
        if session is None:
            raise RunClosedError(f"executor {self.label!r} is not running")
        return session


class _Session:
    """What is there between ``start`` and ``shutdown``; it does not keep a forgotten executor alive."""

    def __init__(self, executor: HighThroughputExecutor, context: ExecutorContext) -> None:
        import cloudpickle  # type: ignore[import-untyped]

        self._label = executor.label
        self._context = context
        self.run_id = context.run_id
        self._refusal = weakref.WeakMethod(executor.refusal)
        channel = executor._blocks.provider.channel
        blobs = ClientBlobs()
        serializer = BlobSerializer(cloudpickle.Pickler, executor._large, blobs)
        self._catalogue = Catalogue(serializer, self._refuse, executor._slots_per_node(), serializer.pack)
        self._folder = None if context.detached is None else _take_folder(context.detached)
        window = _WINDOWS[executor._interchange] if self._folder is None else None
        self.client = Client(executor.label, context, serializer, blobs, window)
        address = executor._address
        if address is None and executor._interchange == "agent":
            address = "auto"
        setup = InterchangeSetup(
            heartbeat_period=executor._period,
            heartbeat_threshold=executor._threshold,
            prefetch=executor._prefetch,
            address=address,
            keys=None if address is None else _make_keys(),
            # In this process it would keep alive what the client has let go.
            remainder=_REMAINDERS[executor._interchange],
            python=PYTHON,
        )
        try:
            plan = executor._plan(context, self._report)
            modules = plan.modules if plan is not None else ()
            self.placement = executor._place(self.client, setup, context.run_id, modules, self._folder)
            self.placement.start()
        except BaseException:
            self._drop_folder()
            raise
        try:
            # Only now: what is wrong with the host is known before much is sent there.
            self.prepared = executor._environment.prepare(channel, self._report)
        except BaseException:
            self.tell(Stop("the run has not begun"))
            self.placement.stop(_END)
            self._drop_folder()
            raise
        if plan is not None:
            command = weakref.WeakMethod(executor._command)
            self.client.introduce(partial(self._introduce, command, plan, executor._slots_per_node()))
            self.placement.wake()
        self._ending = threading.Lock()
        self._ended = False

    def _introduce(
        self, command: Callable[[], Callable[..., BlockCommand] | None], plan: Plan, slots: int
    ) -> Scale | None:
        """What the next agent is told, if it is there."""
        make = command()
        if make is None:
            return None
        try:
            argv, setup = make("", self.run_id, self.placement.access, self.prepared)
        except ChannelError:
            return None
        follows = self.placement.follows
        return Scale(plan.dump(argv, setup, slots_per_node=slots, follows=follows))

    def _report(self, kind: str, **data: object) -> None:
        self._context.emit([Event(time.time(), kind, self._label, data)])

    def _refuse(self, options: CallOptions) -> InputError | None:
        refusal = self._refusal()
        words = refusal(options.resources) if refusal is not None else None
        return None if words is None else ResourcesError(words)

    def submit(self, calls: Sequence[Call]) -> None:
        """Take calls over."""
        entries, refused = [], []
        for call in calls:
            try:
                entries.append(self._catalogue.entry(call))
            except InputError as error:
                refused.append(Outcome(call.id, None, error))
        if self._folder is not None:
            tries = [(call.id, call.first) for call in calls if call.first is not None]
            if tries:
                self._folder.note_tries(tries)
        with Uninterrupted():
            self.client.submit(entries)
            self.placement.wake()
        if refused:
            self._context.completed(refused)

    def cancel(self, ids: Collection[int]) -> Collection[int]:
        """See :meth:`Executor.cancel`. The interchange has heard of it then, and gives none of them out."""
        with Uninterrupted():
            accepted = self.client.cancel(ids)
        if self.client.has_messages:
            self.placement.flush()
        elif self.client.scaled:
            self.placement.wake()  # fewer calls wait for blocks
        return accepted

    def tell(self, message: Message) -> None:
        """Have this passed on to the interchange."""
        self.client.tell(message)
        self.placement.wake()

    def finish(self, cancel: bool, timeout: float) -> list[str]:
        """See :meth:`Executor.shutdown`."""
        self.client.close()
        if self.placement.inside:  # whose work is needed for it
            threading.Thread(target=self.finish, args=(cancel, timeout), name=f"{self._label}-end").start()
            return [f"executor {self._label!r} is ending, in a thread of its own: it was reporting outcomes"]
        with self._ending:
            return [] if self._ended else self._finish(cancel, time.monotonic() + timeout)

    def _finish(self, cancel: bool, deadline: float) -> list[str]:
        client = self.client
        if cancel or not client.wait(max(0.0, deadline - time.monotonic())):
            self.cancel(client.unfinished())
            client.wait(max(0.5, min(_END, deadline - time.monotonic())))
        self.tell(Stop("the run has ended"))
        patience = _END + _END_EACH * len(client.managers)
        leftovers = self._wait_for_managers(time.monotonic() + patience)
        if client.scaled:
            leftovers += self._close_blocks(max(1.0, deadline - time.monotonic()))
        self._ended = True
        if not self.placement.stop(patience):
            leftovers.append(f"the interchange of executor {self._label!r} does not end")
        client.abandon()
        self._drop_folder()
        return leftovers

    def leave(self, timeout: float) -> list[str]:
        """See :meth:`Executor.detach`."""
        from .remote import InterchangeStream

        placement = self.placement
        if self._folder is None or not isinstance(placement, InterchangeStream):
            return self.finish(True, timeout)
        self.client.close()
        with self._ending:
            if self._ended:
                return []
            self._ended = True
            leftovers = placement.leave(timeout)
            self._folder.close()
            return leftovers

    def _drop_folder(self) -> None:
        """Nobody needs to go on with this."""
        if self._folder is not None:
            self._folder.remove()
            self._folder.close()

    def _wait_for_managers(self, deadline: float) -> list[str]:
        managers = self.client.managers
        with self.client.changed:
            self.client.changed.wait_for(lambda: not managers, max(0.0, deadline - time.monotonic()))
        return [
            f"manager {info.pid} on {info.host} (block {info.block}) of executor {self._label!r} does not end"
            for info in list(managers.values())
        ]

    def _close_blocks(self, timeout: float) -> list[str]:
        """Have the agent cancel its jobs."""
        client = self.client
        try:
            _ = self.placement.access
        except ChannelError:
            words = (
                f"the agent of executor {self._label!r} is gone: jobs that it has left in the queue have the "
                f"tag {self.run_id!r}, `weft reap` removes them"
            )
            return [words]
        self.tell(CloseBlocks(timeout))
        with client.changed:
            if client.changed.wait_for(lambda: client.blocks_left is not None, timeout + _END):
                return client.blocks_left or []
        words = (
            f"the agent of executor {self._label!r} has not said within {timeout:g} s that its jobs are "
            f"cancelled, they may still run; their tag is {self.run_id!r}"
        )
        return [words]


def _take_folder(path: Path) -> Folder:
    from .agent.durable import Folder

    return Folder(path)


def _make_keys() -> Keys:
    from .keys import make_keys

    return make_keys()


def _loads(state: InterchangeState) -> dict[str, BlockLoad]:
    """What the interchange tells of its blocks, as the scaler wants it."""
    return {each.block: BlockLoad(each.managers, each.running, each.idle_for) for each in state.blocks}


def _check_interchange(interchange: str, channel: Channel | None, far: bool, of: str) -> str:
    """The placement: "thread", "process" or "agent"."""
    if interchange == "auto":
        return "agent" if far else "thread"
    if interchange == "agent" and channel is None:
        raise ConfigError(
            f'interchange {of}: "agent" is on the host of the provider\'s channel, and the provider has '
            "none: give it one with channel=",
            "interchange",
        )
    return interchange


def _parse_size(value: int | str, field: str) -> int:
    size = parse_bytes(value, field)
    if size <= 0:
        raise ConfigError(f"{field} must be more than 0 bytes, not {size}", field.partition(" ")[0])
    return size


def _local_provider() -> Any:
    """The provider of blocks on this machine, which is another distribution."""
    found = importlib.metadata.entry_points(group="weft.providers", name="local")
    for entry_point in found:
        return entry_point.load()()
    raise MissingPluginError(
        "blocks: no provider was given, and the one for blocks of this machine is not installed: "
        "pip install weft-provider-local"
    )
