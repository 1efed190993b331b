"""MPI programs as tasks, with mpi4py, on hosts of their own: several share a block of a real batch system."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import weft
from servers.gridengine import GridEngine, grid_engine
from servers.host import Network, network
from servers.process import wait_until
from servers.slurm import Slurm, slurm
from weft_interfaces import BlockShape, JobSpec, JobState, Launcher

pytestmark = [pytest.mark.once, pytest.mark.timeout(120)]

AS_ROOT = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
EXPORTS = "; ".join(f"export {name}={value}" for name, value in AS_ROOT.items())

# Says who it is, and goes on when as many programs as are to run at once have begun.
TOGETHER = """
import json, pathlib, sys, time
from mpi4py import MPI

world, folder = MPI.COMM_WORLD, pathlib.Path(sys.argv[1])
hosts = world.gather(MPI.Get_processor_name())
if world.rank == 0:
    (folder / sys.argv[2]).touch()
    deadline = time.monotonic() + 60
    while len(list(folder.iterdir())) < int(sys.argv[3]):
        assert time.monotonic() < deadline, "the others do not begin"
        time.sleep(0.02)
    print(json.dumps({"ranks": world.size, "hosts": hosts}))
world.barrier()
"""


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    with network(tmp_path_factory.mktemp("network"), ["n1", "n2", "n3", "n4"]) as hosts:
        yield hosts


@pytest.fixture(scope="module")
def cluster(hosts: Network, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    with slurm(tmp_path_factory.mktemp("slurm") / "s", network=hosts) as cluster:
        yield cluster


@pytest.fixture
def on_slurm(cluster: Slurm, hosts: Network, monkeypatch: pytest.MonkeyPatch) -> Iterator[Slurm]:
    # Nodes that share a /tmp take each other's sessions for their own.
    sessions = {"OMPI_MCA_orte_tmpdir_base": str(hosts.scratch)}
    for name, value in {**cluster.environment, **AS_ROOT, **sessions}.items():
        monkeypatch.setenv(name, value)
    yield cluster
    cluster.clear()


@weft.shell
def together(folder: Path, program: Path, name: str, count: int) -> list[str]:
    return [*weft.mpi_prefix(), sys.executable, str(program), str(folder), name, str(count)]


@weft.task
def where() -> str:
    time.sleep(0.05)
    return os.environ["WEFT_NODE_RANK"]


@weft.shell
def place() -> str:
    return "$WEFT_MPI_PREFIX sh -c 'echo $SLURM_PROCID of $SLURM_NTASKS on $SLURMD_NODENAME'"


def run(
    hosts: Network, folder: Path, nodes: int, launcher: Launcher | None = None, **settings: Any
) -> weft.Run:
    provider = weft.SlurmProvider(exclusive=True, poll_interval=1, channel=weft.LocalChannel(folder))
    blocks = weft.Blocks(
        provider=provider, launcher=launcher or weft.SrunLauncher(), nodes=nodes, walltime=600
    )
    executor = weft.HighThroughputExecutor(blocks=blocks, address=hosts.head, workers_per_node=1, **settings)
    return weft.run(weft.Config(executors=[executor], run_dir=folder / "runs"))


def test_programs_share_a_block_at_once(on_slurm: Slurm, hosts: Network, tmp_path: Path) -> None:
    """Two on one node each, one on two nodes: none goes on before all have begun."""
    (folder := tmp_path / "begun").mkdir()
    (program := tmp_path / "together.py").write_text(TOGETHER)
    with run(hosts, tmp_path, 4, mpi="mpirun"):
        futures = [
            together.options(nodes=nodes, ranks_per_node=2)(folder, program, f"{number}", 3)
            for number, nodes in enumerate([1, 2, 1])
        ]
        found = [json.loads(each.stdout) for each in weft.gather(futures).result(timeout=90)]
    assert [each["ranks"] for each in found] == [2, 4, 2]
    names = [set(each["hosts"]) for each in found]
    assert [len(each) for each in names] == [1, 2, 1]
    assert set.union(*names) == {"n1", "n2", "n3", "n4"}
    assert all(each["hosts"].count(name) == 2 for each in found for name in each["hosts"])


def test_srun_starts_ranks_on_the_nodes_of_the_task(on_slurm: Slurm, hosts: Network, tmp_path: Path) -> None:
    """Which is what the block's launcher is made of; and what can never run is refused at once."""
    with run(hosts, tmp_path, 3):
        wide = place.options(nodes=2, ranks=3)()
        narrow = [place.options(ranks=2)() for _ in range(2)]
        with pytest.raises(weft.ResourcesError, match="3 nodes, the task asks for 4"):
            place.options(nodes=4)()
        lines = sorted(wide.result(timeout=60).stdout.splitlines())
        assert [line.rpartition(" on ")[0] for line in lines] == ["0 of 3", "1 of 3", "2 of 3"]
        assert len({line.rpartition(" on ")[2] for line in lines}) == 2
        for each in narrow:
            lines = sorted(each.result(timeout=60).stdout.splitlines())
            assert [line.rpartition(" on ")[0] for line in lines] == ["0 of 2", "1 of 2"]
            assert len({line.rpartition(" on ")[2] for line in lines}) == 1


def test_managers_that_mpirun_starts_register_from_all_hosts(
    on_slurm: Slurm, hosts: Network, tmp_path: Path
) -> None:
    with run(hosts, tmp_path, 4, weft.MpiRunLauncher()) as active:
        executor: Any = active.executors["htex"]
        found = weft.gather([where() for _ in range(40)]).result(timeout=60)
        wait_until("all managers have registered", lambda: len(executor.status()["managers"]) == 4)
    assert set(found) <= {"0", "1", "2", "3"}


