"""What a file's content is known by on both sides."""

from __future__ import annotations

import hashlib
import zlib
from typing import IO, NamedTuple

__all__ = ["FAR_SUM", "Digest", "digest", "is_known"]

_CHUNK = 1 << 20
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))

# A function of sh: the kind and the sum of its stdin. Every system has one of these.
FAR_SUM = """
weft_sum() {
    if command -v sha256sum >/dev/null; then set -- sha256 $(sha256sum)
    elif command -v shasum >/dev/null; then set -- sha256 $(shasum -a 256)
    elif command -v openssl >/dev/null; then set -- sha256 $(openssl dgst -sha256 -r)
    elif command -v python3 >/dev/null; then
        set -- sha256 $(python3 -c 'import hashlib, sys
sum = hashlib.sha256()
for part in iter(lambda: sys.stdin.buffer.read(65536), b""): sum.update(part)
print(sum.hexdigest())')
    else set -- cksum $(cksum); fi
    [ -n "$2" ] && echo "$1:$2"
} 2>/dev/null
"""


class Digest(NamedTuple):
    """Of so many bytes: SHA-256 in hexadecimal, and the sum of POSIX's ``cksum``."""

    size: int
    sha256: str
    cksum: int

    @property
    def sums(self) -> list[str]:
        """As ``weft_sum`` writes them."""
        return [f"sha256:{self.sha256}", f"cksum:{self.cksum}"]


def digest(stream: IO[bytes], size: int | None = None) -> Digest:
    """Of the first ``size`` bytes, or all."""
    stream.seek(0)
    left, length, sha = size, 0, hashlib.sha256()
    # cksum's is the CRC of zlib with all bits in the other order, and another begin.
    crc = 0xFFFFFFFF
    while data := stream.read(_CHUNK if left is None else min(_CHUNK, left)):
        sha.update(data)
        crc = zlib.crc32(data.translate(_REVERSED), crc)
        length += len(data)
        left = None if left is None else left - len(data)
    tail = length.to_bytes((length.bit_length() + 7) // 8, "little")
    crc = zlib.crc32(tail.translate(_REVERSED), crc)
    return Digest(length, sha.hexdigest(), int(f"{crc:032b}"[::-1], 2))


def is_known(text: str) -> bool:
    """Whether ``text`` is what ``weft_sum`` writes."""
    kind, _, value = text.partition(":")
    return (kind == "sha256" and len(value) == 64) or (kind == "cksum" and value.isdigit())
