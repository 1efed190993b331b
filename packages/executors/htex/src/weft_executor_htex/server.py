"""The interchange's sockets, and the thread that serves them.

Managers on this machine come through a unix socket in a directory that only its owner can enter; others
through TCP, where both ends authenticate each other, and all is encrypted (CurveZMQ, with keys for each run).
"""

from __future__ import annotations

import contextlib
import math
import shutil
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import zmq
from zmq.utils import z85
from zmq.utils.monitor import recv_monitor_message

from .setup import Endpoint, boot_id

if TYPE_CHECKING:
    from .interchange import Interchange
    from .messages import Frame

__all__ = ["Keys", "Server"]

_LARGE = 1 << 16
_PROBE_AFTER = 0.2  # seconds from a broken connection to the look for who cannot be reached any more
_HANDSHAKES = (
    zmq.Event.HANDSHAKE_FAILED_NO_DETAIL
    | zmq.Event.HANDSHAKE_FAILED_PROTOCOL
    | zmq.Event.HANDSHAKE_FAILED_AUTH
)


class Keys(NamedTuple):
    """The public and secret halves of a key pair, as text."""

    public: bytes
    secret: bytes

    @classmethod
    def make(cls) -> Keys:
        """A new pair."""
        return cls(*zmq.curve_keypair())


