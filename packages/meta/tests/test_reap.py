"""``weft reap``: what a run left that was killed is found, listed and removed by another process."""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import weft
from weft._client import RECORD, Client, Life, forget_client, read_clients, record_client
from weft._reap import Reaping, Site
from weft_interfaces import (
    BlockShape,
    ChannelError,
    ConfigError,
    InputError,
    JobId,
    JobSpec,
    Provider,
    ProviderError,
    far_directory,
)
from weft_interfaces.memory import InMemoryProvider
from weft_interfaces.testing import RootedChannel
from weft_provider_local import LocalProvider

pytestmark = [
    pytest.mark.once,
    pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="jobs of other processes are in /proc"),
]

SITE = """
run_dir = "runs"

[[executors]]
type = "htex"
workers_per_node = 1
heartbeat_threshold = "10 min"
heartbeat_period = "1 min"

[executors.blocks]
provider = "local"
init = 2
max = 2
"""

APP = """
import pathlib, time, weft

@weft.task
def nap(number):
    pathlib.Path(f"begun-{number}").touch()
    time.sleep(600)

with weft.run("site.toml"):
    weft.gather([nap(number) for number in range(2)]).result()
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WEFT_CONFIG", raising=False)
    (tmp_path / "site.toml").write_text(SITE)
    # What clients that are killed leave there; its name is short, as those of sockets have to be.
    with tempfile.TemporaryDirectory(prefix="weft-") as temporary:
        monkeypatch.setenv("TMPDIR", temporary)
        yield tmp_path
        provider = LocalProvider()
        for client in read_clients(tmp_path / "runs"):
            provider.cancel(list(provider.find(client.run)))


@pytest.fixture
def reap(folder: Path, start: Callable[..., Any]) -> Callable[..., Any]:
    """Run ``weft reap`` with these arguments, to its end."""

    def ask(*arguments: str, status: int = 0) -> Any:
        program = start(argv=["-m", "weft", "reap", "--config", "site.toml", *arguments])
        assert program.end() == status, program.out + program.err
        return program

    return ask


@pytest.fixture
def begun(folder: Path, start: Callable[..., Any], wait_until: Any) -> Callable[[], tuple[Any, str]]:
    """A run whose two blocks are at work: its program, and its id."""

    def begin() -> tuple[Any, str]:
        before = set(run_ids(folder))
        program = start(APP, env={"TMPDIR": os.environ["TMPDIR"]})
        wait_until(
            lambda: len(list(folder.glob("begun-*"))) == 2 or program.process.poll() is not None, "two calls"
        )
        for path in folder.glob("begun-*"):
            path.unlink()
        assert program.process.poll() is None, program.err
        (run,) = set(run_ids(folder)) - before
        return program, run

    return begin


def run_ids(folder: Path) -> list[str]:
    return [path.parent.name for path in folder.glob(f"runs/*/{RECORD}")]


def kill(program: Any, run: str) -> None:
    """Kill a run's process; its managers hang, and do not see it."""
    for job in LocalProvider().find(run):
        os.killpg(int(job.partition(".")[0]), signal.SIGSTOP)
    program.process.send_signal(signal.SIGKILL)
    # Its pipes are the workers' too: they end when these do.
    program.process.wait(30)


def test_blocks_of_a_killed_run_are_listed_and_removed_and_those_of_a_living_one_are_not(
    begun: Any, reap: Any, running: Any
) -> None:
    killed, dead = begun()
    _, alive = begun()
    provider = LocalProvider()
    orphans, kept = dict(provider.find(dead)), dict(provider.find(alive))
    assert len(orphans) == len(kept) == 2
    kill(killed, dead)
    assert dict(provider.find(dead)) == orphans

    table = json.loads(reap("--json", status=1).out)
    found = {entry["run"]: entry for entry in table["runs"]}
    assert (found[dead]["process"], found[alive]["process"]) == ("dead", "alive")
    assert found[dead]["why"] == f"its process {killed.process.pid} has ended"
    assert {job["job"]: job["name"] for job in found[dead]["jobs"]} == orphans
    assert {job["state"] for job in found[dead]["jobs"]} == {"running"}
    assert dict(provider.find(dead)) == orphans, "without --yes, --json only lists"

    said = reap("--yes").out
    assert f"run {dead} is dead" in said
    assert f"run {alive} is alive" in said
    assert "removed 2 of 2 jobs" in said
    assert provider.find(dead) == {}
    assert not any(running(int(job.partition(".")[0])) for job in orphans)
    assert dict(provider.find(alive)) == kept
    assert reap(dead).out == "no job is left: 1 runs, 1 providers looked at\n"


