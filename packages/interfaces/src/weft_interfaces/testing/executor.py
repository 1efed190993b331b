"""What every executor must show."""

from __future__ import annotations

import json
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..call import Call, CallOptions, Outcome
from ..errors import (
    ConfigError,
    DeadlockError,
    LostError,
    RemoteError,
    ResourcesError,
    SerializationError,
    TaskExitError,
    TaskTimeoutError,
)
from ..executor import Executor
from ..memory.context import RecordingContext
from ..resources import Resources
from . import calls
from .check import aside, child_processes, eventually, in_threads, raises, skip

__all__ = ["NESTING", "ORDER", "PICKLING", "PROCESSES", "ExecutorSuite"]

Completed = Callable[[Sequence[Outcome]], None]


# Tests to leave out (see left_out) of the suite of an executor: whose values cross no process boundary; whose
# workers are no processes; whose calls cannot reach it; that has several slots.
PICKLING = (
    "test_an_argument_that_cannot_be_pickled_fails_just_its_call",
    "test_a_function_that_cannot_be_pickled_fails_just_its_call",
    "test_a_result_that_cannot_be_pickled_fails_just_its_call",
    "test_a_result_that_cannot_be_unpickled_fails_just_its_call",
)
PROCESSES = (
    "test_output_goes_to_the_files_that_were_asked_for",
    "test_a_call_runs_in_the_directory_that_was_asked_for",
    "test_a_worker_that_exits_costs_its_own_call_only",
    "test_a_worker_that_is_killed_costs_its_own_call_only",
)
NESTING = ("test_a_call_may_submit_another_and_wait_for_it",)
ORDER = ("test_higher_priority_is_sooner",)


