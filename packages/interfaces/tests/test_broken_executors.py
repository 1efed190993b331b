"""Executors that break a promise fail in the suite's test of that promise."""

from __future__ import annotations

import subprocess
import threading
from concurrent.futures import CancelledError

import pytest
from weft_interfaces import (
    BlockCommand,
    BlockLostError,
    Blocks,
    CallOptions,
    Event,
    Load,
    Outcome,
    PickleSerializer,
    SerializationError,
    TaskExitError,
)
from weft_interfaces.memory import (
    InMemoryBlockExecutor,
    InMemoryExecutor,
    InMemoryProvider,
    ManualExecutor,
    run_call,
)
from weft_interfaces.testing import BlockExecutorSuite, ExecutorSuite, PoolSuite

pytestmark = pytest.mark.once  # it is the suites that are tested


class TamperedContext:
    def __init__(self, context, tamper):
        self._context, self._tamper = context, tamper
        self.run_id, self.directory, self.emit = context.run_id, context.directory, context.emit

    def completed(self, outcomes):
        outcomes = self._tamper(list(outcomes))
        if outcomes:
            self._context.completed(outcomes)


class Tampered(InMemoryExecutor):
    def start(self, context):
        super().start(TamperedContext(context, self.tamper))


class LosesOutcomes(Tampered):
    def tamper(self, outcomes):
        return [outcome for outcome in outcomes if outcome.id % 50 != 7]


class ReportsTwice(Tampered):
    def tamper(self, outcomes):
        return outcomes * 2


class MixesUpValues(Tampered):
    last = None

    def tamper(self, outcomes):
        mixed = [outcome._replace(value=self.last) for outcome in outcomes]
        self.last = outcomes[-1].value
        return mixed


class ReportsStrangers(Tampered):
    def tamper(self, outcomes):
        return [*outcomes, *(Outcome(outcome.id + 10**6) for outcome in outcomes)]


class HangsOnSystemExit(Tampered):
    def tamper(self, outcomes):
        return [outcome for outcome in outcomes if not isinstance(outcome.error, TaskExitError)]


class PassesExitsOn(Tampered):
    def tamper(self, outcomes):
        return [
            outcome._replace(error=outcome.error and (outcome.error.__cause__ or outcome.error))
            for outcome in outcomes
        ]


class FlattensErrors(Tampered):
    def tamper(self, outcomes):
        return [outcome._replace(error=outcome.error and RuntimeError("failed")) for outcome in outcomes]


class TakesErrorsForValues(Tampered):
    def tamper(self, outcomes):
        return [Outcome(outcome.id, outcome.error or outcome.value) for outcome in outcomes]


class RaisesFromSubmit(InMemoryExecutor):
    def submit(self, calls):
        for call in calls:
            call.function(*call.args, **call.kwargs)
        super().submit(calls)


class Recurses(InMemoryExecutor):
    def submit(self, calls):
        self._context.completed([run_call(call) for call in calls])


class HoldsItsLock(InMemoryExecutor):
    def _report(self, outcomes):
        with self._changed:
            super()._report(outcomes)


class LosesCallsOfRivals(InMemoryExecutor):
    def __init__(self):
        super().__init__()
        self._one_at_a_time = threading.Lock()

    def submit(self, calls):
        if self._one_at_a_time.acquire(blocking=False):
            threading.Event().wait(0.0005)
            super().submit(calls)
            self._one_at_a_time.release()


class Pickling(InMemoryExecutor):
    def __init__(self):
        super().__init__(serializer=PickleSerializer())


class RaisesForUnpicklable(Pickling):
    def submit(self, calls):
        for call in calls:
            self._serializer.dumps(call.args, "arguments")
        super().submit(calls)


class FailsTheWholeBatch(Pickling):
    def submit(self, calls):
        try:
            self._serializer.dumps([call.args for call in calls], "arguments with a lock")
        except SerializationError as error:
            self._context.completed([Outcome(call.id, error=error) for call in calls])
        else:
            super().submit(calls)


class NamesNoCulprit(Tampered):
    def __init__(self):
        super().__init__(serializer=PickleSerializer())

    def tamper(self, outcomes):
        return [
            outcome._replace(error=outcome.error and SerializationError("cannot pickle"))
            for outcome in outcomes
        ]


class CancelLies(InMemoryExecutor):
    def cancel(self, ids):
        return list(ids)


class CancelForgets(Tampered):
    def tamper(self, outcomes):
        return [outcome for outcome in outcomes if not isinstance(outcome.error, CancelledError)]


class CancelsUnasked(InMemoryExecutor):
    def cancel(self, ids):
        super().cancel(ids)
        return []


