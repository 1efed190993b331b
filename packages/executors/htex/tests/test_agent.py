"""An interchange on the far side of a channel: what becomes of it, and of its calls, when something
breaks."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

import interpreters
import numpy as np
import pytest
from weft_executor_htex import HighThroughputExecutor, remote
from weft_executor_htex.agent import line as line_module
from weft_executor_htex.agent.bundle import BOOTSTRAP, bundle, modules
from weft_executor_htex.agent.install import AgentHost
from weft_executor_htex.agent.places import RunPlace
from weft_executor_htex.agent.settings import AgentSettings
from weft_executor_htex.remote import _Child
from weft_executor_htex.setup import ManagerSetup
from weft_interfaces import (
    Blocks,
    Call,
    ChannelError,
    CommandResult,
    ConfigError,
    InterchangeLostError,
)
from weft_interfaces.memory import InMemoryProvider
from weft_interfaces.testing.calls import Gate, pass_gate

pytestmark = pytest.mark.once

PATIENCE = 30.0


class Carrier(_Child):
    """A connection that can be waited for: until it has carried so many bytes."""

    def __init__(self, argv: Sequence[str]) -> None:
        super().__init__(argv)
        self.carried = 0
        self._more = threading.Condition()

    def read(self, size: int) -> bytes:
        data = super().read(size)
        with self._more:
            self.carried += len(data)
            self._more.notify_all()
        return data

    def wait_for_bytes(self, count: int) -> None:
        with self._more:
            assert self._more.wait_for(lambda: self.carried >= count, PATIENCE)


class PipeChannel:
    """Commands of this machine with another home, whose connections can be cut."""

    remote = False
    host = "login"

    def __init__(self, home: Path, environment: Mapping[str, str] | None = None) -> None:
        self.home = home
        self.environment = {**os.environ, "HOME": str(home), **(environment or {})}
        self.environment.pop("XDG_CACHE_HOME", None)
        self.down = False
        self.commands: list[list[str]] = []
        self.files: list[str] = []
        self.opened: list[Carrier] = []

    def cut(self) -> None:
        """The connection is lost, and what it carried."""
        self.down = True
        for process in self.opened:
            process._process.kill()

    def restore(self) -> None:
        self.down = False

    def _check(self, argv: Sequence[str]) -> None:
        self.commands.append(list(argv))
        if self.down:
            raise ChannelError("no route to login")

    def run(self, argv: Sequence[str], *, timeout: float | None = None, **_: Any) -> CommandResult:
        self._check(argv)
        ended = subprocess.run(
            argv, capture_output=True, timeout=timeout, check=False, env=self.environment, cwd=self.home
        )
        return CommandResult(ended.returncode, ended.stdout, ended.stderr)

    def open(self, argv: Sequence[str], **_: Any) -> Carrier:
        self._check(argv)
        self.opened.append(Carrier(["env", f"HOME={self.home}", *argv]))
        return self.opened[-1]

    def put(self, local: Path, remote: str) -> None:
        self.files.append(remote)
        shutil.copy(local, f"{remote}.part")
        os.replace(f"{remote}.part", remote)

    def get(self, remote: str, local: Path) -> None:
        raise NotImplementedError

    def makedirs(self, path: str, mode: int = 0o700) -> None:
        raise NotImplementedError

    def close(self) -> None: ...


class Provider(InMemoryProvider):
    def __init__(self, channel: Any) -> None:
        super().__init__()
        self.channel = channel


@pytest.fixture
def channel(tmp_path: Path) -> Iterator[PipeChannel]:
    home = tmp_path / "home of login"
    home.mkdir()
    channel = PipeChannel(home)
    yield channel
    for process in channel.opened:
        process.close()
    deadline = time.monotonic() + PATIENCE
    while agents(channel):
        assert time.monotonic() < deadline, "agents are left"
        time.sleep(0.01)


def agents(channel: PipeChannel) -> list[int]:
    """The agents and relays on this channel's host."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            command = Path(f"/proc/{name}/cmdline").read_bytes()
            if os.fsencode(channel.home) in command and b".pyz\0" in command:
                found.append(int(name))
    return found


def agent_of(channel: PipeChannel) -> int:
    """The process of the only agent."""
    (record,) = (channel.home / ".cache/weft/runs").iterdir()
    return int(json.loads(record.read_text())["pid"])


def directories(channel: PipeChannel) -> list[str]:
    """Where the agents of this channel's host have their things."""
    runs = channel.home / ".cache/weft/runs"
    return [json.loads(record.read_text())["directory"] for record in runs.iterdir()] if runs.exists() else []


