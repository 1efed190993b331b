from __future__ import annotations

import contextvars
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from typing import Any

import pytest
from weft_executor_local import ThreadExecutor
from weft_executor_local.crew import Crew
from weft_interfaces import (
    Call,
    ConfigError,
    DeadlockError,
    InputError,
    Outcome,
    Resources,
    ResourcesError,
    RunClosedError,
    TaskExitError,
    TaskTimeoutError,
    WorkerLostError,
    current_worker,
)

PATIENCE = 30.0


@pytest.fixture
def started(recorder: Any) -> Iterator[Callable[..., ThreadExecutor]]:
    executors = []

    def start(workers: int = 2, **options: Any) -> ThreadExecutor:
        executor = ThreadExecutor(workers=workers, **options)
        executor.start(recorder)
        executors.append(executor)
        return executor

    yield start
    for executor in executors:
        assert executor.shutdown(cancel=True, timeout=PATIENCE) == []


class Gate:
    """A call that says when it has begun, and goes on when it is told to."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.opened = threading.Event()

    def __call__(self, value: Any = None) -> Any:
        self.begun.set()
        assert self.opened.wait(3 * PATIENCE)
        return value


def test_runs_calls_and_reports_values_and_errors(started: Any, recorder: Any) -> None:
    executor = started()
    calls = [recorder.call(divmod, 7, n) for n in range(4)]
    outcomes = recorder.run(executor, *calls)
    assert isinstance(outcomes[0].error, ZeroDivisionError)
    assert [outcome.value for outcome in outcomes[1:]] == [(7, 0), (3, 1), (2, 1)]


def test_the_traceback_begins_in_the_users_code(started: Any, recorder: Any) -> None:
    def fails() -> None:
        raise KeyError("x")

    error = recorder.error(started(), fails)
    assert error.__traceback__.tb_frame.f_code is fails.__code__


def test_keeps_nothing_of_a_call_that_ended(started: Any, recorder: Any) -> None:
    class Large: ...

    value, results = Large(), list[Large]()
    alive = weakref.ref(value)
    executor = started(workers=1)
    call = recorder.call(results.append, value)
    recorder.run(executor, call)
    results.clear()
    del value, call
    recorder.run(executor, recorder.call(int), recorder.call(int))
    assert alive() is None


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()])
def test_exits_fail_the_task_and_leave_the_worker(started: Any, recorder: Any, error: BaseException) -> None:
    def leave() -> None:
        raise error

    executor = started(workers=1)
    outcome = recorder.error(executor, leave)
    assert isinstance(outcome, TaskExitError)
    assert outcome.__cause__ is error
    assert "leave" in str(outcome)
    assert recorder.value(executor, abs, -1) == 1


def test_workers_have_the_context_of_start(recorder: Any) -> None:
    variable = contextvars.ContextVar("variable", default="none")
    executor = ThreadExecutor(workers=1)

    def start() -> None:
        variable.set("start's")
        executor.start(recorder)

    contextvars.copy_context().run(start)
    assert recorder.value(executor, variable.get) == "start's"
    executor.shutdown()


def test_threads_are_daemons_and_not_more_than_asked_for(started: Any, recorder: Any) -> None:
    executor = started(workers=3, label="few")
    recorder.run(executor, *[recorder.call(time.monotonic) for _ in range(100)])
    threads = [thread for thread in threading.enumerate() if thread.name.startswith("few-")]
    assert 1 <= len(threads) <= 3
    assert all(thread.daemon for thread in threads)


def test_submission_out_of_completed(recorder: Any) -> None:
    """A chain: each outcome submits the next call."""
    done = threading.Event()
    executor = ThreadExecutor(workers=1)

    class Chain:
        run_id, directory = "chain", recorder.directory

        def completed(self, outcomes: Any) -> None:
            for outcome in outcomes:
                if outcome.id == 500:
                    done.set()
                else:
                    executor.submit([Call(outcome.id + 1, int)])

        def emit(self, events: Any) -> None: ...

    executor.start(Chain())
    executor.submit([Call(0, int)])
    assert done.wait(PATIENCE)
    assert executor.shutdown() == []


# -- priorities and slots ---------------------------------------------------------------------------------


def test_higher_priority_first_and_equal_in_order(started: Any, recorder: Any) -> None:
    executor, gate, order = started(workers=1), Gate(), list[tuple[int, int]]()
    first = recorder.call(gate)
    executor.submit([first])
    assert gate.begun.wait(PATIENCE)
    priorities = [0, -1, 5, 0, 1, 5, -1, 0]
    calls = [recorder.call(order.append, (p, n), priority=p) for n, p in enumerate(priorities)]
    executor.submit(calls)
    gate.opened.set()
    recorder.wait(first, *calls)
    assert order == sorted(((p, n) for n, p in enumerate(priorities)), key=lambda pn: (-pn[0], pn[1]))


def test_two_slots_are_taken(started: Any, recorder: Any) -> None:
    """Calls of 1 and 2 slots on 3: never more than 3 slots are in use, and all run."""
    executor, lock, used, most = started(workers=3), threading.Lock(), [0], [0]

    def use(slots: int) -> None:
        with lock:
            used[0] += slots
            most[0] = max(most[0], used[0])
        time.sleep(0.001)
        with lock:
            used[0] -= slots

    calls = [recorder.call(use, 1 + n % 3, cpus=1 + n % 3, priority=n % 2) for n in range(60)]
    for outcome in recorder.run(executor, *calls):
        assert outcome.error is None
    assert most[0] <= 3


def test_big_calls_get_their_turn_among_many_small_ones(started: Any, recorder: Any) -> None:
    executor, running = started(workers=2), threading.Event()
    running.set()
    stop, small = threading.Event(), []

    def feed() -> None:
        while not stop.is_set():
            call = recorder.call(time.sleep, 0.0005)
            small.append(call)
            executor.submit([call])
            if len(small) % 10 == 0:
                recorder.wait(small[-10])

    feeder = threading.Thread(target=feed)
    feeder.start()
    big = [recorder.call(int, cpus=2) for _ in range(20)]
    executor.submit(big)
    recorder.wait(*big)
    stop.set()
    feeder.join()
    recorder.wait(*small)


def test_what_can_never_run_is_refused_in_words(started: Any, recorder: Any) -> None:
    executor = started(workers=2)
    error = recorder.error(executor, int, cpus=3)
    assert isinstance(error, ResourcesError)
    assert "2 workers" in str(error)
    assert executor.refusal(Resources(cpus=3))
    assert executor.refusal(Resources(nodes=2))
    assert executor.refusal(Resources(gpus=1))
    assert executor.refusal(Resources(cpus=2, memory="4GB")) is None
    assert isinstance(recorder.error(executor, int, cwd="/tmp"), InputError)


# -- cancel and timeouts ----------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"priority": 1}, {"cpus": 2}, {"timeout": 60}])
def test_a_queued_call_is_cancelled_at_once(started: Any, recorder: Any, options: dict[str, Any]) -> None:
    executor, gates = started(workers=2), [Gate(), Gate()]
    blockers = [recorder.call(gate) for gate in gates]
    executor.submit(blockers)
    assert all(gate.begun.wait(PATIENCE) for gate in gates)
    ran: list[int] = []
    queued = recorder.call(ran.append, 1, **options)
    executor.submit([queued])
    assert list(executor.cancel([queued.id, 10**9])) == [queued.id]
    assert isinstance(recorder.outcomes[queued.id].error, CancelledError)
    for gate in gates:
        gate.opened.set()
    recorder.wait(*blockers)
    assert recorder.value(executor, abs, -1, cpus=2) == 1
    assert ran == []


def test_a_running_call_refuses_unless_it_can_be_interrupted(started: Any, recorder: Any) -> None:
    executor, gate = started(workers=2), Gate()
    plain = recorder.call(gate, "value")
    executor.submit([plain])
    assert gate.begun.wait(PATIENCE)
    assert list(executor.running()) == [plain.id]
    assert list(executor.cancel([plain.id])) == []
    interruptible = Gate()

    def stoppable() -> str:
        worker = current_worker()
        assert worker is not None
        assert worker.in_process
        with worker.interruptible(interruptible.opened.set):
            interruptible()
        return "ended normally"

    call = recorder.call(stoppable)
    executor.submit([call])
    assert interruptible.begun.wait(PATIENCE)
    assert list(executor.cancel([call.id])) == [call.id]
    assert isinstance(recorder.wait(call)[0].error, CancelledError)
    gate.opened.set()
    assert recorder.wait(plain)[0].value == "value"
    assert recorder.value(executor, abs, -2) == 2


def test_timeout_interrupts(started: Any, recorder: Any) -> None:
    stopped = threading.Event()

    def stoppable() -> None:
        worker = current_worker()
        assert worker is not None
        assert 0 < (worker.remaining() or 0) <= 0.05
        with worker.interruptible(stopped.set):
            assert stopped.wait(PATIENCE)
        raise OSError("killed")

    executor = started(workers=1)
    error = recorder.error(executor, stoppable, timeout=0.05)
    assert isinstance(error, TaskTimeoutError)
    assert error.timeout == 0.05
    assert executor.load().running == 0


def wait_for_threads(eventually: Any, label: str, count: int) -> None:
    def too_many() -> bool:
        return sum(thread.name.startswith(f"{label}-") for thread in threading.enumerate()) > count

    eventually(lambda: not too_many(), f"more than {count} threads of {label!r} stay")


def test_timeout_gives_the_thread_up_and_replaces_it(started: Any, recorder: Any, eventually: Any) -> None:
    executor, gate = started(workers=1, label="late"), Gate()
    error = recorder.error(executor, gate, timeout=0.02)
    assert isinstance(error, TaskTimeoutError)
    assert "ProcessExecutor" in str(error)
    assert recorder.value(executor, abs, -1) == 1
    assert recorder.value(executor, abs, -2, timeout=60) == 2
    gate.opened.set()
    wait_for_threads(eventually, "late", 2)  # its own and that of the timers


def test_what_comes_too_late_is_interrupted_at_once(started: Any, recorder: Any, eventually: Any) -> None:
    """A call that reaches its timeout before it becomes interruptible."""
    gate, interrupted = Gate(), threading.Event()

    def slow_to_start() -> None:
        gate()
        worker = current_worker()
        assert worker is not None
        with worker.interruptible(interrupted.set):
            pass

    executor = started(workers=1, label="slow")
    assert isinstance(recorder.error(executor, slow_to_start, timeout=0.02), TaskTimeoutError)
    gate.opened.set()
    assert interrupted.wait(PATIENCE)
    wait_for_threads(eventually, "slow", 2)


def test_timeout_of_a_big_call_frees_all_its_slots(started: Any, recorder: Any, eventually: Any) -> None:
    executor, gate = started(workers=2, label="big"), Gate()
    assert isinstance(recorder.error(executor, gate, timeout=0.02, cpus=2), TaskTimeoutError)
    assert recorder.value(executor, abs, -1, cpus=2) == 1
    gate.opened.set()
    wait_for_threads(eventually, "big", 3)


def test_a_thread_that_was_given_up_is_a_leftover_by_name(recorder: Any) -> None:
    executor, gate = ThreadExecutor(workers=1), Gate()
    executor.start(recorder)
    recorder.error(executor, gate, timeout=0.01, name="endless")
    [leftover] = executor.shutdown()
    assert "'endless'" in leftover
    gate.opened.set()


# -- waiting for other tasks ------------------------------------------------------------------------------


def submit_and_wait(
    executor: ThreadExecutor, recorder: Any, function: Any, *args: Any, **options: Any
) -> Any:
    """What the kernel does when a task asks for another's result."""
    worker = current_worker()
    assert worker is not None
    call = recorder.call(function, *args, **options)
    executor.submit([call])
    with worker.waiting():
        [outcome] = recorder.wait(call)
    if outcome.error is not None:
        raise outcome.error
    return outcome.value


