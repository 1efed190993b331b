"""Blocks that are process groups of this machine."""

from __future__ import annotations

import contextlib
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from weft_interfaces import (
    BaseProvider,
    Channel,
    CommandResult,
    JobId,
    JobSpec,
    JobState,
    JobStatus,
    ProviderError,
)
from weft_interfaces.remains import read_removal, removal

from . import group
from .far import FarMachine
from .job import Child, Job, Stranger
from .start import JobFiles, recorded_job

__all__ = ["LocalProvider"]

_PATIENCE = 4.0  # seconds that a cancellation may take: two for the jobs, two for the kernel
_PATIENCE_WITH_FILES = 30.0  # seconds that their removal may take

_ENDED = JobStatus(state=JobState.GONE, reason="no such job runs on this machine")
_UNSEEN = JobStatus(state=JobState.UNKNOWN, reason="without /proc, only who started a job knows of it")


class LocalProvider(BaseProvider):
    """Runs each job in a session of its own on this machine. There is no queue: jobs start at once.

    What a job writes goes to ``<id>.out`` and ``<id>.err`` in the job's directory, and its input to a file
    without a name. It has the environment and the working directory of this process. When its first process
    ends, the others of its group are killed as soon as somebody asks. A job that has reached its walltime is
    ended when its status is asked for. Jobs outlive this process, unless they end by themselves.

    channel: the host whose process groups they are; None is this machine. There, a job's input is a file that
    only its owner can read, removed when the job has ended, and the channel's surroundings are the job's.

    All providers of a process share what they know of this machine. Methods may be called from any thread.
    """

    def __init__(self, channel: Channel | None = None) -> None:
        self.channel = channel
        self._far = None if channel is None else FarMachine(channel)
        self.poll_interval = 0.5 if channel is None else 2.0

    def __getstate__(self) -> dict[str, Any]:
        """Its settings: pickled, it may be asked on another machine. What it knows of jobs stays here."""
        return {name: value for name, value in self.__dict__.items() if name != "_far"}

    def __setstate__(self, settings: Mapping[str, Any]) -> None:
        self.__dict__.update(settings)
        self._far = None if self.channel is None else FarMachine(self.channel)

    def submit(self, spec: JobSpec) -> JobId:
        """Start it; one that was started for the same ``spec.id`` in the same directory is found again.

        Raises :class:`ConfigError`, naming the command or the directory, if it cannot work, and
        :class:`ProviderError` if it may work later; then nothing is left of it.
        """
        return _MACHINE.submit(spec) if self._far is None else self._far.submit(spec)

    def status(self, ids: Sequence[JobId]) -> Mapping[JobId, JobStatus]:
        """How these jobs are. How a job of another process ended is not known: it is then ``GONE``."""
        if self._far is not None:
            return self._far.status(ids)
        return {job_id: _MACHINE.status(job_id) for job_id in ids}

    def cancel(self, ids: Sequence[JobId]) -> None:
        """Ask these jobs to end, and kill those that have not after two seconds.

        Returning: they have ended, unless the kernel takes more than two further seconds for that.
        """
        if self._far is not None:
            self._far.cancel(ids)
            return
        errors: list[Exception] = []
        asked: list[Job] = []
        for job_id in ids:
            try:
                job = _MACHINE.job(job_id)
                if job is not None:
                    job.end(JobState.CANCELLED, "it was cancelled")
                    asked.append(job)
            except (OSError, ProviderError) as error:
                errors.append(error)
        latest = time.monotonic() + _PATIENCE
        for job in asked:
            try:
                job.see_out(latest)
            except OSError as error:
                errors.append(error)
        if errors:
            raise ProviderError("; ".join(map(str, errors))) from errors[0]

    def find(self, tag: str) -> Mapping[JobId, str]:
        """The jobs with this tag that run: none for an empty tag, and none where there is no /proc.

        Raises :class:`ProviderError` if that could not be found out.
        """
        if self._far is not None:
            return self._far.find(tag) if tag else {}
        return {job: variables.get("WEFT_JOB_NAME", "") for job, variables in _tagged(tag)}

    def find_specs(self, tag: str) -> Mapping[str, JobId]:
        """See :meth:`~weft_interfaces.SearchableProvider.find_specs`."""
        if self._far is not None:
            return self._far.find_specs(tag) if tag else {}
        records = {job: Path(variables["WEFT_JOB_RECORD"]) for job, variables in _tagged(tag)}
        return {record.name.removesuffix(".job"): job for job, record in records.items()}

    def remove_files(self, directory: str, wanted: Sequence[str] = ()) -> Mapping[str, bytes]:
        """See :meth:`~weft_interfaces.TidyProvider.remove_files`."""
        if self._far is not None:
            return self._far.remove_files(directory, wanted)
        try:
            command = removal(directory, wanted)
            done = subprocess.run(
                command,
                cwd=Path.home(),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_PATIENCE_WITH_FILES,
                check=False,
            )
            return read_removal(CommandResult(done.returncode, done.stdout, done.stderr))
        except (OSError, ValueError, subprocess.TimeoutExpired) as error:
            raise ProviderError(f"the directory {directory!r} was not removed: {error}") from error


def _tagged(tag: str) -> list[tuple[JobId, Mapping[str, str]]]:
    """The jobs that run, with their environments; none for an empty tag."""
    try:
        return list(_leaders(tag)) if tag else []
    except OSError as error:
        raise ProviderError(f"the jobs tagged {tag!r} could not be looked for: {error}") from error


def _leaders(tag: str) -> Iterator[tuple[JobId, Mapping[str, str]]]:
    for job, variables in group.leaders():
        if variables.get("WEFT_JOB_TAG") == tag:
            # What a job starts has its environment, and may lead a session too: the record tells them apart.
            recorded = recorded_job(variables.get("WEFT_JOB_RECORD", ""))
            if recorded in (None, job):
                yield job, variables


class _Machine:
    """The jobs that this process has started or has seen running."""

    def __init__(self) -> None:
        self._submitting = threading.Lock()
        self._lock = threading.Lock()
        self._jobs: dict[JobId, Job] = {}
        self._by_spec: dict[str, JobId] = {}

    def submit(self, spec: JobSpec) -> JobId:
        with self._submitting:
            self._reap()
            known = self._by_spec.get(spec.id)
            if known is not None:
                return known
            files = JobFiles(spec)
            job_id = files.known(spec)
            if job_id is None:
                job = Child(spec, files)
                job_id = job.id
                with self._lock:
                    self._jobs[job_id] = job
            self._by_spec[spec.id] = job_id
            return job_id

    def job(self, job_id: JobId) -> Job | None:
        """This job; None if it has ended before this process knew of it. Raises :class:`OSError` if that
        could not be found out.
        """
        with self._lock:
            job = self._jobs.get(job_id)
            if job is None and group.runs(job_id):
                job = self._jobs[job_id] = Stranger(job_id)
            return job

    def status(self, job_id: JobId) -> JobStatus:
        try:
            job = self.job(job_id)
            if job is not None:
                return job.status()
        except OSError as error:
            return JobStatus(state=JobState.UNKNOWN, reason=f"the processes cannot be looked at: {error}")
        return _ENDED if group.SEARCHABLE else _UNSEEN

    def _reap(self) -> None:
        """Leave no zombies of jobs that nobody asks for any more."""
        with self._lock:
            jobs = list(self._jobs.values())
        for job in jobs:
            with contextlib.suppress(OSError):
                job.ended()


# Jobs are left alone when their provider is forgotten, so what is known of them outlives it.
_MACHINE = _Machine()
