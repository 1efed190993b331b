"""A manager's connection with the interchange: a unix socket on the same machine, TCP from elsewhere."""

from __future__ import annotations

import contextlib
import math
import os
import secrets
import socket
import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from .messages import Frame
from .session import Session
from .setup import Endpoint, ManagerSetup
from .stream import StreamReader, pack

if TYPE_CHECKING:
    import zmq

    from .tls import TlsEnd

__all__ = ["Link", "clear_away", "connect"]

_LARGE = 1 << 16
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


def connect(
    endpoint: Endpoint,
    setup: ManagerSetup,
    context: zmq.Context[Any] | None = None,
    end: TlsEnd | None = None,
) -> Link:
    """Connect. Raises :class:`OSError` when nobody listens on this machine.

    ``context``: ZeroMQ's, for processes with many links; each has one of its own unless said. So it is
    with ``end``, see :func:`~.tls_link.make_end`.
    """
    scheme, _, place = endpoint.url.partition("://")
    if scheme == "unix":
        return _UnixLink(place, setup.heartbeat_threshold)
    if scheme == "tls":
        from .tls_link import TlsLink, make_end

        return TlsLink(
            place, make_end(endpoint, setup.access) if end is None else end, setup.heartbeat_threshold
        )
    return _TcpLink(endpoint, setup, context)


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


class _TcpLink:
    def __init__(self, endpoint: Endpoint, setup: ManagerSetup, context: zmq.Context[Any] | None) -> None:
        import zmq

        self._session = Session()
        self._again = zmq.Again
        self._noblock = zmq.NOBLOCK
        self._own: zmq.Context[Any] | None = None
        if context is None:
            context = self._own = zmq.Context()
        self._socket: zmq.Socket[bytes] = context.socket(zmq.DEALER)
        for option, value in (
            (zmq.SNDHWM, 0),
            (zmq.RCVHWM, 0),
            (zmq.RECONNECT_IVL, 50),
            (zmq.RECONNECT_IVL_MAX, 1000),
            (zmq.ROUTING_ID, b"\1" + secrets.token_bytes(15)),
            (zmq.CURVE_SERVERKEY, endpoint.server_key or b""),
            (zmq.CURVE_PUBLICKEY, setup.access.public_key),
            (zmq.CURVE_SECRETKEY, setup.access.secret_key),
        ):
            self._socket.set(option, value)
        self._socket.copy_threshold = _LARGE
        self._socket.connect(endpoint.url)

    def fileno(self) -> int:
        return self._socket.fileno()

    def receive(self) -> list[list[Frame]] | None:
        # Its descriptor tells of a change only once: take all that there is.
        messages: list[list[Frame]] = []
        with contextlib.suppress(self._again):
            while True:
                message, again = self._session.unpack(self._socket.recv_multipart(self._noblock))
                if message is not None:
                    messages.append(message)
                for frames in again:
                    self._socket.send_multipart(frames, copy=False)
        return messages

    def due(self) -> float:
        return math.inf

    def trouble(self) -> str:
        return ""

    def send(self, frames: Sequence[Frame]) -> None:
        self._socket.send_multipart(self._session.pack(frames), copy=False)

    def close(self) -> None:
        self._socket.close(linger=1000)
        if self._own is not None:
            self._own.term()