@pytest.mark.parametrize("workers", [1, 2])
def test_waits_nest_200_deep(started: Any, recorder: Any, workers: int) -> None:
    executor = started(workers=workers, label="deep")

    def deep(n: int) -> int:
        return n and 1 + submit_and_wait(executor, recorder, deep, n - 1)

    assert recorder.value(executor, deep, 200) == 200
    recorder.value(executor, int)
    assert executor.shutdown(timeout=PATIENCE) == []
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("deep-")]


def test_big_calls_lend_all_their_slots(started: Any, recorder: Any) -> None:
    executor = started(workers=2)

    def deep(n: int) -> int:
        return n and 1 + submit_and_wait(executor, recorder, deep, n - 1, cpus=1 + n % 2)

    assert recorder.value(executor, deep, 20, cpus=2) == 20


def test_substitutes_go_away(started: Any, recorder: Any, eventually: Any) -> None:
    executor = started(workers=2, label="sub")

    def parent() -> Any:
        return submit_and_wait(executor, recorder, abs, -1)

    recorder.run(executor, *[recorder.call(parent) for _ in range(50)])
    wait_for_threads(eventually, "sub", 2)


def test_beyond_the_bound_it_is_a_deadlock_in_words(started: Any, recorder: Any) -> None:
    executor = started(workers=1, max_waiting=5)

    def deep(n: int) -> int:
        return n and 1 + submit_and_wait(executor, recorder, deep, n - 1)

    assert recorder.value(executor, deep, 5) == 5
    error = recorder.error(executor, deep, 7)
    assert isinstance(error, DeadlockError)
    assert "weft.join" in str(error)
    assert recorder.value(executor, deep, 5) == 5


