"""What a job's state, its place in the queue and what it left mean together."""

from __future__ import annotations

import time
from dataclasses import replace

from weft_interfaces import JobState, JobStatus

from .host import Ending
from .job import ListedJob
from .queue import Watched

__all__ = ["judge", "judge_ended", "judge_vanished"]

# What shells say of a command that they could not run.
_COMMAND = {
    126: "its command could not be run on the node",
    127: "its command was not found on the node: is the worker's Python there, and does worker_init find it?",
}

_SILENT = "it left no exit code: is its directory there, on its node, and is there room to write?"


def judge(listed: ListedJob, ending: Ending) -> JobStatus:
    """The status of a job that the batch system knows, and that left this."""
    over = listed.state.terminal
    code = listed.exit_code if listed.exit_code is not None else ending.exit_status
    reasons = [listed.reason, _explain(ending) if listed.state is JobState.FAILED else ""]
    if listed.state is JobState.FAILED and not any(reasons):
        reasons.append(_SILENT)
    return JobStatus(
        state=listed.state,
        reason="; ".join(reason for reason in reasons if reason),
        exit_code=code if over else None,
        started_at=listed.started_at,
        ends_at=listed.ends_at,
        hosts=tuple(listed.hosts),
        stderr_tail=ending.stderr,
        stuck=listed.stuck,
    )


def judge_ended(job: Watched, listed: ListedJob, ending: Ending) -> JobStatus:
    """How a job ended that the batch system lists as ended, and that left this."""
    code = listed.exit_code if listed.exit_code is not None else ending.exit_status
    killed = listed.state is JobState.FAILED and (code is None or code > 128)
    # Some only say that it was killed, not that we did it.
    return judge(replace(listed, state=JobState.CANCELLED) if killed and job.cancelled else listed, ending)


def judge_vanished(
    job: Watched, known: ListedJob | None, ending: Ending, *, certain: bool, system: str
) -> JobStatus | None:
    """How a job ended that is in the queue no longer; None while that is not certain.

    known: its place in the accounting.
    """
    seen = job.seen or known
    if known is not None and known.state.terminal:
        return judge(_corrected(job, known), ending)
    if ending.exit_status is not None:
        return _left(job, seen, ending)
    if not certain:
        return None
    if job.cancelled:
        return _status(seen, JobState.CANCELLED, f"it was cancelled; {system} lists it no longer", ending)
    if _overdue(seen):
        reason = f"its walltime is over; {system} lists it no longer"
        return _status(seen, JobState.TIMEOUT, reason, ending)
    return _status(seen, JobState.GONE, f"{system} knows it no longer, and it left no exit code", ending)


def _corrected(job: Watched, known: ListedJob) -> ListedJob:
    """Some only say that a job was killed, not that we, or its walltime, did it."""
    if known.state is JobState.FAILED and (known.exit_code is None or known.exit_code > 128):
        if job.cancelled:
            return replace(known, state=JobState.CANCELLED)
        if _overdue(job.seen):
            return replace(known, state=JobState.TIMEOUT)
    return known


def _left(job: Watched, seen: ListedJob | None, ending: Ending) -> JobStatus:
    """From its exit file alone."""
    if ending.exit_status == 0:
        return _status(seen, JobState.COMPLETED, "", ending)
    if job.cancelled:
        return _status(seen, JobState.CANCELLED, "it was cancelled", ending)
    if (ending.exit_status or 0) > 128 and _overdue(seen):  # it was told to end, when it was to end
        return _status(seen, JobState.TIMEOUT, "its walltime was over", ending)
    return _status(seen, JobState.FAILED, _explain(ending), ending)


def _overdue(seen: ListedJob | None) -> bool:
    return seen is not None and seen.ends_at is not None and time.time() >= seen.ends_at


def _explain(ending: Ending) -> str:
    code = ending.exit_status
    if not code:
        return ""
    if ending.step == "worker_init":
        return f"worker_init failed with exit status {code}"
    why = _COMMAND.get(code, "")
    return f"exit status {code}" + (f": {why}" if why else "")


def _status(seen: ListedJob | None, state: JobState, reason: str, ending: Ending) -> JobStatus:
    return JobStatus(
        state=state,
        reason=reason,
        exit_code=ending.exit_status,
        started_at=seen.started_at if seen else None,
        ends_at=seen.ends_at if seen else None,
        hosts=tuple(seen.hosts) if seen else (),
        stderr_tail=ending.stderr,
    )
