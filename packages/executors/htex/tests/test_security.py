"""Who has no key gets nothing, and is counted."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st
from weft_executor_htex import HighThroughputExecutor, messages
from weft_executor_htex.session import Session
from weft_executor_htex.setup import Endpoint, Keys, ManagerSetup
from weft_executor_htex.stream import StreamReader, pack
from weft_interfaces import Blocks
from weft_interfaces.memory import InMemoryProvider

pytestmark = pytest.mark.once

PATIENCE = 30.0


@pytest.fixture
def executor(recorder: Any) -> Iterator[HighThroughputExecutor]:
    blocks = Blocks(provider=InMemoryProvider())
    executor = HighThroughputExecutor(workers_per_node=1, blocks=blocks, address="127.0.0.1")
    executor.start(recorder)
    yield executor
    executor.shutdown(cancel=True)


def setup_of(executor: HighThroughputExecutor) -> tuple[ManagerSetup, Endpoint]:
    setup = ManagerSetup.load(executor.command("b").input)
    [endpoint] = setup.access.endpoints
    return setup, endpoint


def registration() -> list[messages.Frame]:
    info = messages.Register(messages.PROTOCOL, messages.PYTHON, "host", 1, "b", 1, None, 0, None)
    return messages.encode(info)


def answer_to(endpoint: Endpoint, keys: Keys | None, server_key: bytes | None) -> bool:
    """Whether a peer with these keys gets an answer to its registration."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as peer:
        peer.linger = 0
        if keys is not None and server_key is not None:
            peer.set(zmq.CURVE_PUBLICKEY, keys.public)
            peer.set(zmq.CURVE_SECRETKEY, keys.secret)
            peer.set(zmq.CURVE_SERVERKEY, server_key)
        peer.connect(endpoint.url)
        peer.send_multipart(Session().pack(registration()))
        return bool(peer.poll(1000))


def test_only_the_keys_of_the_run_open(executor: HighThroughputExecutor, eventually: Any) -> None:
    setup, endpoint = setup_of(executor)
    own = Keys(setup.access.public_key, setup.access.secret_key)
    assert answer_to(endpoint, own, endpoint.server_key)
    assert not answer_to(endpoint, None, None), "without any key"
    assert not answer_to(endpoint, Keys.make(), endpoint.server_key), "with a key of its own"
    assert not answer_to(endpoint, own, Keys.make().public), "to another server"
    eventually(lambda: sum(executor.status()["refused_peers"].values()) >= 2, "attempts are not counted")


def test_raw_garbage_on_the_port_costs_nothing(executor: HighThroughputExecutor, recorder: Any) -> None:
    setup, endpoint = setup_of(executor)
    port = int(endpoint.url.rpartition(":")[2])
    dice = random.Random(2)
    for _ in range(50):
        with socket.create_connection(("127.0.0.1", port), PATIENCE) as peer:
            peer.sendall(dice.randbytes(dice.choice([1, 10, 64, 1000])))
    assert answer_to(endpoint, Keys(setup.access.public_key, setup.access.secret_key), endpoint.server_key)


def test_keys_differ_between_runs_and_stand_in_no_argument(recorder: Any) -> None:
    seen = set()
    for _ in range(2):
        blocks = Blocks(provider=InMemoryProvider())
        executor = HighThroughputExecutor(blocks=blocks, address="127.0.0.1")
        executor.start(recorder)
        argv, data = executor.command("b")
        setup = ManagerSetup.load(data)
        seen.add(setup.access.secret_key)
        assert not any(setup.access.secret_key.decode() in word for word in argv)
        executor.shutdown()
    assert len(seen) == 2


def test_only_its_owner_can_enter_the_directory_of_the_socket(recorder: Any) -> None:
    executor = HighThroughputExecutor(blocks=Blocks(provider=InMemoryProvider()))
    executor.start(recorder)
    _, endpoint = setup_of(executor)
    directory = Path(endpoint.url.partition("://")[2]).parent
    mode = directory.stat()
    assert stat.S_IMODE(mode.st_mode) == 0o700
    assert mode.st_uid == os.getuid()
    executor.shutdown()
    assert not directory.exists()


# -- parsers ----------------------------------------------------------------------------------------------

frames = st.lists(st.binary(max_size=200), max_size=5)


@given(st.lists(frames, max_size=5), st.lists(st.integers(1, 40), max_size=50))
def test_what_is_packed_is_read_however_it_is_cut(sent: list[list[bytes]], cuts: list[int]) -> None:
    data = b"".join(bytes(part) for message in sent for part in pack(message))
    reader, read = StreamReader(), []
    for cut in [*cuts, len(data)]:
        read += reader.feed(data[:cut])
        data = data[cut:]
    assert read == sent


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    reader = StreamReader()
    try:
        for message in reader.feed(data):
            assert isinstance(message, list)
    except messages.MalformedError:
        pass


@given(frames)
def test_any_frames_are_a_message_or_refused(candidate: list[bytes]) -> None:
    with contextlib.suppress(messages.MalformedError):
        messages.decode(candidate)


ids = st.lists(st.integers(0, 2**63 - 1), max_size=5, unique=True)


@given(ids, st.data())
def test_messages_survive_their_journey(numbers: list[int], data: st.DataObject) -> None:
    sizes = data.draw(st.lists(st.integers(0, 9), min_size=len(numbers), max_size=len(numbers)))
    payload = bytes(sum(sizes))
    group = messages.Group(1, 2, numbers, sizes)
    sent: messages.Message = messages.Tasks([7], [], [group])
    assert messages.decode(messages.encode(sent, [b"function", payload])) == sent
    with pytest.raises(messages.MalformedError):
        messages.decode(messages.encode(sent, [b"function", payload + b"x"]))
    with pytest.raises(messages.MalformedError):
        messages.decode(messages.encode(sent, [payload]))
