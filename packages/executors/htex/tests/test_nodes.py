"""Calls that take several nodes, on real processes: several managers of one block on this machine."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import pytest
from weft_executor_htex import HighThroughputExecutor
from weft_executor_htex.nodes import check_mpi, find_mpi, node_name, prefix
from weft_interfaces import (
    Blocks,
    Call,
    CallOptions,
    ConfigError,
    ManagerLostError,
    Resources,
    ResourcesError,
    TaskTimeoutError,
)
from weft_interfaces.memory import InMemoryProvider
from weft_interfaces.testing.calls import Gate, pass_gate

pytestmark = pytest.mark.once

PATIENCE = 30.0
cloudpickle.register_pickle_by_value(sys.modules[__name__])


def surroundings() -> dict[str, str]:
    """The variables of calls of several nodes or ranks, and what is in the file that one of them names."""
    names = ("NODES", "NODE_COUNT", "RANKS", "RANKS_PER_NODE", "HOSTFILE", "MPI_PREFIX")
    found = {f"WEFT_{name}": os.environ[f"WEFT_{name}"] for name in names if f"WEFT_{name}" in os.environ}
    if "WEFT_HOSTFILE" in found:
        found["lines"] = Path(found["WEFT_HOSTFILE"]).read_text()
    return found


def of_a_shell() -> str:
    return subprocess.check_output(["sh", "-c", "echo $WEFT_NODE_COUNT $WEFT_RANKS"], text=True).strip()


def nodes_of_gate(address: str) -> int:
    pass_gate(address)
    return int(os.environ["WEFT_NODE_COUNT"])


def nodes_or_none(address: str) -> str | None:
    pass_gate(address)
    return os.environ.get("WEFT_NODES")


class Block:
    """An executor with three managers of one block."""

    def __init__(self, recorder: Any, eventually: Any, managers: int = 3) -> None:
        self.recorder = recorder
        self._eventually = eventually
        blocks = Blocks(provider=InMemoryProvider(), nodes=3)
        self.executor = HighThroughputExecutor(
            workers_per_node=2, blocks=blocks, heartbeat_period=0.2, heartbeat_threshold=1.5
        )
        self.executor.start(recorder)
        self.managers: list[subprocess.Popen[bytes]] = []
        self.grow(managers)

    def grow(self, managers: int) -> None:
        """Start so many more."""
        self.managers += [self._start() for _ in range(managers)]
        count = len(self.managers)
        self._eventually(lambda: len(self.executor.status()["managers"]) == count, "managers do not come up")

    def _start(self) -> subprocess.Popen[bytes]:
        argv, data = self.executor.command("b")
        manager = subprocess.Popen(list(argv), stdin=subprocess.PIPE)
        assert manager.stdin is not None
        manager.stdin.write(data)
        manager.stdin.close()
        return manager

    def call(self, function: Any, *args: Any, timeout: float | None = None, **wants: Any) -> Call:
        call: Call = self.recorder.call(function, *args)
        return call._replace(options=CallOptions(resources=Resources(**wants), timeout=timeout))

    def submit(self, *calls: Call) -> None:
        self.executor.submit(calls)

    def close(self) -> None:
        leftovers = self.executor.shutdown(cancel=True, timeout=5.0)
        for manager in self.managers:
            try:
                manager.wait(PATIENCE)
            finally:
                manager.kill()
                manager.wait()
        assert leftovers == []


@pytest.fixture
def block(recorder: Any, eventually: Any) -> Iterator[Block]:
    block = Block(recorder, eventually)
    yield block
    block.close()


@pytest.fixture
def gate() -> Iterator[Gate]:
    with Gate() as gate:
        yield gate


def test_it_runs_once_and_is_told_its_nodes(block: Block, recorder: Any) -> None:
    wide = block.call(surroundings, nodes=2, ranks=5)
    shell = block.call(of_a_shell, nodes=3)
    small = [block.call(surroundings) for _ in range(6)]
    ranks = block.call(surroundings, ranks=4)
    block.submit(wide, shell, *small, ranks)
    host = os.uname().nodename
    found = recorder.wait(wide)[0].value
    hostfile = found.pop("WEFT_HOSTFILE")
    assert found.pop("WEFT_MPI_PREFIX") == f"mpirun -n 5 --hostfile {hostfile}"
    assert found == {
        "WEFT_NODES": f"{host},{host}",
        "WEFT_NODE_COUNT": "2",
        "WEFT_RANKS": "5",
        "WEFT_RANKS_PER_NODE": "3",
        "lines": f"{host}\n" * 6,
    }
    assert not os.path.exists(hostfile)
    assert recorder.wait(shell)[0].value == "3 3"
    assert not any("WEFT_NODES" in outcome.value for outcome in recorder.wait(*small))
    found = recorder.wait(ranks)[0].value
    assert found["WEFT_RANKS"] == "4"
    assert found["lines"] == f"{host}\n" * 4


def test_nobody_else_gets_its_nodes(block: Block, recorder: Any, gate: Gate) -> None:
    wide = block.call(nodes_of_gate, gate.address, nodes=3)
    block.submit(wide)
    gate.wait_begun(PATIENCE)
    small, barrier = block.call(abs, -1), block.call(abs, -2)
    block.submit(small, barrier)
    assert list(block.executor.cancel([barrier.id])) == [barrier.id]  # the interchange has heard of both
    assert [each["running"] for each in block.executor.status()["blocks"].values()] == [1]
    gate.open()
    assert recorder.wait(wide)[0].value == 3
    assert recorder.wait(small)[0].value == 1


@pytest.mark.parametrize("which", ["first", "other"])
def test_one_of_its_nodes_is_killed(block: Block, recorder: Any, gate: Gate, which: str) -> None:
    """Noticed at once, but for the second that is granted to the batch system; the others are free again."""
    wide = block.call(pass_gate, gate.address, nodes=3)
    block.submit(wide)
    gate.wait_begun(PATIENCE)
    order = [info["pid"] for info in block.executor.status()["managers"]]
    victim = order[0] if which == "first" else order[1]
    since = time.monotonic()
    os.kill(victim, signal.SIGKILL)
    error = recorder.wait(wide)[0].error
    assert time.monotonic() - since < 3.0
    assert isinstance(error, ManagerLostError)
    assert error.certificate is not None
    assert (error.certificate.pid, error.certificate.block_id) == (victim, "b")
    again = block.call(of_a_shell, nodes=2)
    block.submit(again)
    assert recorder.wait(again)[0].value == "2 2"


def test_cancel_and_timeout_free_all_nodes(block: Block, recorder: Any, gate: Gate) -> None:
    first = block.call(pass_gate, gate.address, nodes=3)
    block.submit(first)
    gate.wait_begun(PATIENCE)
    assert list(block.executor.cancel([first.id])) == [first.id]
    second = block.call(time.sleep, 1000, nodes=3, timeout=0.3)
    third = block.call(of_a_shell, nodes=3, ranks=6)
    block.submit(second, third)
    assert isinstance(recorder.wait(second)[0].error, TaskTimeoutError)
    assert recorder.wait(third)[0].value == "3 6"


def test_a_node_that_comes_takes_the_place_of_a_busy_one(recorder: Any, eventually: Any, gate: Gate) -> None:
    block = Block(recorder, eventually, managers=2)
    try:
        small = block.call(nodes_or_none, gate.address)
        block.submit(small)
        gate.wait_begun(PATIENCE)
        wide, barrier = block.call(of_a_shell, nodes=2), block.call(abs, -2)
        block.submit(wide, barrier)
        assert list(block.executor.cancel([barrier.id])) == [barrier.id]  # both have been heard of
        block.grow(1)
        assert recorder.wait(wide)[0].value == "2 2"
        gate.open()
        assert recorder.wait(small)[0].value is None
    finally:
        block.close()


def test_more_nodes_than_a_block_has_are_refused(block: Block, recorder: Any) -> None:
    call = block.call(abs, -1, nodes=4)
    block.submit(call)
    error = recorder.wait(call)[0].error
    assert isinstance(error, ResourcesError)
    assert "nodes=4" in str(error)
    assert "3 nodes" in str(error)


def test_its_demand_is_that_of_its_nodes(recorder: Any) -> None:
    executor = HighThroughputExecutor(workers_per_node=4, blocks=Blocks(provider=InMemoryProvider(), nodes=3))
    executor.start(recorder)
    try:
        wide = recorder.call(abs, -1)._replace(options=CallOptions(resources=Resources(nodes=2)))
        executor.submit([wide, recorder.call(abs, -1)])
        assert executor.demand()[:3] == (2 * 4 + 1, 0, 12)
    finally:
        executor.shutdown(cancel=True, timeout=5.0)


@pytest.mark.parametrize(
    ("mpi", "words"),
    [
        ("mpirun", "mpirun -n 5 --hostfile /h"),
        (["/opt/mpiexec.hydra", "-v"], "/opt/mpiexec.hydra -n 5 --hostfile /h -v"),
        (
            ["srun", "--mpi=pmix"],
            (
                "srun --overlap --nodes=2 --ntasks=5 --ntasks-per-node=3 --distribution=block --nodelist=a,b "
                "--mpi=pmix"
            ),
        ),
    ],
)
def test_the_words_that_start_ranks(mpi: Any, words: str) -> None:
    checked = check_mpi(mpi, "of a test")
    assert shlex.join(prefix(checked, ["a", "b"], Resources(nodes=2, ranks=5), "/h")) == words


@pytest.mark.parametrize("mpi", ["", [], "aprun", 3, ["srun", 3]])
def test_other_words_are_refused(mpi: Any) -> None:
    with pytest.raises(ConfigError, match=r'mpi of executor .* is neither "auto" nor one of srun') as caught:
        HighThroughputExecutor(blocks=Blocks(provider=InMemoryProvider()), mpi=mpi)
    assert caught.value.key == "mpi"


def test_unless_said_it_is_what_the_node_has(tmp_path: Path) -> None:
    assert check_mpi("auto", "") == []
    assert find_mpi({"PATH": str(tmp_path), "SLURM_JOB_ID": "1"}) == ["srun"]
    (tmp_path / "mpiexec").write_text("#!/bin/sh\n")
    (tmp_path / "mpiexec").chmod(0o755)
    assert find_mpi({"PATH": str(tmp_path), "SLURM_JOB_ID": "1"}) == ["mpiexec"]
    assert node_name({"SLURMD_NODENAME": "n1"}, "login") == "n1"
    assert node_name({}, "n1.cluster") == "n1.cluster"
