"""Blocks on a real Slurm: what users see when something is wrong, and that it is seen soon."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import weft
from servers.job import run_refused, wait_for
from servers.process import ServerError, program, wait_until
from servers.shims import Shims
from servers.slurm import Slurm, slurm
from weft_channel_local import LocalChannel
from weft_interfaces import (
    BlockShape,
    ConfigError,
    JobId,
    JobSpec,
    JobState,
    Provider,
    ProviderError,
)
from weft_interfaces.testing import ArrayProviderSuite, ProviderSuite, RootedChannel
from weft_provider_batch import SlurmProvider

pytestmark = [pytest.mark.once, pytest.mark.timeout(180)]

COMMANDS = ("sbatch", "squeue", "scancel", "sacct")
PREEMPTION = """\
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=low Nodes=n1 PriorityTier=1 PreemptMode=REQUEUE State=UP
PartitionName=cheap Nodes=n1 PriorityTier=1 PreemptMode=CANCEL State=UP
PartitionName=high Nodes=n1 PriorityTier=10 State=UP
"""

Job = Callable[..., JobSpec]


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    with slurm(tmp_path_factory.mktemp("slurm") / "s", settings=PREEMPTION) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def far(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Slurm, RootedChannel]]:
    folder = tmp_path_factory.mktemp("far")
    (folder / "slurm").mkdir()
    channel = RootedChannel(folder / "place", shown=[folder / "slurm"])
    with (
        slurm(folder / "slurm", nodes=2, enter=channel.enter) as cluster,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("SLURM_CONF", cluster.environment["SLURM_CONF"])
        yield cluster, channel
    channel.close()


class Site:
    """A cluster, and a home on it whose name is awkward; its commands can be interfered with."""

    def __init__(self, cluster: Slurm, folder: Path) -> None:
        self.cluster = cluster
        self.home = folder / "home of o'neil"
        self.home.mkdir()
        self.shims = Shims(folder / "bin", COMMANDS)
        path = os.pathsep.join([str(self.shims.folder), os.environ["PATH"]])
        self.environment = {**cluster.environment, "PATH": path, "HOME": str(self.home)}
        self.channel = LocalChannel(self.home, self.environment)
        self._numbers = itertools.count(1)
        self._key = uuid.uuid4().hex[:8]

    def provider(self, **options: object) -> SlurmProvider:
        settings = {"channel": self.channel, "poll_interval": 1.0, "command_timeout": 20.0, **options}
        return SlurmProvider(**settings)  # type: ignore[arg-type]

    def job(self, *command: str, walltime: float | None = 600.0, nodes: int = 1, **more: str) -> JobSpec:
        return JobSpec(
            id=more.pop("id", f"{self._key}-{next(self._numbers)}"),
            name="weft-test",
            command=command or ("sleep", "600"),
            shape=BlockShape(nodes=nodes, walltime=walltime, cpus=1),
            directory=more.pop("directory", "runs/a run"),
            tag=self._key,
        )

    def names(self) -> list[str]:
        """Of all jobs that Slurm has ever had of this site, one each."""
        lines = self.cluster.run("squeue", "--noheader", "--states=all", "--format=%i %k").splitlines()
        return [line for line in lines if f":{self._key}:" in line]


@pytest.fixture
def site(cluster: Slurm, tmp_path: Path) -> Iterator[Site]:
    yield Site(cluster, tmp_path)
    cluster.clear()


class SlurmSuite(ProviderSuite):
    @pytest.fixture(autouse=True)
    def _site(self, site: Site) -> None:
        self.site = site

    def make_provider(self) -> Provider:
        return self.site.provider()

    def directory(self) -> str:
        return "suite's runs"

    @contextlib.contextmanager
    def failing_queries(self, provider: Provider) -> Iterator[None]:
        self.site.shims.before("squeue", "echo garbage; exit 1")
        yield
        self.site.shims.restore("squeue")


class TestSlurmProvider(SlurmSuite, ArrayProviderSuite):
    """On this machine, also with arrays."""

    def make_provider(self) -> Provider:
        return self.site.provider(arrays=True)


class TestFarSlurmProvider(ProviderSuite):
    """In a place whose files are not this machine's: what a provider does here by mistake fails there."""

    @pytest.fixture(autouse=True)
    def _site(self, far: tuple[Slurm, RootedChannel]) -> Iterator[None]:
        self.cluster, self.channel = far
        yield
        assert self.channel.strays() == []
        self.cluster.clear()

    def make_provider(self) -> Provider:
        return SlurmProvider(channel=self.channel, poll_interval=1.0, command_timeout=5.0, cores_per_node=1)

    def directory(self) -> str:
        return f"{self.channel.home}/runs"

    @contextlib.contextmanager
    def failing_queries(self, provider: Provider) -> Iterator[None]:
        conf, away = self.cluster.folder / "slurm.conf", self.cluster.folder / "away"
        conf.rename(away)
        yield
        away.rename(conf)


