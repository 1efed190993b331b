"""What breaks, how soon it is noticed, and what it costs: on real processes."""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import select
import signal
import socket
import struct
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import msgspec
import pytest
from weft_executor_htex import messages
from weft_executor_htex.setup import Identity, ManagerAccess, ManagerSetup
from weft_executor_htex.stream import StreamReader, pack
from weft_interfaces import (
    BlockLostError,
    CallOptions,
    JobState,
    JobStatus,
    LostError,
    ManagerLostError,
    Resources,
    TaskTimeoutError,
    WorkerLostError,
)
from weft_interfaces.testing.calls import Gate, pass_gate

PATIENCE = 30.0
# Workers cannot import test modules.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


def end_by(how: str) -> None:
    if how == "exit":
        os._exit(3)
    if how == "segfault":
        ctypes.string_at(0)
    os.kill(os.getpid(), signal.SIGKILL)


def alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


# -- workers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "signal_number", "exit_code"), [("kill", 9, None), ("segfault", 11, None), ("exit", None, 3)]
)
def test_a_worker_dies(
    site: Any, recorder: Any, how: str, signal_number: int | None, exit_code: int | None
) -> None:
    """Noticed within a second; only the call that it ran is lost."""
    here = site()
    here.start("b")
    recorder.value(here.executor, abs, -1)
    begun = time.monotonic()
    error = recorder.error(here.executor, end_by, how)
    assert time.monotonic() - begun < 1.0
    assert isinstance(error, WorkerLostError)
    assert error.certificate is not None
    assert (error.certificate.signal, error.certificate.exit_code) == (signal_number, exit_code)
    assert error.certificate.block_id == "b"
    assert recorder.value(here.executor, abs, -2) == 2


def test_a_worker_that_hangs_is_killed_at_its_timeout(site: Any, recorder: Any) -> None:
    here = site()
    here.start("b")
    recorder.value(here.executor, abs, -1)
    begun = time.monotonic()
    [outcome] = recorder.run(here.executor, recorder.call(time.sleep, 1000, timeout=0.3))
    assert isinstance(outcome.error, TaskTimeoutError)
    assert 0.3 <= time.monotonic() - begun < 1.5


def test_workers_are_killed_in_the_middle_of_many_calls(site: Any, recorder: Any) -> None:
    here = site(heartbeat_threshold=10)  # their manager must not be taken for lost: there is no other one
    here.start("b")
    calls = [recorder.call(lambda n: (n, os.getpid()), n) for n in range(5000)]
    here.executor.submit(calls)
    kills = 0
    for n in (500, 1500, 3000):
        [outcome] = recorder.wait(calls[n])
        if outcome.error is None and alive(outcome.value[1]):
            os.kill(outcome.value[1], signal.SIGKILL)
            kills += 1
    outcomes = recorder.wait(*calls)
    lost = [outcome for outcome in outcomes if outcome.error is not None]
    assert len(lost) <= kills
    assert all(isinstance(outcome.error, WorkerLostError) for outcome in lost)
    assert [n for n, outcome in enumerate(outcomes) if not outcome.error and outcome.value[0] != n] == []


# -- managers ---------------------------------------------------------------------------------------------


