"""Jobs on the host of a channel: process groups there, looked after with a few lines of shell.

::

    submit: <id>.sh and <id>.in are put ── setsid: a group of its own ── <id>.job: its pid, its start
    status: one command for all: does the leader run, what does <id>.exit say, the end of <id>.err
    cancel: SIGTERM to the groups, two seconds later SIGKILL
"""

from __future__ import annotations

import math
import re
import shlex
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from weft_interfaces import (
    Channel,
    ChannelError,
    CommandResult,
    ConfigError,
    JobId,
    JobSpec,
    JobState,
    JobStatus,
    ProviderError,
)
from weft_interfaces.remains import make_directory, read_removal, removal

from .programs import CANCEL, FIND, PREPARE, SCRIPT, START, STATUS

__all__ = ["FarMachine"]

T = TypeVar("T")

_TIMEOUT = 30.0  # seconds for one command there
_TAIL = 8192  # bytes
_GRACE = 2.0  # seconds that a job has to end by itself when its walltime is over
_AT_ONCE = 50  # jobs in one command
# What is wrong with the request, not with the moment.
_WRONG = (FileNotFoundError, PermissionError, NotADirectoryError, FileExistsError)


@dataclass(slots=True, eq=False)
class _Job:
    base: str
    started_at: float | None = None
    ends_at: float | None = None
    why: tuple[JobState, str] | None = None
    kill_at: float | None = None
    ended: JobStatus | None = None


