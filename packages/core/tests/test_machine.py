"""The kernel against a model of it, driven in random order, by one thread.

The model knows of each task what it waits for and which state it must be in. A retry policy and a clock that
obey the test make every step deterministic.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import tempfile
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, assume, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from weft_core import Future, Kernel, TaskSpec, TaskState
from weft_interfaces import (
    BlockLostError,
    DependencyError,
    Failure,
    MemoOptions,
    RetryDecision,
    RunClosedError,
    WorkerLostError,
)
from weft_interfaces.memory import InMemoryExecutor, InMemoryMemoizer, ManualExecutor

PATIENCE = 20.0
PENDING, LAUNCHED, JOINING, RETRYING = (
    TaskState.PENDING,
    TaskState.LAUNCHED,
    TaskState.JOINING,
    TaskState.RETRYING,
)
DONE, FAILED, CANCELLED = TaskState.DONE, TaskState.FAILED, TaskState.CANCELLED
DEPENDENCY_FAILED = TaskState.DEPENDENCY_FAILED
BROKEN = (FAILED, DEPENDENCY_FAILED, CANCELLED)


class Obedient:
    """A retry policy that decides as it was told."""

    decision = RetryDecision(False)

    def decide(self, failure: Failure) -> RetryDecision:
        return self.decision


class Clock:
    """A timer whose time comes when the test says so."""

    def __init__(self) -> None:
        self.waiting: list[Callable[[], object]] = []

    def call_later(self, delay: float, function: Callable[[], object]) -> None:
        self.waiting.append(function)

    def close(self) -> None:
        """What waits stays: the thread that closes must not decide what the test may do next."""


@dataclasses.dataclass(frozen=True)
class Box:
    content: Any


class Foreign:
    """A future that is not the kernel's."""

    def __init__(self) -> None:
        self.future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        self.state = LAUNCHED
        self.value: Any = None


class Node:
    """What the model knows of a task."""

    def __init__(self, kind: str, shape: Any, chosen: dict[int, Any], state: TaskState) -> None:
        self.kind = kind
        self.shape = shape  # what it was submitted with; of a join, what it returns
        self.chosen = chosen  # the sources of its leaves
        self.waits_for = list(dict.fromkeys(chosen.values()))
        self.state = state
        self.future: Future[Any]
        self.value: Any = None
        self.cancelling = False
        self.past_ids: list[int] = []
        self.number: int | None = None  # of calls that are remembered: equal ones have the same
        self.follows: Node | None = None
        self.hit = False

    def with_values(self) -> Any:
        """The shape, when all its sources are done."""
        return build(self.shape, lambda leaf: self.chosen[leaf].value if self.chosen else leaf)

    def args(self) -> tuple[Any, ...]:
        """What its executor must be given."""
        return (self.with_values(),) if self.number is None else (self.number, self.with_values())

    @property
    def call_id(self) -> int:
        assert self.future._task is not None
        return self.future._task.call_id


SHAPES = st.recursive(
    st.integers(0, 60) | st.just(None),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from("abc"), inner, max_size=2)
        | st.builds(Box, inner)
        | st.tuples(inner, inner)
    ),
    max_leaves=5,
)


def leaves(shape: Any) -> list[int]:
    if isinstance(shape, int):
        return [shape]
    if isinstance(shape, Box):
        return leaves(shape.content)
    parts = shape.values() if isinstance(shape, dict) else shape or ()
    return [leaf for part in parts for leaf in leaves(part)]


def build(shape: Any, put: Callable[[int], Any]) -> Any:
    if isinstance(shape, int):
        return put(shape)
    if isinstance(shape, Box):
        return Box(build(shape.content, put))
    if isinstance(shape, dict):
        return {key: build(part, put) for key, part in shape.items()}
    return None if shape is None else type(shape)(build(part, put) for part in shape)


def recalled(number: int, gate: Any) -> None:
    """A body whose calls with the same number are equal."""


def recalled_join(number: int, gate: Any, body: Callable[[], Any]) -> Any:
    return body()


class KernelMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.policy, self.clock = Obedient(), Clock()
        # The second one says later that what was cancelled does not run.
        self.executors = [ManualExecutor("a", slots=2), ManualExecutor("b", slots=2, confirm_cancels=False)]
        directory = Path(tempfile.gettempdir()) / "never made"
        helper = InMemoryExecutor("helper")
        self.kernel = Kernel(
            self.executors,
            directory=directory,
            helper=helper,
            retry_policy=self.policy,
            memoizer=InMemoryMemoizer(),
        )
        self.kernel._timer = self.clock  # type: ignore[assignment]
        self.kernel.start()
        self.nodes: list[Node] = []
        self.foreign: list[Foreign] = []
        self.told: Counter[int] = Counter()
        self.retries = 0
        self.submit_spec = TaskSpec(function=lambda *_: None)
        self.memo_spec = TaskSpec(function=recalled, memo=MemoOptions(ignore=("gate",)))
        self.memo_join_spec = TaskSpec(
            function=recalled_join, join=True, memo=MemoOptions(ignore=("gate", "body"))
        )
        self.leaders: dict[int, Node] = {}
        self.remembered: dict[int, Any] = {}
        self.closing: threading.Thread | None = None

    # -- the model ------------------------------------------------------------------------------------------

    def sources(self) -> list[Any]:
        return [*self.nodes, *self.foreign]

    def bind(self, shape: Any) -> tuple[Any, dict[int, Any]]:
        """A shape's futures, and the sources that they belong to."""
        everything = self.sources()
        chosen = {leaf: everything[leaf % len(everything)] for leaf in leaves(shape)} if everything else {}
        value = build(shape, lambda leaf: chosen[leaf].future if chosen else leaf)
        return value, chosen

    def add(self, node: Node, submit: Callable[[], Future[Any]]) -> None:
        if self.closing is not None:
            total = self.kernel.counts().total
            with pytest.raises(RunClosedError):
                submit()
            assert self.kernel.counts().total == total
            return
        node.future = submit()
        self.nodes.append(node)
        node.future.add_done_callback(self.count(node.future.task_id))
        self.settle()

    def count(self, task_id: int) -> Callable[[object], None]:
        return lambda _: self.told.update([task_id])

    def settle(self) -> None:
        """Let the model follow, until nothing follows any more."""
        moved = True
        while moved:
            moved = False
            self.settle_leaders()
            for node in self.nodes:
                states = {source.state for source in node.waits_for}
                if node.state is PENDING and states & set(BROKEN):
                    node.state, moved = DEPENDENCY_FAILED, True
                elif node.state is PENDING and states <= {DONE} and node.number is not None:
                    moved |= self.settle_equal(node, node.number)
                elif node.state is PENDING and states <= {DONE}:
                    moved = True
                    if node.kind == "task":
                        node.state = LAUNCHED
                    else:  # the body of a join ran at once, and returned what is in its shape
                        node.state = JOINING
                        node.waits_for = list(dict.fromkeys(node.chosen.values()))
                elif node.state is JOINING and states & set(BROKEN):
                    allowed = {CANCELLED if state is CANCELLED else FAILED for state in states & set(BROKEN)}
                    assert node.future.done()
                    node.state = CANCELLED if node.future.cancelled() else FAILED
                    assert node.state in allowed
                    moved = True
                elif node.state is JOINING and states <= {DONE}:
                    node.state, moved = DONE, True
                    node.value = node.with_values()

    def settle_leaders(self) -> None:
        for number, leader in list(self.leaders.items()):
            if leader.state >= DONE:
                del self.leaders[number]
                if leader.state is DONE:
                    self.remembered[number] = leader.value

    def settle_equal(self, node: Node, number: int) -> bool:
        """Follow a call that may be remembered, and is ready; whether it moved."""
        leader, node.follows = node.follows, None
        if leader is not None and leader.state < DONE:
            node.follows = leader
            return False
        if leader is not None and leader.state is FAILED:
            node.state, node.hit = FAILED, True
            assert node.future.exception(timeout=0) is leader.future.exception(timeout=0)
        elif number in self.remembered:
            node.state, node.value, node.hit = DONE, self.remembered[number], True
        elif number in self.leaders and self.leaders[number] is not node:
            node.follows = self.leaders[number]
        elif self.leads(node):
            self.leaders[number] = node
            node.state = LAUNCHED
            if node.kind == "join":
                node.state, node.waits_for = JOINING, list(dict.fromkeys(node.chosen.values()))
        else:  # another one, which was made ready at once with it
            assert any(self.leads(other) for other in self.nodes if other.number == number), "nobody leads"
            return False
        return True

    def leads(self, node: Node) -> bool:
        """Whether the kernel chose it of several equal ones: in which order it looks at them is its own."""
        if node.state is not PENDING or node.future.memo_hit:
            return False
        task = node.future._task
        return task is None or task.state is not PENDING

    def in_state(self, *states: TaskState) -> list[Node]:
        return [node for node in self.nodes if node.state in states]

    def held(self) -> list[Node]:
        """Tasks for which an executor may report."""
        return [node for node in self.in_state(LAUNCHED) if not node.cancelling]

    def executor_of(self, node: Node) -> ManualExecutor:
        [executor] = [executor for executor in self.executors if node.call_id in executor.held]
        return executor

    # -- submitting -----------------------------------------------------------------------------------------

    @rule(shape=SHAPES)
    def submit(self, shape: Any) -> None:
        value, chosen = self.bind(shape)
        node = Node("task", shape, chosen, PENDING)
        self.add(node, lambda: self.kernel.submit(self.submit_spec, (value,)))

    @rule(shape=SHAPES)
    def gather(self, shape: Any) -> None:
        value, chosen = self.bind(shape)
        self.add(Node("gather", shape, chosen, JOINING), lambda: self.kernel.gather(value))

    @rule(argument=SHAPES, shape=SHAPES)
    def join(self, argument: Any, shape: Any) -> None:
        value, needed = self.bind(argument)
        returned, chosen = self.bind(shape)
        node = Node("join", shape, chosen, PENDING)
        node.waits_for = list(dict.fromkeys(needed.values()))
        spec = TaskSpec(function=lambda _: returned, join=True)
        self.add(node, lambda: self.kernel.submit(spec, (value,)))

    @rule(number=st.integers(0, 2), shape=SHAPES)
    def submit_equal(self, number: int, shape: Any) -> None:
        gate, chosen = self.bind(shape)
        node = Node("task", shape, chosen, PENDING)
        node.number = number
        self.add(node, lambda: self.kernel.submit(self.memo_spec, (number, gate)))

    @rule(number=st.integers(10, 11), argument=SHAPES, shape=SHAPES)
    def join_equal(self, number: int, argument: Any, shape: Any) -> None:
        gate, needed = self.bind(argument)
        returned, chosen = self.bind(shape)
        # Else it may come to wait for one that follows it: test_memo.py has those.
        assume(not self.reaches_equal(list(chosen.values())))
        node = Node("join", shape, chosen, PENDING)
        node.number = number
        node.waits_for = list(dict.fromkeys(needed.values()))
        self.add(node, lambda: self.kernel.submit(self.memo_join_spec, (number, gate, lambda: returned)))

    def reaches_equal(self, sources: list[Any]) -> bool:
        """Whether one of them is a call that may be remembered, or waits for one."""
        seen: set[Any] = set()
        while sources:
            source = sources.pop()
            if isinstance(source, Node) and source.state < DONE and source not in seen:
                seen.add(source)
                if source.number is not None:
                    return True
                sources += [*source.waits_for, *source.chosen.values()]
        return False

    @precondition(lambda self: len(self.foreign) < 5)
    @rule()
    def meet_a_foreign_future(self) -> None:
        self.foreign.append(Foreign())

    # -- what happens outside -------------------------------------------------------------------------------

    @precondition(lambda self: any(foreign.state is LAUNCHED for foreign in self.foreign))
    @rule(data=st.data(), how=st.sampled_from([DONE, FAILED, CANCELLED]))
    def foreign_ends(self, data: st.DataObject, how: TaskState) -> None:
        foreign = data.draw(st.sampled_from([f for f in self.foreign if f.state is LAUNCHED]))
        foreign.state = how
        if how is DONE:
            foreign.value = "foreign"
            foreign.future.set_result("foreign")
        elif how is FAILED:
            foreign.future.set_exception(OSError("foreign"))
        else:
            foreign.future.cancel()
        self.settle()

    @precondition(lambda self: self.held())
    @rule(data=st.data())
    def begin(self, data: st.DataObject) -> None:
        node = data.draw(st.sampled_from(self.held()))
        executor = self.executor_of(node)
        if node.call_id not in executor.running():
            executor.begin(node.call_id)
        assert node.future.running()

    @precondition(lambda self: self.held())
    @rule(data=st.data())
    def complete(self, data: st.DataObject) -> None:
        node = data.draw(st.sampled_from(self.held()))
        node.past_ids.append(node.call_id)
        node.value = f"value of {node.future.task_id}"
        node.state = DONE
        self.executor_of(node).complete(node.call_id, node.value)
        self.settle()

    @precondition(lambda self: self.held())
    @rule(
        data=st.data(),
        retry=st.sampled_from([None, None, 0.0, 1.0]),
        error=st.sampled_from(
            [ValueError("x"), WorkerLostError("w"), BlockLostError("b"), DependencyError("d")]
        ),
    )
    def fail(self, data: st.DataObject, retry: float | None, error: Exception) -> None:
        node = data.draw(st.sampled_from(self.held()))
        node.past_ids.append(node.call_id)
        self.policy.decision = RetryDecision(retry is not None, retry or 0.0)
        self.retries += retry is not None
        node.state = FAILED if retry is None else RETRYING if retry else PENDING
        executor = self.executor_of(node)
        if isinstance(error, WorkerLostError):
            executor.lose(node.call_id)
        else:
            executor.fail(node.call_id, error)
        self.settle()
        if not node.state.value >= DONE:
            assert node.call_id not in node.past_ids

    @precondition(lambda self: self.clock.waiting)
    @rule()
    def time_passes(self) -> None:
        self.clock.waiting.pop(0)()
        for node in self.in_state(RETRYING):
            if any(node.call_id in executor.held for executor in self.executors):
                node.state = LAUNCHED
                break
        self.settle()

    @precondition(lambda self: any(node.past_ids for node in self.nodes))
    @rule(data=st.data(), error=st.sampled_from([None, ValueError("late"), CancelledError()]))
    def a_late_or_second_outcome(self, data: st.DataObject, error: BaseException | None) -> None:
        node = data.draw(st.sampled_from([node for node in self.nodes if node.past_ids]))
        self.kernel.completed([(data.draw(st.sampled_from(node.past_ids)), "late", error)])  # type: ignore[list-item]

    # -- cancelling -----------------------------------------------------------------------------------------

    @precondition(lambda self: self.nodes)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        self.cancel_one(data.draw(st.sampled_from(self.nodes)))

    @precondition(lambda self: self.leaders)
    @rule(data=st.data())
    def cancel_a_leader(self, data: st.DataObject) -> None:
        self.cancel_one(data.draw(st.sampled_from(list(self.leaders.values()))))

    def cancel_one(self, node: Node) -> None:
        expected = node.state not in (DONE, FAILED, DEPENDENCY_FAILED)
        self.model_cancel(node)
        assert node.future.cancel() is expected
        self.settle()

    def model_cancel(self, node: Any) -> None:
        if node.state >= DONE:
            return
        if isinstance(node, Foreign) or node.state is not LAUNCHED:
            joined = node.waits_for if node.state is JOINING else ()
            node.state = CANCELLED
            for source in joined:
                self.model_cancel(source)
        elif self.executor_of(node).label == "a":
            node.past_ids.append(node.call_id)
            node.state = CANCELLED
        else:
            node.cancelling = True

    @precondition(lambda self: any(node.cancelling for node in self.in_state(LAUNCHED)))
    @rule(data=st.data())
    def confirm(self, data: st.DataObject) -> None:
        node = data.draw(st.sampled_from([node for node in self.in_state(LAUNCHED) if node.cancelling]))
        node.state = CANCELLED
        self.executors[1].confirm(node.call_id)
        self.settle()

    # -- what holds always ----------------------------------------------------------------------------------

    @invariant()
    def futures_are_as_the_model_says(self) -> None:
        for node in self.nodes:
            future = node.future
            final = node.state >= DONE
            assert future.done() is final, (node.kind, node.state, future)
            assert self.told[future.task_id] == final, "completed once, or not yet"
            assert future.cancelled() is (node.state is CANCELLED)
            if not final:
                assert future._task is not None
                assert future._task.state is node.state
            elif node.state is DONE:
                assert future.result(timeout=0) == node.value
            elif node.state is not CANCELLED:
                error = future.exception(timeout=0)
                if node.state is DEPENDENCY_FAILED:
                    assert isinstance(error, DependencyError)

    @invariant()
    def nothing_runs_that_must_not(self) -> None:
        launched = {node.call_id: node for node in self.in_state(LAUNCHED)}
        held = {call_id: e for e in self.executors for call_id in e.held}
        assert held.keys() == launched.keys()
        for call_id, node in launched.items():
            assert all(source.state is DONE for source in node.waits_for)
            assert held[call_id].submitted[call_id].args == node.args()

    @invariant()
    def the_counts_are_those_of_the_model(self) -> None:
        counts, states = self.kernel.counts(), Counter(node.state for node in self.nodes)
        assert counts.pending == states[PENDING] + states[RETRYING]
        assert counts.retries == self.retries
        assert counts.total == len(self.nodes)
        for state in (LAUNCHED, JOINING, DONE, FAILED, DEPENDENCY_FAILED, CANCELLED):
            assert getattr(counts, state.name.lower()) == states[state], state
        assert counts.memo_hits == sum(node.hit for node in self.nodes)
        unfinished = {node.future.task_id for node in self.nodes if node.state < DONE}
        assert {task.id for task in self.kernel._tasks.values()} == unfinished

    @invariant()
    def of_equal_calls_one_is_in_flight(self) -> None:
        begun = Counter(node.number for node in self.in_state(LAUNCHED, JOINING, RETRYING))
        assert all(count == 1 for number, count in begun.items() if number is not None)
        for node in self.nodes:
            assert node.future.memo_hit is node.hit
        leaders = {node.future.task_id for node in self.leaders.values()}
        assert self.kernel._memory is not None
        assert {flight.leader.id for flight in self.kernel._memory._flights.values()} == leaders

    # -- the end --------------------------------------------------------------------------------------------

    @precondition(lambda self: self.closing is None and any(node.state < DONE for node in self.nodes))
    @rule()
    def begin_to_close(self) -> None:
        self.closing = threading.Thread(target=self.kernel.close, daemon=True)
        self.closing.start()
        while self.kernel._phase == "open":
            self.closing.join(0.001)

    def teardown(self) -> None:
        try:
            if len(self.nodes) % 2 or self.closing is not None:
                self.drain()
            before = [node for node in self.nodes if node.state < DONE]
            self.kernel.close(cancel=True)
            if self.closing is not None:
                self.closing.join(PATIENCE)
                assert not self.closing.is_alive()
            for node in before:  # cancelled, or not run because what it needed was
                assert node.future.cancelled() or isinstance(node.future.exception(), DependencyError)
            assert all(node.future.done() for node in self.nodes)
            assert all(self.told[node.future.task_id] == 1 for node in self.nodes)
            assert self.kernel.closed
            assert not self.kernel._tasks
            assert self.kernel.counts().active == 0
            assert [executor.misuses for executor in self.executors] == [[], []]
        finally:
            self.kernel.close(cancel=True)

    def drain(self) -> None:
        """Let everything end well: the run must become idle."""
        for foreign in self.foreign:
            if foreign.state is LAUNCHED:
                foreign.state, foreign.value = DONE, "end"
                foreign.future.set_result("end")
        self.settle()
        while any(node.state < DONE for node in self.nodes):
            while self.clock.waiting:
                self.time_passes()
            for node in self.in_state(LAUNCHED):
                if node.state is not LAUNCHED:
                    continue
                if node.cancelling:
                    node.state = CANCELLED
                    self.executors[1].confirm(node.call_id)
                else:
                    node.state, node.value = DONE, "end"
                    self.executor_of(node).complete(node.call_id, "end")
                self.settle()
        assert self.kernel.wait_idle(timeout=PATIENCE)
        self.futures_are_as_the_model_says()
        self.the_counts_are_those_of_the_model()


TestKernel = KernelMachine.TestCase
TestKernel.settings = settings(
    max_examples=30,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