@pytest.fixture
def far(channel: PipeChannel, site: Callable[..., Any], monkeypatch: Any) -> Callable[..., Any]:
    monkeypatch.setattr(line_module, "_FIRST_DELAY", 0.02)
    monkeypatch.setattr(line_module, "_LAST_DELAY", 0.1)

    def start(**settings: Any) -> Any:
        names = ("python", "directory", "reconnect", "on_client_loss", "patience", "disk")
        agent = {name: settings.pop(name) for name in names if name in settings}
        wanted = {"provider": Provider(channel), "interchange": "agent", "heartbeat_threshold": 5.0}
        return site(**{**wanted, **settings}, agent=AgentSettings(**agent))

    return start


def submit(here: Any, recorder: Any, function: Any, *arguments: tuple[Any, ...]) -> list[Call]:
    calls = [recorder.call(function, *each) for each in arguments]
    here.executor.submit(calls)
    return calls


def kinds(recorder: Any) -> list[str]:
    return [event.kind for event in recorder.events if event.kind.startswith(("connection", "interchange"))]


def _make_tasks() -> tuple[Any, ...]:
    """Functions that travel by value: workers need not import this module."""

    def append_line(path: str) -> int:
        with open(path, "a") as file:
            file.write("x\n")
        return os.getpid()

    def wait_and_append(gate: Any, path: str) -> None:
        pass_gate(gate)
        append_line(path)

    def fill(size: int, path: str) -> bytes:
        append_line(path)
        return os.urandom(size)

    def turn(data: bytes) -> bytes:
        return data[::-1]

    def note(path: str, number: int) -> int:
        with open(path, "a") as file:
            file.write(f"{number}\n")
        time.sleep(number % 7 / 1000)
        return number

    return append_line, wait_and_append, fill, turn, note


append_line, wait_and_append, fill, turn, note = _make_tasks()


def _pythons() -> list[str]:
    """This one, and those that are older than what the rest needs, if there are some."""
    found = [sys.executable]
    for version in ((3, 8), (3, 9)):
        name = "python{}.{}".format(*version)
        answers = [interpreters.probe(file) for file in interpreters.candidates() if file.name == name]
        found += [str(path) for answer, path in filter(None, answers) if answer[:2] == version][:1]
    return found


# -- it works -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("python", _pythons())
def test_calls_run(far: Any, recorder: Any, channel: PipeChannel, eventually: Any, python: str) -> None:
    """On any Python from 3.8 on, with nothing but its standard library, and nothing is left."""
    here = far(python=python)
    here.start("b")
    calls = submit(here, recorder, abs, *((-n,) for n in range(5000)))
    assert [outcome.value for outcome in recorder.wait(*calls)] == list(range(5000))
    assert recorder.value(here.executor, len, b"x" * 3_000_000) == 3_000_000
    assert recorder.value(here.executor, bytes, 3_000_000) == bytes(3_000_000)
    assert isinstance(recorder.error(here.executor, abs, "x"), TypeError)
    with Gate() as gate:
        (begun,) = submit(here, recorder, pass_gate, (gate.address,))
        gate.wait_begun(PATIENCE)
        here.executor.cancel([begun.id])
        recorder.wait(begun)
    (directory,) = directories(channel)
    assert os.stat(directory).st_mode & 0o777 == 0o700
    assert here.executor.shutdown() == []
    eventually(lambda: agents(channel) == [], "its processes are gone")
    assert not os.path.exists(directory)
    assert [path for path in channel.home.rglob("*") if path.is_file()] == [
        channel.home / ".cache/weft" / bundle().name
    ]
    assert kinds(recorder) == []


@pytest.mark.parametrize("python", _pythons())
def test_managers_come_from_other_machines(far: Any, recorder: Any, python: str) -> None:
    here = far(python=python, address="127.0.0.1")
    here.start("b")
    calls = submit(here, recorder, abs, *((-n,) for n in range(1000)))
    assert [outcome.value for outcome in recorder.wait(*calls)] == list(range(1000))
    assert here.executor.command("x").input.count(b"tls://127.0.0.1:") == 1


def test_managers_try_all_that_may_lead_to_its_host(far: Any) -> None:
    """Its name first, and no address that means another host elsewhere."""
    setup = ManagerSetup.load(far().executor.command("x").input)
    (endpoint,) = setup.access.endpoints
    hosts, _, port = endpoint.url.removeprefix("tls://").rpartition(":")
    assert int(port) > 0
    name, *addresses = hosts.split(",")
    assert name == socket.gethostname()
    assert not [address for address in addresses if ipaddress.ip_address(address).is_loopback]


def test_its_file_is_sent_once(far: Any, recorder: Any, channel: PipeChannel) -> None:
    here, there = far(label="here"), far(label="there")
    assert channel.files == [str(channel.home / ".cache/weft" / bundle().name)]
    for number, each in enumerate((here, there)):
        each.start(f"b{number}")
        assert recorder.value(each.executor, abs, -1) == 1
    assert len(directories(channel)) == 2, "two runs do not disturb each other"
    assert here.executor.shutdown() == []
    assert recorder.value(there.executor, abs, -2) == 2


