"""The interchange's TCP port: ZeroMQ, where both ends authenticate each other, and encrypt (CurveZMQ).

The server's key pair, and that of the managers, are made for one run. A peer without them gets nothing; its
attempts are counted.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections import Counter
from collections.abc import Callable

import zmq
from zmq.utils import z85
from zmq.utils.monitor import recv_monitor_message

from . import descriptors
from .messages import Frame
from .session import Session
from .setup import Endpoint, Keys

__all__ = ["Router"]

_LARGE = 1 << 16
_MORE = int(zmq.SNDMORE)  # as a number, and frame by frame: half the time that pyzmq takes for a list of them
# An option of contexts that pyzmq does not name. What comes is decrypted into memory of its own in any case:
# else each message that nobody has read yet would keep the 8 kB buffer that it came in.
_ZERO_COPY_RECEIVE = 10
_PROBE_AFTER = 0.2  # seconds from a broken connection to the look for who cannot be reached any more
_PROBE_SHARE = 10  # of the time, one in so many parts is spent on such looks at the most
_AT_ONCE = 1000  # messages in one go: then it is the client's turn
_HANDSHAKES = (
    zmq.Event.HANDSHAKE_FAILED_NO_DETAIL
    | zmq.Event.HANDSHAKE_FAILED_PROTOCOL
    | zmq.Event.HANDSHAKE_FAILED_AUTH
)


class Router:
    """Listens on a port of all interfaces; ``address`` is the name that managers are told.

    For one thread. Raises :class:`zmq.ZMQError`, an :class:`OSError`, when it cannot listen.
    """

    def __init__(self, address: str, managers: Keys) -> None:
        self.refused: Counter[str] = Counter()  # peers without the key, by what was wrong
        self.probe_at: float | None = None  # when to see who can still be reached
        self._probe_again = -math.inf
        self.full = False  # there is no descriptor for one more connection: it has ceased to listen
        self._listening = True
        self._sessions: dict[bytes, Session] = {}
        self._allowed = [z85.decode(managers.public)]
        self._context = zmq.Context()
        self._context.set(_ZERO_COPY_RECEIVE, 0)
        try:
            self._authenticator = self._context.socket(zmq.REP)
            self._authenticator.bind("inproc://zeromq.zap.01")
            keys = Keys.make()
            self._socket = self._make_socket(keys)
            events = zmq.Event.DISCONNECTED | zmq.Event.ACCEPT_FAILED | _HANDSHAKES
            self._monitor = self._socket.get_monitor_socket(events)
            port = self._socket.bind_to_random_port("tcp://*")
        except BaseException:
            self._context.destroy(linger=0)
            raise
        self._place = f"tcp://*:{port}"
        self.endpoint = Endpoint(f"tcp://{address}:{port}", keys.public)

    def _make_socket(self, keys: Keys) -> zmq.Socket[bytes]:
        router = self._context.socket(zmq.ROUTER)
        for option, value in (
            (zmq.ROUTER_MANDATORY, 1),
            (zmq.ROUTER_HANDOVER, 1),
            (zmq.SNDHWM, 0),
            (zmq.RCVHWM, 0),
            (zmq.LINGER, 500),
            (zmq.BACKLOG, 4096),
            (zmq.CURVE_SERVER, 1),
            (zmq.CURVE_SECRETKEY, keys.secret),
            (zmq.CURVE_PUBLICKEY, keys.public),
            (zmq.ZAP_DOMAIN, b"weft"),
        ):
            router.set(option, value)
        return router

    def descriptors(self) -> list[int]:
        """What can be read when something may have come."""
        return [self._socket.fileno(), self._monitor.fileno(), self._authenticator.fileno()]

    def pump(self, deliver: Callable[[bytes, list[Frame]], object]) -> bool:
        """Take what has come; ``deliver`` gets each message and its sender. Whether there may be more."""
        with contextlib.suppress(zmq.Again):
            while True:
                self._authenticate(self._authenticator.recv_multipart(zmq.NOBLOCK))
        for _ in range(_AT_ONCE):
            if not self._monitor.poll(0):
                break
            notice = recv_monitor_message(self._monitor)
            self._note(zmq.Event(notice["event"]), notice["value"])
        for _ in range(_AT_ONCE):
            try:
                address, *frames = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return False
            message = self._receive(address, frames)
            if message is not None:
                deliver(address, message)
        return True

    def _receive(self, address: bytes, frames: list[bytes]) -> list[Frame] | None:
        session = self._sessions.get(address)
        if session is None:
            session = self._sessions[address] = Session.joining(frames)
        try:
            message, again = session.unpack(frames)
        except ValueError:
            return []  # which is no message either
        for each in again:
            self._pass_on(address, each)
        return message

    def listen(self) -> bool:
        """Take connections again, after it was full; whether it could."""
        try:
            self._socket.bind(self._place)
        except zmq.ZMQError:  # the port is not free again yet, or there is still no descriptor
            return False
        self._listening = True
        return True

    def send(self, address: bytes, frames: list[Frame]) -> bool:
        """Send to a manager, now or when it has connected again; whether it is connected."""
        return self._pass_on(address, self._sessions.setdefault(address, Session()).pack(frames))

    def _pass_on(self, address: bytes, frames: list[Frame]) -> bool:
        send = self._socket.send
        try:
            send(address, _MORE)
            for frame in frames[:-1]:
                send(frame, _MORE, len(frame) < _LARGE)
            send(frames[-1], 0, len(frames[-1]) < _LARGE)
        except zmq.ZMQError:
            return False
        return True

    def dismiss(self, address: bytes, frames: list[Frame]) -> None:
        """Send a manager its last message, if it is connected, and forget it."""
        self._sessions.pop(address, None)
        self._pass_on(address, Session.last_words(frames))

    def _note(self, kind: zmq.Event, value: int) -> None:
        if kind is zmq.Event.ACCEPT_FAILED:
            if descriptors.exhausted(value) and self._listening:
                self._listening, self.full = False, True
                self._socket.unbind(self._place)
        elif kind is zmq.Event.DISCONNECTED:
            # Whose it was is not said: all are probed, but not once for each of many.
            self.probe_at = self.probe_at or max(time.monotonic() + _PROBE_AFTER, self._probe_again)
        else:
            self.refused[kind.name or "handshake"] += 1

    def probed(self, seconds: float) -> None:
        """The look is over; it took so long."""
        self.probe_at = None
        self._probe_again = time.monotonic() + _PROBE_SHARE * seconds

    def _authenticate(self, question: list[bytes]) -> None:
        """Answer ZeroMQ, which asks whether a peer with this key may connect (RFC 27, ZAP)."""
        version, request, _, _, _, mechanism, *credentials = question
        known = mechanism == b"CURVE" and credentials == self._allowed
        answer = (b"200", b"OK") if known else (b"400", b"this key is not one of the run's")
        self._authenticator.send_multipart([version, request, *answer, b"", b""])

    def close(self) -> None:
        """Send what is left, for half a second at most."""
        self._socket.disable_monitor()
        for each in (self._monitor, self._socket, self._authenticator):
            each.close()
        self._context.term()
