"""Holds Ctrl-C back for a moment."""

from __future__ import annotations

import threading
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from signal import SIGINT, getsignal, signal
else:  # what the module signal wraps, at ten times the price
    from _signal import SIGINT, getsignal, signal

__all__ = ["Uninterrupted"]


class Uninterrupted:
    """While its block runs in the main thread, Ctrl-C waits: what would be left half done if a
    :class:`KeyboardInterrupt` came in the middle is done to the end, and then it comes.

    For blocks of microseconds. Entering and leaving cost about one.
    """

    __slots__ = ("_handler", "_seen")

    def __enter__(self) -> None:
        self._handler: Any = None
        if threading.current_thread() is threading.main_thread():
            handler = getsignal(SIGINT)
            if callable(handler):  # nothing else raises
                self._seen: list[tuple[int, FrameType | None]] = []
                self._handler = handler
                signal(SIGINT, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._seen.append((number, frame))

    def __exit__(self, *_: object) -> None:
        if self._handler is not None:
            signal(SIGINT, self._handler)
            if self._seen:
                self._handler(*self._seen[0])
