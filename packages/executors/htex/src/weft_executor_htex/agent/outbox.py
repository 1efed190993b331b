"""What was sent and has not been confirmed: a stream of bytes that can be read again from any place after
that.

::

    confirmed ────────── sent ────────── end
              in blocks: the first ones in memory, those that have no room there in files without a name
"""

from __future__ import annotations

import os
import tempfile
from collections import deque
from collections.abc import Callable
from typing import IO

from ..messages import Frame
from ..stream import let_go

__all__ = ["BLOCK", "Outbox"]

BLOCK = 1 << 16
_ROUND = 32  # blocks after which what has been read of what is put in leaves the memory
_FILE = 512  # blocks in one file: it is freed when all of them have been confirmed


class _File:
    """``left``: blocks in it that are still needed."""

    def __init__(self, directory: str | None) -> None:
        self.file: IO[bytes] = tempfile.TemporaryFile(dir=directory, buffering=0)  # noqa: SIM115
        self.written = self.left = 0


class _Spilled:
    """A block in a file, the how manieth."""

    __slots__ = ("file", "number")

    def __init__(self, file: _File, number: int) -> None:
        self.file = file
        self.number = number


class Outbox:
    """memory: bytes that it has in memory, about. directory: where the files are; None is for none: then all
    of it is in memory. ``trouble`` is told what the disk says when it takes no more, once; what comes then
    stays in memory, too.

    confirmed, sent, end: places in the stream. For one thread at a time.
    """

    def __init__(
        self,
        memory: int,
        directory: str | None = None,
        trouble: Callable[[OSError], object] | None = None,
    ) -> None:
        self.confirmed = self.sent = self.end = 0
        self.spilled = 0  # bytes that are in files
        self._base = 0  # where the first block begins
        self._blocks: deque[bytearray | _Spilled] = deque()
        self._most = max(1, memory // BLOCK)
        self._in_memory = 0
        self._directory = directory
        self._trouble = trouble
        self._full = False
        self._file: _File | None = None

    def __len__(self) -> int:
        """Bytes that have not been confirmed."""
        return self.end - self.confirmed

    def append(self, data: Frame) -> None:
        """Put it at the end."""
        view = memoryview(data)
        self.end += len(view)
        while view:
            last = self._blocks[-1] if self._blocks else None
            if not isinstance(last, bytearray) or len(last) == BLOCK:
                self._make_room()
                if len(self._blocks) % _ROUND == 0:
                    let_go(view)
                last = bytearray()
                self._blocks.append(last)
                self._in_memory += 1
            part = view[: BLOCK - len(last)]
            last += part
            view = view[len(part) :]
        let_go(data)

    def next(self, most: int, window: int) -> tuple[int, bytes] | None:
        """The next bytes to be sent, ``most`` at most, and where they stand, if no more than ``window`` bytes
        are on their way then. Raises :class:`OSError` for what cannot be read from its file.
        """
        size = min(most, self.end - self.sent, self.confirmed + window - self.sent)
        if size <= 0:
            return None
        number, start = divmod(self.sent - self._base, BLOCK)
        data = self._read(self._blocks[number])[start : start + size]
        position = self.sent
        self.sent += len(data)
        return position, bytes(data)

    def confirm(self, received: int) -> None:
        """The other side has got so many. Raises :class:`ValueError` for more than there were."""
        if received > self.end:
            raise ValueError(f"{received} bytes were received of {self.end}")
        self.confirmed = max(self.confirmed, received)
        self.sent = max(self.sent, self.confirmed)
        while self._blocks and self._base + BLOCK <= self.confirmed:
            self._drop(self._blocks.popleft())
            self._base += BLOCK
        if self.confirmed == self.end:
            self._full = False  # there may be room when it is needed again

    def rewind(self, received: int) -> None:
        """A new connection: send from there on what was sent before. Raises :class:`ValueError` when that is
        gone.
        """
        if received < self.confirmed:
            raise ValueError(f"{received} bytes were received, {self.confirmed} had been confirmed")
        self.confirm(received)
        self.sent = self.confirmed

    def close(self) -> None:
        """Drop all."""
        while self._blocks:
            self._drop(self._blocks.popleft())
        if self._file is not None:
            self._file.file.close()

    # -- blocks ---------------------------------------------------------------------------------------------

    def _read(self, block: bytearray | _Spilled) -> bytes | bytearray:
        if isinstance(block, bytearray):
            return block
        return os.pread(block.file.file.fileno(), BLOCK, block.number * BLOCK)

    def _drop(self, block: bytearray | _Spilled) -> None:
        if isinstance(block, bytearray):
            self._in_memory -= 1
            return
        self.spilled -= BLOCK
        block.file.left -= 1
        if not block.file.left:
            block.file.file.close()
            if block.file is self._file:
                self._file = None

    def _make_room(self) -> None:
        """Write the last block, which is full, to a file if there are too many in memory."""
        if self._directory is None or self._full or self._in_memory < self._most:
            return
        block = self._blocks[-1]
        if not isinstance(block, bytearray):
            return
        try:
            file = self._file
            if file is None or file.written == _FILE:
                file = self._file = _File(self._directory)
            written = os.pwrite(file.file.fileno(), block, file.written * BLOCK)
            if written != BLOCK:
                raise OSError(28, "no space left on device")
        except OSError as error:
            self._full = True
            if self._trouble is not None:
                self._trouble(error)
            return
        self._blocks[-1] = _Spilled(file, file.written)
        file.written += 1
        file.left += 1
        self.spilled += BLOCK
        self._in_memory -= 1
