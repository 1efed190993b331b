"""What is large, taken out of pickles and put back; heads that lie."""

from __future__ import annotations

import pickle
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from weft_executor_htex.blobs import BUFFER, MAGIC, REST, Part, digest_of, has_blobs, pack_head, read_head
from weft_executor_htex.packing import BlobSerializer
from weft_interfaces import SerializationError, Shared
from weft_interfaces.testing.serializer import SerializerSuite

LARGE = 1000


class Kept:
    def __init__(self, data: Any) -> None:
        self.data = bytes(data)
        self.digest = digest_of(self.data)
        self.size = len(self.data)


class Shelf:
    """A keeper in memory."""

    def __init__(self) -> None:
        self.kept: dict[bytes, Kept] = {}
        self.full = False

    def begin(self) -> int:
        return 7

    def keep(self, data: Any, token: int) -> Kept:
        assert token == 7
        if self.full:
            raise OSError("no space left")
        kept = Kept(data)
        return self.kept.setdefault(kept.digest, kept)

    def share(self, shared: Shared[Any], large: int) -> None:
        """Nothing is to be known."""

    def find(self, digest: bytes, size: int) -> bytes:
        return self.kept[digest].data


class Cloth:
    """Pickles as arrays do."""

    def __init__(self, data: Any, writable: bool = False) -> None:
        self.data = bytearray(data) if writable else bytes(data)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return Cloth, (pickle.PickleBuffer(self.data), type(self.data) is bytearray)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Cloth) and self.data == other.data

    __hash__ = None  # type: ignore[assignment]


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


def serializer(shelf: Shelf, large: int = LARGE) -> BlobSerializer:
    return BlobSerializer(cloudpickle.Pickler, large, shelf)


class TestBlobSerializer(SerializerSuite):
    def make_serializer(self) -> BlobSerializer:
        return serializer(Shelf())


# Of every size: small, larger than LARGE, and larger than the pickler's frames.
texts = st.builds(lambda part, count: part * count, st.text(max_size=5), st.sampled_from([1, 300, 30_000]))
raw = st.builds(lambda part, count: part * count, st.binary(max_size=5), st.sampled_from([1, 300, 30_000]))
leaves = st.one_of(
    st.integers(),
    st.none(),
    st.floats(allow_nan=False),
    texts,
    raw,
    raw.map(bytearray),
    raw.map(Cloth),
    raw.map(lambda data: Cloth(data, writable=True)),
    raw.map(lambda data: [*data[:40]] * 50),
)
values = st.recursive(
    leaves, lambda parts: st.one_of(st.lists(parts, max_size=4), st.dictionaries(texts, parts, max_size=3))
)


@given(values, st.sampled_from([1, 100, LARGE, 70_000, 1 << 20]))
def test_values_come_back(value: Any, large: int) -> None:
    shelf = Shelf()
    here = serializer(shelf, large)
    payload, blobs = here.pack(((value,), {"x": value}), "it")
    assert here.loads(payload, "it") == ((value,), {"x": value})
    assert {blob.digest for blob in blobs} == shelf.kept.keys()
    assert has_blobs(payload) is bool(blobs)
    if has_blobs(payload):
        head = read_head(payload)
        assert len(payload) - head.length <= large
        assert {part.digest for part in head.parts} == shelf.kept.keys()
    else:
        assert len(payload) <= large


def test_what_is_small_is_a_plain_pickle(shelf: Shelf) -> None:
    payload, blobs = serializer(shelf).pack(((b"x" * 100, Cloth(b"y" * 100)), {}), "it")
    assert blobs == ()
    assert pickle.loads(payload) == ((b"x" * 100, Cloth(b"y" * 100)), {})


@pytest.mark.parametrize(
    "value", [b"x" * 200_000, bytearray(200_000), "x" * 200_000, "ü" * 200_000, Cloth(b"x" * 200_000)]
)
def test_what_is_large_has_the_same_name_wherever_it_stands(shelf: Shelf, value: Any) -> None:
    here = serializer(shelf)
    payloads = [here.pack(whole, "it")[0] for whole in (value, [1, value], {"a": [value, value]})]
    assert len(shelf.kept) == 1
    assert max(map(len, payloads)) < 1000
    assert here.loads(payloads[2], "it") == {"a": [value, value]}


