"""The interchange's end of connections with managers on other machines.

::

    silent ──> in line ──> handshake ── hello ──> in session ── broken ──> away ── hello on a new connection
       └───── in time, or dropped ─────┘                                     └─ forgotten with its manager

Who does not have the keys of the run gets nothing, costs little (nothing before it says something; so many
handshakes at once, for so long), and is counted with what was wrong. Those in line are taken from the system,
whose own line is short: where it is full, who connects is turned away, for seconds.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import selectors
import socket
import struct
import time
from collections import Counter, deque
from collections.abc import Callable
from functools import partial

from .ledger import Ledger
from .messages import Frame
from .session import Session
from .setup import Keys
from .tls import BrokenError, TlsEnd, TlsStream

__all__ = ["HELLO", "ID_SIZE", "NUMBERS", "Port"]

HELLO = b"weft-1"  # what the first message on a connection begins with, in both directions
ID_SIZE = 16
# Up to where one's own messages have come, as far as is known, and the other's; in answers up to where the
# other's are safe (see ``session.py``), and have come.
NUMBERS = struct.Struct("<QQ")

_WAITING = 10_000  # connections for which no handshake has begun
_AT_ONCE = 512  # handshakes
_FIRST = 3.0  # seconds in which a connection must have said something
_HANDSHAKE = 10.0  # seconds in which its handshake must be over
_LINGER = 0.5  # seconds in which, at the end, what is left is sent
_WORDS = 200  # kinds of refusals that are counted one by one


class _Peer:
    """A connection. ``seat``: None before it has said who it is, which it must do by ``due``."""

    __slots__ = ("due", "seat", "stream", "writing")

    def __init__(self, stream: TlsStream) -> None:
        self.stream = stream
        self.seat: _Seat | None = None
        self.due = time.monotonic() + _HANDSHAKE
        self.writing = False


class _Seat:
    """A manager's session, and its connection while it has one."""

    __slots__ = ("id", "peer", "session")

    def __init__(self, identity: bytes, session: Session) -> None:
        self.id = identity
        self.session = session
        self.peer: _Peer | None = None


