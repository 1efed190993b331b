"""A manager's connection with the interchange: a unix socket on the same machine, TLS from elsewhere."""

from __future__ import annotations

import contextlib
import math
import os
import socket
import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from .messages import Frame
from .setup import Endpoint, ManagerSetup
from .stream import StreamReader, pack

if TYPE_CHECKING:
    from .tls import TlsEnd

__all__ = ["Link", "clear_away", "connect"]

_RECEIVE = 1 << 16


class Link(Protocol):
    """What a manager needs of it. For one thread."""

    def fileno(self) -> int:
        """What can be read when something has come, at least."""

    def receive(self) -> list[list[Frame]] | None:
        """The messages that have come, without waiting; None when the interchange is gone."""

    def due(self) -> float:
        """When :meth:`receive` must be called at the latest, in seconds of :func:`time.monotonic`."""

    def trouble(self) -> str:
        """What keeps it from the interchange, in words; empty if nothing does."""

    def send(self, frames: Sequence[Frame]) -> None:
        """Send a message. What cannot be sent any more is dropped."""

    def close(self) -> None:
        """Send what is left, for a second at most."""


def connect(endpoint: Endpoint, setup: ManagerSetup, end: TlsEnd | None = None) -> Link:
    """Connect. Raises :class:`OSError` when nobody listens on this machine.

    ``end``: for processes with many links, see :func:`~.tls_link.make_end`; others make it themselves.
    """
    scheme, _, place = endpoint.url.partition("://")
    if scheme == "unix":
        return _UnixLink(place, setup.heartbeat_threshold)
    if scheme != "tls":
        raise OSError(f"{endpoint.url}: this version of weft-executor-htex knows unix:// and tls:// only")
    from .tls_link import TlsLink, make_end

    if end is None:
        end = make_end(endpoint, setup.access)
    return TlsLink(place, end, setup.heartbeat_threshold)


class _UnixLink:
    def __init__(self, path: str, patience: float) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        try:
            self._socket.connect(path)
        except BaseException:
            self._socket.close()
            raise
        # Sending waits while the interchange has no time to read, but not for ever.
        timeout = struct.pack("ll", int(patience), int(patience % 1 * 1e6))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeout)
        self._reader = StreamReader()
        self._path = path
        self._gone = False

    def fileno(self) -> int:
        return self._socket.fileno()

    def receive(self) -> list[list[Frame]] | None:
        if self._gone:
            return None
        try:
            data = self._socket.recv(_RECEIVE, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return []
        except OSError:
            data = b""
        self._gone = not data
        return self._reader.feed(data) if data else None

    def due(self) -> float:
        return math.inf

    def trouble(self) -> str:
        return ""

    def send(self, frames: Sequence[Frame]) -> None:
        try:
            for part in pack(frames):
                self._socket.sendall(part)
        except OSError:
            self._gone = True

    def close(self) -> None:
        self._socket.close()
        if self._gone:
            clear_away(f"unix://{self._path}")


def clear_away(url: str) -> None:
    """Remove the socket and its directory where an interchange of this machine listened, if it was killed."""
    scheme, _, path = url.partition("://")
    if scheme != "unix":
        return
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:  # nobody listens
            with contextlib.suppress(OSError):  # another manager was faster
                os.unlink(path)
                os.rmdir(os.path.dirname(path))
        except OSError:
            return