def test_it_takes_little(far: Any, recorder: Any, channel: PipeChannel) -> None:
    """Less than 60 MB, and less than 1 % of a processor while it is idle."""
    here = far(heartbeat_period=5.0, heartbeat_threshold=30.0)
    here.start("b")
    calls = submit(here, recorder, abs, *((-n,) for n in range(20_000)))
    recorder.wait(*calls)
    agent = agent_of(channel)
    before, begun = _cpu(agent), time.monotonic()
    recorder.value(here.executor, time.sleep, 3.0)
    share = (_cpu(agent) - before) / (time.monotonic() - begun)
    status = Path(f"/proc/{agent}/status").read_text()
    peak = int(status.partition("VmHWM:")[2].split()[0]) / 1000
    print(f"agent: {peak:.0f} MB at most, {100 * share:.2f} % of a processor when idle")
    assert peak < 60
    assert share < 0.02, "a hundredth, and as much for what the clock of the kernel rounds"


def test_large_data_leave_it_small(far: Any, recorder: Any, channel: PipeChannel) -> None:
    """Also 100 MB there and back, and many calls with large arguments that wait."""
    here = far(address="127.0.0.1")
    calls = submit(here, recorder, len, *((os.urandom(90_000),) for _ in range(600)))
    _wait_until_sent(here.executor)
    here.start("b")
    recorder.wait(*calls)
    data = os.urandom(100_000_000)
    assert recorder.value(here.executor, turn, data) == data[::-1]
    status = Path(f"/proc/{agent_of(channel)}/status").read_text()
    peak = int(status.partition("VmHWM:")[2].split()[0]) / 1000
    print(f"agent: {peak:.0f} MB at most")
    assert peak < 60


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_no_time_is_compared_between_hosts() -> None:
    """The site's clock may be wrong by an hour: the agent only tells what it says."""
    for module in modules():
        if module in ("roster", "agent.earlier", "agent.link"):
            continue  # one compares what nodes say, all of which are the site's; the others tell the time
        path = Path(line_module.__file__).parents[1] / f"{module.replace('.', '/')}"
        source = (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text()
        assert "time.time()" not in source, module


def _wait_until_sent(executor: HighThroughputExecutor) -> None:
    """Until the agent has got all calls: they go out behind the first of two questions, before the second."""
    session = executor._session
    assert session is not None
    session.placement.flush()
    session.placement.flush()


# -- the connection breaks ----------------------------------------------------------------------------------


def test_a_connection_that_was_lost_costs_nothing(
    far: Any, recorder: Any, channel: PipeChannel, eventually: Any, tmp_path: Path
) -> None:
    """What runs meanwhile runs once, and its results come when there is a connection again."""
    here = far()
    here.start("b")
    recorder.value(here.executor, abs, -1)
    paths = [str(tmp_path / f"done-{n}") for n in range(20)]
    with Gate() as gate:
        held = submit(here, recorder, pass_gate, (gate.address,), (gate.address,))
        gate.wait_begun(PATIENCE)
        gate.wait_begun(PATIENCE)
        calls = submit(here, recorder, append_line, *((path,) for path in paths))
        _wait_until_sent(here.executor)
        assert list(here.executor.cancel([calls[0].id])) == [calls[0].id]
        channel.cut()
    eventually(lambda: all(map(os.path.exists, paths[1:])), "they run meanwhile")
    assert not recorder.outcomes.keys() & {call.id for call in calls[1:]}
    later = submit(here, recorder, abs, (-7,))
    channel.restore()
    recorder.wait(*held, *calls, *later)
    assert [Path(path).read_text() for path in paths[1:]] == ["x\n"] * 19
    assert recorder.wait(*later)[0].value == 7
    assert kinds(recorder)[0] == "connection.lost"
    assert kinds(recorder)[-1] == "connection.restored"


def test_relays_are_killed_again_and_again(
    far: Any, recorder: Any, channel: PipeChannel, tmp_path: Path
) -> None:
    here = far()
    here.start("b")
    path = str(tmp_path / "lines")
    calls: list[Call] = []
    for _ in range(10):
        calls += submit(here, recorder, append_line, *[(path,)] * 200)
        channel.opened[-1]._process.kill()
    values = [outcome.value for outcome in recorder.wait(*calls)]
    assert len(values) == 2000
    assert Path(path).read_text() == "x\n" * 2000
    assert "interchange.lost" not in kinds(recorder)


def test_a_large_result_passes_through_broken_connections(
    far: Any, recorder: Any, channel: PipeChannel, eventually: Any
) -> None:
    here = far()
    here.start("b")
    recorder.value(here.executor, abs, -1)
    (call,) = submit(here, recorder, os.urandom, (100_000_000,))
    for number in range(3):
        eventually(lambda number=number: len(channel.opened) > number, "it is connected again")
        channel.opened[-1].wait_for_bytes(1 if number else 1_000_000)  # later ones may carry little
        channel.cut()
        channel.restore()
    assert len(recorder.wait(call)[0].value) == 100_000_000
    assert channel.opened[0].carried < 100_000_000
    assert kinds(recorder)[0] == "connection.lost"
    assert kinds(recorder)[-1] == "connection.restored"


def _wait_for_cut(channel: PipeChannel, recorder: Any, eventually: Any) -> None:
    channel.cut()
    eventually(lambda: "connection.failed" in kinds(recorder), "the loss is noticed")


def test_results_wait_in_files(
    far: Any, recorder: Any, channel: PipeChannel, eventually: Any, tmp_path: Path
) -> None:
    """200 MB of them, in an agent that has less than 60 MB."""
    here = far(large="10MB")
    here.start("b")
    recorder.value(here.executor, abs, -1)
    path = str(tmp_path / "lines")
    with Gate() as gate:
        held = submit(here, recorder, pass_gate, (gate.address,), (gate.address,))
        gate.wait_begun(PATIENCE)
        calls = submit(here, recorder, fill, *((2_000_000, path) for _ in range(100)))
        here.executor.cancel([held[1].id])
        _wait_for_cut(channel, recorder, eventually)
    eventually(lambda: os.path.exists(path) and Path(path).read_text() == "x\n" * 100, "all have run")
    agent = agent_of(channel)
    status = Path(f"/proc/{agent}/status").read_text()
    assert int(status.partition("VmHWM:")[2].split()[0]) < 60_000
    channel.restore()
    assert [len(outcome.value) for outcome in recorder.wait(*calls)] == [2_000_000] * 100
    assert Path(path).read_text() == "x\n" * 100


def test_with_too_many_results_it_gives_out_no_calls(
    far: Any, recorder: Any, channel: PipeChannel, eventually: Any, tmp_path: Path
) -> None:
    here = far(disk="4MB", large="10MB")
    here.start("b")
    recorder.value(here.executor, abs, -1)
    path = tmp_path / "lines"
    with Gate() as gate:
        held = submit(here, recorder, pass_gate, (gate.address,), (gate.address,))
        gate.wait_begun(PATIENCE)
        calls = submit(here, recorder, fill, *((1_000_000, str(path)) for _ in range(40)))
        here.executor.cancel([held[1].id])
        _wait_for_cut(channel, recorder, eventually)
    eventually(lambda: path.exists() and len(path.read_text()) >= 2 * 4, "some have run")
    seen = -1
    while seen != (now := len(path.read_text())):  # until nothing more runs for a while
        seen = now
        time.sleep(1.0)
    assert seen < 2 * 40
    channel.restore()
    assert [len(outcome.value) for outcome in recorder.wait(*calls)] == [1_000_000] * 40
    assert path.read_text() == "x\n" * 40


def test_a_connection_that_does_not_come_back_is_given_up(
    far: Any, recorder: Any, channel: PipeChannel, eventually: Any
) -> None:
    here = far(reconnect=0.5, patience=1.0)
    here.start("b")
    with Gate() as gate:
        begun = submit(here, recorder, pass_gate, (gate.address,))
        gate.wait_begun(PATIENCE)
        channel.cut()
        error = recorder.wait(*begun)[0].error
    assert isinstance(error, InterchangeLostError)
    assert "no connection could be made within 0.5 s: no route to login" in str(error)
    eventually(lambda: agents(channel) == [], "it ends by itself")
    assert directories(channel) == []


# -- it dies ------------------------------------------------------------------------------------------------


def test_an_agent_is_killed(
    far: Any, recorder: Any, channel: PipeChannel, eventually: Any, tmp_path: Path
) -> None:
    """What it left is removed, the next one has its managers, and each call has run once."""
    here = far(heartbeat_threshold=20.0)
    manager = here.start("b")
    recorder.value(here.executor, abs, -1)
    path = tmp_path / "marks"
    with Gate() as gate:
        begun = submit(here, recorder, wait_and_append, *((gate.address, str(path)) for _ in range(2)))
        waiting = submit(here, recorder, append_line, *((str(path),) for _ in range(20)))
        for _ in range(2):
            gate.wait_begun(PATIENCE)
        for number in range(2):
            (before,) = directories(channel)
            os.kill(agent_of(channel), signal.SIGKILL)
            eventually(lambda number=number: _lost(recorder) == number + 1, "its loss is told")
            eventually(lambda: _has_access(here.executor), "the next one is there")
            assert not os.path.exists(before)
    for outcome in recorder.wait(*begun, *waiting):
        assert outcome.error is None
    assert path.read_text() == "x\n" * 22
    assert [each["pid"] for each in here.executor.status()["managers"]] == [manager.pid]
    assert manager.poll() is None


@pytest.mark.parametrize("seed", range(3))
def test_each_call_runs_once_however_often_agents_are_killed(
    far: Any,
    recorder: Any,
    channel: PipeChannel,
    eventually: Any,
    monkeypatch: Any,
    tmp_path: Path,
    seed: int,
) -> None:
    """At any moment, while calls are given out and results are on their way."""
    monkeypatch.setattr(remote, "_SOON", 0.0)
    random = Random(seed)
    here = far(heartbeat_threshold=20.0)
    here.start("b1")
    here.start("b2")
    path = tmp_path / "marks"
    calls = submit(here, recorder, note, *((str(path), number) for number in range(2000)))
    for number, done in enumerate(range(200, 2000, 400)):
        recorder.wait(calls[done + random.randrange(150)])
        eventually(lambda number=number: _lost(recorder) == number, "the last loss is told")
        eventually(lambda: _has_access(here.executor), "an agent is there")
        os.kill(agent_of(channel), signal.SIGKILL)
        threading.Event().wait(random.random() / 2)  # any moment will do
    assert [outcome.value for outcome in recorder.wait(*calls)] == list(range(2000))
    assert Counter(path.read_text().split()) == {str(number): 1 for number in range(2000)}


def test_what_is_large_outlives_agents(
    far: Any, recorder: Any, channel: PipeChannel, eventually: Any, tmp_path: Path
) -> None:
    """On its way to the nodes, there, and on its way back."""
    here = far(heartbeat_threshold=20.0)
    here.start("b")
    array = np.arange(3_000_000)
    assert recorder.value(here.executor, np.sum, array) == array.sum()
    path = tmp_path / "marks"
    calls = submit(here, recorder, fill, *((6_000_000, str(path)) for _ in range(12)))
    eventually(lambda: path.exists() and len(path.read_text()) >= 2 * 3, "some have run")
    os.kill(agent_of(channel), signal.SIGKILL)
    sums = submit(here, recorder, np.sum, *((array + number,) for number in range(3)))
    again = submit(here, recorder, np.add, (array, array))
    assert [len(outcome.value) for outcome in recorder.wait(*calls)] == [6_000_000] * 12
    assert [outcome.value for outcome in recorder.wait(*sums)] == [(array + n).sum() for n in range(3)]
    assert (recorder.wait(*again)[0].value == 2 * array).all()
    assert path.read_text() == "x\n" * 12


def _lost(recorder: Any) -> int:
    return sum(event.kind == "interchange.lost" for event in recorder.events)


@pytest.mark.parametrize("how", ["the port is taken", "stopped"])
def test_an_agent_is_lost(far: Any, recorder: Any, channel: PipeChannel, eventually: Any, how: str) -> None:
    """Where its managers do not find the next one, its calls are lost, they end, and what comes later runs in
    the next one's."""
    here = far(heartbeat_threshold=1.5)
    old = here.start("old")
    recorder.value(here.executor, abs, -1)
    with Gate() as gate:
        begun = submit(here, recorder, pass_gate, (gate.address,))
        gate.wait_begun(PATIENCE)
        directories_before = directories(channel)
        port = _port(here.executor)
        os.kill(agent_of(channel), signal.SIGSTOP if how == "stopped" else signal.SIGKILL)
        with contextlib.ExitStack() as stack:
            if how != "stopped":
                stack.enter_context(_taken(port))
            error = recorder.wait(*begun)[0].error
        assert isinstance(error, InterchangeLostError)
        words = "the agent does not answer" if how == "stopped" else "it has ended"
        assert words in str(error)
    assert old.wait(PATIENCE) == 0
    eventually(lambda: _has_access(here.executor), "the next one is there")
    here.start("new")
    assert recorder.value(here.executor, abs, -3) == 3
    assert not os.path.exists(directories_before[0])
    assert len(directories(channel)) == 1


def _port(executor: HighThroughputExecutor) -> int:
    """Where its interchange listens."""
    (endpoint,) = ManagerSetup.load(executor.command("x").input).access.endpoints
    return int(endpoint.url.rpartition(":")[2])


def _taken(port: int) -> socket.socket:
    """A listener on that port, as soon as nobody else has it: sooner than a new process can."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return socket.create_server(("", port))
        except OSError:
            assert time.monotonic() < deadline


def _has_access(executor: HighThroughputExecutor) -> bool:
    try:
        executor.command("x")
    except ChannelError:
        return False
    return True


def test_a_manager_is_killed(far: Any, recorder: Any) -> None:
    here = far()
    manager = here.start("b")
    with Gate() as gate:
        begun = submit(here, recorder, pass_gate, (gate.address,))
        gate.wait_begun(PATIENCE)
        manager.kill()
        assert "manager" in str(recorder.wait(*begun)[0].error)
    here.start("c")
    assert recorder.value(here.executor, abs, -3) == 3


# -- the client dies ----------------------------------------------------------------------------------------

_CLIENT = """
import sys, threading
from pathlib import Path
from random import Random
sys.path[:0] = {folders!r}
import test_agent as t
from weft_interfaces.testing.recorder import Recorder
here = t.Path({home!r})
channel = t.PipeChannel(here)
executor = t.HighThroughputExecutor(
    workers_per_node=2, blocks=t.Blocks(provider=t.Provider(channel)), interchange="agent",
    heartbeat_period=0.2, heartbeat_threshold=5.0,
    agent=t.AgentSettings(patience={patience}, on_client_loss={loss!r}),
)
recorder = Recorder(Path({folder_of_recorder!r}))
executor.start(recorder)
command = executor.command("b")
manager = t.subprocess.Popen(list(command.argv), stdin=t.subprocess.PIPE, start_new_session=True)
manager.stdin.write(command.input)
manager.stdin.close()
executor.submit([recorder.call(t.wait_and_append, {gate!r}, {path!r})])
recorder.value(executor, abs, -1)
print(manager.pid, flush=True)
threading.Event().wait()
"""


@pytest.mark.parametrize("loss", ["cancel", "drain"])
def test_the_client_is_killed(channel: PipeChannel, tmp_path: Path, eventually: Any, loss: str) -> None:
    """Within its patience the agent goes on; then it ends its managers, at once or when they have finished,
    and leaves nothing.
    """
    path = tmp_path / "done"
    with Gate() as gate:
        code = _CLIENT.format(
            folders=[str(Path(each).parent) for each in (__file__, interpreters.__file__)],
            home=str(channel.home),
            patience=1.0,
            loss=loss,
            folder_of_recorder=str(tmp_path / "recorder"),
            gate=gate.address,
            path=str(path),
        )
        client = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        assert client.stdout is not None
        manager = int(client.stdout.readline())
        gate.wait_begun(PATIENCE)
        (directory,) = directories(channel)
        client.kill()
        client.wait()
        client.stdout.close()
        if loss == "cancel":
            eventually(lambda: agents(channel) == [], "it ends by itself")
        else:
            threading.Event().wait(2.0)  # twice the patience: it is still there
            assert agent_of(channel) in agents(channel)
    eventually(lambda: agents(channel) == [], "it ends by itself")
    eventually(lambda: not os.path.exists(f"/proc/{manager}"), "so does its manager")
    assert path.exists() == (loss == "drain")
    assert not os.path.exists(directory)
    assert directories(channel) == []


# -- hosts that are not fit for it --------------------------------------------------------------------------


def _executor(channel: PipeChannel, **agent: Any) -> HighThroughputExecutor:
    return HighThroughputExecutor(
        blocks=Blocks(provider=Provider(channel)), interchange="agent", agent=AgentSettings(**agent)
    )


def _refusal(channel: PipeChannel, recorder: Any, **agent: Any) -> str:
    executor = _executor(channel, **agent)
    with pytest.raises((ConfigError, ChannelError)) as caught:
        executor.start(recorder)
    assert executor.shutdown() == []
    return str(caught.value)


def test_no_python_is_said_in_words(channel: PipeChannel, recorder: Any, tmp_path: Path) -> None:
    channel.environment["PATH"] = str(tmp_path)
    words = _refusal(channel, recorder)
    assert "3.8 or newer on login, and there is none: name one with AgentSettings(python=...)" in words


def test_an_old_python_is_said_in_words(channel: PipeChannel, recorder: Any, tmp_path: Path) -> None:
    for name in ("python3", "python"):
        script = tmp_path / name
        script.write_text('#!/bin/sh\n[ "$1" = -V ] && echo "Python 3.6.8"\nexit 1\n')
        script.chmod(0o755)
    channel.environment["PATH"] = str(tmp_path)
    words = _refusal(channel, recorder)
    assert "python3 is Python 3.6.8, python is Python 3.6.8: name one with AgentSettings(python=...)" in words


def test_a_home_that_cannot_be_written_is_said_in_words(
    channel: PipeChannel, recorder: Any, tmp_path: Path
) -> None:
    (channel.home / ".cache").write_text("no directory")
    words = _refusal(channel, recorder)
    assert ".cache" in words
    assert "name another directory with AgentSettings(directory=...)" in words
    other = tmp_path / "other"
    executor = _executor(channel, directory=str(other))
    executor.start(recorder)
    assert executor.shutdown() == []
    assert [path.name for path in other.iterdir()] == [bundle().name]


def test_a_full_disk_is_said_in_words(channel: PipeChannel, recorder: Any, monkeypatch: Any) -> None:
    def put(local: Path, remote: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(channel, "put", put)
    words = _refusal(channel, recorder)
    assert "No space left on device; it must be writable and have room, or name another directory" in words
    assert words.count("weft-agent-") == 1


def test_what_is_not_what_was_sent_is_sent_again_or_refused(
    channel: PipeChannel, recorder: Any, monkeypatch: Any
) -> None:
    executor = _executor(channel)
    executor.start(recorder)
    assert executor.shutdown() == []
    file = channel.home / ".cache/weft" / bundle().name
    file.write_bytes(b"something else")
    executor.start(recorder)
    assert executor.shutdown() == []
    assert file.read_bytes() == bundle().data
    file.unlink()
    monkeypatch.setattr(channel, "put", lambda local, remote: Path(remote).write_bytes(b"half of it"))
    assert "is not what was sent there" in _refusal(channel, recorder)


def test_runs_that_end_do_not_take_the_place_of_records_from_those_that_begin(
    tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "weft-agent.pyz")])
    ends = threading.Event()

    def end_others() -> None:
        while not ends.is_set():
            RunPlace("b").remove()

    others = threading.Thread(target=end_others)
    others.start()
    try:
        for _ in range(500):
            RunPlace("a").note()
            assert RunPlace("a").about["pid"] == os.getpid()
    finally:
        ends.set()
        others.join()


def test_without_room_for_its_record_an_agent_says_where_it_was_to_be(
    tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "weft-agent.pyz")])
    place = RunPlace("a")
    (tmp_path / "runs").write_text("no directory")
    with pytest.raises(OSError, match=rf"{tmp_path}/runs: File exists; .*AgentSettings\(directory"):
        place.note()


def test_old_versions_are_removed_after_a_while(channel: PipeChannel) -> None:
    folder = channel.home / ".cache/weft"
    folder.mkdir(parents=True)
    for name, days in (("weft-agent-old.pyz", 100), ("weft-agent-new.pyz", 1), ("notes", 100)):
        (folder / name).touch()
        os.utime(folder / name, (time.time() - days * 86400,) * 2)
    AgentHost(channel).prepare()  # type: ignore[arg-type]
    left = {path.name for path in folder.iterdir()}
    assert left == {"weft-agent-new.pyz", "notes", bundle().name}


def test_login_scripts_may_print(channel: PipeChannel, monkeypatch: Any, recorder: Any) -> None:
    run, start = channel.run, channel.open

    def noisy_run(argv: Sequence[str], **options: Any) -> CommandResult:
        ended = run(argv, **options)
        return ended._replace(stdout=b"Welcome!\n" + ended.stdout)

    def noisy_open(argv: Sequence[str], **options: Any) -> Any:
        return start(["sh", "-c", 'echo "Welcome!"; exec "$@"', "sh", *argv])

    monkeypatch.setattr(channel, "run", noisy_run)
    monkeypatch.setattr(channel, "open", noisy_open)
    executor = _executor(channel)
    executor.start(recorder)
    assert executor.shutdown() == []


def test_another_login_node_is_said_in_words(
    far: Any, channel: PipeChannel, recorder: Any, eventually: Any
) -> None:
    """As where a name stands for several of them, which share the home directory: it may be the right one
    next time."""
    here = far()
    here.start("b")
    recorder.value(here.executor, abs, -1)
    (record,) = (channel.home / ".cache/weft/runs").iterdir()
    about = record.read_text()
    channel.cut()
    record.write_text(json.dumps({**json.loads(about), "host": "login2", "directory": "/nowhere"}))
    channel.restore()
    eventually(
        lambda: any("it runs on login2" in str(event.data) for event in recorder.events), "the host is named"
    )
    record.write_text(about)
    assert recorder.value(here.executor, abs, -2) == 2


# -- its file -----------------------------------------------------------------------------------------------


def test_the_same_sources_give_the_same_file() -> None:
    code = "from weft_executor_htex.agent.bundle import bundle; print(bundle().digest)"
    for seed in ("1", "2"):
        said = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
        ).stdout
        assert said.strip() == bundle().digest


def test_it_needs_nothing_but_the_standard_library(tmp_path: Path) -> None:
    """All of its modules can be imported where nothing else is."""
    path = tmp_path / bundle().name
    path.write_bytes(bundle().data)
    code = f"import sys; sys.path[:] = [{str(path)!r}, *(p for p in sys.path if 'site-packages' not in p)]\n"
    code += "".join(f"import weft_executor_htex.{module}\n" for module in modules())
    for python in _pythons():
        subprocess.run([python, "-I", "-S", "-c", code], check=True, cwd=tmp_path)


@pytest.mark.parametrize("version", [(2, 7), (3, 5), (3, 7)])
def test_an_old_python_says_what_it_is(version: tuple[int, int], monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setattr(sys, "version_info", (*version, 1))
    with pytest.raises(SystemExit) as caught:
        exec(compile(BOOTSTRAP, "__main__.py", "exec"), {"__name__": "__main__"})
    assert caught.value.code == 78
    assert "it needs Python 3.8 or newer" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["start"], ["fly", "abc"], ["start", "../abc"]])
def test_wrong_arguments_are_refused(tmp_path: Path, arguments: list[str]) -> None:
    path = tmp_path / bundle().name
    path.write_bytes(bundle().data)
    ended = subprocess.run(
        [sys.executable, str(path), *arguments], capture_output=True, text=True, check=False, timeout=PATIENCE
    )
    assert ended.returncode == 2
    assert ended.stderr.startswith("weft agent: ")
    assert "Traceback" not in ended.stderr


# -- settings -----------------------------------------------------------------------------------------------


def test_it_is_the_default_where_the_channel_leads_elsewhere(channel: PipeChannel, monkeypatch: Any) -> None:
    blocks = Blocks(provider=Provider(channel))
    assert HighThroughputExecutor(blocks=blocks)._interchange == "thread"
    assert HighThroughputExecutor(blocks=Blocks(provider=InMemoryProvider()))._interchange == "thread"
    monkeypatch.setattr(channel, "remote", True)
    assert HighThroughputExecutor(blocks=blocks)._interchange == "agent"


def test_an_agent_needs_a_channel() -> None:
    with pytest.raises(ConfigError, match="the provider has none: give it one with channel="):
        HighThroughputExecutor(blocks=Blocks(provider=InMemoryProvider()), interchange="agent")


@pytest.mark.parametrize(
    ("field", "value"),
    [("reconnect", "soon"), ("patience", -1), ("disk", "much"), ("on_client_loss", "wait")],
)
def test_settings_that_cannot_be_are_refused(field: str, value: Any) -> None:
    with pytest.raises(ValueError if field != "on_client_loss" else ConfigError, match=f"agent.{field}"):
        AgentSettings(**{field: value})


# -- what clients have left ---------------------------------------------------------------------------------


def test_an_agent_is_found_by_its_run_and_executor_and_ended(
    far: Any, recorder: Any, channel: PipeChannel, eventually: Any
) -> None:
    here, there = far(label="here"), far(label="there")
    owners = {about["owner"]: about["pid"] for about in map(json.loads, records(channel))}
    pid, other = (owners[json.dumps([recorder.run_id, label])] for label in ("here", "there"))
    asks = HighThroughputExecutor("here", blocks=Blocks(provider=Provider(channel)), interchange="agent")
    assert asks.find_left(recorder.run_id) == [f"agent {pid} on {socket.gethostname()}, which runs"]
    assert asks.find_left("another run") == []
    asks.end_left(recorder.run_id)
    assert pid not in agents(channel)
    assert other in agents(channel)
    eventually(lambda: len(asks.find_left(recorder.run_id)) == 1, "its client lives, and starts the next one")
    assert here.executor.shutdown() == []
    assert there.executor.shutdown() == []


@pytest.mark.parametrize("elsewhere", [False, True])
def test_what_an_agent_left_that_was_killed_is_removed_on_its_own_host(
    channel: PipeChannel, tmp_path: Path, elsewhere: bool
) -> None:
    directory, runs = tmp_path / "weft-agent-x", channel.home / ".cache/weft/runs"
    directory.mkdir()
    (directory / "log").touch()
    runs.mkdir(parents=True)
    about = {"directory": str(directory), "host": socket.gethostname(), "pid": 1 << 30}
    if elsewhere:
        about["host"] = "login2"
    (runs / "a1b2").write_text(json.dumps({**about, "owner": json.dumps(["r", "htex"])}))
    (runs / "damaged").write_text("{")
    asks = HighThroughputExecutor("htex", blocks=Blocks(provider=Provider(channel)), interchange="agent")
    (words,) = asks.find_left("r")
    if elsewhere:
        assert words == f"agent {1 << 30} on login2, which may run"
        with pytest.raises(ChannelError, match="login2, which may run: connect to that host"):
            asks.end_left("r")
        assert len(list(runs.iterdir())) == 2
    else:
        assert words.endswith("which ended without removing its files")
        asks.end_left("r")
        assert [path.name for path in runs.iterdir()] == ["damaged"]
    assert directory.exists() is elsewhere


def test_an_executor_without_an_agent_leaves_nothing_on_other_hosts() -> None:
    asks = HighThroughputExecutor("htex", blocks=Blocks(provider=InMemoryProvider()))
    assert asks.find_left("r") == []
    asks.end_left("r")


def records(channel: PipeChannel) -> list[str]:
    return [path.read_text() for path in (channel.home / ".cache/weft/runs").iterdir()]
