"""Messages over a stream of bytes: a unix socket on one machine, or whatever else passes bytes on.

A message is the number of its frames, their lengths, and the frames, one after the other; numbers are eight
bytes, the lowest first.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
import tempfile
from collections import deque
from collections.abc import Sequence

from .messages import Frame, MalformedError

__all__ = ["MOST_BYTES", "MOST_FRAMES", "Arrived", "StreamReader", "keep_in_files", "let_go", "pack"]

_NUMBER = struct.Struct("<Q")
MOST_FRAMES = 100_000
MOST_BYTES = 1 << 40
_LARGE = 1 << 18  # bytes from which on a frame goes straight to where it stays
_JOIN = 1 << 16  # bytes up to which copying frames together is faster than passing them on one by one
_FILE = 1 << 20  # bytes from which on a frame is in a file, where that is wanted

_in_files = False


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


def keep_in_files() -> None:
    """From now on this process has large frames that come in files without a name, in the directory of
    :mod:`tempfile`, as long as there is room.
    """
    global _in_files
    _in_files = True


def let_go(frame: Frame) -> None:
    """What has been read of a frame that is in a file need not be in memory, too."""
    if isinstance(frame, memoryview) and isinstance(frame.obj, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        frame.obj.madvise(mmap.MADV_DONTNEED)


class Arrived(bytearray):
    """A large frame. ``digest``: names its content, if it is a blob."""

    __slots__ = ("__weakref__", "digest")

    digest: bytes


class _Filed:
    """A large frame that comes, in a file. Raises :class:`OSError` where there is no room."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def extend(self, data: memoryview) -> None:
        """Put it at the end; as much as has room if it raises."""
        while data:
            written = os.write(self._file.fileno(), data)
            self._length += written
            data = data[written:]

    def frame(self) -> memoryview:
        """All of it."""
        mapped = mmap.mmap(self._file.fileno(), self._length, access=mmap.ACCESS_READ)
        self._file.close()
        return memoryview(mapped)

    def in_memory(self) -> Arrived:
        """The same, in memory; the file is gone."""
        with self._file:
            return Arrived(os.pread(self._file.fileno(), self._length, 0))


class StreamReader:
    """Takes bytes as they come, and gives whole messages; large frames as views that are to be read only."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._coming: _Coming | None = None

    def feed(self, data: bytes) -> list[list[Frame]]:
        """The messages that these bytes complete.

        Raises :class:`MalformedError` for what cannot be the begin of a message; nothing that comes later can
        be read then.
        """
        messages: list[list[Frame]] = []
        rest: bytes | memoryview = data
        if self._coming is not None:
            rest = self._coming.feed(memoryview(data))
            if self._coming.lengths:
                return messages
            messages.append(self._coming.frames)
            self._coming = None
        source: bytes | memoryview | bytearray = (
            rest  # mostly whole messages come, and nothing is left of them
        )
        if self._buffer:
            self._buffer += rest
            source = self._buffer
        message, start = self._next(source, 0)
        while message is not None:
            messages.append(message)
            message, start = self._next(source, start)
        if source is self._buffer:
            del self._buffer[:start]
        else:
            self._buffer += source[start:]
        return messages

    def _next(self, buffer: bytes | memoryview | bytearray, start: int) -> tuple[list[Frame] | None, int]:
        """The message that begins there, if all of it is there, and where the next one begins."""
        if len(buffer) - start < _NUMBER.size:
            return None, start
        (count,) = _NUMBER.unpack_from(buffer, start)
        if count > MOST_FRAMES:
            raise MalformedError(f"a message of {count} frames")
        begin = start + (count + 1) * _NUMBER.size
        if len(buffer) < begin:
            return None, start
        lengths = struct.unpack_from(f"<{count}Q", buffer, start + _NUMBER.size)
        total = sum(lengths)
        if total > MOST_BYTES:
            raise MalformedError(f"a message of {total} bytes")
        if len(buffer) - begin < total:
            if total > _LARGE:
                self._coming = _Coming(lengths)
                self._coming.feed(memoryview(buffer[begin:]))
                start = len(buffer)
            return None, start
        frames: list[Frame] = []
        for length in lengths:
            frames.append(bytes(buffer[begin : begin + length]))
            begin += length
        return frames, begin


class _Coming:
    """A message too large to be put together twice. ``lengths``: of the frames that are not complete."""

    def __init__(self, lengths: Sequence[int]) -> None:
        self.lengths = deque(lengths)
        self.frames: list[Frame] = []
        self._frame = _begin(lengths[0])

    def feed(self, data: memoryview) -> memoryview:
        """Take what belongs to it. Returns what does not."""
        while self.lengths:
            length = self.lengths[0]
            part = data[: length - len(self._frame)]
            self._add(part)
            data = data[len(part) :]
            if len(self._frame) < length:
                break
            self.lengths.popleft()
            self.frames.append(_end(self._frame))
            self._frame = _begin(self.lengths[0] if self.lengths else 0)
        return data

    def _add(self, part: memoryview) -> None:
        frame = self._frame
        if isinstance(frame, _Filed):
            before = len(frame)
            try:
                frame.extend(part)
                return
            except OSError:
                part = part[len(frame) - before :]
                self._frame = frame = frame.in_memory()
        frame += part


def _begin(length: int) -> Arrived | _Filed:
    if _in_files and length >= _FILE:
        with contextlib.suppress(OSError):
            return _Filed()
    return Arrived()


def _end(frame: Arrived | _Filed) -> Frame:
    if isinstance(frame, _Filed):
        try:
            return frame.frame()
        except OSError:
            frame = frame.in_memory()
    return memoryview(frame).toreadonly() if len(frame) > _LARGE else bytes(frame)
