"""A batch system whose jobs are processes of this machine, and whose queue is a file in the home directory.

Nothing of it runs between two commands: each first does what was due since the last. ``settings.json`` says
how it behaves: ``delay`` (seconds until jobs start), ``history`` (whether it remembers jobs that have ended),
``fail`` (what queries complain of), ``instead`` (what they answer), ``slow`` (seconds they take), ``cut``
(how much of the answer is missing at its end), ``junk`` (what is printed before it), ``hold`` (whether jobs
are held).
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HOME = Path(os.environ["HOME"])

# Its end is kept, though the job is told to end.
WRAPPER = 'trap : TERM INT USR2; "$@"; status=$?; echo $status >"$END.new"; mv "$END.new" "$END"'

Job = dict[str, Any]


def settings() -> dict[str, Any]:
    path = HOME / "settings.json"
    return json.loads(path.read_text()) if path.exists() else {}


@contextlib.contextmanager
def queue() -> Iterator[dict[str, Job]]:
    """The jobs by their numbers, for one command at a time."""
    path = HOME / "fake.json"
    with open(HOME / "fake.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        jobs = json.loads(path.read_text()) if path.exists() else {}
        for job in jobs.values():
            advance(job)
        yield jobs
        path.write_text(json.dumps(jobs))


def known(jobs: dict[str, Job]) -> list[Job]:
    """Those that it has not forgotten."""
    return [job for job in jobs.values() if not job.get("purged")]


def submit(jobs: dict[str, Job], command: list[str], environment: dict[str, str], **about: Any) -> Job:
    number = len(jobs) + 1
    job = {
        "number": number,
        "command": command,
        "environment": environment,
        "submitted": time.time(),
        "started": None,
        "ended": None,
        "status": None,
        "deleted": False,
        "over": False,
        "held": settings().get("hold", False),
        **about,
    }
    jobs[str(number)] = job
    return job


def advance(job: Job) -> None:
    if job["ended"] is not None or job["held"]:
        return
    now = time.time()
    end = HOME / f"end.{job['number']}"
    if job["started"] is None:
        if now - job["submitted"] >= settings().get("delay", 0.2):
            process = subprocess.Popen(
                ["bash", "-c", WRAPPER, "job", *job["command"]],
                env={**os.environ, **job["environment"], "END": str(end)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            job["started"], job["group"] = now, process.pid
        return
    if end.exists():
        job["ended"], job["status"] = now, int(end.read_text())
    elif job.get("walltime") and now - job["started"] > job["walltime"] and not job["over"]:
        job["over"] = True
        kill(job)


def kill(job: Job) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(job["group"], signal.SIGTERM)


def delete(job: Job) -> None:
    job["deleted"] = True
    if job["started"] is None:
        job["ended"] = time.time()
    else:
        kill(job)


def answer(text: str, *, chatty: bool = True) -> int:
    """Print what a query answers, or how it fails."""
    how = settings()
    time.sleep(how.get("slow", 0))
    if "fail" in how:
        print(how["fail"], file=sys.stderr)
        return how.get("fail_status", 1)
    if "instead" in how:
        print(how["instead"])
        return 0
    sys.stdout.write(how.get("junk", "") if chatty else "")
    sys.stdout.write(text[: len(text) - how.get("cut", 0)])
    return 0
