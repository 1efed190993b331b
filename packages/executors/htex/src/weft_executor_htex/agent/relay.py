"""The process that a connection starts on the login node: it passes bytes on between its standard input and
output and the agent's socket, and ends with the connection.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading

from ..messages import Frame, MalformedError
from ..stream import StreamReader, pack
from .daemon import start_agent
from .places import RunPlace
from .wire import AWAY, GONE, HELLO, MAGIC, REFUSED, Piece, read_piece, write_piece

__all__ = ["relay"]

_RECEIVE = 1 << 16


def relay(place: RunPlace, *, start: bool) -> int:
    """Be it. Returns the exit status."""
    incoming, outgoing = os.dup(0), os.dup(1)
    os.dup2(2, 1)  # whatever is printed must not get among the bytes
    try:
        _write(outgoing, MAGIC)
        hello = _read_hello(incoming)
        if hello is None:
            return 0
        connection = place.connect()
        if connection is None and place.elsewhere:
            _say(outgoing, AWAY, place.why_gone())
            return 1
        if connection is None and start:
            try:
                connection = start_agent(place, read_piece(hello))
            except OSError as error:
                _say(outgoing, REFUSED, f"it cannot be started: {error}")
                return 1
        if connection is None:
            words = place.why_gone()
            place.remove()
            _say(outgoing, GONE, words)
            return 1
        with connection:
            _pass_on(connection, hello, incoming, outgoing)
        return 0
    except MalformedError as error:
        _say(outgoing, REFUSED, f"it does not understand the client: {error}")
        return 1
    except OSError:  # the connection is gone
        return 1


def _read_hello(incoming: int) -> list[Frame] | None:
    reader = StreamReader()
    messages: list[list[Frame]] = []
    while not messages:
        data = os.read(incoming, _RECEIVE)
        if not data:
            return None
        messages = reader.feed(data)
    if read_piece(messages[0]).kind != HELLO:
        raise MalformedError("no greeting")
    return messages[0]


def _say(outgoing: int, kind: bytes, words: str) -> None:
    with contextlib.suppress(OSError):
        _write(outgoing, b"".join(pack(write_piece(Piece(kind, 0, 0, [words.encode()])))))


def _pass_on(connection: socket.socket, hello: list[Frame], incoming: int, outgoing: int) -> None:
    for part in pack(hello):
        connection.sendall(part)
    threading.Thread(target=_forward, args=(incoming, connection), daemon=True).start()
    while True:
        data = connection.recv(_RECEIVE)
        if not data:
            break
        _write(outgoing, data)


def _forward(incoming: int, connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            data = os.read(incoming, _RECEIVE)
            if not data:
                break
            connection.sendall(data)
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_WR)


def _write(outgoing: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(outgoing, view) :]