class FarMachine:
    """The jobs on one channel's host. Needs ``/proc`` and ``setsid`` there: Linux.

    One caller at a time.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._jobs: dict[JobId, _Job] = {}
        self._by_spec: dict[str, JobId] = {}

    # -- submitting -----------------------------------------------------------------------------------------

    def submit(self, spec: JobSpec) -> JobId:
        known = self._by_spec.get(spec.id)
        if known is None:
            known = self._by_spec[spec.id] = self._find_or_start(spec)
        return known

    def _find_or_start(self, spec: JobSpec) -> JobId:
        _check(spec)
        what = f"the directory {spec.directory!r} of job {spec.name!r} on {self._channel.host}"
        self._translated(what, lambda: make_directory(self._channel, spec.directory))
        done = self._sh(what, PREPARE, spec.directory, spec.id, spec.command[0])
        said = done.stdout.decode(errors="surrogateescape")
        directory = re.search(r"^weft-directory (/.*)$", said, re.MULTILINE)
        if done.exit_status > 1 or directory is None:
            raise ConfigError(f"{what} cannot be used: {done.stderr.decode(errors='replace').strip()}")
        base = f"{directory[1]}/{spec.id}"
        earlier = re.search(r"^weft-job (\d+\.\d+)$", said, re.MULTILINE)
        if earlier is not None:
            self._jobs.setdefault(JobId(earlier[1]), _Job(base))
            return JobId(earlier[1])
        missing = re.search(r"^weft-missing (.*)$", said, re.MULTILINE)
        if missing is not None:
            raise ConfigError(
                f"job {spec.name!r} cannot be started: {spec.command[0]!r} is not found on "
                f"{self._channel.host}, where PATH is {missing[1]}"
            )
        return self._start(spec, base)

    def _start(self, spec: JobSpec, base: str) -> JobId:
        now = time.time()
        ends_at = None if spec.shape.walltime is None else now + spec.shape.walltime
        variables = {
            **spec.environment,
            "WEFT_JOB_TAG": spec.tag,
            "WEFT_JOB_NAME": spec.name,
            "WEFT_JOB_INPUT": f"{base}.in",
            "WEFT_JOB_DIRECTORY": base.rpartition("/")[0],
        }
        # By the clock that the job has.
        walltime = "" if ends_at is None else f"$(($(date +%s) + {math.ceil(spec.shape.walltime or 0)}))"
        exports = [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]
        script = SCRIPT.format(
            host=self._channel.host,
            environment="\n".join([*exports, f'export WEFT_JOB_ENDS_AT="{walltime}"']),
            command=shlex.join(spec.command),
            base=shlex.quote(base),
        )
        what = f"job {spec.name!r} on {self._channel.host}"
        self._put(what, f"{base}.in", spec.input)
        self._put(what, f"{base}.sh", script.encode(errors="surrogateescape"))
        done = self._sh(what, START, base, f"{base}.in", environment=variables)
        found = re.search(r"^weft-job (\d+\.\d+)$", done.stdout.decode(errors="replace"), re.MULTILINE)
        if found is None:
            self._sh(what, 'rm -f "$1.sh" "$1.in" "$1.out" "$1.err" "$1.job"', base)
            raise ProviderError(f"{what} was not started: {done.stderr.decode(errors='replace').strip()}")
        self._jobs[JobId(found[1])] = _Job(base, now, ends_at)
        return JobId(found[1])

    def _put(self, what: str, path: str, data: bytes) -> None:
        with tempfile.TemporaryDirectory(prefix="weft-") as folder:
            local = Path(folder, "file")
            local.touch(0o600)
            local.write_bytes(data)
            self._translated(what, lambda: self._channel.put(local, path))

    # -- asking ---------------------------------------------------------------------------------------------

    def status(self, ids: Sequence[JobId]) -> Mapping[JobId, JobStatus]:
        """How these jobs are; with one command, unless they are many."""
        jobs = {job_id: self._jobs.setdefault(job_id, _Job("/dev/null/")) for job_id in ids}
        due = [job_id for job_id, job in jobs.items() if job.ended is None and _is_job(job_id)]
        answers: dict[JobId, JobStatus] = {}
        for start in range(0, len(due), _AT_ONCE):
            some = due[start : start + _AT_ONCE]
            try:
                answers.update(self._look(some))
            except (ProviderError, ConfigError) as error:
                unknown = JobStatus(state=JobState.UNKNOWN, reason=str(error))
                answers.update(dict.fromkeys(some, unknown))
        nobody = JobStatus(state=JobState.GONE, reason=f"no such job runs on {self._channel.host}")
        return {job_id: job.ended or answers.get(job_id, nobody) for job_id, job in jobs.items()}

    def _look(self, ids: Sequence[JobId]) -> Mapping[JobId, JobStatus]:
        words = [word for job_id in ids for word in (job_id, self._jobs[job_id].base)]
        done = self._sh("the processes", STATUS, str(_TAIL), *words)
        found = _read(done.stdout)
        if len(found) != len(ids):
            raise ProviderError(f"the answer of {self._channel.host} is cut short")
        answers = {}
        for job_id, (runs, code, tail) in zip(ids, found, strict=True):
            job = self._jobs[job_id]
            if runs:
                answers[job_id] = self._running(job_id, job)
            else:
                answers[job_id] = job.ended = self._ended(job, code, tail)
        return answers

    def _running(self, job_id: JobId, job: _Job) -> JobStatus:
        """It runs; when its walltime is over, it is ended."""
        now, trouble = time.time(), ""
        try:
            if job.kill_at is not None and now >= job.kill_at:
                self._sh("the processes", CANCEL, "KILL", "0", job_id)
            elif job.why is None and job.ends_at is not None and now >= job.ends_at:
                job.why, job.kill_at = (JobState.TIMEOUT, "its walltime was over"), now + _GRACE
                self._sh("the processes", CANCEL, "TERM", "0", job_id)
        except ProviderError as error:
            trouble = str(error)
        return self._status(job, JobState.RUNNING, trouble)

    def _ended(self, job: _Job, code: int | None, tail: str) -> JobStatus:
        if job.why is not None:
            return self._status(job, *job.why, code, tail)
        if code is None:
            reason = f"it runs on {self._channel.host} no longer, and left no exit code: it was killed"
            return self._status(job, JobState.GONE, reason, None, tail)
        if code == 0:
            return self._status(job, JobState.COMPLETED, "", 0, tail)
        return self._status(job, JobState.FAILED, f"it ended with exit status {code}", code, tail)

    def _status(
        self, job: _Job, state: JobState, reason: str = "", code: int | None = None, tail: str = ""
    ) -> JobStatus:
        return JobStatus(
            state=state,
            reason=reason,
            exit_code=code,
            started_at=job.started_at,
            ends_at=job.ends_at,
            hosts=(self._channel.host,),
            stderr_tail=tail,
        )

    def cancel(self, ids: Sequence[JobId]) -> None:
        due = [job_id for job_id in ids if _is_job(job_id) and self._jobs.get(job_id, _Job("")).ended is None]
        alive = [job_id for job_id, status in self.status(due).items() if not status.state.terminal]
        if not alive:
            return
        for job_id in alive:
            self._jobs[job_id].why = self._jobs[job_id].why or (JobState.CANCELLED, "it was cancelled")
        try:
            done = self._sh("the processes", CANCEL, "TERM", str(int(_GRACE * 10)), *alive)
        except ConfigError as error:
            raise ProviderError(str(error)) from error
        if done.exit_status:
            raise ProviderError(
                f"{len(alive)} jobs were not cancelled: {done.stderr.decode(errors='replace')}"
            )

    def find(self, tag: str) -> Mapping[JobId, str]:
        return dict(self._search(tag, "weft-found"))

    def find_specs(self, tag: str) -> Mapping[str, JobId]:
        return {spec_id: job_id for job_id, spec_id in self._search(tag, "weft-spec")}

    def _search(self, tag: str, mark: str) -> list[tuple[JobId, str]]:
        """The jobs, with what is said of them in lines that begin so."""
        done = self._sh("the processes", FIND, tag)
        lines = done.stdout.decode(errors="replace").splitlines()
        if "weft-end" not in lines:
            raise ProviderError(f"the processes of {self._channel.host} cannot be looked at")
        found = (re.fullmatch(mark + r" (\d+\.\d+) (.*)", line) for line in lines)
        return [(JobId(match[1]), match[2]) for match in found if match]

    def remove_files(self, directory: str, wanted: Sequence[str]) -> Mapping[str, bytes]:
        what = f"the directory {directory!r} on {self._channel.host}"
        try:
            command = removal(directory, wanted)
            answer = self._translated(what, lambda: self._channel.run(command, timeout=_TIMEOUT))
            return read_removal(answer)
        except ValueError as error:
            raise ProviderError(f"{what} was not removed: {error}") from error

    # -- the channel ----------------------------------------------------------------------------------------

    def _sh(
        self, what: str, program: str, *arguments: str, environment: Mapping[str, str] | None = None
    ) -> CommandResult:
        command = ["sh", "-c", program, "sh", *arguments]
        return self._translated(
            what, lambda: self._channel.run(command, timeout=_TIMEOUT, environment=environment)
        )

    def _translated(self, what: str, act: Callable[[], T]) -> T:
        try:
            return act()
        except TimeoutError as error:
            raise ProviderError(f"{what}: no answer within {_TIMEOUT:g} s") from error
        except ChannelError as error:
            raise ProviderError(f"{what}: {error}") from error
        except OSError as error:
            wrong = isinstance(error, _WRONG)
            raise (ConfigError if wrong else ProviderError)(f"{what} cannot be used: {error}") from error


def _check(spec: JobSpec) -> None:
    """Raises :class:`ConfigError` for a job that no shell could be asked for."""
    if not spec.id or any(char in spec.id for char in "/\0\n"):
        raise ConfigError(f"the id of job {spec.name!r} must be usable as a file name, not {spec.id!r}")
    if not spec.command:
        raise ConfigError(f"job {spec.name!r} has no command: there is nothing to run")
    words = [*spec.command, *spec.environment.values(), spec.directory, spec.tag, spec.name]
    if any("\0" in word for word in words):
        raise ConfigError(f"job {spec.name!r}: what it is to run with must not hold NUL bytes")
    for name in spec.environment:
        if not name.isidentifier() or not name.isascii():
            raise ConfigError(f"job {spec.name!r}: {name!r} is no name of an environment variable")


def _is_job(job_id: JobId) -> bool:
    return re.fullmatch(r"[1-9]\d*\.\d+", job_id) is not None and not job_id.startswith("1.")


def _read(data: bytes) -> list[tuple[bool, int | None, str]]:
    """Whether each runs, its exit code, and the end of its stderr, which may hold anything."""
    found = []
    pattern = re.compile(rb"weft-status (runs|ended) (\d+) (\d*)[^\n]*\n")
    head = pattern.search(data)
    while head is not None:
        end = head.end() + int(head[2])
        code = int(head[3]) if head[3] else None
        found.append((head[1] == b"runs", code, data[head.end() : end].decode(errors="replace")))
        head = pattern.match(data, end + 1)
    return found
