"""Slurm, as of 20.02 (``squeue --me``). Run on the real thing: 22.05.

Its manual: https://slurm.schedmd.com/sbatch.html, squeue.html, sacct.html, job_reason_codes.html.
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import ClassVar

from weft_interfaces import Channel, ConfigError, JobId, JobSpec, JobState

from .amounts import count, size
from .array import element_of, is_array
from .host import Answer
from .hostlist import expand_hosts
from .job import JobFiles, ListedJob, label, read_label
from .provider import BatchProvider
from .scheduler import Refusal

__all__ = ["SlurmProvider"]

_MARK = "weft"
# Job, state, reason, start, end, nodes, comment, name: names may hold anything, so they come last.
_QUEUE_FORMAT = f"{_MARK}|%i|%T|%r|%S|%e|%N|%k|%j"
_QUEUE_FIELDS = 8
_JOB = r"\d+(?:_\d+)?"  # an element of an array has its number
_ACCOUNT_FIELDS = ("JobID", "State", "ExitCode", "Start", "End", "NodeList")

_STATES = {
    "BOOT_FAIL": JobState.FAILED,
    "CANCELLED": JobState.CANCELLED,
    "COMPLETED": JobState.COMPLETED,
    "COMPLETING": JobState.RUNNING,
    "CONFIGURING": JobState.PENDING,
    "DEADLINE": JobState.TIMEOUT,
    "FAILED": JobState.FAILED,
    "LAUNCH_FAILED": JobState.FAILED,
    "NODE_FAIL": JobState.FAILED,
    "OUT_OF_MEMORY": JobState.FAILED,
    "PENDING": JobState.PENDING,
    "POWER_UP_NODE": JobState.PENDING,
    "PREEMPTED": JobState.FAILED,
    "RECONFIG_FAIL": JobState.FAILED,
    "REQUEUED": JobState.PENDING,
    "REQUEUE_FED": JobState.PENDING,
    "REQUEUE_HOLD": JobState.HELD,
    "RESIZING": JobState.RUNNING,
    "RESV_DEL_HOLD": JobState.HELD,
    "REVOKED": JobState.CANCELLED,
    "RUNNING": JobState.RUNNING,
    "SIGNALING": JobState.RUNNING,
    "SPECIAL_EXIT": JobState.HELD,
    "STAGE_OUT": JobState.RUNNING,
    "STOPPED": JobState.HELD,
    "SUSPENDED": JobState.HELD,
    "TIMEOUT": JobState.TIMEOUT,
}
# States that say no more than ours do.
_PLAIN = {"COMPLETED", "CONFIGURING", "FAILED", "PENDING", "RUNNING", "CANCELLED", "TIMEOUT"}
_HELD = re.compile(r"(?i)job ?held|requeued (in )?held|JobHoldMaxRequeue|ReqNodeNotAvail.*held")

# Reasons to wait that no waiting ends, or that users ask about: what they mean.
_MEANINGS = {
    "AssocGrpNodeLimit": "the account has all the nodes it may have",
    "AssocMaxJobsLimit": "the account has all the jobs it may have",
    "AssocMaxNodePerJobLimit": "the account may not have so many nodes in one job",
    "AssocMaxWallDurationPerJobLimit": "the account may not have jobs with such a walltime",
    "BadConstraints": "no node has what the job asks for",
    "InvalidAccount": "the account cannot be used",
    "InvalidQOS": "the qos cannot be used",
    "JobHeldAdmin": "held by an administrator",
    "JobHeldUser": "held by its owner: `scontrol release` lets it go",
    "JobLaunchFailure": "the node could not start the script: is the job's directory there, and writable?",
    "NodeDown": "a node of the job is down",
    "OutOfMemory": "the job used more memory than it has asked for",
    "PartitionConfig": "the partition does not allow what the job asks for",
    "PartitionDown": "the partition is down",
    "PartitionInactive": "the partition starts no jobs",
    "PartitionNodeLimit": "the job asks for more nodes than the partition allows, or has up",
    "PartitionTimeLimit": "the job asks for more walltime than the partition allows",
    "QOSMaxJobsPerUserLimit": "the qos allows this user no more jobs",
    "QOSMaxWallDurationPerJobLimit": "the qos does not allow such a walltime",
    "RaisedSignal:53(Real-time_signal_19)": "the node could not open the job's output files: is their "
    "directory there, and writable?",
    "ReqNodeNotAvail": "a node that the job asks for is down, drained or reserved",
    "TimeLimit": "its walltime was over",
}

# What the job asks for is more than one job may have, now and later. What may pass is not among them: limits
# on all jobs together, and nodes that are down.
_NEVER = frozenset(
    {
        "AccountNotAllowed",
        "AssocMaxCpuPerJobLimit",
        "AssocMaxNodePerJobLimit",
        "AssocMaxWallDurationPerJobLimit",
        "InvalidAccount",
        "InvalidQOS",
        "PartitionTimeLimit",
        "QOSMaxCpuPerJobLimit",
        "QOSMaxNodePerJobLimit",
        "QOSMaxWallDurationPerJobLimit",
        "QOSNotAllowed",
    }
)


class SlurmProvider(BatchProvider):
    """Blocks that are jobs of Slurm.

    partition, account, qos, constraint, reservation, clusters: as the options of ``sbatch`` with these names.
    gpus_per_node, cores_per_node, memory_per_node (bytes, or text such as ``"4GB"``): what each node is to
    give when the block's shape does not say. exclusive: whether blocks have their nodes for themselves; None:
    unless they ask for a number of cores.
    scheduler_options: such as ``"--mail-type=FAIL"``; further ones on further lines.

    The others are those of :class:`BatchProvider`.
    """

    system = "Slurm"
    directive = "#SBATCH"
    job_id_variable = "SLURM_JOB_ID"
    job_variables = "SLURM_"
    array_job = "${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}"
    array_number = "$SLURM_ARRAY_TASK_ID"
    # Times as seconds since the epoch, whatever the time zone there.
    query_environment: ClassVar[Mapping[str, str]] = {"SLURM_TIME_FORMAT": "%s"}
    transient = (
        r"unable to contact slurm controller|socket timed out|connection (refused|reset|timed out)"
        r"|temporarily|zero bytes were transmitted|try again|MaxSubmit|protocol authentication error"
        r"|i/o error|unexpected message|munge|transport endpoint|can't be reached now"
        r"|required partition not available"
    )
    refusals = (
        Refusal(r"invalid partition|user's group not permitted to use this partition", "partition"),
        Refusal(r"account or account/partition|invalid account", "account"),
        Refusal(r"invalid qos|qos specification", "qos"),
        Refusal(r"invalid feature", "constraint"),
        Refusal(r"reservation", "reservation"),
        Refusal(r"--cluster", "clusters"),
        Refusal(r"time limit|--time\b|MaxWall", "walltime"),
        Refusal(r"memory specification|--mem\b", "memory_per_node"),
        Refusal(r"\bgres\b|generic resource|--gpus", "gpus_per_node"),
        Refusal(r"node count specification|MaxNode|too many nodes", "nodes"),
        Refusal(r"more processors requested|cpu count", "cores_per_node"),
        Refusal(r"requested node configuration is not available", "nodes, cores, memory, gpus, constraint"),
        Refusal(r"unrecognized option|invalid option|ambiguous", "scheduler_options"),
        Refusal(r"batch job submission failed|sbatch: (error|fatal)", ""),
    )

    def __init__(
        self,
        *,
        partition: str = "",
        account: str = "",
        qos: str = "",
        constraint: str = "",
        reservation: str = "",
        clusters: str = "",
        gpus_per_node: int | None = None,
        memory_per_node: int | str | None = None,
        cores_per_node: int | None = None,
        exclusive: bool | None = None,
        scheduler_options: str = "",
        worker_init: str = "",
        channel: Channel | None = None,
        command_timeout: float | str = 30.0,
        poll_interval: float | str = 10.0,
        arrays: bool = False,
    ) -> None:
        self._where = {
            "partition": partition,
            "account": account,
            "qos": qos,
            "constraint": constraint,
            "reservation": reservation,
            "clusters": clusters,
        }
        for option, value in self._where.items():
            if not value.isprintable():
                raise ConfigError(f"{option} must be a word that Slurm knows, not {value!r}", option)
        self._clusters = [f"--clusters={clusters}"] if clusters else []
        self._gpus = count("gpus_per_node", gpus_per_node)
        self._cores = count("cores_per_node", cores_per_node)
        self._memory = size("memory_per_node", memory_per_node)
        self._exclusive = exclusive
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
        options = {
            "job-name": "".join(char if char.isprintable() else " " for char in spec.name) or "weft",
            "comment": label(spec),
            "output": _pattern(files.stdout),
            "error": _pattern(files.stderr),
            "open-mode": "append",
            **self._where,
            **self._resources(spec),
        }
        lines = [[f"--{option}={value}"] for option, value in options.items() if value != ""]
        cores = self._cores if spec.shape.cpus is None else spec.shape.cpus
        if self._exclusive or (self._exclusive is None and cores is None):
            lines.append(["--exclusive"])
        return lines

    def _resources(self, spec: JobSpec) -> dict[str, str]:
        shape = spec.shape
        cores = self._cores if shape.cpus is None else shape.cpus
        memory = self._memory if shape.memory is None else shape.memory
        gpus = self._gpus if shape.gpus is None else shape.gpus
        wanted = {"nodes": str(shape.nodes), "ntasks-per-node": "1"}
        if cores is not None:
            wanted["cpus-per-task"] = str(cores)
        if memory is not None:
            wanted["mem"] = f"{math.ceil(memory / 2**20)}M"
        if gpus:
            wanted["gpus-per-node"] = str(gpus)
        if shape.walltime is not None:
            wanted["time"] = _clock(shape.walltime)
        return wanted

    def quote(self, argument: str) -> str:
        # As shells do it, but a backslash works in quotes, too.
        return shlex.quote(argument.replace("\\", "\\\\"))

    def submit_command(self, spec: JobSpec, files: JobFiles) -> Sequence[str]:
        return ["sbatch", "--parsable", files.script]

    def parse_submit(self, output: str) -> JobId | None:
        found = re.findall(r"^\s*(\d+)(?:;([\w.-]+))?\s*$", output, re.MULTILINE)
        if not found:
            return None
        number, cluster = found[-1]
        return JobId(f"{number};{cluster}" if cluster else number)

    def array_directive(self, count: int) -> str:
        return f"--array=0-{count - 1}"

    def array_elements(self, array: JobId, count: int) -> Sequence[JobId]:
        number, semicolon, cluster = array.partition(";")
        return [JobId(f"{number}_{element}{semicolon}{cluster}") for element in range(count)]

    # -- asking ---------------------------------------------------------------------------------------------

    def queue_command(self, ids: Sequence[JobId]) -> Sequence[str]:
        return ["squeue", "--me", "--states=all", "--array", f"--format={_QUEUE_FORMAT}", *self._clusters]

    def parse_queue(self, answer: Answer) -> Sequence[ListedJob]:
        if answer.exit_status:
            raise ValueError("squeue failed")
        jobs, cluster, headed = [], "", False
        for line in answer.stdout.splitlines():
            if line.startswith("CLUSTER: "):
                cluster = f";{line.split()[1]}"
            mark, *fields = line.split("|", _QUEUE_FIELDS)
            if mark == _MARK and len(fields) == _QUEUE_FIELDS:
                if fields[0] == "JOBID":
                    headed = True
                elif re.fullmatch(_JOB, fields[0]):
                    jobs.append(_listed(f"{fields[0]}{cluster}", *fields[1:]))
        if not headed:
            raise ValueError("squeue's answer lacks its heading")
        return jobs

    def accounting_command(self, ids: Sequence[JobId]) -> Sequence[str] | None:
        numbers = ",".join(job_id.partition(";")[0] for job_id in ids)
        fields = ",".join(_ACCOUNT_FIELDS)
        shown = ["--allocations", "--parsable2", f"--format={fields}", f"--jobs={numbers}"]
        return ["sacct", *shown, *self._clusters]

    def parse_accounting(self, answer: Answer) -> Sequence[ListedJob] | None:
        if answer.exit_status:
            if "accounting storage is disabled" in f"{answer.stderr}{answer.stdout}".lower():
                return None
            raise ValueError("sacct failed")
        lines = answer.stdout.splitlines()
        head = "|".join(_ACCOUNT_FIELDS)
        if head not in lines:
            raise ValueError("sacct's answer lacks its heading")
        rows = [line.split("|") for line in lines[lines.index(head) + 1 :]]
        rows = [row for row in rows if len(row) == len(_ACCOUNT_FIELDS)]
        return [_accounted(*row) for row in rows if re.fullmatch(_JOB, row[0])]

    def cancel_command(self, ids: Sequence[JobId]) -> Sequence[str]:
        return ["scancel", *self._clusters, *(job_id.partition(";")[0] for job_id in ids)]

    def cancelled(self, answer: Answer) -> bool:
        errors = [line for line in answer.stderr.splitlines() if "scancel: error" in line]
        known = re.compile(r"(?i)invalid job id|already completing|already completed")
        return answer.exit_status == 0 or (bool(errors) and all(known.search(line) for line in errors))


def _listed(
    job_id: str, state: str, reason: str, start: str, end: str, nodes: str, comment: str, name: str
) -> ListedJob:
    tag, spec_id = read_label(comment)
    if is_array(spec_id):
        spec_id = element_of(spec_id, int(job_id.partition(";")[0].partition("_")[2] or 0))
    meaning = _STATES.get(state, JobState.UNKNOWN)
    if meaning is JobState.PENDING and _HELD.search(reason):
        meaning = JobState.HELD
    running = meaning is not JobState.PENDING
    return ListedJob(
        id=JobId(job_id),
        state=meaning,
        reason=_words(state, reason),
        started_at=_seconds(start) if running else None,
        ends_at=_seconds(end) if running else None,
        hosts=expand_hosts(nodes) if running else (),
        name=name,
        tag=tag,
        spec_id=spec_id,
        stuck=not running and reason in _NEVER,
    )


def _accounted(job_id: str, state: str, code: str, start: str, end: str, nodes: str) -> ListedJob:
    # "CANCELLED by 1000"
    word = state.partition(" ")[0]
    status, _, signal = code.partition(":")
    known = status.isdecimal() and signal == "0"
    return ListedJob(
        id=JobId(job_id),
        state=_STATES.get(word, JobState.UNKNOWN),
        reason=state if word == "CANCELLED" or word not in _PLAIN else "",
        exit_code=int(status) if known and word in ("COMPLETED", "FAILED") else None,
        started_at=_seconds(start),
        ends_at=_seconds(end),
        hosts=expand_hosts(nodes) if nodes != "None assigned" else (),
    )


def _words(state: str, reason: str) -> str:
    """Slurm's own, and what they mean."""
    said = [] if state in _PLAIN else [state]
    said += [reason] if reason not in ("", "None") else []
    # Reasons may go on after a comma or a blank: "ReqNodeNotAvail, UnavailableNodes:n3".
    meaning = _MEANINGS.get(reason) or _MEANINGS.get(re.split(r"[,\s]", reason)[0], "")
    return ": ".join(said) + (f" ({meaning})" if meaning else "")


def _seconds(text: str) -> float | None:
    return float(text) if text.isdecimal() else None


def _clock(seconds: float) -> str:
    minutes, second = divmod(math.ceil(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    return f"{days}-{hour:02}:{minute:02}:{second:02}"


def _pattern(path: str) -> str:
    """A file name in which Slurm replaces nothing."""
    if "\\" in path:
        raise ConfigError(
            f"Slurm takes no file names with a backslash: {path!r}; choose another run directory"
        )
    return path.replace("%", "%%")
