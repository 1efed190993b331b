"""The executors in memory keep the contract."""

from __future__ import annotations

from weft_interfaces import PickleSerializer
from weft_interfaces.memory import InMemoryExecutor
from weft_interfaces.testing import ExecutorSuite, PoolSuite


class TestInMemoryExecutor(ExecutorSuite):
    def make_executor(self):
        return InMemoryExecutor()


class TestInMemoryExecutorWithPickling(ExecutorSuite):
    workers_are_processes = False

    def make_executor(self):
        return InMemoryExecutor(serializer=PickleSerializer())


class TestInMemoryPool(PoolSuite):
    def make_executor(self):
        return InMemoryExecutor()
