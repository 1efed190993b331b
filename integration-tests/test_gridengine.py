"""Blocks on a real Grid Engine."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers.gridengine import GridEngine, grid_engine
from servers.host import network
from servers.job import wait_for
from servers.shims import Shims
from weft_channel_local import LocalChannel
from weft_interfaces import (
    BlockShape,
    ConfigError,
    JobSpec,
    JobState,
    Provider,
    ProviderError,
)
from weft_interfaces.testing import ArrayProviderSuite
from weft_provider_batch import GridEngineProvider

pytestmark = [pytest.mark.once, pytest.mark.timeout(120)]

COMMANDS = ("qsub", "qstat", "qdel", "qacct")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GridEngine]:
    with grid_engine(tmp_path_factory.mktemp("sge") / "s") as cluster:
        yield cluster


class Site:
    """A cluster, and a home on it whose name is awkward."""

    def __init__(self, cluster: GridEngine, folder: Path) -> None:
        self.cluster = cluster
        self.home = folder / "home of o'neil"
        self.home.mkdir()
        self.shims = Shims(folder / "bin", COMMANDS)
        path = os.pathsep.join([str(self.shims.folder), cluster.environment["PATH"]])
        self.environment = {**cluster.environment, "PATH": path}
        self.channel = LocalChannel(self.home, self.environment)
        self._numbers = itertools.count(1)
        self._key = uuid.uuid4().hex[:8]

    def provider(self, **options: object) -> GridEngineProvider:
        settings = {"channel": self.channel, "poll_interval": 1.0, "command_timeout": 20.0, **options}
        return GridEngineProvider(**settings)  # type: ignore[arg-type]

    def job(self, *command: str, walltime: float | None = 600.0, nodes: int = 1) -> JobSpec:
        return JobSpec(
            id=f"{self._key}.{next(self._numbers)}",
            name="weft-test",
            command=command or ("sleep", "600"),
            shape=BlockShape(nodes=nodes, walltime=walltime),
            directory="runs/a run",
            tag=self._key,
        )


@pytest.fixture
def site(cluster: GridEngine, tmp_path: Path) -> Iterator[Site]:
    yield Site(cluster, tmp_path)
    cluster.clear()


class TestGridEngineProvider(ArrayProviderSuite):
    @pytest.fixture(autouse=True)
    def _site(self, site: Site) -> None:
        self.site = site

    def make_provider(self) -> Provider:
        return self.site.provider(arrays=True)

    def directory(self) -> str:
        return "suite's runs"

    @contextlib.contextmanager
    def failing_queries(self, provider: Provider) -> Iterator[None]:
        self.site.shims.before("qstat", "echo garbage; exit 1")
        yield
        self.site.shims.restore("qstat")


@pytest.mark.parametrize(
    ("options", "key", "words"),
    [
        ({"queue": "nope.q"}, "queue", 'unknown queue "nope.q"'),
        ({"project": "nope"}, "project", 'project "nope" does not exist'),
        ({"parallel_environment": "nope"}, "parallel_environment", 'environment "nope" does not exist'),
        ({"scheduler_options": "-l nope=1"}, "scheduler_options", 'unknown resource "nope"'),
        ({"queue": "short.q"}, "walltime, nodes, cores, memory, queue", "no suitable queues"),
        ({"cores_per_node": 2}, "parallel_environment", "2 cores needs `parallel_environment`"),
    ],
)
def test_a_wrong_request_names_the_option_and_what_grid_engine_says(
    site: Site, options: dict[str, str], key: str, words: str
) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        site.provider(**options).submit(site.job())
    assert caught.value.key == key


def test_a_job_says_how_it_is(site: Site) -> None:
    provider = site.provider(parallel_environment="smp", cores_per_node=2, worker_init="echo hello >&2")
    job = provider.submit(site.job("sh", "-c", 'echo "$NSLOTS slots" >&2; sleep 3; exit 4', walltime=100))
    status = wait_for(provider, job, JobState.RUNNING)
    assert status.hosts == ("localhost",)
    assert status.started_at is not None
    assert abs(status.started_at - time.time()) < 20
    assert status.ends_at == status.started_at + 100
    status = wait_for(provider, job, JobState.FAILED)
    assert status.exit_code == 4
    assert status.stderr_tail == "hello\n2 slots\n"


def test_the_end_of_the_walltime_is_a_timeout(site: Site) -> None:
    provider = site.provider()
    job = provider.submit(site.job(walltime=4))
    wait_for(provider, job, JobState.RUNNING)
    status = wait_for(provider, job, JobState.TIMEOUT)
    assert status.reason


def test_a_held_job_is_held_until_it_is_released(site: Site) -> None:
    provider = site.provider(scheduler_options="#$ -h")
    job = provider.submit(site.job())
    status = wait_for(provider, job, JobState.HELD)
    assert "held" in status.reason
    site.cluster.run("qrls", job)
    wait_for(provider, job, JobState.RUNNING)


def test_a_job_that_cannot_start_says_so(site: Site) -> None:
    provider = site.provider(scheduler_options="-wd /no/such/directory")
    job = provider.submit(site.job())
    status = wait_for(provider, job, JobState.HELD)
    assert status.reason.startswith("Eqw (an error when it was to start")
    assert status.stuck


def test_a_job_that_an_administrator_deletes_ends(site: Site) -> None:
    provider = site.provider()
    job = provider.submit(site.job())
    wait_for(provider, job, JobState.RUNNING)
    site.cluster.run("qdel", job)
    status = wait_for(provider, job, JobState.CANCELLED, JobState.FAILED)
    assert status.reason


def test_a_lost_answer_to_a_submission_doubles_nothing(site: Site) -> None:
    spec = site.job()
    site.shims.before("qsub", '"$real" "$@" >/dev/null; sleep 600')
    with pytest.raises(ProviderError):
        site.provider(command_timeout=2.0).submit(spec)
    provider = site.provider(channel=LocalChannel(site.home, site.environment))
    job = provider.submit(spec)
    assert provider.find(spec.tag) == {job: "weft-test"}
    assert site.shims.calls("qsub") == 1


def test_a_master_that_is_away_ends_nothing(site: Site) -> None:
    provider = site.provider()
    job = provider.submit(site.job())
    wait_for(provider, job, JobState.RUNNING)
    site.cluster.stop_master()
    try:
        status = wait_for(provider, job, JobState.UNKNOWN)
        assert "unable to send message" in status.reason
        with pytest.raises(ProviderError):
            provider.submit(site.job())
        with pytest.raises(ProviderError):
            provider.cancel([job])
    finally:
        site.cluster.start_master()
    wait_for(provider, job, JobState.RUNNING)


CONFIGURATION = """
[[executors]]
type = "htex"

