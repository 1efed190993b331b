"""Finds tasks that would wait for themselves.

Arguments can make no cycle: a task's dependencies are there before it. Two things can: a join task that
returns a future, and a running task that blocks on one. Both walk downstream from the task that waits, over
those who wait for it.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from ._interfaces import CycleError
from .future import Waiter
from .task import Task

__all__ = ["cycle_error", "path_downstream"]


def path_downstream(task: Task, targets: Collection[Any]) -> list[Task] | None:
    """The tasks from ``task`` to one of ``targets``, each waiting for the one before it; None if none of
    these does.
    """
    came_from: dict[Task, Task | None] = {task: None}
    waiting = [task]
    while waiting:
        current = waiting.pop()
        if current in targets:
            return _walk_back(current, came_from)
        for subscriber in current.future.subscribers():
            dependent = subscriber.task if type(subscriber) is Waiter else subscriber
            if type(dependent) is Task and dependent not in came_from:
                came_from[dependent] = current
                waiting.append(dependent)
    return None


def cycle_error(path: list[Task]) -> CycleError:
    """What to tell the user."""
    names = " for ".join(str(task) for task in [*path, path[0]][::-1])
    return CycleError(
        f"a task would wait for itself: {names}; return or wait for something that does not need it"
    )


def _walk_back(task: Task | None, came_from: dict[Task, Task | None]) -> list[Task]:
    path: list[Task] = []
    while task is not None:
        path.append(task)
        task = came_from[task]
    return path[::-1]
