"""Large arguments and results: once to each node, one copy at the client, nothing left behind."""

from __future__ import annotations

import gc
import os
import re
import signal
import sys
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import numpy as np
import pytest
from weft_executor_htex import HighThroughputExecutor, client_blobs, messages
from weft_executor_htex.blobs import digest_of
from weft_interfaces import (
    ConfigError,
    ManagerLostError,
    PickleSerializer,
    ResourcesError,
    Shared,
    TaskTimeoutError,
    UnitError,
)
from weft_interfaces.testing.calls import Gate, pass_gate

pytestmark = pytest.mark.once

PATIENCE = 30.0
MB = 1_000_000
# Workers cannot import test modules.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


class Wire:
    """Counts the blobs that pass: by where they go to."""

    def __init__(self, executor: HighThroughputExecutor) -> None:
        self.sent: Counter[str] = Counter()
        assert executor._session is not None
        interchange = executor._session.placement._interchange  # type: ignore[attr-defined]
        to_manager, to_client = interchange._to_manager, interchange._to_client

        def counted(address: bytes, frames: list[messages.Frame]) -> None:
            message = messages.decode(frames)
            if type(message) is messages.Tasks:
                self.sent[address.hex()] += len(message.blobs)
            to_manager(address, frames)

        def counted_back(message: messages.Message, payloads: Sequence[messages.Frame]) -> None:
            if type(message) is messages.Results:
                self.sent["client"] += sum(len(group.blobs) for group in message.groups)
            to_client(message, payloads)

        interchange._to_manager, interchange._to_client = counted, counted_back


