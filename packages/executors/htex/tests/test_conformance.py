from __future__ import annotations

import pytest
from weft_executor_htex import HighThroughputExecutor
from weft_interfaces import BlockExecutor, Blocks
from weft_interfaces.memory import InMemoryProvider
from weft_interfaces.testing import NESTING, ORDER, BlockExecutorSuite, left_out


def make(workers: int) -> HighThroughputExecutor:
    blocks = Blocks(provider=InMemoryProvider())
    return HighThroughputExecutor(workers_per_node=workers, blocks=blocks)


@left_out(*NESTING, *ORDER)
class TestTwoWorkers(BlockExecutorSuite):
    def make_executor(self) -> BlockExecutor:
        return make(2)


@pytest.mark.once
@left_out(*NESTING)
class TestOneWorker(BlockExecutorSuite):
    def make_executor(self) -> BlockExecutor:
        return make(1)


@pytest.mark.once
@left_out(*NESTING, *ORDER)
class TestInterchangeInAProcess(BlockExecutorSuite):
    def make_executor(self) -> BlockExecutor:
        blocks = Blocks(provider=InMemoryProvider())
        return HighThroughputExecutor(workers_per_node=2, blocks=blocks, interchange="process")


@pytest.mark.once
@left_out(*NESTING, *ORDER)
class TestThroughTcp(BlockExecutorSuite):
    def make_executor(self) -> BlockExecutor:
        blocks = Blocks(provider=InMemoryProvider(), min=0, init=1, max=4)
        return HighThroughputExecutor(
            workers_per_node=2,
            blocks=blocks,
            address="127.0.0.1",
            heartbeat_period=0.5,
            heartbeat_threshold=3,
        )
