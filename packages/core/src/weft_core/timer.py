"""Calls functions later, in one thread that lives from the first request to ``close``."""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable

__all__ = ["Timer"]

_log = logging.getLogger("weft")


class Timer:
    """Calls functions later. What is still waiting at ``close`` is never called."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._changed = threading.Condition()
        self._waiting: list[tuple[float, int, Callable[[], object]]] = []
        self._order = itertools.count()
        self._thread: threading.Thread | None = None
        self._closed = False

    def call_later(self, delay: float, function: Callable[[], object]) -> None:
        """Call ``function()`` after ``delay`` seconds."""
        with self._changed:
            if self._closed:
                return
            heapq.heappush(self._waiting, (time.monotonic() + delay, next(self._order), function))
            self._changed.notify()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()

    def close(self) -> None:
        """Stop, and wait for the call that is being made, unless it is this one."""
        with self._changed:
            self._closed = True
            self._waiting.clear()
            self._changed.notify()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        while function := self._next():
            try:
                function()
            except Exception:  # noqa: BLE001  the other calls must go on
                _log.exception("a delayed call raised")

    def _next(self) -> Callable[[], object] | None:
        with self._changed:
            while not self._closed:
                delay = self._waiting[0][0] - time.monotonic() if self._waiting else None
                if delay is not None and delay <= 0:
                    return heapq.heappop(self._waiting)[2]
                self._changed.wait(delay)
            return None
