"""Blocks that are process groups of this machine."""

from __future__ import annotations

import os
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from weft_interfaces import BaseProvider, JobId, JobSpec, JobState, JobStatus, ProviderError

from .group import alive, jobs_tagged, kill, start_time, terminate

__all__ = ["LocalProvider"]

_GRACE = 2.0  # seconds that a cancelled job has to end by itself
_TAIL = 8192


class LocalProvider(BaseProvider):
    """Runs each job in a session of its own on this machine. There is no queue: jobs start at once.

    What a job writes goes to ``<id>.out`` and ``<id>.err`` in the job's directory, and its input to a file
    without a name. When its first process ends, the others of its group are killed. A job that has reached
    its walltime is ended when its status is asked for. Jobs outlive this process, unless they end by
    themselves.
    """

    poll_interval = 0.5

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._jobs: dict[JobId, _Job] = {}
        self._by_spec: dict[str, JobId] = {}

    def submit(self, spec: JobSpec) -> JobId:
        with self._lock:
            known = self._by_spec.get(spec.id)
            if known is not None:
                return known
            try:
                job = _Job(spec)
            except OSError as error:
                raise ProviderError(f"job {spec.name!r} could not be started: {error}") from error
            self._jobs[job.id] = job
            self._by_spec[spec.id] = job.id
            return job.id

    def status(self, ids: Sequence[JobId]) -> Mapping[JobId, JobStatus]:
        with self._lock:
            return {job_id: self._status(job_id) for job_id in ids}

    def _status(self, job_id: JobId) -> JobStatus:
        job = self._jobs.get(job_id)
        if job is not None:
            return job.status()
        state = JobState.RUNNING if alive(job_id) else JobState.GONE
        return JobStatus(state=state, reason="it was started by another process")

    def cancel(self, ids: Sequence[JobId]) -> None:
        """Ask these jobs to end, and kill those that have not after two seconds."""
        with self._lock:
            jobs = [self._jobs[job_id] for job_id in ids if job_id in self._jobs]
            running = [job for job in jobs if not job.status().state.terminal]
            for job in running:
                job.end(JobState.CANCELLED, "it was cancelled")
            strangers = [job_id for job_id in ids if job_id not in self._jobs and alive(job_id)]
            for job_id in strangers:
                terminate(job_id)
            deadline = time.monotonic() + _GRACE
            for job in running:
                job.wait(deadline)
            while any(map(alive, strangers)) and time.monotonic() < deadline:
                time.sleep(0.01)
            for job_id in strangers:
                kill(job_id)

    def find(self, tag: str) -> Mapping[JobId, str]:
        return jobs_tagged(tag)


class _Job:
    """One job that this process has started."""

    def __init__(self, spec: JobSpec) -> None:
        directory = Path(spec.directory)
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._stderr = directory / f"{spec.id}.err"
        environment = {**os.environ, **spec.environment, "WEFT_JOB_TAG": spec.tag, "WEFT_JOB_NAME": spec.name}
        with (
            tempfile.TemporaryFile() as data,
            open(directory / f"{spec.id}.out", "wb") as stdout,
            open(self._stderr, "wb") as stderr,
        ):
            data.write(spec.input)
            data.seek(0)
            self._process = subprocess.Popen(
                list(spec.command),
                stdin=data,
                stdout=stdout,
                stderr=stderr,
                env=environment,
                start_new_session=True,
            )
        _children.add(self._process)
        pid = self._process.pid
        self.id = JobId(f"{pid}.{start_time(pid)}")
        self._started_at = time.time()
        self._ends_at = None if spec.shape.walltime is None else self._started_at + spec.shape.walltime
        self._ended: JobStatus | None = None
        self._why: tuple[JobState, str] | None = None

    def status(self) -> JobStatus:
        if self._ended is None and self._process.poll() is not None:
            self._ended = self._bury(self._process.returncode)
        if self._ended is None and self._ends_at is not None and time.time() >= self._ends_at:
            self.end(JobState.TIMEOUT, "its walltime was over")
            self.wait(time.monotonic() + _GRACE)
        return self._ended or JobStatus(
            state=JobState.RUNNING,
            started_at=self._started_at,
            ends_at=self._ends_at,
            hosts=(socket.gethostname(),),
        )

    def end(self, state: JobState, reason: str) -> None:
        """Ask it to end. This is the state that it will then be in."""
        self._why = state, reason
        terminate(self.id)

    def wait(self, deadline: float) -> None:
        """Wait until it has ended, and kill it when it is too late."""
        try:
            code = self._process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            kill(self.id)
            code = self._process.wait()
        self._ended = self._ended or self._bury(code)

    def _bury(self, code: int) -> JobStatus:
        _children.discard(self._process)
        kill(self.id)  # what it left in its group
        state, reason = self._why or _judge(code)
        return JobStatus(
            state=state,
            reason=reason,
            exit_code=code if code >= 0 else 128 - code,
            started_at=self._started_at,
            ends_at=self._ends_at,
            hosts=(socket.gethostname(),),
            stderr_tail=self._tail(),
        )

    def _tail(self) -> str:
        try:
            with open(self._stderr, "rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
                return file.read().decode(errors="replace")
        except OSError:
            return ""


def _judge(code: int) -> tuple[JobState, str]:
    if code == 0:
        return JobState.COMPLETED, ""
    if code > 0:
        return JobState.FAILED, f"it ended with exit status {code}"
    return JobState.FAILED, f"it was killed by signal {-code}"


# Jobs are left alone when their provider is forgotten, so their handles must outlive it.
_children: set[subprocess.Popen[bytes]] = set()
