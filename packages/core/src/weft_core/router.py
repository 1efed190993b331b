"""Chooses the executor of a task that is ready."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping

from ._interfaces import ConfigError, Executor, ResourcesError
from .task import TaskSpec

__all__ = ["Route", "Router"]


_REMEMBERED = 4_096  # specs: a script may make a new one for each call


class Route:
    """The executors that may run the tasks of one spec, and what else need not be found out for each task."""

    __slots__ = ("executors", "only", "templated")

    def __init__(self, executors: tuple[Executor, ...], spec: TaskSpec) -> None:
        self.executors = executors
        self.only = executors[0] if len(executors) == 1 else None
        options = spec.options
        self.templated = any("{" in path for path in (options.stdout, options.stderr, options.cwd) if path)

    def choose(self) -> Executor:
        """The executor that is likely to start one more task soonest, by its load now."""
        return self.only or min(self.executors, key=_crowd)

    def others(self, executor: Executor) -> bool:
        """Whether another one has workers, or will have."""
        return any(_will_work(each) for each in self.executors if each is not executor)


class Router:
    """Knows the executors of a run; asks each once whether it can run the tasks of a spec."""

    def __init__(self, executors: Mapping[str, Executor], helper: Executor | None) -> None:
        self._executors = executors
        self._helper = helper
        self._routes: dict[TaskSpec, Route] = {}

    def route(self, spec: TaskSpec) -> Route:
        """Raises :class:`ConfigError` for an unknown label, :class:`ResourcesError` when no executor can ever
        run it.
        """
        route = self._routes.get(spec)
        if route is None:
            if len(self._routes) >= _REMEMBERED:
                self._routes.clear()
            route = self._routes[spec] = Route(
                self._join_executors(spec) if spec.join else self._allowed(spec), spec
            )
        return route

    def _join_executors(self, spec: TaskSpec) -> tuple[Executor, ...]:
        if self._helper is not None:
            return (self._helper,)
        for executor in self._executors.values():
            if executor.in_process:
                return (executor,)
        raise ConfigError(
            f"the join task {spec.options.name!r} needs an executor that runs in this process; "
            f"the run has {_listed(self._executors)}: add one, such as threads, or give the kernel a helper"
        )

    def _allowed(self, spec: TaskSpec) -> tuple[Executor, ...]:
        labels = self._executors if spec.executors is None else spec.executors
        candidates = [self._named(label, spec) for label in labels]
        refusals = {executor.label: executor.refusal(spec.options.resources) for executor in candidates}
        allowed = tuple(executor for executor in candidates if refusals[executor.label] is None)
        if not allowed:
            reasons = "; ".join(str(refusal) for refusal in refusals.values()) or "the run has no executors"
            raise ResourcesError(
                f"task {spec.options.name!r} ({spec.options.resources}) fits no executor that it may use: "
                f"{reasons}"
            )
        return allowed

    def _named(self, label: str, spec: TaskSpec) -> Executor:
        executor = self._executors.get(label)
        if executor is None:
            close = difflib.get_close_matches(label, self._executors, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise ConfigError(
                f"task {spec.options.name!r}: executor {label!r} is not in this run, which has "
                f"{_listed(self._executors)}{hint}",
                "executor",
            )
        return executor


def _listed(executors: Mapping[str, Executor]) -> str:
    return ", ".join(repr(label) for label in executors) or "none"


def _crowd(executor: Executor) -> tuple[float, float]:
    """How crowded an executor is: calls for each slot. One without workers yet comes after any with a free
    slot, one that will have none comes last.
    """
    load = executor.load()
    calls = load.queued + load.running
    if load.slots:
        return calls / load.slots, -load.slots
    if not load.max_slots:
        return math.inf, 0.0
    return (calls + 1) / load.max_slots + 1.0, 0.0


def _will_work(executor: Executor) -> bool:
    load = executor.load()
    return bool(load.slots or load.max_slots)
