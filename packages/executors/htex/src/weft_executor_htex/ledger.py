"""Knows which messages of managers are safe: the client has got all that followed from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .messages import Frame
from .session import Session

__all__ = ["Ledger"]

# Bytes that a manager keeps for a client that is away, besides the first message, which may have any size.
# What is more dies with the agent.
_MOST = 64 << 20
_OVERHEAD = 200  # bytes that keeping a message takes besides


class _Mark:
    """Message ``number`` is safe when the client has got ``position`` bytes, and then the ``latest`` one is
    marked. ``later``: bytes of those behind it.
    """

    __slots__ = ("later", "latest_number", "latest_position", "number", "position")

    def __init__(self, position: int, number: int) -> None:
        self.position = self.latest_position = position
        self.number = self.latest_number = number
        self.later = 0


class Ledger:
    """See the module. ``end``: says how many bytes there have been for the client so far."""

    def __init__(self, end: Callable[[], int]) -> None:
        self._end = end
        self._confirmed = 0
        self._marks: dict[Session, _Mark] = {}  # in the order in which they were made

    def note(self, session: Session, message: Sequence[Frame]) -> None:
        """The last message of this session was dealt with."""
        position, number = self._end(), session.received
        mark = self._marks.get(session)
        if mark is not None:
            mark.latest_position, mark.latest_number = position, number
            mark.later += _OVERHEAD + sum(map(len, message))
            if mark.later > _MOST:
                del self._marks[session]
                session.safe = number
        elif position > self._confirmed:
            self._marks[session] = _Mark(position, number)
        else:
            session.safe = number

    def confirm(self, position: int) -> None:
        """The client has got so many bytes."""
        if position == self._confirmed:
            return
        self._confirmed = position
        while self._marks:
            session, mark = next(iter(self._marks.items()))
            if mark.position > position:
                return
            del self._marks[session]
            session.safe = mark.number
            if mark.later:
                self._marks[session] = _Mark(mark.latest_position, mark.latest_number)
