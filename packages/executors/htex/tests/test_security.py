"""Who has no key gets nothing, and is counted."""

from __future__ import annotations

import contextlib
import os
import random
import select
import socket
import ssl
import stat
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st
from weft_executor_htex import HighThroughputExecutor, messages
from weft_executor_htex.keys import make_keys
from weft_executor_htex.link import connect
from weft_executor_htex.port import HELLO
from weft_executor_htex.setup import Endpoint, Identity, ManagerSetup
from weft_executor_htex.stream import StreamReader, pack
from weft_executor_htex.tls_link import make_end
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


def answer_to(executor: HighThroughputExecutor, identity: Identity | None = None, server: str = "") -> str:
    """What a peer hears that registers as a manager with this identity, at a server with this certificate,
    or why it hears nothing; the right ones unless said.
    """
    setup, endpoint = setup_of(executor)
    access = msgspec.structs.replace(setup.access, identity=identity or setup.access.identity)
    endpoint = msgspec.structs.replace(endpoint, certificate=server or endpoint.certificate)
    link = connect(endpoint, msgspec.structs.replace(setup, access=access))
    link.send(registration())
    deadline = time.monotonic() + PATIENCE
    try:
        while True:
            heard = link.receive()
            if heard:
                return type(messages.decode(heard[0])).__name__
            if link.trouble():
                return link.trouble().partition(": ")[2]
            assert time.monotonic() < deadline, "neither an answer nor a trouble"
            select.select([link.fileno()], [], [], max(0.0, min(1.0, link.due() - time.monotonic())))
    finally:
        link.close()


def raw(executor: HighThroughputExecutor, data: bytes, version: ssl.TLSVersion | None = None) -> None:
    """Say this on the port, by TLS of this version if one is said; until the other side hangs up."""
    _, endpoint = setup_of(executor)
    with (
        socket.create_connection(("127.0.0.1", port_of(endpoint)), PATIENCE) as peer,
        contextlib.ExitStack() as stack,
    ):
        if version is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            context.maximum_version = version
            with contextlib.suppress(OSError):
                peer = stack.enter_context(context.wrap_socket(peer))
        with contextlib.suppress(OSError):
            peer.sendall(data)
            peer.shutdown(socket.SHUT_WR)
            while peer.recv(1000):
                pass


def port_of(endpoint: Endpoint) -> int:
    return int(endpoint.url.rpartition(":")[2])


def refused(executor: HighThroughputExecutor) -> dict[str, int]:
    found: dict[str, int] = executor.status()["refused_peers"]
    return found


def test_only_the_keys_of_the_run_open(executor: HighThroughputExecutor, eventually: Any) -> None:
    assert answer_to(executor) == "Accepted"
    other = make_keys()
    answer_to(executor, identity=other.managers)
    eventually(lambda: "a certificate that is not of this run" in refused(executor), "with a key of its own")
    said = answer_to(executor, server=other.interchange.certificate)
    assert said == "a certificate that is not of this run", "to another server"
    eventually(
        lambda: "it does not take the certificate of this run" in refused(executor),
        "attempts are not counted",
    )
    raw(executor, b"x", ssl.TLSVersion.MAXIMUM_SUPPORTED)
    eventually(lambda: "no certificate" in refused(executor), "without a certificate")
    assert answer_to(executor) == "Accepted"


@pytest.mark.parametrize(
    ("data", "version", "words"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", None, "no TLS"),
        (b"\xff\x00\x00\x00\x00\x00\x00\x00\x11\x7f\x03\x01CURVE" + bytes(45), None, "no TLS"),  # ZeroMQ
        (b"\x16\x03\x01\x02", None, "it left during the handshake"),
        (b"", ssl.TLSVersion.TLSv1_2, "an old version of TLS"),
    ],
    ids=["http", "zeromq", "half", "old"],
)
def test_who_does_not_speak_our_tls_is_counted(
    executor: HighThroughputExecutor, eventually: Any, data: bytes, version: Any, words: str
) -> None:
    raw(executor, data, version)
    eventually(lambda: refused(executor) == {words: 1}, "it is not counted")


