"""Blocks on a Slurm with accounting: what accounts refuse, and what became of jobs that left the queue."""

from __future__ import annotations

import getpass
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers.job import run_refused, wait_for
from servers.slurm import Slurm, slurm
from weft_channel_local import LocalChannel
from weft_interfaces import BlockShape, ConfigError, JobId, JobSpec, JobState
from weft_provider_batch import SlurmProvider

pytestmark = [pytest.mark.once, pytest.mark.timeout(180)]

AGE = 2  # seconds after which a job that has ended leaves the queue


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    folder = tmp_path_factory.mktemp("slurm") / "s"
    limits = "associations,limits,qos"
    with slurm(
        folder, nodes=2, accounting=True, enforce=limits, min_job_age=AGE, settings="EnforcePartLimits=ALL"
    ) as cluster:
        yield cluster


@pytest.fixture
def channel(cluster: Slurm, tmp_path: Path) -> Iterator[LocalChannel]:
    yield LocalChannel(tmp_path, cluster.environment)
    cluster.clear()


def provider(channel: LocalChannel, **options: object) -> SlurmProvider:
    settings = {"channel": channel, "poll_interval": 1.0, "cores_per_node": 1, **options}
    return SlurmProvider(**settings)  # type: ignore[arg-type]


def job(*command: str, walltime: float = 600.0) -> JobSpec:
    key = uuid.uuid4().hex
    shape = BlockShape(walltime=walltime)
    return JobSpec(id=key, name="weft-test", command=command, shape=shape, directory="runs", tag=key)


@pytest.mark.parametrize(
    ("options", "walltime", "key"),
    [
        ({"account": "nope"}, 600, "account"),
        ({"qos": "nope"}, 600, "qos"),
        ({"partition": "short"}, 600, "walltime"),
    ],
)
def test_what_accounts_and_partitions_refuse_is_named_at_once(
    channel: LocalChannel, options: dict[str, str], walltime: float, key: str
) -> None:
    begun = time.monotonic()
    with pytest.raises(ConfigError, match=f"`{key}`") as caught:
        provider(channel, **options).submit(job("true", walltime=walltime))
    print(f"measured: {key} refused after {time.monotonic() - begun:.1f} s")
    assert caught.value.key == key


def test_a_run_whose_account_is_refused_ends_with_slurms_words(
    cluster: Slurm, root: Path, tmp_path: Path
) -> None:
    configuration = (root / "examples/slurm.toml").read_text()
    refused = configuration.replace('partition = "debug"', 'partition = "debug"\naccount = "nope"')
    assert refused != configuration
    said = run_refused(tmp_path, refused, cluster.environment)
    assert "Invalid account or account/partition combination specified" in said
    assert "look at `account`" in said
    assert not cluster.jobs()


def test_a_limit_of_the_account_is_the_reason_why_a_job_waits(channel: LocalChannel, cluster: Slurm) -> None:
    user = ["sacctmgr", "-i", "modify", "user", getpass.getuser(), "set"]
    cluster.run(*user, "MaxJobs=1")
    try:
        site = provider(channel)
        first, second = site.submit(job("sleep", "600")), site.submit(job("sleep", "600"))
        begun = time.monotonic()
        wait_for(site, first, JobState.RUNNING)
        deadline = begun + 30
        while not (status := site.status([second])[second]).reason.startswith("AssocMaxJobsLimit"):
            assert status.state is JobState.PENDING, status
            assert time.monotonic() < deadline, status
            time.sleep(0.2)
        print(f"measured: {status.reason} after {time.monotonic() - begun:.1f} s")
        assert "all the jobs it may have" in status.reason
    finally:
        cluster.run(*user, "MaxJobs=-1")


def gone(cluster: Slurm, job_id: JobId) -> bool:
    return job_id not in cluster.run("squeue", "--noheader", "--states=all", "--format=%i").split()


@pytest.mark.parametrize(
    ("command", "state", "exit_code"),
    [(("true",), JobState.COMPLETED, 0), (("sh", "-c", "exit 3"), JobState.FAILED, 3)],
)
def test_a_job_that_nobody_saw_end_is_found_in_the_accounting(
    channel: LocalChannel,
    cluster: Slurm,
    tmp_path: Path,
    command: tuple[str, ...],
    state: JobState,
    exit_code: int,
) -> None:
    spec = job(*command)
    started = provider(channel).submit(spec)
    cluster.wait_for("the job has left the queue", lambda: gone(cluster, started), 60)
    # Another process, that knows the job by its number alone.
    status = wait_for(provider(LocalChannel(tmp_path, cluster.environment)), started, state)
    assert status.exit_code == exit_code
    assert status.hosts
    assert status.started_at is not None


def test_a_job_cancelled_unseen_is_found_in_the_accounting(channel: LocalChannel, cluster: Slurm) -> None:
    site = provider(channel)
    started = site.submit(job("sleep", "600"))
    wait_for(site, started, JobState.RUNNING)
    cluster.run("scancel", started)
    cluster.wait_for("the job has left the queue", lambda: gone(cluster, started), 60)
    status = wait_for(site, started, JobState.CANCELLED)
    assert status.reason.startswith("CANCELLED by")
    assert "CANCELLED" in status.stderr_tail
