"""An interchange as a process of its own, or on the far side of a channel.

Its client is at the other end of the standard input and output, whatever carries them, and says first how it
is to work. When the client is gone, so is it, and with it all managers.
"""

from __future__ import annotations

import os
import pickle
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NoReturn

import msgspec

from .messages import (
    Frame,
    Heartbeat,
    InterchangeState,
    Listening,
    Message,
    Stop,
    Sync,
    decode,
    encode,
)
from .selector import Selector
from .server import Server
from .setup import InterchangeSetup
from .stream import StreamReader, pack

if TYPE_CHECKING:
    from .ledger import Ledger

__all__ = ["Service", "main"]

_STATE_EVERY = 0.25  # seconds, at least, between two words on how it is


class Service:
    """An interchange that is not in its client's process. ``send`` takes what the client is to hear.
    ``overhear`` is told of all that the client says but questions, and returns whether that was for it alone.
    ``ledger``: see :class:`~.port.Port`.

    Raises :class:`OSError` when it cannot listen, and :class:`ValueError` for a selector that is not there.
    """

    def __init__(
        self,
        setup: InterchangeSetup,
        send: Callable[[list[Frame]], object],
        overhear: Callable[[Message], bool] = lambda message: False,
        ledger: Ledger | None = None,
    ) -> None:
        self._overhear = overhear
        self.server = Server(setup, _load_selector(setup.selector), self._to_client, ledger)
        self._send = send
        self._told: InterchangeState | None = None
        self._tell_at = self._beat_at = 0.0
        self._period = setup.heartbeat_period

    def begin(self) -> None:
        """Say where it listens."""
        self._send(encode(Listening(self.server.access)))

    def receive(self, frames: list[Frame]) -> None:
        """Take what the client says. Raises :class:`MalformedError`."""
        message = decode(frames)
        if type(message) is Sync:
            self._send(encode(message))
            return
        if self._overhear(message):
            return
        self.server.interchange.from_client(message, frames[1:])

    def stop(self, reason: str) -> None:
        """End all managers."""
        self.server.interchange.from_client(Stop(reason), ())

    def say(self, message: Message) -> None:
        """Tell the client."""
        self._to_client(message, ())

    def _to_client(self, message: Message, payloads: Sequence[Frame]) -> None:
        self._send(encode(message, payloads))

    def tell(self) -> float:
        """Say how it is, if that has changed, or that it is still there. Returns for how many seconds that
        will do.
        """
        now = time.monotonic()
        if now >= self._tell_at:
            self._tell_at = now + _STATE_EVERY
            state = self.server.state()
            if self._told is None or _but_for_time(state) != _but_for_time(self._told):
                self._told = state
                self._send(encode(state))
            elif now >= self._beat_at:
                self._beat_at = now + self._period
                self._send(encode(Heartbeat()))
        return self._tell_at - now


def _load_selector(data: bytes) -> Selector:
    try:
        selector: Selector = pickle.loads(data)
    except Exception as error:
        raise ValueError(
            f"the selector is not to be had where the interchange runs: {error}; take one of those with a "
            f"name"
        ) from error
    return selector


class _Process:
    """The service of this process."""

    def __init__(self, setup: InterchangeSetup, incoming: int, outgoing: int) -> None:
        self._service = Service(setup, self._send)
        self._client = self._service.server.connect(
            incoming, self._service.receive, self._lose_client, outgoing
        )
        self._ended = False

    def run(self) -> None:
        server = self._service.server
        self._service.begin()
        try:
            while not self._ended:
                patience = server.prepare()
                server.serve(server.wait(min(patience, self._service.tell())))
        finally:
            self._client.close()
            server.close()

    def _send(self, frames: list[Frame]) -> None:
        self._client.send(frames)

    def _lose_client(self, reason: str) -> None:
        self._service.stop("its client is gone")
        self._ended = True


def _but_for_time(state: InterchangeState) -> InterchangeState:
    blocks = [msgspec.structs.replace(block, idle_for=0.0) for block in state.blocks]
    return msgspec.structs.replace(state, blocks=blocks)


def _refuse(outgoing: int, words: str) -> NoReturn:
    print(f"weft interchange: {words}", file=sys.stderr)
    for part in pack(encode(Stop(words))):
        os.write(outgoing, part)
    sys.exit(2)


def main() -> None:
    """Read how to work, and be an interchange until the client is gone."""
    if os.getpgrp() != os.getpid():
        os.setpgid(0, 0)  # Ctrl-C is for the client, who will say what follows from it
    incoming, outgoing = os.dup(0), os.dup(1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)  # whatever is printed must not get among the messages
    reader = StreamReader()
    messages: list[list[Frame]] = []
    try:
        while not messages:
            data = os.read(incoming, 1 << 16)  # more comes only when it has said where it listens
            if not data:
                _refuse(outgoing, "no setup on the standard input")
            messages = reader.feed(data)
        setup = InterchangeSetup.load(bytes(messages[0][0]))
        service = _Process(setup, incoming, outgoing)
    except (msgspec.MsgspecError, IndexError, ValueError) as error:  # MalformedError, too
        _refuse(outgoing, f"no setup on the standard input: {error}")
    except OSError as error:
        _refuse(outgoing, f"cannot listen: {error}")
    service.run()
