"""Messages over TLS over a socket, for both ends; it never waits. With the standard library alone.

Each end has a certificate that was made for the run, and takes that of the other side only. TLS 1.3.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import ssl
from collections import deque
from collections.abc import Iterator, Sequence

from .messages import Frame
from .setup import Identity
from .stream import StreamReader, let_go, pack

__all__ = ["BrokenError", "TlsEnd", "TlsStream"]

_RECORD = 1 << 14  # bytes that TLS has in one piece at most
_RECEIVE = 1 << 18
_AT_ONCE = 1 << 18  # bytes that are encrypted before they are sent
_CLOSED = "the other side has closed the connection"
_WORDS = {
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "no certificate",
    "CERTIFICATE_VERIFY_FAILED": "a certificate that is not of this run",
    "TLSV1_ALERT_UNKNOWN_CA": "it does not take the certificate of this run",
    "TLSV1_ALERT_DECRYPT_ERROR": "it does not take the certificate of this run",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "it wants a certificate",
    "UNSUPPORTED_PROTOCOL": "an old version of TLS",
    "TLSV1_ALERT_PROTOCOL_VERSION": "an old version of TLS",
    "HTTP_REQUEST": "no TLS",
    "HTTPS_PROXY_REQUEST": "no TLS",
    "WRONG_VERSION_NUMBER": "no TLS",
    "UNEXPECTED_MESSAGE": "no TLS",
    "RECORD_TOO_SMALL": "no TLS",
}


class BrokenError(Exception):
    """A connection has ended. Its text says why."""


class TlsEnd:
    """Who this side is, and whose certificate alone it takes, ``peer``. For one thread at a time.

    Raises :class:`OSError` when this Python cannot do what is needed, or the identity is none.
    """

    def __init__(self, identity: Identity, peer: str, *, server_side: bool) -> None:
        if not ssl.HAS_TLSv1_3:
            raise OSError(
                f"TLS 1.3 is needed, and the ssl module of this Python ({ssl.OPENSSL_VERSION}) has none"
            )
        self.server_side = server_side
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server_side else ssl.PROTOCOL_TLS_CLIENT)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_3
        self.context.check_hostname = False  # the certificate itself is known
        self.context.verify_mode = ssl.CERT_REQUIRED
        self.context.load_verify_locations(cadata=peer)
        self.pin = ssl.PEM_cert_to_DER_cert(peer)
        with _readable(identity.certificate) as certificate, _readable(identity.key) as key:
            self.context.load_cert_chain(certificate, key)
        if server_side:
            self.context.num_tickets = 0  # nothing is resumed: sessions are our own
        self.buffer = memoryview(bytearray(_RECEIVE))


@contextlib.contextmanager
def _readable(text: str) -> Iterator[str]:
    """A path where the text can be read once: :mod:`ssl` takes keys from files only, and none is written."""
    reading, writing = os.pipe()
    try:
        with open(writing, "wb") as stream:
            stream.write(text.encode())  # much less than a pipe takes
        yield f"/dev/fd/{reading}"
    finally:
        os.close(reading)


class TlsStream:
    """One connection; owns the socket. ``established``: both sides know who the other one is."""

    def __init__(self, connection: socket.socket, end: TlsEnd, patience: float) -> None:
        self.established = False
        self._socket = connection
        self._end = end
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = end.context.wrap_bio(self._incoming, self._outgoing, server_side=end.server_side)
        self._reader = StreamReader()
        self._left: deque[memoryview] = deque()  # as it is
        self._sending = memoryview(b"")  # encrypted
        _prepare(connection, patience)

    def fileno(self) -> int:
        """The socket's."""
        return self._socket.fileno()

    def start(self) -> None:
        """Say the first word of the handshake."""
        with contextlib.suppress(ssl.SSLWantReadError):
            self._tls.do_handshake()
        self.flush()

    def receive(self) -> list[list[Frame]]:
        """The messages that have come, of what the socket gives at once.

        Raises :class:`BrokenError` when nothing can come any more, and :class:`MalformedError`, a ValueError,
        for what is no message.
        """
        buffer = self._end.buffer
        try:
            size = self._socket.recv_into(buffer)
        except BlockingIOError:
            return []
        except OSError as error:
            if error.errno == errno.ENOTCONN and not self.established:  # not yet, on some systems
                return []
            raise BrokenError(error.strerror or str(error)) from error
        if not size:
            raise BrokenError(_CLOSED if self.established else "it left during the handshake")
        self._incoming.write(buffer[:size])
        try:
            return self._read() if self.established or self._shake() else []
        except ssl.SSLError as error:
            self.flush()  # says the other side why
            raise BrokenError(_WORDS.get(error.reason or "", f"TLS: {error.reason or error}")) from error

    def _shake(self) -> bool:
        """Go on with the handshake; whether that was all."""
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self.flush()
            return False
        if self._tls.getpeercert(True) != self._end.pin:
            raise BrokenError(_WORDS["CERTIFICATE_VERIFY_FAILED"])
        self.established = True
        self.flush()
        return True

    def _read(self) -> list[list[Frame]]:
        messages: list[list[Frame]] = []
        while self._incoming.pending or self._tls.pending():
            try:
                data = self._tls.read(_RECORD)
            except ssl.SSLWantReadError:  # the rest of a record is still to come
                break
            if not data:
                raise BrokenError(_CLOSED)
            messages += self._reader.feed(data)
        if self._outgoing.pending:
            self.flush()
        return messages

    @property
    def connected(self) -> bool:
        """Whether the other side's system has answered."""
        try:
            self._socket.getpeername()
        except OSError:
            return False
        return True

    @property
    def waiting(self) -> bool:
        """Whether something is left that the socket had no room for."""
        return bool(self._sending)

    def send(self, frames: Sequence[Frame]) -> None:
        """Send what goes now, and keep the rest for :meth:`flush`. To one that has ended nothing is sent."""
        self._left.extend(memoryview(part) for part in pack(frames))
        self.flush()

    def flush(self) -> bool:
        """Send what goes now of what is left; whether that was all."""
        while True:
            if not self._sending:
                self._encrypt()
                if not self._sending:
                    return not self._left
            try:
                sent = self._socket.send(self._sending)
            except BlockingIOError:
                return False
            except OSError as error:
                if error.errno == errno.ENOTCONN and not self.established:
                    return False
                self._left.clear()  # the other side is gone, which will be read
                self._sending = memoryview(b"")
                return True
            self._sending = self._sending[sent:]

    def _encrypt(self) -> None:
        left, outgoing = self._left, self._outgoing
        if self.established:
            while left and outgoing.pending < _AT_ONCE:
                part = left[0]
                written = self._tls.write(part[:_AT_ONCE])
                let_go(part)
                if written == len(part):
                    left.popleft()
                else:
                    left[0] = part[written:]
        if outgoing.pending:
            self._sending = memoryview(outgoing.read())

    def close(self) -> None:
        """Close, at once."""
        self._left.clear()
        self._socket.close()


def _prepare(connection: socket.socket, patience: float) -> None:
    """What is sent goes at once; what nobody confirms for ``patience`` seconds breaks the connection."""
    connection.setblocking(False)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    timeout = getattr(socket, "TCP_USER_TIMEOUT", None)  # Linux alone has it; heartbeats find it elsewhere
    if timeout is not None:
        connection.setsockopt(socket.IPPROTO_TCP, timeout, max(1, int(1000 * patience)))