class CancelsTooEarly(InMemoryExecutor):
    """Says that a begun call does not run any more while it still does."""

    def cancel(self, ids):
        for call_id in ids:
            entry = self._entries.get(call_id)
            if entry is not None and not entry.settled:
                entry.settled = True
                self._context.completed([Outcome(call_id, error=CancelledError())])
        return ids


class StartsTwice(InMemoryExecutor):
    def start(self, context):
        self._context = context


class StartsOnce(InMemoryExecutor):
    started = False

    def start(self, context):
        if self.started:
            raise RuntimeError("threads can only be started once")
        self.started = True
        super().start(context)


class ForgetsAtShutdown(ManualExecutor):
    def shutdown(self, *, cancel=False, timeout=10.0):
        self._held.clear()
        self._context = None
        return []


class NamesLeftovers(InMemoryExecutor):
    def shutdown(self, *, cancel=False, timeout=10.0):
        super().shutdown(cancel=cancel, timeout=timeout)
        return ["something"]


class IgnoresAfterShutdown(InMemoryExecutor):
    def submit(self, calls):
        if self._context is not None:
            super().submit(calls)


class IgnoresTimeouts(InMemoryExecutor):
    def submit(self, calls):
        super().submit([call._replace(options=CallOptions()) for call in calls])


class IgnoresPriority(InMemoryExecutor):
    def submit(self, calls):
        super().submit([call._replace(options=CallOptions()) for call in calls])


class NeverRefuses(InMemoryExecutor):
    def refusal(self, resources):
        return None


class RefusesWithoutWords(InMemoryExecutor):
    def refusal(self, resources):
        return "" if super().refusal(resources) else None


class RefusesEverything(InMemoryExecutor):
    def refusal(self, resources):
        return "no"


class NegativeLoad(InMemoryExecutor):
    def load(self):
        return Load(-1, 1, 1, 1)


class NeverIdle(InMemoryExecutor):
    def load(self):
        return Load(0, 1, 1, 1)


class InventsRunning(InMemoryExecutor):
    def running(self):
        return [12345]


class HidesWorker(InMemoryExecutor):
    def _run(self, entry):
        call = entry.call
        return Outcome(call.id, call.function(*call.args, **call.kwargs))


class NoLabel(InMemoryExecutor):
    label = ""


class EmitsObjects(InMemoryExecutor):
    def submit(self, calls):
        self._context.emit([Event(0.0, "x", self.label, {"lock": threading.Lock()})])
        super().submit(calls)


class EmitsAsAnother(InMemoryExecutor):
    def submit(self, calls):
        self._context.emit([Event(0.0, "x", "another")])
        super().submit(calls)


EXECUTORS = [
    (LosesOutcomes, "test_each_call_of_a_batch_gets_exactly_one_outcome"),
    (ReportsTwice, "test_each_call_of_a_batch_gets_exactly_one_outcome"),
    (MixesUpValues, "test_each_call_of_a_batch_gets_exactly_one_outcome"),
    (ReportsStrangers, "test_each_call_of_a_batch_gets_exactly_one_outcome"),
    (HangsOnSystemExit, "test_sys_exit_in_a_call_is_its_outcome"),
    (HangsOnSystemExit, "test_a_keyboard_interrupt_in_a_call_is_its_outcome"),
    (PassesExitsOn, "test_sys_exit_in_a_call_is_its_outcome"),
    (PassesExitsOn, "test_a_keyboard_interrupt_in_a_call_is_its_outcome"),
    (FlattensErrors, "test_an_exception_is_the_outcome"),
    (FlattensErrors, "test_an_exception_with_an_awkward_constructor_arrives"),
    (FlattensErrors, "test_an_exception_that_cannot_be_pickled_fails_just_its_call"),
    (TakesErrorsForValues, "test_an_exception_is_the_outcome"),
    (RaisesFromSubmit, "test_an_exception_is_the_outcome"),
    (Recurses, "test_work_may_be_submitted_while_an_outcome_is_reported"),
    (HoldsItsLock, "test_no_lock_is_held_while_an_outcome_is_reported"),
    (LosesCallsOfRivals, "test_threads_may_submit_at_once"),
    (RaisesForUnpicklable, "test_an_argument_that_cannot_be_pickled_fails_just_its_call"),
    (FailsTheWholeBatch, "test_an_argument_that_cannot_be_pickled_fails_just_its_call"),
    (NamesNoCulprit, "test_an_argument_that_cannot_be_pickled_fails_just_its_call"),
    (NamesNoCulprit, "test_a_function_that_cannot_be_pickled_fails_just_its_call"),
    (NamesNoCulprit, "test_a_result_that_cannot_be_pickled_fails_just_its_call"),
    (CancelLies, "test_a_waiting_call_that_is_cancelled_never_runs"),
    (CancelLies, "test_a_begun_call_is_cancelled_truly_or_not_at_all"),
    (CancelLies, "test_unknown_and_completed_calls_are_not_cancelled"),
    (CancelForgets, "test_a_waiting_call_that_is_cancelled_never_runs"),
    (CancelForgets, "test_shutdown_with_cancel_gives_each_call_its_outcome"),
    (CancelsUnasked, "test_a_waiting_call_that_is_cancelled_never_runs"),
    (CancelsTooEarly, "test_a_begun_call_is_cancelled_truly_or_not_at_all"),
    (StartsTwice, "test_a_running_one_refuses_to_start"),
    (StartsOnce, "test_it_can_be_started_again"),
    (ForgetsAtShutdown, "test_shutdown_runs_what_is_left"),
    (NamesLeftovers, "test_shutdown_runs_what_is_left"),
    (NamesLeftovers, "test_a_second_shutdown_does_nothing"),
    (NamesLeftovers, "test_shutdown_of_one_that_never_started_does_nothing"),
    (IgnoresAfterShutdown, "test_submit_after_shutdown_raises_and_reports_nothing"),
    (IgnoresTimeouts, "test_a_timeout_stops_the_call"),
    (IgnoresTimeouts, "test_a_call_sees_how_long_it_has"),
    (IgnoresPriority, "test_higher_priority_is_sooner"),
    (NeverRefuses, "test_what_it_never_has_is_refused_in_words"),
    (NeverRefuses, "test_a_call_that_asks_for_what_it_never_has_fails_alone"),
    (RefusesWithoutWords, "test_what_it_never_has_is_refused_in_words"),
    (RefusesEverything, "test_what_it_never_has_is_refused_in_words"),
    (NegativeLoad, "test_running_and_load_are_plausible"),
    (NeverIdle, "test_running_and_load_are_plausible"),
    (InventsRunning, "test_running_and_load_are_plausible"),
    (HidesWorker, "test_a_call_sees_its_worker"),
    (NoLabel, "test_it_is_an_executor_with_a_label"),
    (EmitsObjects, "test_events_hold_what_json_can_hold"),
    (EmitsAsAnother, "test_events_hold_what_json_can_hold"),
]
# These make other errors than assertions, from inside the executor, which is as good.
OTHER_ERRORS = (RecursionError, ValueError, SerializationError, RuntimeError, TypeError)


