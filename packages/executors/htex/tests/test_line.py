"""The stream between a client and its agent: cut wherever it may be, nothing is missing and nothing comes
twice."""

from __future__ import annotations

import contextlib
import os
import random
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from weft_executor_htex.agent import line as line_module
from weft_executor_htex.agent import link as link_module
from weft_executor_htex.agent.durable import Streams
from weft_executor_htex.agent.line import AgentGoneError, Line
from weft_executor_htex.agent.link import Link
from weft_executor_htex.agent.outbox import BLOCK, Outbox
from weft_executor_htex.agent.replay import Messages
from weft_executor_htex.agent.wire import MAGIC, Piece, read_piece, write_piece
from weft_executor_htex.connection import Connection
from weft_executor_htex.messages import MalformedError
from weft_executor_htex.stream import StreamReader, pack
from weft_interfaces import ChannelError, ConfigError

pytestmark = pytest.mark.once

PATIENCE = 30.0
GONE = b"".join(map(bytes, pack(write_piece(Piece(b"G", 0, 0, [b"it was killed"])))))


class Loop:
    """What a link needs of a server."""

    def __init__(self) -> None:
        self.selector = selectors.DefaultSelector()

    def watch(self, descriptor: int, callback: Callable[[int], object]) -> None:
        self.selector.register(descriptor, selectors.EVENT_READ, callback)

    def connect(self, descriptor: int, deliver: Any, ended: Any) -> Connection:
        return Connection(self.selector, descriptor, descriptor, deliver, ended)


class Echo:
    """An agent that sends back what it gets, in a thread."""

    def __init__(self, path: Path, token: str = "secret", memory: int = 1 << 20) -> None:
        self.path = str(path / "agent")
        self.got: list[bytes] = []
        self.loop = Loop()
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(self.path)
        listener.listen(16)
        self.listener = listener
        outbox = Outbox(memory, str(path))
        loop: Any = self.loop
        self.link = Link(loop, listener, {}, token, outbox, self._deliver, 0.05)
        self._stopped = False
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _deliver(self, frames: list[Any]) -> None:
        self.got.append(bytes(frames[0]))
        self.link.send(frames)

    def _run(self) -> None:
        while not self._stopped and not self.link.ended:
            for key, mask in self.loop.selector.select(min(0.02, self.link.tick())):
                key.data(mask)
        self.link.close()
        self.listener.close()
        self.loop.selector.close()

    def close(self) -> None:
        self._stopped = True
        self.thread.join()


