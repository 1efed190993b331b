"""Connections that lose messages, and what is made of them."""

from __future__ import annotations

import random
import selectors
import socket
import struct
import subprocess
import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from weft_executor_htex import HighThroughputExecutor
from weft_executor_htex.session import Session
from weft_executor_htex.setup import Endpoint, ManagerSetup
from weft_interfaces import Blocks, ManagerLostError
from weft_interfaces.memory import InMemoryProvider

PATIENCE = 30.0


class Wire:
    """Two sessions, the second of which is the interchange's, and the messages on their way between them.

    What the interchange has read is safe only when that is said.
    """

    def __init__(self) -> None:
        self.ends = [Session(), Session(deferred=True)]
        self.on_its_way: list[deque[Any]] = [deque(), deque()]  # to this end
        self.read: list[list[bytes]] = [[], []]
        self.sent: list[list[bytes]] = [[], []]
        self.whole = [True, True]  # this end has heard of the connection

    def send(self, end: int) -> None:
        text = f"{end}:{len(self.sent[end])}".encode()
        self.sent[end].append(text)
        packed = self.ends[end].pack([text])
        if self.whole[end]:
            self.on_its_way[1 - end].append(packed)

    def arrive(self, end: int) -> None:
        """The next message does; hello and welcome are pairs of numbers."""
        if not self.on_its_way[end]:
            return
        frames = self.on_its_way[end].popleft()
        if isinstance(frames, tuple):
            safe, received = frames
            again = self.ends[end].resume(received if end else safe, received)
            self.whole[end] = True
            if end == 1:
                self.on_its_way[0].append((self.ends[1].safe, self.ends[1].received))
            self.on_its_way[1 - end].extend(again)
        elif (message := self.ends[end].unpack(frames)) is not None:
            self.read[end] += message

    def cut(self) -> None:
        """A connection is lost, with all that is on its way, and the next one made."""
        for way in self.on_its_way:
            way.clear()
        self.whole = [False, False]
        self.on_its_way[1].append((self.ends[0].confirmed, self.ends[0].received))

    def save(self) -> None:
        """What the interchange has read is safe."""
        self.ends[1].safe = self.ends[1].received

    def replace(self) -> None:
        """The interchange is lost, with what was not safe, and the next one is there."""
        manager, lost = self.ends
        assert manager.confirmed <= lost.safe, "the manager has forgotten what was not safe"
        del self.read[1][manager.confirmed :]
        del self.sent[1][manager.received :]
        self.ends[1] = Session(sent=manager.received, received=manager.confirmed, deferred=True)
        self.cut()


ACTS = ["send 0", "send 1", "arrive 0", "arrive 1", "cut", "save", "replace"]


@given(st.lists(st.sampled_from(ACTS), max_size=60))
def test_nothing_is_lost_or_comes_twice(acts: list[str]) -> None:
    wire = Wire()
    for act in acts:
        if act.startswith("send"):
            wire.send(int(act[-1]))
        elif act.startswith("arrive"):
            wire.arrive(int(act[-1]))
        else:
            getattr(wire, act)()
        for end in (0, 1):
            assert wire.read[end] == wire.sent[1 - end][: len(wire.read[end])], "not in order, or twice"
    while any(wire.on_its_way):
        wire.arrive(0)
        wire.arrive(1)
    assert wire.read == [wire.sent[1], wire.sent[0]]
    wire.save()
    for end in (0, 1):  # and nothing is kept that is safe, once the other side has said so
        wire.send(end)
        wire.arrive(1 - end)
        wire.send(1 - end)
        wire.arrive(end)
        wire.save()
        wire.send(1 - end)
        wire.arrive(end)
        assert wire.ends[end].confirmed == wire.ends[end].sent


def test_last_words_arrive_whatever_was_missed() -> None:
    session = Session()
    session.pack([b"lost"])
    assert Session().unpack(Session.last_words([b"last"])) == [b"last"]


def test_who_joins_late_goes_on_from_there() -> None:
    """The interchange has forgotten a manager, which has not."""
    manager = Session(sent=7, received=4)
    other = Session(sent=manager.received, received=manager.confirmed)
    assert manager.resume(other.safe, other.received) == []
    assert other.unpack(manager.pack([b"heard"])) == [b"heard"]
    assert manager.unpack(other.pack([b"too"])) == [b"too"]


