"""Conformance suites: how the author of a plug-in knows that it is done.

Subclass the suite of your contract in a test module, and write the one method that makes what is to be
tested::

    from weft_interfaces.testing import ExecutorSuite


    class TestMyExecutor(ExecutorSuite):
        def make_executor(self):
            return MyExecutor(label="mine")

A suite holds to every promise; those that an implementation does not make are left out by name::

    @left_out(*NESTING)  # calls run in other processes, where the executor is not
    class TestMyExecutor(ExecutorSuite): ...

Every test says in its message which promise of the contract was broken. Any test runner that collects classes
by their ``test_`` methods will do; nothing here imports one. Waits are bounded by the suite's ``timeout``.
"""

from __future__ import annotations

from .block import BlockExecutorSuite
from .channel import ChannelSuite
from .check import left_out
from .event import EventSinkSuite
from .executor import NESTING, ORDER, PICKLING, PROCESSES, ExecutorSuite
from .launcher import LauncherSuite
from .memo import MemoHasherSuite, MemoStoreSuite
from .memoizer import MemoizerSuite
from .policy import DependencyResolverSuite, RetryPolicySuite, ScalingPolicySuite
from .pool import PoolSuite
from .provider import ArrayProviderSuite, ProviderSuite
from .rooted import RootedChannel
from .serializer import SerializerSuite
from .staging import StagingSuite

__all__ = [
    "NESTING",
    "ORDER",
    "PICKLING",
    "PROCESSES",
    "ArrayProviderSuite",
    "BlockExecutorSuite",
    "ChannelSuite",
    "DependencyResolverSuite",
    "EventSinkSuite",
    "ExecutorSuite",
    "LauncherSuite",
    "MemoHasherSuite",
    "MemoStoreSuite",
    "MemoizerSuite",
    "PoolSuite",
    "ProviderSuite",
    "RetryPolicySuite",
    "RootedChannel",
    "ScalingPolicySuite",
    "SerializerSuite",
    "StagingSuite",
    "left_out",
]
