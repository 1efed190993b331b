"""Runs on a real Slurm that are killed and reaped, that go on without a scheduler, and of other users."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers.process import processes_with, wait_until
from servers.slurm import Slurm, slurm
from servers.user import UserChannel, public_folder
from weft_channel_local import LocalChannel
from weft_interfaces import BlockShape, JobSpec, JobState
from weft_provider_batch import SlurmProvider

pytestmark = [pytest.mark.once, pytest.mark.timeout(180)]

OUTAGE = 12.0  # seconds without a scheduler; two minutes were tried by hand, see the README of the package


@pytest.fixture(scope="module")
def cluster() -> Iterator[Slurm]:
    with public_folder() as folder, slurm(folder / "s", nodes=2, message_timeout=2) as cluster:
        yield cluster


@pytest.fixture
def home(cluster: Slurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where runs start: a home directory with an awkward name."""
    home = tmp_path / "home of o'neil"
    home.mkdir()
    # What clients that are killed leave there; its name is short, as those of sockets have to be.
    with tempfile.TemporaryDirectory(prefix="weft-") as temporary:
        for name, value in {**cluster.environment, "HOME": str(home), "TMPDIR": temporary}.items():
            monkeypatch.setenv(name, value)
        yield home
        cluster.clear()


@contextlib.contextmanager
def started(home: Path, name: str) -> Iterator[subprocess.Popen[str]]:
    """A run of ``script.py`` by the configuration ``site.toml``, both there."""
    command = [sys.executable, "-m", "weft", "run", "--config", "site.toml", "script.py", "--", name]
    with open(home / f"{name}.log", "wb") as log:
        process = subprocess.Popen(
            command, cwd=home, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True
        )
    with process:
        try:
            yield process
        finally:
            process.kill()


def jobs(cluster: Slurm, run: str = "") -> dict[str, str]:
    """The states of all jobs that have not ended, or of a run's, by their ids."""
    lines = cluster.run("squeue", "--noheader", "--format=%i %T %k").splitlines()
    return {line.split()[0]: line.split()[1] for line in lines if run in line}


def processes(run: str) -> list[int]:
    """Those of a run's blocks."""
    return list(processes_with(f"WEFT_RUN_ID={run}"))


# -- a client that is killed --------------------------------------------------------------------------------

LINGERING = """
[[executors]]
type = "htex"
label = "works"
workers_per_node = 1

[executors.blocks]
walltime = "00:20:00"
# What stays when its manager has ended, as a hanging one would.
launcher = { type = "wrapped", prefix = ["sh", "-c", '"$@"; sleep 600', "lingering"] }
provider = { type = "slurm", cores_per_node = 1, poll_interval = 1 }

[[executors]]
type = "htex"
label = "waits"
workers_per_node = 1

[executors.blocks]
walltime = "00:20:00"
provider = { type = "slurm", partition = "down", cores_per_node = 1, poll_interval = 1 }
"""

NAP = """
import pathlib, sys, time
import weft

@weft.task(executor="works")
def nap(name):
    pathlib.Path(f"begun-{name}").touch()
    time.sleep(600)

nap(sys.argv[1]).result()
"""


