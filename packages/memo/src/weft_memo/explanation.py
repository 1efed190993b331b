"""Says why a call was run again, or where the outcome that it got comes from."""

from __future__ import annotations

import difflib
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from weft_interfaces import MemoCall, MemoStore

from .difference import differences

__all__ = ["Change", "Explanation", "explain_hit", "explain_miss", "explain_shared"]

_DIFF_LINES = 60
_IN_A_REASON = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One thing that differs from an earlier call.

    what: ``"argument config"``, ``"helper app.norm"``, ``"package numpy"``, ``"policy"``. how: ``"changed"``,
    ``"added"`` or ``"removed"``. lines: what differs inside, in words. diff: the lines of a unified diff of
    the source, for code.
    """

    what: str
    how: str = "changed"
    lines: tuple[str, ...] = ()
    diff: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "\n".join(self.text())

    def text(self) -> list[str]:
        """The change in lines of text."""
        title = self.what if self.how == "changed" else f"{self.what}: {self.how}"
        inside = [*self.lines, *self.diff]
        if len(inside) == 1 and not self.diff:
            return [f"{title}: {inside[0]}"]
        if not inside:
            return [f"{title}: changed" if self.how == "changed" else title]
        return [f"{title}:", *(f"  {line}" for line in inside)]


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
    entry = store.nearest(call.task, call.components, before)
    if entry is None:
        summary = f"the first call of {call.task} that this store knows"
        return Explanation(outcome="miss", task=call.task, summary=summary)
    changes = tuple(_changes(store, entry.components, call.components))
    made = f"of run {entry.run or 'unknown'}, {_when(entry.time)}"
    if changes:
        summary = (
            f"{call.task} was not called like this before; since its nearest call, {made}, this differs:"
        )
    elif entry.key == call.key:
        summary = f"{call.task} is remembered by now: by run {entry.run or 'unknown'}, {_when(entry.time)}"
    else:
        summary = f"{call.task} differs from its nearest call, {made}, in nothing that was kept"
    return Explanation(
        outcome="miss", task=call.task, summary=summary, changes=changes, run=entry.run, time=entry.time
    )


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


# -- components ---------------------------------------------------------------------------------------------


def _changes(store: MemoStore, old: Mapping[str, bytes], new: Mapping[str, bytes]) -> Iterator[Change]:
    """What differs between two calls: the function first, then arguments and their classes."""
    names = [name for name in dict.fromkeys(("function", *new, *old)) if old.get(name) != new.get(name)]
    for name in names:
        before, after = old.get(name), new.get(name)
        texts = tuple(None if digest is None else store.description(digest) for digest in (before, after))
        kind, _, subject = name.partition(" ")
        if before is None or after is None:
            yield Change(what=name, how="added" if before is None else "removed")
        elif kind == "argument":
            yield Change(what=name, lines=tuple(_argument_lines(subject, *texts)))
        else:
            yield from _identity_changes(store, name, *texts)


def _argument_lines(name: str, old: str | None, new: str | None) -> list[str]:
    if old is None or new is None:
        return ["it differs; what it was is not kept"]
    return differences(old, new, name) or ["it differs in what its description does not show"]


def _identity_changes(store: MemoStore, name: str, old: str | None, new: str | None) -> Iterator[Change]:
    """What differs between two identities of a function, or of the class of an argument."""
    before, after = _table(old), _table(new)
    if before is None or after is None:
        yield Change(what=name, lines=("it changed; what it was is not kept",))
        return
    found = False
    for key in ("policy", "version"):
        if before.get(key) != after.get(key):
            found = True
            told = f"{before.get(key) or 'none'} -> {after.get(key) or 'none'}"
            yield Change(what=_titled(key, name), lines=(told,))
    old_parts, new_parts = _parts(before), _parts(after)
    for part in dict.fromkeys((*new_parts, *old_parts)):
        if old_parts.get(part) != new_parts.get(part):
            found = True
            yield _part_change(store, name, part, old_parts.get(part), new_parts.get(part))
    if not found:
        yield Change(what=name, lines=("it changed, in nothing that was kept",))


def _titled(part: str, component: str) -> str:
    """What is changed, and by what an argument leads to it, if that is not the function."""
    if component == "function":
        return part
    return (
        f"{part}, of which an argument is an instance"
        if part == component
        else f"{part}, through {component}"
    )


def _part_change(store: MemoStore, component: str, part: str, old: bytes | None, new: bytes | None) -> Change:
    kind, _, name = part.partition(" ")
    what = _titled(part, component)
    before, after = (None if digest is None else store.description(digest) for digest in (old, new))
    if old is None or new is None:
        text = after if old is None else before
        inside = () if text is None or kind != "package" else (text,)
        return Change(what=what, how="added" if old is None else "removed", lines=inside)
    if before is None or after is None:
        return Change(what=what, lines=("it changed; what it was is not kept",))
    if kind == "global":
        short = name.rpartition(".")[2]
        return Change(what=what, lines=tuple(differences(before, after, short)) or (_INVISIBLE,))
    if kind in ("package", "python"):
        return Change(what=what, lines=(f"{before} -> {after}" if before != after else _INVISIBLE,))
    diff = _diff(before, after, name)
    return Change(what=what, lines=() if diff else (_COMPILED,), diff=tuple(diff))


_INVISIBLE = "it differs in what its description does not show"
_COMPILED = "its source is the same, but not what Python makes of it"


def _diff(old: str, new: str, name: str) -> list[str]:
    lines = difflib.unified_diff(
        old.splitlines(), new.splitlines(), f"{name} (then)", f"{name} (now)", lineterm="", n=3
    )
    shown = list(lines)
    if len(shown) > _DIFF_LINES:
        return [*shown[:_DIFF_LINES], f"... and {len(shown) - _DIFF_LINES} more lines"]
    return shown


def _table(text: str | None) -> dict[str, Any] | None:
    try:
        table = json.loads(text or "")
    except (ValueError, RecursionError):
        return None
    return table if isinstance(table, dict) else None


def _parts(identity: Mapping[str, Any]) -> dict[str, bytes]:
    parts = identity.get("parts")
    found = {}
    for name, digest in parts.items() if isinstance(parts, dict) else ():
        try:
            found[str(name)] = bytes.fromhex(digest)
        except (TypeError, ValueError):
            continue
    return found
