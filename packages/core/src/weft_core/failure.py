"""Puts what went wrong into words: why a task was not run, and how often it was lost."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import CancelledError
from typing import Any

from ._interfaces import DeathCertificate, DependencyError, LostError

__all__ = ["dependency_error", "lost_error", "safe_repr", "shortened"]

# Tasks shown at each end of a long chain: one of a million tasks must not make a million long texts.
_SHOWN = 3
_LONG = 2_000  # characters: every task downstream has its copy of what the first one's error says


def dependency_error(task: object, dependency: Any, error: BaseException) -> DependencyError:
    """Why ``task`` is not run: ``dependency`` (a future) failed with ``error``, or was itself not run.

    The chain goes from the task to the one that failed, and the cause is that one's error.
    """
    root, chain, hidden = error, [str(task), _name(dependency)], 0
    if isinstance(error, DependencyError):
        # Its chain begins with the dependency, unless that ran and passed on what another had.
        root = error.__cause__ or error
        chain += error.chain[error.chain[:1] == (chain[1],) :]
        hidden = int(getattr(error, "hidden", 0))
    chain, hidden = shortened(chain, hidden)
    end = "was cancelled" if isinstance(root, CancelledError) else f"failed with {_said(root)}"
    result = DependencyError(f"{task} was not run: {_arrow(chain, hidden)}, which {end}", chain)
    result.hidden = hidden  # type: ignore[attr-defined]
    result.__cause__ = root
    return result


def lost_error(error: LostError, certificates: Sequence[DeathCertificate]) -> LostError:
    """The same error with the certificates of all the times that the task was lost."""
    if len(certificates) <= len(error.certificates):
        return error
    message = f"{error.args[0]} (lost {len(certificates)} times)"
    try:
        complete = type(error)(message, certificates)
    except Exception:  # noqa: BLE001  a subclass may be made in another way
        return error
    complete.__cause__ = error.__cause__
    return complete


def safe_repr(value: object) -> str:
    """``repr(value)``, also where the user's class has a broken one."""
    try:
        return repr(value)
    except Exception as broken:  # noqa: BLE001
        return f"<{type(value).__name__}, whose repr raised {type(broken).__name__}>"


def _said(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception as broken:  # noqa: BLE001  see safe_repr
        text = f"(its text cannot be had: {type(broken).__name__})"
    if len(text) > _LONG:
        text = f"{text[:_LONG]}..."
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _name(dependency: Any) -> str:
    task_id = getattr(dependency, "task_id", None)
    return safe_repr(dependency) if task_id is None else f"task {task_id} ({dependency.task_name})"


def shortened(chain: list[str], hidden: int = 0) -> tuple[list[str], int]:
    """The two ends of a chain, and how many there are between."""
    if len(chain) <= 2 * _SHOWN:
        return chain, hidden
    return chain[:_SHOWN] + chain[-_SHOWN:], hidden + len(chain) - 2 * _SHOWN


def _arrow(chain: Sequence[str], hidden: int) -> str:
    steps = list(chain[1:])
    if hidden:
        steps.insert(_SHOWN - 1, f"({hidden} more)")
    return "it needed " + ", which needed ".join(steps)
