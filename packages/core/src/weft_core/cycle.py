"""Finds tasks that would wait for themselves.

Arguments can make no cycle: a task's dependencies are there before it. Three things can: a join task that
returns a future, a running task that blocks on one, and a task that follows an equal one. Then there is a way
from the task that waits, over those who wait for it, to what it waits for. It is searched from both ends at
once, which costs no more than twice the smaller side: a loop of joins has all its turns on one side and next
to nothing on the other.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any

from ._interfaces import CycleError
from .failure import shortened
from .future import Future, Waiter
from .memo import followers_of
from .task import Task

__all__ = ["cycle_error", "find_cycle"]


def find_cycle(task: Task, awaited: Collection[Task]) -> list[Task] | None:
    """The tasks from ``task`` to one of ``awaited``, each waiting for the one before; None if none does."""
    up, down = _Search(awaited, _awaited_by), _Search((task,), _dependents_of)
    while True:
        current = up.step()
        if current is None:
            return None
        if current is task:
            return up.path_from(task)
        current = down.step()
        if current is None:
            return None
        if current in awaited:
            return down.path_from(current)[::-1]


class _Search:
    """Walks from some tasks to all that can be reached, one at a time."""

    def __init__(self, roots: Iterable[Task], neighbours: Callable[[Task], Iterable[Task]]) -> None:
        self._neighbours = neighbours
        self._came_from: dict[Task, Task | None] = dict.fromkeys(roots)
        self._waiting = list(self._came_from)

    def step(self) -> Task | None:
        """The next task; None when all were seen."""
        if not self._waiting:
            return None
        current = self._waiting.pop()
        for neighbour in self._neighbours(current):
            if neighbour not in self._came_from:
                self._came_from[neighbour] = current
                self._waiting.append(neighbour)
        return current

    def path_from(self, task: Task) -> list[Task]:
        """The tasks from one that was seen to a root."""
        path, step = [task], self._came_from[task]
        while step is not None:
            path.append(step)
            step = self._came_from[step]
        return path


def _dependents_of(task: Task) -> Iterable[Task]:
    yield from followers_of(task)
    for subscriber in task.future.subscribers():
        dependent = subscriber.task if type(subscriber) is Waiter else subscriber
        if type(dependent) is Task:
            yield dependent


def _awaited_by(task: Task) -> Iterable[Task]:
    futures: Iterable[Any] = task.owner.awaited_by(task)
    for future in futures:
        awaited = future._task if isinstance(future, Future) else None
        if awaited is not None:
            yield awaited


def cycle_error(path: list[Task]) -> CycleError:
    """What to tell the user."""
    chain, hidden = shortened([str(task) for task in [*path, path[0]][::-1]])
    if hidden:
        chain.insert(len(chain) // 2, f"({hidden} more)")
    names = " for ".join(chain)
    return CycleError(
        f"a task would wait for itself: {names}; return or wait for something that does not need it"
    )
