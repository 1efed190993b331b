"""``condor_submit``, ``condor_q``, ``condor_history``, ``condor_rm`` of HTCondor."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from engine import Job, answer, delete, known, queue, submit


def condor_submit(path: str) -> int:
    lines = [line for line in Path(path).read_text().splitlines() if " = " in line]
    said = {key.strip().lower(): value.strip() for key, value in (line.split("=", 1) for line in lines)}
    if "nosuch" in said.get("requirements", ""):
        print("ERROR: Parse error in expression: \n\tRequirements = nosuch", file=sys.stderr)
        return 1
    with queue() as jobs:
        cluster = str(len(jobs) + 1)
        text = said["environment"][1:-1].replace("$(ClusterId)", cluster).replace("$(ProcId)", "0")
        environment = {name: value.strip("'") for name, value in re.findall(r"(\w+)=('[^']*'|\S*)", text)}
        script = said["arguments"][1:-1].removeprefix("-l ").strip("'").replace("''", "'")
        paths = [script, said["output"], said["error"]]
        submit(
            jobs,
            [said["executable"], "-c", 'exec bash "$1" >"$2" 2>"$3"', "job", *paths],
            environment,
            id=f"{cluster}.0",
            label=said["+weftlabel"].strip('"'),
            name=said["+weftname"].strip('"'),
            walltime=int(said.get("+weftwalltime", 0)),
        )
    print(f"Submitting job(s).\n1 job(s) submitted to cluster {cluster}.")
    return 0


def ad(job: Job) -> dict[str, Any]:
    removed = job["deleted"] or job["over"]
    over = job["ended"] is not None
    status = (3 if removed else 4) if over else 5 if job["held"] else 2 if job["started"] else 1
    shown: dict[str, Any] = {
        "ClusterId": job["number"],
        "ProcId": 0,
        "JobStatus": status,
        "WeftLabel": job["label"],
    }
    shown["WeftName"] = job["name"]
    if job["walltime"]:
        shown["WeftWalltime"] = job["walltime"]
    if job["started"]:
        shown["JobCurrentStartDate"] = int(job["started"])
        shown["LastRemoteHost" if over else "RemoteHost"] = "slot1_1@node1.pool"
    if status == 5:
        shown |= {"HoldReason": "via condor_hold (by user a)", "HoldReasonCode": 1}
    if status == 3:
        policy = "The job attribute PeriodicRemove expression 'JobStatus == 2' evaluated to TRUE"
        shown["RemoveReason"] = policy if job["over"] else "via condor_rm (by user a)"
    if status == 4:
        shown |= {"ExitBySignal": False, "ExitCode": job["status"]}
    return shown


def listing(ads: list[dict[str, Any]]) -> int:
    return answer(json.dumps(ads, indent=2) + "\n" if ads else "")


def condor_q(*arguments: str) -> int:
    with queue() as jobs:
        return listing([ad(job) for job in jobs.values() if job["ended"] is None])


def condor_history(*arguments: str) -> int:
    wanted = re.findall(r"ClusterId == (\d+)", arguments[-1])
    with queue() as jobs:
        past = [job for job in known(jobs) if job["ended"] is not None and str(job["number"]) in wanted]
        return listing([ad(job) for job in past])


def condor_rm(*ids: str) -> int:
    status = 0
    with queue() as jobs:
        here = {job["id"]: job for job in jobs.values() if job["ended"] is None}
        for job_id in ids:
            if job_id in here:
                delete(here[job_id])
                print(f"Job {job_id} marked for removal")
            else:
                status = 1
                print(f"Job {job_id} not found", file=sys.stderr)
    return status


if __name__ == "__main__":
    _, command, *arguments = sys.argv[1:]
    commands = (condor_submit, condor_q, condor_history, condor_rm)
    sys.exit({function.__name__: function for function in commands}[command](*arguments))
