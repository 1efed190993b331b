from __future__ import annotations

from weft_executor_local import ProcessExecutor, ThreadExecutor
from weft_interfaces import Executor
from weft_interfaces.testing import NESTING, ORDER, PICKLING, PROCESSES, ExecutorSuite, PoolSuite, left_out


@left_out(*PICKLING, *PROCESSES, *ORDER)
class TestThreads(ExecutorSuite):
    def make_executor(self) -> Executor:
        return ThreadExecutor(workers=2)


@left_out(*PICKLING, *PROCESSES)
class TestOneThread(ExecutorSuite):
    def make_executor(self) -> Executor:
        return ThreadExecutor(workers=1)


@left_out(*NESTING, *ORDER)
class TestProcesses(ExecutorSuite):
    def make_executor(self) -> Executor:
        return ProcessExecutor(workers=2)


@left_out(*NESTING)
class TestOneProcess(ExecutorSuite):
    def make_executor(self) -> Executor:
        return ProcessExecutor(workers=1)


class TestThreadPool(PoolSuite):
    def make_executor(self) -> Executor:
        return ThreadExecutor(workers=2)


class TestProcessPool(PoolSuite):
    def make_executor(self) -> Executor:
        return ProcessExecutor(workers=2)
