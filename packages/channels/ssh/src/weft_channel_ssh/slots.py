"""The sessions of a connection, of which a server may allow a few at a time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

from .errors import SessionRefusedError

__all__ = ["Slot", "Slots"]

T = TypeVar("T")

_LEARN = 30.0  # seconds until one more session is tried than the server has allowed last
_AGAIN = 0.2  # seconds until a session is asked for again when none of ours stands in its way


class Slot:
    """One session's place. ``free`` may be called several times, and from any thread."""

    def __init__(self, release: Callable[[], None]) -> None:
        self._release: Callable[[], None] | None = release
        self._lock = threading.Lock()

    def free(self) -> None:
        with self._lock:
            release, self._release = self._release, None
        if release is not None:
            release()


class Slots:
    """Counts open sessions, and lets callers wait for one to end when the server takes no more.

    How many it takes is learnt from its refusals (``MaxSessions`` of OpenSSH, 10 by default), so nothing has
    to be configured, and commands come one after the other where it is 1.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._open = 0
        self._limit: int | None = None
        self._learnt = 0.0

    def take(self, start: Callable[[Slot], T], end: float, why: Callable[[str], Exception]) -> T:
        """What ``start`` gives, whose slot it frees in its time; ``why`` makes the error when there was none
        until ``end``, on the clock of :func:`time.monotonic`.
        """
        while True:
            self._wait_for_one(end, why)
            slot = Slot(self._release)
            try:
                return start(slot)
            except SessionRefusedError as error:
                slot.free()
                with self._changed:
                    self._limit, self._learnt = max(self._open, 1), time.monotonic()
                    if self._open < self._limit:
                        self._changed.wait(_AGAIN)
                if time.monotonic() >= end:
                    raise why(str(error)) from error
            except BaseException:
                slot.free()
                raise

    def reset(self) -> None:
        """There is another connection, whose server may allow more."""
        with self._changed:
            self._limit = None
            self._changed.notify_all()

    def _release(self) -> None:
        with self._changed:
            self._open -= 1
            self._changed.notify_all()

    def _wait_for_one(self, end: float, why: Callable[[str], Exception]) -> None:
        with self._changed:
            if self._limit is not None and time.monotonic() - self._learnt > _LEARN:
                # It may have been because of sessions that were about to end.
                self._limit, self._learnt = self._limit + 1, time.monotonic()
            while self._limit is not None and self._open >= self._limit:
                left = end - time.monotonic()
                if left <= 0 or not self._changed.wait(left):
                    raise why(f"the server allows {self._limit} at a time on one connection (MaxSessions)")
            self._open += 1
