"""A run whose client is killed goes on, and another process gets what it gives."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from weft_executor_htex import HighThroughputExecutor
from weft_executor_htex.agent.attachment import Attachment
from weft_executor_htex.agent.durable import Folder, SentFile, Streams
from weft_executor_htex.agent.replay import Messages, read_sent
from weft_executor_htex.client_blobs import ClientBlobs
from weft_executor_htex.stream import pack
from weft_interfaces import Blocks, ConfigError, InputError, InterchangeLostError, Outcome
from weft_interfaces.memory import InMemoryProvider
from weft_interfaces.testing.recorder import Recorder

pytestmark = pytest.mark.once

PATIENCE = 30.0

# A client, and a manager that outlives it. It says what it hears of, a line for each outcome.
CLIENT = """
import functools, json, os, shutil, subprocess, sys, threading
from pathlib import Path
from weft_executor_htex import AgentSettings, HighThroughputExecutor
from weft_executor_htex.remote import _Child
from weft_interfaces import Blocks, Call, CallOptions, CommandResult
from weft_interfaces.memory import InMemoryProvider

class Channel:
    remote, host = False, "login"

    def __init__(self, home):
        self.home = home

    def run(self, argv, *, timeout=None, **_):
        environment = {**os.environ, "HOME": self.home}
        environment.pop("XDG_CACHE_HOME", None)
        ended = subprocess.run(argv, capture_output=True, timeout=timeout, env=environment, cwd=self.home)
        return CommandResult(ended.returncode, ended.stdout, ended.stderr)

    def open(self, argv, **_):
        return _Child(["env", "-u", "XDG_CACHE_HOME", f"HOME={self.home}", *argv])

    def put(self, local, remote):
        shutil.copy(local, remote)

    def close(self):
        pass

class Provider(InMemoryProvider):
    def __init__(self, channel):
        super().__init__()
        self.channel = channel

class Context:
    run_id = "test"
    make_scaler = None

    def __init__(self, folder):
        self.directory, self.detached = folder / "files", folder / "detached"
        self.lock = threading.Lock()

    def completed(self, outcomes):
        with self.lock:
            for outcome in outcomes:
                print(json.dumps(["outcome", outcome.id, repr(outcome.error)]), flush=True)

    def emit(self, events):
        pass

def work(folder, number, until=None, size=0):
    with open(f"{folder}/ran-{number}", "a") as file:
        file.write("x")
    while until and not os.path.exists(until):
        import time
        time.sleep(0.01)
    return (number, bytes(size))

def main(folder, count, managers, until, size):
    channel = Channel(str(folder / "home"))
    executor = HighThroughputExecutor(
        "far", workers_per_node=2, blocks=Blocks(provider=Provider(channel)), interchange="agent",
        heartbeat_period=0.2, heartbeat_threshold=10.0, agent=AgentSettings(keep=os.environ["KEEP"]),
    )
    executor.start(Context(folder))
    for number in range(managers):
        argv, setup = executor.command(f"b{number}")
        manager = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True
        )
        manager.stdin.write(setup)
        manager.stdin.close()
        print(json.dumps(["manager", manager.pid]), flush=True)
    options = CallOptions(name="work")
    for number in range(count):
        executor.submit([Call(number, work, (str(folder), number, until, size), {}, options)])
    print(json.dumps(["submitted", count]), flush=True)
    if os.environ.get("LEAVE"):
        print(json.dumps(["left", executor.detach()]), flush=True)
        return
    threading.Event().wait()

main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4] or None, int(sys.argv[5]))
"""


class Client:
    """A client in a process of its own."""

    def __init__(
        self, folder: Path, count: int, managers: int, until: str, size: int, leave: bool, keep: str
    ) -> None:
        self.folder = folder
        self.managers: list[int] = []
        self.heard: list[int] = []
        argv = [sys.executable, "-c", CLIENT, *map(str, (folder, count, managers, until, size))]
        environment = {**os.environ, "KEEP": keep, **({"LEAVE": "1"} if leave else {})}
        self.process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=environment)

    def read_until(self, enough: Callable[[str, Any], bool]) -> None:
        """Read what it says, up to this."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            kind, *values = json.loads(line)
            if kind == "manager":
                self.managers += values
            elif kind == "outcome":
                self.heard.append(values[0])
                assert values[1] == "None"
            if enough(kind, values[0]):
                return
        raise AssertionError("it has ended")

    def submitted(self) -> None:
        self.read_until(lambda kind, value: kind == "submitted")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


