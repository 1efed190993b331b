from __future__ import annotations

import contextlib
import ctypes
import functools
import math
import os
import pickle
import random
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import pytest
from weft_executor_local import ProcessExecutor
from weft_interfaces import (
    Call,
    ConfigError,
    RemoteError,
    Resources,
    ResourcesError,
    RunClosedError,
    SerializationError,
    TaskExitError,
    TaskTimeoutError,
    WorkerLostError,
    current_worker,
)
from weft_interfaces.processes import dispatcher
from weft_interfaces.testing.calls import Gate, pass_gate

PATIENCE = 30.0
# Workers cannot import test modules.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


@pytest.fixture
def started(recorder: Any) -> Iterator[Callable[..., ProcessExecutor]]:
    executors = []

    def start(workers: int = 2) -> ProcessExecutor:
        executor = ProcessExecutor(workers=workers)
        executor.start(recorder)
        executors.append(executor)
        return executor

    yield start
    for executor in executors:
        assert executor.shutdown(cancel=True, timeout=PATIENCE) == []


@pytest.fixture
def gate() -> Iterator[Gate]:
    with Gate() as gate:
        yield gate


def gated(recorder: Any, executor: ProcessExecutor, gate: Gate, *args: Any, **options: Any) -> Call:
    """A call that has begun, and waits at the gate."""
    call: Call = recorder.call(pass_gate, gate.address, *args, **options)
    executor.submit([call])
    gate.wait_begun(PATIENCE)
    return call


def alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def kill_child(parent: int, pid: int) -> None:
    """Kill a process, if it still is a child of this one: its number may be another's by now."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        if int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]) == parent:
            os.kill(pid, signal.SIGKILL)


def warm_up(recorder: Any, executor: ProcessExecutor, workers: int = 2) -> set[int]:
    """Wait until all workers are up; their pids."""
    gates = [Gate() for _ in range(workers)]
    calls = [
        recorder.call(lambda address: (pass_gate(address), os.getpid())[1], gate.address) for gate in gates
    ]
    executor.submit(calls)
    for gate in gates:
        gate.wait_begun(PATIENCE)
    for gate in gates:
        gate.open()
    return {outcome.value for outcome in recorder.wait(*calls)}


# -- what crosses -----------------------------------------------------------------------------------------


def test_workers_are_other_processes_in_groups_of_their_own(started: Any, recorder: Any) -> None:
    executor = started()
    pids = warm_up(recorder, executor)
    assert len(pids) == 2
    assert os.getpid() not in pids
    assert recorder.value(executor, lambda: os.getpid() == os.getpgid(0))
    assert recorder.value(executor, lambda: os.getpgid(os.getppid()) == os.getppid())


class Sum:
    """A class that travels by value: see the registration above."""

    def __init__(self, total: int) -> None:
        self.total = total

    def doubled(self) -> int:
        return 2 * self.total


def test_a_class_that_comes_back_by_value_stays_as_it_is(started: Any, recorder: Any) -> None:
    methods = dict(vars(Sum))
    executor = started(workers=1)
    value = recorder.value(executor, lambda x: Sum(x), 2)
    assert type(value) is Sum
    assert value.doubled() == 4
    assert dict(vars(Sum)) == methods


def test_functions_by_value_follow_their_globals(started: Any, recorder: Any) -> None:
    executor = started(workers=1)
    offset = 1
    assert recorder.value(executor, lambda x: x + offset, 1) == 2
    offset = 10
    assert recorder.value(executor, lambda x: x + offset, 1) == 11
    assert recorder.value(executor, functools.partial(divmod, 7), 2) == (3, 1)


def test_many_functions_do_not_pile_up(started: Any, recorder: Any) -> None:
    executor = started(workers=1)
    calls = [recorder.call(functools.partial(pow, n), 2, name=f"task-{n}") for n in range(2500)]
    assert [outcome.value for outcome in recorder.run(executor, *calls)] == [n * n for n in range(2500)]
    assert [
        outcome.value for outcome in recorder.run(executor, *[recorder.call(functools.partial(pow, 3), 2)])
    ] == [9]


def test_modules_of_the_script_directory_are_importable(started: Any, recorder: Any, tmp_path: Path) -> None:
    (tmp_path / "weft_test_module_beside.py").write_text("def f(x):\n    return x * 7\n")
    executor = started(workers=1)
    recorder.value(executor, abs, -1)
    sys.path.insert(0, str(tmp_path))
    try:
        from weft_test_module_beside import f  # type: ignore[import-not-found]

        assert recorder.value(executor, f, 6) == 42
    finally:
        sys.path.remove(str(tmp_path))
        del sys.modules["weft_test_module_beside"]


def test_arguments_are_a_snapshot(started: Any, recorder: Any, gate: Gate) -> None:
    executor = started(workers=1)
    gated(recorder, executor, gate)
    value = [1]
    call = recorder.call(list, value)
    executor.submit([call])
    value.append(2)
    gate.open()
    assert recorder.wait(call)[0].value == [1]


def test_what_cannot_be_pickled_is_named(started: Any, recorder: Any) -> None:
    executor = started(workers=1)

    def use(first: Any, second: Any = None) -> None: ...

    lock = threading.Lock()
    error = recorder.error(executor, use, 1, {"key": [lock]})
    assert isinstance(error, SerializationError)
    assert "'second'" in str(error)
    assert "['key'][0]" in str(error)
    call = recorder.call(use, 1)._replace(kwargs={"second": lock})
    assert "'second'" in str(recorder.run(executor, call)[0].error)
    assert "lock" in str(recorder.error(executor, lambda: lock))
    assert isinstance(recorder.error(executor, lambda: threading.Lock()), SerializationError)
    assert recorder.value(executor, abs, -1) == 1


class Explosive:
    def __reduce__(self) -> Any:
        return _explode, ()


def _explode() -> None:
    raise RuntimeError("no")


def test_what_cannot_be_unpickled_fails_its_call_on_either_side(started: Any, recorder: Any) -> None:
    executor = started(workers=1)
    for error in (recorder.error(executor, Explosive), recorder.error(executor, str, Explosive())):
        assert isinstance(error, SerializationError), error
    assert recorder.value(executor, abs, -1) == 1


class TwoArgumentsError(Exception):
    def __init__(self, a: int, b: int) -> None:
        super().__init__(f"{a} {b}")


def test_exceptions_come_with_type_attributes_and_traceback(started: Any, recorder: Any) -> None:
    executor = started(workers=1)

    def fail_deep() -> None:
        error = ValueError("wrong", 7)
        error.extra = [1, 2]  # type: ignore[attr-defined]
        raise error from KeyError("deeper")

    error = recorder.error(executor, fail_deep)
    assert isinstance(error, ValueError)
    assert error.args == ("wrong", 7)
    assert error.extra == [1, 2]  # type: ignore[attr-defined]
    shown = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    assert "in fail_deep" in shown
    assert "KeyError: 'deeper'" in shown
    assert "worker.py" not in str(error.__cause__), "the executor's own frames"
    pickle.loads(pickle.dumps(error.__cause__))


def test_exceptions_that_cannot_be_rebuilt(started: Any, recorder: Any) -> None:
    def fail() -> None:
        raise TwoArgumentsError(1, 2)

    error = recorder.error(started(workers=1), fail)
    assert isinstance(error, RemoteError)
    assert "TwoArgumentsError" in error.type_name
    assert error.message == "1 2"
    assert "in fail" in error.traceback


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_exits_are_outcomes(started: Any, recorder: Any, kind: type[BaseException]) -> None:
    def leave() -> None:
        raise kind(3)

    executor = started(workers=1)
    error = recorder.error(executor, leave, name="leaver")
    assert isinstance(error, TaskExitError)
    assert isinstance(error.__cause__, kind)
    assert "'leaver'" in str(error)
    assert recorder.value(executor, abs, -1) == 1


def test_a_fork_inside_a_call_does_not_come_back_twice(started: Any, recorder: Any) -> None:
    executor = started(workers=1)
    assert recorder.value(executor, lambda: bool(os.fork()) or "child") is True
    assert [o.value for o in recorder.run(executor, *[recorder.call(abs, -n) for n in range(20)])] == list(
        range(20)
    )


def test_large_values_cross_and_do_not_stop_the_traffic(started: Any, recorder: Any) -> None:
    executor = started()
    large = os.urandom(1 << 20) * 100
    there = recorder.call(lambda data: (len(data), data[-5:]), large)
    back = recorder.call(lambda: bytes(100 << 20))
    small = [recorder.call(abs, -n) for n in range(500)]
    executor.submit([*small[:250], there, back, *small[250:]])
    assert recorder.wait(there)[0].value == (len(large), large[-5:])
    assert recorder.wait(back)[0].value == bytes(100 << 20)
    assert [outcome.value for outcome in recorder.wait(*small)] == list(range(500))


def test_sizes_around_every_border(started: Any, recorder: Any) -> None:
    executor = started(workers=1)
    sizes = [edge + step for edge in (0, 1 << 16, 1 << 18) for step in range(-40, 40, 3) if edge + step >= 0]
    calls = [recorder.call(bytes, bytes([n % 256]) * size) for n, size in enumerate(sizes)]
    outcomes = recorder.run(executor, *calls)
    assert [outcome.value for outcome in outcomes] == [
        bytes([n % 256]) * size for n, size in enumerate(sizes)
    ]


# -- what a call finds and leaves -------------------------------------------------------------------------


def test_streams_and_directory_of_a_call(started: Any, recorder: Any, tmp_path: Path) -> None:
    def talk() -> str:
        print("python")
        print("python error", file=sys.stderr)
        subprocess.run("echo child; echo child error >&2", shell=True, check=True)
        return os.getcwd()

    executor = started(workers=1)
    before = recorder.value(executor, os.getcwd)
    out, err, cwd = tmp_path / "a" / "out.txt", tmp_path / "b" / "err.txt", tmp_path / "c" / "deep"
    where = recorder.value(executor, talk, stdout=str(out), stderr=str(err), cwd=str(cwd))
    assert where == str(cwd)
    assert out.read_text() == "python\nchild\n"
    assert err.read_text() == "python error\nchild error\n"
    recorder.value(executor, talk, stdout=str(out), stderr=str(out))
    assert out.read_text() == "python\nchild\npython\npython error\nchild\nchild error\n"
    assert recorder.value(executor, os.getcwd) == before


def test_a_stream_that_cannot_be_opened_fails_the_call(started: Any, recorder: Any, tmp_path: Path) -> None:
    executor = started(workers=1)
    assert isinstance(recorder.error(executor, abs, -1, stdout=str(tmp_path)), IsADirectoryError)
    assert recorder.value(executor, abs, -1) == 1


def test_the_next_call_finds_directory_and_environment_as_they_were(started: Any, recorder: Any) -> None:
    executor = started(workers=1)
    before = recorder.value(executor, lambda: (os.getcwd(), dict(os.environ)))

    def disturb() -> None:
        os.chdir("/")
        os.environ["WEFT_TEST_NEW"] = "1"
        os.environ["PATH"] = "/nowhere"
        del os.environ["HOME"]

    recorder.value(executor, disturb)
    assert recorder.value(executor, lambda: (os.getcwd(), dict(os.environ))) == before
    assert recorder.value(
        executor, lambda: subprocess.run("echo $PATH", shell=True, capture_output=True).stdout
    ) == (before[1]["PATH"].encode() + b"\n")


def test_prints_reach_the_terminal(tmp_path: Path) -> None:
    script = """
        def talk(n):
            print("line", n)
        with as_pool(ProcessExecutor(workers=2)) as pool:
            list(pool.map(talk, range(3)))
    """
    assert sorted(run_script(script).stdout.splitlines()) == ["line 0", "line 1", "line 2"]


def test_a_call_sees_its_worker_and_options(started: Any, recorder: Any) -> None:
    def look() -> Any:
        worker = current_worker()
        assert worker is not None
        assert worker.call is not None
        return worker.in_process, worker.call.options.name, worker.call.id, worker.remaining()

    [outcome] = recorder.run(started(workers=1), call := recorder.call(look, name="looker", timeout=100))
    in_process, name, call_id, remaining = outcome.value
    assert (in_process, name, call_id) == (False, "looker", call.id)
    assert 90 < remaining <= 100


# -- slots and order --------------------------------------------------------------------------------------


def test_two_slots_are_taken(started: Any, recorder: Any, gate: Gate) -> None:
    executor = started(workers=2)
    big = gated(recorder, executor, gate, cpus=2)
    small = recorder.call(abs, -1)
    executor.submit([small])
    time.sleep(0.1)  # nothing says that a call does not begin
    assert small.id not in recorder.outcomes
    assert list(executor.running()) == [big.id]
    gate.open()
    recorder.wait(big, small)


def test_big_calls_get_their_turn_among_many_small_ones(started: Any, recorder: Any) -> None:
    executor = started(workers=2)
    small = [recorder.call(abs, -n) for n in range(3000)]
    big = [recorder.call(abs, -n, cpus=2) for n in range(10)]
    executor.submit(small[:1000])
    executor.submit(big)
    executor.submit(small[1000:])
    recorder.wait(*big)
    recorder.wait(*small)


def test_what_can_never_run_is_refused(started: Any, recorder: Any) -> None:
    executor = started(workers=2)
    assert isinstance(recorder.error(executor, abs, -1, cpus=3), ResourcesError)
    assert executor.refusal(Resources(cpus=3))
    assert executor.refusal(Resources(cpus=2)) is None


def test_higher_priority_first_and_equal_in_order(
    started: Any, recorder: Any, gate: Gate, tmp_path: Path
) -> None:
    executor = started(workers=1)
    first = gated(recorder, executor, gate)

    def append(text: str) -> None:
        with open(tmp_path / "order", "a") as file:
            file.write(text + "\n")

    priorities = [0, -1, 5, 0, 1, 5, -1, 0]
    calls = [recorder.call(append, f"{p} {n}", priority=p) for n, p in enumerate(priorities)]
    executor.submit(calls)
    gate.open()
    recorder.wait(first, *calls)
    expected = sorted(((p, n) for n, p in enumerate(priorities)), key=lambda pn: (-pn[0], pn[1]))
    assert (tmp_path / "order").read_text().splitlines() == [f"{p} {n}" for p, n in expected]


def test_short_calls_never_wait_behind_a_long_one(started: Any, recorder: Any, monkeypatch: Any) -> None:
    """Calls that were sent ahead to a worker that is held up run on the other one, as soon as it is idle."""
    monkeypatch.setattr(dispatcher, "_STALL", math.inf)
    executor = started(workers=2)
    for _ in range(5):
        recorder.run(executor, *[recorder.call(abs, -n) for n in range(300)])  # so that they count as short
        with Gate() as gate:

            def maybe(n: int, address: tuple[str, int] = gate.address) -> int:
                return n if n != 150 else pass_gate(address, n)

            recorder.run(executor, *[recorder.call(maybe, n) for n in range(10)])
            calls = [recorder.call(maybe, n) for n in range(400)]
            executor.submit(calls)
            recorder.wait(*calls[:150], *calls[151:])
            gate.wait_begun(PATIENCE)
            assert calls[150].id not in recorder.outcomes
            gate.open()
            recorder.wait(calls[150])


def test_calls_sent_ahead_come_back_though_the_queue_is_long(started: Any, recorder: Any, gate: Gate) -> None:
    """Also while no worker is idle, what waits behind a long call goes elsewhere, before later calls."""
    executor = started(workers=2)
    address = gate.address

    def maybe(n: int) -> int:
        time.sleep(0.0005)
        return pass_gate(address, n) if n == 20 else n

    recorder.run(executor, *[recorder.call(maybe, 1000 + n) for n in range(20)])
    calls = [recorder.call(maybe, n) for n in range(3000)]
    executor.submit(calls)
    recorder.wait(*calls[:20], *calls[21:100])
    late = sum(call.id in recorder.outcomes for call in calls[2000:])
    gate.open()
    recorder.wait(*calls)
    assert late == 0, "later calls overtook those that were sent ahead"


# -- deaths -----------------------------------------------------------------------------------------------


def _kill_self(number: int) -> None:
    os.kill(os.getpid(), number)


def _crash() -> None:
    ctypes.string_at(0)


@pytest.mark.parametrize(
    ("function", "args", "signal_number", "exit_code"),
    [
        (_kill_self, (signal.SIGKILL,), signal.SIGKILL, None),
        (_kill_self, (signal.SIGTERM,), signal.SIGTERM, None),
        (_crash, (), signal.SIGSEGV, None),
        (os.abort, (), signal.SIGABRT, None),
        (os._exit, (7,), None, 7),
        (os._exit, (0,), None, 0),
    ],
    ids=["SIGKILL", "SIGTERM", "SIGSEGV", "abort", "exit-7", "exit-0"],
)
def test_a_death_costs_its_own_call_only(
    started: Any, recorder: Any, function: Any, args: Any, signal_number: int | None, exit_code: int | None
) -> None:
    executor = started(workers=2)
    calls = [recorder.call(abs, -n) for n in range(400)]
    fatal = recorder.call(function, *args, name="fatal")
    executor.submit([*calls[:200], fatal, *calls[200:]])
    assert [outcome.value for outcome in recorder.wait(*calls)] == list(range(400))
    error = recorder.wait(fatal)[0].error
    assert isinstance(error, WorkerLostError)
    assert "'fatal'" in str(error)
    certificate = error.certificate
    assert certificate is not None
    assert (certificate.signal, certificate.exit_code) == (signal_number, exit_code)
    assert None not in (certificate.pid, certificate.host, certificate.time)
    assert not certificate.out_of_memory
    if function is _crash:
        assert "Segmentation fault" in certificate.stderr_tail
        assert "_crash" in certificate.stderr_tail
    warm_up(recorder, executor)


def test_children_of_a_worker_that_dies_end_with_it(
    started: Any, recorder: Any, tmp_path: Path, eventually: Any
) -> None:
    path = tmp_path / "pid"

    def leave_child() -> None:
        path.write_text(str(subprocess.Popen(["sleep", "1000"]).pid))
        os._exit(1)

    assert isinstance(recorder.error(started(workers=1), leave_child), WorkerLostError)
    eventually(lambda: not alive(int(path.read_text())), "the child lives")


def test_the_certificate_shows_the_end_of_the_calls_stderr(
    started: Any, recorder: Any, tmp_path: Path
) -> None:
    def mutter() -> None:
        print("last words", file=sys.stderr)
        os._exit(1)

    error = recorder.error(started(workers=1), mutter, stderr=str(tmp_path / "err"))
    assert "last words" in error.certificate.stderr_tail


def test_kill_9_in_the_middle_of_10000(started: Any, recorder: Any) -> None:
    executor = started(workers=2)
    pids = sorted(warm_up(recorder, executor))
    calls = [recorder.call(abs, -n) for n in range(10_000)]
    executor.submit(calls[:5000])
    recorder.wait(calls[1000])
    os.kill(pids[0], signal.SIGKILL)
    executor.submit(calls[5000:])
    outcomes = recorder.wait(*calls)
    lost = [outcome for outcome in outcomes if outcome.error is not None]
    assert len(lost) <= 1, "one at most was running when the worker died"
    assert all(isinstance(outcome.error, WorkerLostError) for outcome in lost)
    assert all(outcome.value == n for n, outcome in enumerate(outcomes) if outcome.error is None)


def test_calls_run_once_at_most_whoever_dies(started: Any, recorder: Any, tmp_path: Path) -> None:
    """Each call makes a file of its own while workers are killed again and again: none can do it twice."""
    executor, kills, directory = started(workers=3), 12, str(tmp_path)
    template = recorder.value(executor, os.getppid)

    def leave(n: int) -> tuple[int, int]:
        os.close(os.open(f"{directory}/{n}", os.O_CREAT | os.O_EXCL))
        return n, os.getpid()

    calls = [recorder.call(leave, n) for n in range(6000)]
    executor.submit(calls)
    for kill in range(kills):
        [outcome] = recorder.wait(calls[(kill + 1) * 400])
        if outcome.error is None:
            kill_child(template, outcome.value[1])
    outcomes = recorder.wait(*calls)
    lost = {n for n, outcome in enumerate(outcomes) if isinstance(outcome.error, WorkerLostError)}
    assert len(lost) <= kills
    others = [(n, outcome) for n, outcome in enumerate(outcomes) if n not in lost]
    assert [outcome.error for _, outcome in others if outcome.error] == [], "a call ran twice"
    assert [n for n, outcome in others if outcome.value[0] != n] == [], "a value of another call"
    ran = {int(path.name) for path in tmp_path.iterdir() if path.name.isdigit()}
    assert {n for n, _ in others} <= ran


def test_a_replacement_comes_within_milliseconds(started: Any, recorder: Any) -> None:
    executor = started(workers=1)
    recorder.value(executor, abs, -1)
    best = PATIENCE
    for _ in range(5):
        fatal, after = recorder.call(os._exit, 1), recorder.call(time.monotonic)
        executor.submit([fatal, after])
        recorder.wait(fatal)
        died = time.monotonic()
        best = min(best, recorder.wait(after)[0].value - died)
    assert best < 0.25


def test_the_template_may_die(started: Any, recorder: Any, gate: Gate) -> None:
    """Its workers go on; new ones come from a new template."""
    executor = started(workers=2)
    pids = warm_up(recorder, executor)
    template = recorder.value(executor, os.getppid)
    running = gated(recorder, executor, gate, "survived")
    os.kill(template, signal.SIGKILL)
    for pid in pids:
        fatal = recorder.call(os._exit, 1)
        executor.submit([fatal])
        assert isinstance(recorder.wait(fatal)[0].error, WorkerLostError), pid
        break
    gate.open()
    assert recorder.wait(running)[0].value == "survived"
    warm_up(recorder, executor)
    assert recorder.value(executor, os.getppid) != template or len(pids) == 2


def test_template_and_workers_may_die_at_once(started: Any, recorder: Any) -> None:
    executor = started(workers=2)
    pids = warm_up(recorder, executor)
    template = recorder.value(executor, os.getppid)
    calls = [recorder.call(time.sleep, 0.001) for _ in range(200)]
    executor.submit(calls)
    for pid in (template, *pids):
        os.kill(pid, signal.SIGKILL)
    lost = [outcome for outcome in recorder.wait(*calls) if outcome.error is not None]
    assert len(lost) <= 2
    warm_up(recorder, executor)


def test_workers_that_never_come_up_fail_the_calls(recorder: Any, monkeypatch: Any, tmp_path: Path) -> None:
    (tmp_path / "cloudpickle.py").write_text("raise SystemExit(5)")
    monkeypatch.syspath_prepend(str(tmp_path))
    executor = ProcessExecutor(workers=2)
    executor.start(recorder)
    error = recorder.error(executor, abs, -1)
    assert isinstance(error, WorkerLostError)
    executor.shutdown(cancel=True)


def test_out_of_memory_is_certified(monkeypatch: Any, tmp_path: Path) -> None:
    from weft_interfaces.processes import certificate

    events = tmp_path / "memory.events"
    events.write_text("low 0\noom 0\noom_kill 0\n")
    monkeypatch.setattr(certificate, "_candidates", lambda: [events])
    counter = certificate.OomCounter()
    assert not certificate.certify(1, 9, counter, "").out_of_memory
    events.write_text("low 0\noom 3\noom_kill 1\n")
    assert not certificate.certify(1, 11, counter, "").out_of_memory, "another signal has another cause"
    assert certificate.certify(1, 9, counter, "").out_of_memory
    assert not certificate.certify(1, 9, counter, "").out_of_memory, "one kill explains one death"


def test_a_call_that_uses_more_memory_than_it_asked_for_is_stopped(started: Any, recorder: Any) -> None:
    """Within a second; a call that asked for more, or for nothing, goes on."""

    def fill(seconds: float) -> int:
        data = bytearray(b"x") * (150 << 20)
        time.sleep(seconds)
        return len(data)

    executor = started(workers=1)
    assert recorder.value(executor, fill, 0.5) == 150 << 20
    assert recorder.value(executor, fill, 0.5, memory="400MB") == 150 << 20
    begun = time.monotonic()
    error = recorder.error(executor, fill, 1000, memory="100MB")
    assert time.monotonic() - begun < 1.0
    assert isinstance(error, WorkerLostError)
    assert error.certificate.out_of_memory
    assert "asked for memory=100.0 MB" in error.certificate.reason


# -- cancel and timeouts ----------------------------------------------------------------------------------


def test_cancel_of_a_queued_call(started: Any, recorder: Any, gate: Gate, tmp_path: Path) -> None:
    executor = started(workers=1)
    running = gated(recorder, executor, gate)
    queued = recorder.call(Path.touch, tmp_path / "ran")
    executor.submit([queued])
    assert list(executor.cancel([queued.id, 10**9])) == [queued.id]
    assert isinstance(recorder.outcomes[queued.id].error, CancelledError)
    gate.open()
    recorder.wait(running)
    recorder.value(executor, abs, -1)
    assert not (tmp_path / "ran").exists()


def test_cancel_of_calls_sent_ahead(started: Any, recorder: Any, gate: Gate, tmp_path: Path) -> None:
    executor = started(workers=1)
    address = gate.address

    def maybe(n: int) -> int:
        if n == 0:
            pass_gate(address)
        elif n > 0:
            (tmp_path / str(n)).touch()
        return n

    recorder.run(executor, *[recorder.call(maybe, -1) for _ in range(50)])
    calls = [recorder.call(maybe, n) for n in range(100)]
    executor.submit(calls)
    gate.wait_begun(PATIENCE)
    wanted = [call.id for call in calls[1::2]]
    assert sorted(executor.cancel(wanted)) == wanted
    assert all(isinstance(recorder.outcomes[call_id].error, CancelledError) for call_id in wanted)
    gate.open()
    assert [outcome.value for outcome in recorder.wait(*calls[::2])] == list(range(0, 100, 2))
    assert sorted(int(path.name) for path in tmp_path.iterdir()) == list(range(2, 100, 2))


def _start_family(directory: str, own_session: bool) -> None:
    """A child and a grandchild that write their pids and wait."""
    inner = "echo $$ > grandchild; exec sleep 1000"
    command = f"echo $$ > child; sh -c '{inner}'; sleep 1000"
    subprocess.Popen(["sh", "-c", command], cwd=directory, start_new_session=own_session)
    for name in ("child", "grandchild"):
        path = Path(directory) / name
        while not (path.exists() and path.read_text().endswith("\n")):
            time.sleep(0.005)
    (Path(directory) / "begun").write_text(str(os.getpid()))
    (Path(directory) / "begun").rename(Path(directory) / "worker")
    time.sleep(1000)


@pytest.mark.parametrize("own_session", [False, True])
@pytest.mark.parametrize("how", ["cancel", "timeout", "shutdown"])
def test_the_whole_family_is_killed(
    recorder: Any, tmp_path: Path, eventually: Any, how: str, own_session: bool
) -> None:
    executor = ProcessExecutor(workers=1)
    executor.start(recorder)
    recorder.value(executor, abs, -1)
    call = recorder.call(_start_family, str(tmp_path), own_session, timeout=1.0 if how == "timeout" else None)
    executor.submit([call])
    if how == "timeout":
        error = recorder.wait(call)[0].error
        assert isinstance(error, TaskTimeoutError)
        assert error.timeout == 1.0
    else:
        eventually((tmp_path / "worker").exists, "the call does not begin")
        if how == "cancel":
            assert list(executor.cancel([call.id])) == [call.id]
        else:
            assert executor.shutdown(cancel=True) == []
        assert isinstance(recorder.outcomes[call.id].error, CancelledError), "confirmed before it returns"
    for name in ("worker", "child", "grandchild"):
        pid = int((tmp_path / name).read_text())
        eventually(lambda pid=pid: not alive(pid), f"the {name} lives")
    if how != "shutdown":
        assert recorder.value(executor, abs, -1) == 1
    assert executor.shutdown() == []


def test_cancel_of_a_running_call_spares_the_others(started: Any, recorder: Any, gate: Gate) -> None:
    executor = started(workers=2)
    victim = gated(recorder, executor, gate)
    others = [recorder.call(time.sleep, 0.001) for _ in range(100)]
    executor.submit(others)
    assert list(executor.cancel([victim.id])) == [victim.id]
    assert isinstance(recorder.outcomes[victim.id].error, CancelledError)
    assert all(outcome.error is None for outcome in recorder.wait(*others))
    assert list(executor.cancel([victim.id, others[0].id])) == []


def test_timeout_is_exact_and_spares_the_others(started: Any, recorder: Any) -> None:
    executor = started(workers=2)
    warm_up(recorder, executor)
    begun = time.monotonic()
    slow = recorder.call(time.sleep, 100, timeout=0.2)
    quick = [recorder.call(abs, -n, timeout=50) for n in range(200)]
    executor.submit([slow, *quick])
    assert all(outcome.error is None for outcome in recorder.wait(*quick))
    assert isinstance(recorder.wait(slow)[0].error, TaskTimeoutError)
    assert 0.2 <= time.monotonic() - begun < 2


def test_waiting_in_the_queue_is_no_part_of_the_timeout(started: Any, recorder: Any, gate: Gate) -> None:
    executor = started(workers=1)
    first = gated(recorder, executor, gate)
    call = recorder.call(abs, -1, timeout=1.0)  # which it keeps on a busy machine, too
    executor.submit([call])
    time.sleep(1.1)
    gate.open()
    assert [outcome.error for outcome in recorder.wait(first, call)] == [None, None]


# -- the life of the executor -----------------------------------------------------------------------------


def test_starts_again_but_not_twice_at_once(recorder: Any) -> None:
    executor = ProcessExecutor(workers=2)
    with pytest.raises(RunClosedError):
        executor.submit([recorder.call(abs, -1)])
    for _ in range(3):
        executor.start(recorder)
        with pytest.raises(ConfigError):
            executor.start(recorder)
        assert recorder.value(executor, abs, -1) == 1
        assert executor.shutdown() == []
        assert executor.shutdown() == []


def test_leaves_no_process_thread_or_descriptor(recorder: Any, eventually: Any) -> None:
    def once() -> None:
        executor = ProcessExecutor(workers=3)
        executor.start(recorder)
        pids = [*warm_up(recorder, executor, 3), recorder.value(executor, os.getppid)]
        recorder.error(executor, os._exit, 3)
        assert executor.shutdown() == []
        assert not [pid for pid in pids if alive(pid)]

    once()
    threads, descriptors = threading.active_count(), sorted(os.listdir("/proc/self/fd"))
    for _ in range(3):
        once()
    assert threading.active_count() == threads
    assert sorted(os.listdir("/proc/self/fd")) == descriptors


def test_shutdown_runs_what_is_left(recorder: Any) -> None:
    executor = ProcessExecutor(workers=2)
    executor.start(recorder)
    calls = [recorder.call(abs, -n, cpus=1 + n % 2, priority=n % 3) for n in range(300)]
    executor.submit(calls)
    assert executor.shutdown() == []
    assert [recorder.outcomes[call.id].value for call in calls] == list(range(300))


def test_shutdown_kills_at_its_deadline(recorder: Any) -> None:
    executor = ProcessExecutor(workers=2)
    executor.start(recorder)
    calls = [recorder.call(time.sleep, 1000) for _ in range(5)]
    executor.submit(calls)
    begun = time.monotonic()
    assert executor.shutdown(timeout=0.2) == []
    assert time.monotonic() - begun < 5
    assert all(isinstance(recorder.outcomes[call.id].error, CancelledError) for call in calls)


def test_shutdown_at_once_after_start(recorder: Any) -> None:
    for _ in range(5):
        executor = ProcessExecutor(workers=2)
        executor.start(recorder)
        call = recorder.call(abs, -1)
        executor.submit([call])
        assert executor.shutdown(cancel=True) == []
        assert call.id in recorder.outcomes


def test_shutdown_from_inside_completed(recorder: Any, eventually: Any) -> None:
    executor, leftovers, done = ProcessExecutor(workers=1, label="inside"), [], threading.Event()

    class Context:
        run_id, directory = "test", recorder.directory

        def completed(self, outcomes: Any) -> None:
            leftovers.extend(executor.shutdown())
            done.set()

        def emit(self, events: Any) -> None: ...

    executor.start(Context())
    executor.submit([Call(1, abs, (-1,))])
    assert done.wait(PATIENCE)
    assert "ending" in leftovers[0]
    eventually(lambda: not any(t.name.startswith("inside") for t in threading.enumerate()), "it does not end")


def test_submission_races_with_the_end(recorder: Any, eventually: Any) -> None:
    for _ in range(3):
        executor, accepted = ProcessExecutor(workers=2), list[Call]()
        executor.start(recorder)
        recorder.value(executor, abs, -1)

        def feed(executor: ProcessExecutor = executor, accepted: list[Call] = accepted) -> None:
            while True:
                call = recorder.call(abs, -1)
                try:
                    executor.submit([call])
                except RunClosedError:
                    return
                accepted.append(call)

        feeders = [threading.Thread(target=feed) for _ in range(2)]
        for feeder in feeders:
            feeder.start()
        eventually(lambda accepted=accepted: len(accepted) > 500, "too few calls are taken")
        assert executor.shutdown(cancel=True) == []
        for feeder in feeders:
            feeder.join()
        recorder.wait(*accepted)


def run_script(text: str, **options: Any) -> Any:
    import textwrap

    head = "from weft_executor_local import ProcessExecutor\nfrom weft_interfaces import as_pool\n"
    return subprocess.run(
        [sys.executable, "-c", head + textwrap.dedent(text)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        **options,
    )


FAMILY = """
import os, subprocess, sys, threading, time
from weft_executor_local import ProcessExecutor
from weft_interfaces import as_pool

