"""What an agent that gets blocks tells its client, and what that makes of it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import pytest
from weft_executor_htex import client as client_module
from weft_executor_htex import messages
from weft_executor_htex.agent.blocks import AgentBlocks, Mailbox
from weft_executor_htex.client import Client
from weft_executor_htex.client_blobs import ClientBlobs
from weft_executor_htex.far_clock import event_of
from weft_executor_htex.packing import BlobSerializer
from weft_executor_htex.selector import LeastLoaded
from weft_executor_htex.server import Server
from weft_executor_htex.setup import InterchangeSetup
from weft_interfaces import DeathCertificate, NoBlocksError
from weft_interfaces.processes import Catalogue
from weft_interfaces.testing.recorder import PATIENCE, Recorder

pytestmark = pytest.mark.once


# -- the client ---------------------------------------------------------------------------------------------


class Pulled:
    """A client, and what it has said."""

    def __init__(self, recorder: Recorder) -> None:
        blobs = ClientBlobs()
        serializer = BlobSerializer(cloudpickle.Pickler, 1000, blobs)
        self.client = Client("x", recorder, serializer, blobs)
        self.catalogue = Catalogue(serializer, lambda options: None, pack=serializer.pack)
        self.recorder = recorder

    def submit(self, count: int, **options: Any) -> list[Any]:
        calls = [self.recorder.call(abs, -1, **options) for _ in range(count)]
        self.client.submit([self.catalogue.entry(call) for call in calls])
        return calls

    def pull(self) -> list[messages.Message]:
        said: list[messages.Message] = []
        self.client.pull(lambda message, payloads: said.append(message))
        return said


@pytest.fixture
def pulled(recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> Pulled:
    monkeypatch.setattr(client_module, "_WINDOW", 10)
    monkeypatch.setattr(client_module, "_BATCH", 5)
    return Pulled(recorder)


def test_an_agent_hears_first_what_it_needs_and_then_what_is_held_back(pulled: Pulled) -> None:
    pulled.submit(12, cpus=2)
    assert not any(isinstance(each, messages.Held) for each in pulled.pull()), "nobody wants to know"
    plans = iter([None, messages.Scale(b"1"), messages.Scale(b"2")])
    pulled.client.introduce(lambda: next(plans))
    assert pulled.pull() == [], "it is not there yet"
    assert pulled.pull() == [messages.Scale(b"1"), messages.Held(4)]
    waiting = pulled.submit(3)
    assert pulled.pull() == [messages.Held(7)]
    assert pulled.pull() == []
    pulled.client.cancel([waiting[0].id])
    assert pulled.pull() == [messages.Held(6)]


def test_the_next_agent_hears_it_again(pulled: Pulled) -> None:
    numbers = iter(range(9))
    pulled.client.introduce(lambda: messages.Scale(bytes([next(numbers)])))
    pulled.submit(12)
    assert pulled.pull()[0] == messages.Scale(b"\0")
    pulled.client.lose_interchange(DeathCertificate(kind="interchange"))
    assert pulled.pull()[0] == messages.Scale(b"\1")


def test_no_agent_hears_it_where_no_blocks_will_come(pulled: Pulled, recorder: Recorder) -> None:
    pulled.client.introduce(lambda: messages.Scale(b"1"))
    calls = pulled.submit(1)
    pulled.client.receive(messages.NoMoreBlocks("invalid account"), ())
    (outcome,) = recorder.wait(*calls)
    assert isinstance(outcome.error, NoBlocksError)
    assert "invalid account" in str(outcome.error)
    assert not any(isinstance(each, messages.Scale) for each in pulled.pull())


def note(at: float, **data: Any) -> messages.Note:
    return messages.Note(at, "block.running", "x", json.dumps(data))


@pytest.mark.parametrize("wrong", [3600.0, -3600.0])
def test_events_have_this_machines_time(wrong: float) -> None:
    event = event_of(note(1e9 + wrong, ends_at=1e9 + wrong + 60, block="b"), wrong)
    assert (event.kind, event.source, event.data["block"]) == ("block.running", "x", "b")
    assert (event.time, event.data["ends_at"]) == (1e9, 1e9 + 60)


def test_events_of_a_clock_that_is_right_are_left_as_they_are() -> None:
    event = event_of(note(1e9, ends_at=None), 0.0)
    assert (event.time, event.data["ends_at"]) == (1e9, None)


# -- the agent ----------------------------------------------------------------------------------------------


@pytest.fixture
def server() -> Iterator[Server]:
    setup = InterchangeSetup(heartbeat_period=1.0, heartbeat_threshold=10.0)
    server = Server(setup, LeastLoaded(), lambda message, payloads: None)
    yield server
    server.close()


def serve_until(server: Server, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        server.serve(server.wait(min(0.1, server.prepare())))


def test_other_threads_have_the_servers_do_something(server: Server) -> None:
    mailbox, answers = Mailbox(server), list[Any]()
    done: list[int] = []
    asking = threading.Thread(target=lambda: answers.append(mailbox.ask(threading.get_ident)))
    asking.start()
    serve_until(server, lambda: bool(answers))
    asking.join()
    assert answers == [threading.get_ident()]
    for number in range(100_000):  # more than there is room for in the socket
        mailbox.post(lambda number=number: done.append(number))
    serve_until(server, lambda: len(done) == 100_000)
    assert done == sorted(done)
    mailbox.close()


def test_what_fails_there_is_told_and_does_not_stop_the_rest(server: Server, capsys: Any) -> None:
    mailbox, done = Mailbox(server), list[int]()
    mailbox.post(lambda: 1 / 0)
    mailbox.post(lambda: done.append(1))
    serve_until(server, lambda: bool(done))
    assert "ZeroDivisionError" in capsys.readouterr().err
    mailbox.close()


def test_a_plan_that_cannot_be_read_is_told_with_the_remedy(server: Server, capsys: Any) -> None:
    said: list[messages.Message] = []
    blocks = AgentBlocks(server, said.append)
    assert blocks.overhear(messages.Scale(b"no pickle"))
    serve_until(server, lambda: bool(said))
    (message,) = said
    assert isinstance(message, messages.NoMoreBlocks)
    assert 'AgentSettings(blocks="client") has the client do it' in message.reason
    assert not blocks.awaited
    blocks.end(PATIENCE)
    assert said[1:] == [messages.BlocksClosed([])]
    blocks.close()
