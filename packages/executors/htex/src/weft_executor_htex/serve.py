"""An interchange as a process of its own, or on the far side of a channel.

Its client is at the other end of the standard input and output, whatever carries them, and says first how it
is to work. When the client is gone, so is it, and with it all managers.
"""

from __future__ import annotations

import os
import pickle
import sys
import time
from collections.abc import Sequence
from typing import NoReturn

import msgspec

from .messages import (
    Frame,
    Heartbeat,
    InterchangeState,
    Listening,
    MalformedError,
    Message,
    Stop,
    Sync,
    decode,
    encode,
)
from .server import Server
from .setup import InterchangeSetup
from .stream import StreamReader, pack

__all__ = ["main"]

_STATE_EVERY = 0.25  # seconds, at least, between two words on how it is


class _Service:
    def __init__(self, setup: InterchangeSetup, incoming: int, outgoing: int) -> None:
        self._server = Server(setup, pickle.loads(setup.selector), self._to_client)
        self._client = self._server.connect(incoming, self._receive, self._lose_client, outgoing)
        self._told: InterchangeState | None = None
        self._tell_at = self._beat_at = 0.0
        self._period = setup.heartbeat_period
        self._ended = False

    def run(self) -> None:
        server = self._server
        self._send(Listening(server.access))
        try:
            while not self._ended:
                patience = server.prepare()
                server.serve(server.wait(min(patience, self._tell())))
        finally:
            self._client.close()
            server.close()

    def _receive(self, frames: list[Frame]) -> None:
        message = decode(frames)
        if type(message) is Sync:
            self._send(message)
            return
        self._server.interchange.from_client(message, frames[1:])

    def _lose_client(self, reason: str) -> None:
        self._server.interchange.from_client(Stop("its client is gone"), ())
        self._ended = True

    def _to_client(self, message: Message, payloads: Sequence[Frame]) -> None:
        self._client.send(encode(message, payloads))

    def _send(self, message: Message) -> None:
        self._client.send(encode(message))

    def _tell(self) -> float:
        """Say how it is, if that has changed, or that it is still there. Returns for how many seconds that
        will do.
        """
        now = time.monotonic()
        if now >= self._tell_at:
            self._tell_at = now + _STATE_EVERY
            state = self._server.state()
            if self._told is None or _but_for_time(state) != _but_for_time(self._told):
                self._told = state
                self._send(state)
            elif now >= self._beat_at:
                self._beat_at = now + self._period
                self._send(Heartbeat())
        return self._tell_at - now


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
    reader, messages = StreamReader(), list[list[Frame]]()
    try:
        while not messages:
            data = os.read(incoming, 1 << 16)  # more comes only when it has said where it listens
            if not data:
                _refuse(outgoing, "no setup on the standard input")
            messages = reader.feed(data)
        setup = InterchangeSetup.load(bytes(messages[0][0]))
        service = _Service(setup, incoming, outgoing)
    except (MalformedError, msgspec.MsgspecError, IndexError) as error:
        _refuse(outgoing, f"no setup on the standard input: {error}")
    except OSError as error:
        _refuse(outgoing, f"cannot listen: {error}")
    service.run()
