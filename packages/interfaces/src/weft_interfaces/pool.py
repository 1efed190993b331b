"""Any executor as a :class:`concurrent.futures.Executor`, without the kernel."""

from __future__ import annotations

import concurrent.futures
import itertools
import tempfile
import threading
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

from .call import Call, CallOptions, Outcome
from .errors import ResourcesError, RunClosedError
from .event import Event
from .executor import Executor

if TYPE_CHECKING:
    from .block import BlockExecutor
    from .keeper import BlockKeeper

__all__ = ["ExecutorPool", "as_pool"]

P = ParamSpec("P")
R = TypeVar("R")


def as_pool(
    executor: Executor, directory: Path | None = None, options: CallOptions | None = None
) -> ExecutorPool:
    """A pool of ``concurrent.futures`` that runs its calls on ``executor``, all with the same ``options``.

    Use it as a context manager: leaving it waits for its calls, and ends the executor. ``directory`` is for
    the executor's files; a temporary one is made otherwise. An executor whose workers arrive in blocks gets
    its ``init`` blocks, one at least, and no others. Raises what ``executor.start`` and the provider raise,
    and :class:`ResourcesError` when the executor can never run calls with these options.
    """
    return ExecutorPool(executor, directory, options)


class ExecutorPool(concurrent.futures.Executor):
    """See :func:`as_pool`."""

    def __init__(
        self, executor: Executor, directory: Path | None = None, options: CallOptions | None = None
    ) -> None:
        self._executor = executor
        self._options = options or CallOptions()
        refusal = executor.refusal(self._options.resources)
        if refusal:
            raise ResourcesError(refusal)
        self._ids = itertools.count()
        self._lock = threading.Lock()
        self._futures: dict[int, _PoolFuture[Any]] = {}
        self._closed = False
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        if directory is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="weft-pool-", ignore_cleanup_errors=True)
            directory = Path(self._temporary.name)
        self._keeper: BlockKeeper | None = None
        try:
            executor.start(_PoolContext(directory, self._completed))
            if executor.in_blocks and not executor.scales_itself:
                self._keeper = _keep_blocks(cast("BlockExecutor", executor), directory)
        except BaseException:
            if self._temporary is not None:
                self._temporary.cleanup()
            raise

    def submit(
        self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs
    ) -> concurrent.futures.Future[R]:
        """Run ``fn(*args, **kwargs)``. Raises :class:`RunClosedError` after ``shutdown``."""
        call_id = next(self._ids)
        try:  # Ctrl-C may strike anywhere: nothing must wait for a call of which nobody has the future
            with self._lock:
                if self._closed:
                    raise RunClosedError("the pool was shut down and takes no more calls")
                future = self._futures[call_id] = _PoolFuture(call_id, self._executor)
            self._executor.submit([Call(call_id, fn, args, kwargs, self._options)])
        except BaseException:
            with self._lock:
                self._futures.pop(call_id, None)
            raise
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the pool. With ``wait=False`` a thread of its own waits for the calls, then ends the
        executor.
        """
        with self._lock:
            first, self._closed = not self._closed, True
            futures = list(self._futures.values())
        if cancel_futures:
            running = set(self._executor.running())
            self._executor.cancel([future.call_id for future in futures if future.call_id not in running])
        if not first:
            return
        if wait:
            self._finish(futures)
        else:
            threading.Thread(target=self._finish, args=(futures,), name="weft-pool-shutdown").start()

    def _finish(self, futures: Sequence[concurrent.futures.Future[object]]) -> None:
        try:
            concurrent.futures.wait(futures)
        except BaseException:
            self._executor.shutdown(cancel=True)
            raise
        finally:
            self._executor.shutdown()
            if self._keeper is not None:
                self._keeper.close()
            if self._temporary is not None:
                self._temporary.cleanup()

    def _completed(self, outcomes: Sequence[Outcome]) -> None:
        for call_id, value, error in outcomes:
            with self._lock:
                future = self._futures.pop(call_id, None)
            if future is not None:
                future.complete(value, error)


def _keep_blocks(executor: BlockExecutor, directory: Path) -> BlockKeeper:
    """Ask for the blocks of an executor that has been started. Raises what its provider raises."""
    from .keeper import BlockKeeper

    keeper = BlockKeeper(executor, directory)
    try:
        keeper.start()
    except BaseException:
        executor.shutdown(cancel=True, timeout=1.0)
        raise
    return keeper


class _PoolFuture(concurrent.futures.Future[R]):
    """A future whose ``cancel`` asks the executor, and whose ``running`` does too."""

    def __init__(self, call_id: int, executor: Executor) -> None:
        super().__init__()
        self.call_id = call_id
        self._executor = executor

    def cancel(self) -> bool:
        """Whether the call is or will be cancelled; also one that runs, if the executor can stop it."""
        return self.cancelled() or (not self.done() and self.call_id in self._executor.cancel([self.call_id]))

    def running(self) -> bool:
        return not self.done() and self.call_id in self._executor.running()

    def complete(self, value: R, error: BaseException | None) -> None:
        if isinstance(error, concurrent.futures.CancelledError):
            super().cancel()
            self.set_running_or_notify_cancel()
        elif error is not None:
            self.set_exception(error)
        else:
            self.set_result(value)


class _PoolContext:
    """What the executor reports to."""

    make_scaler = None
    detached = None

    def __init__(self, directory: Path, completed: Callable[[Sequence[Outcome]], None]) -> None:
        self.run_id = f"pool-{uuid.uuid4().hex[:12]}"
        self.directory = directory
        self._completed = completed

    def completed(self, outcomes: Sequence[Outcome]) -> None:
        self._completed(outcomes)

    def emit(self, events: Sequence[Event]) -> None:
        """A pool has no readers of events."""
