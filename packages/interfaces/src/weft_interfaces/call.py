"""The unit of work, and what became of it: plain values, sent in batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from .resources import Resources

__all__ = ["Call", "CallOptions", "Outcome"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CallOptions:
    """How to run a call; one object is shared by all calls of a task that have the same options.

    name: the task's name, for messages and events.
    timeout: seconds that the call may run before the worker stops it; None is without limit.
    priority: higher is sooner among waiting calls of an executor; equal ones go first in, first out.
    stdout, stderr: paths that the call's output is appended to; None leaves it where the worker's goes.
    cwd: directory that the call runs in, made if missing; None leaves the worker's.
    """

    name: str = "task"
    resources: Resources = field(default_factory=Resources)
    timeout: float | None = None
    priority: int = 0
    stdout: str | None = None
    stderr: str | None = None
    cwd: str | None = None


class Call(NamedTuple):
    """One attempt to run one function. ``id`` is unique in the run: a retry is a new call with a new id, and
    ``first`` is that of the first attempt, None if this is it.

    A named tuple, because a million of them wait at once and their making is on every task's path.
    """

    id: int
    function: Callable[..., Any]
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = {}
    options: CallOptions = CallOptions()
    first: int | None = None


class Outcome(NamedTuple):
    """What became of the call with the same id: a value, or an error.

    A :class:`LostError` says that the outcome is unknown, a :class:`concurrent.futures.CancelledError` that
    the call was cancelled and is not running.
    """

    id: int
    value: Any = None
    error: BaseException | None = None
