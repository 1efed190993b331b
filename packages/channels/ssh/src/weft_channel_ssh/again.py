"""Whether a transfer that has lost its connection goes on."""

from __future__ import annotations

import time

from .errors import ConnectError

__all__ = ["Again"]

_PATIENCE = 120.0  # seconds after the loss in which the far side may be reached again
_PAUSE, _LONGEST_PAUSE = 0.5, 5.0  # seconds between two attempts
_IN_VAIN = 4  # attempts in a row that have brought nothing


class Again:
    """Of one transfer. A far side that was never reached is not tried again."""

    def __init__(self) -> None:
        self._most, self._in_vain = -1, 0
        self._reached = False
        self._lost_at: float | None = None
        self._pause = _PAUSE

    def reached(self, size: int) -> None:
        """The far side has answered; so many bytes have been transferred before."""
        self._in_vain = 0 if size > self._most else self._in_vain + 1
        self._most = max(self._most, size)
        self._reached, self._lost_at, self._pause = True, None, _PAUSE

    def wait(self, error: ConnectError) -> None:
        """Wait before the next attempt. Raises ``error`` if there is to be none."""
        now = time.monotonic()
        if self._lost_at is None:
            self._lost_at = now
        if not self._reached or self._in_vain >= _IN_VAIN or now - self._lost_at > _PATIENCE:
            raise error
        time.sleep(self._pause)
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)
