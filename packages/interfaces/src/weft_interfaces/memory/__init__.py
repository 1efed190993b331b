"""Every contract, in memory: for tests of what stands on the contracts, and as models that the conformance
suites pass.

Nothing here leaves the process, or starts a thread unless its docstring says so; time passes when a test says
so. The contracts that need nothing more have theirs beside them: ``DirectLauncher``, ``PickleSerializer``,
``Null...``.
"""

from __future__ import annotations

from .block import InMemoryBlockExecutor
from .channel import InMemoryChannel
from .clock import ManualClock
from .command import Command, Invocation
from .context import RecordingContext
from .event import RecordingEventSink
from .execution import run_call
from .executor import InMemoryExecutor
from .hasher import PickleMemoHasher
from .manual import ManualExecutor
from .memoizer import InMemoryMemoizer
from .policy import ContainerResolver, NeverRetry, RetryTimes, SimpleScaling
from .provider import InMemoryProvider, Program, ProgramEnd
from .staging import InMemoryStaging
from .store import InMemoryMemoStore

__all__ = [
    "Command",
    "ContainerResolver",
    "InMemoryBlockExecutor",
    "InMemoryChannel",
    "InMemoryExecutor",
    "InMemoryMemoStore",
    "InMemoryMemoizer",
    "InMemoryProvider",
    "InMemoryStaging",
    "Invocation",
    "ManualClock",
    "ManualExecutor",
    "NeverRetry",
    "PickleMemoHasher",
    "Program",
    "ProgramEnd",
    "RecordingContext",
    "RecordingEventSink",
    "RetryTimes",
    "SimpleScaling",
    "run_call",
]
