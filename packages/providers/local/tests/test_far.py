"""Jobs on the host of a channel."""

from __future__ import annotations

import copy
import os
import signal
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from weft_interfaces import BlockShape, ConfigError, JobId, JobSpec, JobState, JobStatus
from weft_interfaces.testing import RootedChannel
from weft_interfaces.testing.check import eventually
from weft_provider_local import LocalProvider

pytestmark = pytest.mark.once


@pytest.fixture
def channel(tmp_path: Path) -> Iterator[RootedChannel]:
    channel = RootedChannel(tmp_path / "far")
    yield channel
    assert channel.strays() == []
    channel.close()


def make_spec(*command: str, **settings: Any) -> JobSpec:
    walltime = settings.pop("walltime", None)
    defaults = {"id": uuid.uuid4().hex, "name": "it", "directory": "runs", "tag": "tag"}
    return JobSpec(command=command, shape=BlockShape(walltime=walltime), **{**defaults, **settings})


def wait_for(provider: LocalProvider, job: JobId, *states: JobState) -> JobStatus:
    deadline = time.monotonic() + 30
    while (status := provider.status([job])[job]).state not in states:
        assert not status.state.terminal, status
        assert time.monotonic() < deadline, status
        time.sleep(0.05)
    return status


def test_everything_arrives_as_it_is_and_what_it_wrote_is_there(channel: RootedChannel) -> None:
    provider = LocalProvider(channel)
    words = ["a b", "$HOME", "it's", '"q"', "new\nline", "", "\\"]
    spec = make_spec(
        "sh",
        "-c",
        'cat; printf "%s|" "$VALUE" "$@" >&2; exit 7',
        "sh",
        *words,
        environment={"VALUE": "x'y\n"},
        input=b"secret",
    )
    job = provider.submit(spec)
    status = wait_for(provider, job, JobState.FAILED)
    assert status.exit_code == 7
    assert status.stderr_tail == "".join(f"{word}|" for word in ["x'y\n", *words])
    runs = channel.here("runs")
    assert (runs / f"{spec.id}.out").read_text() == "secret"
    assert not (runs / f"{spec.id}.in").exists()
    assert runs.stat().st_mode & 0o777 == 0o700


def test_another_process_finds_what_was_submitted(channel: RootedChannel) -> None:
    spec = make_spec("sleep", "600")
    job = LocalProvider(channel).submit(spec)
    other = LocalProvider(channel)
    assert other.submit(spec) == job
    assert other.find("tag") == {job: "it"}
    assert other.find_specs("tag") == {spec.id: job}
    other.cancel([job])
    assert other.status([job])[job].state is JobState.CANCELLED
    assert other.find("tag") == other.find_specs("tag") == {}


def test_sessions_that_a_job_has_started_are_no_jobs(channel: RootedChannel) -> None:
    provider = LocalProvider(channel)
    # In a group of its own, setsid starts no further process.
    spec = make_spec("sh", "-c", "setsid sleep 600 & echo $! >&2; wait", tag=uuid.uuid4().hex)
    job = provider.submit(spec)
    errors = channel.here("runs") / f"{spec.id}.err"

    def leads() -> bool:
        said = errors.read_text()
        return said.endswith("\n") and os.getsid(int(said)) == int(said)

    assert eventually(leads, 30)
    try:
        assert provider.find(spec.tag) == {job: "it"}
        assert provider.find_specs(spec.tag) == {spec.id: job}
    finally:
        os.kill(int(errors.read_text()), signal.SIGKILL)
        provider.cancel([job])


def test_the_walltime_ends_a_job_that_will_not(channel: RootedChannel) -> None:
    provider = LocalProvider(channel)
    script = "trap '' TERM; echo ready; while :; do sleep 0.1; done"
    job = provider.submit(make_spec("sh", "-c", script, walltime=0.5))
    status = wait_for(provider, job, JobState.TIMEOUT)
    assert status.reason == "its walltime was over"


