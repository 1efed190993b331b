"""One end of a stream of bytes that carries messages, in the loop of a selector."""

from __future__ import annotations

import contextlib
import os
import selectors
from collections import deque
from collections.abc import Callable

from .messages import Frame, MalformedError
from .stream import StreamReader, pack

__all__ = ["Connection"]

_RECEIVE = 1 << 16


class Connection:
    """Owns the two descriptors, which may be the same one: of a socket.

    ``deliver`` gets each message, ``ended`` why no more will come, in words that are empty when the other
    side has closed its end. Both are called from the loop. One thread at a time.
    """

    def __init__(
        self,
        selector: selectors.BaseSelector,
        incoming: int,
        outgoing: int,
        deliver: Callable[[list[Frame]], object],
        ended: Callable[[str], object],
    ) -> None:
        self._selector = selector
        self._incoming = incoming
        self._outgoing = outgoing
        self._deliver = deliver
        self._ended = ended
        self._reader = StreamReader()
        self._left: deque[memoryview] = deque()
        self._closed = False
        for descriptor in (incoming, outgoing):
            os.set_blocking(descriptor, False)
        selector.register(incoming, selectors.EVENT_READ, self._ready)

    def send(self, frames: list[Frame]) -> None:
        """Send what goes now, and the rest when there is room. To one that has ended nothing is sent."""
        waited = bool(self._left)
        self._left.extend(memoryview(part) for part in pack(frames))
        if not waited and not self._flush():
            self._await_room(True)

    def close(self) -> None:
        """Send what is left, for half a second at most, and close."""
        if self._closed:
            return
        with contextlib.suppress(KeyError):
            self._await_room(False)
            self._selector.unregister(self._incoming)
        self._closed = True
        if self._left:
            self._drain()
        self._left.clear()
        for descriptor in {self._incoming, self._outgoing}:
            os.close(descriptor)

    def _drain(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._outgoing, selectors.EVENT_WRITE)
            while not self._flush() and selector.select(0.5):
                pass

    def _ready(self, mask: int) -> None:
        if mask & selectors.EVENT_WRITE and self._flush():
            self._await_room(False)
        if mask & selectors.EVENT_READ:
            self._read()

    def _read(self) -> None:
        try:
            data = os.read(self._incoming, _RECEIVE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._ended("")
            return
        try:
            messages = self._reader.feed(data)
        except MalformedError as error:
            self._ended(str(error))
            return
        for message in messages:
            if self._closed:
                return
            self._deliver(message)

    def _flush(self) -> bool:
        """Send what goes now of what is left; whether that was all."""
        left = self._left
        while left:
            try:
                sent = os.write(self._outgoing, left[0])
            except BlockingIOError:
                return False
            except OSError:  # the other side is gone, which will be read
                left.clear()
                return True
            if sent == len(left[0]):
                left.popleft()
            else:
                left[0] = left[0][sent:]
        return True

    def _await_room(self, wanted: bool) -> None:
        if self._incoming == self._outgoing:
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if wanted else 0)
            self._selector.modify(self._incoming, events, self._ready)
        elif wanted:
            self._selector.register(self._outgoing, selectors.EVENT_WRITE, self._ready)
        else:
            with contextlib.suppress(KeyError):
                self._selector.unregister(self._outgoing)
