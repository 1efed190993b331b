"""``bsub``, ``bjobs``, ``bhist``, ``bkill`` of LSF."""

from __future__ import annotations

import json
import shlex
import sys
import time
from typing import Any

from engine import HOME, Job, answer, delete, known, queue, settings, submit


def bsub(*arguments: str) -> int:
    script = sys.stdin.read()
    options: dict[str, str] = {}
    for line in script.splitlines():
        if line.startswith("#BSUB "):
            words = [*shlex.split(line)[1:], ""]
            options[words[0]] = words[1]
    if options.get("-q") == "nosuch":
        print("nosuch: No such queue. Job not submitted.", file=sys.stderr)
        return 255
    with queue() as jobs:
        number = len(jobs) + 1
        path = HOME / f"spooled.{number}"
        path.write_text(script)
        hours, minutes = options.get("-W", "0:0").split(":")
        minute = settings().get("minute", 60)
        submit(
            jobs,
            ["bash", str(path)],
            {"LSB_JOBID": str(number)},
            id=str(number),
            name=options["-J"],
            about=options["-Jd"],
            walltime=(int(hours) * 60 + int(minutes)) * minute,
        )
    print(f"Job <{number}> is submitted to default queue <normal>.")
    return 0


def reason(job: Job) -> str:
    if job["over"]:
        return "TERM_RUNLIMIT: job killed after reaching LSF run time limit"
    return "TERM_OWNER: job killed by owner" if job["deleted"] else ""


def record(job: Job) -> dict[str, Any]:
    over = job["ended"] is not None
    bad = job["status"] != 0
    state = (
        ("EXIT" if bad else "DONE")
        if over
        else "PSUSP"
        if job["held"]
        else "RUN"
        if job["started"]
        else "PEND"
    )
    ran = int((job["ended"] or time.time()) - job["started"]) if job["started"] else 0
    return {
        "JOBID": job["id"],
        "STAT": state,
        "EXIT_CODE": str(job["status"] or 130) if over and bad else "",
        "EXIT_REASON": reason(job) if over and bad else "",
        "RUN_TIME": f"{ran} second(s)",
        "RUNTIMELIMIT": f"{job['walltime'] / 60:.1f}" if job["walltime"] else "",
        "EXEC_HOST": "4*node1:4*node2" if job["started"] else "",
        "PEND_REASON": "" if job["started"] else "New job is waiting for scheduling;",
        "JOB_NAME": job["name"],
        "JOB_DESCRIPTION": job["about"],
    }


def bjobs(*arguments: str) -> int:
    with queue() as jobs:
        records = [record(job) for job in known(jobs)]
    if not records and "fail" not in settings():
        print("No job found", file=sys.stderr)
        return 0
    return answer(json.dumps({"COMMAND": "bjobs", "JOBS": len(records), "RECORDS": records}, indent=2) + "\n")


def bhist(*ids: str) -> int:
    print("No matching job found", file=sys.stderr)
    return 255


def bkill(*ids: str) -> int:
    status = 0
    with queue() as jobs:
        here = {job["id"]: job for job in known(jobs)}
        for job_id in ids:
            if job_id not in here:
                status = 255
                print(f"Job <{job_id}>: No matching job found", file=sys.stderr)
            elif here[job_id]["ended"] is not None:
                status = 255
                print(f"Job <{job_id}>: Job has already finished", file=sys.stderr)
            else:
                delete(here[job_id])
                print(f"Job <{job_id}> is being terminated")
    return status


if __name__ == "__main__":
    _, command, *arguments = sys.argv[1:]
    sys.exit({"bsub": bsub, "bjobs": bjobs, "bhist": bhist, "bkill": bkill}[command](*arguments))
