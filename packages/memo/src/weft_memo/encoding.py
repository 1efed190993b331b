"""Values as bytes: the format, and the types that need no look inside.

An encoding begins with a tag of one byte and ends itself, so that encodings can be strung together. One of
more than 128 bytes is replaced by ``#`` and its digest: what holds it stays small, and what occurs often is
hashed once. The digest of a value is the BLAKE3 digest of its encoding before that replacement.

::

    ~ ! ^                 None, True, False              i count bytes        int, little endian
    f c                   float, complex: IEEE 754       s b y count bytes    str (UTF-8), bytes, bytearray
    ( [ count parts       tuple, list                    { < > count parts    dict, set, frozenset: sorted
    # digest              what is longer than that       other letters        see kinds.py and standard.py

The format is frozen: tests/digests.json holds digests that every version must reproduce.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Final

from blake3 import blake3

__all__ = [
    "COUNTS",
    "HASHED",
    "LEAVES",
    "LONGEST",
    "SMALL",
    "WORDS",
    "Encoding",
    "compress",
    "content",
    "count",
    "double",
    "fingerprint",
    "integer",
    "text",
    "word",
]

Encoding = bytes
HASHED: Final = ord("#")
LONGEST: Final = 128
DIGEST: Final = 32
MOST_WORDS: Final = 4096
THREADED: Final = 1 << 20  # bytes from which on several threads are faster than one


def fingerprint(data: Any) -> bytes:
    """The BLAKE3 digest of a contiguous buffer, which is not copied."""
    size = data.nbytes if isinstance(data, memoryview) else len(data)
    if size < THREADED:
        return blake3(data).digest()
    return blake3(data, max_threads=blake3.AUTO).digest()


def compress(body: bytes) -> Encoding:
    """What stands for a body in whatever holds it."""
    return body if len(body) <= LONGEST else b"#" + fingerprint(body)


COUNTS = tuple(bytes([number]) for number in range(255))


def count(number: int) -> bytes:
    """A number >= 0 that ends itself."""
    return COUNTS[number] if number < 255 else b"\xff" + number.to_bytes(8, "little")


def text(value: str) -> bytes:
    """Text that ends itself, for names."""
    data = value.encode("utf-8", "surrogatepass")
    return count(len(data)) + data


def content(tag: bytes, data: Any) -> Encoding:
    """A tag and a buffer, which is not copied if it is large."""
    size = data.nbytes if isinstance(data, memoryview) else len(data)
    if size <= LONGEST:
        return compress(tag + count(size) + bytes(data))
    return compress(tag + count(size) + b"#" + fingerprint(data))


_INTS = tuple(b"i" + one for one in COUNTS[: LONGEST - 9])


def integer(value: int) -> Encoding:
    """A whole number."""
    size = (value.bit_length() >> 3) + 1
    data = value.to_bytes(size, "little", signed=True)
    return _INTS[size] + data if size < len(_INTS) else content(b"i", data)


SMALL = {number: integer(number) for number in range(-128, 1024)}
double = struct.Struct("<cd").pack
_doubles = struct.Struct("<cdd").pack


def _float(value: float) -> Encoding:
    return double(b"f", value)


def _complex(value: complex) -> Encoding:
    return _doubles(b"c", value.real, value.imag)


WORDS: dict[str, Encoding] = {}  # of short texts that were met: names and keys occur again and again


def word(value: str) -> Encoding:
    """Text, whose encoding is kept if it is short."""
    data = value.encode("utf-8", "surrogatepass")
    size = len(data)
    if size >= 120:
        return content(b"s", data)
    encoding = b"s" + COUNTS[size] + data
    if size < 40:
        if len(WORDS) >= MOST_WORDS:
            WORDS.clear()
        WORDS[value] = encoding
    return encoding


def _bytes(value: bytes) -> Encoding:
    return content(b"b", value)


def _bytearray(value: bytearray) -> Encoding:
    return content(b"y", value)


LEAVES: dict[type, Callable[[Any], Encoding]] = {
    type(None): lambda _: b"~",
    bool: lambda value: b"!" if value else b"^",
    int: lambda value: SMALL.get(value) or integer(value),
    float: _float,
    complex: _complex,
    str: lambda value: WORDS.get(value) or word(value),
    bytes: _bytes,
    bytearray: _bytearray,
    type(...): lambda _: b".",
    type(NotImplemented): lambda _: b"_",
}
