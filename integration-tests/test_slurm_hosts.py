"""Blocks on a Slurm whose nodes are hosts: a host loses its power, a cable is pulled out."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers.host import Host, Network, network
from servers.job import wait_for
from servers.process import processes_with
from servers.slurm import Slurm, slurm
from weft_channel_local import LocalChannel
from weft_interfaces import BlockShape, JobId, JobSpec, JobState, Provider
from weft_provider_batch import SlurmProvider

pytestmark = [pytest.mark.once, pytest.mark.timeout(120)]


@pytest.fixture
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    with network(tmp_path_factory.mktemp("network"), ["n1", "n2"]) as hosts:
        yield hosts


@pytest.fixture
def cluster(hosts: Network, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    folder = tmp_path_factory.mktemp("slurm") / "s"
    with slurm(
        folder, network=hosts, slurmd_timeout=8, message_timeout=2, settings="TCPTimeout=1"
    ) as cluster:
        yield cluster


@pytest.fixture
def provider(cluster: Slurm, tmp_path: Path) -> SlurmProvider:
    channel = LocalChannel(tmp_path, cluster.environment)
    return SlurmProvider(channel=channel, poll_interval=1.0, scheduler_options="--no-requeue")


def running(provider: Provider, hosts: Network) -> tuple[JobId, Host]:
    """A job on one node, and the host that it runs on."""
    shape = BlockShape(walltime=600)
    spec = JobSpec(id="it-1", name="it", command=["sleep", "600"], shape=shape, directory="runs", tag="it")
    job = provider.submit(spec)
    status = wait_for(provider, job, JobState.RUNNING)
    (host,) = (host for host in hosts.hosts if (host.name,) == status.hosts)
    return job, host


def test_a_host_that_loses_its_power_is_a_node_failure(provider: SlurmProvider, hosts: Network) -> None:
    job, host = running(provider, hosts)
    begun = time.monotonic()
    host.power_off()
    status = wait_for(provider, job, JobState.FAILED)
    assert status.reason.startswith("NODE_FAIL")
    assert status.hosts == (host.name,)
    assert time.monotonic() - begun < 40


def test_a_cable_that_is_out_for_a_moment_ends_nothing(provider: SlurmProvider, hosts: Network) -> None:
    job, host = running(provider, hosts)
    host.cut()
    deadline = time.monotonic() + 6
    while time.monotonic() < deadline:
        assert provider.status([job])[job].state is JobState.RUNNING
        time.sleep(0.2)
    host.mend()
    deadline = time.monotonic() + 6
    while time.monotonic() < deadline:
        assert provider.status([job])[job].state is JobState.RUNNING
        time.sleep(0.2)


def test_a_cable_that_stays_out_is_a_node_failure(
    provider: SlurmProvider, hosts: Network, cluster: Slurm
) -> None:
    job, host = running(provider, hosts)
    begun = time.monotonic()
    host.cut()
    status = wait_for(provider, job, JobState.FAILED)
    assert status.reason.startswith("NODE_FAIL")
    assert time.monotonic() - begun < 45
    host.mend()
    cluster.wait_idle(60)


CONFIGURATION = """
retries = 0

[[executors]]
type = "htex"
workers_per_node = 1
address = "{head}"

[executors.blocks]
init = 2
max = 2
walltime = "00:20:00"

[executors.blocks.provider]
type = "slurm"
poll_interval = 1
scheduler_options = "--no-requeue"
"""

MANAGERS = """
heartbeat_period = "1s"
heartbeat_threshold = "5s"
"""

SCRIPT = """
import pathlib, socket, time
import weft

@weft.task
def work(number):
    pathlib.Path(f"begun-{number}-{time.time_ns()}-{socket.gethostname()}").touch()
    time.sleep(1.5)
    return number

if __name__ == "__main__":
    print(sum(weft.gather([work(number) for number in range(16)]).result()))
"""


def test_a_run_goes_on_when_a_host_loses_its_power(cluster: Slurm, hosts: Network, tmp_path: Path) -> None:
    (tmp_path / "site.toml").write_text(CONFIGURATION.format(head=hosts.head))
    (tmp_path / "script.py").write_text(SCRIPT)
    with subprocess.Popen(
        [sys.executable, "-m", "weft", "run", "--config", "site.toml", "script.py"],
        cwd=tmp_path,
        env={**os.environ, **cluster.environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            victim = hosts.hosts[0]
            cluster.wait_for("both hosts work", lambda: working(tmp_path) == {"n1", "n2"})
            victim.power_off()
            begun = time.monotonic()
            stdout, stderr = process.communicate(timeout=100)
        finally:
            process.kill()
    print(f"measured: power lost: the run ended after {time.monotonic() - begun:.1f} s")
    assert (process.returncode, stdout) == (0, f"{sum(range(16))}\n"), stderr
    cluster.wait_for("no job is left", lambda: not cluster.jobs())
    cluster.wait_for("no process is left", lambda: not processes(tmp_path))


def processes(folder: Path) -> list[int]:
    """Those of the blocks of the one run in this folder."""
    (run,) = (folder / "runs").iterdir()
    return list(processes_with(f"WEFT_RUN_ID={run.name}"))


def working(folder: Path) -> set[str]:
    return {path.name.rpartition("-")[2] for path in folder.glob("begun-*")}


@pytest.fixture
def patient(hosts: Network, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    """A cluster that gives up a host after a minute of silence, not as soon as a pilot does."""
    folder = tmp_path_factory.mktemp("slurm") / "s"
    with slurm(folder, network=hosts, slurmd_timeout=60, message_timeout=2) as cluster:
        yield cluster


def test_a_run_goes_on_when_a_cable_is_out_for_half_a_minute(
    patient: Slurm, hosts: Network, tmp_path: Path
) -> None:
    """Nothing ends but what the host did: it is done by the other, and no job is left when it is back."""
    configuration = CONFIGURATION.replace("workers_per_node = 1\n", f"workers_per_node = 1\n{MANAGERS}")
    (tmp_path / "site.toml").write_text(configuration.format(head=hosts.head))
    (tmp_path / "script.py").write_text(SCRIPT.replace("range(16)", "range(32)"))
    with subprocess.Popen(
        [sys.executable, "-m", "weft", "run", "--config", "site.toml", "script.py"],
        cwd=tmp_path,
        env={**os.environ, **patient.environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            victim = hosts.hosts[0]
            patient.wait_for("both hosts work", lambda: working(tmp_path) == {"n1", "n2"})
            victim.cut()
            begun = time.monotonic()
            patient.wait_for("it is out for 30 s", lambda: time.monotonic() - begun > 30, 40)
            victim.mend()
            stdout, stderr = process.communicate(timeout=100)
        finally:
            process.kill()
    print(f"measured: cable out for 30 s: the run ended after {time.monotonic() - begun:.1f} s")
    assert (process.returncode, stdout) == (0, f"{sum(range(32))}\n"), stderr
    twice = len(list(tmp_path.glob("begun-*"))) - 32
    assert twice >= 1, "what the host had begun was begun again"
    patient.wait_for("no job is left", lambda: not patient.jobs(), 60)
    patient.wait_for("no process is left", lambda: not processes(tmp_path))
