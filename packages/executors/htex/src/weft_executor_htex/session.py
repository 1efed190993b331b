"""Messages that survive the loss of a connection: none is lost, none comes twice, all in order.

::

    manager     hello: who it is, up to where its own have come, up to where the other's have ──>  interchange
            <── welcome: up to where the manager's have come                   what is missing ──>
            <── what is missing

A connection loses nothing as long as it holds, but when it breaks, what was on its way is gone. So each
message has a number, and says up to which number the other side's have come; what has not come is kept, and
sent again on the next connection. The number 0 is that of messages outside of the order: last words.

An interchange that may be killed says of a message that it has come only when that is *safe*: when all that
followed from it is where the interchange's end does not matter. What was not goes to the next interchange.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Sequence

from .messages import Frame

__all__ = ["Session"]

_HEAD = struct.Struct("<QQ")  # the message's number, and that of the last one that has come


class Session:
    """One side of it.

    sent: the number of its last message. received: that of the last one of the other side that has come.
    safe: that of the last one that the other side need not keep any more; whoever owns a ``deferred`` session
    says so, else each is safe when it has come.
    """

    def __init__(self, sent: int = 0, received: int = 0, *, deferred: bool = False) -> None:
        self.sent = sent
        self.received = received
        self.safe = received
        self._deferred = deferred
        self._unconfirmed: deque[list[Frame]] = deque()  # the last of them is number ``sent``

    @property
    def confirmed(self) -> int:
        """The number of its last message of which it is known that it has come."""
        return self.sent - len(self._unconfirmed)

    def pack(self, frames: Sequence[Frame]) -> list[Frame]:
        """The frames to be sent for a message."""
        self.sent += 1
        kept = list(frames)
        self._unconfirmed.append(kept)
        return [_HEAD.pack(self.sent, self.safe), *kept]

    def unpack(self, frames: Sequence[Frame]) -> list[Frame] | None:
        """The message, unless it has come before.

        Raises :class:`ValueError` for what does not come from a session, or not from this one.
        """
        if not frames or len(frames[0]) != _HEAD.size:
            raise ValueError("a message without a number")
        number, confirmed = _HEAD.unpack(frames[0])
        if not number:
            return list(frames[1:])
        if number > self.received + 1:
            raise ValueError("a message that is not the next one")
        self._confirm(confirmed)
        if number <= self.received:
            return None
        self.received = number
        if not self._deferred:
            self.safe = number
        return list(frames[1:])

    def resume(self, safe: int, received: int) -> list[list[Frame]]:
        """There is a new connection, and the other side's word up to where messages are safe, and have come.
        Returns what is to be sent again. Raises :class:`ValueError` where that cannot be.
        """
        if not self.confirmed <= safe <= received <= self.sent:
            raise ValueError("a session that is another one")
        self._confirm(safe)
        return [
            [_HEAD.pack(number, self.safe), *frames]
            for number, frames in enumerate(self._unconfirmed, safe + 1)
            if number > received
        ]

    @staticmethod
    def last_words(frames: Sequence[Frame]) -> list[Frame]:
        """The frames to be sent for a message after which none will come."""
        return [_HEAD.pack(0, 0), *frames]

    def _confirm(self, number: int) -> None:
        for _ in range(number - self.confirmed):
            if not self._unconfirmed:
                raise ValueError("a word on messages that were never sent")
            self._unconfirmed.popleft()
