"""Finding the wrapper's words in a stream that comes in parts."""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ["Sieve"]


class Sieve:
    """Takes lines that begin with a mark, wherever on a line that is, out of a stream.

    What may be the begin of a mark is held back until more is known; a mark begins with a byte that hardly
    anything else has, so this delays nothing.
    """

    def __init__(self, mark: bytes) -> None:
        self._mark = mark
        self._held = b""

    def sift(self, data: bytes) -> Iterator[tuple[bytes, bytes | None]]:
        """Data, and the rest of the line with a mark that came after it, if one has come."""
        data = self._held + data
        while (at := data.find(self._mark)) >= 0 and (end := data.find(b"\n", at)) >= 0:
            yield data[:at], data[at + len(self._mark) : end]
            data = data[end + 1 :]
        if at < 0:
            longest = min(len(self._mark), len(data))
            part = next((n for n in range(longest, 0, -1) if data.endswith(self._mark[:n])), 0)
            at = len(data) - part
        self._held = data[at:]
        yield data[:at], None

    def data(self, data: bytes) -> bytes:
        """The data alone."""
        if not self._held and self._mark[:1] not in data:
            return data
        return b"".join(part for part, _ in self.sift(data))

    def rest(self) -> bytes:
        """What is held back when no more comes."""
        held, self._held = self._held, b""
        return held
