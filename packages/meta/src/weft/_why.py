"""``weft why``: why a task of a run was run again, or where its outcome came from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import weft_memo
from weft_interfaces import InputError, MemoCall, MemoStore
from weft_memo import (
    Explanation,
    Lookup,
    RunRecord,
    explain_hit,
    explain_miss,
    explain_shared,
    read_record,
)
from weft_memo.log import LOG_NAME

from ._hint import did_you_mean

__all__ = ["Answer", "answer", "find_record", "open_store"]

_EXPLAINED = 50  # misses of one name that are looked at, evenly over the run
_REASONS = 10
_TASKS = 5
_LISTED = 8

OpenStore = Callable[[], MemoStore]


# -- the run ------------------------------------------------------------------------------------------------


def find_record(run: str, run_dir: Path) -> RunRecord:
    """The record of a run: by its id, the beginning of it, the path of its directory or record, or ``last``.

    Raises :class:`InputError`, which says what runs there are.
    """
    path = Path(run)
    if path.is_file():
        return read_record(path)
    records = sorted(run_dir.glob(f"*/{LOG_NAME}"))
    if run == "last":
        if not records:
            raise InputError(f"{run_dir}: no run in here looked anything up (--run-dir says where runs are)")
        return max(map(read_record, records), key=lambda record: record.time)
    for directory in (path, run_dir / run):
        if (directory / LOG_NAME).is_file():
            return read_record(directory / LOG_NAME)
        if directory.is_dir():
            raise InputError(f"{directory} has no {LOG_NAME}: no task of this run was looked up")
    names = [record.parent.name for record in records]
    found = [name for name in names if name.startswith(run)]
    if len(found) == 1:
        return read_record(run_dir / found[0] / LOG_NAME)
    if found:
        raise InputError(f"{len(found)} runs begin with {run!r}: {_listed(found)}")
    known = f"; there are {_listed(names[::-1])}" if names else "; there are none"
    raise InputError(f"{run_dir}: no run {run!r} looked anything up{did_you_mean(run, names)}{known}")


def open_store(where: str) -> MemoStore:
    """The store that a record names: a folder, or a URL.

    Raises :class:`InputError` when it is not there, and what opening it raises.
    """
    if "://" not in where and (not where or not Path(where).exists()):
        raise InputError(f"the memo store {where or 'of the run'} is not there; --store says where it is now")
    return weft_memo.open_store(where)


# -- the task -----------------------------------------------------------------------------------------------


@dataclass
class Reason:
    """Calls that were run, or not, for one reason; the explanation is that of the first."""

    explanation: Explanation
    tasks: list[int] = field(default_factory=list)
    count: int = 0


@dataclass
class Answer:
    """What is known of a task, or of all calls of one name."""

    name: str
    counts: Counter[str] = field(default_factory=Counter)
    reasons: dict[str, Reason] = field(default_factory=dict)
    unexplained: int = 0
    single: bool = False

    def lines(self) -> Iterator[str]:
        """The answer in lines of text."""
        if self.single:
            for reason in self.reasons.values():
                yield f"task {reason.tasks[0]}: {reason.explanation.outcome}"
                yield from reason.explanation.lines()
            return
        yield f"{self.name}: " + ", ".join(f"{count} {what}" for what, count in self._counted())
        for text, reason in list(self.reasons.items())[:_REASONS]:
            tasks = ", ".join(map(str, reason.tasks)) + (", ..." if reason.count > len(reason.tasks) else "")
            yield f"{reason.count} {_plural(reason)} (task {tasks}): {text}"
            if reason.explanation.changes:
                yield from (f"  {line}" for line in reason.explanation.lines())
        if len(self.reasons) > _REASONS:
            yield f"and {len(self.reasons) - _REASONS} more reasons"
        if self.unexplained:
            yield f"and {self.unexplained} more misses, which were not looked at"

    def _counted(self) -> Iterator[tuple[str, int]]:
        forms = {"hit": ("hit", "hits"), "miss": ("miss", "misses"), "shared": ("shared", "shared")}
        for outcome, (one, many) in forms.items():
            count = self.counts[outcome]
            if count:
                yield one if count == 1 else many, count

    def to_json(self) -> dict[str, Any]:
        """The answer as plain data."""
        reasons = [
            {
                "reason": text,
                "count": reason.count,
                "tasks": reason.tasks,
                "explanation": reason.explanation.to_json(),
            }
            for text, reason in self.reasons.items()
        ]
        return {
            "name": self.name,
            "counts": dict(self.counts),
            "reasons": reasons,
            "unexplained": self.unexplained,
        }


def answer(record: RunRecord, task: str, open_it: OpenStore) -> Answer:
    """What happened to a task of the run: by its id, or all of one name.

    The store is opened when a miss is to be explained. Raises :class:`InputError` for a task that the run
    does not have, and says which it has; and what ``open_it`` raises.
    """
    names, last, misses, found = set(), 0, 0, None
    for lookup in record:
        names.add(lookup.name)
        last = max(last, lookup.task)
        if _is_meant(lookup, task):
            found = lookup.name
            misses += lookup.outcome == "miss"
    if found is None:
        raise InputError(_unknown(record, task, sorted(names), last))
    answered = Answer(found, single=task.isdigit())
    store = _Lazy(open_it)
    try:
        for lookup in record:
            if _is_meant(lookup, task):
                _add(answered, lookup, record, store, step=-(-misses // _EXPLAINED))
    finally:
        store.close()
    return answered


def _is_meant(lookup: Lookup, task: str) -> bool:
    if task.isdigit():
        return lookup.task == int(task)
    return task in (lookup.name, lookup.name.rpartition(".")[2])


def _add(answered: Answer, lookup: Lookup, record: RunRecord, store: _Lazy, step: int) -> None:
    """Count a lookup, and explain it; of misses every one in ``step``, as each has the store searched."""
    answered.counts[lookup.outcome] += 1
    if lookup.outcome == "miss" and (answered.counts["miss"] - 1) % step:
        answered.unexplained += 1
        return
    explanation = _explained(lookup, record, store)
    text = {
        "miss": explanation.reason,
        "hit": f"computed by run {lookup.run}"
        if lookup.run != record.run
        else "computed earlier in this run",
        "shared": "got the outcome of an equal call that was in flight",
    }[lookup.outcome]
    reason = answered.reasons.setdefault(text, Reason(explanation))
    reason.count += 1
    if len(reason.tasks) < _TASKS:
        reason.tasks.append(lookup.task)


def _explained(lookup: Lookup, record: RunRecord, store: _Lazy) -> Explanation:
    if lookup.outcome == "hit":
        return explain_hit(lookup.name, lookup.run, lookup.made)
    if lookup.outcome == "shared":
        return explain_shared(lookup.name, lookup.leader)
    call = MemoCall(lookup.key, lookup.name, lookup.components)
    return explain_miss(store.opened(), call, problem=lookup.problem, before=record.time)


class _Lazy:
    """A store that is opened when it is first needed."""

    def __init__(self, open_it: OpenStore) -> None:
        self._open = open_it
        self._store: MemoStore | None = None

    def opened(self) -> MemoStore:
        if self._store is None:
            self._store = self._open()
        return self._store

    def close(self) -> None:
        if self._store is not None:
            self._store.close()


def _unknown(record: RunRecord, task: str, names: list[str], ids: int) -> str:
    if not names:
        return f"run {record.run} looked up no task"
    if task.isdigit():
        return (
            f"run {record.run} did not look up task {task}: it has none with this id, or that one is not "
            f"memoized; the last that it looked up is {ids}"
        )
    short = [name.rpartition(".")[2] for name in names]
    return (
        f"run {record.run} looked up no task {task!r}{did_you_mean(task, [*short, *names])}; "
        f"it looked up {_listed(names)}"
    )


def _listed(names: list[str]) -> str:
    more = f", and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"{', '.join(names[:_LISTED])}{more}"


def _plural(reason: Reason) -> str:
    outcome = reason.explanation.outcome
    return {"miss": "misses", "hit": "hits"}.get(outcome, outcome) if reason.count > 1 else outcome
