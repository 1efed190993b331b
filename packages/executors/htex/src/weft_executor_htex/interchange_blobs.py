"""The blobs that the interchange has: those that waiting calls need, and some that were needed last."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable

from .messages import Frame

__all__ = ["InterchangeBlobs"]


class InterchangeBlobs:
    """``remainder``: bytes of blobs that are kept although no waiting call needs them."""

    def __init__(self, remainder: int) -> None:
        self._remainder = remainder
        self._frames: dict[bytes, Frame] = {}
        self._needed: Counter[bytes] = Counter()
        self._idle: OrderedDict[bytes, int] = OrderedDict()  # with their sizes, the longest idle first
        self._idle_bytes = 0

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._frames

    def __getitem__(self, digest: bytes) -> Frame:
        return self._frames[digest]

    def __len__(self) -> int:
        return len(self._frames)

    def add(self, digest: bytes, frame: Frame) -> None:
        """Take a blob."""
        if digest not in self._frames:
            self._frames[digest] = frame
            self._rest(digest)

    def need(self, digests: Iterable[bytes]) -> None:
        """Waiting calls need these, which are there."""
        for digest in digests:
            self._needed[digest] += 1
            size = self._idle.pop(digest, None)
            if size is not None:
                self._idle_bytes -= size

    def release(self, digests: Iterable[bytes]) -> None:
        """These calls wait no more."""
        for digest in digests:
            self._needed[digest] -= 1
            if not self._needed[digest]:
                del self._needed[digest]
                self._rest(digest)

    def evict(self) -> list[bytes]:
        """Drop what is too much. Returns what that was."""
        dropped: list[bytes] = []
        while self._idle_bytes > self._remainder:
            digest, size = self._idle.popitem(last=False)
            self._idle_bytes -= size
            del self._frames[digest]
            dropped.append(digest)
        return dropped

    def _rest(self, digest: bytes) -> None:
        size = self._idle[digest] = len(self._frames[digest])
        self._idle_bytes += size
