"""Jobs, and how they end.

::

    RUNNING ── end(): SIGTERM to the group ── still there after GRACE: SIGKILL ──┐
       └────── its first process ends ───────────────────────────────────────────┴──> SIGKILL to the
                                                                      rest of the group, then reaped

All methods may be called from any thread. None waits but :meth:`Job.see_out`, which does within a bound.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from pathlib import Path

from weft_interfaces import JobId, JobSpec, JobState, JobStatus, ProviderError

from . import group
from .start import JobFiles, start

__all__ = ["Child", "Job", "Stranger"]

_GRACE = 2.0  # seconds that a job has to end by itself when it was asked to
_LOOK = 0.01  # seconds between two looks where the kernel does not tell when a process ends
_TAIL = 8192  # bytes


class Job:
    """A job on this machine. Subclasses find out how it ended."""

    def __init__(self, job_id: JobId, started_at: float | None, ends_at: float | None) -> None:
        self.id = job_id
        self._started_at = started_at
        self._ends_at = ends_at
        # The clock may be set while it runs: that changes no walltime.
        self._time_out = None if ends_at is None else time.monotonic() + ends_at - time.time()
        self._lock = threading.Lock()
        self._ended: JobStatus | None = None
        self._why: tuple[JobState, str] | None = None
        self._kill_at: float | None = None

    def status(self) -> JobStatus:
        """How it is. When its walltime is over, it is ended."""
        with self._lock:
            ended = self._look()
            if ended is not None:
                return ended
            trouble, now = "", time.monotonic()
            if self._why is None and self._time_out is not None and now >= self._time_out:
                try:
                    self._end(JobState.TIMEOUT, "its walltime was over")
                except ProviderError as error:
                    trouble = str(error)
            if self._kill_at is not None and now >= self._kill_at:
                group.kill(self.id)
            return self._status(JobState.RUNNING, trouble)

    def end(self, state: JobState, reason: str) -> None:
        """Ask it to end. This is the state that it will then be in, unless it has ended already.

        Raises :class:`ProviderError` if it could not be asked.
        """
        with self._lock:
            if self._look() is None:
                self._end(state, reason)

    def see_out(self, latest: float) -> None:
        """Wait for a job that was asked to end, and kill it when its time is over.

        Not for longer than to ``latest``, of :func:`time.monotonic`: some do not die, such as those that wait
        for a disk.
        """
        if self._kill_at is not None and not self._wait(self._kill_at):
            with self._lock:
                if self._look() is None:
                    group.kill(self.id)
            self._wait(latest)

    def _wait(self, deadline: float) -> bool:
        """Whether it has ended, at the deadline or before."""
        pause = threading.Event()
        while not self.ended():
            if time.monotonic() >= deadline:
                return False
            group.wait(self.id, deadline)
            if not self.ended():
                pause.wait(_LOOK)
        return True

    def ended(self) -> bool:
        """Whether it has ended."""
        with self._lock:
            return self._look() is not None

    def _end(self, state: JobState, reason: str) -> None:
        try:
            group.terminate(self.id)
        except OSError as error:
            raise ProviderError(f"job {self.id} could not be asked to end: {error}") from error
        if self._why is None:
            self._why = state, reason
            self._kill_at = time.monotonic() + _GRACE

    def _look(self) -> JobStatus | None:
        """How it ended, if it has. The caller has the lock."""
        if self._ended is None:
            self._ended = self._find_end()
        return self._ended

    def _find_end(self) -> JobStatus | None:
        """How it ended, once; what is left in its group is then killed."""
        raise NotImplementedError

    def _status(
        self, state: JobState, reason: str = "", code: int | None = None, tail: str = ""
    ) -> JobStatus:
        return JobStatus(
            state=state,
            reason=reason,
            exit_code=code,
            started_at=self._started_at,
            ends_at=self._ends_at,
            hosts=(socket.gethostname(),),
            stderr_tail=tail,
        )


class Child(Job):
    """A job that this process starts. Nobody else may wait for its first process."""

    def __init__(self, spec: JobSpec, files: JobFiles) -> None:
        now = time.time()
        ends_at = None if spec.shape.walltime is None else now + spec.shape.walltime
        super().__init__(start(spec, files, ends_at), now, ends_at)
        self._pid = int(self.id.partition(".")[0])
        self._stderr = files.stderr

    def _find_end(self) -> JobStatus | None:
        try:
            code = self._reap()
        except ChildProcessError:  # somebody else has, or this is a fork of the process that started it
            if group.runs(self.id):
                return None
            group.kill(self.id)
            reason = "its exit status went to another part of the program that waits for all child processes"
            return self._status(*(self._why or (JobState.GONE, reason)), tail=_tail(self._stderr))
        if code is None:
            return None
        state, reason = self._why or _judge(code)
        return self._status(state, reason, code if code >= 0 else 128 - code, _tail(self._stderr))

    def _reap(self) -> int | None:
        """Its exit code, or the negative number of a signal; None while it runs."""
        try:
            look = os.waitid
        except AttributeError:  # macOS before Python 3.13
            pid, status = os.waitpid(self._pid, os.WNOHANG)
            if not pid:
                return None
            group.kill(self.id)
            return os.waitstatus_to_exitcode(status)
        if look(os.P_PID, self._pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            return None
        group.kill(self.id)  # as long as it is a zombie, no other group can have its number
        return os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])


class Stranger(Job):
    """A job that another process has started, and that runs. How it ends is not known here."""

    def __init__(self, job_id: JobId) -> None:
        ends_at: float | None = None
        with contextlib.suppress(OSError, ValueError):
            ends_at = float(group.environment(int(job_id.partition(".")[0])).get("WEFT_JOB_ENDS_AT", ""))
        super().__init__(job_id, None, ends_at)

    def _find_end(self) -> JobStatus | None:
        if group.runs(self.id):
            return None
        group.kill(self.id)
        reason = "it was started by another process, which alone knows how it ended"
        return self._status(*(self._why or (JobState.GONE, reason)))


def _judge(code: int) -> tuple[JobState, str]:
    if code == 0:
        return JobState.COMPLETED, ""
    if code > 0:
        return JobState.FAILED, f"it ended with exit status {code}"
    try:
        name = f" ({signal.Signals(-code).name})"
    except ValueError:
        name = ""
    return JobState.FAILED, f"it was killed by signal {-code}{name}"


def _tail(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
            return file.read(_TAIL).decode(errors="replace")
    except OSError:
        return ""
