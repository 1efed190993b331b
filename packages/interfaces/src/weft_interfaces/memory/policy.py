"""The simplest policies that keep the contracts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import fields, is_dataclass, replace
from typing import Any

from ..errors import InputError, LostError
from ..policy import BlockView, Failure, RetryDecision, ScalingDecision, ScalingState

__all__ = ["ContainerResolver", "NeverRetry", "RetryTimes", "SimpleScaling"]


class ContainerResolver:
    """Finds futures in lists, tuples, dicts, sets and dataclasses, as deep as Python's stack allows."""

    def futures(self, value: Any) -> list[Future[Any]]:
        return list(dict.fromkeys(_futures(value)))

    def resolve(self, value: Any, result: Callable[[Future[Any]], Any]) -> Any:
        if isinstance(value, Future):
            return result(value)
        if not self.futures(value):
            return value
        if isinstance(value, dict):
            return {self.resolve(key, result): self.resolve(part, result) for key, part in value.items()}
        if is_dataclass(value) and not isinstance(value, type):
            parts = {f.name: self.resolve(getattr(value, f.name), result) for f in fields(value) if f.init}
            return replace(value, **parts)
        resolved = [self.resolve(part, result) for part in value]
        return type(value)(*resolved) if hasattr(value, "_fields") else type(value)(resolved)


def _futures(value: Any) -> Iterator[Future[Any]]:
    if isinstance(value, Future):
        yield value
    elif isinstance(value, dict):
        for key, part in value.items():
            yield from _futures(key)
            yield from _futures(part)
    elif isinstance(value, (list, tuple, set, frozenset)):
        for part in value:
            yield from _futures(part)
    elif is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            yield from _futures(getattr(value, field.name))


class NeverRetry:
    """One try for each task."""

    def decide(self, failure: Failure) -> RetryDecision:
        return RetryDecision(False, reason="no task is tried again")


class RetryTimes:
    """Tries a task that fails ``retries`` times more, and one that is lost ``losses`` times more, at once."""

    def __init__(self, retries: int = 1, losses: int = 3) -> None:
        self._retries = retries
        self._losses = losses

    def decide(self, failure: Failure) -> RetryDecision:
        if isinstance(failure.error, InputError):
            return RetryDecision(False, reason="wrong input stays wrong")
        if isinstance(failure.error, LostError):
            return RetryDecision(failure.losses <= self._losses, reason=f"lost {failure.losses} times")
        return RetryDecision(failure.failures <= self._retries, reason=f"failed {failure.failures} times")


class SimpleScaling:
    """As many blocks as the calls have use for, from ``min`` to ``max``; idle ones are given back in time."""

    def decide(self, state: ScalingState) -> ScalingDecision:
        settings, demand = state.settings, state.demand
        alive = {block_id: block for block_id, block in state.blocks.items() if not block.draining}
        slots = (demand.queued + demand.running) * settings.parallelism
        wanted = max(settings.min, min(settings.max, -int(-slots // demand.slots_per_block)))
        add = min(wanted - len(alive), settings.max - len(state.blocks))
        if add > 0:
            return ScalingDecision(add, reason=f"{slots:g} slots are wanted, which is {wanted} blocks")
        spare = len(alive) - wanted
        idle = tuple(i for i, block in alive.items() if _is_idle(block, float(settings.idle_timeout)))[
            : max(0, spare)
        ]
        return ScalingDecision(drain=idle, reason=f"{len(idle)} blocks are idle" if idle else "")


def _is_idle(block: BlockView, timeout: float) -> bool:
    return block.managers > 0 and not block.running and block.idle_for >= timeout
