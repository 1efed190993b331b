"""Workers as their tasks see them, and executors as pools."""

from __future__ import annotations

import threading
import time

import pytest
from weft_interfaces import (
    Call,
    CallOptions,
    ConfigError,
    Resources,
    ResourcesError,
    RunClosedError,
    WorkerContext,
    adopt_worker,
    as_pool,
    current_worker,
)
from weft_interfaces.memory import InMemoryExecutor, ManualExecutor


def test_there_is_no_worker_outside_of_a_task():
    assert current_worker() is None


def test_a_worker_is_adopted_by_its_thread_alone():
    worker, seen = WorkerContext(in_process=True), []
    adopt_worker(worker)
    try:
        thread = threading.Thread(target=lambda: seen.append(current_worker()))
        thread.start()
        thread.join()
        assert current_worker() is worker
        assert seen == [None]
    finally:
        adopt_worker(None)


def test_remaining_counts_down_to_zero():
    worker = WorkerContext(in_process=True)
    assert worker.remaining() is None
    worker.deadline = time.monotonic() + 50
    assert 40 < worker.remaining() <= 50
    worker.deadline = time.monotonic() - 1
    assert worker.remaining() == 0.0


def test_only_the_running_interruptible_call_is_interrupted():
    worker, interrupts = WorkerContext(in_process=True), []
    worker.call = Call(7, print)
    assert not worker.interrupt(7)
    with worker.interruptible(lambda: interrupts.append(1)):
        assert not worker.interrupt(8)
        assert worker.interrupt(7)
    assert not worker.interrupt(7)
    assert interrupts == [1]


def test_leaving_waits_for_an_interrupt_that_is_under_way():
    worker, entered, release, order = WorkerContext(in_process=True), threading.Event(), threading.Event(), []
    worker.call = Call(7, print)

    def interrupt():
        entered.set()
        release.wait(10)
        order.append("interrupted")

    def body():
        with worker.interruptible(interrupt):
            entered.wait(10)
        order.append("left")

    threads = [threading.Thread(target=body), threading.Thread(target=lambda: worker.interrupt(7))]
    threads[0].start()
    while worker._interrupt is None:
        pass
    threads[1].start()
    entered.wait(10)
    release.set()
    for thread in threads:
        thread.join(10)
    assert order == ["interrupted", "left"]


def test_a_pool_refuses_options_that_can_never_be_met():
    with pytest.raises(ResourcesError, match="one node"):
        as_pool(InMemoryExecutor(), options=CallOptions(resources=Resources(nodes=5)))


def test_a_pool_on_a_running_executor_is_refused():
    executor = InMemoryExecutor()
    with as_pool(executor), pytest.raises(ConfigError):
        as_pool(executor)


def test_a_pool_uses_the_directory_it_was_given(tmp_path):
    executor = ManualExecutor()
    with as_pool(executor, tmp_path):
        assert executor._context.directory == tmp_path


def test_a_failed_submit_leaves_no_future(monkeypatch):
    executor = InMemoryExecutor()
    with as_pool(executor) as pool:
        monkeypatch.setattr(executor, "submit", lambda calls: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            pool.submit(print)
        assert not pool._futures


def test_a_future_runs_and_is_cancelled_through_its_executor():
    executor = ManualExecutor(confirm_cancels=False)
    pool = as_pool(executor)
    first, second = pool.submit(int), pool.submit(int)
    assert not first.running()
    executor.begin(0)
    assert first.running()
    assert second.cancel()
    assert not second.done()
    executor.confirm(1)
    assert second.cancelled()
    assert second.cancel()
    executor.complete(0, 5)
    assert first.result(0) == 5
    assert not first.cancel()
    pool.shutdown()
    with pytest.raises(RunClosedError):
        pool.submit(int)


def test_shutdown_may_cancel_what_waits():
    executor = ManualExecutor()
    pool = as_pool(executor)
    first, second = pool.submit(int), pool.submit(int)
    executor.begin(0)
    pool.shutdown(wait=False, cancel_futures=True)
    assert second.cancelled()
    executor.complete(0, 1)
    pool.shutdown()
    assert first.result(10) == 1