class ExecutorSuite:
    """Subclass it and write ``make_executor``; see :mod:`weft_interfaces.testing`.

    timeout: seconds after which the suite takes something for broken.
    workers_are_processes: whether calls run in processes of their own, which can be killed, have files for
    output and a working directory; None means whatever is not ``in_process``.
    """

    timeout: float = 20.0
    workers_are_processes: bool | None = None

    def make_executor(self) -> Executor:
        """A new executor, not started. Called once or twice by each test."""
        raise NotImplementedError(
            f"{type(self).__name__}.make_executor: write it, it returns the executor to test"
        )

    def prepare(self, executor: Executor) -> None:
        """Do what it takes for a started executor to run calls; nothing for most."""

    def conclude(self) -> None:
        """The executor was shut down: see that what ``prepare`` began has ended."""

    # -- helpers --------------------------------------------------------------------------------------------

    @contextmanager
    def started(
        self, on_completed: Completed | None = None, *, prepared: bool = True
    ) -> Iterator[tuple[Executor, RecordingContext]]:
        """A running executor and what it reports to."""
        executor = self.make_executor()
        with tempfile.TemporaryDirectory(prefix="weft-suite-") as directory:
            context = RecordingContext(Path(directory), on_completed)
            executor.start(context)
            try:
                if prepared:
                    self.prepare(executor)
                yield executor, context
            finally:
                executor.shutdown(cancel=True, timeout=self.timeout)
                self.conclude()

    def await_outcomes(self, context: RecordingContext, ids: Iterable[int]) -> dict[int, Outcome]:
        """Wait for these calls, and check that each had one outcome."""
        ids = list(ids)
        missing = sorted(context.wait(ids, self.timeout))
        assert not missing, (
            f"each call gets exactly one outcome: {len(missing)} of {len(ids)} have none, "
            f"the first is call {missing[0]}"
        )
        self.check_counts(context)
        return {call_id: context.outcomes[call_id] for call_id in ids}

    def check_counts(self, context: RecordingContext) -> None:
        """No call has had two outcomes."""
        twice = {call_id: count for call_id, count in context.counts.items() if count != 1}
        assert not twice, f"each call gets exactly one outcome: these had several, by id: {twice}"

    def outcome_of(self, function: Callable[..., Any], *args: Any, **options: Any) -> Outcome:
        """Run one call on a new executor, with another after it that shows the executor to be alive."""
        with self.started() as (executor, context):
            executor.submit([Call(1, function, args, {}, CallOptions(**options))])
            outcome = self.await_outcomes(context, [1])[1]
            executor.submit([Call(2, calls.echo, ("after",))])
            after = self.await_outcomes(context, [2])[2]
            assert after.error is None, (
                f"a call that ends badly costs only itself, but the next one got {after.error!r}"
            )
            return outcome

    def processes(self) -> bool:
        """Whether workers are processes."""
        if self.workers_are_processes is None:
            return not self.make_executor().in_process
        return self.workers_are_processes

    def needs_pickling(self) -> None:
        """Skip the test unless values cross a process boundary."""
        if self.make_executor().in_process:
            skip("calls run in this process and are not pickled")

    def needs_processes(self) -> None:
        """Skip the test unless workers are processes."""
        if not self.processes():
            skip("workers are no processes of their own")

    # -- calls and outcomes ---------------------------------------------------------------------------------

    def test_it_is_an_executor_with_a_label(self) -> None:
        executor = self.make_executor()
        assert isinstance(executor, Executor), f"it lacks methods of the Executor contract: {executor!r}"
        assert isinstance(executor.label, str), f"label: a str was promised, not {executor.label!r}"
        assert executor.label, "label: it must name the executor, and is empty"
        assert isinstance(executor.in_process, bool), (
            f"in_process: a bool was promised, not {executor.in_process!r}"
        )

    def test_each_call_of_a_batch_gets_exactly_one_outcome(self) -> None:
        with self.started() as (executor, context):
            executor.submit([Call(i, calls.echo, (i,)) for i in range(200)])
            outcomes = self.await_outcomes(context, range(200))
            executor.shutdown(timeout=self.timeout)
            self.check_counts(context)
        wrong = [o for i, o in outcomes.items() if o.error is not None or o.value != ((i,), {})]
        assert not wrong, f"a call's outcome is what its function returned, but this came back: {wrong[0]}"
        strangers = sorted(context.counts.keys() - set(range(200)))
        assert not strangers, (
            f"outcomes are for calls that were submitted, but these ids were not: {strangers}"
        )

    def test_an_empty_batch_does_no_harm(self) -> None:
        with self.started() as (executor, context):
            executor.submit([])
            executor.submit([Call(1, calls.echo)])
            self.await_outcomes(context, [1])

    def test_arguments_and_keywords_arrive_as_they_are(self) -> None:
        args, kwargs = ((1, "two", [3.0], {"four": b"5"}), {"key": (None, True), "größe": {7}})
        with self.started() as (executor, context):
            executor.submit([Call(1, calls.echo, args, kwargs)])
            outcome = self.await_outcomes(context, [1])[1]
        assert outcome.value == (args, kwargs), f"arguments arrive as they are, but these did: {outcome}"

    def test_an_exception_is_the_outcome(self) -> None:
        error = self.outcome_of(calls.fail, "on purpose").error
        assert type(error) is ValueError, (
            f"the error of a call is what it raised, a ValueError, not {error!r}"
        )
        assert error.args == ("on purpose",), f"the error keeps its args, which became {error.args!r}"

    def test_an_exception_with_an_awkward_constructor_arrives(self) -> None:
        error = self.outcome_of(calls.fail_awkwardly).error
        if not isinstance(error, calls.AwkwardError):
            assert isinstance(error, RemoteError), (
                f"AwkwardError, or a RemoteError in its place, not {error!r}"
            )
            assert "AwkwardError" in error.type_name, f"a RemoteError names the type, not {error.type_name!r}"
        assert "one and 2" in str(error), f"the error keeps its message, which became {error}"

    def test_an_exception_that_cannot_be_pickled_fails_just_its_call(self) -> None:
        error = self.outcome_of(calls.fail_unpicklably).error
        if not isinstance(error, calls.UnpicklableError):
            assert isinstance(error, RemoteError), (
                f"UnpicklableError, or a RemoteError in its place, not {error!r}"
            )
            assert "UnpicklableError" in error.type_name, (
                f"a RemoteError names the type, not {error.type_name!r}"
            )
        assert "this holds a lock" in str(error), f"the error keeps its message, which became {error}"

    def test_an_argument_that_cannot_be_pickled_fails_just_its_call(self) -> None:
        self.needs_pickling()
        with self.started() as (executor, context):
            bad = Call(2, calls.echo, ([1, threading.Lock()],))
            executor.submit([Call(1, calls.echo), bad, Call(3, calls.echo)])
            outcomes = self.await_outcomes(context, [1, 2, 3])
        self.check_unpicklable(outcomes.pop(2).error)
        failed = [outcome for outcome in outcomes.values() if outcome.error is not None]
        assert not failed, (
            f"a call that cannot be pickled fails alone, but its neighbour did too: {failed[0]}"
        )

    def test_a_function_that_cannot_be_pickled_fails_just_its_call(self) -> None:
        self.needs_pickling()
        self.check_unpicklable(self.outcome_of(threading.Lock().acquire).error)

    def test_a_result_that_cannot_be_pickled_fails_just_its_call(self) -> None:
        self.needs_pickling()
        self.check_unpicklable(self.outcome_of(calls.return_lock).error)

    def test_a_result_that_cannot_be_unpickled_fails_just_its_call(self) -> None:
        self.needs_pickling()
        error = self.outcome_of(calls.return_exploding).error
        assert isinstance(error, SerializationError), (
            f"a result that raises when loaded: SerializationError, not {error!r}"
        )

    def check_unpicklable(self, error: BaseException | None) -> None:
        """A SerializationError that names the culprit."""
        assert isinstance(error, SerializationError), (
            f"what cannot be pickled fails with SerializationError, not {error!r}"
        )
        assert "lock" in str(error), f"the message of a SerializationError names the culprit, a lock: {error}"

    def test_sys_exit_in_a_call_is_its_outcome(self) -> None:
        error = self.outcome_of(calls.exit_with, 3).error
        assert isinstance(error, TaskExitError), f"sys.exit() in a call makes a TaskExitError, not {error!r}"

    def test_a_keyboard_interrupt_in_a_call_is_its_outcome(self) -> None:
        error = self.outcome_of(calls.interrupt).error
        assert isinstance(error, TaskExitError), (
            f"KeyboardInterrupt in a call makes a TaskExitError, not {error!r}"
        )

    def test_threads_may_submit_at_once(self) -> None:
        with self.started() as (executor, context):

            def submit(number: int) -> None:
                for i in range(number * 200, number * 200 + 200):
                    executor.submit([Call(i, calls.echo, (i,))])

            in_threads(submit, 10, self.timeout, "submit may be called from any thread")
            outcomes = self.await_outcomes(context, range(2000))
        wrong = [o for i, o in outcomes.items() if o.value != ((i,), {})]
        assert not wrong, f"each call gets its own outcome, but this came: {wrong[0]}"

    def test_work_may_be_submitted_while_an_outcome_is_reported(self) -> None:
        def go_on(outcomes: Sequence[Outcome]) -> None:
            executor.submit([Call(o.id + 1, calls.echo) for o in outcomes if o.id < 1000])

        with self.started(go_on) as (executor, context):
            executor.submit([Call(1, calls.echo)])
            self.await_outcomes(context, range(1, 1001))

    def test_no_lock_is_held_while_an_outcome_is_reported(self) -> None:
        blocked: list[str] = []

        def look(outcomes: Sequence[Outcome]) -> None:
            for question in (executor.load, executor.running, lambda: executor.cancel([-1])):
                thread = aside(question)
                thread.join(self.timeout)
                if thread.is_alive():
                    blocked.append(repr(question))

        with self.started(look) as (executor, context):
            executor.submit([Call(1, calls.echo)])
            self.await_outcomes(context, [1])
        assert not blocked, (
            f"completed is called with no lock held, but meanwhile this waited in another thread: {blocked}"
        )

    def test_a_call_may_submit_another_and_wait_for_it(self) -> None:
        if not self.make_executor().in_process:
            skip("calls run in other processes, where the executor is not")
        with self.started() as (executor, context):

            def done() -> Any:
                return context.wait([2], self.timeout) or context.outcomes[2].value

            inner = [Call(2, calls.echo, ("inner",))]
            aside(executor.submit, [Call(1, calls.submit_and_wait, (lambda: executor.submit(inner), done))])
            outcome = self.await_outcomes(context, [1, 2])[1]
        if not isinstance(outcome.error, DeadlockError):
            assert outcome.value == (("inner",), {}), (
                f"a call that waits for one it submitted gets its value, or DeadlockError, not {outcome}"
            )

    # -- what a call sees -----------------------------------------------------------------------------------

    def test_a_call_sees_its_worker(self) -> None:
        described = self.outcome_of(calls.describe_worker).value
        assert described is not None, "current_worker() inside a call is its worker, and was None"
        in_process, remaining = described
        expected = self.make_executor().in_process
        assert in_process is expected, (
            f"the worker's in_process is its executor's, {expected}, not {in_process}"
        )
        assert remaining is None, (
            f"a call without timeout has no end, but the worker says {remaining} s remain"
        )

    def test_a_call_sees_how_long_it_has(self) -> None:
        described = self.outcome_of(calls.describe_worker, timeout=100.0).value
        remaining = described and described[1]
        assert remaining is not None, f"the worker knows how long its call has, 100 s, but says {described}"
        assert 0 < remaining <= 100, f"of a timeout of 100 s, {remaining} s cannot remain"

    def test_a_timeout_stops_the_call(self) -> None:
        with calls.Gate() as gate, self.started() as (executor, context):
            options = CallOptions(timeout=0.3)
            begun = time.monotonic()
            aside(executor.submit, [Call(1, calls.pass_gate, (gate.address,), {}, options)])
            error = self.await_outcomes(context, [1])[1].error
            took = time.monotonic() - begun
            executor.submit([Call(2, calls.echo)])
            self.await_outcomes(context, [2])
        assert isinstance(error, TaskTimeoutError), (
            f"a call past its timeout gets a TaskTimeoutError, not {error!r}"
        )
        assert error.timeout == 0.3, f"a TaskTimeoutError knows the timeout, 0.3 s, not {error.timeout}"
        assert took >= 0.3, (
            f"a call may run for its timeout of 0.3 s, this one was stopped after {took:.3f} s"
        )

    def test_output_goes_to_the_files_that_were_asked_for(self) -> None:
        self.needs_processes()
        with tempfile.TemporaryDirectory() as directory, self.started() as (executor, context):
            out, err = Path(directory, "out"), Path(directory, "err")
            out.write_text("before\n")
            options = CallOptions(stdout=str(out), stderr=str(err))
            executor.submit([Call(1, calls.print_both, ("to out", "to err"), {}, options)])
            self.await_outcomes(context, [1])
            assert out.read_text() == "before\nto out\n", (
                f"stdout is appended to its file, which holds {out.read_text()!r}"
            )
            assert err.read_text() == "to err\n", (
                f"stderr is appended to its file, which holds {err.read_text()!r}"
            )

    def test_a_call_runs_in_the_directory_that_was_asked_for(self) -> None:
        self.needs_processes()
        with tempfile.TemporaryDirectory() as directory:
            there = Path(directory).resolve() / "made" / "if missing"
            value = self.outcome_of(calls.where_am_i, cwd=str(there)).value
        assert value == str(there), f"a call runs in its cwd, {there}, not in {value}"

    def test_higher_priority_is_sooner(self) -> None:
        with calls.Gate() as gate, self.started() as (executor, context):
            if executor.load().max_slots != 1:
                skip("with several slots the order of outcomes shows nothing")
            first = Call(0, calls.pass_gate, (gate.address,), {}, CallOptions(priority=9))
            rest = [Call(i, calls.echo, (), {}, CallOptions(priority=i // 2)) for i in range(1, 6)]
            aside(executor.submit, [first, *rest])
            gate.wait_begun(self.timeout)
            gate.open()
            self.await_outcomes(context, range(6))
        order = [call_id for call_id in context.outcomes if call_id]
        assert order == [4, 5, 2, 3, 1], (
            f"waiting calls begin by priority, then in order, as 4 5 2 3 1, not {order}"
        )

    # -- cancelling -----------------------------------------------------------------------------------------

    def test_a_waiting_call_that_is_cancelled_never_runs(self) -> None:
        with (
            calls.Gate() as gate,
            tempfile.TemporaryDirectory() as directory,
            self.started() as (executor, context),
        ):
            slots = max(1, executor.load().max_slots)
            traces = {i: Path(directory, str(i)) for i in range(slots, slots + 20)}
            gates = [Call(i, calls.pass_gate, (gate.address,)) for i in range(slots)]
            waiting = [Call(i, calls.touch, (str(trace),)) for i, trace in traces.items()]
            aside(executor.submit, [*gates, *waiting])
            gate.wait_begun(self.timeout)
            accepted = list(executor.cancel(list(traces)))
            gate.open()
            outcomes = self.await_outcomes(context, range(slots + 20))
            ran = [call_id for call_id in accepted if traces[call_id].exists()]
        assert not ran, f"a call whose cancel was accepted before it began does not run, but these did: {ran}"
        self.check_cancelled(outcomes, accepted, traces)

    def check_cancelled(
        self, outcomes: dict[int, Outcome], accepted: Iterable[int], asked: Iterable[int]
    ) -> None:
        """The accepted ones, and only these, were cancelled."""
        accepted = set(accepted)
        assert accepted <= set(asked), (
            f"cancel accepts only what it was asked for, not {accepted - set(asked)}"
        )
        for call_id in asked:
            error = outcomes[call_id].error
            if call_id in accepted:
                assert isinstance(error, CancelledError), (
                    f"an accepted cancel gives CancelledError, nothing else, but call {call_id} got {error!r}"
                )
            else:
                assert not isinstance(error, CancelledError), (
                    f"call {call_id} was cancelled, but cancel did not say so"
                )

    def test_a_begun_call_is_cancelled_truly_or_not_at_all(self) -> None:
        with calls.Gate() as gate, self.started() as (executor, context):
            aside(executor.submit, [Call(1, calls.pass_gate, (gate.address, "passed"))])
            gate.wait_begun(self.timeout)
            accepted = list(executor.cancel([1]))
            if accepted:
                self.await_outcomes(context, [1])
                assert gate.wait_ended(self.timeout), (
                    "CancelledError says that the call does not run, but it still does"
                )
            gate.open()
            outcomes = self.await_outcomes(context, [1])
            self.check_cancelled(outcomes, accepted, [1])
            executor.submit([Call(2, calls.echo)])
            self.await_outcomes(context, [2])

    def test_unknown_and_completed_calls_are_not_cancelled(self) -> None:
        with self.started() as (executor, context):
            executor.submit([Call(1, calls.echo)])
            self.await_outcomes(context, [1])
            accepted = list(executor.cancel([1, 2, 10**12]))
            assert not accepted, (
                f"a cancel of completed or unknown calls is not accepted, but was for {accepted}"
            )
            assert not list(executor.cancel([])), "a cancel of nothing accepts nothing"
            executor.submit([Call(2, calls.echo)])
            outcome = self.await_outcomes(context, [2])[2]
        assert outcome.error is None, (
            f"a cancel before the call was there does nothing, but the call got {outcome.error!r}"
        )

    # -- what it says of itself -----------------------------------------------------------------------------

    def test_running_and_load_are_plausible(self) -> None:
        with calls.Gate() as gate, self.started() as (executor, context):
            aside(executor.submit, [Call(1, calls.pass_gate, (gate.address,))])
            gate.wait_begun(self.timeout)
            strangers = set(executor.running()) - {1}
            assert not strangers, f"running() says what has begun, which {strangers} cannot have"
            self.check_load(executor)
            gate.open()
            self.await_outcomes(context, [1])
            idle = eventually(lambda: not executor.running() and not any(executor.load()[:2]), self.timeout)
            assert idle, (
                f"all calls have ended, but running() is {executor.running()}, load() {executor.load()}"
            )

    def check_load(self, executor: Executor) -> None:
        """No number that cannot be."""
        load = executor.load()
        assert min(load) >= 0, f"load: nothing in it can be negative, but it is {load}"
        assert load.slots <= load.max_slots, f"load: slots cannot be above max_slots, but it is {load}"

    def test_what_it_never_has_is_refused_in_words(self) -> None:
        executor = self.make_executor()
        assert executor.refusal(Resources()) is None, (
            f"the least a task can ask for is refused: {executor.refusal(Resources())}"
        )
        for impossible in (Resources(nodes=10**6), Resources(gpus=10**6), Resources(cpus=10**6)):
            words = executor.refusal(impossible)
            assert isinstance(words, str), (
                f"refusal({impossible}): a reason in words was promised, not {words!r}"
            )
            assert words.strip(), f"refusal({impossible}): the reason is empty"

    def test_a_call_that_asks_for_what_it_never_has_fails_alone(self) -> None:
        with self.started() as (executor, context):
            impossible = CallOptions(resources=Resources(nodes=10**6))
            executor.submit([Call(1, calls.echo, (), {}, impossible), Call(2, calls.echo)])
            outcomes = self.await_outcomes(context, [1, 2])
        error = outcomes[1].error
        assert isinstance(error, ResourcesError), (
            f"a call that can never run here gets a ResourcesError, not {outcomes[1]}"
        )
        assert outcomes[2].error is None, f"its neighbour is no worse off, but got {outcomes[2].error!r}"

    def test_events_hold_what_json_can_hold(self) -> None:
        with self.started() as (executor, context):
            executor.submit([Call(i, calls.echo) for i in range(10)])
            self.await_outcomes(context, range(10))
        for event in context.events:
            json.dumps(dict(event.data))
            assert event.source == executor.label, (
                f"an executor's events bear its label, not {event.source!r}: {event}"
            )

    # -- the end --------------------------------------------------------------------------------------------

    def test_shutdown_runs_what_is_left(self) -> None:
        with self.started() as (executor, context):
            executor.submit([Call(i, calls.echo, (i,)) for i in range(50)])
            left = executor.shutdown(timeout=self.timeout)
            assert list(left) == [], f"after an orderly shutdown nothing is left, but it says {left}"
            missing = set(range(50)) - context.outcomes.keys()
            assert not missing, (
                f"when shutdown returns, each call has had its outcome, but not {sorted(missing)}"
            )
            self.check_counts(context)
        failed = [outcome for outcome in context.outcomes.values() if outcome.error is not None]
        assert not failed, f"shutdown without cancel runs what is left, but a call got {failed[0].error!r}"

    def test_shutdown_with_cancel_gives_each_call_its_outcome(self) -> None:
        with calls.Gate() as gate, self.started() as (executor, context):
            batch = [Call(i, calls.pass_gate, (gate.address, i)) for i in range(20)]
            submitter = aside(executor.submit, batch)
            gate.wait_begun(self.timeout)
            executor.shutdown(cancel=True, timeout=self.timeout)
            missing = set(range(20)) - context.outcomes.keys()
            assert not missing, (
                f"when shutdown returns, each call has had its outcome, but not {sorted(missing)}"
            )
            gate.open()
            submitter.join(self.timeout)
            self.check_counts(context)
        allowed = (type(None), CancelledError, LostError)
        wrong = [o for o in context.outcomes.values() if not isinstance(o.error, allowed)]
        assert not wrong, (
            f"shutdown cancels what is left, or says that it is lost, but a call got {wrong[0].error!r}"
        )

    def test_a_second_shutdown_does_nothing(self) -> None:
        with self.started() as (executor, context):
            executor.submit([Call(1, calls.echo)])
            executor.shutdown(timeout=self.timeout)
            begun = time.monotonic()
            assert list(executor.shutdown(timeout=self.timeout)) == [], (
                "a second shutdown does nothing, and leaves nothing"
            )
            assert list(executor.shutdown(cancel=True, timeout=self.timeout)) == [], (
                "a third shutdown does nothing"
            )
            took = time.monotonic() - begun
            self.check_counts(context)
        assert took < max(1.0, self.timeout / 2), f"a second shutdown does nothing, but took {took:.1f} s"

    def test_shutdown_of_one_that_never_started_does_nothing(self) -> None:
        left = self.make_executor().shutdown(timeout=self.timeout)
        assert list(left) == [], f"an executor that never started leaves nothing, but it says {left}"

    def test_it_can_be_started_again(self) -> None:
        executor = self.make_executor()
        for number in range(2):
            with tempfile.TemporaryDirectory(prefix="weft-suite-") as directory:
                context = RecordingContext(Path(directory))
                executor.start(context)
                self.prepare(executor)
                executor.submit([Call(1, calls.echo, (number,))])
                outcome = self.await_outcomes(context, [1])[1]
                executor.shutdown(timeout=self.timeout)
                self.conclude()
            assert outcome.value == ((number,), {}), (
                f"an executor that was shut down may be started again, but: {outcome}"
            )

    def test_a_running_one_refuses_to_start(self) -> None:
        with self.started() as (executor, context):
            other = RecordingContext(context.directory)
            raises(ConfigError, lambda: executor.start(other), "an executor that runs refuses a second start")
            executor.submit([Call(1, calls.echo)])
            self.await_outcomes(context, [1])
        assert not other.outcomes, "the second start was refused, so its context hears nothing"

    def test_submit_after_shutdown_raises_and_reports_nothing(self) -> None:
        with self.started() as (executor, context):
            executor.shutdown(timeout=self.timeout)
            raises(Exception, lambda: executor.submit([Call(1, calls.echo)]), "submit after shutdown raises")
        assert not context.outcomes, (
            f"a submit that raised gives no outcome, but this came: {context.outcomes}"
        )

    def test_nothing_is_left_after_shutdown(self) -> None:
        threads, processes = set(threading.enumerate()), child_processes()
        with self.started() as (executor, context):
            executor.submit([Call(i, calls.echo) for i in range(20)])
            self.await_outcomes(context, range(20))
            left = executor.shutdown(timeout=self.timeout)
            if left:
                skip(f"shutdown named what it left: {left}")
            self.conclude()
            # A moment is granted to threads that have nothing left to do but return.
            gone = eventually(lambda: not set(threading.enumerate()) - threads, min(self.timeout, 2.0))
            assert gone, f"no thread is left after shutdown, but {set(threading.enumerate()) - threads}"
            gone = eventually(lambda: not child_processes() - processes, min(self.timeout, 2.0))
            assert gone, f"no process is left after shutdown, but {child_processes() - processes}"

    # -- workers that die -----------------------------------------------------------------------------------

    def test_a_worker_that_exits_costs_its_own_call_only(self) -> None:
        certificate = self.certificate_of(calls.die, 3)
        assert certificate.exit_code == 3, f"the certificate knows the exit code, 3: {certificate!r}"

    def test_a_worker_that_is_killed_costs_its_own_call_only(self) -> None:
        certificate = self.certificate_of(calls.kill_yourself)
        assert certificate.signal == 9, f"the certificate knows the signal, 9: {certificate!r}"

    def certificate_of(self, function: Callable[..., object], *args: object) -> Any:
        """The death certificate of a call that ends its worker, among calls that do not."""
        self.needs_processes()
        with self.started() as (executor, context):
            others = [Call(i, calls.echo, (i,)) for i in range(1, 40)]
            executor.submit([*others[:20], Call(0, function, args), *others[20:]])
            outcomes = self.await_outcomes(context, range(40))
        error = outcomes.pop(0).error
        assert isinstance(error, LostError), f"a call whose worker died is lost: a LostError, not {error!r}"
        assert error.certificate is not None, f"a LostError carries a death certificate: {error}"
        failed = [outcome for outcome in outcomes.values() if outcome.error is not None]
        assert not failed, f"a worker that dies costs its own call only, but another got {failed[0].error!r}"
        return error.certificate
