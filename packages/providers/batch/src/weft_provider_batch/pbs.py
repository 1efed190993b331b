"""What PBS Pro, OpenPBS and Torque have in common: ``qsub``, ``qselect``, ``qstat -f``, ``qdel``."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import ClassVar
from urllib.parse import quote, unquote

from weft_interfaces import Channel, ConfigError, JobId, JobSpec, JobState

from .amounts import count, size
from .host import Answer
from .job import JobFiles, ListedJob, label, read_label
from .provider import BatchProvider
from .qstat import JOB_ID, Attributes, clock_seconds, exec_hosts, read_jobs, read_time, variable
from .scheduler import Refusal

__all__ = ["PBSFamilyProvider"]

# In any version: a letter first, and no more than 15 characters. What it was is in a variable.
_NAME_LENGTH = 15

# The user's jobs, and those that are named. Marks what came of it, for an answer may be cut short.
_LISTING = r"""
set -f
weft_said=$(qselect -u "$(id -un)") || exit
weft_mine=$(printf '%s\n' "$weft_said" | grep -E '^[0-9]+(\[[0-9]*\])?(\.[A-Za-z0-9_.@-]+)?$')
if [ -n "$weft_said" ] && [ -z "$weft_mine" ]; then
    printf 'qselect: no list of jobs: %s\n' "$weft_said" >&2
    exit 1