def long(path):
    child = subprocess.Popen(["sleep", "1000"])
    with open(path, "a") as file:
        file.write(f"{os.getpid()} {os.getppid()} {child.pid}\\n")
    time.sleep(1000)

executor = ProcessExecutor(workers=2)
path = sys.argv[1]
"""


def start_family(tmp_path: Path, text: str, eventually: Any) -> tuple[subprocess.Popen[str], list[int]]:
    """A client with two long calls that have begun, and the pids of all its descendants."""
    import textwrap

    path = tmp_path / "pids"
    path.touch()
    client = subprocess.Popen(
        [sys.executable, "-c", FAMILY + textwrap.dedent(text), str(path)],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    eventually(lambda: path.read_text().count("\n") == 2, "the calls do not begin")
    return client, [int(pid) for line in path.read_text().splitlines() for pid in line.split()]


def assert_all_gone(pids: list[int], eventually: Any) -> None:
    for pid in set(pids):
        eventually(lambda pid=pid: not alive(pid), f"process {pid} is left")


WAITS = """
with as_pool(executor) as pool:
    futures = [pool.submit(long, path) for _ in range(2)]
    futures[0].result()
"""


def test_nothing_is_left_when_the_client_is_killed(tmp_path: Path, eventually: Any) -> None:
    client, pids = start_family(tmp_path, WAITS, eventually)
    client.kill()
    client.communicate()
    assert_all_gone(pids, eventually)


def test_nothing_is_left_when_client_and_template_are_killed(tmp_path: Path, eventually: Any) -> None:
    client, pids = start_family(tmp_path, WAITS, eventually)
    os.kill(client.pid, signal.SIGSTOP)  # it must not start another
    os.kill(pids[1], signal.SIGKILL)
    client.kill()
    client.communicate()
    assert_all_gone(pids, eventually)


def test_nothing_is_left_after_ctrl_c(tmp_path: Path, eventually: Any) -> None:
    client, pids = start_family(tmp_path, WAITS, eventually)
    os.killpg(client.pid, signal.SIGINT)  # as the terminal does
    with contextlib.suppress(subprocess.TimeoutExpired):
        client.communicate(timeout=0.5)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(client.pid, signal.SIGINT)  # __exit__ waits for the calls; the second one cancels them
    client.communicate(timeout=PATIENCE)
    assert_all_gone(pids, eventually)


def test_nothing_is_left_after_ctrl_c_twice_in_shutdown(tmp_path: Path, eventually: Any) -> None:
    text = """
    pool = as_pool(executor)
    for _ in range(2):
        pool.submit(long, path)
    executor.shutdown(timeout=1000)
    """
    client, pids = start_family(tmp_path, text, eventually)
    for _ in range(2):
        os.killpg(client.pid, signal.SIGINT)
    client.communicate(timeout=PATIENCE)
    assert_all_gone(pids, eventually)


@pytest.mark.parametrize(
    "end", ["sys.exit(3)", "raise ValueError('in between')", "os._exit(4)", "del executor, pool"]
)
def test_nothing_is_left_when_shutdown_is_forgotten(tmp_path: Path, eventually: Any, end: str) -> None:
    text = f"""
    pool = as_pool(executor)
    for _ in range(2):
        pool.submit(long, path)
    while len(open(path).readlines()) < 2:
        time.sleep(0.01)
    {end}
    """
    client, pids = start_family(tmp_path, text, eventually)
    client.communicate(timeout=PATIENCE)
    assert_all_gone(pids, eventually)


def test_nothing_is_left_though_a_fork_of_the_client_lives(tmp_path: Path, eventually: Any) -> None:
    text = """
    with as_pool(executor) as pool:
        futures = [pool.submit(long, path) for _ in range(2)]
        while len(open(path).readlines()) < 2:
            time.sleep(0.01)
        fork = os.fork()
        if not fork:
            os.close(2)
            time.sleep(1000)
        with open(path + ".fork", "w") as file:
            file.write(str(fork))
        os.rename(path + ".fork", path + ".forked")
        futures[0].result()
    """
    client, pids = start_family(tmp_path, text, eventually)
    forked = tmp_path / "pids.forked"
    eventually(forked.exists, "no fork")
    client.kill()
    client.communicate()
    try:
        assert_all_gone(pids, eventually)
    finally:
        os.kill(int(forked.read_text()), signal.SIGKILL)


# -- much at once -----------------------------------------------------------------------------------------


def test_memory_of_many_queued_calls(started: Any, recorder: Any, gate: Gate) -> None:
    import tracemalloc

    executor = started(workers=1)
    first = gated(recorder, executor, gate)
    calls = [recorder.call(abs, -n) for n in range(20_000)]
    options = calls[0].options
    calls = [call._replace(options=options) for call in calls]
    tracemalloc.start()
    executor.submit(calls)
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    gate.open()
    recorder.wait(first, *calls)
    assert size / len(calls) < 600, "bytes for each queued call"


def test_random_kills_and_cancels_give_each_call_one_outcome(started: Any, recorder: Any) -> None:
    dice = random.Random()
    executor = started(workers=3)

    def work(n: int, kind: str) -> int:
        if kind == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if kind == "fail":
            raise ValueError(n)
        if kind == "sleep":
            time.sleep(0.003)
        if kind == "hang":
            time.sleep(1000)
        return n

    kinds = dice.choices(["quick", "sleep", "fail", "die", "hang"], [300, 30, 10, 2, 2], k=2000)
    calls = [
        recorder.call(
            work,
            n,
            kind,
            cpus=dice.choice([1, 1, 1, 1, 1, 2, 3]),
            priority=dice.choice([0, 0, 0, 1, -1]),
            timeout=0.1 if kind == "hang" else dice.choice([None, None, 60]),
            name="work",
        )
        for n, kind in enumerate(kinds)
    ]
    cancelled: set[int] = set()
    for start in range(0, 2000, 100):
        executor.submit(calls[start : start + 100])
        cancelled.update(executor.cancel([call.id for call in dice.sample(calls, 10)]))
    for n, outcome in enumerate(recorder.wait(*calls, patience=60)):
        kind, error = kinds[n], outcome.error
        if outcome.id in cancelled:
            assert isinstance(error, CancelledError)
        elif kind == "die":
            assert isinstance(error, WorkerLostError)
        elif kind == "hang":
            assert isinstance(error, TaskTimeoutError)
        elif kind == "fail":
            assert isinstance(error, ValueError)
        else:
            assert (outcome.value, error) == (n, None)
    load = executor.load()
    assert (load.queued, load.running) == (0, 0)
