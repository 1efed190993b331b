"""What passes between a client and its agent: pieces of two endless streams of bytes, one in each direction.

Each piece says where it stands in its stream, and how much of the other one has come. ``Hello`` begins a
connection, and is answered by ``Welcome``, or by words: ``Refused`` (it will not be otherwise), ``Gone``
(there is no such agent any more) or ``Away`` (it is on another host). What the other side has not got is sent
from there on::

    client ── Hello(token, received) ──> agent               Welcome(received)
           <── Data(position, received), Beat(received) ──>      End, answered by End: that was all

A piece is a message as in ``stream.py``.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

from ..messages import Frame, MalformedError

__all__ = [
    "AGENT_PROTOCOL",
    "AWAY",
    "BEAT",
    "DATA",
    "END",
    "GONE",
    "HELLO",
    "MAGIC",
    "REFUSED",
    "WELCOME",
    "Piece",
    "read_json",
    "read_piece",
    "write_json",
    "write_piece",
]

AGENT_PROTOCOL = 1
# Where the relay's words begin; what stands before it was printed by the site's login scripts.
MAGIC = b"\nweft-agent-stream\n"

HELLO, WELCOME, REFUSED, GONE, AWAY = b"H", b"W", b"R", b"G", b"A"
DATA, BEAT, END = b"D", b"B", b"E"
_KINDS = {HELLO, WELCOME, REFUSED, GONE, AWAY, DATA, BEAT, END}
_HEAD = struct.Struct("<cQQ")
_LAST_FRAMES = {HELLO: 2, WELCOME: 1, REFUSED: 1, GONE: 1, AWAY: 1, DATA: 1}


class Piece(NamedTuple):
    """``position``: of the first byte of ``frames[0]`` in its stream, if it is Data, or of the end.
    received: how many bytes of the other stream have come.
    """

    kind: bytes
    position: int
    received: int
    frames: Sequence[Frame] = ()


def write_piece(piece: Piece) -> list[Frame]:
    """The frames of a piece."""
    return [_HEAD.pack(piece.kind, piece.position, piece.received), *piece.frames]


def read_piece(frames: Sequence[Frame]) -> Piece:
    """Raises :class:`MalformedError` for what is none."""
    if not frames or len(frames[0]) != _HEAD.size:
        raise MalformedError("no piece of a stream")
    kind, position, received = _HEAD.unpack(frames[0])
    if kind not in _KINDS or len(frames) - 1 != _LAST_FRAMES.get(kind, 0):
        raise MalformedError("a piece of a stream that is of no kind")
    return Piece(kind, position, received, frames[1:])


def write_json(**values: Any) -> bytes:
    """Values as a frame."""
    return json.dumps(values).encode()


def read_json(frame: Frame) -> dict[str, Any]:
    """Raises :class:`MalformedError` for what is no such frame."""
    try:
        values = json.loads(bytes(frame).decode())
    except ValueError as error:
        raise MalformedError(f"no JSON: {error}") from error
    if not isinstance(values, dict):
        raise MalformedError("no JSON object")
    return values
