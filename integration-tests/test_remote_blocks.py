"""Blocks of a remote site's Slurm, which the agent on its login node asks for, follows and gives back."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import weft
from servers.process import wait_until
from servers.site import Site, remote_site
from weft_core import LoadScalingPolicy
from weft_interfaces import BaseEventSink, CommandResult, ConfigError, Event, NoBlocksError

pytestmark = [pytest.mark.once, pytest.mark.timeout(180)]

BOUND = 60.0
QUEUE_COMMANDS = ("sbatch", "squeue", "scancel", "sacct")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One whose connection is cut, and whose nodes are taken away."""
    with remote_site(tmp_path_factory.mktemp("site") / "s", compute_python=Path(sys.executable)) as site:
        yield site


@pytest.fixture(autouse=True)
def clean(site: Site) -> Iterator[None]:
    yield
    wait_until("no job and no agent is left", lambda: not jobs(site) and not agents(site), BOUND)


def jobs(site: Site) -> list[str]:
    """The states of all jobs that are not about to be gone."""
    states = [line.split()[1] for line in site.cluster.jobs()]
    return [state for state in states if state != "COMPLETING"]


def agents(site: Site) -> list[str]:
    """The records of agents on the login node."""
    folder = site.home / ".cache/weft/runs"
    with contextlib.suppress(FileNotFoundError):
        return os.listdir(folder)
    return []


class Counting(weft.OpenSSHChannel):
    """Remembers what was run through it."""

    def __init__(self, site: Site) -> None:
        super().__init__("login", ssh_options=["-F", str(site.config)])
        self.commands: list[str] = []

    def run(
        self,
        argv: Sequence[str],
        *,
        input: bytes = b"",
        timeout: float | None = None,
        environment: Mapping[str, str] | None = None,
        cwd: str | None = None,
    ) -> CommandResult:
        self.commands.append(" ".join(argv))
        return super().run(argv, input=input, timeout=timeout, environment=environment, cwd=cwd)

    def queue_commands(self) -> list[str]:
        """Those of the batch system."""
        return [each for each in self.commands if any(word in each for word in QUEUE_COMMANDS)]


class Client(BaseEventSink):
    """What this machine has of a run: its channel, and its events."""

    def __init__(self, site: Site, folder: Path) -> None:
        self.site = site
        self.folder = folder
        self.channel = Counting(site)
        self.events: list[Event] = []

    def write(self, events: Sequence[Event]) -> None:
        self.events += events

    def of(self, kind: str) -> list[Mapping[str, Any]]:
        return [event.data for event in list(self.events) if event.kind == kind]

    def run(
        self,
        partition: str = "debug",
        agent: Mapping[str, Any] | None = None,
        policy: Any = None,
        **blocks: Any,
    ) -> weft.Run:
        provider = weft.SlurmProvider(
            partition=partition, poll_interval=1, cores_per_node=1, channel=self.channel
        )
        executor = weft.HighThroughputExecutor(
            workers_per_node=1,
            blocks=weft.Blocks(provider=provider, **{"walltime": 600, "init": 0, **blocks}),
            agent=weft.AgentSettings(**(agent or {})),
            environment=sys.executable,
            heartbeat_period=0.5,
            heartbeat_threshold=3,
        )
        config = weft.Config(
            executors=[executor], run_dir=self.folder / "runs", sinks=[self], scaling_policy=policy
        )
        return weft.run(config)


@pytest.fixture
def client(site: Site, tmp_path: Path) -> Iterator[Client]:
    client = Client(site, tmp_path)
    yield client
    client.channel.close()


def _make_tasks() -> tuple[Any, Any]:
    """Functions that travel by value: workers need not import this module."""

    def where() -> str:
        import socket

        return socket.gethostname()

    def until(path: str) -> str:
        """Done when there is such a file in the home directory. Leaves a mark there, by the block's name."""
        import os
        import time

        with open(os.path.expanduser(f"~/{path}-{os.environ['WEFT_BLOCK_ID']}"), "w"):
            pass
        deadline = time.monotonic() + 60
        while not os.path.exists(os.path.expanduser(f"~/{path}")):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        return os.environ["WEFT_BLOCK_ID"]

    return weft.task(where), weft.task(until)


