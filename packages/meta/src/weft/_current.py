"""Which run a call goes to.

A ``with`` block sets the run of its context: its thread, its asyncio tasks, and the tasks that the run
executes in threads. Code that is in no such context (a thread that the user started) uses the innermost run
that is open; when two runs are open neither of which was opened inside the other, it has to say which. With
no run open the default run is started.
"""

from __future__ import annotations

import os
import threading
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._run import Run

__all__ = ["close_run", "current_run", "find_run", "open_run", "opened_runs", "variable"]

variable: ContextVar[Run | None] = ContextVar("weft_run", default=None)
_lock = threading.Lock()
_open: list[Run] = []
_sole: Run | None = None


def open_run(run: Run) -> None:
    """From now on code in no context of a run may find this one."""
    with _lock:
        _open.append(run)
        _choose()


def close_run(run: Run) -> None:
    """Nobody finds it any more; closing twice does nothing."""
    with _lock:
        if run in _open:
            _open.remove(run)
        _choose()


def opened_runs() -> list[Run]:
    """Those that are open, the latest last."""
    with _lock:
        return list(_open)


def current_run() -> Run | None:
    """The run that a call made here would go to; None if there is none yet, or if that is not decided."""
    return variable.get() or _sole


def find_run(name: str, start_default: Callable[[], Run]) -> Run:
    """The run for a call of task ``name``; starts the default run if there is none.

    Raises :class:`InputError` in a worker process, where there is no run, and where it is not decided which
    run is meant.
    """
    _refuse_in_worker(name)
    run = current_run()
    if run is not None:
        return run
    if _open:
        from weft_interfaces import InputError

        raise InputError(
            f"{name}: {len(_open)} runs are open ({', '.join(run.id for run in _open)}), and this thread is "
            "in none of their `with` blocks: enter `with run.use():` in it, with the run that is meant"
        )
    return start_default()


def _refuse_in_worker(name: str) -> None:
    from weft_interfaces import InputError, current_worker

    worker = current_worker()
    if worker is not None and not worker.in_process:
        inside = f" inside task {worker.call.options.name!r}" if worker.call else ""
        raise InputError(
            f"{name} was called{inside} in a worker process, where there is no run: call "
            f"{name}.function(...) to compute it there, or make the caller a @weft.join task, which runs "
            "where the run is"
        )


def _choose() -> None:
    """Find the one run that no other open run was opened inside of."""
    global _sole
    parents = {id(run.parent) for run in _open}
    innermost = [run for run in _open if id(run) not in parents]
    if len(innermost) > 1:
        innermost = [run for run in innermost if not run.is_default]
    _sole = innermost[0] if len(innermost) == 1 else None


def _forget() -> None:
    """In a forked child the runs are those of the parent."""
    global _lock, _sole
    _lock = threading.Lock()
    _open.clear()
    _sole = None
    variable.set(None)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
