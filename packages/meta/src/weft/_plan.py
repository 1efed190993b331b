"""``weft plan``: what a script would run, and what is remembered."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from weft_interfaces import MemoCall, MemoEntry, MemoStore, NullMemoStore, adopt_worker
from weft_memo import Explanation, Memo, Overlay, describe_call, explain_hit, explain_miss, open_store

from ._config import Config
from ._planned import Plan, PlanKernel, PlannedCall, PlanWorker
from ._run import RESOLVERS, close_default_run
from ._script import run_script
from ._settings import set_planner

__all__ = ["plan_script", "show_plan", "to_json"]

_EACH = 30  # calls that are shown one by one
_TASKS = 5
_WIDTH = max(map(len, ("unknown", "shared")))
_COUNTED = {"hit": ("hit", "hits"), "miss": ("miss", "misses"), "unknown": ("unknown", "unknown")}
_COUNTED_IF_ANY = {
    "shared": ("shared", "shared"),
    "runs": ("not memoized", "not memoized"),
    "fails": ("fails", "fail"),
}


class PlanMemory:
    """What is remembered, for a plan: looked up in a store that is not written to, and explained."""

    def __init__(self, memo: Memo, run_id: str, directory: Path) -> None:
        self._memoizer = memo.open(run_id, directory)  # which opens the store when it is first asked: never
        self._memo = memo
        self._store: Overlay | None = None
        self.every = memo.every
        self.identify = self._memoizer.identify

    def recall(self, call: MemoCall) -> tuple[MemoEntry | None, Explanation]:
        """The entry of a call, if there is one, and where it comes from, or why there is none: also because
        the store does not work, as in a run.
        """
        try:
            return self._looked_up(call)
        except Exception as error:  # noqa: BLE001  whatever a store raises is a miss
            summary = f"the memo store does not work: {error}"
            return None, Explanation(outcome="miss", task=call.task, summary=summary)

    def _looked_up(self, call: MemoCall) -> tuple[MemoEntry | None, Explanation]:
        if self._store is None:
            self._store = Overlay(_existing(self._memo))
        entry = self._store.get(call.key)
        if entry is not None:
            return entry, explain_hit(call.task, entry.run, entry.time)
        self._store.describe(describe_call(call))
        return None, explain_miss(self._store, call, problem=self._store.problem(call.key))

    def close(self) -> None:
        """Close the store, if it was opened for the plan."""
        if self._store is not None and isinstance(self._memo.store, (str, os.PathLike)):
            self._store.close()
        self._store = None


def _existing(memo: Memo) -> MemoStore:
    """The store, or an empty one in the place of one that would be made."""
    if not isinstance(memo.store, (str, os.PathLike)):
        return memo.store
    if "://" not in memo.place and not os.path.exists(memo.place):
        return NullMemoStore()
    return open_store(memo.place)  # without its limits: a plan removes nothing


def plan_script(script: Path, arguments: Sequence[str]) -> tuple[Plan, int]:
    """Run a script without running its tasks. Returns the plan, and the exit status of the script: 1 if it
    raised an exception, which is shown on stderr.

    What the script prints goes to stderr. No executor is started, and no file is written but by the script
    itself.
    """
    plan = Plan()

    def make(config: Config, run_id: str) -> PlanKernel:
        resolver = RESOLVERS[config.resolver] if isinstance(config.resolver, str) else config.resolver
        return PlanKernel(config.make_executors, plan, _memory(config, run_id), resolver, run_id)

    set_planner(make)
    adopt_worker(PlanWorker(plan))
    logging.getLogger("asyncio").addFilter(_is_no_end)  # for good: it speaks up when it throws tasks away
    try:
        with contextlib.redirect_stdout(sys.stderr):
            status = run_script(script, arguments, close_default_run)
    finally:
        adopt_worker(None)
        set_planner(None)
    return plan, status


def _is_no_end(record: logging.LogRecord) -> bool:
    """Whether a log record is of more than a coroutine in which the plan ended."""
    return not (record.exc_info and isinstance(record.exc_info[1], SystemExit))


def _memory(config: Config, run_id: str) -> PlanMemory | None:
    memo = config.memo
    return (
        PlanMemory(memo, run_id, Path(config.run_dir).absolute() / run_id) if isinstance(memo, Memo) else None
    )


# -- what is shown ------------------------------------------------------------------------------------------


def show_plan(plan: Plan) -> Iterator[str]:
    """The plan in lines of text: each call, or where there are many, each kind of call."""
    groups: dict[tuple[Any, ...], list[PlannedCall]] = {}
    for call in plan.calls:
        key = (
            (call.task,) if len(plan.calls) <= _EACH else (call.name, call.outcome, call.group or call.reason)
        )
        groups.setdefault(key, []).append(call)
    explained: set[tuple[str, ...]] = set()
    for calls in groups.values():
        yield from _shown(calls, explained)
    if plan.ended:
        yield f"{plan.ended}: the plan ends there"
    yield summary(plan)


def _shown(calls: Sequence[PlannedCall], explained: set[tuple[str, ...]]) -> Iterator[str]:
    """Calls of one kind, with an explanation unless it was given before."""
    first = calls[0]
    if len(calls) == 1:
        who, why = f"task {first.task} ({first.name})", first.reason
    else:
        tasks = ", ".join(str(call.task) for call in calls[:_TASKS])
        more = ", ..." if len(calls) > _TASKS else ""
        who, why = f"{len(calls)} x {first.name} (tasks {tasks}{more})", first.group or first.reason
    lines: tuple[str, ...] = ()
    if first.outcome == "miss" and first.explanation is not None and first.explanation.changes:
        lines = tuple(first.explanation.lines())
    yield f"{first.outcome:{_WIDTH}}  {who}: {why}{', as above' if lines in explained else ''}"
    if lines and lines not in explained:
        explained.add(lines)
        for_example = f" (of task {first.task})" if len(calls) > 1 else ""
        yield f"{'':{_WIDTH}}    {lines[0]}{for_example}"
        yield from (f"{'':{_WIDTH}}    {line}" for line in lines[1:])


def summary(plan: Plan) -> str:
    """``12 hits, 3 misses, 5 unknown``."""
    counts = Counter(call.outcome for call in plan.calls)
    parts = [f"{counts[outcome]} {forms[counts[outcome] != 1]}" for outcome, forms in _COUNTED.items()]
    parts += [
        f"{counts[outcome]} {forms[counts[outcome] != 1]}"
        for outcome, forms in _COUNTED_IF_ANY.items()
        if counts[outcome]
    ]
    return ", ".join(parts)


def to_json(plan: Plan) -> dict[str, Any]:
    """The plan as plain data."""
    calls = [
        {
            "task": call.task,
            "name": call.name,
            "outcome": call.outcome,
            "reason": call.reason,
            "explanation": None if call.explanation is None else call.explanation.to_json(),
        }
        for call in plan.calls
    ]
    counts = Counter(call.outcome for call in plan.calls)
    return {"calls": calls, "counts": dict(counts), "ended": plan.ended or None}