def test_raw_garbage_on_the_port_costs_nothing(executor: HighThroughputExecutor, eventually: Any) -> None:
    dice = random.Random(2)
    for _ in range(50):
        raw(executor, dice.randbytes(dice.choice([1, 10, 64, 1000])))
    eventually(lambda: sum(refused(executor).values()) == 50, "they are not counted")
    assert answer_to(executor) == "Accepted"


def test_who_says_nothing_keeps_nobody_out(
    executor: HighThroughputExecutor, eventually: Any, monkeypatch: Any
) -> None:
    """Neither before its first word nor within a handshake; both end."""
    monkeypatch.setattr("weft_executor_htex.port._AT_ONCE", 5)
    monkeypatch.setattr("weft_executor_htex.port._FIRST", 0.5)
    monkeypatch.setattr("weft_executor_htex.port._HANDSHAKE", 1.0)
    _, endpoint = setup_of(executor)
    with contextlib.ExitStack() as stack:
        peers = []
        for number in range(30):
            peers.append(
                stack.enter_context(socket.create_connection(("127.0.0.1", port_of(endpoint)), PATIENCE))
            )
            if number < 8:
                peers[-1].sendall(b"\x16\x03\x01\x02")  # begins a handshake
        assert answer_to(executor) == "Accepted"
        for peer in peers:
            with contextlib.suppress(ConnectionError):
                assert peer.recv(100) == b""
    assert refused(executor) == {
        "it said nothing within 0.5 s": 22,
        "it did not finish the handshake within 1 s": 8,
    }


@pytest.mark.parametrize(
    "said",
    [
        pack([b"weft-0", bytes(16), bytes(16)]),
        pack([HELLO, bytes(15), bytes(16)]),
        pack([HELLO, bytes(16)]),
        [b"\xff" * 100],
        [*pack([HELLO, bytes(16), bytes(16)]), *pack([b"no number"])],
        [*pack([HELLO, bytes(16), bytes(16)]), *pack([struct.pack("<QQ", 9, 0)])],
        [*pack([HELLO, bytes(16), bytes(16)]), *pack([struct.pack("<QQ", 1, 9)])],
    ],
    ids=["version", "id", "numbers", "frames", "number", "gap", "future"],
)
def test_who_has_the_keys_and_speaks_nonsense_is_counted(
    executor: HighThroughputExecutor, eventually: Any, said: list[messages.Frame]
) -> None:
    setup, endpoint = setup_of(executor)
    end = make_end(endpoint, setup.access)
    peer = socket.create_connection(("127.0.0.1", port_of(endpoint)), PATIENCE)
    with end.context.wrap_socket(peer) as secure, contextlib.suppress(ConnectionError):
        secure.sendall(b"".join(said))
        while secure.recv(1000):
            pass
    eventually(lambda: sum(refused(executor).values()) == 1, "it is not counted")
    assert answer_to(executor) == "Accepted"


def test_keys_differ_between_runs_and_are_seen_nowhere(recorder: Any) -> None:
    seen = set()
    for _ in range(2):
        blocks = Blocks(provider=InMemoryProvider())
        executor = HighThroughputExecutor(blocks=blocks, address="127.0.0.1")
        executor.start(recorder)
        argv, data = executor.command("b")
        setup = ManagerSetup.load(data)
        assert setup.access.identity is not None
        secret = setup.access.identity.key
        seen.add(secret)
        assert not any(secret in word for word in argv)
        assert secret.splitlines()[1] not in repr(setup)
        executor.shutdown()
    assert len(seen) == 2


def test_certificates_do_not_depend_on_clocks() -> None:
    certificate = x509.load_pem_x509_certificate(make_keys().managers.certificate.encode())
    assert certificate.not_valid_before_utc.year == 1970
    assert certificate.not_valid_after_utc.year == 9999


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
