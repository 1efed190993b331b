"""Messages that survive the loss of a connection: none is lost, none comes twice, all in order.

ZeroMQ connects again by itself, but what was on its way is gone. So each message has a number, and says up to
which number the other side's have come. Who learns, from any message that comes later, that one of its own
has not come although it was sent a while ago sends that one and all later ones again; each time that this
turns out to have been too early, or of no use, the while is doubled. Who gets a message too
early asks for the missing ones. The number 0 is that of messages outside of the order: last words, and such
questions, which are empty.
"""

from __future__ import annotations

import math
import struct
import time
from collections import deque
from collections.abc import Callable, Sequence

from .messages import Frame

__all__ = ["Session"]

_HEAD = struct.Struct("<QQ")  # the message's number, and that of the last one that has come
_ON_ITS_WAY = 1.0  # seconds that a message, and the word that it has come, may take ...
_MOST = 16.0  # ... and that they are given where it seems that they need longer, with a side that is busy


class Session:
    """One side of it. ``clock`` tells seconds; ``received``: the number of the last message that has come."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, received: int = 0) -> None:
        self._clock = clock
        self._sent = 0
        self._received = received
        self._patience = _ON_ITS_WAY
        # The number of each, when it was sent for the first time and for the last, and its frames.
        self._unconfirmed: deque[tuple[int, float, float, list[Frame]]] = deque()

    def pack(self, frames: Sequence[Frame]) -> list[Frame]:
        """The frames to be sent for a message."""
        self._sent += 1
        kept, now = list(frames), self._clock()
        self._unconfirmed.append((self._sent, now, now, kept))
        return [_HEAD.pack(self._sent, self._received), *kept]

    def unpack(self, frames: Sequence[bytes]) -> tuple[list[Frame] | None, list[list[Frame]]]:
        """The message, unless it has come before or one is missing before it; and what to send again.

        Raises :class:`ValueError` for what does not come from a session.
        """
        if not frames or len(frames[0]) != _HEAD.size:
            raise ValueError("a message without a number")
        number, confirmed = _HEAD.unpack(frames[0])
        if not number and len(frames) > 1:
            return list(frames[1:]), []
        self._confirm(confirmed)
        if not number:  # something is missing there for certain
            self._patience = _ON_ITS_WAY
        message: list[Frame] | None = None
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

    def _confirm(self, number: int) -> None:
        """Up to this one, the other side's have come."""
        sent_at = -math.inf
        while self._unconfirmed and self._unconfirmed[0][0] <= number:
            sent_at = self._unconfirmed.popleft()[1]
        if self._clock() - sent_at < _ON_ITS_WAY:
            self._patience = _ON_ITS_WAY

    def _overdue(self) -> list[list[Frame]]:
        now = self._clock()
        if not self._unconfirmed or self._unconfirmed[0][2] + self._patience > now:
            return []
        self._patience = min(_MOST, 2 * self._patience)
        self._unconfirmed = deque(
            (number, first, now, frames) for number, first, _, frames in self._unconfirmed
        )
        return [[_HEAD.pack(number, self._received), *frames] for number, _, _, frames in self._unconfirmed]
