"""Tasks of an executor that gets no blocks: another one may have them, as they have not begun."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from weft_core import Kernel, TaskSpec
from weft_interfaces import Blocks, ConfigError, JobId, JobSpec, NoBlocksError
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