def test_it_asks_and_takes_silence_for_no(begun: Any, reap: Any) -> None:
    program, run = begun()
    kill(program, run)
    said = reap(run[:-2], status=1)
    assert "Remove 2 jobs?" in said.out
    assert len(LocalProvider().find(run)) == 2
    reap("--yes", run)
    assert LocalProvider().find(run) == {}


def test_a_living_run_is_ended_with_force_alone(begun: Any, reap: Any) -> None:
    _, run = begun()
    assert "its jobs are left alone" in reap("--yes", run).out
    assert len(LocalProvider().find(run)) == 2
    assert "--force is for one run" in reap("--yes", "--force", status=2).err
    # Removed are the blocks that were found; the run that lives may ask for others.
    said = reap("--yes", "--force", run)
    assert "removed 2 of 2 jobs" in said.out


def test_a_run_that_ends_as_it_should_leaves_no_record(folder: Path, start: Any, reap: Any) -> None:
    program = start(APP.replace("time.sleep(600)", "pass").replace("result()", "result(); print('done')"))
    assert program.end() == 0, program.err
    assert run_ids(folder) == []
    assert reap().out == "no job is left: 0 runs, 1 providers looked at\n"


def test_what_cannot_be_asked_is_said(folder: Path, start: Any, reap: Any) -> None:
    assert "no run 'nope'" in reap("nope", status=2).err
    (folder / "site.toml").write_text('executors = ["threads"]\n')
    assert "name one that does with --config" in reap(status=2).err
    (folder / "site.toml").write_text('executors = ["thread"]\n')
    assert "threads" in reap(status=1).err
    (folder / "site.toml").write_text(SITE)
    assert "--timeout" in reap("--timeout", "soon", status=2).err


# -- which runs there are -----------------------------------------------------------------------------------


def test_a_process_is_dead_only_when_that_is_certain() -> None:
    client = Client.this("r")
    assert client.life()[0] is Life.ALIVE
    other_host = replace(client, host="elsewhere")
    assert other_host.life() == (
        Life.UNKNOWN,
        f"its process ran on elsewhere, which is not this host ({client.host})",
    )
    assert replace(client, machine="another").life()[0] is Life.UNKNOWN
    assert replace(client, space="pid:[1]").life()[0] is Life.UNKNOWN
    assert replace(client, boot="before").life() == (Life.DEAD, "this host was restarted since")
    assert replace(client, started="1").life()[0] is Life.DEAD
    child = os.spawnv(os.P_NOWAIT, sys.executable, [sys.executable, "-c", "pass"])
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    assert replace(client, pid=child).life()[0] is Life.DEAD, "what is left of it until it is waited for"
    os.waitpid(child, 0)
    assert replace(client, pid=child).life()[0] is Life.DEAD
    assert Client(run="r").life()[0] is Life.UNKNOWN


