"""Process groups of this machine, told apart from later ones that have the same number.

A job's id is the pid of its first process, which leads the job's session and group, and the time when that
was started, in the kernel's clock ticks (field 22 of ``/proc/<pid>/stat``); 0 where there is no /proc.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Iterator, Mapping

from weft_interfaces import JobId

__all__ = ["SEARCHABLE", "environment", "job_of", "kill", "leaders", "runs", "terminate", "wait"]

# Whether jobs of other processes can be seen at all.
SEARCHABLE = os.path.exists("/proc/self/stat")


# Seconds that a process may take to load its program, at most.
_LOADING = 1.0


def job_of(pid: int) -> JobId:
    """The id of the job whose first process this is."""
    return JobId(f"{pid}.{_start_time(pid)}")


def runs(job: JobId) -> bool:
    """Whether the first process of a job runs. Raises :class:`OSError` if that could not be found out."""
    process = _parse(job)
    fields = _stat(process[0]) if process else None
    if process is None or fields is None:
        return False
    return int(fields[19]) == process[1] and fields[0] not in ("Z", "X")


def terminate(job: JobId) -> None:
    """Ask all processes of a job to end. Raises :class:`PermissionError` if they are not this user's."""
    with contextlib.suppress(ProcessLookupError):
        _signal(job, signal.SIGTERM)


def kill(job: JobId) -> None:
    """Kill all processes of a job, as far as they are this user's."""
    with contextlib.suppress(ProcessLookupError, PermissionError):  # the latter: macOS, if all are zombies
        _signal(job, signal.SIGKILL)


def wait(job: JobId, deadline: float) -> None:
    """Wait until the first process of a job has ended, or ``deadline`` (of :func:`time.monotonic`)."""
    process = _parse(job)
    try:
        descriptor = os.pidfd_open(process[0]) if process else -1
    except ProcessLookupError:
        return
    except (AttributeError, OSError):  # not on this system, or no descriptor is free
        descriptor = -1
    try:
        if descriptor >= 0 and runs(job):  # so that it is the descriptor of this process
            ending = select.poll()
            ending.register(descriptor, select.POLLIN)
            ending.poll(max(0.0, deadline - time.monotonic()) * 1000)
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def leaders() -> Iterator[tuple[JobId, Mapping[str, str]]]:
    """The processes of this user that run and lead a session, as jobs, with their environments.

    Raises :class:`OSError` if that could not be found out.
    """
    for name in os.listdir("/proc") if SEARCHABLE else ():
        found = _leader(int(name)) if name.isdecimal() else None
        if found is not None:
            yield found


def _leader(pid: int) -> tuple[JobId, Mapping[str, str]] | None:
    try:
        if os.getsid(pid) != pid:
            return None
        job, variables = job_of(pid), environment(pid)
    except (FileNotFoundError, ProcessLookupError, PermissionError):  # it has ended, or is another user's
        return None
    return (job, variables) if runs(job) else None  # still: so both are of the same process


def environment(pid: int) -> dict[str, str]:
    """The variables that a process was started with. Raises :class:`OSError` if they cannot be read."""
    deadline = time.monotonic() + _LOADING
    while True:
        with open(f"/proc/{pid}/environ", "rb") as file:
            data = file.read()
        if data or not _loads(pid) or time.monotonic() > deadline:
            break
        time.sleep(0.001)
    lines = os.fsdecode(data).split("\0")
    return {name: value for name, equals, value in (line.partition("=") for line in lines) if equals}


def _loads(pid: int) -> bool:
    """Whether a process is between two programs. Whoever started it goes on as soon as the old one has left
    its memory; the new one's variables come a moment later (field 51 says where they end).
    """
    fields = _stat(pid)
    return fields is not None and fields[0] not in ("Z", "X") and fields[48:49] == ["0"]


def _parse(job: JobId) -> tuple[int, int] | None:
    """The pid and the start of a job's first process; None if the id is no job's."""
    pid, _, started = job.partition(".")
    if not (pid.isdecimal() and started.isdecimal() and pid.isascii() and int(pid) > 1):
        return None
    return int(pid), int(started)


def _signal(job: JobId, number: int) -> None:
    # A group keeps its number as long as one of its processes lives, a zombie too: while the pid is its first
    # process's, or nobody's, no other group can have got it.
    process = _parse(job)
    if process is not None and _start_time(process[0]) in (0, process[1]):
        os.killpg(process[0], number)


def _start_time(pid: int) -> int:
    """When a process was started; 0 if there is none."""
    fields = _stat(pid)
    return int(fields[19]) if fields else 0


def _stat(pid: int) -> list[str] | None:
    """The fields of a process's status from the third on, which is its state; None if there is no process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The command, in brackets, may hold anything.
            return file.read().rpartition(b")")[2].decode("ascii").split()
    except (FileNotFoundError, ProcessLookupError):
        return None