class Server:
    """Listens, and drives an interchange in a thread of its own.

    ``pull`` is called in that thread whenever :meth:`wake` was. Raises :class:`OSError` with nothing left
    open when it cannot listen.
    """

    def __init__(
        self,
        label: str,
        make: Callable[[Server], Interchange],
        pull: Callable[[], object],
        address: str | None,
    ) -> None:
        self.refused: Counter[str] = Counter()  # peers without the key, by what was wrong
        self.manager_keys = Keys.make()
        self._pull = pull
        self._stopping = False
        self._asleep = False
        self._probe_at: float | None = None
        self._wakeup, self._waker = socket.socketpair()
        self._wakeup.setblocking(False)
        self._waker.setblocking(False)
        self._directory = tempfile.mkdtemp(prefix="weft-")
        self._zmq = zmq.Context()
        self._routers: list[zmq.Socket[bytes]] = []
        self._monitors: list[zmq.Socket[bytes]] = []
        self._authenticator: zmq.Socket[bytes] | None = None
        try:
            self.endpoints = [self._listen_here()] if address is None else [self._listen_on(address)]
            self.interchange = make(self)
        except BaseException:
            self._close()
            raise
        self._thread = threading.Thread(target=self._run, name=f"{label}-interchange", daemon=True)

    # -- sockets --------------------------------------------------------------------------------------------

    def _listen_here(self) -> Endpoint:
        router = self._router()
        url = f"ipc://{self._directory}/interchange"
        router.bind(url)
        return Endpoint(url, boot_id=boot_id())

    def _listen_on(self, address: str) -> Endpoint:
        self._authenticator = self._zmq.socket(zmq.REP)
        self._authenticator.bind("inproc://zeromq.zap.01")
        keys = Keys.make()
        router = self._router()
        router.set(zmq.CURVE_SERVER, 1)
        router.set(zmq.CURVE_SECRETKEY, keys.secret)
        router.set(zmq.CURVE_PUBLICKEY, keys.public)
        router.set(zmq.ZAP_DOMAIN, b"weft")
        port = router.bind_to_random_port("tcp://*")
        return Endpoint(f"tcp://{address}:{port}", keys.public)

    def _router(self) -> zmq.Socket[bytes]:
        router = self._zmq.socket(zmq.ROUTER)
        for option, value in (
            (zmq.ROUTER_MANDATORY, 1),
            (zmq.ROUTER_HANDOVER, 1),
            (zmq.SNDHWM, 0),
            (zmq.RCVHWM, 0),
            (zmq.LINGER, 500),
            (zmq.BACKLOG, 4096),
        ):
            router.set(option, value)
        router.copy_threshold = _LARGE
        self._monitors.append(router.get_monitor_socket(zmq.Event.DISCONNECTED | _HANDSHAKES))
        self._routers.append(router)
        return router

    # -- the client's side ----------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to serve."""
        self._thread.start()

    def wake(self) -> None:
        """Have ``pull`` called soon."""
        if self._asleep:
            self._asleep = False
            with contextlib.suppress(BlockingIOError, OSError):
                self._waker.send(b"\0")

    @property
    def inside(self) -> bool:
        """Whether the calling thread is the one that serves."""
        return threading.current_thread() is self._thread

    def stop(self, timeout: float) -> bool:
        """End. Returns whether the thread has ended."""
        self._stopping = True
        with contextlib.suppress(BlockingIOError, OSError):
            self._waker.send(b"\0")
        self._thread.join(timeout)
        return not self._thread.is_alive()

    # -- the thread -----------------------------------------------------------------------------------------

    def _run(self) -> None:
        poller = zmq.Poller()
        actions: dict[object, Callable[[], None]] = {self._wakeup.fileno(): self._woken}
        for index, router in enumerate(self._routers):
            actions[router] = partial(self._receive, index, router)
        for monitor in self._monitors:
            actions[monitor] = partial(self._watch, monitor)
        if self._authenticator is not None:
            actions[self._authenticator] = self._authenticate
        for source in actions:
            poller.register(source, zmq.POLLIN)
        try:
            while not self._stopping:
                try:
                    self._round(poller, actions)
                except Exception:  # noqa: BLE001  the other messages must go on
                    sys.excepthook(*sys.exc_info())
        finally:
            self._close()

    def _round(self, poller: zmq.Poller, actions: dict[object, Callable[[], None]]) -> None:
        self._asleep = True
        self._pull()
        due = self.interchange.tick()
        if self._probe_at is not None:
            due = min(due, self._probe_at)
        ready = poller.poll(math.ceil(max(0.0, due - time.monotonic()) * 1000))
        self._asleep = False
        for source, _ in ready:
            actions[source]()
        if self._probe_at is not None and time.monotonic() >= self._probe_at:
            self._probe_at = None
            self.interchange.probe()

    def _woken(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._wakeup.recv(4096):
                pass

    def _receive(self, index: int, router: zmq.Socket[bytes]) -> None:
        prefix = bytes([index])
        for _ in range(1000):  # then it is the client's turn
            try:
                address, *frames = router.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            self.interchange.from_manager(prefix + address, frames)

    def send(self, address: bytes, frames: list[Frame]) -> None:
        """Send to a manager. In the thread that serves only."""
        try:
            self._routers[address[0]].send_multipart([address[1:], *frames], copy=False)
        except zmq.ZMQError:  # it is not connected now
            self.interchange.disconnected(address)

    def _watch(self, monitor: zmq.Socket[bytes]) -> None:
        event = recv_monitor_message(monitor)
        if event["event"] & zmq.Event.DISCONNECTED:
            # Whose it was is not said: all are probed, but not once for each of many.
            self._probe_at = self._probe_at or time.monotonic() + _PROBE_AFTER
        else:
            self.refused[zmq.Event(event["event"]).name or "handshake"] += 1

    def _authenticate(self) -> None:
        """Answer ZeroMQ, which asks whether a peer with this key may connect (RFC 27, ZAP)."""
        assert self._authenticator is not None
        version, request, _, _, _, mechanism, *credentials = self._authenticator.recv_multipart()
        known = mechanism == b"CURVE" and credentials == [z85.decode(self.manager_keys.public)]
        answer = (b"200", b"OK") if known else (b"400", b"this key is not one of the run's")
        self._authenticator.send_multipart([version, request, *answer, b"", b""])

    def _close(self) -> None:
        for router in self._routers:
            router.disable_monitor()
        for each in (
            *self._monitors,
            *self._routers,
            *([self._authenticator] if self._authenticator else []),
        ):
            each.close()
        self._zmq.term()
        self._wakeup.close()
        self._waker.close()
        shutil.rmtree(self._directory, ignore_errors=True)
