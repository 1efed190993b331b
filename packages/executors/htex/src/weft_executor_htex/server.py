"""The interchange's ends of all connections, and the thread that serves them.

Managers on this machine come through a unix socket in a directory that only its owner can enter, which saves
half of the time of a round trip; others through an encrypted TCP port, see ``router.py``.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import selectors
import shutil
import socket
import sys
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from .messages import MalformedError
from .setup import Endpoint, Keys, boot_id
from .stream import StreamReader, pack

if TYPE_CHECKING:
    from .interchange import Interchange
    from .messages import Frame
    from .router import Router

__all__ = ["Server"]

_RECEIVE = 1 << 20
_UNIX, _TCP = b"u", b"t"  # what addresses of managers begin with


class Server:
    """Listens, and drives an interchange in a thread of its own.

    ``pull`` is called in that thread whenever :meth:`wake` was. ``address``: see
    :class:`HighThroughputExecutor`. Raises :class:`OSError` with nothing left open when it cannot listen.
    """

    def __init__(
        self,
        label: str,
        make: Callable[[Server], Interchange],
        pull: Callable[[], object],
        address: str | None,
    ) -> None:
        self.manager_keys = Keys(b"", b"")
        self._label = label
        self._pull = pull
        self._stopping = False
        self._asleep = False
        self._peers: dict[bytes, _Peer] = {}
        self._numbers = itertools.count()
        self._router: Router | None = None
        self._listener: socket.socket | None = None
        self._directory = tempfile.mkdtemp(prefix="weft-")
        self._wakeup, self._waker = socket.socketpair()
        self._selector = selectors.DefaultSelector()
        for end in (self._wakeup, self._waker):
            end.setblocking(False)
        self._selector.register(self._wakeup, selectors.EVENT_READ, self._woken)
        try:
            self.endpoints = [self._listen_here() if address is None else self._listen_on(address)]
            self.interchange = make(self)
        except BaseException:
            self._close()
            raise
        self._thread = threading.Thread(target=self._run, name=f"{label}-interchange", daemon=True)

    def _listen_here(self) -> Endpoint:
        path = os.path.join(self._directory, "interchange")
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(path)
        self._listener.listen(1024)
        self._listener.setblocking(False)
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        return Endpoint(f"unix://{path}", boot_id=boot_id())

    def _listen_on(self, address: str) -> Endpoint:
        from .router import Router

        self.manager_keys = Keys.make()
        self._router = Router(address, self.manager_keys)
        for descriptor in self._router.descriptors():
            self._selector.register(descriptor, selectors.EVENT_READ, _ignore)
        return self._router.endpoint

    # -- the client's side ----------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to serve."""
        self._thread.start()

    def wake(self) -> None:
        """Have ``pull`` called soon."""
        if self._asleep:
            self._asleep = False
            with contextlib.suppress(OSError):
                self._waker.send(b"\0")

    @property
    def inside(self) -> bool:
        """Whether the calling thread is the one that serves."""
        return threading.current_thread() is self._thread

    @property
    def refused(self) -> Counter[str]:
        """Peers that were turned away because they have no key, by what was wrong."""
        return Counter() if self._router is None else self._router.refused

    def stop(self, timeout: float) -> bool:
        """End. Returns whether the thread has ended."""
        self._stopping = True
        with contextlib.suppress(OSError):
            self._waker.send(b"\0")
        self._thread.join(timeout)
        return not self._thread.is_alive()

    # -- the thread -----------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._stopping:
                try:
                    self._round()
                except Exception:  # noqa: BLE001  the other messages must go on
                    sys.excepthook(*sys.exc_info())
        finally:
            self._close()

    def _round(self) -> None:
        self._asleep = True
        self._pull()
        due = self.interchange.tick()
        if self._router is not None:
            due = self._serve_router(self._router, due)
        ready = self._selector.select(max(0.0, due - time.monotonic()))
        self._asleep = False
        for key, mask in ready:
            key.data(mask)

    def _serve_router(self, router: Router, due: float) -> float:
        """Take what came to the port. Returns when to come back at the latest."""
        if router.probe_at is not None and time.monotonic() >= router.probe_at:
            router.probe_at = None
            self.interchange.probe()
        # The last thing: sending may hide from the descriptor that something has come.
        if router.pump(self._from_router):
            return 0.0
        return due if router.probe_at is None else min(due, router.probe_at)

    def _from_router(self, address: bytes, frames: list[bytes]) -> None:
        self.interchange.from_manager(_TCP + address, frames)

    def _woken(self, mask: int) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._wakeup.recv(4096):
                pass

    def _accept(self, mask: int) -> None:
        assert self._listener is not None
        with contextlib.suppress(OSError):  # it has gone again, or there are no descriptors: it will retry
            connection, _ = self._listener.accept()
            connection.setblocking(False)
            address = _UNIX + str(next(self._numbers)).encode()
            self._peers[address] = _Peer(connection)
            self._selector.register(connection, selectors.EVENT_READ, partial(self._serve_peer, address))

    def _serve_peer(self, address: bytes, mask: int) -> None:
        peer = self._peers.get(address)
        if peer is None:
            return
        if mask & selectors.EVENT_WRITE and peer.flush():
            self._watch(address, peer, selectors.EVENT_READ)
        if mask & selectors.EVENT_READ:
            try:
                messages = peer.receive()
            except MalformedError as error:
                self.interchange.malformed[str(error)] += 1
                messages = None
            if messages is None:
                self._hang_up(address, peer)
            for message in messages or ():
                self.interchange.from_manager(address, message)

    def _watch(self, address: bytes, peer: _Peer, events: int) -> None:
        self._selector.modify(peer.connection, events, partial(self._serve_peer, address))

    def _hang_up(self, address: bytes, peer: _Peer) -> None:
        del self._peers[address]
        self._selector.unregister(peer.connection)
        peer.connection.close()
        self.interchange.hung_up(address)

    def send(self, address: bytes, frames: list[Frame]) -> None:
        """Send to a manager. In the thread that serves only."""
        if address[:1] == _TCP:
            if self._router is not None and not self._router.send(address[1:], frames):
                self.interchange.disconnected(address)
            return
        peer = self._peers.get(address)
        if peer is not None and not peer.send(frames):
            self._watch(address, peer, selectors.EVENT_READ | selectors.EVENT_WRITE)

    def dismiss(self, address: bytes, frames: list[Frame]) -> None:
        """Send a manager its last message."""
        if self._router is not None and address[:1] == _TCP:
            self._router.dismiss(address[1:], frames)
        else:
            self.send(address, frames)

    def _close(self) -> None:
        for peer in self._peers.values():
            peer.drain()
        self._peers.clear()
        self._selector.close()
        for end in (self._wakeup, self._waker, self._listener, self._router):
            if end is not None:
                end.close()
        shutil.rmtree(self._directory, ignore_errors=True)