# -- requests that are refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "key", "words"),
    [
        ({"partition": "nope"}, "partition", "invalid partition"),
        ({"constraint": "nope"}, "constraint", "Invalid feature"),
        ({"reservation": "nope"}, "reservation", "reservation is invalid"),
        ({"memory_per_node": "100 TB"}, "memory_per_node", "Memory specification"),
        ({"scheduler_options": "--no-such-option"}, "scheduler_options", "unrecognized option"),
    ],
)
def test_a_wrong_request_names_the_option_and_what_slurm_says(
    site: Site, options: dict[str, str], key: str, words: str
) -> None:
    begun = time.monotonic()
    with pytest.raises(ConfigError, match=f"(?is){words}.*`{key}`") as caught:
        site.provider(**options).submit(site.job())
    assert caught.value.key == key
    print(f"measured: refused ({words}) after {time.monotonic() - begun:.1f} s")
    assert time.monotonic() - begun < 5


def test_more_walltime_than_the_partition_allows_is_the_reason_why_it_waits(site: Site) -> None:
    provider = site.provider(partition="short")
    job = provider.submit(site.job(walltime=600))
    status = wait_for(provider, job, JobState.PENDING)
    while not status.reason.startswith("PartitionTimeLimit"):
        assert status.state is JobState.PENDING
        time.sleep(0.2)
        status = provider.status([job])[job]
    assert "more walltime than the partition allows" in status.reason