def test_programs_that_srun_starts_share_a_block_at_once(
    on_slurm: Slurm, hosts: Network, tmp_path: Path
) -> None:
    """They find each other by PMIx; those that do not are alone, each of rank 0."""
    (folder := tmp_path / "begun").mkdir()
    (program := tmp_path / "together.py").write_text(TOGETHER)
    with run(hosts, tmp_path, 3, mpi=["srun", "--mpi=pmix"]):
        futures = [
            together.options(nodes=nodes, ranks_per_node=2)(folder, program, f"{nodes}", 2)
            for nodes in (2, 1)
        ]
        wide, narrow = (json.loads(each.stdout) for each in weft.gather(futures).result(timeout=60))
    assert (wide["ranks"], narrow["ranks"]) == (4, 2)
    assert {wide["hosts"].count(host) for host in wide["hosts"]} == {2}
    assert len(set(narrow["hosts"])) == 1
    assert not set(wide["hosts"]) & set(narrow["hosts"])


@weft.shell
def linger(seconds: str) -> str:
    return f"$WEFT_MPI_PREFIX sleep {seconds}"


def test_ranks_that_srun_has_started_end_with_a_task_that_is_cancelled(
    on_slurm: Slurm, hosts: Network, tmp_path: Path
) -> None:
    """They are no processes of its worker's node."""
    seconds = f"{1000 + time.time() % 1000:.6f}"

    def ranks() -> list[str]:
        command = ["pgrep", "-xf", f".*/sleep {seconds}"]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()

    with run(hosts, tmp_path, 2, mpi="srun"):
        future = linger.options(nodes=2, ranks_per_node=2)(seconds)
        wait_until("its ranks run", lambda: len(ranks()) == 4)
        assert future.cancel()
        began = time.monotonic()
        wait_until("its ranks have ended", lambda: not ranks(), 30)
        print(f"measured: the ranks of a cancelled task had ended {time.monotonic() - began:.1f} s later")
        assert where().result(timeout=60) in {"0", "1"}


def run_example(root: Path, site: str, folder: Path, run: Callable[[list[str]], list[str]] = list) -> None:
    """Three nodes for programs that need four: whatever runs at once has other nodes."""
    (folder / "site.toml").write_text(site)
    command = [sys.executable, "-m", "weft", "run", "--quiet", "--config", "site.toml"]
    print(finish(run([*command, str(root / "examples/mpi/integrals.py")]), folder))
    found = json.loads((folder / "integrals.json").read_text())
    assert [each["ranks"] for each in found] == [2, 4, 2]
    assert [round(each["value"], 6) for each in found] == [3.141593, 0.693147, 1.718282]
    assert [len(set(each["hosts"])) for each in found] == [1, 2, 1]
    for one, other in itertools.combinations(found, 2):
        if one["begun"] < other["ended"] and other["begun"] < one["ended"]:
            assert not set(one["hosts"]) & set(other["hosts"])


def test_the_example_runs_on_slurm(on_slurm: Slurm, hosts: Network, root: Path, tmp_path: Path) -> None:
    text = (root / "examples/mpi/slurm.toml").read_text()
    run_example(root, text.replace('"localhost"', f'"{hosts.head}"'), tmp_path)


def finish(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def grid(hosts: Network, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GridEngine]:
    with grid_engine(tmp_path_factory.mktemp("gridengine") / "g", network=hosts) as cluster:
        yield cluster


@pytest.fixture
def on_grid_engine(grid: GridEngine, monkeypatch: pytest.MonkeyPatch) -> Iterator[GridEngine]:
    for name, value in grid.environment.items():
        monkeypatch.setenv(name, value)
    yield grid
    grid.clear()


def test_the_example_runs_on_grid_engine(
    on_grid_engine: GridEngine, hosts: Network, root: Path, tmp_path: Path
) -> None:
    text = (root / "examples/mpi/gridengine.toml").read_text().replace('"localhost"', f'"{hosts.head}"')
    run_example(root, f'{text}worker_init = "{EXPORTS}"\n', tmp_path, on_grid_engine.see)


# On each host of a job: a program on this one and the next, but not before all are here.
RING = """
me=$(uname -n)
all=$(awk '{ print $1 }' "$PE_HOSTFILE")
next=$(printf '%s\\n' $all $all | awk -v me="$me" 'found { print; exit } $1 == me { found = 1 }')
printf '%s\\n' "$me" "$next" >"hosts.$me"
timeout 60 mpirun -n 2 --hostfile "hosts.$me" --map-by node uname -n >"found.$me"
"""


def test_programs_start_from_every_host_of_a_job(on_grid_engine: GridEngine, tmp_path: Path) -> None:
    """Though its list of hosts is on the disk of the first alone."""
    channel = weft.LocalChannel(tmp_path)
    provider = weft.GridEngineProvider(
        parallel_environment="two", poll_interval=1, channel=channel, worker_init=EXPORTS
    )
    shape = BlockShape(nodes=3, cpus=2, walltime=600)
    command = weft.MpiRunLauncher().wrap(["sh", "-ec", f"cd '{tmp_path}'\n{RING}"], shape)
    job = provider.submit(JobSpec(id="ring", name="ring", command=command, shape=shape, directory="jobs"))
    wait_until("it ends", lambda: provider.status([job])[job].state.terminal, 60)
    assert provider.status([job])[job].state is JobState.COMPLETED, provider.status([job])[job]
    found = {path.name.partition(".")[2]: path.read_text().split() for path in tmp_path.glob("found.*")}
    names = sorted(found)
    assert len(names) == 3
    assert all(len(set(pair)) == 2 and host in pair for host, pair in found.items())
    assert sorted(itertools.chain(*found.values())) == sorted([*names, *names])
