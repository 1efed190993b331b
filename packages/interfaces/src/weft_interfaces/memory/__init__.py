"""Every contract, in memory: for tests of what stands on the contracts, and as the models that the conformance suites pass.

Nothing here leaves the process, waits for a clock, or starts a thread unless a docstring says so.
"""

from __future__ import annotations

from .context import RecordingContext
from .execution import run_call
from .executor import InMemoryExecutor
from .manual import ManualExecutor

__all__ = ["InMemoryExecutor", "ManualExecutor", "RecordingContext", "run_call"]