class Listener:
    """What an attachment reports."""

    def __init__(self) -> None:
        self.outcomes: dict[int, Outcome] = {}
        self.repeated: list[int] = []
        self._changed = threading.Condition()

    def completed(self, outcomes: Sequence[Outcome]) -> None:
        with self._changed:
            for outcome in outcomes:
                if outcome.id in self.outcomes:
                    self.repeated.append(outcome.id)
                self.outcomes[outcome.id] = outcome
            self._changed.notify_all()

    def wait(self, count: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.outcomes) >= count, PATIENCE), len(self.outcomes)

    def values(self) -> dict[int, Any]:
        assert not self.repeated
        return {task: outcome.value[0] for task, outcome in self.outcomes.items() if outcome.error is None}


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Callable[..., Client]]:
    clients: list[Client] = []
    (tmp_path / "home").mkdir()

    def start(
        count: int = 40,
        managers: int = 1,
        until: str = "",
        size: int = 0,
        leave: bool = False,
        keep: str = "7d",
    ) -> Client:
        clients.append(Client(tmp_path, count, managers, until, size, leave, keep))
        return clients[-1]

    yield start
    for each in clients:
        each.kill()
        for pid in (*agents(each), *each.managers):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def agents(client: Client) -> list[int]:
    """The agents and relays of this client's host."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            command = Path(f"/proc/{name}/cmdline").read_bytes()
            if os.fsencode(client.folder / "home") in command and b".pyz\0" in command:
                found.append(int(name))
    return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def marks(client: Client) -> dict[int, str]:
    """How often each call has run."""
    return {int(path.name[4:]): path.read_text() for path in client.folder.glob("ran-*")}


def attach(client: Client) -> tuple[Attachment, Listener]:
    listener = Listener()
    attachment = Attachment(client.folder / "detached", listener.completed)
    try:
        attachment.replay()
        attachment.connect()
    except BaseException:
        attachment.leave()
        raise
    return attachment, listener


def finish(client: Client, attachment: Attachment, eventually: Any) -> None:
    """Nothing is left where the run was."""
    assert attachment.finish() == []
    eventually(lambda: not agents(client), "its agent is gone")
    eventually(lambda: not any(map(alive, client.managers)), "its managers are gone")
    assert not list((client.folder / "home/.cache/weft").glob("runs/*"))


@pytest.mark.parametrize("seed", range(6))
def test_all_results_come_once_whenever_the_client_is_killed(client: Any, eventually: Any, seed: int) -> None:
    chosen = random.Random(seed)
    far = client(40, size=chosen.choice([0, 0, 200_000]))
    enough = chosen.randrange(40)
    if chosen.random() < 0.7:
        far.submitted()
    far.read_until(lambda kind, value: len(far.heard) >= enough)
    far.kill()
    attachment, listener = attach(far)
    listener.wait(len(attachment.names))
    assert listener.values() == {task: task for task in attachment.names}
    assert set(far.heard) <= set(attachment.names)
    assert marks(far) == dict.fromkeys(attachment.names, "x")
    finish(far, attachment, eventually)


@pytest.mark.parametrize("seed", range(3))
def test_all_results_come_once_whenever_agent_and_client_are_killed(
    client: Any, eventually: Any, tmp_path: Path, seed: int
) -> None:
    """One after the other, while results come."""
    chosen = random.Random(seed)
    sent = tmp_path / "detached/2/sent"
    far = client(2000)
    for most in (800, 1600):
        enough = len(far.heard) + 1 + chosen.randrange(most - len(far.heard))
        far.read_until(lambda kind, value, enough=enough: len(far.heard) == enough)
        if most == 800:
            for pid in agents(far):
                os.kill(pid, signal.SIGKILL)
            eventually(lambda: sent.exists() and b"Tasks" in sent.read_bytes(), "the next one takes over")
    far.kill()
    attachment, listener = attach(far)
    listener.wait(len(attachment.names))
    assert listener.values() == {task: task for task in attachment.names}
    assert marks(far) == dict.fromkeys(attachment.names, "x")
    finish(far, attachment, eventually)


def test_calls_run_while_nobody_is_there(client: Any, eventually: Any) -> None:
    """All of them, and then the manager ends: the nodes are not held for results."""
    far = client(30)
    far.submitted()
    far.read_until(lambda kind, value: len(far.heard) >= 1)
    far.kill()
    eventually(lambda: len(marks(far)) == 30, "all have run")
    eventually(lambda: not any(map(alive, far.managers)), "its manager has ended")
    attachment, listener = attach(far)
    assert set(listener.outcomes) >= set(far.heard)
    listener.wait(30)
    assert listener.values() == {task: task for task in range(30)}
    assert attachment.names == dict.fromkeys(range(30), "work")
    finish(far, attachment, eventually)


def test_more_calls_than_a_client_gives_out_run_without_it(
    client: Any, eventually: Any, tmp_path: Path
) -> None:
    far = client(9000, managers=0)
    far.submitted()
    file = tmp_path / "detached/1/sent"
    eventually(
        lambda: len(read_sent(Messages(file), ClientBlobs(), {}).entries) == 9000, "they are in the file"
    )
    far.kill()
    attachment, listener = attach(far)
    assert len(attachment.names) == 9000
    assert listener.outcomes == {}
    attachment.leave()


def test_a_run_can_be_attached_to_again(client: Any, eventually: Any, tmp_path: Path) -> None:
    """By one process at a time; what came before comes again, also when all is over, and nothing twice."""
    gate = tmp_path / "go"
    far = client(10, until=str(gate))
    far.submitted()
    with pytest.raises(InputError, match=f"process {far.process.pid} on "):
        Attachment(tmp_path / "detached", lambda outcomes: None)
    far.kill()
    first, listener = attach(far)
    with pytest.raises(InputError, match=f"process {os.getpid()} on "):
        Attachment(tmp_path / "detached", lambda outcomes: None)
    assert not listener.outcomes
    assert first.leave() == []
    gate.touch()
    second, again = attach(far)
    again.wait(10)
    finish(far, second, eventually)
    third, over = attach(far)
    assert over.values() == again.values() == {task: task for task in range(10)}
    assert third.finish() == []
    assert marks(far) == dict.fromkeys(range(10), "x")


def test_a_client_can_leave(client: Any, eventually: Any, tmp_path: Path) -> None:
    gate = tmp_path / "go"
    far = client(10, until=str(gate), leave=True)
    said: list[Any] = []
    far.read_until(lambda kind, value: kind == "left" and not said.append(value))
    assert said == [[]]
    assert far.process.wait(PATIENCE) == 0
    gate.touch()
    attachment, listener = attach(far)
    listener.wait(10)
    assert listener.values() == {task: task for task in range(10)}
    finish(far, attachment, eventually)


def test_what_was_lost_with_its_manager_runs_again(client: Any, eventually: Any, tmp_path: Path) -> None:
    gate = tmp_path / "go"
    far = client(4, managers=2, until=str(gate))
    far.submitted()
    eventually(lambda: len(marks(far)) == 4, "all have begun")
    far.kill()
    os.kill(far.managers[0], signal.SIGKILL)
    attachment, listener = attach(far)
    eventually(lambda: sum(map(len, marks(far).values())) >= 4, "they have begun")
    gate.touch()
    listener.wait(4)
    assert listener.values() == {task: task for task in range(4)}
    assert sorted(map(len, marks(far).values())) == [1, 1, 2, 2]
    finish(far, attachment, eventually)
    after, over = attach(far)
    assert over.values() == listener.values(), "a second process knows which tries are of which tasks"
    after.finish()


def test_an_agent_that_is_gone_is_said_once_for_all(client: Any, eventually: Any, tmp_path: Path) -> None:
    far = client(10, until=str(tmp_path / "go"))
    far.submitted()
    eventually(lambda: len(marks(far)) == 2, "it works")
    far.kill()
    for pid in agents(far):
        os.kill(pid, signal.SIGKILL)
    for _ in range(2):
        attachment, listener = attach(far)
        assert len(listener.outcomes) == 10
        assert all(isinstance(each.error, InterchangeLostError) for each in listener.outcomes.values())
        assert "it has ended" in str(listener.outcomes[0].error)
        assert attachment.finish() == []


@pytest.mark.parametrize("over", [False, True], ids=["calls run", "calls are over"])
def test_what_managers_brought_to_the_next_agent_is_found(
    client: Any, eventually: Any, tmp_path: Path, over: bool
) -> None:
    """The agent is killed, another one takes over, and then the client is killed."""
    gate = tmp_path / "go"
    far = client(20, until=str(gate))
    far.submitted()
    eventually(lambda: len(marks(far)) == 2, "two have begun")
    for pid in agents(far):
        os.kill(pid, signal.SIGKILL)
    sent = tmp_path / "detached/2/sent"
    eventually(lambda: sent.exists() and b"Regained" in sent.read_bytes(), "its manager has come back")
    if over:
        gate.touch()
        far.read_until(lambda kind, value: len(far.heard) == 10)
    far.kill()
    gate.touch()
    attachment, listener = attach(far)
    listener.wait(20)
    assert listener.values() == {task: task for task in range(20)}
    assert marks(far) == dict.fromkeys(range(20), "x")
    finish(far, attachment, eventually)


def test_an_agent_to_which_nobody_comes_ends_by_itself(client: Any, eventually: Any, tmp_path: Path) -> None:
    far = client(4, keep="1s")
    far.submitted()
    far.kill()
    eventually(lambda: not agents(far), "its agent is gone")
    eventually(lambda: not any(map(alive, far.managers)), "its manager is gone")
    assert not list((tmp_path / "home/.cache/weft").glob("runs/*"))
    attachment, listener = attach(far)
    errors = [each.error for each in listener.outcomes.values() if each.error is not None]
    assert len(listener.outcomes) == len(attachment.names)
    assert all(isinstance(error, InterchangeLostError) for error in errors)
    attachment.finish()


def test_a_message_that_was_being_written_is_left_out(client: Any, eventually: Any, tmp_path: Path) -> None:
    far = client(5)
    far.submitted()
    far.kill()
    sent = tmp_path / "detached/1/sent"
    whole = len(sent.read_bytes())
    with sent.open("ab") as file:
        file.write(b"".join(map(bytes, pack([b"header", bytes(1000)])))[:-1])
    attachment, listener = attach(far)
    listener.wait(len(attachment.names))
    assert sent.stat().st_size >= whole
    assert marks(far) == dict.fromkeys(attachment.names, "x")
    finish(far, attachment, eventually)


# -- files --------------------------------------------------------------------------------------------------


def test_what_was_sent_is_read_again_from_its_file(tmp_path: Path) -> None:
    first = SentFile(tmp_path / "sent")
    first.append(b"0123456789")
    assert first.next(4, 100) == (0, b"0123")
    first.confirm(3)
    assert len(first) == 7
    first.close()
    second = SentFile(tmp_path / "sent")
    second.rewind(3)
    assert second.next(100, 5) == (3, b"34567")
    assert second.next(100, 5) is None
    with pytest.raises(ValueError, match="11 bytes were received of 10"):
        second.confirm(11)
    with pytest.raises(ValueError, match="3 had been confirmed"):
        second.rewind(2)
    second.close()


def test_files_are_for_their_owner_alone(client: Any, tmp_path: Path) -> None:
    far = client(1, managers=0)
    far.submitted()
    far.kill()
    for path in (tmp_path / "detached").rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path


def test_a_child_does_not_keep_a_folder(tmp_path: Path) -> None:
    """Else nobody could go on when its parent is killed."""
    folder = Folder(tmp_path / "f")
    ready, told = os.pipe(), os.pipe()
    child = os.fork()
    if not child:
        os.write(ready[1], b"x")
        os.read(told[0], 1)
        os._exit(0)
    os.read(ready[0], 1)
    folder.close()
    Folder(tmp_path / "f").close()
    os.write(told[1], b"x")
    os.waitpid(child, 0)
    for descriptor in (*ready, *told):
        os.close(descriptor)


def test_tries_survive_a_torn_line(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "f")
    folder.note_tries([(7, 1), (8, 2)])
    with (tmp_path / "f/tries").open("a") as file:
        file.write("\n[9, ")
    folder.note_tries([(10, 3)])
    assert folder.tries() == {7: 1, 8: 2, 10: 3}
    folder.close()


def test_streams_go_on_where_they_ended(tmp_path: Path) -> None:
    first = Streams(tmp_path)
    first.take(b"abc")
    first.close()
    second = Streams(tmp_path)
    assert second.received == 3
    second.take(b"def")
    assert (tmp_path / "received").read_bytes() == b"abcdef"
    second.close()


def test_a_channel_that_cannot_be_kept_is_refused_before_anything_is_started(tmp_path: Path) -> None:
    class Channel:
        remote, host = True, "login"

        def __init__(self) -> None:
            self.password = threading.Lock()

    provider: Any = InMemoryProvider()
    provider.channel = Channel()
    executor = HighThroughputExecutor("far", blocks=Blocks(provider=provider))
    assert executor.can_detach
    with pytest.raises(ConfigError, match="executor 'far': its channel cannot be kept") as caught:
        executor.start(Recorder(tmp_path, tmp_path / "run/far"))
    assert caught.value.key == "detach"
    assert not (tmp_path / "run").exists()


def test_what_was_tried_elsewhere_is_left_out(client: Any, tmp_path: Path) -> None:
    far = client(3)
    far.submitted()
    far.kill()
    listener = Listener()
    attachment = Attachment(tmp_path / "detached", listener.completed)
    assert attachment.calls == {0: 0, 1: 1, 2: 2}
    attachment.leave_out([1])
    attachment.replay()
    attachment.connect()
    listener.wait(2)
    assert listener.values() == {0: 0, 2: 2}
    assert attachment.unfinished == set()
    attachment.finish()
