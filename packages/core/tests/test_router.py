"""A task's executor is chosen when it is ready, by what can run it and by load; a retry chooses again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import weft_core.router
from weft_core import Kernel, TaskSpec
from weft_interfaces import BaseExecutor, ConfigError, Load, ResourcesError
from weft_interfaces.memory import ManualExecutor

PATIENCE = 20.0


@pytest.fixture
def two(tmp_path: Path) -> Iterator[tuple[Kernel, ManualExecutor, ManualExecutor]]:
    """A run on two executors, the second with twice the slots."""
    small, large = ManualExecutor("small", slots=2), ManualExecutor("large", slots=4)
    with Kernel([small, large], directory=tmp_path, retries=1) as kernel:
        yield kernel, small, large
        kernel.cancel_all(begun=True)


def test_by_load(two: Any, spec: Any) -> None:
    kernel, small, large = two
    for _ in range(9):
        kernel.submit(spec(print))
    assert (len(small.held), len(large.held)) == (3, 6)


def test_late(two: Any, spec: Any) -> None:
    """The load when the task is ready counts, not that when it is submitted."""
    kernel, small, large = two
    gate = kernel.submit(spec(print, executors=("small",)))
    waiting = kernel.submit(spec(print), (gate,))
    crowd = [kernel.submit(spec(print, executors=("large",))) for _ in range(4)]
    small.complete(0)
    assert small.held == [waiting.task_id]
    assert len(large.held) == len(crowd)


def test_a_retry_chooses_again(two: Any, spec: Any) -> None:
    kernel, small, large = two
    future = kernel.submit(spec(print))
    assert large.held == [0]
    for _ in range(4):
        kernel.submit(spec(print, executors=("large",)))
    large.fail(0, ValueError("once"))
    assert len(small.held) == 1
    small.complete(small.held[0], "on the other")
    assert future.result(timeout=0) == "on the other"


def test_only_where_it_may(two: Any, spec: Any) -> None:
    kernel, small, large = two
    for _ in range(5):
        kernel.submit(spec(print, executors=("small",)))
    assert (len(small.held), len(large.held)) == (5, 0)


def test_only_where_it_fits(two: Any, spec: Any) -> None:
    kernel, small, large = two
    for _ in range(5):
        kernel.submit(spec(print, cpus=3))
    assert (len(small.held), len(large.held)) == (0, 5)


def test_nowhere(two: Any, spec: Any) -> None:
    kernel, *_ = two
    with pytest.raises(
        ResourcesError, match=r"task 'print' \(cpus=5\) fits no executor .*'small' has 2 .*'large' has 4"
    ):
        kernel.submit(spec(print, cpus=5))
    with pytest.raises(ResourcesError, match="it may use: executor 'small' has 2 cpus"):
        kernel.submit(spec(print, cpus=3, executors=("small",)))
    assert kernel.counts().total == 0, "nothing was submitted"


def test_an_unknown_label_names_the_nearest(two: Any, spec: Any) -> None:
    kernel, *_ = two
    with pytest.raises(
        ConfigError,
        match=r"task 'print': executor 'smal' is not in .* has 'small', 'large'; did you mean 'small'\?",
    ):
        kernel.submit(spec(print, executors=("smal",)))
    with pytest.raises(ConfigError, match=r"'qqq' is not in this run, which has 'small', 'large'$"):
        kernel.submit(spec(print, executors=("large", "qqq")))
    assert kernel.counts().total == 0


class Loaded(BaseExecutor):
    def __init__(self, label: str, load: Load) -> None:
        super().__init__(label)
        self._load = load

    def load(self) -> Load:
        return self._load


@pytest.mark.parametrize(
    ("loads", "expected"),
    [
        ([Load(0, 4, 4, 4), Load(0, 3, 4, 4)], 1),
        ([Load(0, 0, 2, 2), Load(0, 0, 8, 8)], 1),
        ([Load(0, 0, 0, 64), Load(0, 7, 8, 8)], 1),
        ([Load(0, 0, 0, 64), Load(40, 8, 8, 8)], 0),
        ([Load(0, 0, 0, 0), Load(1, 1, 1, 1)], 1),
    ],
    ids=[
        "a free slot",
        "the larger",
        "workers rather than none yet",
        "none yet rather than a long queue",
        "unknown",
    ],
)
def test_the_choice(loads: list[Load], expected: int) -> None:
    executors = {str(i): Loaded(str(i), load) for i, load in enumerate(loads)}
    route = weft_core.router.Router(executors, None).route(TaskSpec(function=print))
    assert route.choose() is executors[str(expected)]


def test_specs_are_forgotten(two: Any, spec: Any) -> None:
    """A script that makes a spec for each call must not fill the memory with them."""
    kernel, small, large = two
    gate = kernel.submit(spec(print))
    waiting = kernel.submit(spec(print, executors=("small",)), (gate,))
    for _ in range(10_000):
        kernel._router.route(TaskSpec(function=print))
    assert len(kernel._router._routes) <= 5_000
    large.complete(gate.task_id)
    assert small.held == [waiting.task_id]


def test_paths_name_the_task(two: Any, spec: Any) -> None:
    kernel, small, large = two
    task = spec(print, name="sim", stdout="out/{name}-{id}.log", cwd="{id}", stderr="same.txt")
    first, second = kernel.submit(task), kernel.submit(task)
    submitted = {**small.submitted, **large.submitted}
    for future in (first, second):
        options = submitted[future.task_id].options
        assert options.stdout == f"out/sim-{future.task_id}.log"
        assert options.cwd == str(future.task_id)
        assert options.stderr == "same.txt"
        assert options.name == "sim"


def test_paths_stay_the_same_in_a_retry(two: Any, spec: Any) -> None:
    kernel, small, _ = two
    kernel.submit(spec(print))
    future = kernel.submit(spec(print, stdout="{id}.log", executors=("small",)))
    small.fail(future.task_id, ValueError())
    [call_id] = small.held
    assert call_id != future.task_id
    assert small.submitted[call_id].options.stdout == f"{future.task_id}.log"