[executors.blocks]
walltime = "00:10:00"
init = 2
max = 2

[executors.blocks.provider]
type = "gridengine"
queue = "all.q"
"""


def test_the_census_runs_by_configuration(root: Path, site: Site, tmp_path: Path) -> None:
    (tmp_path / "gridengine.toml").write_text(CONFIGURATION)
    results = {}
    for config in (root / "examples/processes.toml", tmp_path / "gridengine.toml"):
        weft = [sys.executable, "-m", "weft", "run", "--config", str(config)]
        command = [
            *weft,
            str(root / "examples/census/census.py"),
            "--",
            "--output",
            config.stem,
            "json",
            "email",
        ]
        environment = {**os.environ, **site.environment}
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=100
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        results[config.stem] = (tmp_path / config.stem / "census.csv").read_text()
    assert results["gridengine"] == results["processes"]
    assert site.shims.calls("qsub") == 2


def test_a_parallel_environment_gives_several_hosts(tmp_path: Path) -> None:
    with network(tmp_path / "network", ["n1", "n2", "n3"]) as hosts:  # noqa: SIM117
        with grid_engine(tmp_path / "s", network=hosts) as cluster:
            channel = LocalChannel(tmp_path, cluster.environment)
            provider = GridEngineProvider(
                channel=channel, poll_interval=1.0, parallel_environment="one", scheduler_options="-q all.q"
            )
            shape = BlockShape(nodes=3, walltime=600)
            command = ["sh", "-c", 'cut -d" " -f1 "$PE_HOSTFILE" >&2; read word; exit 5']
            spec = JobSpec(id="it", name="it", command=command, shape=shape, directory="runs", input=b"x")
            job = provider.submit(spec)
            status = wait_for(provider, job, JobState.FAILED)
            assert status.exit_code == 5
            assert sorted(status.stderr_tail.split()) == ["n1", "n2", "n3"]
            job = provider.submit(dataclasses.replace(spec, id="other", command=["sleep", "600"]))
            status = wait_for(provider, job, JobState.RUNNING)
            assert sorted(status.hosts) == ["n1", "n2", "n3"]
            provider.cancel([job])
            wait_for(provider, job, JobState.CANCELLED)