# -- streams ----------------------------------------------------------------------------------------------


def test_each_thread_prints_to_its_own_file(started: Any, recorder: Any, tmp_path: Any, capsys: Any) -> None:
    executor, barrier = started(workers=2), threading.Barrier(2)

    def talk(text: str) -> None:
        barrier.wait(PATIENCE)
        print(text)
        print("error " + text, file=sys.stderr)
        barrier.wait(PATIENCE)

    a = recorder.call(talk, "a", stdout=str(tmp_path / "deep" / "a.out"), stderr=str(tmp_path / "a.err"))
    b = recorder.call(talk, "b", stdout=str(tmp_path / "b.log"), stderr=str(tmp_path / "b.log"))
    before = sys.stdout, sys.stderr
    assert [outcome.error for outcome in recorder.run(executor, a, b)] == [None, None]
    assert (tmp_path / "deep" / "a.out").read_text() == "a\n"
    assert (tmp_path / "a.err").read_text() == "error a\n"
    assert (tmp_path / "b.log").read_text() == "b\nerror b\n"
    assert (sys.stdout, sys.stderr) == before
    recorder.value(executor, print, "to the terminal")
    assert capsys.readouterr().out == "to the terminal\n"


def test_a_function_that_handles_its_streams_is_left_alone(
    started: Any, recorder: Any, tmp_path: Any
) -> None:
    def shell() -> Any:
        worker = current_worker()
        assert worker is not None
        assert worker.call is not None
        return worker.call.options, sys.stdout

    shell.handles_streams = True  # type: ignore[attr-defined]
    before = sys.stdout
    options, stdout = recorder.value(started(), shell, stdout=str(tmp_path / "x"), cwd=str(tmp_path))
    assert options.cwd == str(tmp_path)
    assert stdout is before
    assert not (tmp_path / "x").exists()


