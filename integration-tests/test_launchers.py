"""Launchers, run: srun on a real Slurm of three nodes, Open MPI and MPICH in it, ssh and GNU parallel over
a real sshd.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import weft
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from servers.process import program, wait_until
from servers.slurm import Slurm, slurm
from servers.sshd import Sshd, sshd
from weft_channel_local import LocalChannel
from weft_interfaces import BlockShape, Launcher
from weft_interfaces.testing import LauncherSuite
from weft_interfaces.testing.launcher import AWKWARD_WORDS
from weft_launchers import (
    GnuParallelLauncher,
    MpiExecLauncher,
    MpiRunLauncher,
    SrunLauncher,
    SrunMPILauncher,
    SshLauncher,
    WrappedLauncher,
)
from weft_provider_batch import SlurmProvider

pytestmark = [pytest.mark.once, pytest.mark.timeout(180)]

BOUND = 20.0
NODES = 3
WORDS = [
    *AWKWARD_WORDS,
    ":",
    "!",
    "a!b",
    "\\0134",
    "%s%n%b",
    "x\n",
    "{}",
    "{#}",
    "[n]",
    "-x",
    "--host",
    "a=b",
    "\t",
]

# Into a file: launch programs mix what nodes write, also within lines.
REPORT = """
import json, os, sys
report = {
    "words": sys.argv[1:],
    "input": sys.stdin.read(),
    "odd": os.environ.get("JOBS_OWN"),
    "rank": os.environ.get("WEFT_NODE_RANK") or os.environ.get("SLURM_NODEID"),
    "directory": os.getcwd(),
    "mpi": sorted(name for name in os.environ if name.startswith(("OMPI_COMM", "PMI_", "PMIX_"))),
}
with open(os.path.join(os.environ["JOBS_REPORTS"], f"{os.getpid()}.json"), "w") as file:
    json.dump(report, file)
