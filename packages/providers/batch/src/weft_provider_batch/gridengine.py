"""Grid Engine: Sun's, Son of, Open, Univa's. Run on the real thing: 8.1.9.

Its manual pages: qsub(1), qstat(1), qacct(1), qdel(1), accounting(5), at http://gridscheduler.sourceforge.net/htmlman.
"""

from __future__ import annotations

import calendar
import math
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar
from urllib.parse import quote, unquote
from xml.etree import ElementTree

from weft_interfaces import Channel, ConfigError, JobId, JobSpec, JobState

from .amounts import count, size
from .array import element_of, is_array
from .host import Answer
from .job import JobFiles, ListedJob
from .provider import BatchProvider
from .scheduler import Refusal

__all__ = ["GridEngineProvider"]

_LABEL = ".weft."

# One command for all: qacct takes one job at a time.
_ACCOUNTING = """
for job; do
  case $job in *.*) qacct -j "${job%.*}" -t "${job#*.}" ;; *) qacct -j "$job" ;; esac
done
echo weft-end
"""
_MOST_TASKS = 10_000  # that are believed of one row

_EXIT_LIMIT = 37
_MEANINGS = {
    "E": "an error when it was to start: `qstat -j` says which, `qmod -cj` lets it try again",
    "h": "held: `qrls` lets it go",
}


