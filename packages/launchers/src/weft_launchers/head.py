"""What runs on a block's first node: finds the other nodes, and passes the environment on to them.

The parts are scripts of sh, for the standard tools of POSIX.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from .node import encode

__all__ = ["ENVIRONMENT", "HOSTS", "WAIT", "find_hosts", "head_command", "quote"]

# Prints what sets this environment elsewhere, encoded for `printf %b`; but not what belongs to the host, the
# login or the process.
ENVIRONMENT = r"""
weft_environment() {
    LC_ALL=C awk '
        function replace(text, from, to,    parts, count, number, result) {
            count = split(text, parts, from)
            result = parts[1]
            for (number = 2; number <= count; number++) result = result to parts[number]
            return result
        }
        BEGIN {
            own = "^(_|PWD|OLDPWD|SHLVL|HOME|USER|LOGNAME|SHELL|MAIL|HOST|HOSTNAME|TERM|DISPLAY"
            own = own "|WINDOWID|IFS|ENV"
            own = own "|UID|EUID|PPID|SHELLOPTS|BASHOPTS|OPTIND|PS[0-9]|SSH_.*|XDG_.*|DBUS_.*|BASH_.*"
            own = own "|SLURM_(NODEID|PROCID|LOCALID|GTIDS|TASK_PID|TOPOLOGY_.*)|SLURMD_NODENAME|LC_ALL)$"
            for (name in ENVIRON) {
                if (name !~ /^[A-Za-z_][A-Za-z0-9_]*$/ || name ~ own) continue
                value = replace(ENVIRON[name], "\\", "\\0134")
                value = replace(value, "\047", "\\0047\"\\0047\"\\0047")
                value = replace(replace(value, "\n", "\\0012"), "!", "\\0041")
                printf "export %s=\\0047%s\\0047\\0012", name, value
            }
        }' </dev/null
    [ -z "${LC_ALL+set}" ] || printf 'export LC_ALL=\\0047%s\\0047\\0012' "$LC_ALL"
}
"""

# Lists the block's nodes, as the batch system has them: an own line for each, or for each of its processors.
_LISTED = r"""
weft_list() {
    if [ -n "${SLURM_JOB_NODELIST-}" ]; then
        scontrol show hostnames "$SLURM_JOB_NODELIST"
    elif [ -n "${PBS_NODEFILE-}" ]; then
        cat "$PBS_NODEFILE"
    elif [ -n "${PE_HOSTFILE-}" ]; then
        cat "$PE_HOSTFILE"
    elif [ -n "${LSB_DJOB_HOSTFILE-}" ]; then
        cat "$LSB_DJOB_HOSTFILE"
    elif [ -n "${LSB_MCPU_HOSTS-}" ]; then
        printf '%s\n' "$LSB_MCPU_HOSTS" | awk '{ for (word = 1; word < NF; word += 2) print $word }'
    elif [ -n "${OAR_NODEFILE-}" ]; then
        cat "$OAR_NODEFILE"
    else
        echo "weft: no list of this block's hosts is known here: none of SLURM_JOB_NODELIST," \
            "PBS_NODEFILE, PE_HOSTFILE, LSB_DJOB_HOSTFILE, LSB_MCPU_HOSTS, OAR_NODEFILE is set;" \
            "give the launcher hosts or hostfile" >&2
        return 1
    fi
}
"""

# Needs $weft_nodes. Sets $weft_hosts, as many names as there are nodes, one on each line.
HOSTS = r"""
weft_all=$(weft_list) || exit 2
weft_all=$(printf '%s\n' "$weft_all" | awk 'NF && !seen[$1]++ { print $1 }')
weft_hosts=$(printf '%s\n' "$weft_all" | head -n "$weft_nodes")
weft_count=$(printf '%s\n' "$weft_hosts" | awk 'NF' | wc -l)
if [ "$weft_count" -ne "$weft_nodes" ]; then
    echo "weft: the block is to have $weft_nodes nodes, but its list of hosts has $((weft_count)):" \
        $weft_hosts >&2
    exit 2
fi
"""

# Needs $weft_pids, in the order of the nodes. The exit status is the first that is not 0.
WAIT = r"""
weft_status=0
for weft_pid in $weft_pids; do
    wait "$weft_pid"
    weft_each=$?
    [ $weft_status -ne 0 ] || weft_status=$weft_each
done
exit $weft_status
"""


def find_hosts(nodes: int, hosts: Sequence[str], hostfile: str | None) -> str:
    """The script that sets ``$weft_hosts``, one name on each line."""
    if hosts:
        listing = f"weft_list() {{ printf '%s\\n' {shlex.join(hosts)}; }}\n"
    elif hostfile is not None:
        listing = f"weft_list() {{ cat {shlex.quote(hostfile)}; }}\n"
    else:
        listing = _LISTED
    return f"weft_nodes={nodes}\n{listing}{HOSTS}"


def head_command(script: str, before: str, after: str) -> list[str]:
    """What runs on the first node; ``$weft_before`` and ``$weft_after`` are the node's scripts in it."""
    constants = f"weft_before={quote(encode(before))}\nweft_after={quote(encode(after))}\n"
    return ["/bin/sh", "-c", f"{constants}{script.strip()}\n"]


def quote(text: str) -> str:
    """A word of sh."""
    return shlex.quote(text)