"""
ODD = "a 'b' \"c\"\n\\d !e\\0134 $f `g` %h ü"


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    with slurm(tmp_path_factory.mktemp("launchers") / "slurm", nodes=NODES) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with sshd(tmp_path_factory.mktemp("launchers") / "sshd", NODES) as server:
        yield server


@dataclass(frozen=True)
class Site:
    """A launcher, and what a job of three nodes has in which it works. ``around`` starts such a job."""

    launcher: Any
    around: Sequence[str]
    environment: dict[str, str]

    def run(
        self, *command: str, nodes: int = NODES, input: str = "", **variables: str
    ) -> subprocess.CompletedProcess[str]:
        argv = [*self.around, *self.launcher.wrap(command, BlockShape(nodes=nodes))]
        process = subprocess.Popen(
            argv,
            env={**self.environment, **variables},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        with process:
            try:
                stdout, stderr = process.communicate(input, BOUND)
            except BaseException:
                os.killpg(process.pid, signal.SIGTERM)  # salloc gives back what it has
                raise
        return subprocess.CompletedProcess(argv, process.returncode, stdout, stderr)

    def changed(self, **fields: Any) -> Site:
        return dataclasses.replace(self, launcher=dataclasses.replace(self.launcher, **fields))


def plain_environment() -> dict[str, str]:
    ours = ("SLURM_", "WEFT_", "PBS_", "OMPI_", "PMI")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}


def salloc(cluster: Slurm, launcher: Launcher) -> Site:
    around = [program("salloc"), "--quiet", f"--nodes={NODES}", "--cpus-per-task=2", "--time=5"]
    return Site(launcher, around, {**plain_environment(), **cluster.environment})


def with_mpi(site: Site, kind: str, folder: Path) -> Site:
    """mpirun and mpiexec are those of this kind."""
    folder.mkdir(exist_ok=True)
    for name in ("mpirun", "mpiexec"):
        # No link: MPICH looks for its other programs where it finds itself.
        (folder / name).write_text(f'#!/bin/sh\nexec {program(f"{name}.{kind}")} "$@"\n')
        (folder / name).chmod(0o755)
    path = f"{folder}{os.pathsep}{site.environment['PATH']}"
    root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    return Site(site.launcher, site.around, {**site.environment, **root, "PATH": path})


def hydra_over_ssh(server: Sshd, folder: Path) -> Site:
    agent = folder / "agent"
    agent.write_text(f'#!/bin/sh\nexec {shlex.join(server.command)} "$@"\n')
    agent.chmod(0o755)
    hosts = ",".join(server.hosts)
    launcher = MpiExecLauncher(["-launcher", "ssh", "-launcher-exec", str(agent), "-hosts", hosts])
    return with_mpi(Site(launcher, [], plain_environment()), "mpich", folder / "mpich")


def report(
    site: Site, folder: Path, *words: str, nodes: int = NODES, **variables: Any
) -> list[dict[str, Any]]:
    """What the command finds on each node."""
    folder.mkdir()
    variables["JOBS_REPORTS"] = str(folder)
    ended = site.run(sys.executable, "-c", REPORT, *words, nodes=nodes, **variables)
    assert ended.returncode == 0, ended.stderr
    return [json.loads(path.read_text()) for path in folder.iterdir()]


Maker = Callable[[pytest.FixtureRequest, Path], Site]


def in_slurm(launcher: Launcher, mpi: str = "") -> Maker:
    def make(request: pytest.FixtureRequest, folder: Path) -> Site:
        site = salloc(request.getfixturevalue("cluster"), launcher)
        return with_mpi(site, mpi, folder / mpi) if mpi else site

    return make


def over_ssh(make_launcher: Callable[..., Launcher]) -> Maker:
    def make(request: pytest.FixtureRequest, folder: Path) -> Site:
        server = request.getfixturevalue("server")
        return Site(make_launcher(program=server.command, hosts=server.hosts), [], plain_environment())

    return make


SITES: dict[str, Maker] = {
    "srun": in_slurm(SrunLauncher()),
    "srun-mpi": in_slurm(SrunMPILauncher()),
    "mpirun-openmpi": in_slurm(MpiRunLauncher(), "openmpi"),
    "mpirun-mpich": in_slurm(MpiRunLauncher(), "mpich"),
    "mpiexec-openmpi": in_slurm(MpiExecLauncher(flavor="openmpi"), "openmpi"),
    "mpiexec-mpich-ssh": lambda request, folder: hydra_over_ssh(request.getfixturevalue("server"), folder),
    "ssh": over_ssh(SshLauncher),
    "parallel": over_ssh(GnuParallelLauncher),
}
INDEPENDENT = sorted(SITES.keys() - {"mpirun-openmpi", "mpiexec-openmpi"})
BROADCAST = ("srun", "srun-mpi")


@pytest.fixture(params=sorted(SITES))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def site(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> Site:
    return SITES[name](request, tmp_path)


def rank_of(name: str) -> str:
    return "$SLURM_NODEID" if name == "srun" else "$WEFT_NODE_RANK"


# -- commands -----------------------------------------------------------------------------------------------


def test_every_node_runs_the_command_with_its_words_input_environment_and_directory(
    site: Site, name: str, tmp_path: Path
) -> None:
    keys = tmp_path / "in put"
    keys.write_text("the keys\n")
    given = keys.read_text() if name in BROADCAST else ""
    variables: dict[str, Any] = {"WEFT_JOB_INPUT": str(keys), "JOBS_OWN": ODD}
    reports = report(site, tmp_path / "reports", *WORDS, input=given, **variables)
    assert sorted(each["rank"] for each in reports) == ["0", "1", "2"]
    for each in reports:
        assert each["words"] == WORDS
        assert each["input"] == "the keys\n"
        assert each["odd"] == ODD
        assert each["directory"] == os.getcwd()
        assert each["mpi"] == []


characters = st.characters(blacklist_characters="\0", blacklist_categories=["Cs"])
special = st.sampled_from(" '\"\\$`!*?~#&|;<>(){}[]%:=\n\t\r-0")
words = st.lists(st.text(st.one_of(special, characters), max_size=8), min_size=30, max_size=60)


@settings(max_examples=3, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
@given(words=words)
def test_any_words_arrive(site: Site, tmp_path: Path, words: list[str]) -> None:
    found = report(site, tmp_path / uuid.uuid4().hex, *words)
    assert [each["words"] for each in found] == [words] * NODES


@pytest.mark.parametrize("kind", ["srun", "srun-mpi"])
def test_srun_gives_the_standard_input_to_every_node(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    ended = SITES[kind](request, tmp_path).run("cat", input="the keys\n")
    assert (ended.returncode, ended.stdout) == (0, "the keys\n" * NODES), ended.stderr


def test_a_smaller_block_has_fewer_processes(site: Site, name: str) -> None:
    ended = site.run("sh", "-c", f'echo "{rank_of(name)}"', nodes=2)
    assert (ended.returncode, sorted(ended.stdout.split())) == (0, ["0", "1"]), ended.stderr


@pytest.mark.parametrize("kind", ["srun", "mpirun-openmpi", "mpirun-mpich"])
def test_nodes_can_have_several_processes(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    site = SITES[kind](request, tmp_path).changed(ranks_per_node=2)
    ended = site.run("sh", "-c", f'echo "{rank_of(kind)}"')
    assert (ended.returncode, sorted(ended.stdout.split())) == (0, ["0", "0", "1", "1", "2", "2"]), (
        ended.stderr
    )


@pytest.mark.parametrize("shell", ["tcsh -f", "bash", "dash"])
def test_whatever_login_shell_the_nodes_have(shell: str, tmp_path: Path) -> None:
    words = shell.split()
    login = ["/bin/sh", "-c", f'exec {program(words[0])} {" ".join(words[1:])} -c "$2"', "login"]
    site = Site(SshLauncher(program=login, hosts=["a"]), [], plain_environment())
    (found,) = report(site, tmp_path / "reports", *WORDS, nodes=1, JOBS_OWN=ODD)
    assert (found["words"], found["odd"]) == (WORDS, ODD)


# -- how it ends --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [0, 7])
def test_the_exit_status_is_that_of_the_command(site: Site, status: int) -> None:
    ended = site.run("sh", "-c", f"exit {status}")
    assert ended.returncode == status, ended.stderr


@pytest.mark.parametrize("failing", [0, 2])
def test_one_node_that_fails_is_enough(site: Site, name: str, failing: int) -> None:
    ended = site.run("sh", "-c", f'[ "{rank_of(name)}" != {failing} ] || exit 5')
    assert ended.returncode == 5, ended.stderr


@pytest.mark.parametrize("kind", INDEPENDENT)
def test_a_node_that_fails_leaves_the_others_alone(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    script = f'[ "{rank_of(kind)}" != 0 ] || exit 3; sleep 1; echo whole'
    ended = SITES[kind](request, tmp_path).run("sh", "-c", script)
    assert (ended.returncode, ended.stdout.split()) == (3, ["whole", "whole"]), ended.stderr


def test_output_of_each_node_can_have_files_of_its_own(site: Site, name: str, tmp_path: Path) -> None:
    script = (
        f'echo "out {rank_of(name)}"; echo "err {rank_of(name)}" >&2; [ "{rank_of(name)}" = 0 ] || exit 5'
    )
    folder = tmp_path / "of the block"
    folder.mkdir()
    ended = site.changed(output="files").run(
        "sh", "-c", script, WEFT_JOB_DIRECTORY=str(folder), WEFT_BLOCK_ID="b7"
    )
    assert (ended.returncode, ended.stdout) == (5, ""), ended.stderr
    files = {path.name.split(".", 2)[2]: path.read_text() for path in folder.iterdir()}
    if name.endswith("openmpi"):  # which ends the others when one fails
        files = {file: text for file, text in files.items() if text}
        assert files.items() <= expected_files().items()
    else:
        assert files == expected_files()
    assert "the command ended with exit status 5; the end of" in ended.stderr
    assert "err 0" not in ended.stderr


def expected_files() -> dict[str, str]:
    return {f"{rank}.{kind}": f"{kind} {rank}\n" for rank in range(NODES) for kind in ("out", "err")}


def runs(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] not in (b"Z", b"X")
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("kind", ["ssh", "parallel"])
def test_over_ssh_nothing_outlives_the_job(
    kind: str, number: int, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    site = SITES[kind](request, tmp_path)
    own = "$WEFT_NODE_RANK"
    script = f"cd {tmp_path}; sleep 600 & echo $! $$ >new.{own}; mv new.{own} pids.{own}; wait"
    argv = site.launcher.wrap(["sh", "-c", script], BlockShape(nodes=NODES))
    job = subprocess.Popen(argv, env=site.environment, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until("all nodes run it", lambda: len(list(tmp_path.glob("pids.*"))) == NODES)
        pids = [int(pid) for path in tmp_path.glob("pids.*") for pid in path.read_text().split()]
        assert all(map(runs, pids))
    finally:
        job.send_signal(number)  # to the job's shell alone
        job.wait(BOUND)
    wait_until("nothing is left on the nodes", lambda: not any(map(runs, pids)))


def test_a_host_that_cannot_be_reached_is_named(server: Sshd) -> None:
    launcher = SshLauncher(program=server.command, hosts=[*server.hosts[:2], "127.0.0.9"])
    ended = Site(launcher, [], plain_environment()).run("true")
    assert ended.returncode == 255
    assert "127.0.0.9" in ended.stderr


# -- tasks that are MPI programs or job steps ---------------------------------------------------------------


@pytest.mark.parametrize("kind", ["srun", "srun-mpi"])
def test_a_job_step_of_a_task_has_the_whole_allocation_while_the_manager_runs(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    step = "srun --immediate=20 --nodes=3 --ntasks=6 --cpus-per-task=1 sh -c 'echo step $SLURM_NODEID'"
    rank = "$SLURM_NODEID" if kind == "srun" else "$WEFT_NODE_RANK"
    begun = tmp_path / "done"
    script = (
        f'if [ "{rank}" = 0 ]; then {step}; touch {begun}; else until [ -e {begun} ]; do sleep 0.1; done; fi'
    )
    ended = SITES[kind](request, tmp_path).run("sh", "-c", script)
    assert ended.returncode == 0, ended.stderr
    assert sorted(ended.stdout.splitlines()) == [f"step {node}" for node in (0, 0, 1, 1, 2, 2)]


def test_what_runs_in_a_step_of_its_own_has_the_environment_of_the_job(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    script = (
        'echo "$SLURM_JOB_NUM_NODES $SLURM_NNODES $SLURM_JOB_NODELIST $SLURM_NODELIST ${SLURM_STEP_ID-none}"'
    )
    ended = SITES["srun-mpi"](request, tmp_path).run("sh", "-c", script)
    assert ended.stdout.splitlines() == ["3 3 n[1-3] n[1-3] none"] * NODES, ended.stderr


@pytest.mark.parametrize("kind", ["mpirun-openmpi", "mpirun-mpich", "srun-mpi"])
def test_a_task_can_call_mpirun(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    mpi = "mpich" if kind.endswith("mpich") else "openmpi"
    site = with_mpi(SITES[kind](request, tmp_path), mpi, tmp_path / "again")
    script = f'[ "{rank_of(kind)}" != 0 ] || mpirun -n 3 sh -c "echo rank"'
    ended = site.run("sh", "-c", script)
    assert (ended.returncode, ended.stdout.split()) == (0, ["rank"] * 3), ended.stderr


@pytest.mark.parametrize(("kind", "variable"), [("openmpi", "OMPI_COMM_WORLD_SIZE"), ("mpich", "PMI_SIZE")])
def test_a_command_that_is_an_mpi_program_finds_its_peers(
    kind: str, variable: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    site = SITES[f"mpirun-{kind}"](request, tmp_path).changed(mpi_program=True)
    ended = site.run("sh", "-c", f'echo "${variable}"')
    assert ended.stdout.split() == ["3"] * 3, ended.stderr


def test_input_that_a_command_takes_from_its_file_is_none_of_mpiruns(tmp_path: Path) -> None:
    """Open MPI 4.1 crashes, every other time, while it passes on what its first rank does not read."""
    site = with_mpi(Site(MpiRunLauncher(), [], plain_environment()), "openmpi", tmp_path / "mpi")
    keys = tmp_path / "input"
    keys.write_text("x" * 300_000)
    for _ in range(8):
        command = ("sh", "-c", "sleep 0.2; wc -c")
        ended = site.run(*command, nodes=1, input=keys.read_text(), WEFT_JOB_INPUT=str(keys))
        assert (ended.returncode, ended.stdout.split()) == (0, ["300000"]), ended.stderr


# -- pilots -------------------------------------------------------------------------------------------------


def where() -> str:
    """A task that tells the number of its node, once all nodes are there to share the work."""
    import os
    import time

    time.sleep(0.05)
    return os.environ["WEFT_NODE_RANK"]


# With Open MPI in test_mpi.py, on nodes that are no single host.
@pytest.mark.parametrize("kind", ["srun", "srun-mpi", "mpirun-mpich", "ssh", "parallel"])
def test_a_pilots_managers_come_up_on_all_nodes_of_a_block(
    kind: str, cluster: Slurm, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    site = SITES[kind](request, tmp_path)
    home = tmp_path / "home of o'neil"
    home.mkdir()
    channel = LocalChannel(home, {**site.environment, **cluster.environment, "HOME": str(home)})
    provider = SlurmProvider(channel=channel, poll_interval=1.0)
    blocks = weft.Blocks(provider=provider, launcher=site.launcher, nodes=NODES, cpus=2, walltime=300)
    executor = weft.HighThroughputExecutor("pilot", workers_per_node=1, blocks=blocks)
    try:
        with weft.run(weft.Config(executors=[executor], run_dir=tmp_path / "runs")):
            wait_until(
                "all managers have registered", lambda: len(executor.status()["managers"]) == NODES, 60
            )
            found = weft.gather([weft.task(where)() for _ in range(30)]).result(timeout=60)
    finally:
        cluster.clear()
    assert set(found) == {"0", "1", "2"}


# -- the contract -------------------------------------------------------------------------------------------


class Suite(LauncherSuite):
    """The conformance suite, on the real program."""

    kind = ""

    @pytest.fixture(autouse=True)
    def place(self, request: pytest.FixtureRequest, tmp_path: Path) -> None:
        self.site = SITES[self.kind](request, tmp_path)

    def make_launcher(self) -> Launcher:
        launcher: Launcher = self.site.launcher
        return launcher

    def run_wrapped(self, *command: str) -> subprocess.CompletedProcess[bytes]:
        site = dataclasses.replace(self.site, launcher=self.make_launcher())
        ended = site.run(*command, nodes=1)
        stderr = ended.stderr.encode()
        return subprocess.CompletedProcess(ended.args, ended.returncode, ended.stdout.encode(), stderr)


class TestSrun(Suite):
    kind = "srun"


class TestSrunMPI(Suite):
    kind = "srun-mpi"


class TestMpiRunOfOpenMPI(Suite):
    kind = "mpirun-openmpi"


class TestMpiRunOfMPICH(Suite):
    kind = "mpirun-mpich"


class TestMpiExecOfMPICHOverSsh(Suite):
    kind = "mpiexec-mpich-ssh"


class TestSsh(Suite):
    kind = "ssh"


class TestGnuParallel(Suite):
    kind = "parallel"


class TestWrappedSsh(Suite):
    kind = "ssh"

    def make_launcher(self) -> Launcher:
        return WrappedLauncher(["nice", "-n", "1"], self.site.launcher)
