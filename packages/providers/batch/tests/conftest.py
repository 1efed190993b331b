"""A channel to a directory of this machine, and a batch system whose queue is a file."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import weft_provider_batch.queue
from weft_interfaces import BaseChannel, BlockShape, CommandResult, JobId, JobSpec, JobState, RemoteProcess
from weft_interfaces.testing import RootedChannel
from weft_provider_batch import BatchProvider, Refusal
from weft_provider_batch.host import Answer
from weft_provider_batch.job import JobFiles, ListedJob, label, read_label


class ShellChannel(BaseChannel):
    """Runs commands of this machine, with ``bin`` first in the path. ``trouble`` is raised instead."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.bin = home / "bin"
        self.bin.mkdir(parents=True)
        self.trouble: Exception | None = None
        self.delay_clock = 0

    @property
    def host(self) -> str:
        return "toy"

    def run(
        self,
        argv: Sequence[str],
        *,
        input: bytes = b"",
        timeout: float | None = None,
        environment: Mapping[str, str] | None = None,
        cwd: str | None = None,
    ) -> CommandResult:
        if self.trouble is not None:
            raise self.trouble
        path = f"{self.bin}{os.pathsep}{os.environ['PATH']}"
        variables = {**os.environ, "PATH": path, "HOME": str(self.home), **(environment or {})}
        done = subprocess.run(
            argv, input=input, capture_output=True, timeout=60, env=variables, cwd=self.home, check=False
        )
        return CommandResult(done.returncode, done.stdout, done.stderr)

    def open(
        self, argv: Sequence[str], *, environment: Mapping[str, str] | None = None, cwd: str | None = None
    ) -> RemoteProcess:
        raise NotImplementedError

    def put(self, local: Path, remote: str) -> None:
        if self.trouble is not None:
            raise self.trouble
        shutil.copy2(local, self.home / remote)

    def get(self, remote: str, local: Path) -> None:
        raise NotImplementedError

    def makedirs(self, path: str, mode: int = 0o700) -> None:
        if self.trouble is not None:
            raise self.trouble
        (self.home / path).mkdir(mode, parents=True, exist_ok=True)

    # -- the batch system -----------------------------------------------------------------------------------

    def command(self, name: str, script: str) -> None:
        """What a command of the batch system does from now on, in the shell; its calls are counted."""
        path = self.bin / name
        path.write_text(f'#!/bin/sh\ncd "$HOME" && echo {name} >>calls\n{script}\n')
        path.chmod(0o755)

    def calls(self, name: str) -> int:
        """How often it was called."""
        path = self.home / "calls"
        return path.read_text().split().count(name) if path.exists() else 0

    def queue(self, *rows: str) -> None:
        """What the queue lists: ``id state reason started ends label``."""
        (self.home / "queue").write_text("".join(f"{row}\n" for row in rows))

    def accounts(self, *rows: str) -> None:
        """What the accounting knows, in the same form."""
        (self.home / "accounts").write_text("".join(f"{row}\n" for row in rows))


class ToyProvider(BatchProvider):
    """Commands: ``toysub``, ``toyq``, ``toyacct``, ``toydel``."""

    system = "Toy"
    directive = "#TOY"
    job_id_variable = "TOY_ID"
    transient = "busy"
    refusals = (Refusal("no such colour", "colour"), Refusal("refused", ""))

    def directives(self, spec: JobSpec, files: JobFiles) -> Sequence[Sequence[str]]:
        return [["-n", spec.name], ["-c", label(spec)]]

    def submit_command(self, spec: JobSpec, files: JobFiles) -> Sequence[str]:
        return ["toysub", files.script]

    def parse_submit(self, output: str) -> JobId | None:
        found = [line for line in output.splitlines() if line.startswith("job ")]
        return JobId(found[-1][4:]) if found else None

    def queue_command(self, ids: Sequence[JobId]) -> Sequence[str]:
        return ["toyq"]

    def parse_queue(self, answer: Answer) -> Sequence[ListedJob]:
        lines = answer.stdout.splitlines()
        if answer.exit_status or "end" not in lines:
            raise ValueError("no end")
        return [_listed(line) for line in lines if line.count(" ") == 5]

    def accounting_command(self, ids: Sequence[JobId]) -> Sequence[str] | None:
        return ["toyacct", *ids]

    def parse_accounting(self, answer: Answer) -> Sequence[ListedJob] | None:
        if "disabled" in answer.stdout:
            return None
        return self.parse_queue(answer)

    def cancel_command(self, ids: Sequence[JobId]) -> Sequence[str]:
        return ["toydel", *ids]


