"""What is in memory keeps the contracts: each suite against its implementation."""

from __future__ import annotations

import threading
from contextlib import contextmanager

import pytest
from weft_interfaces import (
    BaseMemoStore,
    Blocks,
    DirectLauncher,
    NullEventSink,
    PickleSerializer,
)
from weft_interfaces.memory import (
    ContainerResolver,
    InMemoryBlockExecutor,
    InMemoryChannel,
    InMemoryExecutor,
    InMemoryMemoizer,
    InMemoryMemoStore,
    InMemoryProvider,
    InMemoryStaging,
    ManualExecutor,
    NeverRetry,
    PickleMemoHasher,
    RecordingEventSink,
    RetryTimes,
    SimpleScaling,
)
from weft_interfaces.testing import (
    NESTING,
    ORDER,
    PICKLING,
    PROCESSES,
    BlockExecutorSuite,
    ChannelSuite,
    DependencyResolverSuite,
    EventSinkSuite,
    ExecutorSuite,
    LauncherSuite,
    MemoHasherSuite,
    MemoizerSuite,
    MemoStoreSuite,
    PoolSuite,
    ProviderSuite,
    RetryPolicySuite,
    ScalingPolicySuite,
    SerializerSuite,
    StagingSuite,
    left_out,
)


@left_out(*PICKLING, *PROCESSES)
class TestInMemoryExecutor(ExecutorSuite):
    def make_executor(self):
        return InMemoryExecutor()


@left_out(*NESTING, *PROCESSES)
class TestInMemoryExecutorWithPickling(ExecutorSuite):
    workers_are_processes = False

    def make_executor(self):
        return InMemoryExecutor(serializer=PickleSerializer())


class TestInMemoryPool(PoolSuite):
    def make_executor(self):
        return InMemoryExecutor()


class PumpedExecutor(ManualExecutor):
    """A ManualExecutor with a thread that runs what is held."""

    def start(self, context):
        super().start(context)
        self._ended = False
        self._wake = threading.Event()
        self._pump = threading.Thread(target=self._run_pump)
        self._pump.start()

    def submit(self, calls):
        super().submit(calls)
        self._wake.set()

    def _run_pump(self):
        while not self._ended:
            self._wake.wait()
            self._wake.clear()
            for call_id in self.held:
                try:
                    self.run(call_id)
                except AssertionError:
                    continue  # cancelled since it was listed

    def shutdown(self, *, cancel=False, timeout=10.0):
        left = super().shutdown(cancel=cancel, timeout=timeout)
        if hasattr(self, "_pump"):
            self._ended = True
            self._wake.set()
            self._pump.join(timeout)
        return left


@left_out(*PICKLING, *PROCESSES, *NESTING, *ORDER)  # a manual executor runs nothing by itself
class TestPumpedExecutor(ExecutorSuite):
    def make_executor(self):
        return PumpedExecutor()


@left_out(*NESTING, *PROCESSES, *ORDER)
class TestInMemoryBlockExecutor(BlockExecutorSuite):
    workers_are_processes = False

    def make_executor(self):
        blocks = Blocks(provider=InMemoryProvider(), max=2)
        return InMemoryBlockExecutor(blocks, serializer=PickleSerializer())

    def start_block(self, executor, block_id):
        executor.register(block_id)

    def stop_block(self, executor, block_id):
        """The job has no process."""


class TestInMemoryProvider(ProviderSuite):
    @pytest.fixture(autouse=True)
    def _provider(self):
        self.provider = InMemoryProvider(queue_time=3.0)

    def make_provider(self):
        return self.provider

    def directory(self):
        return "/memory"

    def tick(self, provider):
        provider.advance(1.0)

    @contextmanager
    def failing_queries(self, provider):
        provider.fail_queries()
        yield


class TestDirectLauncher(LauncherSuite):
    def make_launcher(self):
        return DirectLauncher()


class TestInMemoryChannel(ChannelSuite):
    def make_channel(self):
        return InMemoryChannel()


class TestInMemoryStaging(StagingSuite):
    def make_staging(self):
        return InMemoryStaging("suite")

    def url(self, name):
        return f"memory://suite/{name}"


class TestPickleMemoHasher(MemoHasherSuite):
    def make_hasher(self):
        return PickleMemoHasher()


@left_out(  # it does not outlive its process
    "test_what_was_flushed_survives", "test_a_description_survives_with_the_entry_that_refers_to_it"
)
class TestInMemoryMemoStore(MemoStoreSuite):
    def make_store(self):
        return InMemoryMemoStore()


class OutOfOrder(BaseMemoStore):
    def get(self, key):
        raise OSError("no such disk")

    def put(self, entry):
        raise OSError("no such disk")


class TestInMemoryMemoizer(MemoizerSuite):
    def make_memoizer(self):
        return InMemoryMemoizer()

    def make_broken(self):
        return InMemoryMemoizer(OutOfOrder())

    def reopen(self, memoizer):
        return InMemoryMemoizer(memoizer.store)


class TestContainerResolver(DependencyResolverSuite):
    def make_resolver(self):
        return ContainerResolver()


class TestNeverRetry(RetryPolicySuite):
    def make_policy(self):
        return NeverRetry()


class TestRetryTimes(RetryPolicySuite):
    def make_policy(self):
        return RetryTimes(2)


class TestSimpleScaling(ScalingPolicySuite):
    def make_policy(self):
        return SimpleScaling()


class TestPickleSerializer(SerializerSuite):
    def make_serializer(self):
        return PickleSerializer()


class TestRecordingEventSink(EventSinkSuite):
    def make_sink(self):
        return RecordingEventSink()

    def written(self, sink):
        return sink.events


class TestNullEventSink(EventSinkSuite):
    def make_sink(self):
        return NullEventSink()