class GridEngineProvider(BatchProvider):
    """Blocks that are jobs of Grid Engine.

    queue, project: as the options ``-q`` and ``-P`` of ``qsub``.
    parallel_environment: the one that gives a block its slots; blocks of several nodes or cores need it. It
    must give each node the same number of slots: a fixed allocation rule, or round robin.
    cores_per_node, memory_per_node (bytes, or text such as ``"4GB"``): what each node is to give when the
    block's shape does not say. memory_resource: what the site counts memory with, for each slot.
    gpus_per_node: the same for ``gpu_resource``.
    scheduler_options: such as ``"-l h=node7"``; further ones on further lines.

    The others are those of :class:`BatchProvider`. What no queue of the site could ever run is refused.
    """

    system = "Grid Engine"
    directive = "#$"
    job_id_variable = "JOB_ID"
    host_list_variable = "PE_HOSTFILE"
    array_job = "$JOB_ID.$SGE_TASK_ID"
    array_number = "$((SGE_TASK_ID - 1))"
    redirects = True  # its options for that take no blanks
    query_environment: ClassVar[Mapping[str, str]] = {"TZ": "UTC0", "LC_ALL": "C"}
    transient = (
        r"commlib error|unable to (contact|send message|initialize environment)|got send error|timeout"
        r"|would exceed|too many|max_u_jobs|max_jobs"
    )
    refusals = (
        Refusal(r"unknown queue|requested queue", "queue"),
        Refusal(r"parallel environment", "parallel_environment"),
        Refusal(r"project", "project"),
        Refusal(r"unknown resource|invalid option|unknown option", "scheduler_options"),
        Refusal(r"no suitable queues", "walltime, nodes, cores, memory, queue"),
        Refusal(r"job (was )?rejected|denied", ""),
    )

    def __init__(
        self,
        *,
        queue: str = "",
        project: str = "",
        parallel_environment: str = "",
        cores_per_node: int | None = None,
        memory_per_node: int | str | None = None,
        memory_resource: str = "h_vmem",
        gpus_per_node: int | None = None,
        gpu_resource: str = "gpu",
        scheduler_options: str = "",
        worker_init: str = "",
        channel: Channel | None = None,
        command_timeout: float | str = 30.0,
        poll_interval: float | str = 10.0,
        arrays: bool = False,
    ) -> None:
        words = {
            "queue": queue,
            "project": project,
            "parallel_environment": parallel_environment,
            "memory_resource": memory_resource,
            "gpu_resource": gpu_resource,
        }
        for option, value in words.items():
            if not re.fullmatch(r"[^\s'\"\\=]*", value):
                raise ConfigError(f"{option} must be a word that Grid Engine knows, not {value!r}", option)
        self._words = words
        self._cores = count("cores_per_node", cores_per_node)
        self._gpus = count("gpus_per_node", gpus_per_node)
        self._memory = size("memory_per_node", memory_per_node)
        super().__init__(
            worker_init=worker_init,
            scheduler_options=scheduler_options,
            channel=channel,
            command_timeout=command_timeout,
            poll_interval=poll_interval,
            arrays=arrays,
        )

    # -- submitting -----------------------------------------------------------------------------------------

    def directives(self, spec: JobSpec, files: JobFiles) -> Sequence[Sequence[str]]:
        lines = [["-S", "/bin/bash"], ["-N", _job_name(spec)], ["-o", "/dev/null"], ["-e", "/dev/null"]]
        lines += [["-w", "e"]]
        for option, word in (("-q", "queue"), ("-P", "project")):
            if self._words[word]:
                lines.append([option, self._words[word]])
        cores = (self._cores if spec.shape.cpus is None else spec.shape.cpus) or 1
        environment = self._words["parallel_environment"]
        if environment:
            lines.append(["-pe", environment, str(spec.shape.nodes * cores)])
        elif spec.shape.nodes * cores > 1:
            raise ConfigError(
                f"a block of {spec.shape.nodes} nodes with {cores} cores needs `parallel_environment`, "
                "the name of one of the site's: `qconf -spl` lists them",
                "parallel_environment",
            )
        resources = dict(self._resources(spec, cores))
        if resources:
            lines.append(["-l", ",".join(f"{name}={value}" for name, value in resources.items())])
        return lines

    def _resources(self, spec: JobSpec, cores: int) -> Iterator[tuple[str, str]]:
        shape = spec.shape
        if shape.walltime is not None:
            yield "h_rt", str(math.ceil(shape.walltime))
        memory = self._memory if shape.memory is None else shape.memory
        if memory is not None:
            yield self._words["memory_resource"], f"{math.ceil(memory / cores / 2**20)}M"
        gpus = self._gpus if shape.gpus is None else shape.gpus
        if gpus:
            yield self._words["gpu_resource"], str(gpus)

    def quote(self, argument: str) -> str:
        return argument  # words without blanks, all of them

    def submit_command(self, spec: JobSpec, files: JobFiles) -> Sequence[str]:
        return ["qsub", "-terse", files.script]

    def parse_submit(self, output: str) -> JobId | None:
        found = re.findall(r"^\s*(\d+)(?:\.\d+-\d+:\d+)?\s*$", output, re.MULTILINE)
        return JobId(found[-1]) if found else None

    def array_directive(self, count: int) -> str:
        return f"-t 1-{count}"

    def array_elements(self, array: JobId, count: int) -> Sequence[JobId]:
        return [JobId(f"{array}.{task}") for task in range(1, count + 1)]

    # -- asking ---------------------------------------------------------------------------------------------

    def queue_command(self, ids: Sequence[JobId]) -> Sequence[str]:
        # The jobs of this user; with what they asked for, and a row for each of a parallel job's slots.
        return ["qstat", "-xml", "-r", "-g", "t"]

    def parse_queue(self, answer: Answer) -> Sequence[ListedJob]:
        found = re.search(r"<job_info\b.*</job_info>", answer.stdout, re.DOTALL)
        if answer.exit_status or found is None:
            raise ValueError("qstat's answer is no list of jobs")
        try:
            root = ElementTree.fromstring(found[0])
        except ElementTree.ParseError as error:
            raise ValueError(f"qstat's answer is not XML: {error}") from None
        rows: dict[tuple[str, int], list[ElementTree.Element]] = {}
        for row in root.iter("job_list"):
            for task in _tasks(row):
                rows.setdefault((_text(row, "JB_job_number"), task), []).append(row)
        return [_listed(number, task, these) for (number, task), these in rows.items() if number.isdecimal()]

    def accounting_command(self, ids: Sequence[JobId]) -> Sequence[str] | None:
        return ["sh", "-c", _ACCOUNTING, "sh", *ids]

    def parse_accounting(self, answer: Answer) -> Sequence[ListedJob] | None:
        said = f"{answer.stdout}\n{answer.stderr}"
        if re.search(r"qacct: (command )?not found|accounting file|no jobs running since startup", said):
            return None
        if "weft-end" not in answer.stdout.splitlines():
            raise ValueError("qacct's answer is cut short")
        records = [dict(_fields(block)) for block in re.split(r"^=+\s*$", answer.stdout, flags=re.MULTILINE)]
        return [_accounted(record) for record in records if record.get("jobnumber", "").isdecimal()]

    def cancel_command(self, ids: Sequence[JobId]) -> Sequence[str]:
        return ["qdel", *ids]

    def cancelled(self, answer: Answer) -> bool:
        said = f"{answer.stdout}\n{answer.stderr}"
        done = answer.exit_status == 0 or re.search(r"does not exist|has (deleted|registered)|already", said)
        return bool(done) and not re.search(self.transient, said)


def _job_name(spec: JobSpec) -> str:
    """For people, with the tag and the id behind it: there is no other place for them that a list shows."""
    return f"{_word(spec.name) or 'weft'}{_LABEL}{_word(spec.tag)}.{_word(spec.id)}"


def _word(text: str) -> str:
    """Without dots and what job names must not hold; a digit must not begin them."""
    return re.sub(r"[.~]|^\d", lambda found: f"%{ord(found[0]):02X}", quote(text, safe=""))


