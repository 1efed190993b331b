"""HTCondor, as of 8.8. Written to the manual, not run on the real thing.

Its manual: https://htcondor.readthedocs.io, condor_submit, condor_q, condor_history, condor_rm, and the
attributes of jobs.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote, unquote

from weft_interfaces import Channel, ConfigError, JobId, JobSpec, JobState

from .amounts import count, size
from .host import Answer
from .job import JobFiles, ListedJob, label, read_label
from .provider import BatchProvider
from .scheduler import Refusal

__all__ = ["HTCondorProvider"]

_ATTRIBUTES = (
    "ClusterId,ProcId,JobStatus,HoldReason,HoldReasonCode,RemoveReason,ExitCode,ExitBySignal,ExitSignal,"
    "JobCurrentStartDate,CompletionDate,RemoteHost,LastRemoteHost,WeftLabel,WeftName,WeftWalltime"
)
# No jobs may be no answer at all, so that its end is marked.
_ASK = """
"$@"
weft_status=$?
printf '\\nweft-status %s\\n' "$weft_status"
"""
_STATES = {
    0: JobState.PENDING,
    1: JobState.PENDING,
    2: JobState.RUNNING,
    3: JobState.CANCELLED,
    4: JobState.COMPLETED,
    5: JobState.HELD,
    6: JobState.RUNNING,
    7: JobState.HELD,
}
_REMOVED, _COMPLETED, _HELD, _SUSPENDED = 3, 4, 5, 7
_HOLDS = {
    1: "held by its owner: `condor_release` lets it go",
    3: "held by its own policy",
    6: "its script could not be started on the node",
    7: "its output files cannot be written: is their directory there?",
    12: "its output could not be transferred",
    13: "its input could not be transferred",
    14: "its directory cannot be used on the node",
    16: "its input is being spooled",
    21: "held by the node",
    26: "held by the site's policy",
    34: "it used more memory than it has asked for",
    46: "it ran longer than allowed",
    47: "it ran longer than allowed",
}
# That is how the end of its walltime is told from any other removal.
_OVER = re.compile(r"(?i)attribute PeriodicRemove")


class HTCondorProvider(BatchProvider):
    """Blocks that are jobs of HTCondor: one slot each, for it does not know blocks of several nodes.

    cores_per_node, memory_per_node (bytes, or text such as ``"4GB"``), gpus_per_node: what a slot is to give
    when the block's shape does not say.
    requirements: what a machine must fulfil, such as ``'OpSysAndVer == "AlmaLinux9"'``. project: for the
    accounting of some pools (``ProjectName``). environment: variables for the job.
    transfer_input_files: what it needs where there is no shared file system.
    scheduler_options: lines of its submit description, such as ``'+JobFlavour = "workday"'``.

    The others are those of :class:`BatchProvider`. Each job's directory must be on a file system that the
    machines of the pool share.
    """

    system = "HTCondor"
    directive = "#CONDOR"  # for people to read; the submit description is a file of its own
    job_id_variable = "WEFT_CONDOR_JOB"
    transient = (
        r"can't find address|failed to connect|unable to connect|authenticat|timed? ?out|failed to fetch ads"
        r"|connection|MAX_JOBS|number of (jobs )?submitted jobs would exceed|failed to commit|try again"
    )
    refusals = (
        Refusal(r"requirements", "requirements"),
        Refusal(r"request_memory|RequestMemory", "memory_per_node"),
        Refusal(r"request_cpus|RequestCpus", "cores_per_node"),
        Refusal(r"request_gpus|RequestGpus", "gpus_per_node"),
        Refusal(r"project|accounting", "project"),
        Refusal(r"transfer_input", "transfer_input_files"),
        Refusal(r"parse error|invalid|unknown|not allowed", "scheduler_options"),
        Refusal(r"error", ""),
    )

    def __init__(
        self,
        *,
        cores_per_node: int | None = None,
        memory_per_node: int | str | None = None,
        gpus_per_node: int | None = None,
        requirements: str = "",
        project: str = "",
        environment: Mapping[str, str] | None = None,
        transfer_input_files: Sequence[str] = (),
        scheduler_options: str = "",
        worker_init: str = "",
        channel: Channel | None = None,
        command_timeout: float | str = 30.0,
        poll_interval: float | str = 10.0,
    ) -> None:
        words = {"requirements": requirements, "project": project}
        self._words = {option: _line(option, value) for option, value in words.items()}
        self._transfer = [_line("transfer_input_files", path) for path in transfer_input_files]
        self._environment = dict(environment or {})
        for name, value in self._environment.items():
            if not re.fullmatch(r"[A-Za-z_]\w*", name):
                raise ConfigError(f"environment: {name!r} is no name of a variable", "environment")
            _line("environment", value)
        self._cores = count("cores_per_node", cores_per_node)
        self._gpus = count("gpus_per_node", gpus_per_node)
        self._memory = size("memory_per_node", memory_per_node)
        super().__init__(
            worker_init=worker_init,
            scheduler_options=scheduler_options,
            channel=channel,
            command_timeout=command_timeout,
            poll_interval=poll_interval,
        )

    # -- submitting -----------------------------------------------------------------------------------------

    def directives(self, spec: JobSpec, files: JobFiles) -> Sequence[Sequence[str]]:
        if spec.shape.nodes != 1:
            raise ConfigError(
                f"a block of HTCondor is one slot, so that it cannot have {spec.shape.nodes} nodes: ask for "
                "more blocks of one node",
                "nodes",
            )
        return [[line] for line in self._description(spec, files)]

    def quote(self, argument: str) -> str:
        return argument

    def extra_files(self, spec: JobSpec, files: JobFiles) -> Mapping[str, str]:
        lines = [*self._description(spec, files), *self._options, "queue"]
        return {f"{files.base}.sub": "".join(f"{line}\n" for line in lines)}

    def _description(self, spec: JobSpec, files: JobFiles) -> Iterator[str]:
        shape = spec.shape
        yield "universe = vanilla"
        # A login shell: without it, a job has no PATH to give to others. And the script is not executable.
        yield "executable = /bin/bash"
        yield "transfer_executable = False"
        yield f'arguments = "-l {_quoted(files.script)}"'
        for key, path in (("output", files.stdout), ("error", files.stderr)):
            yield f"{key} = {path.replace('$', '$(DOLLAR)')}"
        yield f"should_transfer_files = {'YES' if self._transfer else 'IF_NEEDED'}"
        yield "when_to_transfer_output = ON_EXIT"
        variables = [f"{name}={_quoted(value)}" for name, value in self._environment.items()]
        yield f'environment = "{" ".join([*variables, f"{self.job_id_variable}=$(ClusterId).$(ProcId)"])}"'
        if self._transfer:
            yield f"transfer_input_files = {', '.join(self._transfer)}"
        cores = self._cores if shape.cpus is None else shape.cpus
        memory = self._memory if shape.memory is None else shape.memory
        gpus = self._gpus if shape.gpus is None else shape.gpus
        if cores is not None:
            yield f"request_cpus = {cores}"
        if memory is not None:
            yield f"request_memory = {math.ceil(memory / 2**20)}"
        if gpus:
            yield f"request_gpus = {gpus}"
        if self._words["requirements"]:
            yield f"requirements = {self._words['requirements']}"
        if self._words["project"]:
            yield f"+ProjectName = {json.dumps(self._words['project'])}"
        yield f'+WeftLabel = "{label(spec)}"'
        yield f'+WeftName = "{quote(spec.name, safe="")}"'
        if shape.walltime is not None:
            seconds = math.ceil(shape.walltime)
            yield f"+WeftWalltime = {seconds}"
            yield f"periodic_remove = JobStatus == 2 && time() - JobCurrentStartDate > {seconds}"

    def submit_command(self, spec: JobSpec, files: JobFiles) -> Sequence[str]:
        return ["condor_submit", f"{files.base}.sub"]

    def parse_submit(self, output: str) -> JobId | None:
        found = re.findall(r"\d+ job\(s\) submitted to cluster (\d+)", output)
        return JobId(f"{found[-1]}.0") if found else None

    # -- asking ---------------------------------------------------------------------------------------------

    def queue_command(self, ids: Sequence[JobId]) -> Sequence[str]:
        asked = ["condor_q", "-json", "-attributes", _ATTRIBUTES, "-constraint", "WeftLabel isnt undefined"]
        return ["sh", "-c", _ASK, "sh", *asked]

    def accounting_command(self, ids: Sequence[JobId]) -> Sequence[str] | None:
        named = [job_id.split(".") for job_id in ids if re.fullmatch(r"\d+\.\d+", job_id)]
        wanted = " || ".join(f"(ClusterId == {cluster} && ProcId == {proc})" for cluster, proc in named)
        # It is read backwards, to where all are found.
        asked = ["condor_history", "-json", "-attributes", _ATTRIBUTES, "-match", str(max(len(named), 1))]
        return ["sh", "-c", _ASK, "sh", *asked, "-constraint", wanted or "false"]

    def parse_queue(self, answer: Answer) -> Sequence[ListedJob]:
        mark = re.search(r"^weft-status (\d+)$", answer.stdout, re.MULTILINE)
        if answer.exit_status or mark is None or mark[1] != "0":
            raise ValueError(f"the command failed{f' with exit status {mark[1]}' if mark else ''}")
        jobs = [_listed(ad) for ad in _ads(answer.stdout[: mark.start()])]
        return [job for job in jobs if job is not None]

    def parse_accounting(self, answer: Answer) -> Sequence[ListedJob] | None:
        if re.search(r"condor_history: (command )?not found", answer.stderr):
            return None
        return self.parse_queue(answer)

    def cancel_command(self, ids: Sequence[JobId]) -> Sequence[str]:
        return ["condor_rm", *ids]

    def cancelled(self, answer: Answer) -> bool:
        said = [line for line in f"{answer.stdout}\n{answer.stderr}".splitlines() if line.strip()]
        fine = re.compile(r"(?i)marked for removal|not found|couldn't find/remove|already|all jobs matching")
        return answer.exit_status == 0 or (bool(said) and all(fine.search(line) for line in said))


def _ads(text: str) -> list[Mapping[str, Any]]:
    """The objects in the lists of an answer: one list for each of the pool's queues that was asked."""
    decoder = json.JSONDecoder(strict=False)
    ads: list[Mapping[str, Any]] = []
    place = re.compile(r"^\s*\[", re.MULTILINE).search(text)
    if place is None:
        if text.strip():
            raise ValueError("the answer is no list of jobs")
        return []
    position = place.start()
    while text[position:].strip():
        try:
            found, position = decoder.raw_decode(
                text, position + len(text[position:]) - len(text[position:].lstrip())
            )
        except (ValueError, RecursionError):
            raise ValueError("the answer is not JSON") from None
        if not isinstance(found, list):
            raise ValueError("the answer is no list of jobs")
        ads += [ad for ad in found if isinstance(ad, dict)]
    return ads


