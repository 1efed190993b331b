"""The script that a batch system runs. Everything in it that comes from outside is quoted."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

from weft_interfaces import JobSpec

from .job import JobFiles

__all__ = ["render"]

# ${...} is filled in here, $name is the shell's.
_TEMPLATE = """\
#!/bin/bash
# A block of Weft. What it writes is in ${base}.out and .err, how it ended in .exit.
${directives}

weft_base=${base}
${redirect}weft_job=${job_id}

# Never twice: the first job to begin the block has it, and keeps it when it is requeued.
(set -o noclobber; echo "$weft_job" >"$weft_base.job") 2>/dev/null
weft_owner=$(cat "$weft_base.job" 2>/dev/null)
if [ -n "$weft_owner" ] && [ "$weft_owner" != "$weft_job" ]; then
  echo "weft: job $weft_owner runs this block; job $weft_job has nothing to do" >&2
  exit 0
fi

# How it ends is left in a file, for when the batch system no longer knows.
weft_step=worker_init
weft_end() {
  weft_status=$?
  [ "$weft_step" = command ] || echo "weft: worker_init failed with exit status $weft_status" >&2
  echo "$weft_status $weft_step" >"$weft_base.exit.new" && mv -f "$weft_base.exit.new" "$weft_base.exit"
}
rm -f "$weft_base.exit"
trap weft_end EXIT
# The command is to have time to end by itself.
trap : TERM USR1 USR2

${host_list}${environment}

# worker_init
${worker_init}
weft_status=$?
[ "$weft_status" -eq 0 ] || exit "$weft_status"

weft_step=command
${command} <${input}
exit "$?"
"""

# All hosts of the job are to find the list of them, which is on the first one's own disk.
_HOST_LIST = """\
if [ -r "${%(name)s-}" ] && cat "$%(name)s" >"$weft_base.hosts"; then
  export %(name)s="$weft_base.hosts"
fi
"""


def render(
    spec: JobSpec,
    files: JobFiles,
    *,
    prefix: str,
    directives: Sequence[str],
    worker_init: str,
    job_id_variable: str,
    redirects: bool,
    host_list_variable: str = "",
    job_id: str = "",
) -> str:
    """The script of a job.

    directives: the batch system's options, each already quoted; ``prefix`` begins each line.
    job_id_variable: where a job finds its own id; job_id: the expression for it, where that is another.
    redirects: whether the script opens its output files.
    host_list_variable: names the file with the job's hosts, where only the first of them has it.
    """
    has_input = bool(spec.input)
    parts = {
        "directives": "\n".join(f"{prefix} {line}" for line in directives) if prefix else "",
        "base": shlex.quote(files.base),
        "redirect": 'exec >>"$weft_base.out" 2>>"$weft_base.err"\n' if redirects else "",
        "job_id": f'"{job_id or f"${{{job_id_variable}:-run-by-hand}}"}"',
        "host_list": _HOST_LIST % {"name": host_list_variable} if host_list_variable else "",
        "environment": "\n".join(_exports(spec, files, has_input)),
        "worker_init": worker_init.strip("\n") or ":",
        "command": shlex.join(spec.command),
        "input": shlex.quote(files.input) if has_input else "/dev/null",
    }
    return re.sub(r"\$\{([a-z_]+)\}", lambda place: parts[place[1]], _TEMPLATE)


def _exports(spec: JobSpec, files: JobFiles, has_input: bool) -> list[str]:
    variables = {
        **spec.environment,
        "WEFT_JOB_TAG": spec.tag,
        "WEFT_JOB_NAME": spec.name,
        "WEFT_JOB_DIRECTORY": files.base.rpartition("/")[0] or ".",
    }
    if has_input:
        variables["WEFT_JOB_INPUT"] = files.input
    lines = [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]
    if spec.shape.walltime is not None:
        # A batch system that says itself when the job ends knows better.
        seconds = int(spec.shape.walltime)
        lines.append(f'export WEFT_JOB_ENDS_AT="${{SLURM_JOB_END_TIME:-$(($(date +%s) + {seconds}))}}"')
    return lines
