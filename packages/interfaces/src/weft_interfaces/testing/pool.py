"""What every executor must show when it is used as a ``concurrent.futures.Executor``."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Iterator
from contextlib import contextmanager

from ..executor import Executor
from ..pool import ExecutorPool, as_pool
from . import calls
from .check import aside, raises

__all__ = ["PoolSuite"]


class PoolSuite:
    """Subclass it and write ``make_executor``. ``timeout`` as in :class:`ExecutorSuite`."""

    timeout: float = 20.0

    def make_executor(self) -> Executor:
        """A new executor, not started."""
        raise NotImplementedError(f"{type(self).__name__}.make_executor: write it, to return what is tested")

    def prepare(self, executor: Executor) -> None:
        """Do what it takes for a started executor to run calls; nothing for most."""

    @contextmanager
    def pool(self) -> Iterator[ExecutorPool]:
        """A pool on a new executor."""
        executor = self.make_executor()
        pool = as_pool(executor)
        try:
            self.prepare(executor)
            yield pool
        finally:
            pool.shutdown(cancel_futures=True)

    def test_submit_gives_a_future_of_the_result(self) -> None:
        with self.pool() as pool:
            future = pool.submit(calls.echo, 1, key=2)
            assert future.result(self.timeout) == ((1,), {"key": 2}), "a pool's future has the call's result"
            assert future.done(), "a future with a result is done"

    def test_an_exception_is_in_the_future(self) -> None:
        with self.pool() as pool:
            error = pool.submit(calls.fail, "on purpose").exception(self.timeout)
        assert isinstance(error, ValueError), f"a pool's future has the call's exception, not {error!r}"

    def test_map_keeps_the_order(self) -> None:
        with self.pool() as pool:
            values = list(pool.map(calls.echo, range(50), timeout=self.timeout))
        assert values == [((i,), {}) for i in range(50)], (
            f"map gives results in the order of arguments, not {values}"
        )

    def test_wait_and_as_completed_take_its_futures(self) -> None:
        with self.pool() as pool:
            futures = [pool.submit(calls.echo, i) for i in range(20)]
            done, waiting = concurrent.futures.wait(futures, self.timeout)
            assert not waiting, f"concurrent.futures.wait: {len(waiting)} futures were never done"
            assert set(concurrent.futures.as_completed(futures, self.timeout)) == done, (
                "as_completed gives each once"
            )

    def test_a_future_that_is_cancelled_says_so(self) -> None:
        with calls.Gate() as gate, self.pool() as pool:
            futures: list[concurrent.futures.Future[object]] = []
            submitter = aside(
                lambda: futures.extend(pool.submit(calls.pass_gate, gate.address, i) for i in range(40))
            )
            gate.wait_begun(self.timeout)
            submitter.join(0.5)  # it goes on at once, unless calls run in the thread that submits them
            accepted = [future for future in list(futures) if future.cancel()]
            gate.open()
            submitter.join(self.timeout)
            done, waiting = concurrent.futures.wait(futures, self.timeout)
            assert not waiting, f"{len(waiting)} futures were never done after a cancel"
            wrong = [future for future in done if future.cancelled() != (future in accepted)]
            assert not wrong, f"cancel() said {wrong and wrong[0] in accepted}, but the future is {wrong[0]}"

    def test_shutdown_without_waiting_lets_the_calls_end(self) -> None:
        executor = self.make_executor()
        pool = as_pool(executor)
        self.prepare(executor)
        futures = [pool.submit(calls.echo, i) for i in range(20)]
        pool.shutdown(wait=False)
        raises(RuntimeError, lambda: pool.submit(calls.echo), "a pool that was shut down takes no calls")
        _, waiting = concurrent.futures.wait(futures, self.timeout)
        assert not waiting, f"shutdown(wait=False) lets the calls end, but {len(waiting)} never did"
        pool.shutdown()

    def test_leaving_the_with_block_waits(self) -> None:
        executor = self.make_executor()
        with as_pool(executor) as pool:
            self.prepare(executor)
            futures = [pool.submit(calls.echo, i) for i in range(20)]
        assert all(future.done() for future in futures), "leaving the with block waits for the calls"