where, until = _make_tasks()


def agent_of(site: Site) -> int:
    """The process of the only agent."""
    (record,) = agents(site)
    return int(json.loads((site.home / ".cache/weft/runs" / record).read_text())["pid"])


def memory_of_agent(site: Site) -> float:
    """Its peak, in MB."""
    status = site.run(["cat", f"/proc/{agent_of(site)}/status"])
    return int(status.partition("VmHWM:")[2].split()[0]) / 1000


def test_the_login_nodes_agent_runs_the_commands_of_the_queue(client: Client, site: Site) -> None:
    """None of them passes through the channel, and the events are those of a scaler of this process."""
    with client.run(max=2) as run:
        assert where().result(BOUND) in ("c1", "c2")
        wait_until("the block is up", lambda: client.of("block.registered"), BOUND)
        peak = memory_of_agent(site)
        print(f"measured: an agent that gets its blocks has {peak:.0f} MB")
        assert peak < 60
        (requested,) = client.of("block.requested")
        assert requested["block"] == f"{run.id}-htex-1"
        assert site.cluster.jobs()[0].split()[0] == requested["job"]
        assert (site.home / ".weft/runs" / run.id / "htex" / f"{requested['block']}.sh").exists()
    assert client.channel.queue_commands() == []
    assert jobs(site) == []
    (ended,) = client.of("block.ended")
    assert ended["state"] in ("cancelled", "completed")
    assert all(abs(event.time - time.time()) < BOUND for event in client.events)


def test_blocks_grow_and_shrink_while_there_is_no_connection(client: Client, site: Site) -> None:
    """The scheduler is away when the tasks come; what follows happens without the client."""
    cluster = site.cluster
    with client.run(max=2, idle_timeout=1, agent={"reconnect": "2min"}):
        assert where().result(BOUND)
        wait_until("the block was given back", lambda: client.of("block.ended") and not jobs(site), BOUND)
        cluster.stop_controller()
        try:
            futures = [until("go"), until("go")]
            wait_until("the submission is refused", lambda: client.of("block.refused"), BOUND)
            site.cut()
        finally:
            cluster.start_controller()
        try:
            wait_until("a task runs in each of two", lambda: len([*site.home.glob("go-*")]) == 2, BOUND)
            assert jobs(site) == ["RUNNING"] * 2
            (site.home / "go").touch()
            wait_until("they are given back", lambda: not jobs(site), BOUND)
            assert not any(future.done() for future in futures)
        finally:
            site.mend()
        assert len({future.result(BOUND) for future in futures}) == 2
        (site.home / "go").unlink()
        wait_until("all is told", lambda: len(client.of("block.ended")) == 3, BOUND)
    assert client.channel.queue_commands() == []


def test_a_partition_that_is_refused_ends_in_the_schedulers_words(client: Client) -> None:
    with client.run(partition="nowhere"), pytest.raises(NoBlocksError) as caught:
        where().result(BOUND)
    assert "invalid partition specified: nowhere" in str(caught.value)
    assert "look at `partition`" in str(caught.value)
    assert client.of("scaling.no_more_blocks")
    assert client.channel.queue_commands() == []


KILLED = """
import sys
import weft

@weft.task
def nothing():
    pass

channel = weft.OpenSSHChannel("login", ssh_options=["-F", sys.argv[1]])
provider = weft.SlurmProvider(partition="debug", poll_interval=1, cores_per_node=1, channel=channel)
executor = weft.HighThroughputExecutor(
    blocks=weft.Blocks(provider=provider, walltime=600),
    workers_per_node=1,
    agent=weft.AgentSettings(patience=2, on_client_loss=sys.argv[2]),
    environment=sys.executable,
    heartbeat_period=0.5,
    heartbeat_threshold=3,
)
with weft.run(weft.Config(executors=[executor])):
    nothing().result()
"""