@pytest.mark.parametrize(
    ("frames", "words"),
    [
        ([], "without a number"),
        ([b""], "without a number"),
        ([b"x" * 15], "without a number"),
        ([b"x" * 17], "without a number"),
        ([struct.pack("<QQ", 2, 0)], "not the next one"),
        ([struct.pack("<QQ", 1, 1)], "never sent"),
    ],
)
def test_what_comes_from_no_session_is_refused(frames: list[bytes], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Session().unpack(frames)


@pytest.mark.parametrize(("safe", "received"), [(1, 2), (4, 4), (2, 4), (3, 2)])
def test_another_session_is_not_resumed(safe: int, received: int) -> None:
    session = Session(sent=2)
    session.pack([b"third"])
    with pytest.raises(ValueError, match="another one"):
        session.resume(safe, received)


class Relay:
    """Passes TCP on, until it is cut."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._open = threading.Event()
        self._open.set()
        self._ending = False
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while not self._ending:
            try:
                here, _ = self._listener.accept()
            except OSError:
                return
            if not self._open.is_set():
                here.close()
                continue
            there = socket.create_connection(("127.0.0.1", self._target))
            self._pairs.append((here, there))
            self._threads.append(threading.Thread(target=self._pass_on, args=(here, there)))
            self._threads[-1].start()

    def _pass_on(self, here: socket.socket, there: socket.socket) -> None:
        with selectors.DefaultSelector() as selector, here, there:
            for source, target in ((here, there), (there, here)):
                selector.register(source, selectors.EVENT_READ, target)
            try:
                while True:
                    for key, _ in selector.select():
                        source = key.fileobj
                        assert isinstance(source, socket.socket)
                        if not (data := source.recv(1 << 16)):
                            return
                        if self._open.is_set():  # else it is lost
                            key.data.sendall(data)
            except OSError:
                return

    def cut(self) -> None:
        """Lose what is on its way, break what is connected, and refuse who comes."""
        self._open.clear()
        for pair in self._pairs:
            for end in pair:
                try:
                    end.shutdown(socket.SHUT_RDWR)
                except OSError:
                    continue
        self._pairs.clear()

    def mend(self) -> None:
        self._open.set()

    def close(self) -> None:
        self._ending = True
        self.cut()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(PATIENCE)


@pytest.fixture
def relayed(recorder: Any) -> Iterator[tuple[HighThroughputExecutor, Relay, subprocess.Popen[bytes]]]:
    """An executor whose only manager comes through a relay."""
    executor = HighThroughputExecutor(
        workers_per_node=2,
        blocks=Blocks(provider=InMemoryProvider()),
        address="127.0.0.1",
        heartbeat_period=0.3,
        heartbeat_threshold=9,
    )
    executor.start(recorder)
    argv, data = executor.command("b")
    setup = ManagerSetup.load(data)
    [endpoint] = setup.access.endpoints
    relay = Relay(int(endpoint.url.rpartition(":")[2]))
    there = Endpoint(f"tls://127.0.0.1:{relay.port}", certificate=endpoint.certificate)
    manager = subprocess.Popen(list(argv), stdin=subprocess.PIPE)
    assert manager.stdin is not None
    manager.stdin.write(
        msgspec.structs.replace(setup, access=msgspec.structs.replace(setup.access, endpoints=[there])).dump()
    )
    manager.stdin.close()
    yield executor, relay, manager
    relay.mend()
    executor.shutdown(cancel=True)
    try:
        manager.wait(PATIENCE)
    finally:
        manager.kill()
        manager.wait()
        relay.close()


@pytest.mark.once
def test_a_network_that_is_cut_and_mended_costs_nothing(
    relayed: tuple[HighThroughputExecutor, Relay, Any], recorder: Any
) -> None:
    executor, relay, _ = relayed
    recorder.value(executor, abs, -1)
    dice = random.Random(3)
    calls = [recorder.call(time.sleep, dice.choice([0, 0, 0.001, 0.01])) for _ in range(3000)]
    executor.submit(calls)
    for n in (300, 1500):
        recorder.wait(calls[n])
        relay.cut()
        threading.Event().wait(0.3)  # for so long it is cut
        relay.mend()
    assert [outcome.error for outcome in recorder.wait(*calls) if outcome.error] == []
    assert [event.kind for event in recorder.events if event.kind == "manager.gone"] == []


def test_a_network_that_stays_cut_costs_what_its_manager_ran(
    relayed: tuple[HighThroughputExecutor, Relay, Any], recorder: Any, eventually: Any
) -> None:
    """A third of the threshold, 3 s here, is granted to come back; who does later is told to end."""
    executor, relay, manager = relayed
    recorder.value(executor, abs, -1)
    call = recorder.call(time.sleep, 1000)
    executor.submit([call])
    eventually(lambda: call.id in executor.running(), "the call does not begin")
    since = time.monotonic()
    relay.cut()
    [outcome] = recorder.wait(call)
    assert 2.9 < time.monotonic() - since < 5.0
    assert isinstance(outcome.error, ManagerLostError)
    assert "did not come back within 3 s" in str(outcome.error)
    relay.mend()
    assert manager.wait(5.0) == 0