class Port:
    """For one thread at a time. ``deliver`` gets a manager's id and each message; ``away`` its id when its
    connection has broken, and says whether it may come back; ``returning`` that of one which has been in
    session with another interchange of this run. ``patience``: seconds in which the other side's system must
    confirm what it was sent. ``ledger``: knows when messages are safe; unless there is one, they are as soon
    as they were delivered.
    """

    def __init__(
        self,
        selector: selectors.BaseSelector,
        keys: Keys,
        deliver: Callable[[bytes, list[Frame]], object],
        away: Callable[[bytes], bool],
        returning: Callable[[bytes], object],
        patience: float,
        ledger: Ledger | None = None,
    ) -> None:
        self.refused: Counter[str] = Counter()
        self._selector = selector
        self._end = TlsEnd(keys.interchange, keys.managers.certificate, server_side=True)
        self._deliver = deliver
        self._away = away
        self._returning = returning
        self._patience = patience
        self._ledger = ledger
        self._silent: dict[socket.socket, float] = {}  # and when they must have said something
        self._line: deque[socket.socket] = deque()  # have, and wait for their handshake
        self._strangers: dict[_Peer, None] = {}
        self._seats: dict[bytes, _Seat] = {}
        self._due = math.inf  # when to look at who takes too long

    @property
    def full(self) -> bool:
        """Whether so many wait that the next ones must do so elsewhere."""
        return len(self._silent) + len(self._line) >= _WAITING

    def welcome(self, connection: socket.socket) -> None:
        """Take a connection that somebody has made."""
        connection.setblocking(False)
        due = time.monotonic() + _FIRST
        self._silent[connection] = due
        self._due = min(self._due, due)
        self._selector.register(connection, selectors.EVENT_READ, partial(self._first_word, connection))

    def tick(self) -> float:
        """Go on with who waits, drop who takes too long. Returns when to come back."""
        while self._line and len(self._strangers) < _AT_ONCE:
            self._begin(self._line.popleft())
        now = time.monotonic()
        if now >= self._due:
            for connection in [each for each, due in self._silent.items() if due <= now]:
                self._drop_silent(connection)
            for peer in [each for each in self._strangers if each.due <= now]:
                self._ready(peer, selectors.EVENT_READ)  # it may be this side that had no time
                if peer in self._strangers:
                    self._drop(peer, f"it did not finish the handshake within {_HANDSHAKE:g} s")
            dues = itertools.chain(self._silent.values(), (peer.due for peer in self._strangers))
            self._due = min(dues, default=math.inf)
        return self._due

    def send(self, identity: bytes, frames: list[Frame]) -> None:
        """Send to a manager, now or when it has connected again."""
        seat = self._seats.get(identity)
        if seat is None:
            return
        packed = seat.session.pack(frames)
        if seat.peer is not None:
            self._send(seat.peer, packed)

    def dismiss(self, identity: bytes, frames: list[Frame]) -> None:
        """Send a manager its last message, if it is connected; else forget it."""
        seat = self._seats.get(identity)
        if seat is None:
            return
        if seat.peer is None:
            del self._seats[identity]
        else:
            self._send(seat.peer, Session.last_words(frames))

    def close(self) -> None:
        """Send what is left, for half a second at most, and hang up."""
        peers = [*self._strangers, *(seat.peer for seat in self._seats.values() if seat.peer is not None)]
        for connection in [*self._silent, *self._line]:
            connection.close()
        self._strangers.clear()
        self._seats.clear()
        deadline = time.monotonic() + _LINGER
        left = [peer for peer in peers if not peer.stream.flush() and peer.stream.established]
        with selectors.DefaultSelector() as selector:
            for peer in left:
                selector.register(peer.stream, selectors.EVENT_WRITE, peer)
            while selector.get_map() and (patience := deadline - time.monotonic()) > 0:
                for key, _ in selector.select(patience):
                    if key.data.stream.flush():
                        selector.unregister(key.fileobj)
        for peer in peers:
            self._selector.unregister(peer.stream)
            peer.stream.close()

    # -- one connection -------------------------------------------------------------------------------------

    def _first_word(self, connection: socket.socket, mask: int) -> None:
        """It has begun to say something."""
        del self._silent[connection]
        self._selector.unregister(connection)
        if len(self._strangers) < _AT_ONCE:
            self._begin(connection)
        else:
            self._line.append(connection)

    def _drop_silent(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            connection.recv(1, socket.MSG_PEEK)
            self._first_word(connection, selectors.EVENT_READ)  # it was this side that had no time
            return
        del self._silent[connection]
        self._selector.unregister(connection)
        connection.close()
        self._refuse(f"it said nothing within {_FIRST:g} s")

    def _begin(self, connection: socket.socket) -> None:
        try:
            peer = _Peer(TlsStream(connection, self._end, self._patience))
        except OSError:  # it has gone again
            connection.close()
            return
        self._strangers[peer] = None
        self._due = min(self._due, peer.due)
        self._selector.register(peer.stream, selectors.EVENT_READ, partial(self._ready, peer))
        self._ready(peer, selectors.EVENT_READ)

    def _ready(self, peer: _Peer, mask: int) -> None:
        try:
            if mask & selectors.EVENT_WRITE:
                peer.stream.flush()
            if mask & selectors.EVENT_READ:
                for frames in peer.stream.receive():
                    self._take(peer, frames)
                    if peer.stream.fileno() < 0:  # the interchange has closed it
                        return
        except BrokenError as error:
            self._drop(peer, str(error))
            return
        except ValueError as error:
            self._refuse(str(error))
            self._drop(peer, "")
            return
        self._watch(peer)

    def _take(self, peer: _Peer, frames: list[Frame]) -> None:
        seat = peer.seat
        if seat is None:
            self._seat(peer, frames)
            return
        message = seat.session.unpack(frames)
        if message is not None:
            self._deliver(seat.id, message)
            if self._ledger is not None:
                self._ledger.note(seat.session, message)

    def _seat(self, peer: _Peer, frames: list[Frame]) -> None:
        """Its first message: who it is, and where it stands."""
        if len(frames) != 3 or frames[0] != HELLO or len(frames[1]) != ID_SIZE:
            raise ValueError("a peer that speaks another protocol")
        if len(frames[2]) != NUMBERS.size:
            raise ValueError("a peer that speaks another protocol")
        identity = bytes(frames[1])
        confirmed, received = NUMBERS.unpack(frames[2])
        seat = self._seats.get(identity)
        known = seat is not None
        if seat is None:
            deferred = self._ledger is not None
            seat = _Seat(identity, Session(sent=received, received=confirmed, deferred=deferred))
        session = seat.session
        again = session.resume(received, received)
        del self._strangers[peer]
        if seat.peer is not None:  # of which this side does not know yet that it has broken
            self._close(seat.peer)
        self._seats[identity] = seat
        seat.peer, peer.seat = peer, seat
        peer.stream.send([HELLO, NUMBERS.pack(session.safe, session.received)])
        for each in again:
            peer.stream.send(each)
        if not known and (confirmed or received):
            self._returning(identity)

    def _send(self, peer: _Peer, frames: list[Frame]) -> None:
        peer.stream.send(frames)
        if peer.stream.waiting is not peer.writing:
            self._watch(peer)

    def _watch(self, peer: _Peer) -> None:
        """Be told when there is room, where something waits for it."""
        waiting = peer.stream.waiting
        if waiting is not peer.writing:
            peer.writing = waiting
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if waiting else 0)
            self._selector.modify(peer.stream, events, partial(self._ready, peer))

    def _drop(self, peer: _Peer, reason: str) -> None:
        """It has ended, or must."""
        self._close(peer)
        seat = peer.seat
        if seat is None:
            if reason:
                self._refuse(reason)
            return
        seat.peer = None
        if not self._away(seat.id) and seat.peer is None:
            self._seats.pop(seat.id, None)

    def _refuse(self, reason: str) -> None:
        known = reason in self.refused or len(self.refused) < _WORDS
        self.refused[reason if known else "others"] += 1

    def _close(self, peer: _Peer) -> None:
        self._strangers.pop(peer, None)
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(peer.stream)
        peer.stream.close()
