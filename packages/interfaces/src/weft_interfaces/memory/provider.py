"""A batch system in memory, with a clock that a test advances."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from ..errors import ProviderError
from ..provider import BaseProvider, JobId, JobSpec, JobState, JobStatus
from .clock import ManualClock
from .manager import MANAGER_PROGRAM, start_manager

__all__ = ["InMemoryProvider", "Program", "ProgramEnd"]


class ProgramEnd(NamedTuple):
    """How a program ends: with this exit code, this many seconds after its start; None is never."""

    after: float | None = None
    exit_code: int = 0


Program = Callable[[Sequence[str]], ProgramEnd]


class InMemoryProvider(BaseProvider):
    """Jobs move when ``clock`` does or the test says so: pending for ``queue_time`` seconds, then running.

    A job runs the first word of its command that names a program, with the words after it. ``programs`` adds
    to ``true``, ``false``, ``sleep SECONDS`` and the manager of :class:`InMemoryBlockExecutor`, which
    registers in the thread that lets time pass, submits or asks. A command that names none runs until its job
    is ended. ``specs`` holds all jobs, ``queries`` counts status queries, ``removed`` has the directories
    that were removed, ``outputs`` what jobs wrote, by their specification's id. Threads may use it.
    """

    poll_interval = 0.0

    def __init__(
        self,
        *,
        clock: ManualClock | None = None,
        queue_time: float | None = 0.0,
        programs: Mapping[str, Program] | None = None,
    ) -> None:
        self.clock = clock or ManualClock()
        self.specs: dict[JobId, JobSpec] = {}
        self.queries = 0
        self.outputs: dict[str, bytes] = {}
        self.removed: list[str] = []
        self._queue_time = queue_time
        self._programs = {**_PROGRAMS, **(programs or {})}
        self._jobs: dict[JobId, _Job] = {}
        self._by_spec: dict[str, JobId] = {}
        self._numbers = itertools.count(1)
        self._refusals: list[str] = []
        self._failures: list[str] = []
        self._lock = threading.RLock()

    # -- the contract ---------------------------------------------------------------------------------------

    def submit(self, spec: JobSpec) -> JobId:
        with self._lock:
            if spec.id in self._by_spec:
                return self._by_spec[spec.id]
            if self._refusals:
                raise ProviderError(self._refusals.pop(0))
            job_id = self._by_spec[spec.id] = JobId(f"memory-{next(self._numbers)}")
            self.specs[job_id] = spec
            self._jobs[job_id] = _Job(self.clock())
        self._pass_time()
        return job_id

    def status(self, ids: Sequence[JobId]) -> Mapping[JobId, JobStatus]:
        self._pass_time()
        with self._lock:
            self.queries += 1
            if self._failures:
                reason = self._failures.pop(0)
                return {job_id: self._ended(job_id) or _unknown(reason) for job_id in ids}
            return {job_id: self._status(job_id) for job_id in ids}

    def cancel(self, ids: Sequence[JobId]) -> None:
        with self._lock:
            for job_id in ids:
                if job_id in self._jobs:
                    self._end(job_id, JobState.CANCELLED, "CANCELLED by its owner")

    def find(self, tag: str) -> Mapping[JobId, str]:
        return {job_id: self.specs[job_id].name for job_id in self.find_specs(tag).values()}

    def find_specs(self, tag: str) -> Mapping[str, JobId]:
        with self._lock:
            alive = {i: spec for i, spec in self.specs.items() if not self._jobs[i].status.state.terminal}
        return {spec.id: job_id for job_id, spec in alive.items() if spec.tag == tag}

    def remove_files(self, directory: str, wanted: Sequence[str] = ()) -> Mapping[str, bytes]:
        with self._lock:
            self.removed.append(directory)
            return {f"{spec_id}.err": self.outputs[spec_id] for spec_id in wanted if spec_id in self.outputs}

    # -- the site's side ------------------------------------------------------------------------------------

    def advance(self, seconds: float) -> None:
        """Let time pass: queued jobs start, running ones end."""
        self.clock.advance(seconds)
        self._pass_time()

    def start(self, job_id: JobId) -> None:
        """The job starts now, and its program with it."""
        with self._lock:
            job = self._jobs[job_id]
            if job.status.state not in (JobState.PENDING, JobState.HELD):
                return
            now = self.clock()
            walltime = self.specs[job_id].shape.walltime
            ends_at = None if walltime is None else now + walltime
            hosts = tuple(f"node{number}" for number in range(1, self.specs[job_id].shape.nodes + 1))
            job.status = JobStatus(state=JobState.RUNNING, started_at=now, ends_at=ends_at, hosts=hosts)
        job.program_end = self._run_program(self.specs[job_id].command)

    def end(
        self,
        job_id: JobId,
        state: JobState = JobState.COMPLETED,
        reason: str = "",
        exit_code: int | None = None,
        stderr: str = "",
    ) -> None:
        """The job ends now, in this way."""
        with self._lock:
            self._end(job_id, state, reason, exit_code, stderr)

    def hold(self, job_id: JobId, reason: str = "JobHeldUser") -> None:
        """A waiting job is held: it does not start."""
        self._move(job_id, JobState.PENDING, JobState.HELD, reason)

    def release(self, job_id: JobId) -> None:
        """A held job waits again."""
        self._move(job_id, JobState.HELD, JobState.PENDING, "")

    def preempt(self, job_id: JobId, reason: str = "PREEMPTED") -> None:
        """The site takes a running job's nodes away and puts it back into the queue, until ``start``."""
        self._move(job_id, JobState.RUNNING, JobState.PENDING, reason)
        self._jobs[job_id].queued_until_told = True

    def stick(self, job_id: JobId, reason: str) -> None:
        """A waiting job turns out to be one that can never run."""
        self._move(job_id, JobState.PENDING, JobState.PENDING, reason)
        with self._lock:
            job = self._jobs[job_id]
            job.status = replace(job.status, stuck=True)
            job.queued_until_told = True

    def move_end(self, job_id: JobId, ends_at: float) -> None:
        """The walltime of a running job is over sooner, or later."""
        with self._lock:
            job = self._jobs[job_id]
            job.status = replace(job.status, ends_at=ends_at)

    def vanish(self, job_id: JobId) -> None:
        """The batch system forgets the job."""
        self.end(job_id, JobState.GONE, "the batch system no longer knows the job")

    def refuse_submits(self, count: int = 1, reason: str = "the queue is full") -> None:
        """The next submits are refused."""
        self._refusals.extend([reason] * count)

    def fail_queries(self, count: int = 1, reason: str = "the batch system did not answer") -> None:
        """The next queries fail."""
        self._failures.extend([reason] * count)

    # -- how jobs live --------------------------------------------------------------------------------------

    def _pass_time(self) -> None:
        for job_id, job in list(self._jobs.items()):
            if self._starts_by_now(job):
                self.start(job_id)
            self._end_if_over(job_id, job)

    def _starts_by_now(self, job: _Job) -> bool:
        waiting = job.status.state is JobState.PENDING and not job.queued_until_told
        return (
            waiting and self._queue_time is not None and self.clock() >= job.submitted_at + self._queue_time
        )

    def _end_if_over(self, job_id: JobId, job: _Job) -> None:
        with self._lock:
            status, (after, exit_code) = job.status, job.program_end
            if status.state is not JobState.RUNNING or status.started_at is None:
                return
            if after is not None and self.clock() >= status.started_at + after:
                self._end(job_id, JobState.FAILED if exit_code else JobState.COMPLETED, "", exit_code)
            elif status.ends_at is not None and self.clock() >= status.ends_at:
                self._end(job_id, JobState.TIMEOUT, "its walltime is over")

    def _run_program(self, command: Sequence[str]) -> ProgramEnd:
        for position, word in enumerate(command):
            if word in self._programs:
                return self._programs[word](command[position + 1 :])
        return ProgramEnd()

    def _move(self, job_id: JobId, before: JobState, after: JobState, reason: str) -> None:
        with self._lock:
            job = self._jobs[job_id]
            if job.status.state is before:
                job.status = JobStatus(state=after, reason=reason)

    def _end(
        self, job_id: JobId, state: JobState, reason: str, exit_code: int | None = None, stderr: str = ""
    ) -> None:
        job = self._jobs[job_id]
        if not job.status.state.terminal:
            job.status = replace(
                job.status, state=state, reason=reason, exit_code=exit_code, stderr_tail=stderr
            )

    def _status(self, job_id: JobId) -> JobStatus:
        if job_id not in self._jobs:
            return JobStatus(state=JobState.GONE, reason="the batch system does not know this job")
        return self._jobs[job_id].status

    def _ended(self, job_id: JobId) -> JobStatus | None:
        job = self._jobs.get(job_id)
        return job.status if job is not None and job.status.state.terminal else None


class _Job:
    def __init__(self, now: float) -> None:
        self.submitted_at = now
        self.queued_until_told = False
        self.program_end = ProgramEnd()
        self.status = JobStatus(state=JobState.PENDING)


def _unknown(reason: str) -> JobStatus:
    return JobStatus(state=JobState.UNKNOWN, reason=reason)


def _manager(arguments: Sequence[str]) -> ProgramEnd:
    start_manager(arguments[:2])
    return ProgramEnd()


_PROGRAMS: dict[str, Program] = {
    "true": lambda arguments: ProgramEnd(0.0),
    "false": lambda arguments: ProgramEnd(0.0, 1),
    "sleep": lambda arguments: ProgramEnd(float(arguments[0])),
    MANAGER_PROGRAM: _manager,
}
