"""Calls that try to end the program."""

from __future__ import annotations

from ..errors import TaskExitError

__all__ = ["exit_error"]


def exit_error(error: BaseException, task: str) -> BaseException:
    """The error itself, unless it is one that would end the program: then a TaskExitError that has it as its
    cause.
    """
    if not isinstance(error, (SystemExit, KeyboardInterrupt)):
        return error
    did = f"called sys.exit({error.code!r})" if isinstance(error, SystemExit) else "raised KeyboardInterrupt"
    exited = TaskExitError(f"task {task!r} {did}")
    exited.__cause__ = error
    return exited