# -- the end ----------------------------------------------------------------------------------------------


def test_shutdown_runs_what_is_left(recorder: Any) -> None:
    executor = ThreadExecutor(workers=3)
    executor.start(recorder)
    calls = [recorder.call(abs, -n, cpus=1 + n % 3, priority=n % 2) for n in range(200)]
    executor.submit(calls)
    assert executor.shutdown() == []
    assert [recorder.outcomes[call.id].value for call in calls] == list(range(200))
    assert executor.shutdown() == []
    with pytest.raises(RunClosedError):
        executor.submit([recorder.call(int)])


def test_a_worker_that_has_stopped_may_be_needed_again(
    recorder: Any, monkeypatch: Any, eventually: Any
) -> None:
    """It saw nothing to do, a moment before another one began to gather workers for a big call."""
    begin_gather = Crew._begin_gather

    def late(self: Crew, call: Call) -> None:
        eventually(lambda: len(self._threads) < 3, "no worker stops")
        begin_gather(self, call)

    monkeypatch.setattr(Crew, "_begin_gather", late)
    executor = ThreadExecutor(workers=3)
    executor.start(recorder)
    call = recorder.call(int, cpus=3)
    executor.submit([call])
    assert executor.shutdown(timeout=PATIENCE) == []
    assert recorder.outcomes[call.id].error is None


