"""Calls functions at given times, from one thread that is started when it is first needed."""

from __future__ import annotations

import heapq
import itertools
import sys
import threading
import time
from collections.abc import Callable

__all__ = ["Timer", "Timers"]


class Timer:
    """One function to be called once. ``cancelled`` may be set by any thread; the function may then still be
    running.
    """

    __slots__ = ("callback", "cancelled")

    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback
        self.cancelled = False

    def cancel(self) -> None:
        """Do not call it, unless that has begun; what it refers to is free at once."""
        self.cancelled = True
        self.callback = None


class Timers:
    """A heap of times and the thread that waits for the nearest. Callbacks run in that thread and must be
    short.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._heap: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()
        self._changed = threading.Condition(threading.Lock())
        self._thread: threading.Thread | None = None
        self._closed = False

    def at(self, when: float, callback: Callable[[], None]) -> Timer:
        """Call ``callback`` at ``when``, in seconds of :func:`time.monotonic`."""
        timer = Timer(callback)
        with self._changed:
            heapq.heappush(self._heap, (when, next(self._order), timer))
            if self._heap[0][2] is timer:
                self._changed.notify()
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()
        return timer

    def close(self) -> None:
        """End the thread; what has not been called will not be. May be called twice, and from a callback."""
        with self._changed:
            self._closed = True
            self._heap.clear()
            self._changed.notify()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _run(self) -> None:
        while True:
            callback = self._next()
            if callback is None:
                return
            try:
                callback()
            except Exception:  # noqa: BLE001  the other timers must go on
                sys.excepthook(*sys.exc_info())
            del callback  # it may refer to a call, and the next one may be far away

    def _next(self) -> Callable[[], None] | None:
        with self._changed:
            while not self._closed:
                while self._heap and self._heap[0][2].cancelled:
                    heapq.heappop(self._heap)
                wait = self._heap[0][0] - time.monotonic() if self._heap else None
                if wait is not None and wait <= 0:
                    callback = heapq.heappop(self._heap)[2].callback
                    if callback is not None:
                        return callback
                else:
                    self._changed.wait(wait)
            return None