class _Peer:
    """One manager's connection."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self._reader = StreamReader()
        self._outgoing: deque[memoryview] = deque()

    def receive(self) -> list[list[bytes]] | None:
        """The messages that have come; None when it is gone. Raises :class:`MalformedError`."""
        try:
            data = self.connection.recv(_RECEIVE)
        except BlockingIOError:
            return []
        except OSError:
            return None
        return self._reader.feed(data) if data else None

    def send(self, frames: list[Frame]) -> bool:
        """Send what goes now; whether that was all."""
        self._outgoing.extend(memoryview(part) for part in pack(frames))
        return self.flush()

    def flush(self) -> bool:
        """Send what goes now of what is left; whether that was all."""
        outgoing = self._outgoing
        while outgoing:
            try:
                sent = self.connection.send(outgoing[0])
            except BlockingIOError:
                return False
            except OSError:  # it is gone, which will be read
                outgoing.clear()
                return True
            if sent == len(outgoing[0]):
                outgoing.popleft()
            else:
                outgoing[0] = outgoing[0][sent:]
        return True

    def drain(self) -> None:
        """Send what is left, for half a second at most, and close."""
        self.connection.settimeout(0.5)
        with contextlib.suppress(OSError):
            for part in self._outgoing:
                self.connection.sendall(part)
        self.connection.close()


def _ignore(mask: int) -> None:
    """What came to the port is taken in every round."""
