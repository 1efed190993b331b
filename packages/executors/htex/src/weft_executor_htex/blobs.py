"""What is large in arguments and results: named by its content, and kept out of what refers to it.

A payload with blobs begins with a head that names them; one without is a plain pickle, whose first byte
differs. The blobs are buffers of the pickle (protocol 5), or pieces that were cut out of it: each has a
position at which it belongs, and the pickle that is left stands behind the head, or is a blob itself.

::

    MAGIC, token, count │ digest, size, position │ digest, size, position │ ... │ what is left of the pickle
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

from blake3 import blake3

from .messages import DIGEST

__all__ = [
    "BUFFER",
    "MAGIC",
    "REST",
    "Head",
    "Part",
    "digest_of",
    "has_blobs",
    "pack_head",
    "read_head",
]

MAGIC = 0xB1  # pickles begin with 0x80
BUFFER = (1 << 64) - 1  # the position of a blob that is a buffer beside the pickle
REST = BUFFER - 1  # and of one that is what is left of the pickle
_HEAD = struct.Struct("<BQI")
_PART = struct.Struct(f"<{DIGEST}sQQ")
_MOST_THREADS = 4
_THREADS_FROM = 32 << 20  # bytes from which on several threads are faster than one


class Part(NamedTuple):
    """A blob, and where it belongs."""

    digest: bytes
    size: int
    position: int


class Head(NamedTuple):
    """``token``: tells which file of a worker's has a blob, 0 for none. ``length``: of the head, in bytes."""

    token: int
    parts: list[Part]
    length: int


def has_blobs(payload: Any) -> bool:
    """Whether a payload begins with a head."""
    return bool(payload) and payload[0] == MAGIC


def pack_head(token: int, parts: Sequence[Part]) -> bytes:
    """The head as bytes."""
    return _HEAD.pack(MAGIC, token, len(parts)) + b"".join(_PART.pack(*part) for part in parts)


def read_head(payload: Any) -> Head:
    """The head of a payload that has blobs. Raises :class:`ValueError` for one that cannot be true."""
    view = memoryview(payload)
    if len(view) < _HEAD.size:
        raise ValueError("a head that is too short")
    magic, token, count = _HEAD.unpack_from(view)
    length = _HEAD.size + count * _PART.size
    if magic != MAGIC or length > len(view):
        raise ValueError("a head that is too short")
    parts = [Part(*fields) for fields in _PART.iter_unpack(view[_HEAD.size : length])]
    _check(parts, len(view) - length)
    return Head(token, parts, length)


def _check(parts: Sequence[Part], left: int) -> None:
    rests = [part.size for part in parts if part.position == REST]
    if len(rests) > 1 or (rests and left):
        raise ValueError("what is left of the pickle is there twice")
    most = rests[0] if rests else left
    positions = [part.position for part in parts if part.position < REST]
    if positions and (max(positions) > most or positions != sorted(positions)):
        raise ValueError("a blob that belongs nowhere")


def digest_of(data: Any, threads: int = 0) -> bytes:
    """Names a content. ``threads``: how many work on it, by default as many as help."""
    # Threads of its own, not those of a pool for the whole process, which a fork would not have.
    size = memoryview(data).nbytes
    most = threads or min(_MOST_THREADS, os.cpu_count() or 1)
    return blake3(data, max_threads=most if size >= _THREADS_FROM else 1).digest()
