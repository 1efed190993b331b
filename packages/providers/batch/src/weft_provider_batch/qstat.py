"""What ``qstat -f`` of the PBS family answers: as text, or as JSON, which many versions write badly.

Text: OpenPBS, PBS Pro and Torque. An attribute a line, folded at a column; newlines of a value are left as
they are. JSON: PBS Pro since 14.1. Known to be broken are environment variables with quotes, backslashes and
leading zeros (openpbs issues 1255 and 2541, pull request 2049), and several jobs (585, 1033). So what is no
JSON is read line by line, each ``"name":value``, which all versions write.
"""

from __future__ import annotations

import calendar
import json
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

__all__ = ["JOB_ID", "Attributes", "clock_seconds", "exec_hosts", "read_jobs", "read_time", "variable"]

Attributes = Mapping[str, str]

JOB_ID = r"\d+(?:\[\d*\])?(?:\.[\w.-]+)?(?:@[\w.-]+)?"

_TEXT_JOB = re.compile(rf"Job Id: ({JOB_ID})\s*")
_TEXT_ATTRIBUTE = re.compile(r" {4}([A-Za-z][\w.-]*) = ?(.*)")
_FOLDED = re.compile(r"(?:\t| {8})(.*)")

_LINE_JOB = re.compile(rf'\s*"({JOB_ID})"\s*:\s*\{{\s*')
_LINE_GROUP = re.compile(r'\s*"([^"]*)"\s*:\s*\{\s*')
_LINE_VALUE = re.compile(r'\s*"([^"]*)"\s*:\s*(.*?)\s*,?\s*')
_GROUPS = ("Resource_List", "resources_used", "Variable_List", "estimated")
# What is in no group, and so ends one whose end was lost.
_SINGLES = frozenset(
    [
        "Job_Name",
        "Job_Owner",
        "job_state",
        "queue",
        "exec_host",
        "stime",
        "substate",
        "comment",
        "etime",
        "Hold_Types",
        "Exit_status",
        "mtime",
        "ctime",
        "qtime",
        "project",
        "Submit_arguments",
        "run_count",
    ]
)


def read_jobs(text: str) -> Mapping[str, Attributes]:
    """The attributes of each job, by its id; members of groups are called ``Resource_List.walltime``.

    Raises :class:`ValueError` for an answer that is cut short, or in no form that is known. One that lists no
    job is fine. All else that is in it is passed over.
    """
    found = re.search(r"^\s*\{\s*(?:\"|\}|$)", text, re.MULTILINE)
    if found is None:
        return _collect(_text_attributes(text))
    document = text[found.start() :]
    end = document.rfind("}") + 1
    # What comes after it may be said by a login shell, but not be the rest of it.
    if end == 0 or '"' in document[end:]:
        raise ValueError("qstat's answer is cut short")
    try:
        whole = json.loads(document[:end], strict=False)
    except (ValueError, RecursionError):
        jobs = _collect(_line_attributes(document[:end]))
        if not jobs:
            raise ValueError("qstat's answer is not JSON, and no job is found in it") from None
        return jobs
    return _collect(_json_attributes(whole))


def _collect(attributes: Iterable[tuple[str, str, str]]) -> Mapping[str, Attributes]:
    """The first value counts: later ones may be lines of a value."""
    jobs: dict[str, dict[str, str]] = {}
    for job_id, name, value in attributes:
        jobs.setdefault(job_id, {}).setdefault(name, value)
    return jobs


def _text_attributes(text: str) -> Iterator[tuple[str, str, str]]:
    job_id, name, value = "", "", ""
    for line in text.splitlines():
        if folded := _FOLDED.fullmatch(line):
            value += folded[1]
            continue
        head, attribute = _TEXT_JOB.fullmatch(line), _TEXT_ATTRIBUTE.fullmatch(line)
        if (head or attribute) and job_id and name:
            yield job_id, name, value.strip()
        if head:
            job_id, name, value = head[1], "", ""
        elif attribute:
            name, value = attribute[1], attribute[2]
    if job_id and name:
        yield job_id, name, value.strip()


def _json_attributes(whole: Any) -> Iterator[tuple[str, str, str]]:
    if not isinstance(whole, dict):
        raise ValueError("qstat's answer is JSON, but no object")
    jobs = whole.get("Jobs", {})  # without jobs, there may be none
    if not isinstance(jobs, dict):
        raise ValueError("qstat's answer has `Jobs` that are no object")
    for job_id, attributes in jobs.items():
        if not re.fullmatch(JOB_ID, job_id) or not isinstance(attributes, dict):
            continue
        for name, value in attributes.items():
            if isinstance(value, dict):
                yield from ((job_id, f"{name}.{key}", _string(member)) for key, member in value.items())
            else:
                yield job_id, name, _string(value)


def _string(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _line_attributes(document: str) -> Iterator[tuple[str, str, str]]:
    job_id, group = "", ""
    for line in document.splitlines():
        if head := _LINE_JOB.fullmatch(line):
            job_id, group = head[1], ""
        elif head := _LINE_GROUP.fullmatch(line):
            group = head[1] if head[1] in _GROUPS else ""
        elif re.fullmatch(r"\s*\}\s*,?\s*", line):
            group = ""
        elif job_id and (entry := _LINE_VALUE.fullmatch(line)):
            name, value = entry[1], entry[2]
            if name in _SINGLES:
                group = ""
            if len(value) > 1 and value[0] == value[-1] == '"':
                value = value[1:-1]
            yield job_id, f"{group}.{name}" if group else name, value


def variable(job: Attributes, name: str) -> str:
    """A variable that the job was submitted with; its value must have no commas."""
    value = job.get(f"Variable_List.{name}")
    if value is None:
        found = re.search(rf"(?:^|,)\s*{re.escape(name)}=([^,]*)", job.get("Variable_List", ""))
        value = found[1] if found else ""
    return value


def exec_hosts(text: str) -> tuple[str, ...]:
    """The hosts in ``node1/0*4+node2/0*4``, or in ``node1/0+node1/1+node2/0-3``, each once."""
    names = (part.partition("/")[0].strip().strip("()") for part in text.split("+"))
    return tuple(dict.fromkeys(name for name in names if name))


def clock_seconds(text: str) -> float | None:
    """Of ``72:00:00``, ``01:02:03:04``, ``90:00`` or ``3600``."""
    if not re.fullmatch(r"\d{1,9}(:\d{1,9}){0,3}(\.\d{1,9})?", text):
        return None
    seconds = 0.0
    for part, factor in zip(reversed(text.split(":")), (1, 60, 3600, 86400), strict=False):
        seconds += float(part) * factor
    return seconds


def read_time(text: str) -> float | None:
    """Seconds since the epoch of ``Wed Nov 25 21:43:23 2026``, in UTC, or of such a number."""
    if re.fullmatch(r"\d{9,11}", text):
        return float(text)
    try:
        return float(calendar.timegm(time.strptime(text, "%a %b %d %H:%M:%S %Y")))
    except (ValueError, OverflowError):
        return None
