"""Blocks in a real queue: asked for and given back as the load is, with few commands, and never in a loop."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import weft
from servers.process import wait_until
from servers.shims import Shims
from servers.slurm import Slurm, slurm
from weft_core import LoadScalingPolicy
from weft_interfaces import BaseEventSink, Event

pytestmark = [pytest.mark.once, pytest.mark.timeout(120)]

COMMANDS = ("sbatch", "squeue", "scancel", "sacct", "scontrol")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    with slurm(tmp_path_factory.mktemp("slurm") / "s", nodes=2, cpus=1) as cluster:
        yield cluster


class Site(BaseEventSink):
    """Two nodes for one block each; what is asked of Slurm is counted."""

    def __init__(self, cluster: Slurm, folder: Path) -> None:
        self.cluster = cluster
        self.folder = folder
        self.events: list[Event] = []
        self.shims = Shims(folder / "bin", COMMANDS)
        path = os.pathsep.join([str(self.shims.folder), os.environ["PATH"]])
        self.channel = weft.LocalChannel(folder, {**cluster.environment, "PATH": path})

    def write(self, events: Sequence[Event]) -> None:
        self.events += events

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [dict(event.data) for event in self.events if event.kind == kind]

    def executor(self, label: str = "htex", partition: str = "debug", **blocks: Any) -> Any:
        provider = weft.SlurmProvider(partition=partition, poll_interval=1, channel=self.channel)
        settings = {"cpus": 1, "walltime": 300, "init": 0, **blocks}
        return weft.HighThroughputExecutor(
            label, blocks=weft.Blocks(provider=provider, **settings), workers_per_node=1
        )

    def run(self, *executors: Any, **settings: Any) -> weft.Run:
        config = weft.Config(
            executors=list(executors), run_dir=self.folder / "runs", sinks=[self], **settings
        )
        return weft.run(config)


@pytest.fixture
def site(cluster: Slurm, tmp_path: Path) -> Iterator[Site]:
    yield Site(cluster, tmp_path)
    cluster.clear()


@weft.task
def until(path: Path) -> int:
    """Done when there is such a file."""
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return os.getpid()


def test_two_hundred_blocks_cost_one_query_per_interval(site: Site) -> None:
    """And no command for each of them, but the one that submits it."""
    go = site.folder / "go"
    with site.run(site.executor(init=200, max=200)):
        wait_until("all are submitted", lambda: len(site.of("block.requested")) == 200, 90)
        futures = [until(go) for _ in range(2)]
        wait_until("two blocks are up", lambda: len(site.of("block.registered")) == 2, 60)
        queries, begun = site.shims.calls("squeue"), time.monotonic()
        time.sleep(5)  # not for anything to happen: that is what is measured
        queries, seconds = site.shims.calls("squeue") - queries, time.monotonic() - begun
        go.touch()
        weft.gather(futures).result(timeout=60)
    assert 1 <= queries <= seconds + 1
    assert site.shims.calls("sbatch") == 200
    assert site.shims.calls("scancel") <= 3
    assert site.shims.calls("sacct") + site.shims.calls("scontrol") <= 1
    wait_until("nothing is left", lambda: not site.cluster.jobs(), 20)


def test_blocks_follow_the_load_and_nothing_oscillates(site: Site) -> None:
    """Six tasks want four blocks, of which two have nodes; in the tail those without work go."""
    go, last = site.folder / "go", site.folder / "last"
    with site.run(site.executor(max=4, idle_timeout=2)):
        futures = [until(go) for _ in range(5)]
        tail = until.options(priority=-1)(last)
        wait_until("two blocks are up", lambda: len(site.of("block.registered")) == 2, 60)
        assert len(site.cluster.jobs()) == 4
        go.touch()
        weft.gather(futures).result(timeout=60)
        # What waited in the queue has its turn, finds nothing to do, and goes, as the idle one does.
        wait_until("one block is left", lambda: len(site.cluster.jobs()) == 1, 60)
        last.touch()
        assert tail.result(timeout=60)
    assert site.shims.calls("sbatch") == 4
    decisions = site.of("scaling.decision")
    assert [bool(data["add"]) for data in decisions] == sorted(
        (bool(d["add"]) for d in decisions), reverse=True
    )
    assert sum(data["add"] for data in decisions) == 4
    drained = [block for data in decisions for block in data["drain"]]
    assert len(set(drained)) == len(drained)
    assert 3 <= len(drained) <= 4
    assert all(data["reason"] for data in decisions)
    coming = [data["reason"] for data in decisions if "coming" in data["reason"]]
    assert coming or decisions[0]["add"] == 4


def test_a_block_that_waits_for_too_long_is_replaced_where_that_is_wanted(site: Site) -> None:
    site.cluster.set_node("n1", "DRAIN")
    site.cluster.set_node("n2", "DRAIN")
    try:
        with site.run(site.executor(max=1), scaling_policy=LoadScalingPolicy(queue_timeout=4)):
            future = until(site.folder)
            wait_until("it was replaced", lambda: len(site.of("block.requested")) == 2, 60)
            site.cluster.set_node("n1", "RESUME")
            assert future.result(timeout=60)
    finally:
        site.cluster.set_node("n2", "RESUME")
    first, *_ = site.of("block.ended")
    assert first["state"] == "cancelled"
    assert "given up after" in first["reason"]
    (decision, *_) = [data for data in site.of("scaling.decision") if data["drain"]]
    assert "in the queue for more than 4 s" in decision["reason"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"partition": "nope"}, "invalid partition specified: nope"),
        ({"partition": "short"}, "can never run: PartitionTimeLimit (the job asks for more walltime"),
    ],
)
def test_a_site_that_refuses_blocks_is_one_error_within_seconds(
    site: Site, settings: dict[str, str], words: str
) -> None:
    begun = time.monotonic()
    with site.run(site.executor(init=1, max=2, **settings)):
        futures = [until(site.folder) for _ in range(5)]
        errors = {str(future.exception(timeout=30)) for future in futures}
        assert time.monotonic() - begun < 20
    assert len(errors) == 1
    (error,) = errors
    assert words in error
    assert site.shims.calls("sbatch") <= 2
    assert len(site.of("scaling.no_more_blocks")) == 1


def test_tasks_go_elsewhere_when_one_site_refuses(site: Site) -> None:
    executors = [site.executor("refused", "nope", init=1), site.executor("works", init=1)]
    with site.run(*executors):
        pids = weft.gather([until(Path(sys.executable)) for _ in range(4)]).result(timeout=60)
    assert len(pids) == 4
