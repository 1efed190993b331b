"""The dataflow kernel of Weft: runs tasks as a graph of futures on executors that meet it only through their
contract.
"""

from __future__ import annotations

from .__about__ import __version__
from .dependencies import DEEP, SHALLOW
from .future import Future
from .kernel import Counts, Kernel
from .retry import BackoffRetryPolicy
from .state import TaskState
from .stream import as_completed, map_bounded
from .task import TaskSpec

__all__ = [
    "DEEP",
    "SHALLOW",
    "BackoffRetryPolicy",
    "Counts",
    "Future",
    "Kernel",
    "TaskSpec",
    "TaskState",
    "__version__",
    "as_completed",
    "map_bounded",
]
