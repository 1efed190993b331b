"""The default scaling policy: as many blocks as the load asks for, no more, no fewer.

With ``calls`` the worker slots that waiting and begun calls ask for::

    needed = ceil(parallelism x calls / slots per block), within [min, max], and at least 1 if there are calls
    ask    for   needed - (blocks that are there or coming)
    return       idle ones beyond needed, the longest idle first

What is given back was beyond ``needed``, so the same load never asks for it again: there is no oscillation.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from ._interfaces import BlockView, JobState, ScalingDecision, ScalingState, parse_seconds

__all__ = ["LoadScalingPolicy"]

_ROUNDING = 1e-9  # 1.1 x 1600 is a little more than 1760, which must not cost a block


class LoadScalingPolicy:
    """Asks for blocks as calls wait, and gives back those that are idle. A pure function of the state.

    - Blocks that were asked for and have not ended count as coming, whatever their state: the same need is
      never asked for twice. A job whose state is unknown is neither up nor ended.
    - Blocks that wait in the queue are kept when the load falls: they cost nothing yet, and their place in
      the queue is worth having. Should they start with nothing to do, they idle away like others.
    - With ``queue_timeout``, in seconds or as text, a block that has waited in the queue for longer is given
      up, and another is asked for if there is still need of it. Without, it waits for as long as it takes.
    - A block is given back once it was idle for ``idle_timeout``, its job runs, and no call runs in it; never
      so many that fewer than ``min`` are up, and never one that waiting calls could fill.
    - Draining blocks are no help for the load, but count for ``max``: their jobs have not ended.

    The blocks at the start are in ``settings.min``: the scaler raises it to ``init`` for the first decision.
    """

    def __init__(self, queue_timeout: float | str | None = None) -> None:
        self._queue_timeout = (
            math.inf if queue_timeout is None else parse_seconds(queue_timeout, "queue_timeout")
        )

    def decide(self, state: ScalingState) -> ScalingDecision:
        """What to do now, with the numbers that it rests on in ``reason``."""
        late = self._late(state)
        if late:
            return ScalingDecision(
                drain=late,
                reason=f"-{_blocks(len(late))} ({', '.join(late)}; in the queue for more than "
                f"{self._queue_timeout:g} s): {_numbers(state, _tally(state))}",
            )
        tally = _tally(state)
        add = min(max(tally.needed - tally.coming, 0), max(state.settings.max - tally.jobs, 0))
        if add:
            return ScalingDecision(add=add, reason=f"+{_blocks(add)}: {_numbers(state, tally)}")
        given_back = _given_back(state, tally)
        if given_back:
            return ScalingDecision(drain=given_back, reason=_farewell(state, tally, given_back))
        return ScalingDecision(reason=f"no change: {_numbers(state, tally)}{_limit(state, tally)}")

    def _late(self, state: ScalingState) -> tuple[str, ...]:
        return tuple(
            block_id
            for block_id, view in state.blocks.items()
            if not view.draining
            and view.status.state in (JobState.PENDING, JobState.HELD)
            and state.now - view.requested_at > self._queue_timeout
        )


class _Tally(NamedTuple):
    """Blocks that the load needs, that are there or coming, that are up, and jobs that have not ended."""

    needed: int
    coming: int
    up: int
    jobs: int
    idle: list[tuple[float, str]]


def _tally(state: ScalingState) -> _Tally:
    jobs = {block_id: view for block_id, view in state.blocks.items() if not view.status.state.terminal}
    coming = {block_id: view for block_id, view in jobs.items() if not view.draining}
    up = {block_id: view for block_id, view in coming.items() if _up(view)}
    timeout = float(state.settings.idle_timeout)
    idle = [
        (view.idle_for, block_id)
        for block_id, view in up.items()
        if not view.running and view.idle_for >= timeout
    ]
    return _Tally(_needed(state), len(coming), len(up), len(jobs), idle)


def _up(view: BlockView) -> bool:
    return view.status.state is JobState.RUNNING and view.managers > 0


def _slots(state: ScalingState) -> int:
    return max(state.demand.slots_per_block, 1)


def _needed(state: ScalingState) -> int:
    settings, calls = state.settings, state.demand.queued + state.demand.running
    load = settings.parallelism * calls / _slots(state)
    by_load = max(math.ceil(min(load, settings.max) - _ROUNDING), 1 if calls else 0)
    return min(max(by_load, settings.min), settings.max)


def _given_back(state: ScalingState, tally: _Tally) -> tuple[str, ...]:
    fillable = -(-state.demand.queued // _slots(state))
    spare = min(tally.up - tally.needed, len(tally.idle) - fillable)
    longest_first = sorted(tally.idle, key=lambda entry: (-entry[0], entry[1]))
    return tuple(block_id for _, block_id in longest_first[: max(spare, 0)])


# -- in words -----------------------------------------------------------------------------------------------


def _blocks(count: int) -> str:
    return f"{count} block" if count == 1 else f"{count} blocks"


def _numbers(state: ScalingState, tally: _Tally) -> str:
    demand, settings = state.demand, state.settings
    parts = [f"{demand.queued} waiting slots"]
    if demand.running:
        parts.append(f"{demand.running} taken")
    parts.append(f"{_blocks(tally.coming)} of {_slots(state)} slots")
    if tally.coming > tally.up:
        parts.append(f"{tally.coming - tally.up} of them coming")
    parts.append(f"parallelism {settings.parallelism:g}")
    if settings.min:
        parts.append(f"at least {settings.min}")
    return ", ".join(parts)


def _farewell(state: ScalingState, tally: _Tally, given_back: tuple[str, ...]) -> str:
    idle = ", ".join(
        f"{block_id} idle for {state.blocks[block_id].idle_for:.0f} s" for block_id in given_back
    )
    timeout = float(state.settings.idle_timeout)
    return f"-{_blocks(len(given_back))} ({idle}; {timeout:g} s are allowed): {_numbers(state, tally)}"


def _limit(state: ScalingState, tally: _Tally) -> str:
    """Why nothing is asked for although the load would use it."""
    wanted = state.settings.parallelism * (state.demand.queued + state.demand.running)
    if tally.jobs >= state.settings.max and wanted > state.settings.max * _slots(state):
        return f"; max is {state.settings.max}"
    return ""
