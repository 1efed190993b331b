"""One command line over a connection of ours."""

from __future__ import annotations

import contextlib
import threading
import time

import paramiko
from paramiko import Message
from paramiko.common import cMSG_CHANNEL_REQUEST
from weft_interfaces import ChannelError

from .connection import WINDOW, Connection
from .errors import SessionEndedError, SessionRefusedError
from .transport import Transport

__all__ = ["RemoteSession"]

_OPEN = 30.0  # seconds that a server may take to open a session
_FORGETTING = 1.0  # seconds after the end of a session in which the server may still count it
_PART = 32_000  # bytes of one message; servers take no larger ones


class RemoteSession:
    """A :class:`~.session.Session` on a channel of paramiko."""

    def __init__(self, connection: Connection, transport: Transport, channel: paramiko.Channel) -> None:
        self._connection, self._transport, self._channel = connection, transport, channel
        self._readable = [memoryview(b""), memoryview(b"")]
        self._closed = False

    @classmethod
    def start(cls, connection: Connection, command: str, end: float | None = None) -> RemoteSession:
        """Open a session and have it run ``command``; the server's word that it does is not waited for."""
        for last in (False, True):
            transport = connection.transport(end)
            try:
                channel = _open(transport, connection)
                _execute(transport, channel, command)
            except (paramiko.SSHException, EOFError, OSError) as error:
                # Nothing has run yet, so a connection that was lost unnoticed may be replaced.
                lost = connection.drop(transport, error)
                if last:
                    raise lost from error
            else:
                return cls(connection, transport, channel)
        raise AssertionError("the last attempt returns or raises")

    def read(self, size: int) -> bytes:
        return self._read(size, 0)

    def read_stderr(self, size: int) -> bytes:
        return self._read(size, 1)

    def _read(self, size: int, stream: int) -> bytes:
        data = self._readable[stream]
        if not data:
            receive = (self._channel.recv, self._channel.recv_stderr)[stream]
            # All that is there: paramiko moves the rest of its buffer at each read.
            with self._transport.using(self._channel):
                data = memoryview(receive(max(size, WINDOW)))
            if not data:
                self._check_end()
                return b""
        self._readable[stream] = data[size:]
        return bytes(data[:size])

    def _check_end(self) -> None:
        """Whether the end of a stream is one, and not that of the connection."""
        if not self._closed and not self._channel.eof_received and not self._transport.is_active():
            raise self._connection.why_lost()

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            try:
                with self._transport.using(self._channel):
                    sent = self._channel.send(bytes(view[:_PART]))
            except (paramiko.SSHException, EOFError, OSError) as error:
                raise self._gone() from error
            if not sent or self._channel.closed:
                raise self._gone()
            view = view[sent:]

    def _gone(self) -> ChannelError:
        if self._transport.is_active():
            return ChannelError(
                f"{self._connection.destination}: the command reads no more: it has ended or was closed"
            )
        return self._connection.why_lost()

    def close_stdin(self) -> None:
        with (
            contextlib.suppress(paramiko.SSHException, EOFError, OSError),
            self._transport.using(self._channel),
        ):
            self._channel.shutdown_write()

    def wait(self, timeout: float | None = None) -> int:
        channel = self._channel
        if not channel.status_event.wait(threading.TIMEOUT_MAX if timeout is None else timeout):
            raise TimeoutError(
                f"{self._connection.destination}: the command has not ended within {timeout} s"
            )
        if channel.exit_status >= 0:
            return channel.exit_status
        if self._closed:
            raise ChannelError(f"{self._connection.destination}: the command was let go of")
        if not self._transport.is_active():
            raise self._connection.why_lost()
        if not channel.event_ready:
            raise SessionEndedError(
                f"{self._connection.destination}: the server runs no commands for this user (sftp only, or "
                "another restriction of the account)"
            )
        return 255  # ended by a signal, or by a server that says no more

    def close(self) -> None:
        self._closed = True
        with contextlib.suppress(paramiko.SSHException, EOFError, OSError):
            if not self._channel.closed:
                self._channel.close()
            self._connection.last_session = time.monotonic()


def _open(transport: Transport, connection: Connection) -> paramiko.Channel:
    """Raises :class:`SessionRefusedError` when the server says no."""
    pauses = [0.005 * 2**number for number in range(7)]
    while True:
        try:
            return transport.open_session(window_size=WINDOW, timeout=_OPEN)
        except paramiko.SSHException as error:
            if not _is_refusal(transport, error):
                raise
            # OpenSSH forgets a session somewhat later than it takes the word that it is closed.
            if not pauses or time.monotonic() - connection.last_session > _FORGETTING:
                raise SessionRefusedError(
                    f"{connection.destination}: the server opens no further session (MaxSessions): {error}"
                ) from error
            time.sleep(pauses.pop(0))


def _is_refusal(transport: Transport, error: Exception) -> bool:
    """Whether the server said no. Of threads that are refused together, paramiko tells but one why."""
    if isinstance(error, paramiko.ChannelException):
        return True
    return transport.is_active() and str(error) == "Unable to open channel."


def _execute(transport: Transport, channel: paramiko.Channel, command: str) -> None:
    """paramiko's own exec_command waits for the answer: a round trip, and without a limit."""
    message = Message()
    message.add_byte(cMSG_CHANNEL_REQUEST)
    message.add_int(channel.remote_chanid)
    message.add_string("exec")
    message.add_boolean(True)
    message.add_string(command.encode(errors="surrogateescape"))
    with transport.using(channel):
        transport._send_user_message(message)
