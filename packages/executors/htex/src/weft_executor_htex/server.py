"""An interchange, and its ends of the connections with managers. For one thread at a time.

Managers on this machine come through a unix socket in a directory that only its owner can enter, which saves
the encryption; others through a TCP port, see ``port.py``.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import selectors
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from . import descriptors
from .connection import Connection
from .interchange import Interchange
from .messages import Frame, InterchangeState, Message
from .selector import Selector
from .setup import Endpoint, InterchangeSetup, Keys, ManagerAccess, boot_id

if TYPE_CHECKING:
    from typing import TypeAlias

    from .ledger import Ledger
    from .port import Port

    Ready: TypeAlias = list[tuple[selectors.SelectorKey, int]]

__all__ = ["Server"]

_DEAF = 1.0  # seconds without new connections when there are no descriptors for them
_BUSY = 0.02  # ... and when as many wait as may
_ACCEPTS = 256  # connections in one go
_BACKLOG = 4096
_UNIX, _TCP = b"u", b"t"  # what addresses of managers begin with


class Server:
    """Listens, and passes on what managers say. ``to_client`` gets what the interchange says; ``ledger``: see
    :class:`~.port.Port`.

    Whoever drives it calls :meth:`prepare`, :meth:`wait` and :meth:`serve` in turn; while it waits,
    another thread may send something. The limit of open files of this process is raised as far as it goes.
    Raises :class:`OSError` with nothing left open when it cannot listen.
    """

    def __init__(
        self,
        setup: InterchangeSetup,
        selector: Selector,
        to_client: Callable[[Message, Sequence[Frame]], None],
        ledger: Ledger | None = None,
    ) -> None:
        self._ledger = ledger
        self._listen_at = math.inf  # when to listen again, if that had to be interrupted
        self._peers: dict[bytes, Connection] = {}
        self._numbers = itertools.count()
        self._port: Port | None = None
        self._listener: socket.socket | None = None
        descriptors.raise_limit()
        self._directory: str | None = None
        self._selector = selectors.DefaultSelector()
        try:
            address = setup.address
            if address is None:
                endpoint = self._listen_here()
            elif setup.keys is None:
                raise OSError("the setup has an address for managers on other machines, but no keys")
            else:
                endpoint = self._listen_on(address, setup.keys, setup)
            self.interchange = Interchange(
                to_client,
                self.send,
                self.dismiss,
                heartbeat_period=setup.heartbeat_period,
                heartbeat_threshold=setup.heartbeat_threshold,
                prefetch=setup.prefetch,
                selector=selector,
                remainder=setup.remainder,
                python=setup.python,
                most_managers=descriptors.room(),
                remedy=descriptors.remedy(),
                regain=0.0 if setup.port is None else setup.heartbeat_threshold,
            )
        except BaseException:
            self.close()
            raise
        identity = None if setup.keys is None else setup.keys.managers
        self.access = ManagerAccess([endpoint], identity)

    def _listen_here(self) -> Endpoint:
        self._directory = tempfile.mkdtemp(prefix="weft-")
        path = os.path.join(self._directory, "interchange")
        listener = socket.socket(socket.AF_UNIX)
        self._listener = listener
        listener.bind(path)
        listener.listen(1024)
        self._listen()
        return Endpoint(f"unix://{path}", boot_id=boot_id())

    def _listen_on(self, address: str, keys: Keys, setup: InterchangeSetup) -> Endpoint:
        from .port import Port

        patience = setup.heartbeat_threshold / 3
        self._port = Port(
            self._selector, keys, self._from_port, self._away, self._returning, patience, self._ledger
        )
        self._listener = _make_listener(setup.port)
        self._listen()
        number = self._listener.getsockname()[1]
        return Endpoint(f"tls://{address}:{number}", certificate=keys.interchange.certificate)

    def _listen(self) -> None:
        assert self._listener is not None
        self._listener.setblocking(False)
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)

    def state(self) -> InterchangeState:
        """What there is to tell of it."""
        interchange = self.interchange
        refused = {} if self._port is None else dict(self._port.refused)
        return InterchangeState(interchange.blocks(), dict(interchange.malformed), refused)

    # -- rounds -------------------------------------------------------------------------------------------

    def watch(self, descriptor: int, callback: Callable[[int], object]) -> None:
        """Have this called, with selector events, when the descriptor can be read."""
        self._selector.register(descriptor, selectors.EVENT_READ, callback)

    def unwatch(self, descriptor: int) -> None:
        """The end of ``watch``."""
        self._selector.unregister(descriptor)

    def prepare(self) -> float:
        """Do what is due. Returns the seconds until something is due again."""
        due = min(self.interchange.tick(), self._listen_at)
        if time.monotonic() >= self._listen_at:
            self._listen_again()
        if self._port is not None:
            due = min(due, self._port.tick())
        return max(0.0, due - time.monotonic())

    def wait(self, seconds: float) -> Ready:
        """Wait for so long until something has come. Returns it for :meth:`serve`."""
        return self._selector.select(seconds)

    def serve(self, ready: Ready) -> None:
        """Take what has come."""
        for key, mask in ready:
            key.data(mask)

    def _from_port(self, identity: bytes, frames: list[Frame]) -> None:
        self.interchange.from_manager(_TCP + identity, frames)

    def _away(self, identity: bytes) -> bool:
        return self.interchange.disconnected(_TCP + identity)

    def _returning(self, identity: bytes) -> None:
        self.interchange.returning(_TCP + identity)

    def _accept(self, mask: int) -> None:
        assert self._listener is not None
        for _ in range(_ACCEPTS):
            if self._port is not None and self._port.full:
                self._pause(_BUSY)
                return
            try:
                peer, _ = self._listener.accept()
            except OSError as error:
                if descriptors.exhausted(error.errno or 0):
                    self._pause(_DEAF)
                    self._tell_exhausted()
                return  # else it has gone again, or there is none
            if self._port is not None:
                self._port.welcome(peer)
            else:
                self._welcome(peer)

    def _welcome(self, peer: socket.socket) -> None:
        address = _UNIX + str(next(self._numbers)).encode()
        self._peers[address] = self.connect(
            peer.detach(),
            partial(self.interchange.from_manager, address),
            partial(self._hang_up, address),
        )

    def _pause(self, seconds: float) -> None:
        """Else there would be no end of failures: who wants to connect waits."""
        assert self._listener is not None
        self._selector.unregister(self._listener)
        self._listen_at = time.monotonic() + seconds

    def _tell_exhausted(self) -> None:
        self.interchange.trouble(f"a manager cannot connect: {descriptors.remedy()}")

    def _listen_again(self) -> None:
        self._listen_at = math.inf
        self._listen()

    def connect(
        self,
        descriptor: int,
        deliver: Callable[[list[Frame]], object],
        ended: Callable[[str], object],
        outgoing: int | None = None,
    ) -> Connection:
        """Serve a stream of messages, too; see :class:`Connection`."""
        return Connection(
            self._selector, descriptor, descriptor if outgoing is None else outgoing, deliver, ended
        )

    def _hang_up(self, address: bytes, reason: str) -> None:
        if reason:
            self.interchange.malformed[reason] += 1
        self._peers.pop(address).close()
        self.interchange.hung_up(address)

    def send(self, address: bytes, frames: list[Frame]) -> None:
        """Send to a manager."""
        if address[:1] == _TCP:
            if self._port is not None:
                self._port.send(address[1:], frames)
            return
        peer = self._peers.get(address)
        if peer is not None:
            peer.send(frames)

    def dismiss(self, address: bytes, frames: list[Frame]) -> None:
        """Send a manager its last message."""
        if self._port is not None and address[:1] == _TCP:
            self._port.dismiss(address[1:], frames)
        else:
            self.send(address, frames)

    def close(self) -> None:
        """Send what is left, for half a second at most, and hang up."""
        for peer in self._peers.values():
            peer.close()
        self._peers.clear()
        if self._port is not None:
            self._port.close()
        self._selector.close()
        if self._listener is not None:
            self._listener.close()
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)


def _make_listener(port: int | None) -> socket.socket:
    """On this port if it is free, else on another one, of all interfaces, of both kinds of addresses where
    the system has them.
    """
    if port:
        with contextlib.suppress(OSError):
            return _listen_at(port)
    return _listen_at(0)


def _listen_at(port: int) -> socket.socket:
    with contextlib.suppress(OSError):
        if socket.has_dualstack_ipv6():
            return socket.create_server(
                ("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=_BACKLOG
            )
    return socket.create_server(("", port), backlog=_BACKLOG)
