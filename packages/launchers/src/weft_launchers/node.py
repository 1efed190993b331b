r"""What runs on each node: a shell that gives the command its input, its streams and its environment.

It travels as one word without single quotes, ``!`` and line ends: ``\0nnn`` stands for those, and for a
backslash, as ``printf %b`` reads it. So it passes launch programs, ssh, and whatever login shell is on the
other side (sh, csh, fish), although these take words apart in their own ways: srun, mpirun and aprun begin
another program at a ``:``, csh ends a command at a line end, quoted or not. A command of any words arrives as
it was.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Literal

__all__ = ["DECODE", "Output", "encode", "node_command", "node_script"]

Output = Literal["job", "files"]

# The program of ``sh -c`` whose first argument is an encoded script.
DECODE = 'eval "$(printf %b "$1")"'

_CODES = {"\\": "\\0134", "'": "\\0047", "\n": "\\0012", "!": "\\0041"}

_INPUT = """\
if [ -n "${WEFT_JOB_INPUT-}" ]; then
    if [ ! -r "$WEFT_JOB_INPUT" ]; then
        echo "weft: $(uname -n) cannot read the input of its job, $WEFT_JOB_INPUT: all nodes must share" \\
            "that directory" >&2
        exit 2
    fi
    exec <"$WEFT_JOB_INPUT"
elif [ "${weft_rank:-0}" != 0 ]; then
    exec </dev/null
fi
"""

_SCRUB = """\
unset $(awk 'BEGIN { for (name in ENVIRON) if (name ~ /^(%s)[A-Za-z0-9_]*$/) print name }' </dev/null)
"""

_RANK = """\
weft_rank=%s
[ -z "$weft_rank" ] || export WEFT_NODE_RANK=$((weft_rank / %d))
"""

_FILES = """\
weft_base=${WEFT_JOB_DIRECTORY:-$(dirname "${WEFT_JOB_INPUT:-./input}")}/${WEFT_BLOCK_ID:-block}
weft_base=$weft_base.$(uname -n).${weft_rank:-${WEFT_NODE_RANK:-0}}
: >"$weft_base.out" && : >"$weft_base.err" || exit 2
"""

_DIRECTORY = """\
cd "$WEFT_LAUNCH_DIRECTORY" || echo "weft: on $(uname -n) the command runs in $(pwd)" >&2
unset WEFT_LAUNCH_DIRECTORY
"""

# What is started in the background would have no input.
_SUPERVISED = """\
exec 3<&0
(exec %(command)s) <&3 3<&- %(streams)s &
weft_pid=$!
trap 'kill -TERM $weft_pid 2>/dev/null' TERM INT HUP
%(watch)s\
wait $weft_pid
weft_status=$?
while [ $weft_status -gt 128 ] && kill -0 $weft_pid 2>/dev/null; do
    wait $weft_pid
    weft_status=$?
done
%(after)s\
exit $weft_status
"""

# The connection's end ends the command, with all that is in its process group.
_WATCH = """\
(trap '' TERM INT HUP; cat <&4; kill -TERM 0; sleep 5; kill -KILL 0) >/dev/null 2>&1 3<&- &
weft_watch=$!
exec 4<&-
"""
_UNWATCH = "kill -KILL $weft_watch 2>/dev/null\n"

_TELL = """\
if [ $weft_status -ne 0 ]; then
    echo "weft: on $(uname -n) the command ended with exit status $weft_status; the end of" \\
        "$weft_base.err:" >&2
    tail -n 20 "$weft_base.err" >&2
fi
"""


def node_script(
    command: Sequence[str],
    *,
    output: Output = "job",
    rank: str = "",
    ranks_per_node: int = 1,
    own_input: bool = True,
    scrub: str = "",
    lifeline: bool = False,
) -> tuple[str, str]:
    """What a node does before and after variables are set there, as scripts of sh.

    rank: the expression of sh for the number of this process, if there is one. own_input: read the job's
    input from its file, where the launch program does not pass it on. scrub: a regular expression of sh's awk
    for the beginnings of variables that the launch program's own are to be forgotten. lifeline: standard
    input stays open as long as the head lives, and the command must not outlive it.
    """
    before = _SCRUB % scrub if scrub else ""
    if rank:
        before = f"{_RANK % (rank, ranks_per_node)}{before}"
    lines = ['[ -d "${TMPDIR:-/}" ] || unset TMPDIR\n']
    if lifeline:
        lines.append(f"exec 4<&0 </dev/null\n{_DIRECTORY}")
    if own_input:
        lines.append(_INPUT)
    if output == "files":
        lines.append(_FILES)
    words = shlex.join(command)
    if not lifeline and output == "job":
        return before, "".join([*lines, f"exec {words}\n"])
    streams = '>"$weft_base.out" 2>"$weft_base.err"' if output == "files" else ""
    lines.append(
        _SUPERVISED
        % {
            "command": words,
            "streams": f"{streams} 4<&-" if lifeline else streams,
            "watch": _WATCH if lifeline else "",
            "after": (_UNWATCH if lifeline else "") + (_TELL if output == "files" else ""),
        }
    )
    return before, "".join(lines)


def encode(script: str) -> str:
    """The script as a single word."""
    return "".join(_CODES.get(character, character) for character in script)


def node_command(script: str) -> list[str]:
    """What runs a script that is known in advance."""
    return ["/bin/sh", "-c", DECODE, "weft", encode(script)]
