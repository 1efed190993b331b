"""``qsub``, ``qselect``, ``qstat``, ``qdel`` of PBS Pro and Torque.

``json`` in the settings: ``plain`` (the option is not known), ``first`` (only the first job is listed, as in
openpbs issue 2672), ``broken`` (as in issue 2541).
"""

from __future__ import annotations

import json
import re
import shlex
import sys
import time
from pathlib import Path
from typing import Any

from engine import Job, answer, delete, known, queue, settings, submit

SERVER = "fake01"


def qsub(kind: str, path: str) -> int:
    options: dict[str, str] = {}
    for line in Path(path).read_text().splitlines():
        if line.startswith("#PBS "):
            words = shlex.split(line)[1:]
            if words[0] == "-l":
                name, _, value = words[1].partition("=")
                options[name] = value
            else:
                options[words[0]] = words[1]
        elif line and not line.startswith("#"):
            break
    if options.get("-q") == "nosuch":
        said = "Unknown queue" if kind == "pbs" else "submit error (Unknown queue MSG=cannot locate queue)"
        print(f"qsub: {said}", file=sys.stderr)
        return 170
    with queue() as jobs:
        variables = dict(pair.split("=", 1) for pair in options["-v"].split(","))
        job_id = f"{len(jobs) + 1}.{SERVER}"
        hours, minutes, seconds = options.get("walltime", "0:0:0").split(":")
        job = submit(
            jobs,
            [options["-S"], path],
            {**variables, "PBS_JOBID": job_id},
            id=job_id,
            name=options["-N"],
            variables=variables,
            walltime=int(hours) * 3600 + int(minutes) * 60 + int(seconds),
            limit=options.get("walltime"),
        )
        print(job["id"])
    return 0


def qselect(kind: str, *arguments: str) -> int:
    with queue() as jobs:
        listed = [job["id"] for job in known(jobs) if job["ended"] is None or kind == "torque"]
    return answer("".join(f"{job_id}\n" for job_id in listed), chatty=False)


def attributes(kind: str, job: Job) -> dict[str, Any]:
    ended = "F" if kind == "pbs" else "C"
    over = job["ended"] is not None
    state = ended if over else "H" if job["held"] else "Q" if job["started"] is None else "R"
    shown: dict[str, Any] = {"Job_Name": job["name"], "Job_Owner": f"user@{SERVER}", "job_state": state}
    if job["started"] is not None:
        shown["exec_host"] = "node1/0*4+node2/0*4" if kind == "pbs" else "node1/0-3+node2/0-3"
        shown["stime" if kind == "pbs" else "start_time"] = time.ctime(job["started"])
        used = int((job["ended"] or time.time()) - job["started"]) + (1 if job["over"] else 0)
        shown["resources_used"] = {"walltime": f"00:00:{used:02}"}
    shown["Hold_Types"] = "u" if job["held"] else "n"
    if job["limit"]:
        shown["Resource_List"] = {"nodect": 1, "walltime": job["limit"]}
    if kind == "pbs":
        shown["substate"] = (
            91 if over and job["deleted"] else 93 if over and job["status"] else 92 if over else 42
        )
    shown["Variable_List"] = {"PBS_O_HOME": "/home/a user", **job["variables"], "PBS_O_HOST": SERVER}
    if state == "Q":
        shown["comment"] = "Not Running: Insufficient amount of resource: ncpus"
    if over and job["status"] is not None:
        walltime = -29 if kind == "pbs" else -11
        shown["Exit_status" if kind == "pbs" else "exit_status"] = walltime if job["over"] else job["status"]
    return shown


def as_json(jobs: dict[str, dict[str, Any]]) -> str:
    head: dict[str, Any] = {"timestamp": int(time.time()), "pbs_version": "19.1.1", "pbs_server": SERVER}
    if settings().get("json") == "first":
        jobs = dict(list(jobs.items())[:1])
    if jobs:
        head["Jobs"] = jobs
    text = json.dumps(head, indent=4, separators=(",", ":"))
    if settings().get("json") == "broken":
        bad = '"BASH_FUNC_module%%":"() {  eval `/usr/bin/modulecmd bash "$@"`\n}",\n"foo":005,\n'
        text = text.replace('"PBS_O_HOME"', f'{bad}"PBS_O_HOME"')
    return f"{text}\n"


def as_text(jobs: dict[str, dict[str, Any]], fold: bool) -> str:
    lines = []
    for job_id, shown in jobs.items():
        lines.append(f"Job Id: {job_id}")
        for name, value in shown.items():
            if name == "Variable_List":
                pairs = {name: ",".join(f"{key}={text}" for key, text in value.items())}
            elif isinstance(value, dict):
                pairs = {f"{name}.{key}": text for key, text in value.items()}
            else:
                pairs = {name: value}
            for key, text in pairs.items():
                line = f"    {key} = {text}"
                lines.append(re.sub("(.{78})(?=.)", "\\1\n\t", line) if fold else line)
        lines.append("")
    return "".join(f"{line}\n" for line in lines)


def qstat(kind: str, *arguments: str) -> int:
    how = settings()
    if how.get("json") == "plain" and "-F" in arguments:
        print("qstat: invalid option -- 'F'\nusage: \nqstat [-f] [-J]", file=sys.stderr)
        return 2
    history = kind == "torque" or how.get("history", True)
    if "-x" in arguments and not history:
        print(f"qstat: PBS is not configured to maintain job history {arguments[-1]}", file=sys.stderr)
        if "-F" in arguments:
            print(as_json({}), end="")
        return 0  # src/cmds/qstat.c of openpbs, its last lines
    ids = [word for word in arguments if word[0].isdigit() and word != "json"]
    with queue() as jobs:
        all_jobs = {
            job["id"]: attributes(kind, job) for job in known(jobs) if history or job["ended"] is None
        }
    shown = {job_id: all_jobs[job_id] for job_id in ids if job_id in all_jobs}
    missing = [job_id for job_id in ids if job_id not in all_jobs]
    if missing and not ("-E" in arguments and shown):
        if "-E" in arguments:
            missing = ids[-1:]  # it is one request, and this is what qstat knows of it
        print(*(f"qstat: Unknown Job Id {job_id}" for job_id in missing), sep="\n", file=sys.stderr)
    status = answer(as_json(shown) if "-F" in arguments else as_text(shown, "-1" not in arguments))
    return status or (153 if missing and not ("-E" in arguments and shown) else 0)


def qdel(kind: str, *ids: str) -> int:
    status = 0
    with queue() as jobs:
        here = {job["id"]: job for job in known(jobs)}
        for job_id in ids:
            if job_id not in here:
                status = 153
                print(f"qdel: Unknown Job Id {job_id}", file=sys.stderr)
            elif here[job_id]["ended"] is not None:
                status = 35
                print(f"qdel: Job has finished {job_id}", file=sys.stderr)
            else:
                delete(here[job_id])
    return status


if __name__ == "__main__":
    kind, command, *arguments = sys.argv[1:]
    sys.exit({"qsub": qsub, "qselect": qselect, "qstat": qstat, "qdel": qdel}[command](kind, *arguments))