def test_many_small_things_are_one_blob(shelf: Shelf) -> None:
    here = serializer(shelf)
    value = [str(n) for n in range(10_000)]
    payload, [blob] = here.pack(value, "it")
    assert [part.position for part in read_head(payload).parts] == [REST]
    assert here.loads(payload, "it") == value
    assert blob.size > LARGE


def test_arrays_are_views_that_are_read_only(shelf: Shelf) -> None:
    here = serializer(shelf)
    array = np.arange(10_000.0).reshape(100, 100)
    for each in (array, array.T, array[::2], array[:, ::3]):
        found = here.loads(here.pack(each, "it")[0], "it")
        assert (found == each).all()
    found = here.loads(here.pack(array, "it")[0], "it")
    assert not found.flags.writeable
    assert not found.flags.owndata
    found.copy()[0] = 1


def test_a_callback_has_no_blobs_made(shelf: Shelf) -> None:
    here = serializer(shelf)
    data = here.dumps(Cloth(b"x" * 200_000), "it", lambda buffer: True)
    assert shelf.kept == {}
    assert pickle.loads(data) == Cloth(b"x" * 200_000)


def test_no_room_is_said_in_words(shelf: Shelf) -> None:
    shelf.full = True
    with pytest.raises(SerializationError, match=r"the result cannot be sent: .*100000 bytes: no space left"):
        serializer(shelf).pack(Cloth(b"x" * 100_000), "the result")


def test_a_missing_blob_is_said_in_words(shelf: Shelf) -> None:
    here = serializer(shelf)
    payload, _ = here.pack(b"x" * 200_000, "it")
    shelf.kept.clear()
    with pytest.raises(SerializationError, match="it cannot be unpickled"):
        here.loads(payload, "it")


def test_an_unpicklable_part_is_named(shelf: Shelf) -> None:
    with pytest.raises(SerializationError, match=r"\[1\].*generator"):
        serializer(shelf).pack([b"x" * 200_000, (n for n in "")], "it")


@given(st.binary(max_size=200), st.booleans())
def test_heads_that_lie_are_refused(data: bytes, magic: bool) -> None:
    payload = (bytes([MAGIC]) + data) if magic else data
    try:
        head = read_head(payload)
    except ValueError:
        return
    assert head.length <= len(payload)


@given(st.data())
def test_payloads_that_lie_are_refused(data: st.DataObject) -> None:
    shelf = Shelf()
    here = serializer(shelf)
    value = [b"x" * 200_000, Cloth(b"y" * 2000), list(range(data.draw(st.sampled_from([3, 5000]))))]
    payload = bytearray(here.pack(value, "it")[0])
    for _ in range(data.draw(st.integers(1, 3))):
        payload[data.draw(st.integers(1, read_head(bytes(payload)).length - 1))] = data.draw(
            st.integers(0, 255)
        )
        try:
            read_head(bytes(payload))
        except ValueError:
            break
    try:
        here.loads(bytes(payload), "it")
    except SerializationError:
        return


@pytest.mark.parametrize(
    "parts",
    [
        [Part(b"d" * 32, 5, 11)],
        [Part(b"d" * 32, 5, 9), Part(b"d" * 32, 5, 3)],
        [Part(b"d" * 32, 5, REST)],
        [Part(b"d" * 32, 5, BUFFER), Part(b"d" * 32, 5, REST), Part(b"d" * 32, 5, REST)],
    ],
)
def test_a_blob_that_belongs_nowhere_is_refused(parts: list[Part]) -> None:
    with pytest.raises(ValueError, match=r"belongs nowhere|is there twice"):
        read_head(pack_head(0, parts) + b"0123456789")


def test_threads_find_the_same_digest() -> None:
    data = np.arange(6_000_000).view(np.uint8)
    assert digest_of(data) == digest_of(data, threads=1) == digest_of(data.tobytes(), threads=3)
