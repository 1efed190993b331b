"""Messages that survive the loss of a connection: none is lost, none comes twice, all in order.

ZeroMQ connects again by itself, but what was on its way is gone. So each message has a number, and says up to
which number the other side's have come. Who learns, from any message that comes later, that one of its own
has not come although it was sent a while ago sends that one and all later ones again. Who gets a message too
early asks for the missing ones. The number 0 is that of messages outside of the order: last words, and such
questions, which are empty.
"""

from __future__ import annotations

import struct
import time
from collections import deque
from collections.abc import Callable, Sequence

from .messages import Frame

__all__ = ["Session"]

_HEAD = struct.Struct("<QQ")  # the message's number, and that of the last one that has come
_ON_ITS_WAY = 1.0  # seconds that a message, and the word that it has come, may take


class Session:
    """One side of it. ``clock`` tells seconds; ``received``: the number of the last message that has come."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, received: int = 0) -> None:
        self._clock = clock
        self._sent = 0
        self._received = received
        self._unconfirmed: deque[tuple[int, float, list[Frame]]] = deque()

    def pack(self, frames: Sequence[Frame]) -> list[Frame]:
        """The frames to be sent for a message."""
        self._sent += 1
        kept = list(frames)
        self._unconfirmed.append((self._sent, self._clock(), kept))
        return [_HEAD.pack(self._sent, self._received), *kept]

    def unpack(self, frames: Sequence[bytes]) -> tuple[list[bytes] | None, list[list[Frame]]]:
        """The message, unless it has come before or one is missing before it; and what to send again.

        Raises :class:`ValueError` for what does not come from a session.
        """
        if not frames or len(frames[0]) != _HEAD.size:
            raise ValueError("a message without a number")
        number, confirmed = _HEAD.unpack(frames[0])
        if not number and len(frames) > 1:
            return list(frames[1:]), []
        while self._unconfirmed and self._unconfirmed[0][0] <= confirmed:
            self._unconfirmed.popleft()
        message = None
        if number == self._received + 1:
            self._received = number
            message = list(frames[1:])
        again = self._overdue()
        if number > self._received + 1:
            again.append([_HEAD.pack(0, self._received)])
        return message, again

    @classmethod
    def joining(cls, frames: Sequence[bytes]) -> Session:
        """The other side of one whose first message that comes is this."""
        number = _HEAD.unpack(frames[0])[0] if frames and len(frames[0]) == _HEAD.size else 1
        return cls(received=max(0, number - 1))

    @staticmethod
    def last_words(frames: Sequence[Frame]) -> list[Frame]:
        """The frames to be sent for a message after which none will come."""
        return [_HEAD.pack(0, 0), *frames]

    def _overdue(self) -> list[list[Frame]]:
        now = self._clock()
        if not self._unconfirmed or self._unconfirmed[0][1] + _ON_ITS_WAY > now:
            return []
        again = [(number, now, frames) for number, _, frames in self._unconfirmed]
        self._unconfirmed = deque(again)
        return [[_HEAD.pack(number, self._received), *frames] for number, _, frames in again]