@pytest.mark.parametrize("loss", ["cancel", "drain"])
def test_a_client_that_is_killed_leaves_no_pending_job(site: Site, tmp_path: Path, loss: str) -> None:
    """Its calls are not run, or, to drain, once there is room for them; then the block goes."""
    cluster = site.cluster
    for node in cluster.nodes:
        cluster.set_node(node, "DRAIN")
    command = [sys.executable, "-c", KILLED, str(site.config), loss]
    with open(tmp_path / "log", "wb") as log:
        process = subprocess.Popen(command, cwd=tmp_path, stdin=subprocess.DEVNULL, stderr=log)
    try:
        wait_until("a job waits", lambda: jobs(site) == ["PENDING"], BOUND)
        process.kill()
        if loss == "drain":
            wait_until("it waits longer than anybody's patience", lambda: queued_for(site) > 5, BOUND)
            assert agents(site)
        else:
            wait_until("the job and the agent are gone", lambda: not jobs(site) and not agents(site), BOUND)
    finally:
        process.kill()
        process.wait()
        for node in cluster.nodes:
            cluster.set_node(node, "RESUME")
    wait_until("the job and the agent are gone", lambda: not jobs(site) and not agents(site), BOUND)


def queued_for(site: Site) -> int:
    """Seconds since the only job was submitted."""
    return int(site.run(["squeue", "--noheader", "--Format=PendingTime"]))


def test_the_next_agent_has_what_one_that_was_killed_has_in_the_queue(client: Client, site: Site) -> None:
    cluster = site.cluster
    for node in cluster.nodes:
        cluster.set_node(node, "DRAIN")
    with client.run(max=2):
        result = where()
        wait_until("a job waits", lambda: jobs(site) == ["PENDING"], BOUND)
        wait_until("that is known", lambda: client.of("block.requested"), BOUND)
        site.run(["kill", "-KILL", str(agent_of(site))])
        wait_until("the next agent follows it", lambda: client.of("block.adopted"), BOUND)
        for node in cluster.nodes:
            cluster.set_node(node, "RESUME")
        assert result.result(BOUND) in ("c1", "c2")
        (requested,) = client.of("block.requested")
        (adopted,) = client.of("block.adopted")
        assert (adopted["block"], adopted["job"]) == (requested["block"], requested["job"])


def test_the_client_may_ask_for_blocks_itself(client: Client) -> None:
    with client.run(agent={"blocks": "client"}):
        assert where().result(BOUND) in ("c1", "c2")
    assert client.channel.queue_commands()
    assert client.of("scaling.here") == []


class OwnPolicy(LoadScalingPolicy):
    """A user's own, which cannot be pickled."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()


def test_what_cannot_go_to_the_login_node_stays_with_the_client_which_says_so(client: Client) -> None:
    with client.run(policy=OwnPolicy()):
        assert where().result(BOUND) in ("c1", "c2")
    (told,) = client.of("scaling.here")
    assert "the agent of executor 'htex' cannot get blocks itself" in told["reason"]
    assert "cannot be pickled" in told["reason"]
    assert client.channel.queue_commands()


def test_it_is_an_error_where_the_agent_has_to_ask(client: Client) -> None:
    words = r'AgentSettings\(blocks="client"\)'
    with (
        pytest.raises(ConfigError, match=words) as caught,
        client.run(policy=OwnPolicy(), agent={"blocks": "agent"}),
    ):
        pass
    assert caught.value.key == "agent.blocks"


def test_the_oldest_python_for_an_agent_is_enough(
    client: Client, site: Site, pythons: Mapping[tuple[int, int], Path]
) -> None:
    python = pythons[min(version for version in pythons if version >= (3, 8))]
    site.show(python.parents[1], "login")
    with client.run(agent={"python": str(python)}):
        assert where().result(BOUND) in ("c1", "c2")
        command = site.run(["cat", f"/proc/{agent_of(site)}/cmdline"]).split("\0")
        assert command[0] == str(python)
    assert client.of("block.requested")
    assert client.channel.queue_commands() == []
