"""A socket that notices silence, wakes up when it is closed, and is read in large parts."""

from __future__ import annotations

import contextlib
import errno
import socket
import time
from collections.abc import Callable
from typing import Any

__all__ = ["Silent", "Wire", "connect"]

_TURN = 1.0  # seconds that a read or a write waits before paramiko looks around
_PART = 1 << 18  # bytes read at once


class Silent(OSError):
    """The other side has not said a word, or taken a byte, for too long."""


class Wire:
    """What paramiko reads and writes. ``below`` is a socket, or a channel through a jump host.

    Once :meth:`watch` is called, silence is answered by ``probe`` each ``interval`` seconds, and after
    ``count`` probes without an answer reading raises :class:`Silent`. Time in which this process was stopped
    does not count.
    """

    def __init__(self, below: Any) -> None:
        self._below = below
        self._buffer = memoryview(b"")
        self._probe: Callable[[], None] | None = None
        self._interval, self._count = 0.0, 0
        self._unanswered, self._probed = 0, 0.0
        self._stuck = 0
        self.trouble: OSError | None = None  # what ended it
        self._closed = False  # paramiko looks at it, as it does at that of a socket
        below.settimeout(_TURN)

    def watch(self, probe: Callable[[], None], interval: float, count: int) -> None:
        """From now on, look whether the other side is there."""
        self._probed, self._interval, self._count = time.monotonic(), interval, max(1, count)
        self._probe = probe if interval > 0 else None

    def settimeout(self, timeout: float | None) -> None:
        """What paramiko asks for is not needed: closing wakes who waits."""

    def getpeername(self) -> Any:
        return self._below.getpeername()

    def recv(self, size: int) -> bytes:
        if not self._buffer:
            try:
                data = self._below.recv(_PART)
            except TimeoutError:
                self._look()
                raise
            except OSError as error:
                self._end(error)
                raise
            self._unanswered = 0
            self._probed = time.monotonic()
            if len(data) <= size:
                return bytes(data)
            self._buffer = memoryview(data)
        part, self._buffer = self._buffer[:size], self._buffer[size:]
        return part.tobytes()

    def send(self, data: bytes) -> int:
        try:
            sent = int(self._below.send(data))
        except TimeoutError:
            self._stuck += 1
            if self._probe is not None and self._stuck * _TURN > self._interval * (self._count + 1):
                self.trouble = _silent(f"it took nothing for {self._stuck * _TURN:g} s")
                self.close()
                raise self.trouble from None
            raise
        except OSError as error:
            self._end(error)
            raise
        self._stuck = 0
        return sent

    def blame(self, words: str) -> None:
        """What it is to be said to have ended by, unless something has ended it already."""
        self.trouble = self.trouble or _silent(words)

    def _end(self, error: OSError) -> None:
        if not self._closed:  # what this side has closed is broken, of course
            self.trouble = self.trouble or error

    def close(self) -> None:
        self._closed = True
        if isinstance(self._below, socket.socket):
            with contextlib.suppress(OSError):
                self._below.shutdown(socket.SHUT_RDWR)  # wakes who reads or writes now
        with contextlib.suppress(OSError, EOFError):
            self._below.close()

    def abandon(self) -> None:
        """After a fork: let go of the descriptor, without a word to the other side, whose peer is the
        parent.
        """
        self._closed = True
        if isinstance(self._below, socket.socket):
            with contextlib.suppress(OSError):
                self._below.close()

    def _look(self) -> None:
        if self._probe is None or time.monotonic() - self._probed < self._interval:
            return
        if self._unanswered >= self._count:
            self.trouble = _silent(
                f"it did not answer {self._unanswered} times within {self._unanswered * self._interval:g} s"
            )
            raise self.trouble
        self._unanswered += 1
        self._probed = time.monotonic()
        self._probe()


def _silent(words: str) -> Silent:
    return Silent(errno.ETIMEDOUT, words)  # paramiko looks for a number


def connect(hostname: str, port: int, timeout: float) -> socket.socket:
    """A connection that sends what is small at once. Raises :class:`OSError`."""
    sock = socket.create_connection((hostname, port), timeout)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    return sock
