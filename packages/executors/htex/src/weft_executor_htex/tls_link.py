"""A manager's connection with an interchange on another machine: TLS, made again when it breaks."""

from __future__ import annotations

import math
import os
import random
import secrets
import selectors
import socket
import time
from collections.abc import Sequence

from .messages import Frame
from .port import HELLO, ID_SIZE, NUMBERS
from .session import Session
from .setup import Endpoint, ManagerAccess
from .tls import BrokenError, TlsEnd, TlsStream

__all__ = ["TlsLink", "make_end"]

_SOON, _LATE = 0.05, 1.0  # seconds until the next attempt: after the first one that failed, and at the most
_END = 1.0  # seconds in which, at the end, what is left is sent


def make_end(endpoint: Endpoint, access: ManagerAccess) -> TlsEnd:
    """A manager's. Raises :class:`OSError` where the setup has no keys, or this Python no TLS 1.3."""
    if access.identity is None or endpoint.certificate is None:
        raise OSError("the setup has no keys")
    return TlsEnd(access.identity, endpoint.certificate, server_side=False)


class TlsLink:
    """See :class:`~.link.Link`. Its ``fileno`` stays the same however often it connects.

    ``place``: hosts, with commas between them, and port. ``threshold``: seconds; for a tenth of it, each
    address may take to answer.
    """

    def __init__(self, place: str, end: TlsEnd, threshold: float) -> None:
        hosts, _, port = place.rpartition(":")
        self._place, self._port = place, int(port)
        self._hosts = [host.strip("[]") for host in hosts.split(",")]
        self._end = end
        self._threshold = threshold
        self._id = secrets.token_bytes(ID_SIZE)
        self._session = Session()
        self._selector = selectors.DefaultSelector()  # one descriptor for sockets that come and go
        self._addresses: list[tuple[socket.AddressFamily, tuple[object, ...]]] = []
        self._attempts = 0
        self._failures = 0  # in a row
        self._stream: TlsStream | None = None
        self._welcome = False  # the interchange has said where it stands
        self._writing = False
        self._due = 0.0  # when to connect, or to give up an attempt
        self._trouble = ""
        self._connect()

    def fileno(self) -> int:
        return self._selector.fileno()

    def due(self) -> float:
        return self._due

    def trouble(self) -> str:
        return f"{self._place}: {self._trouble}" if self._trouble else ""

    def receive(self) -> list[list[Frame]] | None:
        if time.monotonic() >= self._due:
            self._go_on()
        stream = self._stream
        if stream is None:
            return []
        messages: list[list[Frame]] = []
        try:
            if self._writing:
                stream.flush()
            for frames in stream.receive():
                if not self._welcome:
                    self._resume(stream, frames)
                elif (message := self._session.unpack(frames)) is not None:
                    messages.append(message)
        except (BrokenError, ValueError) as error:
            self._lose(str(error))
        else:
            self._watch(stream)
        return messages

    def send(self, frames: Sequence[Frame]) -> None:
        packed = self._session.pack(frames)
        if self._stream is not None and self._welcome:
            self._stream.send(packed)
            self._watch(self._stream)

    def close(self) -> None:
        deadline = time.monotonic() + _END
        while self._stream is not None and self._welcome and not self._stream.flush():
            if (
                not self._selector.select(max(0.0, deadline - time.monotonic()))
                or time.monotonic() > deadline
            ):
                break
            self.receive()
        if self._stream is not None:
            self._selector.unregister(self._stream)
            self._stream.close()
        self._selector.close()

    # -- connections ----------------------------------------------------------------------------------------

    def _connect(self) -> None:
        self._due = time.monotonic() + max(1.0, self._threshold / 10)
        connection = None
        try:
            family, address = self._next_address()
            connection = socket.socket(family)
            stream = TlsStream(connection, self._end, self._threshold / 3)
            error = connection.connect_ex(address)
            if error and not isinstance(_as_exception(error), BlockingIOError):
                raise _as_exception(error)
        except OSError as error:
            if connection is not None:
                connection.close()
            self._trouble = error.strerror or str(error)
            self._wait()
            return
        self._stream, self._welcome, self._writing = stream, False, False
        self._selector.register(stream, selectors.EVENT_READ)
        stream.start()
        stream.send([HELLO, self._id, NUMBERS.pack(self._session.confirmed, self._session.received)])
        self._watch(stream)

    def _go_on(self) -> None:
        """Connect, or see whether that was of use."""
        if self._stream is None:
            self._connect()
        elif self._stream.connected:
            self._due = math.inf  # it waits for its turn, maybe one of thousands: who leaves then loses it
        else:
            self._lose("no answer")

    def _next_address(self) -> tuple[socket.AddressFamily, tuple[object, ...]]:
        """That of the host; where it has several, another one each time. Raises :class:`OSError`."""
        if not self._addresses:
            trouble = OSError("no host")
            for host in self._hosts:
                try:
                    found = socket.getaddrinfo(host, self._port, type=socket.SOCK_STREAM)
                except OSError as error:  # this network may know it by another name
                    trouble = error
                else:
                    self._addresses += [(family, address) for family, _, _, _, address in found]
            if not self._addresses:
                raise trouble
        self._attempts += 1
        return self._addresses[(self._attempts - 1) % len(self._addresses)]

    def _resume(self, stream: TlsStream, frames: Sequence[Frame]) -> None:
        """The interchange's first message on a connection: go on from where it stands."""
        if len(frames) != 2 or frames[0] != HELLO or len(frames[1]) != NUMBERS.size:
            raise ValueError("it speaks another protocol")
        safe, received = NUMBERS.unpack(frames[1])
        for each in self._session.resume(safe, received):
            stream.send(each)
        self._welcome, self._due, self._trouble, self._failures = True, math.inf, "", 0

    def _lose(self, reason: str) -> None:
        assert self._stream is not None
        self._selector.unregister(self._stream)
        self._stream.close()
        self._stream, self._welcome, self._trouble = None, False, reason
        self._wait()

    def _wait(self) -> None:
        """Before the next attempt, longer each time, and not as long as all others."""
        self._failures += 1
        seconds = min(_LATE, self._threshold / 10, _SOON * 2 ** min(10, self._failures - 1))
        self._due = time.monotonic() + seconds * random.uniform(0.5, 1.0)

    def _watch(self, stream: TlsStream) -> None:
        """Be told when there is room, where something waits for it."""
        if stream.waiting is not self._writing:
            self._writing = stream.waiting
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._writing else 0)
            self._selector.modify(stream, events)


def _as_exception(number: int) -> OSError:
    return OSError(number, os.strerror(number))
