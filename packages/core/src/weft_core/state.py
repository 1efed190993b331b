"""The life of a task, as a table.

::

                     ┌────────────────────────── retry ──────────────────────────┐
                     v                                                           │
    submit ──> PENDING ──────────> LAUNCHED ──────────> JOINING ──> DONE         │
                  │  (dependencies)   │  (futures returned)  │                   │
                  │                   ├──> DONE              └─> FAILED          │
                  │                   ├──> RETRYING ── after its delay ──────────┘
                  │                   └──> FAILED
                  ├──> DEPENDENCY_FAILED
                  ├──> DONE, FAILED       (remembered, or given by an equal task)
                  └──> FAILED             (it could not be handed to any executor)

    gather ──> JOINING          CANCELLED from every state that is not final

Whether a launched task has begun is known to its executor, which is asked when somebody wants to know.
"""

from __future__ import annotations

import enum

__all__ = ["FINAL", "TRANSITIONS", "TaskState", "check"]


class TaskState(enum.IntEnum):
    """Where a task is."""

    PENDING = 0
    LAUNCHED = 1
    JOINING = 2
    RETRYING = 3
    DONE = 4
    FAILED = 5
    DEPENDENCY_FAILED = 6
    CANCELLED = 7


_S = TaskState

TRANSITIONS: dict[TaskState, dict[TaskState, str]] = {
    _S.PENDING: {
        _S.LAUNCHED: "all its dependencies are done: an executor has it",
        _S.JOINING: "it gathers futures, which is no work for an executor",
        _S.DEPENDENCY_FAILED: "one of its dependencies failed or was cancelled",
        _S.DONE: "its value was remembered, or an equal task gave it",
        _S.FAILED: "it could not be handed to any executor; or its error was remembered, or an equal task's",
        _S.CANCELLED: "cancelled before it was launched",
    },
    _S.LAUNCHED: {
        _S.DONE: "its executor reported a value",
        _S.JOINING: "its value holds futures",
        _S.RETRYING: "its try failed or was lost, and the retry policy gives it another",
        _S.FAILED: "its try failed or was lost, for good",
        _S.CANCELLED: "its executor confirmed that it does not run",
    },
    _S.RETRYING: {
        _S.PENDING: "the delay before its next try is over",
        _S.FAILED: "its run was left between two tries",
        _S.CANCELLED: "cancelled between two tries",
    },
    _S.JOINING: {
        _S.DONE: "the futures that it waits for are done",
        _S.FAILED: "one of them failed, or waits for this task",
        _S.CANCELLED: "cancelled, or one of them was",
    },
    _S.DONE: {},
    _S.FAILED: {},
    _S.DEPENDENCY_FAILED: {},
    _S.CANCELLED: {},
}

FINAL = frozenset(state for state, after in TRANSITIONS.items() if not after)

_ALLOWED = tuple(frozenset(TRANSITIONS[state]) for state in TaskState)


def check(old: TaskState, new: TaskState) -> bool:
    """Whether the table has this transition."""
    return new in _ALLOWED[old]
