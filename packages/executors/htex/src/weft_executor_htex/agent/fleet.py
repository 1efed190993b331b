"""An agent's executor as a scaler sees it."""

from __future__ import annotations

import dataclasses
import functools
import io
import json
import pickle
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from weft_interfaces import (
    BlockCommand,
    BlockLoad,
    Blocks,
    Event,
    ExecutorDemand,
    JobStatus,
)

from ..messages import Drain, EndBlock, MoveEnd, Note, Notes, Outputs
from .earlier import Earlier, Heir

if TYPE_CHECKING:
    from weft_interfaces import BlockScaler, Channel

    from .blocks import AgentBlocks, Mailbox

__all__ = ["Fleet", "make_scaler"]


def make_scaler(data: bytes, owner: AgentBlocks, mailbox: Mailbox) -> BlockScaler:
    """The scaler of a plan, see ``plan.py``. Waits for the batch system where an earlier agent has asked it
    for jobs. Raises whatever unpickling raises.
    """
    plan = pickle.loads(data)
    maker, blocks = _Unpickler(plan["settings"], plan["channel"]()).load()
    fleet = Fleet(plan, blocks, owner, mailbox)

    def emit(events: Sequence[Event]) -> None:
        notes = [Note(each.time, each.kind, each.source, json.dumps(dict(each.data))) for each in events]
        mailbox.post(functools.partial(owner.say, Notes(notes)))

    def keep(outputs: Mapping[str, bytes]) -> None:
        message = Outputs(list(outputs), list(outputs.values()))
        mailbox.post(functools.partial(owner.say, message))

    earlier = Earlier(plan, blocks.provider, emit)
    adopt = earlier.sort(owner.closing)
    scaler: BlockScaler = maker([fleet], emit=emit, directory="", first=plan["first"], keep=keep, adopt=adopt)
    return Heir(scaler, earlier) if earlier.adoptable else scaler


class _Unpickler(pickle.Unpickler):
    """Puts this host's own channel in the place of the one that leads here."""

    def __init__(self, data: bytes, channel: Channel) -> None:
        super().__init__(io.BytesIO(data))
        self._channel = channel

    def persistent_load(self, what: object) -> Channel:
        return self._channel


class Fleet:
    """See :class:`weft_interfaces.Scalable`. Its methods are called by the scaler's threads."""

    def __init__(self, plan: Any, blocks: Blocks, owner: AgentBlocks, mailbox: Mailbox) -> None:
        self._label: str = plan["label"]
        self._blocks = blocks
        self._argv: Sequence[str] = plan["argv"]
        self._setup = json.loads(plan["setup"])
        self._slots: int = plan["slots_per_node"]
        self._owner = owner
        self._mailbox = mailbox

    @property
    def label(self) -> str:
        return self._label

    @property
    def blocks(self) -> Blocks:
        if self._owner.resting:
            return dataclasses.replace(self._blocks, init=0, min=0, idle_timeout=0.0)
        return self._blocks

    def command(self, block_id: str) -> BlockCommand:
        return BlockCommand(self._argv, json.dumps({**self._setup, "block": block_id}).encode())

    def demand(self) -> ExecutorDemand:
        demand: ExecutorDemand = self._mailbox.ask(self._demand)
        return demand

    def _demand(self) -> ExecutorDemand:
        waiting, taken = self._owner.slots(self._slots)
        loads = {
            each.block: BlockLoad(each.managers, each.running, each.idle_for) for each in self._owner.states()
        }
        return ExecutorDemand(waiting, taken, self._slots * self._blocks.nodes, loads)

    def drain(self, block_ids: Collection[str]) -> None:
        self._tell(Drain(list(block_ids)))

    def block_ends(self, block_id: str, ends_at: float) -> None:
        self._tell(MoveEnd(block_id, ends_at))

    def block_ended(self, block_id: str, status: JobStatus) -> None:
        self._tell(end_of(block_id, status))

    def no_more_blocks(self, reason: str) -> None:
        self._mailbox.post(functools.partial(self._owner.give_up, reason))

    def _tell(self, message: Any) -> None:
        self._mailbox.post(functools.partial(self._owner.tell, message))


def end_of(block_id: str, status: JobStatus) -> EndBlock:
    """What an interchange hears of a block whose job has ended."""
    reason = status.reason or f"its job is {status.state.value}"
    return EndBlock(block_id, None, reason, status.exit_code, status.stderr_tail)