def test_one_that_is_killed_is_gone_and_its_children_with_it(channel: RootedChannel) -> None:
    provider = LocalProvider(channel)
    job = provider.submit(make_spec("sh", "-c", "sleep 600 & sleep 600"))
    wait_for(provider, job, JobState.RUNNING)
    channel.run(["kill", "-KILL", "--", f"-{job.partition('.')[0]}"])
    status = wait_for(provider, job, JobState.GONE)
    assert "it was killed" in status.reason


def test_what_cannot_be_is_named(channel: RootedChannel) -> None:
    provider = LocalProvider(channel)
    with pytest.raises(ConfigError, match=f"'no-such-command' is not found on {channel.host}, where PATH is"):
        provider.submit(make_spec("no-such-command"))
    channel.here("file").write_text("")
    with pytest.raises(ConfigError, match=f"'file/runs' of job 'it' on {channel.host}"):
        provider.submit(make_spec("true", directory="file/runs"))
    with pytest.raises(ConfigError, match="nothing to run"):
        provider.submit(make_spec())
    with pytest.raises(ConfigError, match="file name"):
        provider.submit(make_spec("true", id="a/b"))


def test_a_copy_knows_nothing_of_the_jobs_but_finds_them(channel: RootedChannel) -> None:
    """As one does that was pickled, and is asked on another machine."""
    provider = LocalProvider(channel)
    provider.poll_interval = 0.25
    spec = make_spec("sleep", "60")
    job = provider.submit(spec)
    again = copy.copy(provider)
    assert again.poll_interval == 0.25
    assert again._far is not provider._far
    assert again.submit(spec) == job
    again.cancel([job])
    wait_for(again, job, JobState.GONE, JobState.CANCELLED, JobState.FAILED)


def test_the_files_of_a_run_go_with_the_parents_that_are_then_empty(channel: RootedChannel) -> None:
    provider = LocalProvider(channel)
    spec = make_spec("sh", "-c", "echo out; echo err >&2; exit 3", directory=".weft/runs/it/htex")
    wait_for(provider, provider.submit(spec), JobState.FAILED)
    other = channel.here(".weft/runs/other")
    other.mkdir()
    outputs = provider.remove_files(spec.directory, [spec.id])
    assert outputs == {f"{spec.id}.err": b"err\n", f"{spec.id}.out": b"out\n"}
    assert list(channel.here(".weft/runs").iterdir()) == [other]
    other.rmdir()
    assert provider.remove_files(spec.directory) == {}
    assert list(channel.here(".").iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"environment": {"A B": "x"}}, "'A B' is no name"),
        ({"environment": {"A": "x\0"}}, "NUL"),
        ({"id": "a/b"}, "usable as a file name"),
        ({"name": "a\0"}, "NUL"),
    ],
)
def test_what_no_shell_takes_is_refused(channel: RootedChannel, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        LocalProvider(channel).submit(make_spec("true", **settings))
    assert list(channel.here(".").iterdir()) == []


def test_a_job_knows_its_end_by_the_clock_of_its_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = tmp_path / "bin/date"
    clock.parent.mkdir()
    clock.write_text("#!/bin/sh\necho $(($(/bin/date +%s) + 5000))\n")
    clock.chmod(0o755)
    monkeypatch.setenv("PATH", f"{clock.parent}:{os.environ['PATH']}")
    channel = RootedChannel(tmp_path / "far", shown=[clock.parent])
    provider = LocalProvider(channel)
    spec = make_spec("sh", "-c", 'echo "$WEFT_JOB_ENDS_AT"', walltime=600.0)
    status = wait_for(provider, provider.submit(spec), JobState.COMPLETED)
    assert status.ends_at == pytest.approx(time.time() + 600, abs=60)
    ends_at = float(channel.here(f"runs/{spec.id}.out").read_text())
    assert ends_at == pytest.approx(time.time() + 5600, abs=60)
    channel.close()
