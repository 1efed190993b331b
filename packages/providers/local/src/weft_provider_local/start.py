"""Starts the first process of a job."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import IO

from weft_interfaces import ConfigError, JobId, JobSpec, ProviderError

from .group import job_of, leaders

__all__ = ["JobFiles", "recorded_job", "start"]

# What is wrong with the request, not with the moment.
_WRONG = frozenset(
    {
        errno.E2BIG,
        errno.EACCES,
        errno.EEXIST,
        errno.EISDIR,
        errno.ELOOP,
        errno.ENAMETOOLONG,
        errno.ENOENT,
        errno.ENOEXEC,
        errno.ENOTDIR,
        errno.EPERM,
        errno.EROFS,
    }
)


class JobFiles:
    """A job's files in its directory, all for their owner only.

    ``<id>.out`` and ``<id>.err`` are what the job writes. ``<id>.job`` holds the job's id, once it runs:
    so whoever submits it again finds it, and its first process is told from others that have inherited its
    environment.
    """

    def __init__(self, spec: JobSpec) -> None:
        if not spec.id or "/" in spec.id or "\0" in spec.id:
            raise ConfigError(f"the id of job {spec.name!r} must be usable as a file name, not {spec.id!r}")
        directory = Path(spec.directory)
        try:
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            directory = directory.resolve()
        except (OSError, ValueError) as error:
            raise _refusal(
                error, f"the directory {spec.directory!r} of job {spec.name!r} cannot be made"
            ) from error
        self.stdout = directory / f"{spec.id}.out"
        self.stderr = directory / f"{spec.id}.err"
        self.record = directory / f"{spec.id}.job"

    def known(self, spec: JobSpec) -> JobId | None:
        """The job that was started for this specification, by whichever process."""
        try:
            return self._recorded_or_running() if self.stdout.exists() else None
        except OSError as error:
            raise _refusal(error, f"whether job {spec.name!r} runs already cannot be found out") from error

    def _recorded_or_running(self) -> JobId | None:
        recorded = recorded_job(self.record)
        if recorded is not None:
            return recorded
        # Whoever started it was killed before it could write that down.
        found = [job for job, variables in leaders() if variables.get("WEFT_JOB_RECORD") == str(self.record)]
        return found[0] if found else None

    def write_record(self, job: JobId) -> None:
        """Whole or not at all."""
        draft = self.record.with_suffix(".job.new")
        with open_private(draft) as file:
            file.write(job.encode())
        os.replace(draft, self.record)

    def remove(self) -> None:
        """Leave nothing behind."""
        for path in (self.stdout, self.stderr, self.record, self.record.with_suffix(".job.new")):
            with contextlib.suppress(OSError):
                path.unlink()


def recorded_job(record: str | Path) -> JobId | None:
    """What a record says; None if there is none. Raises :class:`OSError` if it cannot be read now."""
    try:
        return JobId(Path(record).read_text("ascii"))
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return None


def open_private(path: Path) -> IO[bytes]:
    """A new, empty file that only its owner can read."""
    return open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600), "wb")


def start(spec: JobSpec, files: JobFiles, ends_at: float | None) -> JobId:
    """Start a job's first process, in a session of its own. The caller has to wait for its end.

    Raises :class:`ConfigError` or :class:`ProviderError`; then no process and no file is left.
    """
    try:
        return _start(spec, files, ends_at)
    except (OSError, ValueError) as error:
        files.remove()
        command = spec.command[0] if spec.command else "(empty)"
        raise _refusal(
            error, f"job {spec.name!r} could not be started, its command is {command!r}"
        ) from error
    except BaseException:
        files.remove()
        raise


def _start(spec: JobSpec, files: JobFiles, ends_at: float | None) -> JobId:
    if not spec.command:
        raise ValueError("there is nothing to run")
    with (
        _unnamed(spec.input) as stdin,
        open_private(files.stdout) as stdout,
        open_private(files.stderr) as stderr,
    ):
        process = subprocess.Popen(
            list(spec.command),
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env=_variables(spec, files, ends_at),
            start_new_session=True,
        )
    process.returncode = 0  # its end is awaited by the job, not here; else Popen warns that it still runs
    try:
        job = job_of(process.pid)
        files.write_record(job)
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(process.pid, 0)
        raise
    return job


def _variables(spec: JobSpec, files: JobFiles, ends_at: float | None) -> dict[str, str]:
    return {
        **os.environ,
        **spec.environment,
        "WEFT_JOB_TAG": spec.tag,
        "WEFT_JOB_NAME": spec.name,
        "WEFT_JOB_RECORD": str(files.record),
        "WEFT_JOB_ENDS_AT": "" if ends_at is None else repr(ends_at),
    }


def _unnamed(data: bytes) -> IO[bytes]:
    """A file without a name, to be read from its beginning; in memory where that is possible."""
    file: IO[bytes]
    try:
        file = open(os.memfd_create("weft-input"), "w+b")  # noqa: SIM115  the caller closes it
    except (AttributeError, OSError):
        file = tempfile.TemporaryFile()  # noqa: SIM115
    try:
        file.write(data)
        file.flush()
        file.seek(0)
    except BaseException:
        file.close()
        raise
    return file


def _refusal(error: OSError | ValueError, what: str) -> ConfigError | ProviderError:
    if isinstance(error, OSError) and error.errno not in _WRONG:
        return ProviderError(f"{what}: {error}")
    return ConfigError(f"{what}: {error}")