fi
set -- $(printf '%s\n' $weft_mine "$@" | sort -u)
weft_said= weft_status=0
if [ $# -gt 0 ]; then
${ask}
fi
printf '%s\nweft-mine %s\nweft-asked %s\n' "$weft_said" "$(echo $weft_mine)" "$*"
printf 'weft-status %s\n' "$weft_status"
"""

# Exit statuses of qstat: what was asked for is not known (15001 % 256), or has ended (15139 % 256).
_NOT_ALL = (153, 35)
_NO_TROUBLE = re.compile(
    r"(?i)unknown job ?id|has finished|illegally formed job|unknown destination|unknown queue"
)

_STATES = {
    "B": JobState.RUNNING,
    "E": JobState.RUNNING,
    "H": JobState.HELD,
    "Q": JobState.PENDING,
    "R": JobState.RUNNING,
    "S": JobState.HELD,
    "T": JobState.PENDING,
    "U": JobState.HELD,
    "W": JobState.PENDING,
}
_MEANINGS = {
    "M": "moved to another server",
    "S": "suspended",
    "U": "suspended while its node is used by others",
    "W": "waits for the time it was submitted for, or for its files",
}
_HOLDS = {
    "u": "held by its owner: `qrls` lets it go",
    "o": "held by an operator",
    "s": "held by the system, for instance after too many failed attempts to run it",
    "p": "held for a bad password",
    "a": "held with its array",
}
# A system hold after twenty starts that failed: only an operator releases it. "Can Never Run" is not among
# them: it is said of what an autoscaler has no nodes for yet, too.
_GIVEN_UP = re.compile(r"too many failed attempts to (run|start)", re.IGNORECASE)
_KNOWN_COMMENT = re.compile(r"Job (run at|was sent|started on)|$", re.IGNORECASE)
_TERM, _KILL = 15, 9


class PBSFamilyProvider(BatchProvider):
    """The options that both take, and how both are asked."""

    directive = "#PBS"
    job_id_variable = "PBS_JOBID"
    redirects = True  # its options for that take no blanks, and copy the files when the job is over
    query_environment: ClassVar[Mapping[str, str]] = {"TZ": "UTC0", "LC_ALL": "C"}
    transient = (
        r"cannot connect|connection (refused|reset|timed out)|timed? ?out|shutting down|no free connections"
        r"|connection table full|temporarily unavailable|would exceed|maximum number of (jobs|queued)"
        r"|protocol error|end of file|communication failure|server is busy|please retry|munge"
        r"|pbs_iff|could not connect|system error|internal error"
    )
    refusals: ClassVar[Sequence[Refusal]] = (
        Refusal(r"unknown queue|queue is not enabled|access to queue|no default queue|-q ", "queue"),
        Refusal(r"invalid account|account", "account"),
        Refusal(r"project|allocation", "project, account"),
        Refusal(r"walltime", "walltime"),
        Refusal(
            r"violates queue|resource limits|by all possible dest|exceeds? (queue|server|allowable|limit)",
            "walltime, nodes, cores, memory, queue",
        ),
        Refusal(r"node\(?s?\)? spec|no such node|cannot locate feasible nodes", "nodes, cores"),
        Refusal(r"select", "select_options, scheduler_options"),
        Refusal(r"unknown resource|illegal|invalid option|usage:|undefined attribute", "scheduler_options"),
        Refusal(r"(?m:^)\s*qsub:", ""),
    )
    start: ClassVar[str]
    """The attribute that says when a job started."""
    exit_status: ClassVar[str]
    """The attribute that says how it ended."""
    overrun: ClassVar[frozenset[int]]
    """Exit statuses of jobs whose walltime was over."""
    meanings: ClassVar[Mapping[int, str]]
    """What negative exit statuses mean."""
    ended: ClassVar[str]
    """The states of jobs that have ended."""
    listing: ClassVar[str]
    """The commands that list the jobs ``$@``: they set ``$weft_said`` and ``$weft_status``."""

    def __init__(
        self,
        words: Mapping[str, str],
        *,
        cores_per_node: int | None,
        memory_per_node: int | str | None,
        gpus_per_node: int | None,
        scheduler_options: str,
        worker_init: str,
        channel: Channel | None,
        command_timeout: float | str,
        poll_interval: float | str,
    ) -> None:
        for option, value in words.items():
            if not re.fullmatch(r"[^\s'\"\\`$]*", value):
                raise ConfigError(f"{option} must be a word that {self.system} knows, not {value!r}", option)
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
        )
        if any(re.match(r"-v\b", line) for line in self._options):
            raise ConfigError(
                "scheduler_options must not have `-v`, which would hide the label that jobs are found by: "
                "set variables in worker_init",
                "scheduler_options",
            )

    # -- submitting -----------------------------------------------------------------------------------------

    def directives(self, spec: JobSpec, files: JobFiles) -> Sequence[Sequence[str]]:
        lines = [["-S", "/bin/bash"], ["-N", _job_name(spec.name)], ["-o", "/dev/null"], ["-e", "/dev/null"]]
        lines.append(["-v", f"WEFT_LABEL={label(spec)},WEFT_NAME={quote(spec.name, safe='')}"])
        for option, word in (("-q", "queue"), ("-A", "account"), ("-P", "project")):
            if self._words.get(word):
                lines.append([option, self._words[word]])
        lines += [["-l", request] for request in self.requests(spec)]
        if spec.shape.walltime is not None:
            lines.append(["-l", f"walltime={_clock(spec.shape.walltime)}"])
        return lines

    def requests(self, spec: JobSpec) -> Sequence[str]:
        """What is asked for with ``-l``, but the walltime."""
        raise NotImplementedError

    def quote(self, argument: str) -> str:
        return argument  # words without blanks, all of them

    def submit_command(self, spec: JobSpec, files: JobFiles) -> Sequence[str]:
        return ["qsub", files.script]

    def parse_submit(self, output: str) -> JobId | None:
        # Numbers may be printed by others, so that a server's name is looked for first.
        for pattern in (r"\d+(?:\[\])?\.[\w.-]*[A-Za-z][\w.-]*", r"\d+(?:\[\])?"):
            found = re.findall(rf"^\s*({pattern})\s*$", output, re.MULTILINE)
            if found:
                return JobId(found[-1])
        return None

    # -- asking ---------------------------------------------------------------------------------------------

    def queue_command(self, ids: Sequence[JobId]) -> Sequence[str]:
        named = [job_id for job_id in ids if re.fullmatch(JOB_ID, job_id)]
        return ["sh", "-c", _LISTING.replace("${ask}", self.listing.strip("\n")), "sh", *named]

    def parse_queue(self, answer: Answer) -> Sequence[ListedJob]:
        said = answer.stdout
        marks = re.search(r"^weft-mine (.*)\nweft-asked (.*)\nweft-status (\d+)$", said, re.MULTILINE)
        if answer.exit_status or marks is None:
            raise ValueError("qselect or qstat failed")
        said, status = said[: marks.start()], int(marks[3])
        trouble = [
            line for line in re.findall(r"^q(?:stat|select): .*", said, re.MULTILINE) if not _fine(line)
        ]
        if trouble or (status and status not in _NOT_ALL):
            raise ValueError(f"qstat failed with exit status {status}: {' / '.join(trouble)}")
        jobs = {_asked(job_id, marks[2].split()): job for job_id, job in read_jobs(said).items()}
        # With -E, those that are not known are passed over; but not all of them, and none that was listed.
        must = set(marks[1].split() if jobs else marks[2].split())
        complaints = " ".join(re.findall(r"^qstat: .*", said, re.MULTILINE))
        named = set(re.findall(r"(?<![\w.=-])(\d+(?:\[\d*\])?)(?=[.,@\s]|$)", complaints))
        left_out = sorted(job_id for job_id in must - jobs.keys() if _number(job_id) not in named)
        if left_out:
            raise ValueError(f"qstat leaves out {', '.join(left_out[:5])}")
        return [self._listed(JobId(job_id), job) for job_id, job in jobs.items()]

    def cancel_command(self, ids: Sequence[JobId]) -> Sequence[str]:
        return ["qdel", *ids]

    def cancelled(self, answer: Answer) -> bool:
        said = f"{answer.stderr}\n{answer.stdout}"
        errors = re.findall(r"^\s*qdel: .*", said, re.MULTILINE)
        gone = re.compile(
            r"(?i)unknown job ?id|has finished|invalid for (the )?state|illegally formed|already in progress"
        )
        return answer.exit_status == 0 or (bool(errors) and all(gone.search(line) for line in errors))

    # -- understanding --------------------------------------------------------------------------------------

    def _listed(self, job_id: JobId, job: Attributes) -> ListedJob:
        letter = job.get("job_state", "")[:1]
        tag, spec_id = read_label(variable(job, "WEFT_LABEL"))
        started = read_time(job.get(self.start, ""))
        walltime = clock_seconds(job.get("Resource_List.walltime", ""))
        if letter in self.ended and letter:
            state, reason, code = self._end(job, started)
        else:
            state, reason, code = _STATES.get(letter, JobState.UNKNOWN), _words(letter, job), None
        waiting = state is JobState.PENDING
        return ListedJob(
            id=job_id,
            state=state,
            reason=reason,
            exit_code=code,
            started_at=None if waiting else started,
            ends_at=None if waiting or started is None or walltime is None else started + walltime,
            hosts=() if waiting else exec_hosts(job.get("exec_host", "")),
            name=unquote(variable(job, "WEFT_NAME")) or job.get("Job_Name", ""),
            tag=tag,
            spec_id=spec_id,
            stuck=state is JobState.HELD and _given_up(job),
        )

    def _end(self, job: Attributes, started: float | None) -> tuple[JobState, str, int | None]:
        """How a job ended: its state, the reason, its exit code."""
        text = job.get(self.exit_status, "")
        status = int(text) if re.fullmatch(r"-?\d{1,9}", text) else None
        comment = job.get("comment", "")
        said = "" if _KNOWN_COMMENT.match(comment) else comment
        signal = _signal(status)
        used, limit = (
            clock_seconds(job.get(f"{group}.walltime", "")) for group in ("resources_used", "Resource_List")
        )
        over = signal is not None and used is not None and limit is not None and used >= limit
        if status in self.overrun or over:
            return JobState.TIMEOUT, _joined(f"exit status {status}: its walltime was over", said), None
        if job.get("substate") == "91" or (status is None and started is None):
            return JobState.CANCELLED, _joined("it was deleted", said), None
        if status is None:
            return JobState.GONE, _joined("it has ended; how is not said", said), None
        if status == 0:
            return JobState.COMPLETED, "", 0
        if signal == _TERM and status > 256:
            return JobState.CANCELLED, _joined(f"exit status {status}: told to end, as by qdel", said), None
        if signal is not None and status > 256:
            why = "killed, as for its memory" if signal == _KILL else f"ended by signal {signal}"
            return JobState.FAILED, _joined(f"exit status {status}: {why}", said), 128 + signal
        if status < 0:
            meaning = self.meanings.get(status, "it could not be run")
            return JobState.FAILED, _joined(f"exit status {status}: {meaning}", said), None
        return JobState.FAILED, said, status


def _number(job_id: str) -> str:
    return re.split(r"[.@]", job_id)[0]


def _asked(job_id: str, asked: Sequence[str]) -> str:
    """The id by which a job was asked for: servers may have several names."""
    if job_id in asked:
        return job_id
    return next((other for other in asked if _number(other) == _number(job_id)), job_id)


def _signal(status: int | None) -> int | None:
    """The signal that ended a job: 256 is added to it, or 128, as shells do."""
    if status is None or status <= 128:
        return None
    signal = status - 256 if status > 256 else status - 128
    return signal if 0 < signal < 65 else None


def _words(letter: str, job: Attributes) -> str:
    """Why a job is where it is: the batch system's own words, and what they mean."""
    comment = job.get("comment", "")
    if letter == "H":
        holds = [_HOLDS[kind] for kind in job.get("Hold_Types", "") if kind in _HOLDS]
        return _joined(*holds, comment)
    meaning = _MEANINGS.get(letter, "")
    if letter in ("R", "E", "B") and _KNOWN_COMMENT.match(comment):
        return ""
    return _joined(f"{letter} ({meaning})" if meaning else "", comment)


def _joined(*parts: str) -> str:
    return "; ".join(part for part in parts if part)


def _fine(line: str) -> bool:
    return _NO_TROUBLE.search(line) is not None


def _job_name(name: str) -> str:
    word = re.sub(r"[^A-Za-z0-9_.-]", "_", name)[:_NAME_LENGTH]
    return word if word[:1].isalpha() else f"w{word}"[:_NAME_LENGTH]


def _clock(seconds: float) -> str:
    minutes, second = divmod(math.ceil(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours:02}:{minute:02}:{second:02}"


def _given_up(job: Attributes) -> bool:
    return "s" in job.get("Hold_Types", "") and _GIVEN_UP.search(job.get("comment", "")) is not None
