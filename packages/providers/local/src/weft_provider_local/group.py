"""Process groups, told apart from later ones that have the same number.

A job's id is the pid of its first process, which leads the group, and the time when that was started, in the
kernel's clock ticks (field 22 of ``/proc/<pid>/stat``); 0 where there is no /proc.
"""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

from weft_interfaces import JobId

__all__ = ["alive", "jobs_tagged", "kill", "start_time", "terminate"]


def start_time(pid: int) -> int:
    """When a process was started; 0 when it is not known."""
    fields = _stat(pid)
    return int(fields[19]) if fields else 0


def alive(job: JobId) -> bool:
    """Whether the first process of a job runs."""
    pid = _leader(job)
    fields = _stat(pid) if pid else None
    return fields is not None and fields[0] not in ("Z", "X")


def terminate(job: JobId) -> None:
    """Ask all processes of a job to end."""
    _signal(job, signal.SIGTERM)


def kill(job: JobId) -> None:
    """Kill all processes of a job."""
    _signal(job, signal.SIGKILL)


def jobs_tagged(tag: str) -> dict[JobId, str]:
    """The jobs of this user whose first process runs and whose environment has the tag, with their names."""
    found: dict[JobId, str] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError):
            pid = int(folder.name)
            if os.getpgid(pid) != pid:
                continue
            environment = dict(
                line.split("=", 1) for line in (folder / "environ").read_text(errors="replace").split("\0") if "=" in line
            )
            job = JobId(f"{pid}.{start_time(pid)}")
            if environment.get("WEFT_JOB_TAG") == tag and alive(job):
                found[job] = environment.get("WEFT_JOB_NAME", "")
    return found


def _leader(job: JobId) -> int | None:
    """The pid of a job's first process, if it is still that process's, or nobody's."""
    pid, _, started = job.partition(".")
    if not pid.isdigit() or not started.isdigit() or int(pid) <= 1:
        return None
    now = start_time(int(pid))
    return int(pid) if now in (0, int(started)) else None


def _signal(job: JobId, number: int) -> None:
    # The group keeps its number as long as one of its processes lives, so no other process can have got it.
    pid = _leader(job)
    if pid is not None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, number)


def _stat(pid: int) -> list[str] | None:
    """The fields of a process's status, from the third on, which is its state."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