def _label_of(row: ElementTree.Element) -> tuple[str, str, str]:
    """A job's name, tag and id as they were given."""
    name, _, label = (_text(row, "full_job_name") or _text(row, "JB_name")).partition(_LABEL)
    tag, _, spec_id = label.partition(".")
    return unquote(name), unquote(tag), unquote(spec_id)


def _tasks(row: ElementTree.Element) -> Iterator[int]:
    """The numbers of an array's elements that a row is about, as in ``1,3-5:1``; 0 if it is none of ours."""
    if not is_array(_label_of(row)[2]):
        yield 0
        return
    for part in _text(row, "tasks").split(","):
        # On other hosts of a parallel job there is more behind it.
        found = re.match(r"(\d+)(?:-(\d+))?(?::(\d+))?", part.strip())
        if found is not None:
            first, last, step = int(found[1]), int(found[2] or found[1]), int(found[3] or 1)
            yield from range(first, min(last, first + _MOST_TASKS) + 1, max(step, 1))


def _listed(number: str, task: int, rows: Sequence[ElementTree.Element]) -> ListedJob:
    first = rows[0]
    code = _text(first, "state")
    name, tag, spec_id = _label_of(first)
    if task:
        spec_id = element_of(spec_id, task - 1)
    started = _seconds(_text(first, "JAT_start_time"))
    limits = [row.text for row in first.iter("hard_request") if row.get("name") == "h_rt"]
    walltime = float(limits[0]) if limits and limits[0] and limits[0].isdecimal() else None
    masters = sorted(rows, key=lambda row: _text(row, "master") != "MASTER")
    hosts = (_text(row, "queue_name").partition("@")[2] for row in masters)
    state = _state(code)
    return ListedJob(
        id=JobId(f"{number}.{task}" if task else number),
        state=state,
        reason="" if state in (JobState.PENDING, JobState.RUNNING) and code in ("qw", "r") else _words(code),
        started_at=started,
        ends_at=None if started is None or walltime is None else started + walltime,
        hosts=tuple(dict.fromkeys(host for host in hosts if host)),
        name=name,
        tag=tag,
        spec_id=spec_id,
        # Only a person takes it out of that state.
        stuck="E" in code and "q" in code,
    )


def _state(code: str) -> JobState:
    """``qw``, ``hqw``, ``Eqw``, ``t``, ``r``, ``Rr``, ``s``, ``S``, ``T``, ``dr`` and other combinations."""
    if "h" in code or "E" in code:
        return JobState.HELD
    if "q" in code:
        return JobState.PENDING
    if re.search("[sSTN]", code):
        return JobState.HELD
    return JobState.RUNNING if re.search("[rt]", code) else JobState.UNKNOWN


def _words(code: str) -> str:
    meanings = [meaning for letter, meaning in _MEANINGS.items() if letter in code]
    return f"{code} ({'; '.join(meanings)})" if meanings else code


def _accounted(record: Mapping[str, str]) -> ListedJob:
    failed, _, words = record.get("failed", "0").partition(":")
    number = int(failed) if failed.strip().isdecimal() else 0
    code = record.get("exit_status", "")
    exit_code = int(code.split()[0]) if code[:1].isdecimal() else None
    deleted_by = record.get("deleted_by", "NONE")
    if number == _EXIT_LIMIT:
        state = JobState.TIMEOUT
    elif deleted_by not in ("NONE", ""):
        state, words = JobState.CANCELLED, f"deleted by {deleted_by}"
    else:
        state = JobState.FAILED if number or exit_code else JobState.COMPLETED
    task = record.get("taskid", "undefined")
    return ListedJob(
        id=JobId(f"{record['jobnumber']}.{task}" if task.isdecimal() else record["jobnumber"]),
        state=state,
        reason=f"failed {number}: {words.strip()}" if number else words.strip(),
        exit_code=exit_code,
        started_at=_long_seconds(record.get("start_time", "")),
        ends_at=_long_seconds(record.get("end_time", "")),
        hosts=(record["hostname"],) if record.get("hostname") else (),
    )


def _fields(block: str) -> Iterator[tuple[str, str]]:
    for line in block.splitlines():
        key, _, value = line.partition(" ")
        yield key, value.strip()


def _text(row: ElementTree.Element, name: str) -> str:
    return (row.findtext(name) or "").strip()


def _seconds(text: str) -> float | None:
    try:
        return float(calendar.timegm(time.strptime(text[:19], "%Y-%m-%dT%H:%M:%S")))
    except ValueError:
        return None


def _long_seconds(text: str) -> float | None:
    """``Wed Nov 25 21:43:23 2026``"""
    try:
        return float(calendar.timegm(time.strptime(text, "%a %b %d %H:%M:%S %Y")))
    except ValueError:
        return None