def reap(home: Path, *arguments: str) -> tuple[int, str]:
    """The exit status of ``weft reap``, and what it printed."""
    command = [sys.executable, "-m", "weft", "reap", "--config", "site.toml", *arguments]
    done = subprocess.run(
        command,
        cwd=home,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode in (0, 1), done.stderr
    return done.returncode, done.stdout


def at_work(cluster: Slurm, home: Path, name: str, pid: int) -> str:
    """The id of a run, once its first block works and its second one waits."""
    cluster.wait_for(f"{name} works", (home / f"begun-{name}").exists, 60)
    records = {json.loads(path.read_text())["pid"]: path for path in home.glob("runs/*/client.json")}
    run = records[pid].parent.name
    cluster.wait_for("both blocks", lambda: sorted(jobs(cluster, run).values()) == ["PENDING", "RUNNING"])
    return run


def test_jobs_of_a_killed_run_are_reaped_and_those_of_a_living_one_are_not(
    cluster: Slurm, home: Path
) -> None:
    (home / "site.toml").write_text(LINGERING)
    (home / "script.py").write_text(NAP)
    with started(home, "one") as one, started(home, "two") as two:
        dead, alive = at_work(cluster, home, "one", one.pid), at_work(cluster, home, "two", two.pid)
        kept = jobs(cluster, alive)
        one.send_signal(signal.SIGKILL)
        one.wait(10)

        status, said = reap(home, "--json")
        found = {run["run"]: run for run in json.loads(said)["runs"]}
        assert (status, found[dead]["process"], found[alive]["process"]) == (1, "dead", "alive")
        assert {job["job"]: job["state"].upper() for job in found[dead]["jobs"]} == jobs(cluster, dead)
        assert {job["name"] for job in found[dead]["jobs"]} == {"weft-works-1", "weft-waits-2"}

        begun = time.monotonic()
        status, said = reap(home, "--yes")
        print(f"measured: client killed, 2 jobs: reaped in {time.monotonic() - begun:.1f} s")
        assert status == 0, said
        assert "removed 2 of 2 jobs" in said
        assert jobs(cluster, dead) == {}
        assert jobs(cluster, alive) == kept
        cluster.wait_for("its processes are gone", lambda: not processes(dead))
        assert processes(alive)
        assert reap(home, "--yes", alive)[0] == 0
        assert jobs(cluster, alive) == kept
        two.send_signal(signal.SIGKILL)
        two.wait(10)
    assert reap(home, "--yes", alive)[0] == 0
    assert jobs(cluster) == {}


def test_reaping_says_when_the_scheduler_does_not_answer(cluster: Slurm, home: Path) -> None:
    (home / "site.toml").write_text(LINGERING)
    (home / "script.py").write_text(NAP)
    with started(home, "one") as one:
        run = at_work(cluster, home, "one", one.pid)
        one.send_signal(signal.SIGKILL)
        one.wait(10)
    cluster.stop_controller()
    try:
        status, said = reap(home, "--yes", "--json", run)
    finally:
        cluster.start_controller()
    assert status == 1
    assert "Slurm" in json.loads(said)["troubles"][0]
    assert len(jobs(cluster, run)) == 2
    assert reap(home, "--yes", run)[0] == 0
    assert jobs(cluster, run) == {}


# -- a scheduler that is away -------------------------------------------------------------------------------

GROWING = """
retries = 0

[[executors]]
type = "htex"
workers_per_node = 1

[executors.blocks]
init = 1
max = 2
walltime = "00:20:00"
provider = { type = "slurm", cores_per_node = 1, poll_interval = 1, command_timeout = 10 }
"""

UNTIL_TWO_BLOCKS = """
import os, pathlib, time
import weft

@weft.task
def where(number):
    time.sleep(0.2)
    return os.environ["WEFT_BLOCK_ID"]

blocks, done = set(), 0
while not pathlib.Path("away").exists():
    blocks.add(where(0).result())
    pathlib.Path("works").touch()
assert len(blocks) == 1
while len(blocks) < 2:
    blocks.update(weft.gather([where(number) for number in range(8)]).result())
    done += 8
    pathlib.Path("done.new").write_text(str(done))
    pathlib.Path("done.new").replace("done")
print(len(blocks), "blocks")
"""


def test_a_run_goes_on_without_the_scheduler_and_grows_when_it_is_back(cluster: Slurm, home: Path) -> None:
    (home / "site.toml").write_text(GROWING)
    (home / "script.py").write_text(UNTIL_TWO_BLOCKS)
    with started(home, "away") as process:
        cluster.wait_for("the run works", (home / "works").exists, 60)
        cluster.stop_controller()
        (home / "away").touch()
        back = time.monotonic() + OUTAGE
        try:
            wait_until("the outage is over", lambda: time.monotonic() > back, OUTAGE + 5)
            calls = int((home / "done").read_text())
        finally:
            cluster.start_controller()
        begun = time.monotonic()
        stdout, _ = process.communicate(timeout=120)
        seconds = time.monotonic() - begun
    print(
        f"measured: scheduler away for {OUTAGE:g} s: {calls} calls done meanwhile, none failed; the block "
        f"asked for meanwhile worked {seconds:.1f} s after it was back"
    )
    assert (process.returncode, stdout) == (0, "2 blocks\n"), (home / "away.log").read_text()
    assert calls >= 8
    cluster.wait_for("no job is left", lambda: not jobs(cluster))
    # Submissions that got no answer were doubled by none that followed.
    ever = cluster.run("squeue", "--noheader", "--states=all", "--format=%k").splitlines()
    run = next(path.name for path in home.glob("runs/*"))
    cluster.wait_for("no process is left", lambda: not processes(run))
    assert len([line for line in ever if run in line]) == 2


# -- users --------------------------------------------------------------------------------------------------


def test_an_ordinary_user_has_jobs_of_their_own(cluster: Slurm, home: Path) -> None:
    """Also root, who may see and end all, finds none but root's."""

    def job(number: int, *command: str) -> JobSpec:
        shape = BlockShape(walltime=600, cpus=1)
        spec_id = f"{cluster.folder.parent.name}-{number}"
        return JobSpec(
            id=spec_id, name="weft-user", command=command, shape=shape, directory="runs/a run", tag="shared"
        )

    def ended(provider: SlurmProvider, spec: JobSpec) -> JobState:
        number = provider.submit(spec)
        wait_until(f"{number} ended", lambda: provider.status([number])[number].state.terminal, 60)
        return provider.status([number])[number].state

    theirs = cluster.folder.parent / "home of nobody"
    channel = UserChannel("nobody", theirs, cluster.environment)
    user = SlurmProvider(channel=channel, poll_interval=1.0)
    root = SlurmProvider(channel=LocalChannel(home, cluster.environment), poll_interval=1.0)
    spec = job(1, "sh", "-c", "id -un; pwd")
    assert ended(user, spec) is JobState.COMPLETED
    output = theirs / spec.directory / f"{spec.id}.out"
    assert output.read_text().splitlines()[0] == "nobody"
    assert output.owner() == "nobody"
    waiting, other = user.submit(job(2, "sleep", "600")), root.submit(job(3, "sleep", "600"))
    assert user.find("shared") == {waiting: "weft-user"}
    assert root.find("shared") == {other: "weft-user"}
    user.cancel([waiting])
    wait_until("it is gone", lambda: not user.find("shared"))
    assert root.find("shared") == {other: "weft-user"}
    channel.close()
