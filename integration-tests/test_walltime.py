"""Blocks of a real Slurm that end: tasks know when, are told in time, and run again, which costs no retry."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import weft
from servers.process import wait_until
from servers.slurm import Slurm, slurm
from weft_interfaces import BaseEventSink, Event

pytestmark = [pytest.mark.once, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    with slurm(tmp_path_factory.mktemp("slurm") / "s", nodes=2) as cluster:
        yield cluster


class Sink(BaseEventSink):
    """Keeps events."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def write(self, events: Sequence[Event]) -> None:
        self.events += events

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [dict(event.data) for event in self.events if event.kind == kind]


class Site:
    """A run with one block at a time, whose queue is asked every ``poll`` seconds."""

    def __init__(self, cluster: Slurm, folder: Path) -> None:
        self.cluster = cluster
        self.folder = folder
        self.sink = Sink()

    def run(self, poll: float) -> weft.Run:
        channel = weft.LocalChannel(self.folder, self.cluster.environment)
        provider = weft.SlurmProvider(exclusive=True, poll_interval=poll, channel=channel)
        blocks = weft.Blocks(provider=provider, walltime=600, max=2)
        executor = weft.HighThroughputExecutor(blocks=blocks, workers_per_node=1)
        config = weft.Config(executors=[executor], run_dir=self.folder / "runs", sinks=[self.sink])
        return weft.run(config)

    def begun(self, tries: int) -> Callable[[], bool]:
        return lambda: len(list(self.folder.glob("begun-*"))) >= tries

    @property
    def knows_the_end(self) -> bool:
        """Whether the run has heard from the queue when its block ends: only then it hears that it moved."""
        return any(data["ends_at"] for data in self.sink.of("block.running"))

    def end_in(self, seconds: float) -> None:
        """The administrator has the running job end sooner."""
        (job,) = (line.split()[0] for line in self.cluster.jobs() if "RUNNING" in line)
        end = time.strftime("%FT%T", time.localtime(time.time() + seconds))
        self.cluster.update(f"JobId={job}", f"EndTime={end}")


@pytest.fixture
def site(cluster: Slurm, tmp_path: Path) -> Iterator[Site]:
    yield Site(cluster, tmp_path)
    cluster.clear()


@weft.task
def resumable(folder: Path) -> float | None:
    """Runs until it is told to save its state; runs to its end from what it has saved."""
    (folder / f"begun-{os.getpid()}").touch()
    saved = folder / "state"
    if saved.exists():
        return float(saved.read_text())

    def save() -> None:
        (folder / "left").write_text(str(weft.remaining()))
        saved.write_text("42")

    with weft.on_walltime(save, seconds=6):
        time.sleep(600)
    return None


@weft.shell
def trapping(folder: Path) -> str:
    """The same as a command, which is sent a signal."""
    weft.on_walltime(signal.SIGUSR1, seconds=6)
    return f"""
        cd '{folder}'; touch begun-$$
        if [ -e state ]; then cat state; exit; fi
        trap 'echo saved >state' USR1
        sleep 600 & while ! wait; do :; done
    """


@weft.task
def second_time_lucky(folder: Path) -> int:
    """Has to be lost to be run again."""
    tries = len(list(folder.glob("begun-*")))
    (folder / f"begun-{os.getpid()}").touch()
    if not tries:
        time.sleep(600)
    return tries


def test_tasks_are_told_before_a_block_whose_end_is_moved(site: Site) -> None:
    """It has ten minutes, and then only twelve seconds: no manager, and no task, has asked for that."""
    with site.run(poll=1) as run:
        future = resumable(site.folder)
        wait_until("the task begins", site.begun(1))
        wait_until("the end of the block is known", lambda: site.knows_the_end)
        site.end_in(12)
        assert future.result(timeout=90) == 42
        assert run.counts().failed == 0
    left = float((site.folder / "left").read_text())
    assert 3 < left <= 6
    (moved,) = (data for data in site.sink.of("block.end_moved") if data["by"] < -500)
    assert moved["by"] > -600
    first, *_ = site.sink.of("block.ended")
    assert first["block"] == moved["block"]


def test_commands_are_sent_a_signal_before_the_end(site: Site) -> None:
    with site.run(poll=1):
        future = trapping(site.folder)
        wait_until("the command begins", site.begun(1))
        site.end_in(12)
        assert future.result(timeout=90).stdout == "saved\n"


def test_a_task_that_a_block_took_with_it_costs_no_retry(site: Site) -> None:
    """Slurm ends the job before anybody here was told that it would."""
    with site.run(poll=30):
        future = second_time_lucky.options(retries=0)(site.folder)
        wait_until("the task begins", site.begun(1))
        site.end_in(1)
        assert future.result(timeout=100) == 1
    ended = [data for data in site.sink.of("block.ended") if data["state"] == "timeout"]
    assert len(ended) == 1
    assert ended[0]["reason"].startswith("TimeLimit")