@pytest.mark.parametrize(("executor", "test"), EXECUTORS, ids=lambda part: getattr(part, "__name__", part))
def test_a_broken_executor_fails(suite_fails, executor, test):
    suite_fails(ExecutorSuite, test, *OTHER_ERRORS, make_executor=executor)


def test_an_executor_that_leaves_a_thread_fails(suite_fails):
    end = threading.Event()

    class LeavesThread(InMemoryExecutor):
        def start(self, context):
            super().start(context)
            threading.Thread(target=end.wait, args=(30,)).start()

    try:
        suite_fails(ExecutorSuite, "test_nothing_is_left_after_shutdown", make_executor=LeavesThread)
    finally:
        end.set()


def test_an_executor_that_leaves_a_process_fails(suite_fails):
    left = []

    class LeavesProcess(InMemoryExecutor):
        def start(self, context):
            super().start(context)
            left.append(subprocess.Popen(["sleep", "60"]))

    try:
        suite_fails(ExecutorSuite, "test_nothing_is_left_after_shutdown", make_executor=LeavesProcess)
    finally:
        for process in left:
            process.kill()
            process.wait()


class KillsNeighbours(InMemoryExecutor):
    """Says that its workers are processes, and loses all calls of a batch with one that dies."""

    def submit(self, calls):
        safe = [call for call in calls if call.function.__name__ not in ("die", "kill_yourself")]
        if len(safe) < len(calls):
            self._context.completed([Outcome(call.id, error=BlockLostError("lost")) for call in calls])
        else:
            super().submit(calls)


@pytest.mark.parametrize(
    "test",
    [
        "test_a_worker_that_exits_costs_its_own_call_only",
        "test_a_worker_that_is_killed_costs_its_own_call_only",
    ],
)
def test_an_executor_without_certificates_fails(suite_fails, test):
    suite_fails(ExecutorSuite, test, make_executor=KillsNeighbours, processes=lambda: True)


@pytest.mark.parametrize(
    "test",
    [
        "test_output_goes_to_the_files_that_were_asked_for",
        "test_a_call_runs_in_the_directory_that_was_asked_for",
    ],
)
def test_an_executor_that_ignores_output_and_directory_fails(suite_fails, test):
    suite_fails(
        ExecutorSuite, test, FileNotFoundError, make_executor=InMemoryExecutor, processes=lambda: True
    )


class ThreadedCancelLies(CancelLies):
    def submit(self, calls):
        threading.Thread(target=super().submit, args=(calls,)).start()