def arrays(megabytes: int, *seeds: int) -> list[Any]:
    return [np.random.default_rng(seed).random(megabytes * MB // 8) for seed in seeds]


def total(array: Any, *others: Any) -> float:
    return float(array.sum())


def describe(array: Any) -> tuple[bool, bool, float]:
    return array.flags.writeable, array.flags.owndata, float(array.sum())


def store_of(array: Any) -> set[str]:
    """The directories from which this worker has mapped its arguments."""
    return set(re.findall(r"\S*/weft-blobs-[^/\s]*", Path("/proc/self/maps").read_text()))


def wait_with(array: Any, address: tuple[str, int]) -> set[str]:
    pass_gate(address)
    return store_of(array)


def resident() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


# -- arguments --------------------------------------------------------------------------------------------


def test_an_argument_goes_once_to_each_node_and_is_mapped_there(site: Any, recorder: Any) -> None:
    here = site()
    with Gate() as gate:
        wire = Wire(here.executor)
        [array] = arrays(4, 1)
        begun = [recorder.call(wait_with, array, gate.address) for _ in range(4)]
        here.executor.submit(begun)
        here.start("a")
        here.start("b")
        for _ in begun:
            gate.wait_begun(PATIENCE)
        gate.open()
        stores = [outcome.value for outcome in recorder.wait(*begun)]
        assert len({*map(frozenset, stores)}) == 2
        assert all(len(found) == 1 for found in stores)
        calls = [recorder.call(describe, array.copy()) for _ in range(40)]
        here.executor.submit(calls)
        assert {outcome.value for outcome in recorder.wait(*calls)} == {(False, False, float(array.sum()))}
    assert sorted(wire.sent.values()) == [0, 1, 1]


@pytest.mark.parametrize(
    "make", [bytes, bytearray, lambda data: data.hex(), lambda data: [data, {"a": data}]]
)
def test_other_large_values_go_once_as_well(site: Any, recorder: Any, make: Any) -> None:
    here = site()
    wire = Wire(here.executor)
    here.start("a")
    value = make(os.urandom(300_000))
    for n in range(3):
        assert recorder.value(here.executor, lambda *args: args, value, n) == (value, n)
    assert sum(count for place, count in wire.sent.items() if place != "client") == 1


def test_an_argument_may_be_changed_after_it_was_submitted(site: Any, recorder: Any) -> None:
    here = site()
    [array] = arrays(1, 1)
    calls, expected = [], []
    for n in range(20):
        array[n] = n
        calls.append(recorder.call(total, array))
        here.executor.submit(calls[-1:])
        expected.append(float(array.sum()))
    here.start("a")
    assert [outcome.value for outcome in recorder.wait(*calls)] == expected


def test_the_client_has_one_copy_however_many_calls_need_it(site: Any, recorder: Any) -> None:
    here = site()
    [array] = arrays(8, 1)
    before = resident()
    calls = [recorder.call(total, array, n) for n in range(200)]
    here.executor.submit(calls)
    assert resident() - before < 30 * MB  # not 1.6 GB
    here.start("a")
    expected = float(array.sum())
    assert {outcome.value for outcome in recorder.wait(*calls)} == {expected}
    del calls
    recorder.outcomes.clear()
    assert resident() - before < 30 * MB
    assert len(here.executor._session.client._blobs._blobs) == 0


def test_more_than_the_window_still_keeps_all_workers_busy(site: Any, recorder: Any) -> None:
    """Two calls with 40 MB each run at once although the interchange takes 64 MB ahead."""
    here = site()
    with Gate() as gate:
        calls = [recorder.call(wait_with, array, gate.address) for array in arrays(40, 1, 2)]
        here.executor.submit(calls)
        here.start("a")
        for _ in calls:
            gate.wait_begun(PATIENCE)
        gate.open()
        recorder.wait(*calls)


def test_calls_with_blobs_are_cancelled(site: Any, recorder: Any) -> None:
    here = site()
    calls = [recorder.call(total, array) for array in arrays(1, 1, 2, 3)]
    here.executor.submit(calls)
    assert here.executor.cancel([call.id for call in calls]) == [call.id for call in calls]
    recorder.wait(*calls)
    del calls
    recorder.outcomes.clear()
    gc.collect()
    session = here.executor._session
    here.start("a")
    assert recorder.value(here.executor, total, *arrays(1, 4)) > 0
    recorder.outcomes.clear()
    gc.collect()
    assert len(session.client._blobs._blobs) == 0
    assert len(session.placement._interchange.blobs) == 0


# -- a store that is too small ----------------------------------------------------------------------------

SMALL = "node_store.NodeStore.__init__.__defaults__ = (None, {disk})"


def test_what_was_evicted_is_sent_again(site: Any, recorder: Any) -> None:
    here = site(store="2.5MB")
    wire = Wire(here.executor)
    here.start("a", SMALL.format(disk=1_500_000))
    them = arrays(1, *range(6))
    for _ in range(3):
        for array in them:
            assert recorder.value(here.executor, total, array) == float(array.sum())
    assert 6 < sum(wire.sent.values()) <= 18


def test_calls_wait_for_nobody_when_their_blobs_do_not_fit_at_once(site: Any, recorder: Any) -> None:
    """Many distinct arguments, a small store: whatever came without its blob comes again."""
    here = site(store="2.5MB", prefetch=10)
    here.start("a", SMALL.format(disk=2_000_000))
    them = arrays(1, *range(40))
    calls = [recorder.call(total, them[n % 40], n) for n in range(200)]
    here.executor.submit(calls)
    values = [outcome.value for outcome in recorder.wait(*calls)]
    assert values == [float(them[n % 40].sum()) for n in range(200)]


def test_a_blob_that_fits_nowhere_fails_its_calls_in_words(site: Any, recorder: Any) -> None:
    here = site(store="500kB")
    here.start("a", SMALL.format(disk=600_000))
    big, small = arrays(1, 1)[0], arrays(1, 2)[0][:20_000]
    calls = [recorder.call(total, each, n) for n in range(3) for each in (big, small)]
    here.executor.submit(calls)
    outcomes = recorder.wait(*calls)
    for outcome in outcomes[::2]:
        assert isinstance(outcome.error, ResourcesError)
        assert "argument of task 'total'" in str(outcome.error)
        assert "no room for its 1.0 MB" in str(outcome.error)
    assert [outcome.value for outcome in outcomes[1::2]] == [float(small.sum())] * 3


def test_arguments_that_fit_only_one_by_one_fail_their_call_in_words(site: Any, recorder: Any) -> None:
    """They must not push each other out, and be sent again, for ever."""
    here = site(store="1.2MB")
    here.start("a", SMALL.format(disk=500_000))
    first, second = arrays(1, 1, 2)
    for _ in range(2):
        error = recorder.error(here.executor, total, first, second)
        assert isinstance(error, ResourcesError)
        assert "no room for its 1.0 MB" in str(error)
        assert recorder.value(here.executor, total, second) == float(second.sum())
        assert recorder.value(here.executor, total, first) == float(first.sum())


def test_a_blob_that_lies_fails_its_calls_in_words(
    site: Any, recorder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = site()
    here.start("a")
    true, lie = arrays(1, 1, 2)
    monkeypatch.setattr(client_blobs, "digest_of", lambda data, threads=0: digest_of(b"something else"))
    error = recorder.error(here.executor, total, lie)
    assert isinstance(error, ResourcesError)
    assert "not what its name says" in str(error)
    monkeypatch.undo()
    assert recorder.value(here.executor, total, true) == float(true.sum())


# -- results ----------------------------------------------------------------------------------------------


def test_large_results_come_back_read_only(site: Any, recorder: Any) -> None:
    here = site()
    here.start("a")
    calls = [recorder.call(lambda n: {"n": n, "a": np.full(200_000, n)}, n) for n in range(30)]
    here.executor.submit(calls)
    for n, outcome in enumerate(recorder.wait(*calls)):
        assert (outcome.value["a"] == n).all()
        assert not outcome.value["a"].flags.writeable
        assert not outcome.value["a"].flags.owndata
        outcome.value["a"].copy()[0] = 1


@pytest.mark.parametrize("make", [os.urandom, lambda n: os.urandom(n).hex(), lambda n: [*range(n // 8)]])
def test_other_large_results_come_back_as_they_were(site: Any, recorder: Any, make: Any) -> None:
    here = site()
    here.start("a")
    value = make(1_000_000)
    assert recorder.value(here.executor, lambda found: [found, 1, found[::2]], value) == [
        value,
        1,
        value[::2],
    ]


def test_a_result_that_becomes_an_argument_is_not_sent_where_it_is(site: Any, recorder: Any) -> None:
    here = site()
    wire = Wire(here.executor)
    here.start("a")
    array = recorder.value(here.executor, lambda: np.arange(1_000_000.0))
    calls = [recorder.call(total, array, n) for n in range(10)]
    here.executor.submit(calls)
    assert {outcome.value for outcome in recorder.wait(*calls)} == {float(array.sum())}
    assert wire.sent.pop("client") == 1
    assert sum(wire.sent.values()) == 0


def test_an_argument_that_comes_back_is_not_sent_back(site: Any, recorder: Any) -> None:
    here = site()
    wire = Wire(here.executor)
    here.start("a")
    [array] = arrays(2, 1)
    same, more = recorder.value(here.executor, lambda found: (found, found + 1), array)
    assert (same == array).all()
    assert (more == array + 1).all()
    array[0] = -1
    assert same[0] != -1
    assert wire.sent.pop("client") == 1


def test_results_are_freed(site: Any, recorder: Any) -> None:
    here = site()
    here.start("a")
    recorder.value(here.executor, lambda: np.ones(1_000_000))
    before = resident()
    for n in range(30):
        assert recorder.value(here.executor, lambda n: np.full(1_000_000, n), n)[5] == n
        recorder.outcomes.clear()
    assert resident() - before < 40 * MB  # not 240 MB


def test_an_exception_with_a_large_array(site: Any, recorder: Any) -> None:
    def fail(array: Any) -> None:
        raise ValueError(array + 1)

    here = site()
    here.start("a")
    [array] = arrays(1, 1)
    error = recorder.error(here.executor, fail, array)
    assert isinstance(error, ValueError)
    assert (error.args[0] == array + 1).all()


def test_a_function_with_a_large_closure(site: Any, recorder: Any) -> None:
    here = site()
    here.start("a")
    [array] = arrays(1, 1)
    assert recorder.value(here.executor, lambda n: float(array.sum()) + n, 1) == float(array.sum()) + 1


def test_the_result_of_a_call_that_was_too_late_is_removed(site: Any, recorder: Any, eventually: Any) -> None:
    """A call with a large argument that is killed, and calls after it: nothing stays in the store's inbox."""
    here = site()
    here.start("a")
    [array] = arrays(1, 1)
    [folder] = recorder.value(here.executor, store_of, array)
    [outcome] = recorder.run(
        here.executor, recorder.call(lambda found: threading.Event().wait(100), array, timeout=0.2)
    )
    assert isinstance(outcome.error, TaskTimeoutError)
    assert recorder.value(here.executor, lambda: np.ones(100_000)).sum() == 100_000
    eventually(lambda: [*Path(folder, "results").iterdir()] == [], "results are left in the store")


# -- through the network -----------------------------------------------------------------------------------


def test_blobs_pass_through_the_encrypted_port(site: Any, recorder: Any) -> None:
    here = site(address="localhost")
    wire = Wire(here.executor)
    here.start("a")
    [array] = arrays(3, 1)
    calls = [recorder.call(lambda found, n: found + n + 1, array, n) for n in range(10)]
    here.executor.submit(calls)
    for n, outcome in enumerate(recorder.wait(*calls)):
        assert (outcome.value == array + n + 1).all()
    again = recorder.value(here.executor, total, outcome.value)
    assert again == float((array + 10).sum())
    assert wire.sent.pop("client") == 10
    assert sum(wire.sent.values()) == 1  # the result is on the node, and is known by its digest


# -- the end ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_is_left_of_a_manager_that_is_killed(
    site: Any, recorder: Any, eventually: Any, how: signal.Signals
) -> None:
    here = site()
    with Gate() as gate:
        manager = here.start("a")
        array, other = arrays(2, 1, 2)
        [folder] = recorder.value(here.executor, store_of, array)
        calls = [recorder.call(wait_with, array, gate.address) for _ in range(2)]
        here.executor.submit(calls)
        for _ in calls:
            gate.wait_begun(PATIENCE)
        waiting = [recorder.call(total, each) for each in (array, other)]
        here.executor.submit(waiting)
        manager.send_signal(how)
        for outcome in recorder.wait(*calls):
            assert isinstance(outcome.error, ManagerLostError)
        eventually(lambda: not Path(folder).exists(), "the store is left", 5.0)
        here.start("b")
        values = [outcome.value for outcome in recorder.wait(*waiting)]
        assert values == [float(array.sum()), float(other.sum())]


def test_nothing_is_left_after_a_shutdown(site: Any, recorder: Any) -> None:
    here = site()
    manager = here.start("a")
    [folder] = recorder.value(here.executor, store_of, *arrays(2, 1))
    here.close()
    assert manager.returncode == 0
    assert not Path(folder).exists()


# -- shared values ----------------------------------------------------------------------------------------


def test_a_shared_value_is_sent_once_and_the_value_is_given(site: Any, recorder: Any) -> None:
    here = site()
    wire = Wire(here.executor)
    here.start("a")
    [array] = arrays(4, 1)
    shared = Shared({"a": array, "b": 1}, PickleSerializer(cloudpickle.Pickler).dumps)

    def look(values: list[Any], n: int) -> tuple[str, float, bool]:
        return type(values[0]).__name__, float(values[0]["a"].sum()) + n, values[0]["a"].flags.writeable

    calls = [recorder.call(look, [shared], n) for n in range(20)]
    here.executor.submit(calls)
    expected = [("dict", float(array.sum()) + n, False) for n in range(20)]
    assert [outcome.value for outcome in recorder.wait(*calls)] == expected
    assert sum(wire.sent.values()) == 1


# -- settings ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["large", "store"])
def test_bad_sizes_are_named(name: str) -> None:
    with pytest.raises(UnitError, match=f"{name} of executor 'x'"):
        HighThroughputExecutor("x", **{name: "many"})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=f"{name} of executor 'x' must be more than 0 bytes"):
        HighThroughputExecutor("x", **{name: 0})  # type: ignore[arg-type]