def children(pid: int) -> list[int]:
    """The processes that it has started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def lose_a_manager(site: Any, recorder: Any, gate: Gate, strike: Callable[[int], None]) -> float:
    """Two calls have begun in a manager and others wait when it is struck: how long until that is noticed."""
    manager = site.start("first")
    begun = [recorder.call(pass_gate, gate.address, n) for n in range(2)]
    site.executor.submit(begun)
    for _ in begun:
        gate.wait_begun(PATIENCE)
    waiting = [recorder.call(abs, -n) for n in range(20)]
    site.executor.submit(waiting)
    since = time.monotonic()
    strike(manager.pid)
    for outcome in recorder.wait(*begun):
        assert isinstance(outcome.error, ManagerLostError)
        assert outcome.error.certificate is not None
        assert outcome.error.certificate.block_id == "first"
        assert outcome.error.certificate.pid == manager.pid
    seconds = time.monotonic() - since
    site.start("second")
    assert [outcome.value for outcome in recorder.wait(*waiting)] == list(range(20))
    return seconds


def test_a_manager_is_killed(site: Any, recorder: Any, gate: Gate) -> None:
    """Noticed at once by its connection; a second is granted to the batch system, to say why."""
    assert lose_a_manager(site(), recorder, gate, lambda pid: os.kill(pid, signal.SIGKILL)) < 2.5


def test_a_manager_falls_silent(site: Any, recorder: Any, gate: Gate) -> None:
    """Noticed by its heartbeat, whose threshold is 1.5 s here. When it wakes up, it is told to end."""
    here = site()
    assert lose_a_manager(here, recorder, gate, lambda pid: os.kill(pid, signal.SIGSTOP)) < 3.5
    stopped = here.managers["first"]
    stopped.send_signal(signal.SIGCONT)
    assert stopped.wait(10.0) == 0


def test_a_manager_is_ended(site: Any, recorder: Any, gate: Gate) -> None:
    """It says so itself, at once."""
    assert lose_a_manager(site(), recorder, gate, lambda pid: os.kill(pid, signal.SIGTERM)) < 1.5


def test_a_manager_is_ended_after_its_workers(site: Any, recorder: Any, gate: Gate, eventually: Any) -> None:
    """As by a batch system that ends a block: the calls were lost with it, not with their workers."""

    def end_all(pid: int) -> None:
        before = children(pid)
        for each in (*before, *(child for template in before for child in children(template))):
            os.kill(each, signal.SIGTERM)
        eventually(lambda: set(children(pid)) - set(before), "it has noticed, and starts others")
        os.kill(pid, signal.SIGTERM)

    assert lose_a_manager(site(), recorder, gate, end_all) < 2.5


def test_a_drained_manager_finishes_and_ends(site: Any, recorder: Any, gate: Gate) -> None:
    here = site()
    manager = here.start("first")
    call = recorder.call(pass_gate, gate.address, "done")
    here.executor.submit([call])
    gate.wait_begun(PATIENCE)
    here.executor.drain(["first"])
    later = recorder.call(abs, -1)
    here.executor.submit([later])
    gate.open()
    assert recorder.wait(call)[0].value == "done"
    assert manager.wait(5.0) == 0
    assert later.id not in recorder.outcomes
    here.start("second")
    assert recorder.wait(later)[0].value == 1


def test_a_block_ends(site: Any, recorder: Any, gate: Gate) -> None:
    here = site()
    manager = here.start("b")
    call = recorder.call(pass_gate, gate.address)
    here.executor.submit([call])
    gate.wait_begun(PATIENCE)
    manager.kill()
    status = JobStatus(state=JobState.FAILED, reason="NODE_FAIL", exit_code=1, stderr_tail="no route to host")
    here.executor.block_ended("b", status)
    error = recorder.wait(call)[0].error
    assert isinstance(error, BlockLostError)
    assert "NODE_FAIL" in str(error)
    assert "no route to host" in str(error)


def test_no_call_starts_that_cannot_end_before_its_block(site: Any, recorder: Any) -> None:
    here = site(walltime=60)
    here.start("b")
    long = recorder.call(abs, -1)
    long = long._replace(options=CallOptions(resources=Resources(walltime=600)))
    short = long._replace(id=long.id + 1000, options=CallOptions(resources=Resources(walltime=5)))
    here.executor.submit([long])
    recorder.value(here.executor, abs, -1)
    here.executor.submit([short])
    assert recorder.wait(short)[0].value == 1
    assert long.id not in recorder.outcomes


@pytest.mark.parametrize(
    ("attribute", "value", "words"),
    [("PROTOCOL", 99, "protocol 99"), ("PYTHON", "2.7", "Python 2.7")],
)
def test_a_manager_of_another_version_is_refused(
    site: Any, recorder: Any, attribute: str, value: Any, words: str
) -> None:
    """Both sides name both versions."""
    here = site()
    code = textwrap.dedent(f"""
        import sys
        from weft_executor_htex import manager
        manager.{attribute} = {value!r}
        sys.exit(manager.main())
    """)
    _, data = here.executor.command("b")
    done = subprocess.run([sys.executable, "-c", code], input=data, capture_output=True, timeout=PATIENCE)
    mine = f"{getattr(messages, attribute)}"
    said = done.stderr.decode()
    assert words in said
    assert mine in said
    [event] = [event for event in recorder.events if event.kind == "manager.gone"]
    assert words in event.data["reason"]
    assert mine in event.data["reason"]


def test_a_manager_without_a_setup_says_so() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "weft_executor_htex.manager"],
        input=b"{}",
        capture_output=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 2
    assert "setup" in done.stderr.decode()


# -- the client -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["SIGKILL", "SIGTERM"])
@pytest.mark.parametrize("interchange", ["thread", "process"])
def test_nothing_is_left_when_the_client_dies(
    tmp_path: Path, eventually: Any, how: str, interchange: str
) -> None:
    """Managers of this machine notice within two seconds that nobody listens any more."""
    code = textwrap.dedent("""
        import os, subprocess, sys, time
        from pathlib import Path
        from weft_executor_htex import HighThroughputExecutor
        from weft_interfaces import Blocks, Call
        from weft_interfaces.memory import InMemoryProvider, RecordingContext

        def long(path):
            with open(path, "a") as file:
                file.write(f"{os.getpid()} {os.getppid()}\\n")
            time.sleep(1000)

        blocks = Blocks(provider=InMemoryProvider())
        executor = HighThroughputExecutor(workers_per_node=2, blocks=blocks, interchange=sys.argv[3])
        executor.start(RecordingContext(Path(sys.argv[1])))
        command = executor.command("b")
        manager = subprocess.Popen(list(command.argv), stdin=subprocess.PIPE, start_new_session=True)
        manager.stdin.write(command.input)
        manager.stdin.close()
        executor.submit([Call(n, long, (sys.argv[2],)) for n in range(2)])
        print(manager.pid, flush=True)
        time.sleep(1000)
    """)
    path = tmp_path / "pids"
    path.touch()
    client = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path), str(path), interchange],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert client.stdout is not None
    manager = int(client.stdout.readline())
    eventually(lambda: path.read_text().count("\n") == 2, "the calls do not begin")
    pids = [manager, *(int(pid) for line in path.read_text().splitlines() for pid in line.split())]
    children = Path(f"/proc/{client.pid}/task/{client.pid}/children").read_text().split()
    assert len(children) == (1 if interchange == "thread" else 2), "the manager, and the interchange"
    pids += map(int, children)
    client.send_signal(getattr(signal, how))
    client.communicate(timeout=PATIENCE)
    eventually(lambda: not any(map(alive, pids)), "managers or workers are left", 6.0)
    assert not list(tmp_path.glob("weft-*")), "directories are left"


# -- hostile input ----------------------------------------------------------------------------------------


def test_garbage_from_a_manager_costs_nothing(site: Any, recorder: Any) -> None:
    """A peer that has the way in sends what is no message, and messages out of turn, while calls run."""
    here = site()
    here.start("b")
    calls = [recorder.call(abs, -n) for n in range(10_000)]
    here.executor.submit(calls)
    dice = random.Random(1)
    genuine = [messages.encode(messages.Heartbeat())[0], messages.encode(messages.Begun([1, 2, 3]))[0]]
    genuine += [messages.encode(messages.Results([messages.ResultGroup([5], [1], [0])]))[0]]
    genuine += [messages.encode(messages.Stop("hostile"))[0], messages.encode(messages.Cancel([7]))[0]]
    [endpoint] = ManagerSetup.load(here.executor.command("b").input).access.endpoints
    for number in range(20):
        with socket.socket(socket.AF_UNIX) as peer:
            peer.settimeout(PATIENCE)
            peer.connect(endpoint.url.partition("://")[2])
            for _ in range(100):
                frames = [dice.randbytes(dice.choice([0, 1, 7, 300])) for _ in range(dice.randrange(1, 4))]
                if dice.random() < 0.5:
                    frames[0] = dice.choice(genuine)
                    cut = dice.randrange(len(frames[0]) + 1)
                    frames[0] = frames[0][:cut] if dice.random() < 0.5 else frames[0]
                peer.sendall(b"".join(map(bytes, pack(frames))))
            if number % 2:  # after which nothing more can be read from this one
                peer.sendall(dice.randbytes(1000))
    assert [outcome.value for outcome in recorder.wait(*calls)] == list(range(10_000))
    assert here.executor.status()["malformed"]


class Tap:
    """A way to a unix socket on which what managers say is recorded, and passed on. One manager."""

    def __init__(self, directory: Path, beyond: str) -> None:
        self.path = str(directory / "tap")
        self.recorded: list[list[bytes]] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.path)
        self._listener.listen()
        self._listener.settimeout(PATIENCE)
        self._beyond = socket.socket(socket.AF_UNIX)
        self._beyond.connect(beyond)
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        near, _ = self._listener.accept()
        reader = StreamReader()
        ends = {near: self._beyond, self._beyond: near}
        with near, self._beyond, self._listener, contextlib.suppress(OSError):  # one end is gone
            while True:
                for end in select.select(ends, [], [])[0]:
                    data = end.recv(1 << 16)
                    if not data:
                        return
                    if end is near:
                        self.recorded += reader.feed(data)
                    ends[end].sendall(data)

    def of_kind(self, kind: type[messages.Message]) -> list[list[bytes]]:
        """What was recorded of it."""
        return [frames for frames in list(self.recorded) if type(messages.decode(frames)) is kind]

    def close(self) -> None:
        """Wait until the manager has ended."""
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()


def test_what_a_manager_said_is_sent_again_by_another(site: Any, recorder: Any, tmp_path: Path) -> None:
    """Nobody becomes a manager by it, or has a say in what became of calls."""
    here = site()
    setup = ManagerSetup.load(here.executor.command("b").input)
    [endpoint] = setup.access.endpoints
    socket_path = endpoint.url.partition("://")[2]
    tap = Tap(tmp_path, socket_path)
    tapped = msgspec.structs.replace(endpoint, url=f"unix://{tap.path}")
    access = msgspec.structs.replace(setup.access, endpoints=[tapped])
    here.start("b", data=msgspec.structs.replace(setup, access=access).dump())
    recorder.value(here.executor, abs, -1)
    calls = [recorder.call(abs, -n) for n in range(10_000)]
    here.executor.submit(calls)
    for number in range(20):
        with socket.socket(socket.AF_UNIX) as peer:
            peer.settimeout(PATIENCE)
            peer.connect(socket_path)
            registered, results = tap.of_kind(messages.Register), tap.of_kind(messages.Results)
            again = registered + results[-50:] if number % 2 else results[-50:] + registered + results[:50]
            peer.sendall(b"".join(bytes(part) for frames in again for part in pack(frames)))
            reader = StreamReader()
            while not (answers := reader.feed(peer.recv(1 << 16))):
                pass
            assert type(messages.decode(answers[0])) in (messages.Refused, messages.Stop)
    assert [outcome.value for outcome in recorder.wait(*calls)] == list(range(10_000))
    status = here.executor.status()
    assert status["malformed"] == {"a registration that another has sent before": 20}
    assert len(status["managers"]) == 1
    assert [event.kind for event in recorder.events if event.kind.startswith("manager.")] == ["manager.up"]
    assert here.executor.shutdown() == []
    tap.close()


def test_a_manager_whose_interchange_is_gone_says_so(site: Any) -> None:
    here = site()
    data = here.executor.command("b").input
    here.close()
    argv = [sys.executable, "-m", "weft_executor_htex.manager"]
    result = subprocess.run(argv, input=data, capture_output=True, timeout=PATIENCE, check=False)
    assert result.returncode == 1
    assert b"the interchange is not there (any more): " in result.stderr
    assert b"Traceback" not in result.stderr


def announce(*numbers: int) -> bytes:
    """The begin of a message: how many frames, and their lengths."""
    return struct.pack(f"<{len(numbers)}Q", *numbers)


def virtual_size() -> int:
    """Bytes that this process has asked for."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")