def test_records_are_found_by_id_beginning_and_path(tmp_path: Path) -> None:
    for run in ("a-1", "a-2", "b-1"):
        record_client(tmp_path / run, run)
    assert [client.run for client in read_clients(tmp_path)] == ["a-1", "a-2", "b-1"]
    assert read_clients(tmp_path, "b")[0].pid == os.getpid()
    assert read_clients(tmp_path, str(tmp_path / "a-2"))[0].run == "a-2"
    with pytest.raises(InputError, match="2 runs begin with 'a': a-1, a-2"):
        read_clients(tmp_path, "a")
    with pytest.raises(InputError, match="did you mean 'a-1'"):
        read_clients(tmp_path, "a1")
    assert read_clients(tmp_path, "a1", any_run=True) == [Client(run="a1")]
    forget_client(tmp_path / "b-1")
    assert not (tmp_path / "b-1").exists()
    (tmp_path / "ended").mkdir()
    assert read_clients(tmp_path, "ended") == [Client(run="ended")]


def test_records_of_other_users_are_left_out(tmp_path: Path) -> None:
    record_client(tmp_path / "mine", "mine")
    other = replace(Client.this("theirs"), user=os.getuid() + 1)
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / RECORD).write_text(json.dumps(asdict(other)))
    assert [client.run for client in read_clients(tmp_path)] == ["mine"]


@pytest.mark.parametrize("text", ["", "[]", "{", "{}", '{"run": 3}', '{"run": "r", "pid": "1"}', "\xff"])
def test_a_damaged_record_is_a_run_of_which_nothing_is_known(tmp_path: Path, text: str) -> None:
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / RECORD).write_text(text, encoding="latin-1")
    assert read_clients(tmp_path) == [Client(run="r")]


