"""Puts what went wrong into words: why a task was not run, and how often it was lost."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import CancelledError
from typing import Any

from ._interfaces import DeathCertificate, DependencyError, LostError

__all__ = ["dependency_error", "lost_error"]

# Tasks shown at each end of a long chain: one of a million tasks must not make a million long texts.
_SHOWN = 3


def dependency_error(task: object, dependency: Any, error: BaseException) -> DependencyError:
    """Why ``task`` is not run: ``dependency`` (a future) failed with ``error``, or was itself not run.

    The chain goes from the task to the one that failed, and the cause is that one's error.
    """
    name = _name(dependency)
    if isinstance(error, DependencyError):
        root, between = error.__cause__ or error, error.chain[1:]
        hidden = int(getattr(error, "hidden", 0))
    else:
        root, between, hidden = error, (name,), 0
        if not isinstance(error, CancelledError):
            between = (f"{name} failed",)
    chain = [str(task), *([name] if isinstance(error, DependencyError) else []), *between]
    chain, hidden = _shortened(chain, hidden)
    what = "was cancelled" if isinstance(root, CancelledError) else f"{type(root).__name__}: {root}"
    result = DependencyError(f"{task} was not run: {_arrow(chain, hidden)}: {what}", chain)
    result.hidden = hidden  # type: ignore[attr-defined]
    result.__cause__ = root
    return result


def lost_error(error: LostError, certificates: Sequence[DeathCertificate]) -> LostError:
    """The same error with the certificates of all the times that the task was lost."""
    if len(certificates) <= len(error.certificates):
        return error
    times = len(certificates)
    complete = type(error)(f"{error.args[0]} (lost {times} times)", certificates)
    complete.__cause__ = error.__cause__
    return complete


def _name(dependency: Any) -> str:
    task_id = getattr(dependency, "task_id", None)
    return repr(dependency) if task_id is None else f"task {task_id} ({dependency.task_name})"


def _shortened(chain: list[str], hidden: int) -> tuple[list[str], int]:
    if len(chain) <= 2 * _SHOWN:
        return chain, hidden
    return chain[:_SHOWN] + chain[-_SHOWN:], hidden + len(chain) - 2 * _SHOWN


def _arrow(chain: Sequence[str], hidden: int) -> str:
    steps = list(chain[1:])
    if hidden:
        steps.insert(_SHOWN - 1, f"({hidden} more)")
    return "it needed " + ", which needed ".join(steps)