def _number(ad: Mapping[str, Any], name: str) -> int | None:
    value = ad.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**53 else None


def _words(ad: Mapping[str, Any], name: str) -> str:
    value = ad.get(name)
    return value if isinstance(value, str) else ""


def _listed(ad: Mapping[str, Any]) -> ListedJob | None:
    cluster, proc, status = (_number(ad, name) for name in ("ClusterId", "ProcId", "JobStatus"))
    if cluster is None or proc is None:
        return None
    state = _STATES.get(-1 if status is None else status, JobState.UNKNOWN)
    reason, code = "", None
    if status == _HELD:
        meaning = _HOLDS.get(_number(ad, "HoldReasonCode") or 0, "")
        reason = f"{_words(ad, 'HoldReason')}{f' ({meaning})' if meaning else ''}".strip()
    elif status == _SUSPENDED:
        reason = "suspended"
    elif status == _REMOVED:
        reason = _words(ad, "RemoveReason")
        state = JobState.TIMEOUT if _OVER.search(reason) else JobState.CANCELLED
        reason = (
            f"its walltime was over: {reason}" if state is JobState.TIMEOUT else reason or "it was removed"
        )
    elif status == _COMPLETED:
        state, reason, code = _end(ad)
    started, walltime = _number(ad, "JobCurrentStartDate"), _number(ad, "WeftWalltime")
    waiting = state is JobState.PENDING
    host = (_words(ad, "RemoteHost") or _words(ad, "LastRemoteHost")).rpartition("@")[2]
    tag, spec_id = read_label(_words(ad, "WeftLabel"))
    return ListedJob(
        id=JobId(f"{cluster}.{proc}"),
        state=state,
        reason=reason,
        exit_code=code,
        started_at=None if waiting or not started else float(started),
        ends_at=None if waiting or not started or walltime is None else float(started + walltime),
        hosts=(host,) if host and not waiting else (),
        name=unquote(_words(ad, "WeftName")),
        tag=tag,
        spec_id=spec_id,
    )


def _end(ad: Mapping[str, Any]) -> tuple[JobState, str, int | None]:
    signal = _number(ad, "ExitSignal")
    if ad.get("ExitBySignal") is True and signal is not None:
        return JobState.FAILED, f"ended by signal {signal}", 128 + signal
    code = _number(ad, "ExitCode")
    if code is None:
        return JobState.GONE, "it is completed; its exit code is not known", None
    return (JobState.FAILED if code else JobState.COMPLETED), "", code


def _quoted(word: str) -> str:
    """A word of a value that is in double quotes."""
    text = word.replace("$", "$(DOLLAR)").replace("'", "''").replace('"', '""')
    return f"'{text}'" if re.search(r"[\s']", text) or not text else text


def _line(option: str, value: str) -> str:
    if not value.isprintable():
        raise ConfigError(f"{option} must be a single line, not {value!r}", option)
    return value.strip()
