"""``weft attach``: what comes of a run, in lines."""

from __future__ import annotations

import json
import queue
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

from weft_interfaces import Outcome

from ._attach import AttachedRun

__all__ = ["show_run"]

_LONGEST = 200  # characters of a value
_LOOK = 0.5  # seconds
_NO_NODES = 10.0  # seconds without a node, after which that is said


def show_run(directory: Path, *, as_json: bool, show: Callable[[list[str]], object]) -> bool:
    """Show the outcome of each task as it comes, and how many there were. Whether all went well.

    Raises as :func:`weft.attach` does. Ctrl-C leaves the run as it is.
    """
    outcomes: queue.SimpleQueue[Outcome] = queue.SimpleQueue()
    counts: Counter[str] = Counter()
    run = AttachedRun(directory, outcomes.put)

    def show_next(timeout: float) -> None:
        outcome = outcomes.get(timeout=timeout)
        counts[_state(outcome)] += 1
        name = run.names[outcome.id]
        show([json.dumps(_table(outcome, name)) if as_json else _line(outcome, name)])

    try:
        try:
            run.start()
        finally:
            while not outcomes.empty():
                show_next(0.0)
        _follow(run, counts, show_next)
    except KeyboardInterrupt:
        _say(f"run {run.id} goes on; `weft attach {run.id}` gets the rest")
        raise
    finally:
        run.close()
        for leftover in run.leftovers:
            _say(leftover)
    summary = {
        "tasks": len(run.futures),
        **{state: counts[state] for state in ("done", "failed", "cancelled")},
    }
    show([json.dumps(summary) if as_json else _summary(summary)])
    return counts["done"] == len(run.futures)


def _follow(run: AttachedRun, counts: Counter[str], show_next: Callable[[float], None]) -> None:
    without_since: float | None = None
    told = False
    while counts.total() < len(run.futures):
        try:
            show_next(_LOOK)
        except queue.Empty:
            now = time.monotonic()
            without_since = (without_since or now) if run.without_nodes else None
            if without_since is not None and now - without_since > _NO_NODES and not told:
                told = True
                left = len(run.futures) - counts.total()
                _say(f"{left} tasks wait, and no node is there that could run them: jobs wait, or have ended")


def _state(outcome: Outcome) -> str:
    if outcome.error is None:
        return "done"
    return "cancelled" if isinstance(outcome.error, CancelledError) else "failed"


def _line(outcome: Outcome, name: str) -> str:
    state = _state(outcome)
    words = {"done": _shown(outcome.value), "cancelled": ""}.get(state, _error(outcome.error))
    return f"task {outcome.id} {name}: {state} {words}".rstrip()


def _table(outcome: Outcome, name: str) -> dict[str, Any]:
    table: dict[str, Any] = {"task": outcome.id, "name": name, "state": _state(outcome)}
    if outcome.error is not None:
        table["error"] = {"type": type(outcome.error).__name__, "message": str(outcome.error)}
    elif _is_json(outcome.value):
        table["value"] = outcome.value
    else:
        table["repr"] = _shown(outcome.value)
    return table


def _is_json(value: Any) -> bool:
    try:
        return bool(json.loads(json.dumps(value)) == value)
    except Exception:  # noqa: BLE001  comparing arrays, for one
        return False


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except Exception as error:  # noqa: BLE001  a __repr__ of the user's may raise anything
        text = f"<{type(value).__name__}, whose repr raised {type(error).__name__}>"
    text = " ".join(text.split("\n"))
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _error(error: BaseException | None) -> str:
    return f"{type(error).__name__}: {error}"


def _summary(counts: dict[str, int]) -> str:
    parts = [f"{counts[state]} {state}" for state in ("done", "failed", "cancelled") if counts[state]]
    return f"{counts['tasks']} tasks: {', '.join(parts) or 'none'}"


def _say(line: str) -> None:
    print(f"weft: {line}", file=sys.stderr, flush=True)