def test_shutdown_with_cancel_drops_what_waits(recorder: Any) -> None:
    executor, gate = ThreadExecutor(workers=1), Gate()
    executor.start(recorder)
    first, second = recorder.call(gate, "finished"), recorder.call(int)
    executor.submit([first, second])
    assert gate.begun.wait(PATIENCE)
    opener = threading.Thread(target=lambda: (recorder.wait(second), gate.opened.set()))
    opener.start()
    assert executor.shutdown(cancel=True, timeout=PATIENCE) == []
    opener.join(PATIENCE)
    assert recorder.outcomes[first.id].value == "finished"
    assert isinstance(recorder.outcomes[second.id].error, CancelledError)


def test_shutdown_names_what_it_cannot_stop(recorder: Any) -> None:
    executor, gate = ThreadExecutor(workers=1), Gate()
    executor.start(recorder)
    call, queued = recorder.call(gate, name="stubborn"), recorder.call(int)
    executor.submit([call, queued])
    assert gate.begun.wait(PATIENCE)
    [leftover] = executor.shutdown(timeout=0.05)
    assert "'stubborn'" in leftover
    assert isinstance(recorder.outcomes[call.id].error, WorkerLostError)
    assert isinstance(recorder.outcomes[queued.id].error, CancelledError)
    gate.opened.set()
    executor.start(recorder)
    assert recorder.value(executor, abs, -1) == 1
    executor.shutdown()


def test_starts_again_but_not_twice_at_once(recorder: Any) -> None:
    executor = ThreadExecutor(workers=1)
    for _ in range(3):
        executor.start(recorder)
        with pytest.raises(ConfigError):
            executor.start(recorder)
        assert recorder.value(executor, abs, -1) == 1
        assert executor.shutdown() == []


def test_submission_races_with_the_end(recorder: Any) -> None:
    """Every call that was accepted has its outcome."""
    for _ in range(20):
        executor, accepted = ThreadExecutor(workers=2), list[Call]()
        executor.start(recorder)

        def feed(executor: ThreadExecutor = executor, accepted: list[Call] = accepted) -> None:
            while True:
                call = recorder.call(int)
                try:
                    executor.submit([call])
                except RunClosedError:
                    return
                accepted.append(call)

        feeders = [threading.Thread(target=feed) for _ in range(2)]
        for feeder in feeders:
            feeder.start()
        executor.shutdown()
        for feeder in feeders:
            feeder.join()
        recorder.wait(*accepted)


def test_random_work_gives_each_call_one_outcome(started: Any, recorder: Any) -> None:
    import random

    dice = random.Random()
    executor = started(workers=4)

    def work(n: int) -> Any:
        if n % 7 == 0:
            return submit_and_wait(executor, recorder, abs, -n, cpus=1 + n % 4)
        if n % 5 == 0:
            raise ValueError(n)
        return n

    calls = [
        recorder.call(
            work,
            n,
            cpus=dice.choice([1, 1, 1, 2, 4]),
            priority=dice.choice([0, 0, 0, -1, 3]),
            timeout=dice.choice([None, 60]),
        )
        for n in range(600)
    ]
    cancelled: set[int] = set()
    for start in range(0, 600, 50):
        executor.submit(calls[start : start + 50])
        cancelled.update(executor.cancel([call.id for call in dice.sample(calls, 20)]))
    outcomes: list[Outcome] = recorder.wait(*calls)
    for n, outcome in enumerate(outcomes):
        if outcome.id in cancelled:
            assert isinstance(outcome.error, CancelledError)
        elif n % 5 == 0 and n % 7:
            assert isinstance(outcome.error, ValueError)
        else:
            assert outcome.value == n
