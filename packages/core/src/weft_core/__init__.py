"""The dataflow kernel of Weft: runs tasks as a graph of futures on executors that meet it only through their
contract.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .__about__ import __version__
from .dependencies import DEEP, SHALLOW
from .future import Future
from .kernel import Counts, Kernel
from .retry import BackoffRetryPolicy
from .state import TaskState
from .stream import as_completed, map_bounded
from .task import TaskSpec

if TYPE_CHECKING:
    from .scaling import LoadScalingPolicy

__all__ = [
    "DEEP",
    "SHALLOW",
    "BackoffRetryPolicy",
    "Counts",
    "Future",
    "Kernel",
    "LoadScalingPolicy",
    "TaskSpec",
    "TaskState",
    "__version__",
    "as_completed",
    "map_bounded",
]


def __getattr__(name: str) -> object:
    if name == "LoadScalingPolicy":  # not at the top: a run without blocks has no use for it
        from .scaling import LoadScalingPolicy

        return LoadScalingPolicy
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
