"""Says why a call was run again, or where the outcome that it got comes from."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from weft_interfaces import MemoCall, MemoEntry, MemoStore

from .change import Change, compare_calls

__all__ = ["Explanation", "explain_hit", "explain_miss", "explain_shared"]

_IN_A_REASON = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Why a call was run, or was not.

    outcome: ``"miss"``, ``"hit"`` or ``"shared"``. task: its name. summary: one sentence. changes: of a miss,
    what differs from the nearest earlier call. run, time (seconds since the epoch): where and when that call,
    or of a hit the outcome, was made.
    """

    outcome: str
    task: str
    summary: str
    changes: tuple[Change, ...] = ()
    run: str = ""
    time: float = 0.0

    @property
    def reason(self) -> str:
        """What changed, without how: equal for calls that miss for one reason."""
        if not self.changes:
            return self.summary
        shown = [
            change.what if change.how == "changed" else f"{change.what} ({change.how})"
            for change in self.changes
        ]
        more = f" and {len(shown) - _IN_A_REASON} more" if len(shown) > _IN_A_REASON else ""
        return f"{', '.join(shown[:_IN_A_REASON])}{more}"

    def lines(self) -> list[str]:
        """The explanation in lines of text."""
        return [self.summary, *(f"  {line}" for change in self.changes for line in change.text())]

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def to_json(self) -> dict[str, Any]:
        """The explanation as plain data."""
        return {**asdict(self), "reason": self.reason}


def explain_miss(
    store: MemoStore, call: MemoCall, *, problem: str | None = None, before: float | None = None
) -> Explanation:
    """Why nothing was remembered of ``call``: what differs from the nearest earlier call of its task.

    problem: why the entry of this very call could not be read, if there was one. before: earlier than this,
    in seconds since the epoch: when the run began that asked, so that what it remembered itself does not
    count.
    Reads the store, and changes nothing; raises what its ``nearest`` and ``description`` raise.
    """
    if problem is not None:
        summary = f"{call.task} was remembered, but cannot be read any more: {problem}"
        return Explanation(outcome="miss", task=call.task, summary=summary)
    entry, same = _nearest(store, call, before)
    if entry is None:
        summary = f"the first call of {call.task} that this store knows"
        return Explanation(outcome="miss", task=call.task, summary=summary)
    changes = tuple(compare_calls(store, entry.components, call.components))
    made = f"run {entry.run or 'unknown'}, {_when(entry.time)}"
    if changes and same:
        summary = f"{call.task} was called with the same arguments by {made}; since then this changed:"
    elif changes:
        summary = f"{call.task} was not called like this before; from its nearest call, by {made}, differs:"
    elif entry.key == call.key:
        summary = f"{call.task} is remembered by now: by {made}"
    else:
        summary = f"{call.task} differs from its nearest call, by {made}, in nothing that was kept"
    return Explanation(
        outcome="miss", task=call.task, summary=summary, changes=changes, run=entry.run, time=entry.time
    )


def _nearest(store: MemoStore, call: MemoCall, before: float | None) -> tuple[MemoEntry | None, bool]:
    """The entry that a call is compared with, and whether it has the same arguments: such a one says most,
    even where others share more.
    """
    arguments = _arguments(call.components)
    entry = store.nearest(call.task, arguments, before)
    if entry is None or _arguments(entry.components) == arguments:
        return entry, True
    return store.nearest(call.task, call.components, before), False


def _arguments(components: Mapping[str, bytes]) -> dict[str, bytes]:
    return {name: digest for name, digest in components.items() if name.startswith("argument ")}


def explain_hit(task: str, run: str, made: float) -> Explanation:
    """Where the outcome of a call that was not run comes from: ``run``, at ``made`` (seconds since the
    epoch).
    """
    summary = f"{task} was remembered: run {run or 'unknown'} computed it, {_when(made)}"
    return Explanation(outcome="hit", task=task, summary=summary, run=run, time=made)


def explain_shared(task: str, leader: int | None) -> Explanation:
    """Whose outcome a call got that was equal to one in flight."""
    summary = f"{task} was in flight already: it got the outcome of task {leader} of the same run"
    return Explanation(outcome="shared", task=task, summary=summary)


def _when(moment: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment)) if moment else "at a time unknown"
