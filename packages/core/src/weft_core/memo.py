"""Equal calls: those in flight, and what a memoizer remembers of earlier ones.

::

    ready ──> identify ──┬─ one is in flight: follow it ──> its value or error; if it was cancelled, again
                         └─ lead ──> recall ──┬─ remembered: done, without an executor
                                              └─ launched ──> remember ──> followers are told

A task leads from before the store is asked until it is finished, its retries included, and what it gave is
remembered before that: there is no gap in which an equal call would run again.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any

from ._interfaces import (
    DependencyError,
    InputError,
    InternalError,
    LostError,
    MemoCall,
    MemoEntry,
    MemoOptions,
    TaskExitError,
    TaskTimeoutError,
    TransientError,
)
from .failure import safe_repr
from .state import TaskState

if TYPE_CHECKING:
    from ._interfaces import Memoizer
    from .task import Task, TaskSpec

__all__ = ["Flight", "Lookup", "Memory", "followed_by", "followers_of"]

_log = logging.getLogger("weft")
_DEFAULT = MemoOptions()

# What says nothing about what the function does with these arguments: the place where it ran may be to blame,
# or the way it was called, or what it needed. Another time all this may go well.
_NOT_ITS_OWN = (
    CancelledError,
    DependencyError,
    InputError,
    InternalError,
    LostError,
    MemoryError,
    TaskExitError,
    TaskTimeoutError,
    TransientError,
)


class Flight:
    """Equal tasks that are not finished: the one that leads, and those that follow it."""

    __slots__ = ("followers", "leader")

    def __init__(self, leader: Task) -> None:
        self.leader = leader
        self.followers: list[Task] = []  # those that were cancelled meanwhile too


class Lookup:
    """A task's call, as the memoizer knows it, and the flight that it is in, from when it was looked for."""

    __slots__ = ("call", "errors", "flight")

    def __init__(self, call: MemoCall, errors: bool) -> None:
        self.call = call
        self.errors = errors
        self.flight: Flight | None = None


class Memory:
    """Asks a memoizer, which may raise anything, and keeps what is in flight.

    ``enter`` and ``leave`` are called with the kernel's lock held, all else without it.
    """

    def __init__(self, memoizer: Memoizer) -> None:
        self._memoizer = memoizer
        self._every = memoizer.every
        self._flights: dict[bytes, Flight] = {}
        self._said: set[str] = set()
        self._closing: threading.Thread | None = None
        self._problem: str | None = None

    def options(self, spec: TaskSpec) -> MemoOptions | None:
        """How calls of a task are remembered; None if they are not."""
        if spec.memo is None:
            return _DEFAULT if self._every else None
        return spec.memo or None

    def identify(self, task: Task, options: MemoOptions) -> Lookup:
        """The call of a task whose arguments are values. Raises what the memoizer raises."""
        call: Any = self._memoizer.identify(task.spec.function, task.args, task.kwargs, options)
        if not isinstance(call, MemoCall) or not isinstance(call.key, bytes):
            raise TypeError(f"a memoizer must identify a call as a MemoCall, not {safe_repr(call)}")
        return Lookup(call, options.errors)

    def enter(self, task: Task, lookup: Lookup) -> bool:
        """Put a task among the equal ones. Whether it leads them: else it follows."""
        flight = lookup.flight
        if flight is None:
            flight = lookup.flight = self._flights.get(lookup.call.key) or Flight(task)
        if flight.leader is not task:
            flight.followers.append(task)
            return False
        self._flights[lookup.call.key] = flight
        return True

    def leave(self, task: Task, cancelled: bool) -> Sequence[Task]:
        """The task is finished. Those that followed it; if it was cancelled, the one that leads now."""
        lookup, task.memo = task.memo, None
        flight = None if lookup is None else lookup.flight
        if lookup is None or flight is None or flight.leader is not task:
            return ()
        followers = flight.followers
        while cancelled and followers:
            follower = followers.pop(0)
            if follower.state is TaskState.PENDING:
                flight.leader = follower
                return (follower,)
        del self._flights[lookup.call.key]
        return followers

    def recall(self, task: Task, lookup: Lookup) -> MemoEntry | None:
        """What an earlier equal call gave; a memoizer that breaks has nothing."""
        try:
            entry = self._memoizer.recall(lookup.call, task.id)
            if entry is None or (entry.error is not None and not lookup.errors):
                return None
            if not isinstance(entry, MemoEntry):
                raise TypeError(f"a memoizer must recall a MemoEntry, not {safe_repr(entry)}")
        except Exception:  # noqa: BLE001  whatever a memoizer raises is a miss
            self._say("recall")
            return None
        return entry

    def share(self, task: Task, lookup: Lookup, leader_id: int) -> None:
        """Note that a task got what another gave."""
        try:
            if self._closing is None:
                self._memoizer.share(lookup.call, task.id, leader_id)
        except Exception:  # noqa: BLE001  a note that is lost must not cost the task
            self._say("share")

    def remember(self, lookup: Lookup, value: Any, error: BaseException | None) -> None:
        """Keep what a call gave, if it is to be kept."""
        if error is not None and not (lookup.errors and _is_its_own(error)):
            return
        try:
            if self._closing is None:
                self._memoizer.remember(lookup.call, value, error)
        except Exception:  # noqa: BLE001  what is not remembered is computed again
            self._say("remember")

    def close(self, timeout: float) -> list[str]:
        """Have the memoizer keep what it was given. Returns what is left after ``timeout`` seconds."""
        if self._closing is None:
            self._closing = threading.Thread(target=self._close, name="weft-memo-close", daemon=True)
            try:
                self._closing.start()
            except RuntimeError:  # the interpreter is ending and starts no threads
                self._close()
        if self._closing.ident is not None:
            self._closing.join(timeout)
        if self._closing.is_alive():
            return [f"the memoizer still writes what it remembers after {timeout:.0f} s"]
        return [] if self._problem is None else [self._problem]

    def _close(self) -> None:
        try:
            self._memoizer.close()
        except BaseException as error:  # noqa: BLE001  it is said in words
            self._problem = f"the memoizer: its close raised {safe_repr(error)}"

    def _say(self, method: str) -> None:
        if method not in self._said:
            self._said.add(method)
            _log.exception("the memoizer's %s raised, which it must not; said once", method)


def followed_by(task: Task) -> Task | None:
    """The equal task that leads this one."""
    lookup = task.memo
    flight = None if lookup is None else lookup.flight
    return None if flight is None or flight.leader is task else flight.leader


def followers_of(task: Task) -> Sequence[Task]:
    """The equal tasks that this one leads."""
    lookup = task.memo
    flight = None if lookup is None else lookup.flight
    return () if flight is None or flight.leader is not task else tuple(flight.followers)


def _is_its_own(error: BaseException) -> bool:
    """Whether an error is what the function itself raised, and would raise again."""
    return isinstance(error, Exception) and not isinstance(error, _NOT_ITS_OWN)
