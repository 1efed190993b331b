"""A run is left: what executors have that can detach goes on without it, all else ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from weft_core import Kernel
from weft_core.scaler import Scaler
from weft_interfaces import Blocks, ConfigError, DetachedError, ExecutorContext, RunClosedError
from weft_interfaces.memory import InMemoryBlockExecutor, InMemoryProvider, ManualExecutor, RecordingContext


class Detaching(ManualExecutor):
    """Leaves its calls to nobody, and says so."""

    can_detach = True
    context: ExecutorContext
    trouble: Exception | None = None

    def start(self, context: ExecutorContext) -> None:
        self.context = context
        super().start(context)

    def detach(self, timeout: float = 10.0) -> list[str]:
        if self.trouble is not None:
            raise self.trouble
        return ["3 bytes"]


@pytest.fixture
def far() -> Detaching:
    return Detaching("far")


def make(tmp_path: Path, *executors: Any, detached: Path | None = None) -> Kernel:
    return Kernel(executors, directory=tmp_path / "run", run_id="r", detached=detached)


def test_executors_that_can_are_told_where_to_keep_what_is_needed(tmp_path: Path, far: Detaching) -> None:
    here = Detaching("here")
    here.can_detach = False
    with make(tmp_path, far, here, detached=tmp_path / "d"):
        assert far.context.detached == tmp_path / "d/far"
        assert here.context.detached is None
    with make(tmp_path, far):
        assert far.context.detached is None


def test_the_first_try_of_a_task_is_known_from_later_ones(tmp_path: Path, spec: Any) -> None:
    executor = Detaching("e")
    with Kernel([executor], directory=tmp_path, retries=1) as kernel:
        future = kernel.submit(spec(len), ("ab",))
        (first,) = executor.submitted.values()
        executor.fail(first.id, ValueError())
        first, second = executor.submitted.values()
        assert first.first is None
        assert second.first == first.id != second.id
        executor.complete(second.id, 2)
        assert future.result(5) == 2


def test_all_futures_are_done_and_say_what_goes_on(tmp_path: Path, far: Detaching, spec: Any) -> None:
    near = ManualExecutor("near")
    kernel = make(tmp_path, far, near, detached=tmp_path / "d")
    kernel.start()
    goes_on = kernel.submit(spec(len, executors=("far",)), ("ab",))
    ends = kernel.submit(spec(len, executors=("near",)), ("ab",))
    waits = kernel.submit(spec(len, executors=("far",)), (goes_on,))
    both = kernel.gather([goes_on, waits])
    assert kernel.detach() == ["3 bytes"]
    assert kernel.closed
    for future in (goes_on, ends, waits, both):
        assert isinstance(future.exception(0), DetachedError)
    assert "left run r: task 0 (len) goes on without it" in str(goes_on.exception())
    assert "task 1 (len) had not been handed over" in str(ends.exception())
    assert "task 2 (len) had not been handed over" in str(waits.exception())
    assert kernel.close() == []
    with pytest.raises(RunClosedError):
        kernel.detach()


def test_what_goes_wrong_is_said(tmp_path: Path, far: Detaching, spec: Any) -> None:
    far.trouble = OSError("no way")
    kernel = make(tmp_path, far, detached=tmp_path / "d")
    kernel.start()
    future = kernel.submit(spec(len), ("ab",))
    assert kernel.detach() == ["executor 'far': leaving it raised OSError('no way')"]
    assert isinstance(future.exception(0), DetachedError)


def test_a_run_that_ends_with_its_process_cannot_be_left(tmp_path: Path, far: Detaching, spec: Any) -> None:
    with make(tmp_path, far) as kernel:
        with pytest.raises(ConfigError, match="set detach=True"):
            kernel.detach()
        future = kernel.submit(spec(len), ("ab",))
        (call,) = far.submitted
        far.complete(call, 2)
        assert future.result(5) == 2


def test_blocks_of_what_goes_on_are_not_cancelled(tmp_path: Path) -> None:
    providers = [InMemoryProvider(queue_time=None), InMemoryProvider(queue_time=None)]
    executors = [
        InMemoryBlockExecutor(Blocks(provider=provider), label)
        for label, provider in zip(("far", "near"), providers, strict=True)
    ]
    for executor in executors:
        executor.start(RecordingContext(tmp_path))
    scaler = Scaler(executors, emit=lambda events: None, run_id="r", directory=str(tmp_path))
    scaler.tick()
    jobs = [list(provider.find("r")) for provider in providers]
    assert [len(each) for each in jobs] == [1, 1]
    scaler.freeze()
    scaler.let_go(executors[:1])
    assert scaler.close() == []
    states = [
        provider.status(each)[each[0]].state.value for provider, each in zip(providers, jobs, strict=True)
    ]
    assert states == ["pending", "cancelled"]
    for executor in executors:
        executor.shutdown(cancel=True)
