"""Tasks of an executor that gets no blocks: another one may have them, as they have not begun.

And blocks that are scaled elsewhere than in the run's process.
"""

from __future__ import annotations

import pickle
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
from weft_core import Kernel, TaskSpec
from weft_interfaces import (
    Blocks,
    BlockScaler,
    ConfigError,
    Event,
    ExecutorContext,
    JobId,
    JobSpec,
    NoBlocksError,
)
from weft_interfaces.memory import InMemoryBlockExecutor, InMemoryExecutor, InMemoryProvider


class Refusing(InMemoryProvider):
    """A site where nothing will ever run, which it says once it is ``asked``."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = threading.Event()

    def submit(self, spec: JobSpec) -> JobId:
        assert self.asked.wait(30)
        raise ConfigError("invalid account", "account")


def executor(label: str, provider: InMemoryProvider, most: int = 1) -> InMemoryBlockExecutor:
    return InMemoryBlockExecutor(Blocks(provider=provider, init=0, max=most), label)


def test_they_go_to_an_executor_that_works(tmp_path: Path) -> None:
    """It is the smaller one, so that all of them wait for the other at first. It costs no retry."""
    site, works = Refusing(), executor("works", InMemoryProvider())
    with Kernel([executor("refused", site, 1000), works], directory=tmp_path) as kernel:
        futures = [kernel.submit(TaskSpec(function=abs, retries=0), (-number,)) for number in range(20)]
        works.register("block")
        assert not any(future.done() for future in futures)
        site.asked.set()
        assert [future.result(timeout=30) for future in futures] == list(range(20))
        assert kernel.submit(TaskSpec(function=abs), (-7,)).result(timeout=30) == 7
        assert kernel.counts().retries == 20, "the last one went there at once"


def test_a_task_that_only_one_executor_may_run_fails_with_the_reason(tmp_path: Path) -> None:
    site = Refusing()
    site.asked.set()
    with Kernel([executor("refused", site), InMemoryExecutor("works")], directory=tmp_path) as kernel:
        future = kernel.submit(TaskSpec(function=abs, executors=("refused",)), (-1,))
        with pytest.raises(NoBlocksError, match="invalid account"):
            future.result(timeout=30)


def test_where_no_executor_gets_blocks_they_fail_with_the_reason(tmp_path: Path) -> None:
    sites = [Refusing(), Refusing()]
    executors = [executor(f"e{number}", site) for number, site in enumerate(sites)]
    with Kernel(executors, directory=tmp_path) as kernel:
        futures = [kernel.submit(TaskSpec(function=abs), (-1,)) for _ in range(5)]
        for site in sites:
            site.asked.set()
        for future in futures:
            assert isinstance(future.exception(timeout=30), NoBlocksError)


# -- blocks that are scaled elsewhere -----------------------------------------------------------------------


class Independent(InMemoryBlockExecutor):
    """Has a scaler of its own, which has come through a pickle."""

    scales_itself = True

    def start(self, context: ExecutorContext) -> None:
        super().start(context)
        maker = context.make_scaler
        assert maker is not None
        self.events: list[Event] = []
        again = pickle.loads(pickle.dumps(maker))
        self.scaler: BlockScaler = again([self], emit=self._take, directory="", first=7)

    def _take(self, events: Sequence[Event]) -> None:
        self.events += events


def test_the_runs_scaler_leaves_alone_who_scales_itself(tmp_path: Path) -> None:
    """What has been made of the same settings does the same, with blocks and directories of its own."""
    site = InMemoryProvider()
    alone = Independent(Blocks(provider=site, init=2, max=2), "alone")
    with Kernel([alone], directory=tmp_path, run_id="run1") as kernel:
        assert site.specs == {}
        future = kernel.submit(TaskSpec(function=abs), (-1,))
        alone.scaler.start()
        while len(site.specs) < 2:
            threading.Event().wait(0.01)
        specs = list(site.specs.values())
        assert [spec.id for spec in specs] == ["run1-alone-7", "run1-alone-8"]
        assert {spec.directory for spec in specs} == {".weft/runs/run1/alone"}
        assert {spec.tag for spec in specs} == {"run1"}
        alone.register(specs[0].id)
        assert future.result(timeout=30) == 1
        assert alone.scaler.close() == []
    assert {event.source for event in alone.events} == {"alone"}
