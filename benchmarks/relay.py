"""A network between managers and interchange that can be cut: a relay of TCP connections."""

from __future__ import annotations

import selectors
import socket
import threading
from contextlib import suppress
from typing import Any

import msgspec
import weft
from weft_executor_htex.setup import Endpoint, ManagerSetup
from weft_interfaces import BlockCommand

__all__ = ["Relay", "RelayedExecutor"]


class Relay:
    """Passes TCP connections on to a port of this machine, until it is cut."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._whole = True
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):  # it was closed
            while True:
                here, _ = self._listener.accept()
                if not self._whole:
                    here.close()
                    continue
                pair = (here, socket.create_connection(("127.0.0.1", self._target)))
                self._pairs.append(pair)
                threading.Thread(target=self._pass_on, args=pair, daemon=True).start()

    def _pass_on(self, here: socket.socket, there: socket.socket) -> None:
        with selectors.DefaultSelector() as selector, here, there, suppress(OSError):
            selector.register(here, selectors.EVENT_READ, (here, there))
            selector.register(there, selectors.EVENT_READ, (there, here))
            while True:
                for key, _ in selector.select():
                    source, target = key.data
                    if not (data := source.recv(1 << 16)):
                        return
                    if self._whole:  # else it is lost
                        target.sendall(data)

    def cut(self) -> None:
        """Lose what is on its way, break what is connected, refuse who comes."""
        self._whole = False
        for pair in self._pairs:
            for end in pair:
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
        self._pairs.clear()

    def mend(self) -> None:
        """Take connections again."""
        self._whole = True

    def close(self) -> None:
        """End, with all connections."""
        self.cut()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


class RelayedExecutor(weft.HighThroughputExecutor):
    """Its managers reach it through a relay."""

    relay: Relay | None = None

    def command(self, block_id: str) -> BlockCommand:
        """What starts a manager."""
        made = super().command(block_id)
        setup = ManagerSetup.load(made.input)
        [endpoint] = setup.access.endpoints
        if self.relay is None:
            self.relay = Relay(int(endpoint.url.rpartition(":")[2]))
        there = Endpoint(f"tls://127.0.0.1:{self.relay.port}", certificate=endpoint.certificate)
        access = msgspec.structs.replace(setup.access, endpoints=[there])
        return made._replace(input=msgspec.structs.replace(setup, access=access).dump())

    def shutdown(self, **settings: Any) -> list[str]:
        """End, and the relay with it."""
        leftovers = super().shutdown(**settings)
        if self.relay is not None:
            self.relay.close()
            self.relay = None
        return leftovers