POOLS = [
    (MixesUpValues, "test_submit_gives_a_future_of_the_result"),
    (MixesUpValues, "test_map_keeps_the_order"),
    (TakesErrorsForValues, "test_an_exception_is_in_the_future"),
    (ThreadedCancelLies, "test_a_future_that_is_cancelled_says_so"),
]


@pytest.mark.parametrize(("executor", "test"), POOLS, ids=lambda part: getattr(part, "__name__", part))
def test_a_pool_on_a_broken_executor_fails(suite_fails, executor, test):
    suite_fails(PoolSuite, test, make_executor=executor)


# -- blocks -------------------------------------------------------------------------------------------------


class Block(InMemoryBlockExecutor):
    def __init__(self):
        super().__init__(Blocks(provider=InMemoryProvider(), max=2))


class NeedsNoBlock(Block):
    def submit(self, calls):
        self.register("block-1")
        super().submit(calls)


class ForgetsBegunCalls(Block):
    def block_ended(self, block_id, status):
        self._up.pop(block_id, None)


class LosesWithoutCertificate(Block):
    def _end_all(self, ids, error):
        super()._end_all(ids, lambda: BlockLostError("the block is gone"))


class LosesWithoutReason(Block):
    def block_ended(self, block_id, status):
        super().block_ended(block_id, type(status)(state=status.state))


class LosesWaitingCalls(Block):
    def block_ended(self, block_id, status):
        super().block_ended(block_id, status)
        self._end_all(self.held, lambda: ValueError("gone too"))


class IgnoresDrain(Block):
    def drain(self, block_ids):
        pass


class DrainKnowsOnlyItsBlocks(Block):
    def drain(self, block_ids):
        for block_id in block_ids:
            self._up[block_id].draining = True


class WaitsForEver(Block):
    def no_more_blocks(self, reason):
        pass


class HidesTheReason(Block):
    def no_more_blocks(self, reason):
        super().no_more_blocks("sorry")


class GivesUpForGood(Block):
    def register(self, block_id):
        hopeless = self._hopeless
        super().register(block_id)
        self._hopeless = hopeless

    def submit(self, calls):
        if self._hopeless:
            self._context.completed([Outcome(call.id, error=ValueError(self._hopeless)) for call in calls])
        else:
            super().submit(calls)


class ShowsItsKeys(Block):
    def command(self, block_id):
        return BlockCommand(("manager", "--key", "secret"), b"secret")


class ChangesItsCommand(Block):
    count = 0

    def command(self, block_id):
        self.count += 1
        return BlockCommand(("manager", str(self.count)))


class CountsNothing(Block):
    def demand(self):
        return super().demand()._replace(queued=0)


class HasNoSlots(Block):
    def demand(self):
        return super().demand()._replace(slots_per_block=0)


class KnowsNoBlocks(Block):
    def demand(self):
        return super().demand()._replace(blocks={})


BLOCK_EXECUTORS = [
    (NeedsNoBlock, "test_calls_wait_for_a_block"),
    (CountsNothing, "test_calls_wait_for_a_block"),
    (KnowsNoBlocks, "test_calls_wait_for_a_block"),
    (ForgetsBegunCalls, "test_a_block_that_ends_loses_its_begun_calls_with_a_certificate"),
    (LosesWithoutCertificate, "test_a_block_that_ends_loses_its_begun_calls_with_a_certificate"),
    (LosesWithoutReason, "test_a_block_that_ends_loses_its_begun_calls_with_a_certificate"),
    (LosesWaitingCalls, "test_waiting_calls_outlive_a_block"),
    (IgnoresDrain, "test_a_draining_block_gets_no_new_calls"),
    (DrainKnowsOnlyItsBlocks, "test_a_draining_block_gets_no_new_calls"),
    (WaitsForEver, "test_calls_never_wait_for_blocks_that_never_come"),
    (HidesTheReason, "test_calls_never_wait_for_blocks_that_never_come"),
    (GivesUpForGood, "test_calls_never_wait_for_blocks_that_never_come"),
    (ShowsItsKeys, "test_its_command_may_be_asked_for_twice"),
    (ChangesItsCommand, "test_its_command_may_be_asked_for_twice"),
    (HasNoSlots, "test_slots_per_block_are_at_least_one"),
]


@pytest.mark.parametrize(
    ("executor", "test"), BLOCK_EXECUTORS, ids=lambda part: getattr(part, "__name__", part)
)
def test_a_broken_block_executor_fails(suite_fails, executor, test):
    suite_fails(
        BlockExecutorSuite,
        test,
        KeyError,
        make_executor=executor,
        start_block=lambda executor, block_id: executor.register(block_id),
        stop_block=lambda executor, block_id: None,
    )


def test_an_executor_without_blocks_is_no_block_executor(suite_fails):
    suite_fails(BlockExecutorSuite, "test_calls_wait_for_a_block", make_executor=InMemoryExecutor)