def _listed(line: str) -> ListedJob:
    job, state, reason, started, ends, words = line.split(" ")
    tag, spec_id = read_label(words)
    return ListedJob(
        id=JobId(job),
        state=JobState(state),
        reason=reason.strip("-"),
        started_at=None if started == "-" else float(started),
        ends_at=None if ends == "-" else float(ends),
        name="toy",
        tag=tag,
        spec_id=spec_id,
    )


class Clock:
    """Of the module that decides when to ask."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(weft_provider_batch.queue.time, "monotonic", clock.monotonic)
    return clock


@pytest.fixture
def toy(tmp_path: Path) -> ShellChannel:
    channel = ShellChannel(tmp_path / "it's home")
    channel.command("toysub", "echo 'junk 5'; echo job 1")
    channel.command("toyq", "echo junk; cat queue; echo end")
    channel.command("toyacct", "cat accounts; echo end")
    channel.command("toydel", 'echo "$@" >>deleted')
    channel.queue()
    channel.accounts()
    return channel


def make_spec(**settings: Any) -> JobSpec:
    defaults: dict[str, Any] = {
        "id": uuid.uuid4().hex,
        "name": "toy",
        "command": ["true"],
        "shape": BlockShape(),
        "directory": "runs",
        "tag": "tag",
    }
    return JobSpec(**{**defaults, **settings})


@pytest.fixture
def spec() -> JobSpec:
    return make_spec()


@pytest.fixture
def make() -> Any:
    """Makes specifications and providers."""

    class Make:
        spec = staticmethod(make_spec)
        provider = ToyProvider

    return Make


FAKES = Path(__file__).parent / "fakes"
# The commands of each, the first of which submits; those that a query consists of are called for its last.
_COMMANDS = {
    "pbs": ("qsub", "qdel", "qselect", "qstat"),
    "torque": ("qsub", "qdel", "qselect", "qstat"),
    "lsf": ("bsub", "bkill", "bhist", "bjobs"),
    "condor": ("condor_submit", "condor_rm", "condor_history", "condor_q"),
}
_QUERY = {"pbs": "qselect", "torque": "qselect", "lsf": "bjobs", "condor": "condor_q"}


class FakeChannel(ShellChannel):
    """To a place with the commands of a batch system, in ``fakes``."""

    def __init__(self, home: Path, kind: str) -> None:
        super().__init__(home)
        self.kind = kind
        self.banner = b""
        self.install()

    def run(
        self,
        argv: Sequence[str],
        *,
        input: bytes = b"",
        timeout: float | None = None,
        environment: Mapping[str, str] | None = None,
        cwd: str | None = None,
    ) -> CommandResult:
        path = f"{self.bin}{os.pathsep}{os.environ['PATH']}"
        variables = {**os.environ, "PATH": path, "HOME": str(self.home), **(environment or {})}
        try:
            done = subprocess.run(
                argv, input=input, capture_output=True, timeout=timeout, env=variables, cwd=self.home
            )
        except subprocess.TimeoutExpired:
            raise TimeoutError from None
        return CommandResult(done.returncode, self.banner + done.stdout, done.stderr)

    def install(self) -> None:
        """The commands, as they are meant to be."""
        for command in _COMMANDS[self.kind]:
            self.command(command, self._call(command))

    def _call(self, command: str) -> str:
        script = FAKES / ("pbs.py" if self.kind == "torque" else f"{self.kind}.py")
        words = f"'{sys.executable}' -S -E '{script}' {self.kind} {command}"
        return f'{words} "$@"'

    def lose_answers(self) -> None:
        """Whoever submits a job hears nothing of it."""
        command = _COMMANDS[self.kind][0]
        self.command(command, f"{self._call(command)} >/dev/null\necho connection lost >&2; exit 1")

    def settings(self, **how: Any) -> None:
        """How it behaves from now on."""
        (self.home / "settings.json").write_text(json.dumps(how))

    def jobs(self) -> dict[int, dict[str, Any]]:
        """What it knows, by number."""
        path = self.home / "fake.json"
        known = json.loads(path.read_text()) if path.exists() else {}
        return {int(number): job for number, job in known.items()}

    def queries(self) -> int:
        """How often it was asked for its jobs."""
        return self.calls(_QUERY[self.kind])

    def ended(self, job_id: str) -> bool:
        """Whether a job has ended; it takes its time."""
        self.run(["sh", "-c", f"{_QUERY[self.kind]}; true"])
        return all(job["ended"] is not None for job in self.jobs().values() if job["id"] == job_id)

    def forget(self, job_id: str) -> None:
        """As if a job had been purged."""
        jobs = {number: job | {"purged": job["id"] == job_id} for number, job in self.jobs().items()}
        (self.home / "fake.json").write_text(json.dumps(jobs))

    @staticmethod
    def until(true: Callable[[], bool]) -> None:
        """Wait for something."""
        deadline = time.time() + 20
        while not true():
            assert time.time() < deadline
            time.sleep(0.05)

    @staticmethod
    def short(spec: JobSpec) -> JobSpec:
        """A job with the shortest walltime."""
        return replace(spec, shape=replace(spec.shape, walltime=1.0))

    def end(self) -> None:
        """Leave no process behind."""
        for job in self.jobs().values():
            if "group" in job:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(job["group"], signal.SIGKILL)


class FarChannel(FakeChannel):
    """The same in a place whose file system is another: its paths are nowhere here."""

    def __init__(self, directory: Path, kind: str) -> None:
        self.far = RootedChannel(directory, shown=[FAKES])
        super().__init__(self.far.here(self.far.home), kind)

    def run(
        self,
        argv: Sequence[str],
        *,
        input: bytes = b"",
        timeout: float | None = None,
        environment: Mapping[str, str] | None = None,
        cwd: str | None = None,
    ) -> CommandResult:
        path = {"PATH": f"{self.far.home}/bin{os.pathsep}{os.environ['PATH']}"}
        return self.far.run(
            argv, input=input, timeout=timeout, environment={**path, **(environment or {})}, cwd=cwd
        )

    def put(self, local: Path, remote: str) -> None:
        self.far.put(local, remote)

    def makedirs(self, path: str, mode: int = 0o700) -> None:
        self.far.makedirs(path, mode)


@pytest.fixture
def far(tmp_path: Path) -> Iterator[Callable[[str], FarChannel]]:
    channels: list[FarChannel] = []

    def make(kind: str) -> FarChannel:
        channels.append(FarChannel(tmp_path / "far", kind))
        return channels[-1]

    yield make
    for channel in channels:
        channel.end()
        channel.far.close()


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[Callable[[str], FakeChannel]]:
    channels: list[FakeChannel] = []

    def make(kind: str) -> FakeChannel:
        channels.append(FakeChannel(tmp_path / "it's home", kind))
        return channels[-1]

    yield make
    for channel in channels:
        channel.end()


def recorded(name: str) -> str:
    """What a real one wrote; where that was found is said before it."""
    text = (Path(__file__).parent / "recordings" / name).read_text()
    source, found, answer = text.partition("\n----\n")
    assert found
    assert source.startswith("source: http")
    return answer


@pytest.fixture
def recording() -> Callable[[str], str]:
    """What a real one wrote."""
    return recorded
