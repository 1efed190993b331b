"""When a manager's block is over."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Mapping

from weft_interfaces import format_seconds

__all__ = ["Walltime"]

_FAREWELL = 1.0  # seconds before the end at which the manager ends, so that it can still say so
_DRAIN_SHARE = 0.05  # of the walltime that is left to calls that have begun before ...
_DRAIN_MOST = 30.0  # ... but no more seconds than this
# Seconds since the epoch, as batch systems tell their jobs.
_VARIABLES = ("WEFT_JOB_ENDS_AT", "SLURM_JOB_END_TIME")


class Walltime:
    """The walltime of a block that has just begun, as text what it is. The batch system may move its end.

    ends_at, drains_at: when the manager is to end, and when it is to take no more calls, in seconds since the
    epoch; None, and infinity, when nothing is known.
    """

    def __init__(self, seconds: float | None, environment: Mapping[str, str]) -> None:
        """``seconds``: those asked for, None for the site's default."""
        now = time.time()
        ends = [] if seconds is None else [now + seconds]
        for variable in _VARIABLES:
            with contextlib.suppress(ValueError):
                ends.append(float(environment.get(variable, "")))
        self._seconds = seconds
        self._begun = now
        self.ends_at: float | None = None
        self.drains_at = math.inf
        if ends:
            self.move(min(ends))

    def move(self, end: float) -> float:
        """The block ends then. Returns when the manager is to end."""
        self.ends_at = end - _FAREWELL
        self.drains_at = self.ends_at - min(_DRAIN_MOST, _DRAIN_SHARE * max(0.0, end - self._begun))
        return self.ends_at

    def left(self) -> tuple[float, float]:
        """Seconds until it is to drain, and until it is to end."""
        if self.ends_at is None:
            return math.inf, math.inf
        now = time.time()
        return self.drains_at - now, self.ends_at - now

    def __str__(self) -> str:
        if self._seconds is None:
            return "the walltime of its block"
        return f"the walltime of its block, {format_seconds(self._seconds)},"
