"""Where blobs are: at the client, at the interchange, on a node."""

from __future__ import annotations

import gc
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import numpy as np
import pytest
from weft_executor_htex import client_blobs, node_store
from weft_executor_htex.blobs import digest_of, read_head
from weft_executor_htex.client_blobs import ClientBlobs
from weft_executor_htex.interchange_blobs import InterchangeBlobs
from weft_executor_htex.node_store import NodeStore, StoreError, WorkerBlobs, make_worker_serializer
from weft_executor_htex.packing import BlobSerializer
from weft_executor_htex.stream import StreamReader, pack
from weft_interfaces import PickleSerializer, Shared

pytestmark = pytest.mark.once

KB = 1000


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of what was hashed at the client."""
    sizes: list[int] = []

    def counted(data: Any, threads: int = 0) -> bytes:
        sizes.append(len(data))
        return digest_of(data, threads)

    monkeypatch.setattr(client_blobs, "digest_of", counted)
    return sizes


def client(most: int = 1 << 30) -> tuple[ClientBlobs, BlobSerializer]:
    blobs = ClientBlobs(most)
    return blobs, BlobSerializer(cloudpickle.Pickler, 1000, blobs)


# -- the client -------------------------------------------------------------------------------------------


def test_there_is_one_copy_of_each_content_as_long_as_it_is_needed(hashed: list[int]) -> None:
    blobs, here = client()
    array = np.arange(10_000)
    packed = [here.pack((array, n), "it") for n in range(5)]
    packed.append(here.pack(array.copy(), "it"))
    assert len({blob for _, found in packed for blob in found}) == 1
    assert hashed == [80_000] * 2  # the same array was compared, not hashed
    digest = packed[0][1][0].digest
    assert bytes(blobs.find(digest, 80_000)) == array.tobytes()
    del packed
    gc.collect()
    with pytest.raises(LookupError):
        blobs.find(digest, 80_000)


def test_an_argument_may_change_after_it_was_submitted() -> None:
    _, here = client()
    array = np.arange(10_000)
    before = array.copy()
    first, second = here.pack(array, "it"), None
    array[9_999] = -1
    second = here.pack(array, "it")
    assert (here.loads(first[0], "it") == before).all()
    assert (here.loads(second[0], "it") == array).all()


def test_bytes_are_neither_copied_nor_hashed_twice(hashed: list[int]) -> None:
    blobs, here = client()
    data = os.urandom(200_000)
    packed = [here.pack([data, n], "it") for n in range(3)]
    assert hashed == [200_000]
    [blob] = packed[0][1]
    assert blobs.find(blob.digest, 200_000).obj is data


def test_what_is_too_much_for_memory_goes_to_files_without_a_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    _, here = client(most=200 * KB)
    arrays = [np.full(100_000, n, np.uint8) for n in range(5)]
    packed = [here.pack(array, "it") for array in arrays]
    assert [blob.copy is None for _, [blob] in packed] == [False, False, True, True, True]  # type: ignore[attr-defined]
    payloads = [payload for payload, _ in packed]
    for array, payload in zip(arrays, payloads, strict=True):
        assert (here.loads(payload, "it") == array).all()
    assert [*tmp_path.iterdir()] == []
    packed.clear()
    gc.collect()
    _, [blob] = here.pack(arrays[4], "it")
    assert blob.copy is not None  # type: ignore[attr-defined]


def test_a_shared_value_is_hashed_once_and_not_copied(hashed: list[int]) -> None:
    _, here = client()
    array = np.arange(100_000)
    shared = Shared({"a": array}, PickleSerializer().dumps)
    packed = [here.pack(([shared, n], {}), "it") for n in range(10)]
    assert hashed == [800_000]
    [blob] = packed[0][1]
    assert np.shares_memory(np.frombuffer(blob.data), array)  # type: ignore[attr-defined]
    ([value, n], _) = here.loads(packed[3][0], "it")
    assert n == 3
    assert (value["a"] == array).all()
    assert not np.shares_memory(value["a"], array)  # which its owner may change some day
    del shared, packed, blob
    gc.collect()
    assert here.pack(array, "it")[1][0].copy is not None  # type: ignore[attr-defined]


def test_a_copy_is_made_of_what_is_shared_only_elsewhere() -> None:
    """Two arrays with the same content, one of which is shared: the other may change."""
    _, here = client()
    array, twin = np.arange(100_000), np.arange(100_000)
    shared = Shared(array, PickleSerializer().dumps)
    first = here.pack(shared, "it")
    _, [blob] = here.pack(twin, "it")
    assert not np.shares_memory(np.frombuffer(blob.data), array)  # type: ignore[attr-defined]
    assert first[1][0].digest == blob.digest


def test_shared_values_with_the_same_content_do_not_lean_on_each_other() -> None:
    _, here = client()
    array, twin = np.arange(100_000), np.arange(100_000)
    for each in (array, twin):
        [blob] = here.pack(Shared(each, PickleSerializer().dumps), "it")[1]
        assert np.shares_memory(np.frombuffer(blob.data), each)  # type: ignore[attr-defined]


def arrive(data: bytes) -> Any:
    """What comes of it over a stream."""
    reader = StreamReader()
    packed = b"".join(map(bytes, pack([b"head", data])))
    messages: list[Any] = []
    for start in range(0, len(packed), 50_000):
        messages += reader.feed(packed[start : start + 50_000])
    [[_, frame]] = messages
    return frame


def test_a_result_that_becomes_an_argument_is_not_looked_into_again(hashed: list[int]) -> None:
    blobs, here = client()
    array = np.arange(100_000)
    shelf = ClientBlobs()
    payload, [sent] = BlobSerializer(cloudpickle.Pickler, 1000, shelf).pack(array, "it")
    hashed.clear()
    result = here.load(payload, "it", blobs.arrived([(sent.digest, arrive(array.tobytes()))]))
    assert (result == array).all()
    _, [blob] = here.pack([result, 1], "it")
    assert blob.digest == sent.digest
    assert hashed == []
    assert np.shares_memory(np.frombuffer(blob.data), result)  # type: ignore[attr-defined]
    part = here.pack(result[1:], "it")[1][0]
    assert part.digest != sent.digest
    assert hashed == [800_000 - 8]
    del result, blob, part
    gc.collect()
    assert len(blobs._fixed) == 0


# -- the interchange --------------------------------------------------------------------------------------


def test_the_interchange_keeps_what_waiting_calls_need_and_a_bounded_rest() -> None:
    blobs = InterchangeBlobs(remainder=250)
    for name in (b"a", b"b", b"c", b"d"):
        blobs.add(name, bytes(100))
    blobs.need([b"a", b"b"])
    blobs.need([b"a"])
    assert blobs.evict() == []
    blobs.release([b"a", b"b"])
    assert blobs.evict() == [b"c"]  # b came after c and d
    blobs.release([b"a"])
    assert blobs.evict() == [b"d"]
    assert b"a" in blobs
    blobs.need([b"b"])
    assert blobs.evict() == []
    assert blobs[b"b"] == bytes(100)


# -- a node -----------------------------------------------------------------------------------------------


@pytest.fixture
def store() -> Iterator[Callable[..., NodeStore]]:
    stores: list[NodeStore] = []

    def make(memory: int, disk: int = 1000 * KB) -> NodeStore:
        stores.append(NodeStore(memory, disk))
        return stores[-1]

    yield make
    for each in stores:
        each.close()
        assert not Path(each.places.memory).exists()
        assert not Path(each.places.disk).exists()


def blob(number: int, size: int = 100 * KB) -> tuple[bytes, bytes]:
    data = bytes([number]) * size
    return digest_of(data), data


def test_what_is_not_needed_goes_to_disk_and_then_away(store: Any) -> None:
    here = store(250 * KB, 250 * KB)
    blobs = [blob(n) for n in range(6)]
    for digest, data in blobs[:2]:
        here.put(digest, data)
    here.pin([blobs[0][0]])
    here.unpin([blobs[0][0]])  # and so it was used last
    for digest, data in blobs[2:4]:
        here.put(digest, data)
    assert here.usage() == (200 * KB, 200 * KB)
    assert here.dropped() == []
    for digest, data in blobs[4:]:
        here.put(digest, data)
    assert here.dropped() == [blobs[1][0], blobs[0][0]]
    assert here.dropped() == []
    worker = WorkerBlobs(here.places)
    for digest, data in blobs[2:]:
        assert digest in here
        assert bytes(worker.find(digest, len(data))) == data
    with pytest.raises(LookupError):
        worker.find(blobs[0][0], 1)


def test_what_is_needed_stays(store: Any) -> None:
    here = store(250 * KB, 150 * KB)
    blobs = [blob(n) for n in range(4)]
    for digest, data in blobs[:3]:  # the third has no room in memory
        here.put(digest, data)
        here.pin([digest])
    assert here.usage() == (200 * KB, 100 * KB)
    with pytest.raises(StoreError, match=r"no room for its 100.0 kB .*250.0 kB and 150.0 kB"):
        here.put(*blobs[3])
    assert blobs[3][0] not in here
    here.unpin([blobs[2][0]])
    here.put(*blobs[3])
    assert here.dropped() == [blobs[2][0]]


def test_a_blob_larger_than_the_memory_of_the_store_goes_to_disk(store: Any) -> None:
    here = store(50 * KB)
    digest, data = blob(1)
    here.put(digest, data)
    assert here.usage() == (0, 100 * KB)
    assert bytes(WorkerBlobs(here.places).find(digest, 1)) == data


def test_a_blob_that_lies_is_not_stored(store: Any) -> None:
    here = store(1000 * KB)
    with pytest.raises(StoreError, match="its content is not what its name says"):
        here.put(blob(1)[0], blob(2)[1])
    assert here.usage() == (0, 0)
    assert [*Path(here.places.memory).glob("*[0-9]*")] == []


def test_a_full_file_system_is_as_good_as_a_full_store(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    here = store(1000 * KB)
    write = os.write

    def full(descriptor: int, data: Any) -> int:
        if os.readlink(f"/proc/self/fd/{descriptor}").startswith(tuple(refusing)):
            raise OSError(28, "No space left on device")
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", full)
    refusing = [here.places.memory]
    here.put(*blob(1))
    assert here.usage() == (0, 100 * KB)
    refusing.append(here.places.disk)
    with pytest.raises(StoreError, match="No space left on device"):
        here.put(*blob(2))
    assert here.usage() == (0, 100 * KB)


def test_the_blobs_of_results_are_adopted(store: Any) -> None:
    here = store(1000 * KB)
    worker = make_worker_serializer(here.places, 1000)
    array = np.arange(10_000)
    first, second = (read_head(worker.dumps(array, "it")) for _ in range(2))
    [digest] = here.adopt(first)
    assert here.adopt(second) == [digest]
    assert bytes(here.view(digest)) == array.tobytes()
    assert here.usage() == (80_000, 0)
    left = [*Path(here.places.memory, "results").iterdir()]
    assert left == []
    here.discard(read_head(worker.dumps(array, "it")))
    assert [*Path(here.places.memory, "results").iterdir()] == []
    with pytest.raises(StoreError, match="not on the node"):
        here.adopt(read_head(worker.dumps(array + 1, "it"))._replace(token=1))
    here.discard_of_worker(os.getpid())
    assert [*Path(here.places.memory, "results").iterdir()] == []


def test_results_that_nobody_needs_are_dropped_without_a_detour(store: Any) -> None:
    here = store(100 * KB)
    worker = make_worker_serializer(here.places, 1000)
    digests = []
    for n in range(3):
        found = here.adopt(read_head(worker.dumps(np.full(10_000, n), "it")))
        here.unpin(found)
        digests += found
    assert here.dropped() == digests[:2]
    assert here.usage() == (80_000, 0)


def test_what_dead_managers_left_is_removed(store: Any, tmp_path: Path) -> None:
    alive = store(100 * KB)
    left = Path(tempfile.mkdtemp(prefix="weft-blobs-", dir=Path(alive.places.memory).parent))
    (left / "x").touch()
    another = store(100 * KB)
    assert not left.exists()
    assert Path(alive.places.memory, "results").exists()
    assert Path(another.places.disk, "results").exists()
    assert Path(another.places.disk).stat().st_mode & 0o777 == 0o700


def test_a_store_takes_a_quarter_of_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_store, "_physical_memory", lambda: 4000)
    here = NodeStore()
    try:
        assert here.places.memory_limit == 1000
        assert here.places.disk_limit > 1000
    finally:
        here.close()


def test_managers_that_begin_at_once_do_not_take_each_others_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One looks for what dead ones have left just when another has made its folder, and not yet locked it."""
    make, made = tempfile.mkdtemp, list[str]()

    def make_and_be_swept(**options: Any) -> str:
        made.append(make(**options))
        if len(made) == 1:
            node_store._sweep(str(tmp_path))
        return made[-1]

    monkeypatch.setattr(tempfile, "mkdtemp", make_and_be_swept)
    folder, lock = node_store._make_folder(str(tmp_path))
    assert made == [made[0], folder]
    assert list(tmp_path.iterdir()) == [Path(folder)]
    node_store._sweep(str(tmp_path))
    assert list(tmp_path.iterdir()) == [Path(folder)], "it is locked"
    os.close(lock)
