"""``weft.share``: tasks get the value itself, wherever they run, wherever in the arguments it stands."""

from __future__ import annotations

import copy
import gc
import pickle
import sys
import threading
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest
import weft
from weft_interfaces import Shared

cloudpickle.register_pickle_by_value(sys.modules[__name__])

LOCAL = weft.Blocks(provider=weft.LocalProvider())
EXECUTORS = {
    "threads": lambda: weft.ThreadExecutor(workers=2),
    "processes": lambda: weft.ProcessExecutor(workers=2),
    "pilot": lambda: weft.HighThroughputExecutor(workers_per_node=2, blocks=LOCAL),
}


@dataclass
class Box:
    inside: Any


class Table:
    """Counts how often it is pickled."""

    def __init__(self, rows: Any) -> None:
        self.rows = rows
        self.pickled = 0

    def __getstate__(self) -> dict[str, Any]:
        self.pickled += 1
        return {"rows": self.rows}


@pytest.fixture(params=EXECUTORS)
def anywhere(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    with weft.run(executors=[EXECUTORS[request.param]()], progress=False, run_dir=tmp_path):
        yield request.param


def test_tasks_get_the_value_itself(anywhere: str) -> None:
    @weft.task
    def look(plain: Any, box: Any, more: dict[str, Any], *, named: Any) -> list[tuple[str, float]]:
        found = [plain, box.inside[0], more["x"][1], named]
        return [(type(table).__name__, float(table.rows.sum())) for table in found]

    table = Table(np.arange(50_000.0))
    shared = weft.share(table)
    futures = [look(shared, Box([shared]), {"x": (n, shared)}, named=shared) for n in range(10)]
    assert [future.result() for future in futures] == [[("Table", float(table.rows.sum()))] * 4] * 10
    assert table.pickled == (0 if anywhere == "threads" else 1)


def test_what_runs_here_gets_the_same_object() -> None:
    with weft.run(executors=[weft.ThreadExecutor(workers=1)], progress=False):
        value = object()
        shared = weft.share(value)
        assert weft.task(lambda found, more: (found, more[0]))(shared, more=[shared]).result() == (
            value,
            value,
        )


def test_a_join_gets_the_value(run: weft.Run) -> None:
    @weft.join
    def twice(values: list[int]) -> list[weft.Future[int]]:
        return [weft.task(len)(values), weft.task(len)(values[1:])]

    assert twice(weft.share([1, 2, 3])).result() == [3, 2]


def test_futures_and_shared_values_mix(anywhere: str) -> None:
    add = weft.task(lambda parts: sum(parts))
    assert add([weft.share(1), add([1, 2]), weft.share(3)]).result() == 7


def test_a_retry_gets_the_value_again(anywhere: str, tmp_path: Path) -> None:
    @weft.task(retries=2)
    def fussy(values: list[int], path: str) -> int:
        with open(path, "a+") as file:
            file.write("x")
            file.seek(0)
            if len(file.read()) < 3:
                raise ValueError("not yet")
        return sum(values)

    assert fussy(weft.share([1, 2]), str(tmp_path / "tries")).result() == 3


def test_what_cannot_be_pickled_fails_the_task_in_words(anywhere: str) -> None:
    future = weft.task(lambda lock: type(lock).__name__)(weft.share(threading.Lock()))
    if anywhere == "threads":
        assert future.result() == "lock"
    else:
        with pytest.raises(weft.SerializationError, match="lock"):
            future.result()


def test_it_is_freed_with_the_last_task_that_needs_it(anywhere: str) -> None:
    table = Table(np.arange(50_000.0))
    gone = weakref.ref(table)
    shared: Shared[Table] | None = weft.share(table)
    future = weft.task(lambda found: float(found.rows.sum()))(shared)
    del table, shared
    assert future.result() == 1249975000.0
    del future
    gc.collect()
    if anywhere != "threads":  # whose worker may be about to forget the call
        assert gone() is None


def test_it_is_itself_when_copied_and_the_value_when_pickled() -> None:
    shared = weft.share([1, 2])
    assert copy.copy(shared) is copy.deepcopy(shared) is weft.share(shared) is shared  # type: ignore[comparison-overlap]
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        assert pickle.loads(pickle.dumps(shared, protocol)) == [1, 2]
    assert repr(shared) == "<shared list>"


def test_a_future_is_no_value_yet(run: weft.Run) -> None:
    with pytest.raises(weft.FutureMisuseError, match=r"pass the future itself, or its \.result"):
        weft.share(weft.task(abs)(-1))
