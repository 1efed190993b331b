"""Messages over a stream of bytes: a unix socket on one machine, or whatever else passes bytes on.

A message is the number of its frames, their lengths, and the frames, one after the other; numbers are eight
bytes, the lowest first.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from .messages import Frame, MalformedError

__all__ = ["StreamReader", "pack"]

_NUMBER = struct.Struct("<Q")
_MOST_FRAMES = 100_000
_MOST_BYTES = 1 << 40
_JOIN = 1 << 16  # bytes up to which copying frames together is faster than passing them on one by one


def pack(frames: Sequence[Frame]) -> list[Frame]:
    """The message as buffers, to be sent one after the other."""
    count = len(frames)
    head = struct.pack(f"<{count + 1}Q", count, *[len(frame) for frame in frames])
    packed: list[Frame] = []
    small: list[Frame] = [head]
    for frame in frames:
        if len(frame) <= _JOIN:
            small.append(frame)
        else:
            packed += [b"".join(small), frame]
            small = []
    if small:
        packed.append(b"".join(small))
    return packed


class StreamReader:
    """Takes bytes as they come, and gives whole messages."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[list[bytes]]:
        """The messages that these bytes complete.

        Raises :class:`MalformedError` for what cannot be the begin of a message; nothing that comes later can
        be read then.
        """
        messages: list[list[bytes]] = []
        buffer = self._buffer
        buffer += data
        start = 0
        while (found := self._next(start)) is not None:
            message, start = found
            messages.append(message)
        if start:
            del buffer[:start]
        return messages

    def _next(self, start: int) -> tuple[list[bytes], int] | None:
        buffer = self._buffer
        if len(buffer) - start < _NUMBER.size:
            return None
        (count,) = _NUMBER.unpack_from(buffer, start)
        if count > _MOST_FRAMES:
            raise MalformedError(f"a message of {count} frames")
        begin = start + (count + 1) * _NUMBER.size
        if len(buffer) < begin:
            return None
        lengths = struct.unpack_from(f"<{count}Q", buffer, start + _NUMBER.size)
        total = sum(lengths)
        if total > _MOST_BYTES:
            raise MalformedError(f"a message of {total} bytes")
        if len(buffer) - begin < total:
            return None
        frames = []
        for length in lengths:
            frames.append(bytes(memoryview(buffer)[begin : begin + length]))
            begin += length
        return frames, begin
