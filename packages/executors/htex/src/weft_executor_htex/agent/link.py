"""The agent's end of the stream: it outlives the connections that carry it."""

from __future__ import annotations

import hmac
import math
import socket
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from ..connection import Connection
from ..messages import Frame, MalformedError
from ..server import Server
from ..stream import StreamReader, pack
from .outbox import BLOCK, Outbox
from .wire import (
    AGENT_PROTOCOL,
    BEAT,
    DATA,
    END,
    HELLO,
    REFUSED,
    WELCOME,
    Piece,
    read_json,
    read_piece,
    write_json,
    write_piece,
)

__all__ = ["Link"]

_WINDOW = 8 << 20  # bytes on their way at most ...
_PIECE = BLOCK  # ... in pieces of so many: what a connection has to carry whole
_OWED = 1 << 18  # bytes that have come after which the client is told at once
_TELL = 0.25  # ... or after so many seconds, if nothing else was said to it
_GATHER = 0.002  # seconds for which small messages are gathered, while others are on their way


class Link:
    """Serves whoever comes to ``listener`` and knows the run's ``token``; who comes last is the client.

    ``deliver`` gets each of its messages. heard_at: when it was heard of last, in seconds of the monotonic
    clock. met: it has come once. ended: it has said that nothing more will come. For the thread of the
    server's loop.
    """

    def __init__(
        self,
        server: Server,
        listener: socket.socket,
        about: Mapping[str, Any],
        token: str,
        outbox: Outbox,
        deliver: Callable[[list[Frame]], object],
        period: float,
    ) -> None:
        self.heard_at = time.monotonic()
        self.met = False
        self.ended = False
        self.outbox = outbox
        self._server = server
        self._listener = listener
        self._about = dict(about)
        self._token = token
        self._deliver = deliver
        self._period = period
        self._beat_at = self._pumped_at = 0.0
        self._tell_at = math.inf  # when to say what has come
        self._reader = StreamReader()
        self._received = self._told = 0
        self._client: Connection | None = None
        self._others: set[Connection] = set()
        listener.setblocking(False)
        server.watch(listener.fileno(), self._accept)

    @property
    def connected(self) -> bool:
        """Whether there is a connection; it may be broken without anybody having noticed."""
        return self._client is not None

    def send(self, frames: list[Frame]) -> None:
        """Send a message with the next :meth:`tick`, or when there is a connection."""
        for part in pack(frames):
            self.outbox.append(part)

    def tick(self) -> float:
        """Send what there is to send, say that the agent is there, and what has come. Returns the seconds
        after which the next tick is due at the latest.

        What follows upon something that has not been confirmed waits for a moment, unless there is much of
        it: one packet costs the client what dozens of results do.
        """
        client = self._client
        if client is None:
            return math.inf
        now = time.monotonic()
        if self._is_urgent(now):
            self._pump()
        if now >= min(self._beat_at, self._tell_at):
            self._say(client, Piece(BEAT, 0, self._received))
            self._beat_at = now + self._period
        due = min(self._beat_at, self._tell_at)
        if self._may_send():
            due = min(due, self._pumped_at + _GATHER)
        return due - now

    def _is_urgent(self, now: float) -> bool:
        """Whether there is something to send that should go now."""
        outbox = self.outbox
        much = outbox.end - outbox.sent >= _PIECE
        alone = outbox.sent == outbox.confirmed
        return self._may_send() and (much or alone or now >= self._pumped_at + _GATHER)

    def _may_send(self) -> bool:
        outbox = self.outbox
        return outbox.sent < min(outbox.end, outbox.confirmed + _WINDOW)

    def close(self) -> None:
        """Say that this is the end, and hang up."""
        self._pump()
        if self._client is not None:
            self._say(self._client, Piece(END, self.outbox.end, self._received))
        for connection in (self._client, *self._others):
            if connection is not None:
                connection.close()
        self._client = None
        self._others.clear()
        self.outbox.close()

    # -- connections ----------------------------------------------------------------------------------------

    def _accept(self, mask: int) -> None:
        try:
            peer, _ = self._listener.accept()
        except OSError:
            return
        box: list[Connection] = []
        connection = self._server.connect(
            peer.detach(), lambda frames: self._take(box[0], frames), lambda reason: self._lose(box[0])
        )
        box.append(connection)
        self._others.add(connection)

    def _lose(self, connection: Connection) -> None:
        self._others.discard(connection)
        if connection is self._client:
            self._client = None
        connection.close()

    def _take(self, connection: Connection, frames: list[Frame]) -> None:
        try:
            piece = read_piece(frames)
            if piece.kind == HELLO:
                self._welcome(connection, piece)
            elif connection is self._client:
                self._hear(piece)
        except ValueError as error:  # MalformedError, too
            self._part(connection, f"it does not understand the client: {error}")

    def _part(self, connection: Connection, words: str) -> None:
        connection.send(write_piece(Piece(REFUSED, 0, 0, [words.encode()])))
        self._lose(connection)

    def _welcome(self, connection: Connection, hello: Piece) -> None:
        said = read_json(hello.frames[0])
        if said.get("protocol") != AGENT_PROTOCOL:
            self._part(
                connection,
                f"it speaks protocol {AGENT_PROTOCOL}, the client {said.get('protocol')}: attach with the "
                f"version of "
                f"weft-executor-htex that has started the run, or start another run",
            )
            return
        if not hmac.compare_digest(str(said.get("token")).encode(), self._token.encode()):
            self._part(connection, "this is not the run's token: another client has started it")
            return
        try:
            self.outbox.rewind(hello.received)
        except ValueError:
            self._part(connection, "another client has taken over what the run has sent")
            return
        self.met = True
        old, self._client = self._client, connection
        self._others.discard(connection)
        if old is not None:
            old.close()
        self.heard_at = time.monotonic()
        self._say(
            connection, Piece(WELCOME, 0, self._received, [write_json(**self._about, time=time.time())])
        )
        self._pump()

    def _say(self, connection: Connection, piece: Piece) -> None:
        self._told, self._tell_at = piece.received, math.inf
        connection.send(write_piece(piece))

    # -- the streams ----------------------------------------------------------------------------------------

    def _hear(self, piece: Piece) -> None:
        self.heard_at = time.monotonic()
        self.outbox.confirm(piece.received)
        if piece.kind == DATA:
            self._read(piece.position, piece.frames[0])
            self._tell_at = min(self._tell_at, self.heard_at + _TELL)
            if self._received - self._told > _OWED and self._client is not None:
                self._say(self._client, Piece(BEAT, 0, self._received))
        elif piece.kind == END and piece.position == self._received:
            self.ended = True

    def _read(self, position: int, data: Frame) -> None:
        if position > self._received:
            raise MalformedError(f"bytes from {position} on, {self._received} have come")
        data = data[self._received - position :]
        self._received += len(data)
        for frames in self._reader.feed(bytes(data)):
            try:
                self._deliver(frames)
            except Exception:  # noqa: BLE001  the other messages must go on
                sys.excepthook(*sys.exc_info())

    def _pump(self) -> None:
        client = self._client
        if client is None:
            return
        self._pumped_at = time.monotonic()
        while (part := self.outbox.next(_PIECE, _WINDOW)) is not None:
            self._say(client, Piece(DATA, part[0], self._received, [part[1]]))
