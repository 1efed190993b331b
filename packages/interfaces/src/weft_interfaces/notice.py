"""Tells a call, once, that it is to be stopped soon."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable

__all__ = ["Notice"]

_LOOK = 1.0  # seconds after which the end is looked at again: it may have been moved


class Notice:
    """Calls ``tell`` once there are no more than ``seconds`` left, in a thread of its own.

    remaining: the seconds that are left, None as long as nothing is known. It ends when it is cancelled,
    which waits for ``tell`` if that has begun. What ``tell`` raises is printed, and changes nothing.

    As a context manager, it is cancelled at the end of the block.
    """

    def __init__(
        self, remaining: Callable[[], float | None], tell: Callable[[], object], seconds: float
    ) -> None:
        self.seconds = seconds
        self._remaining = remaining
        self._tell = tell
        self._cancelled = threading.Event()
        self._telling = threading.RLock()
        self._thread = threading.Thread(target=self._watch, name="weft-notice", daemon=True)
        self._thread.start()

    def cancel(self) -> None:
        """It will not tell, or has told. May be called twice."""
        self._cancelled.set()
        with self._telling:
            pass

    def __enter__(self) -> Notice:
        return self

    def __exit__(self, *_: object) -> None:
        self.cancel()

    def _watch(self) -> None:
        pause = 0.0
        while not self._cancelled.wait(pause):
            left = self._remaining()
            pause = _LOOK if left is None else min(left - self.seconds, _LOOK)
            if pause <= 0:
                self._tell_once()
                return

    def _tell_once(self) -> None:
        with self._telling:
            if self._cancelled.is_set():
                return
            try:
                self._tell()
            except Exception:  # noqa: BLE001 - the call goes on
                sys.excepthook(*sys.exc_info())