def test_huge_messages_from_a_manager_cost_nothing(site: Any, recorder: Any) -> None:
    """No memory is kept for what is only announced; what nobody could mean is not waited for."""
    here = site()
    here.start("b")
    recorder.value(here.executor, abs, -1)
    calls = [recorder.call(abs, -n) for n in range(10_000)]
    [endpoint] = ManagerSetup.load(here.executor.command("b").input).access.endpoints
    dice = random.Random(1)
    garbage = dice.randbytes(50_000_000)
    before = virtual_size()
    here.executor.submit(calls)
    with ExitStack() as peers:

        def peer(data: bytes) -> socket.socket:
            made = peers.enter_context(socket.socket(socket.AF_UNIX))
            made.settimeout(PATIENCE)
            made.connect(endpoint.url.partition("://")[2])
            made.sendall(data)
            return made

        for size in (4 << 30, 64 << 30, 1 << 40):
            peer(announce(1, size) + b"x" * 1000)
        for begin in (announce(1, (1 << 40) + 1), announce(2, 1 << 63, 1 << 63), announce(1 << 40)):
            assert peer(begin).recv(1) == b"", "it is hung up on"
        peer(announce(1, len(garbage)) + garbage)
        peer(announce(50_000, *[1000] * 50_000) + garbage)
        with pytest.raises(OSError):
            peer(b"\xff" * 8 + garbage)
        assert virtual_size() - before < 1 << 30
        assert [outcome.value for outcome in recorder.wait(*calls)] == list(range(10_000))
    malformed = here.executor.status()["malformed"]
    assert sum(malformed.values()) == 6, malformed
    assert recorder.value(here.executor, abs, -2) == 2


def test_the_setup_survives_its_journey() -> None:
    setup = ManagerSetup(
        access=ManagerAccess([], Identity("certificate", "key")),
        block="b",
        workers=3,
        heartbeat_threshold=1.0,
        path=["x"],
        preload=["y"],
        user_path=["z"],
    )
    assert ManagerSetup.load(setup.dump()) == setup
    with pytest.raises(msgspec.DecodeError):
        ManagerSetup.load(b"no")


def test_losses_carry_certificates_that_survive_pickling(site: Any, recorder: Any) -> None:
    import pickle

    here = site()
    here.start("b")
    error = recorder.error(here.executor, end_by, "kill")
    again = pickle.loads(pickle.dumps(error))
    assert isinstance(again, LostError)
    assert again.certificates == error.certificates
