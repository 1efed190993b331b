"""LSF, as of 10.1 (``bjobs -json``). Written to the manual, not run on the real thing.

Its manual: https://www.ibm.com/docs/en/spectrum-lsf/10.1.0, bsub, bjobs -o and -json, bhist, bkill, and
https://www.ibm.com/docs/SSWRJV_10.1.0/lsf_admin/termination_reasons_lsf.html.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar
from urllib.parse import quote, unquote

from weft_interfaces import Channel, ConfigError, JobId, JobSpec, JobState

from .amounts import count, size
from .host import Answer
from .job import JobFiles, ListedJob, label, read_label
from .provider import BatchProvider
from .qstat import clock_seconds
from .scheduler import Refusal

__all__ = ["LSFProvider"]

_FIELDS = (
    "jobid stat exit_code exit_reason run_time runtimelimit exec_host pend_reason job_name job_description"
)
_NO_JOBS = re.compile(r"(?i)no (unfinished |matching )?job found|job <[^>]*> is not found")

_STATES = {
    "DONE": JobState.COMPLETED,
    "EXIT": JobState.FAILED,
    "FWD_PEND": JobState.PENDING,
    "PEND": JobState.PENDING,
    "PROV": JobState.PENDING,
    "PSUSP": JobState.HELD,
    "RUN": JobState.RUNNING,
    "SSUSP": JobState.HELD,
    "UNKWN": JobState.UNKNOWN,
    "USUSP": JobState.HELD,
    "WAIT": JobState.PENDING,
    "ZOMBI": JobState.UNKNOWN,
}
_WORDS = {
    "PROV": "its node is being prepared",
    "PSUSP": "held: `bresume` lets it go",
    "SSUSP": "suspended by LSF",
    "UNKWN": "its node cannot be reached",
    "USUSP": "suspended: `bresume` lets it go on",
    "ZOMBI": "it was killed while its node could not be reached",
}
_ENDS = {
    "TERM_ADMIN": JobState.CANCELLED,
    "TERM_BUCKET_KILL": JobState.CANCELLED,
    "TERM_DEADLINE": JobState.TIMEOUT,
    "TERM_FORCE_ADMIN": JobState.CANCELLED,
    "TERM_FORCE_OWNER": JobState.CANCELLED,
    "TERM_OWNER": JobState.CANCELLED,
    "TERM_REMOVE_HUNG_JOB": JobState.CANCELLED,
    "TERM_RUNLIMIT": JobState.TIMEOUT,
    "TERM_WINDOW": JobState.TIMEOUT,
}
# What a job's exit code says where LSF gives no reason: bkill interrupts it (2), and the end of its run
# limit is signalled (SIGUSR2, 12).
_INTERRUPTED, _RUN_LIMIT = 130, 140


class LSFProvider(BatchProvider):
    """Blocks that are jobs of LSF.

    queue, project: as the options ``-q`` and ``-P`` of ``bsub``.
    cores_per_node, memory_per_node (bytes, or text such as ``"4GB"``), gpus_per_node: what each node is to
    give when the block's shape does not say. exclusive: whether nobody else is to use its nodes (``-x``).
    request_by_nodes: whether the site counts whole nodes (``-nnodes``, as on machines with CSM), not slots.
    scheduler_options: such as ``"-alloc_flags smt4"``; further ones on further lines.

    The others are those of :class:`BatchProvider`. Walltimes are whole minutes.
    """

    system = "LSF"
    directive = "#BSUB"
    job_id_variable = "LSB_JOBID"
    redirects = True  # else it mails, and puts a report into the output
    script_on_stdin = True  # where its options are read, whatever the site has set
    query_environment: ClassVar[Mapping[str, str]] = {"LC_ALL": "C"}
    transient = (
        r"cannot connect|please wait|is down|batch daemon|daemon not responding|timed? ?out|try (again|later)"
        r"|in a lsf library call|communication|threshold (is )?reached|limit.{0,20} reached|retrying"
        r"|connection refused|system call failed|host is not used by"
    )
    refusals = (
        Refusal(r"no such queue|cannot use the queue|queue.* (closed|inactive)|-q ", "queue"),
        Refusal(r"run ?limit|run time limit|-W ", "walltime"),
        Refusal(r"project|account|allocation", "project"),
        Refusal(r"processors|slots|PROCLIMIT|TASKLIMIT|too many|-nnodes|span\[", "nodes, cores_per_node"),
        Refusal(r"memlimit|rusage|memory", "memory_per_node"),
        Refusal(r"gpu", "gpus_per_node"),
        Refusal(r"resource requirement|illegal option|bad (argument|option)|-R ", "scheduler_options"),
        Refusal(r"job not submitted|request aborted", ""),
    )

    def __init__(
        self,
        *,
        queue: str = "",
        project: str = "",
        cores_per_node: int | None = None,
        memory_per_node: int | str | None = None,
        gpus_per_node: int | None = None,
        exclusive: bool = False,
        request_by_nodes: bool = False,
        scheduler_options: str = "",
        worker_init: str = "",
        channel: Channel | None = None,
        command_timeout: float | str = 30.0,
        poll_interval: float | str = 10.0,
    ) -> None:
        self._words = {"queue": queue, "project": project}
        for option, value in self._words.items():
            if not re.fullmatch(r"[^\s'\"\\`$]*", value):
                raise ConfigError(f"{option} must be a word that LSF knows, not {value!r}", option)
        self._cores = count("cores_per_node", cores_per_node)
        self._gpus = count("gpus_per_node", gpus_per_node)
        self._memory = size("memory_per_node", memory_per_node)
        self._exclusive, self._by_nodes = exclusive, request_by_nodes
        super().__init__(
            worker_init=worker_init,
            scheduler_options=scheduler_options,
            channel=channel,
            command_timeout=command_timeout,
            poll_interval=poll_interval,
        )

    # -- submitting -----------------------------------------------------------------------------------------

    def directives(self, spec: JobSpec, files: JobFiles) -> Sequence[Sequence[str]]:
        name = re.sub(r"[^A-Za-z0-9_.-]", "_", spec.name) or "weft"
        about = f"{label(spec)} {quote(spec.name, safe='')}"
        lines = [["-J", name], ["-Jd", f'"{about}"'], ["-o", "/dev/null"], ["-e", "/dev/null"]]
        for option, word in (("-q", "queue"), ("-P", "project")):
            if self._words[word]:
                lines.append([option, self._words[word]])
        lines += self._resources(spec)
        if self._exclusive:
            lines.append(["-x"])
        if spec.shape.walltime is not None:
            minutes = max(1, math.ceil(spec.shape.walltime / 60))
            lines.append(["-W", f"{minutes // 60}:{minutes % 60:02}"])
        return lines

    def _resources(self, spec: JobSpec) -> Iterator[list[str]]:
        shape = spec.shape
        cores = (self._cores if shape.cpus is None else shape.cpus) or 1
        memory = self._memory if shape.memory is None else shape.memory
        gpus = self._gpus if shape.gpus is None else shape.gpus
        if self._by_nodes:
            yield ["-nnodes", str(shape.nodes)]
        else:
            yield ["-n", str(shape.nodes * cores)]
            yield ["-R", f'"span[ptile={cores}]"']
        if memory is not None:
            yield ["-R", f'"rusage[mem={math.ceil(memory / 2**20)}MB/host]"']
        if gpus:
            yield ["-gpu", f'"num={gpus}"']

    def quote(self, argument: str) -> str:
        return argument  # words without quotes and backslashes, or in quotes

    def submit_command(self, spec: JobSpec, files: JobFiles) -> Sequence[str]:
        return ["bsub"]

    def parse_submit(self, output: str) -> JobId | None:
        found = re.findall(r"Job <(\d+)> is submitted to ", output)
        return JobId(found[-1]) if found else None

    # -- asking ---------------------------------------------------------------------------------------------

    def queue_command(self, ids: Sequence[JobId]) -> Sequence[str]:
        # All of this user's, with those that have ended lately.
        return ["bjobs", "-a", "-o", _FIELDS, "-json"]

    def parse_queue(self, answer: Answer) -> Sequence[ListedJob]:
        said = f"{answer.stdout}\n{answer.stderr}"
        begin, end = re.search(r"^\s*\{", answer.stdout, re.MULTILINE), answer.stdout.rfind("}")
        if begin is None or end < 0:
            if answer.exit_status in (0, 255) and _NO_JOBS.search(said):
                return []
            raise ValueError("bjobs failed")
        if answer.exit_status not in (0, 255):
            raise ValueError("bjobs failed")
        try:
            document = json.loads(answer.stdout[begin.start() : end + 1], strict=False)
        except (ValueError, RecursionError):
            raise ValueError("bjobs' answer is not JSON") from None
        records = document.get("RECORDS") if isinstance(document, dict) else None
        if not isinstance(records, list) or str(document.get("JOBS")) != str(len(records)):
            raise ValueError("bjobs' answer does not have all of its records")
        now = time.time() + answer.skew
        rows = [row for row in records if isinstance(row, dict)]
        return [_listed(row, now) for row in rows if _field(row, "JOBID").isdecimal()]

    def accounting_command(self, ids: Sequence[JobId]) -> Sequence[str] | None:
        return ["bhist", "-l", *(job_id for job_id in ids if job_id.isdecimal())]

    def parse_accounting(self, answer: Answer) -> Sequence[ListedJob] | None:
        said = f"{answer.stdout}\n{answer.stderr}"
        if not re.search(r"^Job <\d+>", answer.stdout, re.MULTILINE) and not _NO_JOBS.search(said):
            raise ValueError("bhist failed")
        # Long lines are folded, with blanks before their rest.
        text = re.sub(r"\n {21}", "", answer.stdout)
        blocks = re.split(r"^Job <(\d+)>", text, flags=re.MULTILINE)
        jobs = (_past(JobId(number), block) for number, block in zip(blocks[1::2], blocks[2::2], strict=True))
        return [job for job in jobs if job is not None]

    def cancel_command(self, ids: Sequence[JobId]) -> Sequence[str]:
        return ["bkill", *ids]

    def cancelled(self, answer: Answer) -> bool:
        said = [line for line in f"{answer.stdout}\n{answer.stderr}".splitlines() if line.startswith("Job <")]
        fine = re.compile(r"(?i)is being (terminated|signaled)|already finished|no matching job|not found")
        return answer.exit_status == 0 or (bool(said) and all(fine.search(line) for line in said))


def _field(row: Mapping[str, Any], name: str) -> str:
    value = row.get(name)
    text = value.strip() if isinstance(value, str) else "" if value is None else str(value)
    return "" if text == "-" else text


def _listed(row: Mapping[str, Any], now: float) -> ListedJob:
    word = _field(row, "STAT")
    state = _STATES.get(word, JobState.UNKNOWN)
    code = int(text) if (text := _field(row, "EXIT_CODE")).isdecimal() else None
    reason = _field(row, "EXIT_REASON")
    if state is JobState.FAILED:
        state, reason = _end(code, reason)
    elif state is JobState.COMPLETED:
        code = 0
    else:
        said = [f"{word} ({_WORDS[word]})" if word in _WORDS else ""]
        said.append("" if state is JobState.RUNNING else " ".join(_field(row, "PEND_REASON").split()))
        reason, code = "; ".join(part for part in said if part), None
    ran = _duration(_field(row, "RUN_TIME"))
    limit = _limit(_field(row, "RUNTIMELIMIT"))
    running = state is JobState.RUNNING and ran is not None
    # Its times are whole minutes without a year; for how long it runs is known to the second.
    started = now - ran if running and ran is not None else None
    about, _, name = _field(row, "JOB_DESCRIPTION").partition(" ")
    tag, spec_id = read_label(about)
    return ListedJob(
        id=JobId(_field(row, "JOBID")),
        state=state,
        reason=reason,
        exit_code=code,
        started_at=started,
        ends_at=None if started is None or limit is None else started + limit,
        hosts=_hosts(_field(row, "EXEC_HOST")),
        name=unquote(name.strip()) if spec_id else _field(row, "JOB_NAME"),
        tag=tag,
        spec_id=spec_id,
    )


def _end(code: int | None, reason: str) -> tuple[JobState, str]:
    found = re.search(r"TERM_\w+", reason)
    state = _ENDS.get(found[0], JobState.FAILED) if found else JobState.FAILED
    if found is None or found[0] == "TERM_UNKNOWN":
        if code == _RUN_LIMIT:
            return JobState.TIMEOUT, reason or f"exit code {code}: its run limit was reached"
        if code == _INTERRUPTED:
            return JobState.CANCELLED, reason or f"exit code {code}: interrupted, as by bkill"
    return state, reason


def _past(job_id: JobId, block: str) -> ListedJob | None:
    """A job in the answer of bhist, if it has ended; it may have been run again."""
    ends = list(re.finditer(r"Done successfully|Exited with exit code (\d+)|Exited by signal (\d+)", block))
    if not ends or re.search(r"Starting \(Pid|Started |Dispatched ", block[ends[-1].end() :]):
        return None
    if ends[-1][0] == "Done successfully":
        return ListedJob(id=job_id, state=JobState.COMPLETED, exit_code=0)
    code = int(ends[-1][1]) if ends[-1][1] else 128 + int(ends[-1][2])
    found = re.search(r"TERM_\w+:[^.;\n]*", block[ends[-1].start() :])
    state, reason = _end(code, found[0] if found else "")
    return ListedJob(id=job_id, state=state, reason=reason, exit_code=code)


def _hosts(text: str) -> tuple[str, ...]:
    """The hosts in ``4*node1:4*node2``, each once."""
    names = (re.sub(r"^\d+\*", "", part.strip()) for part in text.split(":"))
    return tuple(dict.fromkeys(name for name in names if name))


def _duration(text: str) -> float | None:
    """Of ``16038 second(s)`` or ``04:27:18``."""
    return clock_seconds(re.sub(r"\s*second\(s\)$", "", text))


def _limit(text: str) -> float | None:
    """Of ``1440.0``, ``3.0/hostA``: minutes; or ``24:00:00``."""
    text = text.partition("/")[0].strip()
    if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", text):
        return float(text) * 60
    return clock_seconds(text)
