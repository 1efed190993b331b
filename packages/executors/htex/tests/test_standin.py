"""What stands for msgspec in the agent's file reads and writes the same bytes as msgspec."""

from __future__ import annotations

import random
import sys
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from weft_executor_htex import messages, setup
from weft_executor_htex.agent.bundle import bundle
from weft_executor_htex.agent.standin import msgspec as standin

KINDS: tuple[type, ...] = typing.get_args(messages.Message)
PARTS = (messages.Options, messages.Group, messages.ResultGroup, messages.BlobHeader, messages.BlockState)
ACCESS = setup.ManagerAccess([setup.Endpoint("unix:///x", b"\0\xff", "boot"), setup.Endpoint("tls://h:1")])
SETUP = setup.InterchangeSetup(heartbeat_period=1.0, heartbeat_threshold=3.5, selector=b"\x80\1", address="h")


@pytest.fixture(scope="module")
def far(tmp_path_factory: Any) -> Any:
    """The modules ``messages`` and ``setup`` as they are in the agent's file."""
    path = tmp_path_factory.mktemp("agent") / bundle().name
    Path(path).write_bytes(bundle().data)
    names = ("msgspec", "weft_interfaces", "weft_executor_htex")
    kept = {name: module for name, module in sys.modules.items() if name.partition(".")[0] in names}
    for name in kept:
        del sys.modules[name]
    sys.path.insert(0, str(path))
    try:
        import msgspec as near
        from weft_executor_htex import messages, setup

        assert str(path) in str(messages.__file__)
        return types.SimpleNamespace(messages=messages, setup=setup, error=near.DecodeError)
    finally:
        sys.path.remove(str(path))
        for name in [name for name in sys.modules if name.partition(".")[0] in names]:
            del sys.modules[name]
        sys.modules.update(kept)


def strategy(kind: Any) -> st.SearchStrategy[Any]:
    """Values of an annotation."""
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        fields = msgspec.structs.fields(kind)
        return st.builds(kind, *[strategy(field.type) for field in fields])
    if origin in (typing.Union, types.UnionType):
        return st.one_of(*map(strategy, parts))
    if origin is list:
        return st.lists(strategy(parts[0]), max_size=20)
    if origin is dict:
        return st.dictionaries(strategy(parts[0]), strategy(parts[1]), max_size=3)
    if origin is tuple and parts[-1] is Ellipsis:
        return st.lists(strategy(parts[0]), max_size=3).map(tuple)
    if origin is tuple:
        return st.tuples(*map(strategy, parts))
    simple: Mapping[Any, Any] = {
        int: st.integers(-(1 << 63), (1 << 64) - 1) | st.integers(0, 300),
        float: st.floats(allow_nan=False),
        str: st.text(max_size=40),
        bytes: st.binary(max_size=40),
        bool: st.booleans(),
        type(None): st.none(),
    }
    return simple[kind]


def plain(value: Any) -> Any:
    """What a message, of either kind of structs, says."""
    if isinstance(value, msgspec.Struct):
        return type(value).__name__, {name: plain(getattr(value, name)) for name in value.__struct_fields__}
    if hasattr(type(value), "_fields") and not isinstance(value, tuple):
        return type(value).__name__, {name: plain(getattr(value, name)) for name in type(value)._fields}
    if isinstance(value, (list, tuple)):
        return type(value), [plain(each) for each in value]
    return type(value), value


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_message_passes_both_ways(far: Any, kind: Any) -> None:
    decoder = msgspec.msgpack.Decoder(kind)

    @settings(max_examples=25, deadline=None)
    @given(strategy(kind))
    def check(message: Any) -> None:
        (frame,) = messages.encode(message)
        there = far.messages._decoder.decode(frame)
        assert plain(there) == plain(message)
        again = far.messages._encoder.encode(there)
        assert decoder.decode(again) == message
        assert len(again) < 6 * len(frame)

    check()


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 1 << 20), min_size=1, max_size=3000), st.booleans())
def test_long_lists_of_numbers_pass(numbers: list[int], same: bool) -> None:
    if same:
        numbers = list(range(numbers[0], numbers[0] + len(numbers)))
    frame = msgspec.msgpack.encode(numbers)
    assert standin._Reader(frame).whole() == numbers
    assert msgspec.msgpack.decode(standin.msgpack.Encoder().encode(numbers)) == numbers


def test_text_that_is_none_is_passed_over_where_nobody_reads_it(far: Any) -> None:
    """As the name of a field that is unknown to both."""
    (frame,) = messages.encode(messages.Listening(setup.ManagerAccess([])))
    broken = frame.replace(b"\xa8identity", b"\xa8\x85dentity")
    assert broken != frame
    compare(far, broken)
    assert isinstance(far.messages.decode([broken]), far.messages.Listening)


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_what_is_malformed_is_refused_by_both(far: Any, data: Any) -> None:
    """And whatever one of them reads, the other one reads as the same."""
    message = data.draw(st.sampled_from(KINDS).flatmap(strategy))
    (frame,) = messages.encode(message)
    dice = random.Random(data.draw(st.integers(0, 1 << 32)))
    broken = bytearray(frame)
    for _ in range(dice.randrange(1, 4)):
        place = dice.randrange(len(broken) + 1)
        how = dice.randrange(3)
        if how == 0:
            del broken[place:]
        elif how == 1:
            broken[place:place] = dice.randbytes(dice.randrange(1, 4))
        else:
            broken[place : place + 1] = dice.randbytes(1)
    compare(far, bytes(broken))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60))
def test_noise_is_refused_by_both(far: Any, noise: bytes) -> None:
    compare(far, noise)


def compare(far: Any, frame: bytes) -> None:
    results = []
    for module in (messages, far.messages):
        try:
            results.append(repr(plain(module._decoder.decode(frame))))
        except (msgspec.DecodeError, UnicodeDecodeError, far.error):
            results.append("refused")
    assert results[0] == results[1], frame


@pytest.mark.parametrize(
    "frames", [[], [b""], [b"\xc1"], [b"\x91"], [b"\xdd\xff\xff\xff\xff"], [b"\x91" * 100_000]]
)
def test_what_is_no_message_is_malformed(far: Any, frames: Any) -> None:
    with pytest.raises(far.messages.MalformedError):
        far.messages.decode(frames)


def test_setups_pass_as_json(far: Any) -> None:
    there = far.setup.InterchangeSetup.load(SETUP.dump())
    assert plain(there) == plain(SETUP)
    assert setup.InterchangeSetup.load(there.dump()) == SETUP


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"[]", b'{"heartbeat_period": "x", "heartbeat_threshold": 1}', b"\xff"]
)
def test_what_is_no_setup_is_refused(far: Any, data: bytes) -> None:
    with pytest.raises(far.error):
        far.setup.InterchangeSetup.load(data)
    with pytest.raises(msgspec.DecodeError):
        setup.InterchangeSetup.load(data)


def test_structs_behave(far: Any) -> None:
    """As those of msgspec, in what the interchange does with them."""
    group = far.messages.Group(1, 2, [3], [4])
    assert (group.hosts, group.blobs) == ((), [])
    group.blobs.append(b"x")
    assert far.messages.Group(1, 2, [3], [4]).blobs == [], "each has its own"
    other = far.messages.Group(function=1, options=2, ids=[3], sizes=[4], blobs=[b"x"])
    assert group == other
    assert group != far.messages.Heartbeat()
    assert standin.structs.replace(group, ids=[5]).ids == [5]
    with pytest.raises(TypeError):
        far.messages.Group(1)
    with pytest.raises(TypeError):
        far.setup.InterchangeSetup(1.0, 2.0)
