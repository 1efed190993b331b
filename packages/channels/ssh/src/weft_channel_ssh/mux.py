"""What clients of ssh's control socket say, so that a command costs no process of this side.

The protocol is OpenSSH's ``PROTOCOL.mux``, version 4: packets of a length and big-endian words; the streams
of a session are passed as descriptors.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable

from weft_interfaces import ChannelError

from .errors import ConnectError, SessionRefusedError

__all__ = ["Mux", "MuxSession"]

_VERSION = 4
_HELLO = 0x00000001
_NEW_SESSION, _ALIVE_CHECK, _TERMINATE = 0x10000002, 0x10000004, 0x10000005
_PERMISSION_DENIED, _FAILURE, _EXIT = 0x80000002, 0x80000003, 0x80000004
_ALIVE, _OPENED = 0x80000005, 0x80000006
_LONGEST = 1 << 20
_ANSWER = 15.0  # seconds for what is asked of the process on this machine
_NO_ESCAPE = 0xFFFFFFFF


class Mux:
    """One client of a control socket; the connection lives at least as long as it is open.

    Raises :class:`ConnectError` when nobody is there, or goes away.
    """

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.settimeout(_ANSWER)
            self._socket.connect(path)
            kind, rest = self.receive()
            if kind != _HELLO or _word(rest, 0) != _VERSION:
                raise ConnectError(
                    "the control socket of ssh speaks another protocol; OpenSSH >= 5.6 is needed"
                )
            self._send(_HELLO, _VERSION)
        except OSError as error:
            self._socket.close()
            raise ConnectError(f"the ssh that holds the connection is gone: {error}") from error
        except BaseException:
            self._socket.close()
            raise

    def process(self) -> int:
        """The number of the ssh that holds the connection."""
        self._send(_ALIVE_CHECK, 0)
        kind, rest = self.receive()
        if kind != _ALIVE:
            raise ConnectError("ssh does not say whether its connection lives")
        return _word(rest, 4)

    def terminate(self) -> None:
        """Have ssh end the connection, and wait until it has."""
        self._send(_TERMINATE, 0)
        with contextlib.suppress(ConnectError):
            while True:
                self.receive()

    def new_session(self, command: str, streams: list[socket.socket], timeout: float | None) -> None:
        """Ask for a session with these as stdin, stdout and stderr, and wait until the server has agreed.

        Raises :class:`SessionRefusedError` when it has not, :class:`TimeoutError` after so many seconds; when
        the server is gone, ssh notices.
        """
        text = command.encode()
        # reserved; tty, X11, agent, subsystem: none; no escape character; the terminal's type; the command
        rest = _string(b"") + struct.pack(">5I", 0, 0, 0, 0, _NO_ESCAPE) + _string(b"") + _string(text)
        self._send(_NEW_SESSION, 0, rest)
        for stream in streams:
            self._passed(stream)
        self._socket.settimeout(timeout)
        try:
            kind, rest = self.receive()
        except TimeoutError:
            raise TimeoutError("the server has opened no session before the timeout had passed") from None
        self._socket.settimeout(None)
        if kind == _OPENED:
            return
        why = _text(rest, 4) if kind in (_FAILURE, _PERMISSION_DENIED) else f"unexpected answer {kind:#x}"
        raise SessionRefusedError(f"the server opens no further session on this connection: {why}")

    def exit_status(self) -> int:
        """Wait for the end of the session."""
        while True:
            kind, rest = self.receive()
            if kind == _EXIT:
                return _word(rest, 4)

    def settimeout(self, timeout: float | None) -> None:
        """Seconds for the next answers; :class:`TimeoutError` is raised after them."""
        with contextlib.suppress(OSError):
            self._socket.settimeout(timeout)

    def receive(self) -> tuple[int, bytes]:
        """A packet's kind and the rest of it."""
        (length,) = struct.unpack(">I", self._exactly(4))
        if not 4 <= length <= _LONGEST:
            raise ConnectError("the control socket of ssh speaks another protocol")
        packet = self._exactly(length)
        return _word(packet, 0), packet[4:]

    def close(self) -> None:
        """Others who wait for it wait no longer."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _send(self, kind: int, word: int, rest: bytes = b"") -> None:
        packet = struct.pack(">II", kind, word) + rest
        try:
            self._socket.sendall(struct.pack(">I", len(packet)) + packet)
        except OSError as error:
            raise ConnectError(f"the ssh that holds the connection is gone: {error}") from error

    def _passed(self, stream: socket.socket) -> None:
        try:
            socket.send_fds(self._socket, [b"\0"], [stream.fileno()])
        except OSError as error:
            raise ConnectError(f"the ssh that holds the connection is gone: {error}") from error

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            try:
                part = self._socket.recv(size - len(data))
            except TimeoutError:
                raise
            except OSError as error:
                raise ConnectError(f"the ssh that holds the connection is gone: {error}") from error
            if not part:
                raise ConnectError("the ssh that holds the connection is gone")
            data += part
        return data


class MuxSession:
    """A :class:`~.session.Session` of a control socket. lost: the error of a connection that is gone. end:
    when to give up, on the clock of :func:`time.monotonic`.
    """

    def __init__(
        self, path: str, command: str, lost: Callable[[], ChannelError], end: float | None = None
    ) -> None:
        self._lost = lost
        self._waiting = threading.Lock()
        self._status: int | None = None
        with contextlib.ExitStack() as failed, contextlib.ExitStack() as passed:
            self._mux = failed.enter_context(contextlib.closing(Mux(path)))
            streams: list[socket.socket] = []
            theirs: list[socket.socket] = []
            for _ in range(3):
                one, other = socket.socketpair()
                streams.append(failed.enter_context(one))
                theirs.append(passed.enter_context(other))
            self._stdin, self._stdout, self._stderr = streams
            timeout = None if end is None else max(end - time.monotonic(), 0.001)
            self._mux.new_session(command, theirs, timeout)
            failed.pop_all()

    def read(self, size: int) -> bytes:
        return _receive(self._stdout, size)

    def read_stderr(self, size: int) -> bytes:
        return _receive(self._stderr, size)

    def write(self, data: bytes) -> None:
        try:
            self._stdin.sendall(data)
        except OSError as error:
            raise ChannelError("the far side reads no more") from error

    def close_stdin(self) -> None:
        with contextlib.suppress(OSError):
            self._stdin.shutdown(socket.SHUT_WR)

    def wait(self, timeout: float | None = None) -> int:
        if not self._waiting.acquire(timeout=-1 if timeout is None else timeout):
            raise TimeoutError
        try:
            if self._status is None:
                self._mux.settimeout(timeout)
                self._status = self._mux.exit_status()
            return self._status
        except ConnectError:
            raise self._lost() from None
        finally:
            self._waiting.release()

    def close(self) -> None:
        self._mux.close()
        for stream in (self._stdin, self._stdout, self._stderr):
            with contextlib.suppress(OSError):
                stream.shutdown(socket.SHUT_RDWR)
            stream.close()


def _receive(stream: socket.socket, size: int) -> bytes:
    try:
        return stream.recv(size)
    except OSError:  # closed meanwhile
        return b""


def _word(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 4], "big")


def _string(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def _text(data: bytes, at: int) -> str:
    return data[at + 4 : at + 4 + _word(data, at)].decode(errors="replace")
