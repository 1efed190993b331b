"""The serializer of both ends: what is large goes to a keeper, and comes back from it."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, Protocol

from weft_interfaces import PickleSerializer, SerializationError, Serializer, Shared
from weft_interfaces.pickling import is_plain

from .blobs import BUFFER, MAGIC, REST, Part, has_blobs, pack_head, read_head

__all__ = ["Blob", "BlobSerializer", "Find", "Keeper"]

Find = Callable[[bytes, int], Any]

_PROTOCOL = 5
_FRAMES = 1 << 17  # bytes: what the pickler writes at once is either smaller, or one large value


class Blob(Protocol):
    """What is kept. ``size``: in bytes."""

    @property
    def digest(self) -> bytes: ...

    @property
    def size(self) -> int: ...


class Keeper(Protocol):
    """Where blobs go. Threads may use it at once, if they use the serializer at once."""

    def begin(self) -> int:
        """A value with blobs is being packed: the token of its head."""

    def keep(self, data: Any, token: int) -> Blob:
        """Keep these bytes, which may change afterwards unless they are of the type bytes.

        Raises :class:`OSError` when there is no room.
        """

    def share(self, shared: Shared[Any], large: int) -> None:
        """The buffers of this, as far as they are larger, are about to be kept, and will not change."""

    def find(self, digest: bytes, size: int) -> Any:
        """The bytes, to be read only. Raises :class:`LookupError` when they are not there."""


class BlobSerializer(PickleSerializer):
    """Pickles with ``pickler``; what has more than ``large`` bytes goes to ``keeper``."""

    def __init__(self, pickler: type[pickle.Pickler], large: int, keeper: Keeper) -> None:
        super().__init__(pickler)
        self._large = large
        self._keeper = keeper
        self._pickler = _noting_what_is_shared(self._pickler, keeper, large)

    def pack(self, value: Any, what: str) -> tuple[bytes, tuple[Blob, ...]]:
        """The value as bytes, and the blobs that they need. Raises as :meth:`dumps` does."""
        try:
            if is_plain(value):
                data = pickle.dumps(value, _PROTOCOL)
                if len(data) <= self._large:
                    return data, ()
            packing = _Packing(self._keeper, self._large)
            self.dump(value, packing, packing.take)
            return packing.end()
        except _NoRoomError as error:
            raise SerializationError(f"{what} cannot be sent: {error}", what) from error
        except Exception as error:
            raise self._explain(value, what, error) from error

    def dumps(
        self, value: Any, what: str, buffer_callback: Callable[[pickle.PickleBuffer], object] | None = None
    ) -> bytes:
        """See :meth:`Serializer.dumps`. With a callback there are no blobs."""
        if buffer_callback is not None:
            return super().dumps(value, what, buffer_callback)
        return self.pack(value, what)[0]

    def loads(self, data: bytes | memoryview, what: str, buffers: Iterable[Any] = ()) -> Any:
        """See :meth:`Serializer.loads`."""
        try:
            if data[0] != MAGIC:  # the way of nearly all: it is to cost nothing but this
                return pickle.loads(data, buffers=buffers)
        except Exception as error:
            raise _unreadable(what, error) from error
        return self.load(data, what, self._keeper.find)

    def finding_in(self, find: Find) -> Serializer:
        """The same, but blobs are found there."""
        return _Finding(self, find)

    def load(self, data: bytes | memoryview, what: str, find: Find) -> Any:
        """The value again, given bytes with a head, and who has the blobs. Raises as :meth:`loads` does."""
        try:
            stream, pieces, buffers = _unpack(data, find)
            if pieces:
                return pickle.Unpickler(_Stream(stream, pieces), buffers=buffers).load()
            return pickle.loads(stream, buffers=buffers)
        except Exception as error:
            raise _unreadable(what, error) from error


def _unreadable(what: str, error: Exception) -> SerializationError:
    return SerializationError(f"{what} cannot be unpickled: {type(error).__name__}: {error}", what)


class _Finding(PickleSerializer):
    def __init__(self, serializer: BlobSerializer, find: Find) -> None:
        super().__init__()
        self._serializer = serializer
        self._find = find

    def loads(self, data: bytes | memoryview, what: str, buffers: Iterable[Any] = ()) -> Any:
        if has_blobs(data):
            return self._serializer.load(data, what, self._find)
        return super().loads(data, what, buffers)


class _NoRoomError(Exception):
    """A keeper could not keep something."""


class _Packing:
    """The file that a value is pickled into: the pickler writes what is large in pieces of their own."""

    def __init__(self, keeper: Keeper, large: int) -> None:
        self._keeper = keeper
        self._large = large
        self._token: int | None = None
        self._left: list[bytes] = []
        self._position = 0
        self._parts: list[Part] = []
        self._blobs: dict[bytes, Blob] = {}

    def take(self, buffer: pickle.PickleBuffer) -> bool:
        """Take a buffer out of the pickle; true if it is to stay there."""
        data = buffer.raw()
        if len(data) <= self._large:
            return True
        self._keep(data, BUFFER)
        return False

    def write(self, data: Any) -> int:
        """Take a piece of the pickle."""
        if type(data) is not bytes:
            data = pickle.PickleBuffer(data).raw()
        size = len(data)
        if size > self._large and size > _FRAMES:
            self._keep(data, self._position)
        else:
            self._left.append(bytes(data))
            self._position += size
        return size

    def end(self) -> tuple[bytes, tuple[Blob, ...]]:
        """The payload, and the blobs that it needs."""
        left = b"".join(self._left)
        if len(left) > self._large:
            self._keep(left, REST)
            left = b""
        if not self._parts:
            return left, ()
        return pack_head(self._token or 0, self._parts) + left, tuple(self._blobs.values())

    def _keep(self, data: Any, position: int) -> None:
        try:
            if self._token is None:
                self._token = self._keeper.begin()
            blob = self._keeper.keep(data, self._token)
        except OSError as error:
            raise _NoRoomError(f"there is no room for {len(data)} bytes: {error}") from error
        self._parts.append(Part(blob.digest, blob.size, position))
        self._blobs[blob.digest] = blob


class _Piece(NamedTuple):
    position: int
    data: memoryview


def _unpack(data: bytes | memoryview, find: Find) -> tuple[memoryview, list[_Piece], list[memoryview]]:
    """What is left of a pickle, the pieces that were cut out of it, and the buffers beside it."""
    head = read_head(data)
    stream = memoryview(data)[head.length :]
    pieces: list[_Piece] = []
    buffers: list[memoryview] = []
    for digest, size, position in head.parts:
        found = memoryview(find(digest, size)).toreadonly()
        if len(found) != size:
            raise ValueError(f"a blob of {len(found)} bytes, not {size}")
        if position == BUFFER:
            buffers.append(found)
        elif position == REST:
            stream = found
        else:
            pieces.append(_Piece(position, found))
    return stream, pieces, buffers


class _Stream:
    """The file that a value is unpickled from: a pickle with its pieces where they were."""

    def __init__(self, left: memoryview, pieces: Sequence[_Piece]) -> None:
        self._segments: list[memoryview] = []
        start = 0
        for position, data in pieces:
            self._segments += [left[start:position], data]
            start = position
        self._segments.append(left[start:])
        self._segments.reverse()

    def read(self, size: int) -> bytes:
        """So many bytes, fewer at the end."""
        found = [bytes(part) for part in self._take(size)]
        return found[0] if len(found) == 1 else b"".join(found)

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer, but for the end. Returns how many bytes are in it."""
        target = memoryview(buffer)
        done = 0
        for part in self._take(len(target)):
            target[done : done + len(part)] = part
            done += len(part)
        return done

    def readline(self) -> bytes:
        """Pickles of today's protocols have no lines, but the unpickler wants to know that there might be."""
        line = bytearray()
        while not line.endswith(b"\n") and (byte := self.read(1)):
            line += byte
        return bytes(line)

    def _take(self, size: int) -> Iterable[memoryview]:
        segments = self._segments
        while size and segments:
            part = segments[-1][:size]
            if len(part) == len(segments[-1]):
                segments.pop()
            else:
                segments[-1] = segments[-1][size:]
            size -= len(part)
            yield part


def _noting_what_is_shared(pickler: type[pickle.Pickler], keeper: Keeper, large: int) -> type[pickle.Pickler]:
    inherited = pickler.reducer_override

    class Pickler(pickler):  # type: ignore[misc, valid-type]
        def reducer_override(self, value: Any) -> Any:
            if type(value) is Shared:
                keeper.share(value, large)
            return inherited(self, value)

    return Pickler