def test_a_run_whose_blocks_could_not_be_found_again_does_not_start(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")
    table = {"type": "htex", "workers_per_node": 1, "blocks": {"provider": "local"}}
    with pytest.raises(ConfigError, match="set run_dir to where there is room") as caught:
        weft.run(executors=[table], run_dir=tmp_path / "runs").start()
    assert caught.value.key == "run_dir"


# -- providers that do not do what they should --------------------------------------------------------------


class Stubborn(InMemoryProvider):
    """Accepts cancellations and does nothing; or refuses them, or queries."""

    poll_interval = 0.01
    refusing = ""

    def cancel(self, ids: Any) -> None:
        if self.refusing == "cancel":
            raise ProviderError("come back later")

    def find(self, tag: str) -> Any:
        if self.refusing == "find":
            raise ProviderError("nobody is here")
        return super().find(tag)


def left_on(*providers: Provider) -> Reaping:
    dead = replace(Client.this("r"), started="1")
    return Reaping([dead], [Site(f"e{number}", provider) for number, provider in enumerate(providers)])


def submit(provider: Provider, name: str = "weft-e0-1") -> JobId:
    shape = BlockShape()
    return provider.submit(JobSpec(id="r-1", name=name, command=["x"], shape=shape, directory="/d", tag="r"))


def test_a_job_that_does_not_go_is_named_and_left() -> None:
    provider = Stubborn()
    job = submit(provider)
    reaping = left_on(provider)
    reaping.find()
    reaping.remove(0.1)
    assert reaping.troubles == [
        f"Stubborn of executor 'e0' was asked to cancel job {job}: it is still there after 0.1 s"
    ]
    assert not reaping.clean
    assert reaping.to_json()["runs"][0]["jobs"][0]["removed"] is False


@pytest.mark.parametrize(
    ("refusing", "words"), [("cancel", "did not cancel 1 jobs: come back"), ("find", "be asked: nobody")]
)
def test_a_provider_that_fails_keeps_no_other_from_being_asked(refusing: str, words: str) -> None:
    failing, working = Stubborn(), InMemoryProvider()
    failing.refusing = refusing
    submit(failing)
    job = submit(working, "weft-e1-1")
    reaping = left_on(failing, working)
    reaping.find()
    reaping.remove(5)
    assert [left.job for left in reaping.jobs if left.gone] == [job]
    assert len(reaping.troubles) == 1
    assert words in reaping.troubles[0]
    assert not reaping.clean


def test_providers_of_one_batch_system_name_a_job_once() -> None:
    provider = InMemoryProvider()
    submit(provider)
    reaping = left_on(provider, provider)
    reaping.find()
    assert len(reaping.jobs) == 1


# -- other hosts --------------------------------------------------------------------------------------------


class Agents:
    """Of an executor, whose agent has asked for the jobs."""

    label = "e0"

    def __init__(self, provider: Provider) -> None:
        self.provider = provider
        self.error: Exception | None = None
        self.jobs_at_its_end: list[JobId] | None = None

    def find_left(self, run: str) -> list[str]:
        return [f"agent of {run}"] if self.jobs_at_its_end is None else []

    def end_left(self, run: str) -> None:
        if self.error is not None:
            raise self.error
        self.jobs_at_its_end = list(self.provider.find(run))


class Deaf(LocalProvider):
    """Does not cancel, for all that it says."""

    def cancel(self, ids: Any) -> None: ...


@pytest.fixture
def far(tmp_path: Path) -> Iterator[RootedChannel]:
    channel = RootedChannel(tmp_path / "far")
    yield channel
    provider = LocalProvider(channel)
    provider.cancel(list(provider.find("r")))
    assert channel.strays() == []
    channel.close()


def left_there(provider: Provider) -> tuple[Reaping, Agents, JobId]:
    shape = BlockShape()
    spec = JobSpec(
        id="r-1",
        name="weft-e0-1",
        command=["sleep", "600"],
        shape=shape,
        directory=far_directory("r", "e0"),
        tag="r",
    )
    job = provider.submit(spec)
    agents: Any = Agents(provider)
    reaping = Reaping([replace(Client.this("r"), started="1")], [Site("e0", provider, [agents])])
    reaping.find()
    assert [each.words for each in reaping.remains] == [
        "agent of r",
        f"files in .weft/runs/r on {provider.channel.host if provider.channel else ''}",
    ]
    return reaping, agents, job


def test_an_agent_ends_before_its_jobs_and_files_go_after_them(far: RootedChannel) -> None:
    reaping, agents, job = left_there(LocalProvider(far))
    assert not reaping.clean
    reaping.remove(20)
    assert reaping.clean, reaping.troubles
    assert agents.jobs_at_its_end == [job]
    assert list(far.here(".").iterdir()) == []
    assert [each["removed"] for each in reaping.to_json()["runs"][0]["remains"]] == [True, True]


def test_files_stay_as_long_as_a_job_does(far: RootedChannel) -> None:
    reaping, _, _ = left_there(Deaf(far))
    reaping.remove(0.1)
    assert [each.gone for each in reaping.remains] == [True, False]
    assert far.here(".weft/runs/r/e0").is_dir()
    assert len(reaping.troubles) == 1


def test_an_agent_that_cannot_be_ended_is_named_and_keeps_no_job(far: RootedChannel) -> None:
    reaping, agents, _ = left_there(LocalProvider(far))
    agents.error = ChannelError("login2 is another host")
    reaping.remove(20)
    assert reaping.troubles == ["agent of r: not removed: login2 is another host"]
    assert [job.gone for job in reaping.jobs] == [True]
    assert not reaping.clean


def test_what_a_living_run_has_there_is_left_alone(far: RootedChannel) -> None:
    reaping, agents, job = left_there(LocalProvider(far))
    alive = Reaping([Client.this("r")], reaping.sites)
    alive.find()
    alive.remove(1)
    assert alive.clean
    assert agents.jobs_at_its_end is None
    assert list(reaping.sites[0].provider.find("r")) == [job]
    assert far.here(".weft/runs/r/e0").is_dir()


def test_a_host_that_does_not_answer_is_said(tmp_path: Path) -> None:
    channel = RootedChannel(tmp_path / "gone")
    channel.close()
    provider = LocalProvider(channel)
    reaping = Reaping([replace(Client.this("r"), started="1")], [Site("e0", provider)])
    reaping.find()
    assert len(reaping.troubles) == 1
    assert "could not be asked" in reaping.troubles[0]
    assert not reaping.clean
