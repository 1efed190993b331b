"""What every dependency resolver, retry policy and scaling policy must show."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from ..block import BlockLoad, Blocks, ExecutorDemand
from ..errors import BlockLostError, ConfigError, DeathCertificate, UnitError, WorkerLostError
from ..memory.provider import InMemoryProvider
from ..policy import (
    BlockView,
    DependencyResolver,
    Failure,
    RetryDecision,
    RetryPolicy,
    ScalingDecision,
    ScalingPolicy,
    ScalingState,
)
from ..provider import JobState, JobStatus
from .check import in_threads, skip

__all__ = ["DependencyResolverSuite", "RetryPolicySuite", "ScalingPolicySuite"]


@dataclass
class Pair:
    """A value with parts."""

    left: Any
    right: Any


class DependencyResolverSuite:
    """Subclass it and write ``make_resolver``. deep: whether it looks into containers."""

    timeout: float = 30.0
    deep: bool = True

    def make_resolver(self) -> DependencyResolver:
        """A resolver."""
        raise NotImplementedError(f"{type(self).__name__}.make_resolver: write it, to return what is tested")

    def done(self, value: Any) -> Future[Any]:
        """A future with a result."""
        future: Future[Any] = Future()
        future.set_result(value)
        return future

    def nestings(self) -> list[tuple[str, Callable[[Any], Any]]]:
        """Ways to put one value into another."""
        return [
            ("a list", lambda part: [1, part]),
            ("a tuple", lambda part: (part, 2)),
            ("a dict's value", lambda part: {"key": part}),
            ("a dataclass", lambda part: Pair(part, 1)),
            ("a list in a dict in a tuple", lambda part: ({"key": [part]}, 1)),
        ]

    def test_a_future_is_found_and_replaced(self) -> None:
        resolver, future = self.make_resolver(), self.done(7)
        assert resolver.futures(future) == [future], "the futures in a future are itself"
        value = resolver.resolve(future, Future.result)
        assert value == 7, f"a future is replaced by its result, 7, not {value!r}"

    def test_a_value_without_futures_is_itself(self) -> None:
        resolver = self.make_resolver()
        for value in (None, 1, "text", [1, 2], {"a": (1,)}, {1, 2}, Pair(1, [2]), object()):
            assert resolver.futures(value) == [], f"there is no future in {value!r}"
            resolved = resolver.resolve(value, Future.result)
            assert resolved == value, f"a value without futures stays as it is: {value!r} became {resolved!r}"

    def test_futures_are_found_at_any_depth(self) -> None:
        self.needs_depth()
        resolver, future = self.make_resolver(), self.done(7)
        for name, nest in self.nestings():
            found = resolver.futures(nest(future))
            assert found == [future], f"a future in {name} is found once, but this was: {found}"
            resolved = resolver.resolve(nest(future), Future.result)
            assert resolved == nest(7), f"a future in {name} is replaced, but this came: {resolved!r}"

    def test_a_future_in_a_set_is_found(self) -> None:
        self.needs_depth()
        resolver, future = self.make_resolver(), self.done(7)
        for kind in (set, frozenset):
            value = kind([future, 1])
            assert resolver.futures(value) == [future], f"a future in a {kind.__name__} is found"
            resolved = resolver.resolve(value, Future.result)
            assert resolved == kind([7, 1]), f"a {kind.__name__} stays one, but became {resolved!r}"

    def test_a_deep_value_is_no_problem(self) -> None:
        self.needs_depth()
        value: Any = self.done(7)
        for _ in range(100):
            value = [value]
        assert len(self.make_resolver().futures(value)) == 1, "a future is found a hundred lists deep"

    def test_each_future_is_found_once(self) -> None:
        self.needs_depth()
        one, two = self.done(1), self.done(2)
        found = self.make_resolver().futures([one, (two, one), {"key": one}])
        assert len(found) == len(set(found)) == 2, f"each future is found once, but {len(found)} were for two"

    def test_the_value_is_not_changed(self) -> None:
        self.needs_depth()
        resolver, future = self.make_resolver(), self.done(7)
        inner = [future]
        value = {"a": inner, "b": Pair(future, 1)}
        resolver.futures(value)
        resolved = resolver.resolve(value, Future.result)
        kept = value["a"] is inner and inner == [future] and value["b"] == Pair(future, 1)
        assert kept, f"resolve copies what it changes, but the value itself became {value!r}"
        assert resolved == {"a": [7], "b": Pair(7, 1)}, (
            f"all futures are replaced, but this came: {resolved!r}"
        )

    def test_equal_values_are_not_mixed_up(self) -> None:
        self.needs_depth()
        futures = [self.done([i]) for i in range(3)]
        resolved = self.make_resolver().resolve(futures, Future.result)
        assert resolved == [[0], [1], [2]], f"each future gets its own result, but this came: {resolved!r}"

    def test_it_is_linear(self) -> None:
        self.needs_depth()
        resolver = self.make_resolver()
        small, large = self.seconds(resolver, 400), self.seconds(resolver, 4_000)
        assert large < 30 * small + 0.01, (
            f"10 times the futures took {large / small:.0f} times as long: not linear"
        )

    def seconds(self, resolver: DependencyResolver, count: int) -> float:
        """The least processor time of three tries, for so many futures: other work only adds to it."""
        futures = [self.done(i) for i in range(count)]
        times = []
        for _ in range(3):
            begun = time.thread_time()
            resolver.futures(futures)
            resolver.resolve(futures, Future.result)
            times.append(time.thread_time() - begun)
        return min(times)

    def test_threads_may_use_it_at_once(self) -> None:
        resolver, future = self.make_resolver(), self.done(7)

        def work(number: int) -> None:
            for _ in range(100):
                assert resolver.futures(future) == [future], f"thread {number} found something else"

        in_threads(work, 8, self.timeout, "threads may use a resolver at once")

    def needs_depth(self) -> None:
        """Skip the test for shallow resolvers."""
        if not self.deep:
            skip("this resolver does not look into containers")


class RetryPolicySuite:
    """Subclass it and write ``make_policy``. patience: tries after which a task must have been given up."""

    timeout: float = 30.0
    patience: int = 1000

    def make_policy(self) -> RetryPolicy:
        """A policy."""
        raise NotImplementedError(f"{type(self).__name__}.make_policy: write it, to return what is tested")

    def failure(self, error: BaseException, failures: int = 0, losses: int = 0, retries: int = 3) -> Failure:
        """A try that failed."""
        return Failure(1, "task", error, retries, failures, losses)

    def errors(self) -> list[BaseException]:
        """What tasks fail with."""
        certificate = DeathCertificate(kind="worker", signal=9)
        return [
            ValueError("x"),
            KeyError(),
            WorkerLostError("x", [certificate]),
            BlockLostError("x"),
            OSError(5, "x"),
        ]

    def decide(self, failure: Failure, policy: RetryPolicy | None = None) -> RetryDecision:
        """A decision of the promised shape."""
        decision = (policy or self.make_policy()).decide(failure)
        assert isinstance(decision, RetryDecision), f"decide gives a RetryDecision, not {decision!r}"
        assert isinstance(decision.retry, bool), f"RetryDecision.retry: yes or no, not {decision.retry!r}"
        sane = math.isfinite(decision.delay) and decision.delay >= 0
        assert sane, f"RetryDecision.delay: seconds from 0 on, not {decision.delay!r}"
        return decision

    def test_every_error_gets_a_decision_in_words(self) -> None:
        for error in self.errors():
            lost = isinstance(error, (WorkerLostError, BlockLostError))
            decision = self.decide(self.failure(error, failures=not lost, losses=lost))
            assert decision.reason.strip(), (
                f"a decision comes with its reason in words, but not for {error!r}"
            )

    def test_wrong_input_is_never_tried_again(self) -> None:
        for error in (ConfigError("x"), UnitError("x")):
            decision = self.decide(self.failure(error, failures=1))
            assert not decision.retry, f"wrong input is never retried, but {error!r} is: {decision.reason}"

    def test_a_task_that_always_fails_is_given_up(self) -> None:
        policy = self.make_policy()
        tries = (
            self.decide(self.failure(ValueError("x"), failures=n, retries=3), policy)
            for n in range(1, self.patience)
        )
        assert not all(decision.retry for decision in tries), (
            f"a task that always fails was tried {self.patience} times"
        )

    def test_a_task_that_always_kills_its_worker_is_given_up(self) -> None:
        policy = self.make_policy()
        tries = (
            self.decide(self.failure(WorkerLostError("x"), losses=n), policy) for n in range(1, self.patience)
        )
        assert not all(decision.retry for decision in tries), (
            f"a task that kills its worker ran {self.patience} times"
        )

    def test_threads_may_ask_at_once(self) -> None:
        policy = self.make_policy()

        def work(number: int) -> None:
            for n in range(1, 100):
                self.decide(self.failure(ValueError(str(number)), failures=n), policy)

        in_threads(work, 8, self.timeout, "decide may be called from any thread")


class ScalingPolicySuite:
    """Subclass it and write ``make_policy``."""

    def make_policy(self) -> ScalingPolicy:
        """A policy."""
        raise NotImplementedError(f"{type(self).__name__}.make_policy: write it, to return what is tested")

    def state(
        self,
        blocks: dict[str, BlockView] | None = None,
        *,
        queued: int = 0,
        running: int = 0,
        **settings: Any,
    ) -> ScalingState:
        """A state: two slots a block, a thousand seconds after the start."""
        views = blocks or {}
        loads = {i: BlockLoad(b.managers, b.running, b.idle_for) for i, b in views.items() if b.managers}
        defaults = {"min": 0, "init": settings.get("min", 0), "max": 4, "idle_timeout": 60}
        wanted = Blocks(provider=InMemoryProvider(), **{**defaults, **settings})
        return ScalingState("suite", wanted, ExecutorDemand(queued, running, 2, loads), views, 1000.0)

    def block(
        self,
        state: JobState = JobState.RUNNING,
        *,
        managers: int = 1,
        running: int = 0,
        idle_for: float = 0.0,
        draining: bool = False,
        requested_at: float = 990.0,
    ) -> BlockView:
        """A block, up and just idle unless said otherwise."""
        status = JobStatus(state=state, started_at=None if state is JobState.PENDING else 995.0)
        return BlockView(status, requested_at, managers, running, idle_for, draining)

    def pending(self, **more: Any) -> BlockView:
        """A block that waits in the queue."""
        return self.block(JobState.PENDING, managers=0, **more)

    def decide(self, state: ScalingState) -> ScalingDecision:
        """A decision that no state allows to be otherwise."""
        decision = self.make_policy().decide(state)
        assert isinstance(decision, ScalingDecision), f"decide gives a ScalingDecision, not {decision!r}"
        assert decision.add >= 0, f"ScalingDecision.add: a number of blocks, not {decision.add}"
        room = max(0, state.settings.max - len(state.blocks))
        assert decision.add <= room, f"there is room for {room} blocks below max, but it adds {decision.add}"
        unknown = [block_id for block_id in decision.drain if block_id not in state.blocks]
        assert not unknown, f"it drains blocks that there are not: {unknown}"
        again = [block_id for block_id in decision.drain if state.blocks[block_id].draining]
        assert not again, f"it drains blocks that are draining already: {again}"
        assert len(set(decision.drain)) == len(decision.drain), f"it drains a block twice: {decision.drain}"
        acts = decision.add or decision.drain
        assert not acts or decision.reason.strip(), f"a decision comes with its reason in words: {decision}"
        return decision

    def test_it_is_a_pure_function(self) -> None:
        policy = self.make_policy()
        busy = {"a": self.block(running=2), "b": self.pending(), "c": self.block(idle_for=500.0)}
        for state in (
            self.state(queued=9),
            self.state(busy, queued=3, running=2),
            self.state({"c": busy["c"]}),
        ):
            before = copy.deepcopy((state.demand, dict(state.blocks)))
            first = policy.decide(state)
            policy.decide(self.state(queued=100))
            assert policy.decide(state) == first, (
                "decide is a pure function of the state, but it changed its mind"
            )
            assert (state.demand, dict(state.blocks)) == before, "decide changed the state that it was given"

    def test_blocks_are_asked_for_when_calls_wait(self) -> None:
        decision = self.decide(self.state(queued=3))
        assert decision.add >= 1, f"three calls wait and there is no block, but it adds none: {decision}"

    def test_nothing_is_asked_for_when_nothing_waits(self) -> None:
        decision = self.decide(self.state())
        assert not decision.add, f"no call waits and min is 0, but it adds {decision.add} blocks"

    def test_what_was_asked_for_counts(self) -> None:
        decision = self.decide(self.state({"a": self.pending(), "b": self.pending()}, queued=3))
        assert not decision.add, (
            f"two blocks of two slots are on their way for three calls, but it adds {decision.add}"
        )

    def test_an_unknown_state_is_no_end(self) -> None:
        unknown = {"a": self.block(JobState.UNKNOWN, running=2), "b": self.block(JobState.UNKNOWN)}
        decision = self.decide(self.state(unknown, running=2, queued=1))
        assert not decision.add, (
            f"blocks whose state is unknown may well run, but it adds {decision.add} in their place"
        )

    def test_no_more_than_max(self) -> None:
        for blocks in ({}, {"a": self.block(running=2)}, {str(i): self.block(running=2) for i in range(4)}):
            self.decide(self.state(blocks, queued=1000, running=2 * len(blocks)))

    def test_no_fewer_than_min(self) -> None:
        decision = self.decide(self.state(min=2, init=2))
        assert decision.add == 2, f"min is 2 and there are none, but it adds {decision.add}"
        idle = {
            "a": self.block(idle_for=500.0),
            "b": self.block(idle_for=500.0),
            "c": self.block(idle_for=500.0),
        }
        decision = self.decide(self.state(idle, min=2, init=2))
        assert len(decision.drain) <= 1, f"min is 2 and there are 3, but it drains {len(decision.drain)}"

    def test_idle_blocks_are_given_back_in_time(self) -> None:
        decision = self.decide(self.state({"a": self.block(idle_for=61.0)}))
        assert decision.drain == ("a",), (
            f"a block is idle for longer than idle_timeout, but it drains {decision.drain}"
        )
        decision = self.decide(self.state({"a": self.block(idle_for=10.0)}))
        assert not decision.drain, "a block is idle for less than idle_timeout, but it is drained"

    def test_busy_blocks_are_kept(self) -> None:
        blocks = {"busy": self.block(running=1), "idle": self.block(idle_for=500.0)}
        decision = self.decide(self.state(blocks, running=1))
        assert "busy" not in decision.drain, "a block that runs a call is drained"

    def test_blocks_that_calls_need_are_kept(self) -> None:
        decision = self.decide(self.state({"a": self.block(idle_for=500.0)}, queued=2))
        assert not decision.drain, "calls wait that a block could run, but it is drained"

    def test_draining_blocks_are_no_help_but_count_for_max(self) -> None:
        decision = self.decide(self.state({"a": self.block(draining=True)}, queued=1))
        assert decision.add >= 1, (
            f"a draining block takes no new calls, but for one that waits it adds {decision.add}"
        )
        full = {str(i): self.block(draining=True, running=1) for i in range(4)}
        self.decide(self.state(full, queued=2, running=4))