def test_without_sbatch_it_says_what_is_missing_and_where_it_looked(site: Site, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("sh", "date", "cat", "rm"):
        (bare / name).symlink_to(program(name))
    channel = LocalChannel(site.home, {**site.environment, "PATH": str(bare)})
    provider = site.provider(channel=channel)
    begun = time.monotonic()
    with pytest.raises(ConfigError, match=f"`sbatch` is not found on .*PATH there, which is {bare}"):
        provider.submit(site.job())
    print(f"measured: sbatch missing, seen after {time.monotonic() - begun:.1f} s")
    status = provider.status([JobId("1")])[JobId("1")]
    assert status.state is JobState.UNKNOWN
    assert "`squeue` is not found" in status.reason


# -- a scheduler that does not answer -----------------------------------------------------------------------


def test_a_submission_that_hangs_is_given_up_and_comes_through_later(site: Site) -> None:
    provider = site.provider(command_timeout=2.0)
    spec = site.job()
    site.shims.before("sbatch", "sleep 600")
    begun = time.monotonic()
    with pytest.raises(ProviderError, match=r"`sbatch` .*no answer within 2 s"):
        provider.submit(spec)
    print(f"measured: sbatch hangs, command_timeout 2 s: given up after {time.monotonic() - begun:.1f} s")
    assert time.monotonic() - begun < 10
    site.shims.restore("sbatch")
    submitted(provider, spec)
    assert len(site.names()) == 1


@pytest.mark.parametrize("lost", ['"$real" "$@" >/dev/null; sleep 600', '"$real" "$@" >/dev/null; exit 1'])
def test_a_lost_answer_to_a_submission_doubles_nothing(site: Site, lost: str) -> None:
    spec = site.job()
    site.shims.before("sbatch", lost)
    with pytest.raises(ProviderError):
        site.provider(command_timeout=2.0).submit(spec)
    # The next try is another process's, for all it knows: the answer is on the site.
    provider = site.provider(channel=LocalChannel(site.home, site.environment))
    job = provider.submit(spec)
    assert len(site.names()) == 1
    assert site.shims.calls("sbatch") == 1
    wait_for(provider, job, JobState.RUNNING)


def test_two_jobs_of_one_block_run_it_once(site: Site) -> None:
    """Should a submission be taken for lost and arrive after all."""
    provider = site.provider()
    spec = site.job("sh", "-c", "echo ran; sleep 600")
    job = provider.submit(spec)
    wait_for(provider, job, JobState.RUNNING)
    script = site.home / spec.directory / f"{spec.id}.sh"
    site.cluster.run("sbatch", "--wait", str(script), timeout=60)
    assert (site.home / spec.directory / f"{spec.id}.out").read_text() == "ran\n"
    assert provider.status([job])[job].state is JobState.RUNNING
    errors = (site.home / spec.directory / f"{spec.id}.err").read_text()
    assert f"job {job} runs this block" in errors


def submitted(provider: Provider, spec: JobSpec, timeout: float = 60.0) -> JobId:
    """Submitted, in the end."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            return provider.submit(spec)
        except ProviderError:
            assert time.monotonic() < deadline
            time.sleep(0.5)


def test_a_controller_that_is_away_ends_nothing(site: Site) -> None:
    provider = site.provider(command_timeout=5.0)
    job = provider.submit(site.job())
    wait_for(provider, job, JobState.RUNNING)
    site.cluster.stop_controller()
    try:
        status = wait_for(provider, job, JobState.UNKNOWN)
        assert status.reason
        with pytest.raises(ProviderError):
            provider.submit(site.job())
        with pytest.raises(ProviderError):
            provider.cancel([job])
        with pytest.raises(ProviderError):
            provider.find(job)
    finally:
        site.cluster.start_controller()
    wait_for(provider, job, JobState.RUNNING)


def test_a_controller_killed_after_a_submission_costs_at_most_the_job(site: Site) -> None:
    provider = site.provider()
    spec = site.job("sh", "-c", "echo ran; sleep 600")
    job = provider.submit(spec)
    site.cluster.stop_controller(signal.SIGKILL)
    site.cluster.start_controller()
    again = submitted(site.provider(channel=LocalChannel(site.home, site.environment)), spec)
    status = wait_for(provider, job, JobState.RUNNING, JobState.GONE)
    if status.state is JobState.RUNNING:
        assert again == job
    else:
        assert "knows it no longer" in status.reason
    other = site.provider(channel=LocalChannel(site.home, site.environment))
    wait_for(other, again, JobState.RUNNING)
    assert (site.home / spec.directory / f"{spec.id}.out").read_text() == "ran\n"


# -- what befalls jobs --------------------------------------------------------------------------------------


def test_a_held_job_is_held_until_it_is_released(site: Site) -> None:
    provider = site.provider(scheduler_options="#SBATCH --hold\n\n# a comment\n--nice=5")
    job = provider.submit(site.job())
    status = wait_for(provider, job, JobState.HELD)
    assert status.reason.startswith("JobHeldUser (")
    site.cluster.run("scontrol", "release", job)
    wait_for(provider, job, JobState.RUNNING)


def test_a_preempted_job_is_pending_again_or_ends_by_name(site: Site) -> None:
    low, cheap, high = (site.provider(partition=name, exclusive=True) for name in ("low", "cheap", "high"))
    requeued = low.submit(site.job())
    wait_for(low, requeued, JobState.RUNNING)
    first = high.submit(site.job())
    wait_for(low, requeued, JobState.PENDING)
    wait_for(high, first, JobState.RUNNING)
    high.cancel([first, requeued])
    wait_for(high, first, JobState.CANCELLED)
    ended = cheap.submit(site.job())
    wait_for(cheap, ended, JobState.RUNNING)
    high.submit(site.job())
    status = wait_for(cheap, ended, JobState.FAILED)
    assert status.reason.startswith("PREEMPTED")


def test_a_failed_node_is_named_as_the_reason(site: Site) -> None:
    provider = site.provider(scheduler_options="--no-requeue")
    job = provider.submit(site.job())
    status = wait_for(provider, job, JobState.RUNNING)
    (node,) = status.hosts
    begun = time.monotonic()
    site.cluster.set_node(node, "DOWN")
    try:
        status = wait_for(provider, job, JobState.FAILED)
        assert status.reason.startswith("NODE_FAIL")
        assert time.monotonic() - begun < 10
    finally:
        with contextlib.suppress(ServerError):  # its daemon may have done so itself
            site.cluster.set_node(node, "RESUME")


def test_a_requeued_job_is_pending_again(site: Site) -> None:
    provider = site.provider(scheduler_options="--requeue")
    job = provider.submit(site.job())
    wait_for(provider, job, JobState.RUNNING)
    site.cluster.run("scontrol", "requeuehold", job)
    wait_for(provider, job, JobState.HELD)
    site.cluster.run("scontrol", "release", job)
    wait_for(provider, job, JobState.PENDING, JobState.RUNNING)


def test_the_end_of_the_walltime_is_known_before_and_named_after(site: Site) -> None:
    provider = site.provider()
    job = provider.submit(site.job(walltime=90))
    status = wait_for(provider, job, JobState.RUNNING)
    assert status.started_at is not None
    assert status.ends_at is not None
    assert abs(status.started_at - time.time()) < 30
    assert status.ends_at - status.started_at == 120  # Slurm counts in minutes
    soon = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(time.time() + 3))
    site.cluster.update(f"JobId={job}", f"EndTime={soon}")
    status = wait_for(provider, job, JobState.TIMEOUT, timeout=100)
    assert status.reason.startswith("TimeLimit")
    assert "DUE TO TIME LIMIT" in status.stderr_tail


def test_a_job_that_an_administrator_cancels_is_cancelled(site: Site) -> None:
    provider = site.provider()
    job = provider.submit(site.job())
    wait_for(provider, job, JobState.RUNNING)
    begun = time.monotonic()
    site.cluster.run("scancel", job)
    status = wait_for(provider, job, JobState.CANCELLED)
    assert time.monotonic() - begun < 15
    assert "CANCELLED" in status.stderr_tail


def test_a_missing_python_is_named(site: Site) -> None:
    provider = site.provider()
    job = provider.submit(site.job("/opt/no such/bin/python", "-m", "weft"))
    status = wait_for(provider, job, JobState.FAILED)
    assert status.exit_code == 127
    assert "was not found on the node" in status.reason
    assert "/opt/no such/bin/python" in status.stderr_tail


@pytest.mark.parametrize(
    "worker_init", ["echo loading >&2\nmodule load no-such-python", "exit 3", "if then", "(exit 9)"]
)
def test_a_worker_init_that_fails_is_named(site: Site, worker_init: str) -> None:
    provider = site.provider(worker_init=worker_init)
    job = provider.submit(site.job("true"))
    status = wait_for(provider, job, JobState.FAILED)
    assert f"worker_init failed with exit status {status.exit_code}" in status.reason
    assert "weft: worker_init failed" in status.stderr_tail


def test_what_worker_init_prints_and_sets_is_kept(site: Site) -> None:
    provider = site.provider(worker_init="echo 'hello' >&2; export WORD='a b'; cd /")
    job = provider.submit(site.job("sh", "-c", 'echo "$WORD in $PWD" >&2; exit 4'))
    status = wait_for(provider, job, JobState.FAILED)
    assert status.exit_code == 4
    assert status.stderr_tail == "hello\na b in /\n"


def test_a_directory_that_cannot_be_used_is_named(site: Site) -> None:
    (site.home / "file").write_text("")
    for directory in ("file/runs", "/proc/no/such"):
        with pytest.raises(ConfigError, match=directory):
            site.provider().submit(site.job(directory=directory))


def test_a_directory_that_is_gone_when_the_job_starts_is_named(site: Site) -> None:
    provider = site.provider(scheduler_options="--hold")
    spec = site.job("true")
    job = provider.submit(spec)
    folder = site.home / spec.directory
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    site.cluster.run("scontrol", "release", job)
    if site.cluster.version < (24, 11):
        assert "directory" in wait_for(provider, job, JobState.FAILED).reason
    else:  # Slurm makes it again
        wait_for(provider, job, JobState.COMPLETED)
        assert folder.is_dir()


def test_a_full_disk_is_named_and_may_pass(site: Site) -> None:
    folder = site.home / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    subprocess.run(mount, check=True, timeout=20)
    try:
        filler = folder / "filler"
        with contextlib.suppress(OSError):
            filler.write_bytes(b"x" * 70_000)
        spec = site.job(directory="small/runs")
        begun = time.monotonic()
        with pytest.raises(ProviderError, match=r"(?i)no space left"):
            site.provider().submit(spec)
        print(f"measured: full disk, seen after {time.monotonic() - begun:.1f} s")
        filler.unlink()
        provider = site.provider()
        job = submitted(provider, spec)
        provider.cancel([job])
        wait_for(provider, job, JobState.CANCELLED)
    finally:
        subprocess.run(["umount", str(folder)], check=True, timeout=20)


def test_a_job_submitted_inside_of_a_job_is_one_of_its_own(site: Site) -> None:
    inherited = {"SLURM_JOB_ID": "1", "SLURM_MEM_PER_CPU": "50", "SLURM_NTASKS": "3", "SLURM_NNODES": "1"}
    channel = LocalChannel(site.home, {**site.environment, **inherited})
    provider = site.provider(channel=channel, memory_per_node="200 MB")
    job = provider.submit(site.job("srun", "--ntasks=2", "hostname", nodes=2))
    wait_for(provider, job, JobState.COMPLETED)


# -- what else is printed -----------------------------------------------------------------------------------


def test_modules_and_banners_on_stdout_confuse_nothing(site: Site) -> None:
    for command in COMMANDS:
        site.shims.before(
            command, "echo 'Welcome to Tiny. Load: 12345'; echo 777; echo 'Loading python/3.12'"
        )
    (site.home / ".bashrc").write_text("echo junk from .bashrc; exit 1\n")
    (site.home / ".profile").write_text("echo junk from .profile; exit 1\n")
    provider = site.provider()
    job = provider.submit(site.job())
    wait_for(provider, job, JobState.RUNNING)
    assert provider.find(site.job().tag) == {job: "weft-test"}
    provider.cancel([job])
    wait_for(provider, job, JobState.CANCELLED)


def test_an_answer_that_is_no_answer_ends_nothing(site: Site) -> None:
    provider = site.provider()
    job = provider.submit(site.job())
    wait_for(provider, job, JobState.RUNNING)
    site.shims.before("squeue", "echo all is well; exit 0")
    status = wait_for(provider, job, JobState.UNKNOWN)
    assert "heading" in status.reason
    site.shims.restore("squeue")
    wait_for(provider, job, JobState.RUNNING)


# -- arrays ---


def test_a_lost_answer_to_an_array_doubles_nothing(site: Site) -> None:
    specs = [site.job() for _ in range(3)]
    site.shims.before("sbatch", '"$real" "$@" >/dev/null; exit 1')
    with pytest.raises(ProviderError):
        site.provider(arrays=True).submit_array(specs)
    provider = site.provider(arrays=True, channel=LocalChannel(site.home, site.environment))
    jobs = provider.submit_array(specs)
    assert site.shims.calls("sbatch") == 1
    assert len({job.partition("_")[0] for job in jobs.values()}) == 1
    assert sorted(provider.find(site.job().tag)) == sorted(jobs.values())


def test_an_array_that_is_refused_names_the_option(site: Site) -> None:
    with pytest.raises(ConfigError, match="invalid partition") as caught:
        site.provider(arrays=True, partition="nope").submit_array([site.job(), site.job()])
    assert caught.value.key == "partition"
    assert list((site.home / "runs/a run").glob("*")) == []


@weft.task
def block_of(folder: Path) -> str:
    """The block that runs it, once three of them are at work."""
    block = os.environ["WEFT_BLOCK_ID"]
    (folder / block).touch()
    wait_until("three blocks are at work", lambda: len(list(folder.iterdir())) == 3)
    return block


def test_blocks_that_a_run_begins_with_are_one_submission(site: Site, tmp_path: Path) -> None:
    (folder := tmp_path / "blocks").mkdir()
    blocks = weft.Blocks(provider=site.provider(arrays=True), walltime=600, cpus=1, min=3, init=3, max=3)
    executor = weft.HighThroughputExecutor(label="arrays", blocks=blocks, workers_per_node=1)
    with weft.run(weft.Config(executors=[executor], run_dir=tmp_path / "runs")):
        blocks_of = weft.gather([block_of(folder) for _ in range(3)]).result(timeout=90)
    jobs = site.cluster.run("squeue", "--array", "--states=all", "--format=%i %T %r %j")
    assert len(set(blocks_of)) == 3, jobs
    assert site.shims.calls("sbatch") == 1, jobs


# -- many ---------------------------------------------------------------------------------------------------


def test_200_blocks_cost_one_query_per_interval(site: Site) -> None:
    providers = [site.provider(poll_interval=2.0, command_timeout=60.0) for _ in range(2)]
    jobs = {provider: [provider.submit(site.job("true")) for _ in range(100)] for provider in providers}
    before, begun = site.shims.calls("squeue"), time.monotonic()
    left = {job for these in jobs.values() for job in these}
    deadline = begun + 150
    while left:
        assert time.monotonic() < deadline, len(left)
        for provider, these in jobs.items():
            answer = provider.status(these)
            left -= {job for job, status in answer.items() if status.state is JobState.COMPLETED}
            assert not [status for status in answer.values() if status.state is JobState.FAILED]
        time.sleep(0.1)
    intervals = (time.monotonic() - begun) / 2.0
    queries = site.shims.calls("squeue") - before
    assert 1 <= queries <= intervals / 0.9 + 1
    assert site.shims.calls("sbatch") == 200
    assert site.shims.calls("scancel") == site.shims.calls("sacct") == 0
    assert len({name.split()[1] for name in site.names()}) == 200


# -- the whole ----------------------------------------------------------------------------------------------


def test_the_census_runs_by_configuration_on_two_blocks_of_two_nodes(
    root: Path, site: Site, tmp_path: Path
) -> None:
    results = {}
    for on in ("processes", "slurm"):
        weft = [sys.executable, "-m", "weft", "run", "--config", str(root / f"examples/{on}.toml")]
        command = [*weft, str(root / "examples/census/census.py"), "--", "--output", on, "json", "email"]
        environment = {**os.environ, **site.environment}
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=150
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        results[on] = (tmp_path / on / "census.csv").read_text()
    assert results["slurm"] == results["processes"]
    jobs = site.cluster.run("squeue", "--noheader", "--states=all", "--format=%D %j").splitlines()
    assert sorted(job for job in jobs if "weft-htex" in job) == ["2 weft-htex-1", "2 weft-htex-2"]


def test_a_refused_partition_ends_the_run_with_slurms_words(site: Site, root: Path, tmp_path: Path) -> None:
    config = (root / "examples/slurm.toml").read_text().replace('"debug"', '"nope"')
    said = run_refused(tmp_path, config, site.environment)
    assert "invalid partition specified: nope" in said
    assert "look at `partition`" in said
    assert site.shims.calls("sbatch") <= 2  # one for each block, at most