class Wire:
    """A connection as a :class:`RemoteProcess`, which ends after so many bytes in one of its directions."""

    _other: socket.socket | None = None

    def __init__(self, path: str, most_in: int, most_out: int, junk: bytes = b"") -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._left_in, self._left_out = most_in, most_out
        self._first = junk + MAGIC
        try:
            self._socket.connect(path)
        except OSError:  # as the relay does
            self._first += GONE
            self._left_out = 1 << 40
            self._socket.close()
            self._socket, self._other = socket.socketpair()

    def read(self, size: int) -> bytes:
        if self._first:
            first, self._first = self._first, b""
            return first
        if self._left_in <= 0:
            self._hang_up()
            return b""
        try:
            data = self._socket.recv(min(size, self._left_in))
        except OSError:
            return b""
        self._left_in -= len(data)
        return data

    def write(self, data: bytes) -> None:
        part = data[: self._left_out]
        self._left_out -= len(part)
        try:
            self._socket.sendall(part)
        except OSError as error:
            raise ChannelError("gone") from error
        if len(part) < len(data):
            self._hang_up()
            raise ChannelError("cut")

    def _hang_up(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close_stdin(self) -> None: ...

    def wait(self, timeout: float | None = None) -> int:
        return 0

    def stderr_tail(self) -> str:
        return ""

    def close(self) -> None:
        self._hang_up()
        self._socket.close()
        if self._other is not None:
            self._other.close()


class Host:
    """Where the echo is, behind wires that ``make`` makes."""

    host = "there"

    def __init__(self, make: Callable[[], Any]) -> None:
        self.make = make
        self.opened: list[str] = []
        self.ended: list[str] = []

    def open(self, command: str, run: str) -> Any:
        self.opened.append(command)
        return self.make()

    def forget(self) -> None: ...

    def end(self, run: str) -> None:
        self.ended.append(run)


def connect(host: Host, events: list[Any] | None = None, **settings: Any) -> Line:
    def report(kind: str, **data: Any) -> None:
        if events is not None:
            events.append((kind, data))

    wanted = {"patience": PATIENCE, "period": 0.05, "threshold": 5.0, "token": "secret"} | settings
    return Line(host, b"setup", {}, report=report, **wanted)  # type: ignore[arg-type]


@pytest.fixture
def echo(tmp_path: Path) -> Iterator[Echo]:
    echo = Echo(tmp_path)
    yield echo
    echo.close()


@pytest.fixture(autouse=True)
def quick(monkeypatch: Any) -> None:
    monkeypatch.setattr(line_module, "_FIRST_DELAY", 0.001)
    monkeypatch.setattr(line_module, "_LAST_DELAY", 0.01)


def exchange(line: Line, messages: list[bytes]) -> list[bytes]:
    """Send all, and read as many."""

    def write() -> None:
        for message in messages:
            line.write(b"".join(bytes(part) for part in pack([message])))

    writer = threading.Thread(target=write)
    writer.start()
    reader, came = StreamReader(), list[bytes]()
    while len(came) < len(messages):
        data = line.read(1 << 16)
        assert data, line.reason
        came += [bytes(frames[0]) for frames in reader.feed(data)]
    writer.join()
    return came


def goodbye(line: Line) -> None:
    line.close_stdin()
    assert line.read(1) == b""
    assert line.wait(PATIENCE) == 0
    line.close()


@pytest.mark.parametrize("block", range(10))
def test_it_is_cut_anywhere(tmp_path: Path, monkeypatch: Any, block: int) -> None:
    """200 times: after random numbers of bytes in either direction, over and over."""
    for seed in range(20 * block, 20 * block + 20):
        dice = random.Random(seed)
        folder = tmp_path / str(seed)
        folder.mkdir()
        echo = Echo(folder, memory=dice.choice([0, BLOCK, 1 << 20]))
        spread = dice.choice([100, 3000, 100_000])
        for module in (line_module, link_module):
            monkeypatch.setattr(module, "_PIECE", min(BLOCK, spread // 2))

        def make(echo: Echo = echo, dice: random.Random = dice, spread: int = spread) -> Wire:
            return Wire(echo.path, dice.randrange(1, 200 + 2 * spread), dice.randrange(1, 400 + 2 * spread))

        host = Host(make)
        sizes = [
            dice.randrange(10 * spread) if dice.random() < 0.1 else dice.randrange(40) for _ in range(30)
        ]
        messages = [dice.randbytes(size) for size in sizes]
        for _ in range(1000):
            with contextlib.suppress(ChannelError):
                line = connect(host)
                break
        try:
            assert exchange(line, messages) == messages, f"seed {seed}"
            assert echo.got == messages, f"seed {seed}"
            goodbye(line)
        finally:
            line.close()
            echo.close()
        assert line.run not in host.ended


def test_nothing_is_said_of_a_connection_that_holds(echo: Echo) -> None:
    events: list[Any] = []
    host = Host(lambda: Wire(echo.path, 1 << 40, 1 << 40))
    line = connect(host, events)
    messages = [bytes([n]) * n * 1000 for n in range(100)]
    assert exchange(line, messages) == messages
    goodbye(line)
    assert events == []
    assert host.opened == ["start"]


@pytest.mark.parametrize(("ahead", "seen"), [(3600.0, 3600.0), (-3600.0, -3600.0), (1.0, 0.0)])
def test_it_is_known_how_far_the_clock_there_is_ahead(
    echo: Echo, monkeypatch: Any, ahead: float, seen: float
) -> None:
    """Seconds in which a word is on its way are no difference of clocks."""
    clock = SimpleNamespace(time=lambda: time.time() + ahead, monotonic=time.monotonic)
    monkeypatch.setattr(link_module, "time", clock)
    line = connect(Host(lambda: Wire(echo.path, 1 << 40, 1 << 40)))
    assert abs(line.skew - seen) < 0.9
    goodbye(line)


def test_what_breaks_is_told_in_words(echo: Echo) -> None:
    events: list[Any] = []
    answers: list[Any] = [lambda: Wire(echo.path, 200, 1 << 40), *[fail] * 3]
    host = Host(lambda: answers.pop(0)() if answers else Wire(echo.path, 1 << 40, 1 << 40))
    line = connect(host, events)
    messages = [b"x" * 100] * 10
    assert exchange(line, messages) == messages
    goodbye(line)
    assert [kind for kind, _ in events] == ["connection.lost", "connection.failed", "connection.restored"]
    assert events[1][1]["reason"] == "no route to there"
    assert host.opened == ["start", *["attach"] * 4]


def fail() -> Any:
    raise ChannelError("no route to there")


def test_patience_ends(echo: Echo) -> None:
    answers: list[Any] = [lambda: Wire(echo.path, 200, 1 << 40)]
    host = Host(lambda: answers.pop(0)() if answers else fail())
    line = connect(host, patience=0.2)
    line.write(b"".join(map(bytes, pack([b"x" * 1000]))))
    while line.read(1 << 16):
        pass
    assert line.reason == "no connection could be made within 0.2 s: no route to there"
    with pytest.raises(ChannelError, match="is gone: no connection could be made"):
        line.write(b"x")
    line.close()
    assert host.ended == [line.run]


def test_an_agent_that_is_gone_is_not_waited_for(echo: Echo, tmp_path: Path) -> None:
    class Gone(Wire):
        def __init__(self) -> None:
            super().__init__(echo.path, 1 << 40, 1 << 40)
            self._first = MAGIC + GONE

    answers: list[Any] = [lambda: Wire(echo.path, 200, 1 << 40), Gone]
    host = Host(lambda: answers.pop(0)())
    events: list[Any] = []
    line = connect(host, events)
    line.write(b"".join(map(bytes, pack([b"x" * 1000]))))
    while line.read(1 << 16):
        pass
    assert line.reason == "it was killed"
    assert [kind for kind, _ in events] == ["connection.lost", "agent.lost"]
    assert events[1][1]["reason"] == "it was killed"
    line.close()
    assert host.ended == []


def test_login_scripts_may_print(echo: Echo) -> None:
    line = connect(Host(lambda: Wire(echo.path, 1 << 40, 1 << 40, junk=b"Welcome to this cluster!\n" * 100)))
    assert exchange(line, [b"x"]) == [b"x"]
    goodbye(line)


@pytest.mark.parametrize("settings", [{"token": "another"}])
def test_who_is_not_the_client_is_refused(echo: Echo, settings: Any) -> None:
    with pytest.raises(ConfigError, match="not the run's token"):
        connect(Host(lambda: Wire(echo.path, 1 << 40, 1 << 40)), **settings)


@pytest.mark.parametrize("version", [0, 2])
def test_another_protocol_is_refused_in_words(echo: Echo, monkeypatch: Any, version: int) -> None:
    monkeypatch.setattr(line_module, "AGENT_PROTOCOL", version)
    with pytest.raises(ConfigError, match=f"it speaks protocol 1, the client {version}: attach with"):
        connect(Host(lambda: Wire(echo.path, 1 << 40, 1 << 40)))


def test_a_silent_connection_is_cut(echo: Echo) -> None:
    """As behind a router that has forgotten it: nobody says that it is broken."""

    class Mute(Wire):
        def read(self, size: int) -> bytes:
            if self._left_in <= 0:
                self._socket.recv(1, socket.MSG_PEEK)
                if not self._gone.wait(PATIENCE):
                    raise AssertionError("nobody has cut it")
            return super().read(size)

        def close(self) -> None:
            self._gone.set()
            super().close()

        _gone = threading.Event()

    events: list[Any] = []
    answers: list[Any] = [lambda: Mute(echo.path, 300, 1 << 40)]
    host = Host(lambda: answers.pop(0)() if answers else Wire(echo.path, 1 << 40, 1 << 40))
    line = connect(host, events, threshold=0.4)
    messages = [b"x" * 100] * 10
    assert exchange(line, messages) == messages
    goodbye(line)
    assert [kind for kind, _ in events] == ["connection.lost", "connection.restored"]
    assert events[0][1]["reason"].startswith("nothing was heard for ")


def test_the_last_who_comes_is_the_client(echo: Echo) -> None:
    """The old connection may be one that nobody knows to be broken."""
    first = Wire(echo.path, 1 << 40, 1 << 40)
    second = Wire(echo.path, 1 << 40, 1 << 40)
    wires = [first, second]
    line = connect(Host(lambda: wires.pop(0)))
    assert exchange(line, [b"a"]) == [b"a"]
    first._left_in = 0  # at the next byte
    assert exchange(line, [b"b", b"c"]) == [b"b", b"c"]
    goodbye(line)


# -- the agent's end of it ----------------------------------------------------------------------------------


class Agent:
    """A link without a loop of its own, and the client that it has."""

    def __init__(self, path: Path) -> None:
        self.loop = Loop()
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path / "agent"))
        listener.listen(16)
        self._listener = listener
        loop: Any = self.loop
        self.link = Link(loop, listener, {}, "secret", Outbox(0), lambda frames: None, 3600.0)
        self._client = socket.socket(socket.AF_UNIX)
        self._client.connect(str(path / "agent"))
        self._client.setblocking(False)
        self._reader = StreamReader()
        self.say(Piece(b"H", 0, 0, [b'{"protocol": 1, "token": "secret"}', b""]))
        assert [piece.kind for piece in self.pieces()] == [b"W", b"B"]

    def say(self, piece: Piece) -> None:
        """Have the link hear this of its client."""
        self._client.sendall(b"".join(map(bytes, pack(write_piece(piece)))))
        while ready := self.loop.selector.select(0):
            for key, mask in ready:
                key.data(mask)

    def send(self, data: bytes) -> None:
        """A message of so many bytes on the stream."""
        self.link.send([data[16:]])

    def pieces(self) -> list[Piece]:
        """What a tick sends."""
        self.due = self.link.tick()
        came: list[Piece] = []
        with contextlib.suppress(BlockingIOError):
            while data := self._client.recv(1 << 20):
                came += map(read_piece, self._reader.feed(data))
        return came

    def close(self) -> None:
        self.link.close()
        for each in (self._client, self._listener, self.loop.selector):
            each.close()


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    agent = Agent(tmp_path)
    yield agent
    agent.close()


def test_small_messages_are_gathered_while_others_are_on_their_way(agent: Agent, monkeypatch: Any) -> None:
    monkeypatch.setattr(link_module, "_GATHER", 600.0)
    agent.send(bytes(100))
    assert [piece.position for piece in agent.pieces()] == [0], "the first one waits for nothing"
    for _ in range(3):
        agent.send(bytes(100))
        assert agent.pieces() == []
        assert 590 < agent.due < 600
    agent.say(Piece(b"B", 0, 100))
    assert [(piece.position, len(piece.frames[0])) for piece in agent.pieces()] == [(100, 300)]
    assert agent.due > 600


def test_small_messages_are_gathered_for_a_moment_only(agent: Agent, monkeypatch: Any) -> None:
    monkeypatch.setattr(link_module, "_GATHER", 0.0)
    for position in (0, 100, 200):
        agent.send(bytes(100))
        assert [piece.position for piece in agent.pieces()] == [position]


def test_much_is_not_gathered(agent: Agent, monkeypatch: Any) -> None:
    monkeypatch.setattr(link_module, "_GATHER", 600.0)
    for position in (0, BLOCK):
        agent.send(bytes(BLOCK))
        assert [piece.position for piece in agent.pieces()] == [position]


def test_nobody_waits_for_room_on_the_way(agent: Agent, monkeypatch: Any) -> None:
    """A connection that takes no more costs the agent no time."""
    monkeypatch.setattr(link_module, "_WINDOW", BLOCK)
    agent.send(bytes(2 * BLOCK))
    assert [len(piece.frames[0]) for piece in agent.pieces()] == [BLOCK]
    assert agent.pieces() == []
    assert agent.due > 600
    agent.say(Piece(b"B", 0, BLOCK))
    assert [len(piece.frames[0]) for piece in agent.pieces()] == [BLOCK]


def test_what_has_come_is_told_with_what_is_sent_or_after_a_moment(agent: Agent, monkeypatch: Any) -> None:
    (message,) = pack([b"x" * 84])
    agent.say(Piece(b"D", 0, 0, [message]))
    assert agent.pieces() == []
    assert 0 < agent.due <= 0.25
    agent.send(bytes(100))
    assert [(piece.kind, piece.received) for piece in agent.pieces()] == [(b"D", 100)]
    assert agent.due > 600
    monkeypatch.setattr(link_module, "_TELL", 0.0)
    agent.say(Piece(b"D", 100, 100, [message]))
    assert [(piece.kind, piece.received) for piece in agent.pieces()] == [(b"B", 200)]


# -- what it is made of -------------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_an_outbox_gives_every_byte_again(data: Any) -> None:
    """Whatever was put in, sent, confirmed and sent again: what comes from a place is what was put there."""
    import tempfile

    memory = data.draw(st.sampled_from([0, BLOCK, 3 * BLOCK]))
    with tempfile.TemporaryDirectory() as folder, contextlib.closing(Outbox(memory, folder)) as outbox:
        all_of_it = bytearray()
        for _ in range(data.draw(st.integers(1, 20))):
            step = data.draw(st.sampled_from(["append", "next", "confirm", "rewind"]))
            if step == "append":
                part = random.Random(len(all_of_it)).randbytes(data.draw(st.integers(0, 3 * BLOCK)))
                outbox.append(part)
                all_of_it += part
            elif step == "next":
                sent = outbox.next(data.draw(st.integers(1, BLOCK)), 2 * BLOCK)
                if sent is not None:
                    position, found = sent
                    assert found == all_of_it[position : position + len(found)]
                    assert found
                    assert outbox.sent - outbox.confirmed <= 2 * BLOCK
            else:
                place = data.draw(st.integers(outbox.confirmed, outbox.sent))
                getattr(outbox, step)(place)
                assert outbox.confirmed == place
            assert outbox.end == len(all_of_it)
            assert len(outbox) == outbox.end - outbox.confirmed
        outbox.rewind(outbox.confirmed)
        rest = bytearray()
        start = outbox.confirmed
        while (sent := outbox.next(BLOCK, 1 << 40)) is not None:
            rest += sent[1]
        assert rest == all_of_it[start:]


def test_an_outbox_has_little_in_memory(tmp_path: Path) -> None:
    outbox = Outbox(4 * BLOCK, str(tmp_path))
    for _ in range(100):
        outbox.append(os.urandom(BLOCK))
    assert outbox.spilled >= 95 * BLOCK
    outbox.confirm(50 * BLOCK)
    assert outbox.spilled >= 45 * BLOCK
    outbox.confirm(100 * BLOCK)
    assert outbox.spilled == 0
    assert list(tmp_path.iterdir()) == [], "its files have no name"
    outbox.close()


def test_an_outbox_whose_disk_is_full_says_so_once_and_loses_nothing() -> None:
    trouble: list[OSError] = []
    outbox = Outbox(0, "/nowhere at all", trouble.append)
    outbox.append(b"x" * 10 * BLOCK)
    assert len(trouble) == 1
    assert outbox.spilled == 0
    count = 0
    while (part := outbox.next(BLOCK, 1 << 40)) is not None:
        count += len(part[1])
    assert count == 10 * BLOCK


def test_an_outbox_whose_disk_was_full_tries_it_again_when_all_has_gone(tmp_path: Path) -> None:
    trouble: list[OSError] = []
    outbox = Outbox(0, str(tmp_path / "later"), trouble.append)
    outbox.append(b"x" * 10 * BLOCK)
    (tmp_path / "later").mkdir()
    outbox.append(b"x" * 10 * BLOCK)
    assert outbox.spilled == 0
    outbox.confirm(20 * BLOCK)
    outbox.append(b"x" * 10 * BLOCK)
    assert outbox.spilled > 5 * BLOCK
    assert len(trouble) == 1
    outbox.close()


@pytest.mark.parametrize("confirmed", [11, 1 << 60])
def test_more_cannot_be_confirmed_than_there_was(confirmed: int) -> None:
    outbox = Outbox(0)
    outbox.append(b"x" * 10)
    with pytest.raises(ValueError, match="bytes were received"):
        outbox.confirm(confirmed)


@given(st.lists(st.binary(max_size=40), max_size=4))
def test_what_is_no_piece_is_refused(frames: list[bytes]) -> None:
    try:
        piece = read_piece(frames)
    except MalformedError:
        return
    assert write_piece(piece) == frames


def test_what_an_agent_cannot_understand_costs_the_connection_alone(echo: Echo) -> None:
    for junk in (b"\xff" * 64, b"".join(map(bytes, pack([b"x"]))), b"GET / HTTP/1.1\r\n\r\n" * 10):
        with socket.socket(socket.AF_UNIX) as stranger:
            stranger.settimeout(PATIENCE)
            stranger.connect(echo.path)
            stranger.sendall(junk)
            while stranger.recv(1 << 16):
                pass
    line = connect(Host(lambda: Wire(echo.path, 1 << 40, 1 << 40)))
    assert exchange(line, [b"x"]) == [b"x"]
    goodbye(line)


# -- files --------------------------------------------------------------------------------------------------


def whole(path: Path) -> list[bytes]:
    return [bytes(frames[0]) for frames in Messages(path)]


def go_on(line: Line, messages: list[bytes], dice: random.Random, folder: Path) -> None:
    """Send messages and read for a while; then the client is gone, whatever it is about to do."""

    def write() -> None:
        with contextlib.suppress(ChannelError):
            for message in messages:
                line.write(b"".join(map(bytes, pack([message]))))

    writer = threading.Thread(target=write)
    writer.start()
    enough = dice.randrange(1, 1 + sum(map(len, messages)))
    came = 0
    while came < enough:
        data = line.read(1 << 16)
        assert data, line.reason
        came += len(data)
    line.leave(0.0)
    writer.join()


@pytest.mark.parametrize("block", range(4))
def test_clients_take_over_from_each_other(tmp_path: Path, monkeypatch: Any, block: int) -> None:
    """Each goes on where the files of the one before end, wherever that is, and is cut all the time."""
    for seed in range(10 * block, 10 * block + 10):
        dice = random.Random(seed)
        folder = tmp_path / str(seed)
        folder.mkdir()
        echo = Echo(folder, memory=dice.choice([0, BLOCK, 1 << 20]))
        spread = dice.choice([100, 3000, 100_000])
        for module in (line_module, link_module):
            monkeypatch.setattr(module, "_PIECE", min(BLOCK, spread // 2))

        def make(echo: Echo = echo, dice: random.Random = dice, spread: int = spread) -> Wire:
            return Wire(
                echo.path, dice.randrange(200, 400 + 2 * spread), dice.randrange(400, 800 + 2 * spread)
            )

        messages = [dice.randbytes(dice.choice([5, 40, spread])) for _ in range(30)]
        host = Host(make)
        try:
            for client in range(4):
                streams = Streams(folder)
                sent = Messages(folder / "sent")
                done = len(list(sent))
                streams.sent.cut(sent.end)
                assert whole(folder / "sent") == messages[:done], f"seed {seed}"
                for _ in range(1000):
                    with contextlib.suppress(ChannelError):
                        line = connect(host, streams=streams, there=client > 0, run="r")
                        break
                if client < 3 and done < len(messages):
                    go_on(line, messages[done:], dice, folder)
                    continue
                for message in messages[done:]:
                    line.write(b"".join(map(bytes, pack([message]))))
                while len(whole(folder / "received")) < len(messages):
                    assert line.read(1 << 16), line.reason
                assert whole(folder / "received") == messages, f"seed {seed}"
                goodbye(line)
                break
            assert echo.got == messages, f"seed {seed}"
        finally:
            echo.close()
        assert "r" not in host.ended


def test_what_was_confirmed_and_is_not_in_the_files_cannot_be_had(echo: Echo, tmp_path: Path) -> None:
    host = Host(lambda: Wire(echo.path, 1 << 40, 1 << 40))
    first = connect(host, streams=Streams(tmp_path), run="r")
    messages = [b"x" * 100] * 10
    exchange(first, messages)
    assert first.leave(PATIENCE) == 0
    os.truncate(tmp_path / "sent", 50)
    with pytest.raises(AgentGoneError, match="it is not as it was: 1160 bytes were received of 50"):
        connect(host, streams=Streams(tmp_path), there=True, run="r")
    assert host.ended == [], "it may be of use to others"


def test_a_full_disk_is_waited_for(echo: Echo, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(line_module, "_ROOM", 0.01)

    class Full(Streams):
        left = 3

        def take(self, data: Any) -> None:
            self.left -= 1
            if self.left > 0:
                raise OSError(28, "No space left on device")
            super().take(data)

    streams = Full(tmp_path)
    append, refusals = streams.sent.append, [OSError(28, "No space left on device")] * 2

    def full(data: Any) -> None:
        if refusals:
            raise refusals.pop()
        append(data)

    monkeypatch.setattr(streams.sent, "append", full)
    events: list[Any] = []
    line = connect(Host(lambda: Wire(echo.path, 1 << 40, 1 << 40)), events, streams=streams, run="r")
    messages = [b"x" * 100] * 3
    assert exchange(line, messages) == messages
    goodbye(line)
    assert [kind for kind, _ in events] == ["run_dir.full", "run_dir.full"]
    assert events[0][1]["reason"].endswith("No space left on device; the run waits for room")
