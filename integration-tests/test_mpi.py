"""MPI programs as tasks, with mpi4py, on hosts of their own: several share a block of a real batch system."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import weft
from servers.gridengine import GridEngine, grid_engine
from servers.host import Network, network
from servers.slurm import Slurm, slurm

pytestmark = [pytest.mark.once, pytest.mark.timeout(120)]

# As root, and where all hosts have the same /tmp, some of which Grid Engine removes.
OPEN_MPI = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "OMPI_MCA_orte_tmpdir_base": "/tmp",
    "TMPDIR": "/tmp",
}

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
def on_slurm(cluster: Slurm, monkeypatch: pytest.MonkeyPatch) -> Iterator[Slurm]:
    for name, value in {**cluster.environment, **OPEN_MPI}.items():
        monkeypatch.setenv(name, value)
    yield cluster
    cluster.clear()


@weft.shell
def together(folder: Path, program: Path, name: str, count: int) -> list[str]:
    return [*weft.mpi_prefix(), sys.executable, str(program), str(folder), name, str(count)]


@weft.shell
def place() -> str:
    return "$WEFT_MPI_PREFIX sh -c 'echo $SLURM_PROCID of $SLURM_NTASKS on $SLURMD_NODENAME'"


def run(hosts: Network, folder: Path, nodes: int, **settings: Any) -> weft.Run:
    provider = weft.SlurmProvider(exclusive=True, poll_interval=1, channel=weft.LocalChannel(folder))
    blocks = weft.Blocks(provider=provider, launcher=weft.SrunLauncher(), nodes=nodes, walltime=600)
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


def test_the_example_runs_on_slurm(on_slurm: Slurm, hosts: Network, root: Path, tmp_path: Path) -> None:
    """Three nodes for programs that need four: whatever runs at once has other nodes."""
    text = (root / "examples/mpi/slurm.toml").read_text()
    (tmp_path / "site.toml").write_text(text.replace('"localhost"', f'"{hosts.head}"'))
    weft_run = [sys.executable, "-m", "weft", "run", "--quiet", "--config", "site.toml"]
    finish([*weft_run, str(root / "examples/mpi/integrals.py")], tmp_path)
    found = json.loads((tmp_path / "integrals.json").read_text())
    assert [each["ranks"] for each in found] == [2, 4, 2]
    assert [round(each["value"], 6) for each in found] == [3.141593, 0.693147, 1.718282]
    assert [len(set(each["hosts"])) for each in found] == [1, 2, 1]
    for one, other in itertools.combinations(found, 2):
        if one["begun"] < other["ended"] and other["begun"] < one["ended"]:
            assert not set(one["hosts"]) & set(other["hosts"])


def finish(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


GRID_ENGINE = """
import json, sys
import weft

@weft.shell(ranks_per_node=2)
def together(name):
    return [*weft.mpi_prefix(), sys.executable, "together.py", "begun", name, "3"]

settings = "; ".join(f"export {name}={value}" for name, value in json.loads(sys.argv[1]).items())
provider = weft.GridEngineProvider(parallel_environment="two", poll_interval=1, worker_init=settings)
blocks = weft.Blocks(provider=provider, launcher=weft.MpiRunLauncher(), nodes=3, cpus=2, walltime=600)
executor = weft.HighThroughputExecutor(blocks=blocks, address=sys.argv[2], workers_per_node=1)
with weft.run(weft.Config(executors=[executor])):
    results = weft.gather([together(f"{number}") for number in range(3)]).result(timeout=90)
print(json.dumps([json.loads(each.stdout) for each in results]))
"""


@pytest.fixture
def on_grid_engine(hosts: Network, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GridEngine]:
    with grid_engine(tmp_path_factory.mktemp("gridengine") / "g", network=hosts) as cluster:
        yield cluster


def test_programs_share_a_block_of_a_parallel_environment(
    on_grid_engine: GridEngine, hosts: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each on one of its nodes, by the words of the block's launcher."""
    for name, value in on_grid_engine.environment.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "begun").mkdir()
    (tmp_path / "together.py").write_text(TOGETHER)
    (tmp_path / "script.py").write_text(GRID_ENGINE)
    script = [sys.executable, "script.py", json.dumps(OPEN_MPI), hosts.head]
    found = json.loads(finish(on_grid_engine.see(script), tmp_path).splitlines()[-1])
    assert [each["ranks"] for each in found] == [2, 2, 2]
    assert len({host for each in found for host in each["hosts"]}) == 3
    assert all(len(set(each["hosts"])) == 1 for each in found)
