"""The kernel under many threads that do everything at once, at random, and close it in the middle."""

from __future__ import annotations

import concurrent.futures
import contextlib
import itertools
import logging
import random
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from weft_core import Future, Kernel, TaskSpec
from weft_interfaces import (
    BlockLostError,
    CallOptions,
    DependencyError,
    Failure,
    RetryDecision,
    RunClosedError,
)
from weft_interfaces.memory import InMemoryExecutor, ManualExecutor

PATIENCE = 20.0
THREADS, STEPS = 6, 120


class Random:
    """Decides by a seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def decide(self, failure: Failure) -> RetryDecision:
        again = failure.failures + failure.losses < 4 and self._random.random() < 0.5
        return RetryDecision(again, self._random.choice([0.0, 0.0, 0.001]))


class Driven(ManualExecutor):
    """Many threads drive it, also while it shuts down: then one may be faster than the shutdown."""

    def run_all(self) -> None:
        while True:
            try:
                super().run_all()
            except AssertionError:
                continue
            return


class Chaos:
    """A run, and the things that threads do to it."""

    def __init__(self, seed: int, directory: Path) -> None:
        self.a = Driven("a", slots=4)
        self.b = Driven("b", slots=4, confirm_cancels=False)
        self.inline = InMemoryExecutor("inline", slots=2)
        self.kernel = Kernel([self.a, self.b, self.inline], directory=directory, retry_policy=Random(seed))
        self.futures: list[Future[Any]] = []
        self.foreign: list[concurrent.futures.Future[Any]] = []
        self.told: Counter[int] = Counter()
        self.needs: dict[int, list[Any]] = {}
        self.ran: list[int] = []
        self.tokens = itertools.count(1)  # random ones meet again where two threads have the same seed
        self.spec = TaskSpec(function=self.body, options=CallOptions(name="body"))
        self.join_spec = TaskSpec(function=self.join_body, join=True, options=CallOptions(name="join"))
        self.closed = threading.Event()

    def body(self, token: int, *args: Any) -> int:
        self.ran.append(token)
        assert "Future" not in repr(args), args
        if token % 7 == 0:
            raise ValueError(token)
        return token

    def join_body(self, token: int, inner: Any, *args: Any) -> Any:
        self.body(token, *args)
        return inner()

    # -- what threads do ------------------------------------------------------------------------------------

    def some(self, rng: random.Random, most: int = 3) -> list[Any]:
        known = [*self.futures[-30:], *self.foreign[-3:]]
        return rng.sample(known, min(len(known), rng.randrange(most + 1)))

    def submit(self, rng: random.Random) -> None:
        token, needs = next(self.tokens), self.some(rng)
        self.needs[token] = needs
        shape = rng.choice([lambda n: [n], lambda n: [{"deep": [tuple(n)]}], lambda n: n])(needs)
        self.accept(self.kernel.submit(self.spec, (token, *shape)))

    def join(self, rng: random.Random) -> None:
        token, needs, inner = next(self.tokens), self.some(rng, 1), self.some(rng)
        self.needs[token] = needs
        self.accept(self.kernel.submit(self.join_spec, (token, lambda: inner, *needs)))

    def gather(self, rng: random.Random) -> None:
        self.accept(self.kernel.gather({"all": self.some(rng)}))

    def accept(self, future: Future[Any]) -> None:
        future.add_done_callback(lambda done: self.told.update([done.task_id]))
        self.futures.append(future)

    def report(self, rng: random.Random) -> None:
        executor = rng.choice([self.a, self.b])
        held = executor.held
        if not held:
            return
        call_id = rng.choice(held)
        how: Callable[[int], None] = rng.choice(
            [
                executor.run,
                executor.run,
                executor.complete,
                executor.begin,
                executor.lose,
                executor.confirm,
                lambda i: executor.fail(i, ValueError("random")),
                lambda i: executor.fail(i, BlockLostError("random")),
            ]
        )
        try:
            how(call_id)
        except AssertionError as misuse:  # another thread was faster
            if str(misuse) not in executor.misuses:
                raise

    def report_late(self, rng: random.Random) -> None:
        executor = rng.choice([self.a, self.b])
        over = set(executor.submitted) - set(executor.held)
        if over and not self.reporting(executor):
            call_id = rng.choice(sorted(over))
            self.kernel.completed([(call_id, "late", rng.choice([None, ValueError("late")]))])  # type: ignore[list-item]

    def reporting(self, executor: ManualExecutor) -> bool:
        """Whether a thread is about to report an outcome: that one would not be late yet."""
        return executor._reporting > 0

    def cancel(self, rng: random.Random) -> None:
        if self.futures:
            rng.choice(self.futures).cancel()

    def peek(self, rng: random.Random) -> None:
        if self.futures:
            future = rng.choice(self.futures)
            concurrent.futures.wait([future], timeout=0)
            with contextlib.suppress(concurrent.futures.TimeoutError, concurrent.futures.CancelledError):
                future.exception(timeout=0)
            assert future.running() in (False, True)
            assert self.kernel.counts().total >= 0
            self.kernel.unfinished()

    def foreign_begins(self, rng: random.Random) -> None:
        self.foreign.append(concurrent.futures.Future())

    def foreign_ends(self, rng: random.Random) -> None:
        if self.foreign:
            future = rng.choice(self.foreign)
            end = rng.choice(
                [
                    future.cancel,
                    lambda: future.set_result(1),
                    lambda: future.set_exception(OSError("foreign")),
                ]
            )
            with contextlib.suppress(concurrent.futures.InvalidStateError):
                end()

    def act(self, seed: int) -> None:
        rng = random.Random(seed)
        actions = [self.submit] * 6 + [self.report] * 8 + [self.cancel, self.gather, self.join, self.peek]
        actions += [self.foreign_begins, self.foreign_ends, self.report_late]
        for _ in range(STEPS):
            try:
                rng.choice(actions)(rng)
            except RunClosedError:
                assert self.kernel._phase != "open"

    def close(self, seed: int) -> None:
        rng = random.Random(seed)
        while len(self.futures) < rng.randrange(1, THREADS * STEPS // 4):
            self.submit(rng)
        cancel = rng.random() < 0.5
        try:
            assert self.kernel.close(cancel=cancel) == []
        finally:
            self.closed.set()

    def pump(self, seed: int) -> None:
        """Have everything end, so that a run that drains can."""
        rng = random.Random(seed)
        while not self.closed.is_set():
            for _ in range(20):
                self.report(rng)
            if self.kernel._phase != "open":
                for future in self.foreign:
                    if not future.done():
                        future.cancel()
            self.closed.wait(0.0005)

    # -- what must hold -------------------------------------------------------------------------------------

    def check(self) -> None:
        futures = self.futures
        assert self.kernel.closed
        assert all(future.done() for future in futures)
        assert set(self.told.values()) <= {1}, "completed twice"
        assert len(self.told) == len(futures)
        counts = self.kernel.counts()
        assert counts.active == 0
        assert counts.finished == len(futures)
        assert counts.cancelled == sum(future.cancelled() for future in futures)
        errors = [None if future.cancelled() else future.exception() for future in futures]
        assert counts.failed + counts.dependency_failed == sum(error is not None for error in errors)
        assert counts.dependency_failed <= sum(isinstance(error, DependencyError) for error in errors)
        assert not self.kernel._tasks
        for token in self.ran:
            for need in self.needs[token]:
                assert need.done()
                assert not need.cancelled(), "it ran though one that it needs was cancelled"
                assert need.exception() is None, "it ran though one that it needs failed"


@pytest.fixture
def hasty_threads() -> Iterator[None]:
    """Threads take turns a thousand times as often."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(5e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("hasty_threads")
@pytest.mark.parametrize("seed", range(25))
def test_everything_at_once(
    seed: int, tmp_path: Path, in_threads: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    chaos = Chaos(seed, tmp_path)
    chaos.kernel.start()
    acts = [lambda i=i: chaos.act(1000 * seed + i) for i in range(THREADS)]
    with caplog.at_level(logging.ERROR, logger="weft"):
        in_threads(*acts, lambda: chaos.close(seed), lambda: chaos.pump(-seed - 1))
    chaos.check()
    assert caplog.records == [], "nothing was logged as broken"
