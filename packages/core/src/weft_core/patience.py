"""Waiting that Ctrl-C always gets through to."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

__all__ = ["wait_in_pieces"]

_PIECE = 0.5


def wait_in_pieces(wait: Callable[[float], bool], timeout: float | None) -> bool:
    """Call ``wait(seconds)`` until it says that what is waited for is there, for up to ``timeout`` seconds.

    Python looks at signals between two instructions: one that lands just before the main thread blocks on a
    lock is only seen when that is over. So no wait is longer than half a second.
    """
    deadline = math.inf if timeout is None else time.monotonic() + timeout
    while True:
        left = deadline - time.monotonic()
        if wait(max(0.0, min(_PIECE, left))):
            return True
        if left <= _PIECE:
            return False
