"""Launchers that reach a block's nodes by ssh."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from weft_interfaces import BlockShape, ConfigError

from .head import ENVIRONMENT, WAIT, find_hosts, head_command, quote
from .node import DECODE, Output, node_script
from .settings import Flag, check_output, check_words, flags

__all__ = ["GnuParallelLauncher", "SshLauncher"]

_SSH = (
    "ssh",
    "-T",
    "-x",
    "-oBatchMode=yes",
    "-oConnectTimeout=30",
    "-oServerAliveInterval=15",
    "-oServerAliveCountMax=4",
)

# Whoever reads from 4 waits as long as the head lives, which alone has the other end, 5. The name of the pipe
# is gone at once.
_LIFELINE = """
weft_folder=$(mktemp -d) && mkfifo "$weft_folder/lifeline" || exit 2
exec 3<>"$weft_folder/lifeline" 4<"$weft_folder/lifeline" 5>"$weft_folder/lifeline" 3>&-
rm -rf "$weft_folder"
"""

# Encoded scripts have no quotes: whatever shell is on the other side, this is four words to it.
_BEGIN = f"exec /bin/sh -c {quote(DECODE)} weft "

_EACH = """
weft_rank=0
weft_pids=
for weft_host in $weft_hosts; do
    weft_own="$weft_before"'export WEFT_NODE_RANK='"$weft_rank"'\\0012'"$weft_set$weft_after"
    {program} "$weft_host" {begin}"'$weft_own'" <&4 4<&- 5>&- &
    weft_pids="$weft_pids $!"
    weft_rank=$((weft_rank + 1))
done
exec 4<&-
"""

_PARALLEL = """
export WEFT_LAUNCH_BEFORE="$weft_before" WEFT_LAUNCH_AFTER="$weft_set$weft_after"
export WEFT_LAUNCH_LIFELINE="/proc/$$/fd/4" PARALLEL_SHELL=/bin/sh
printf '%s\\n' "$weft_hosts" | parallel {options} {template} 5>&-
exit $?
"""
_TEMPLATE = (
    """exec {program} {{}} {begin}"'$WEFT_LAUNCH_BEFORE"'export WEFT_NODE_RANK='$(({{#}} - 1))'\\0012'"""
    """"$WEFT_LAUNCH_AFTER'" <"$WEFT_LAUNCH_LIFELINE" 4<&-"""
)


@dataclass(frozen=True)
class SshLauncher:
    """One ``ssh`` for each host of the block, all from its first node.

    overrides: further arguments of ssh, before the host. hosts: the nodes' names, or hostfile: a file with
    one on each line; the batch system's list unless said (of Slurm, PBS, Torque, Grid Engine, LSF, OAR).
    output: see :class:`SrunLauncher`.
    program: what is called with a host and a command, in place of ssh and its options.

    The command has the job's working directory and environment on each node, and the job's input from the
    file that ``WEFT_JOB_INPUT`` names. It ends with the connection.
    """

    overrides: Sequence[str] | str = ()
    hosts: Sequence[str] = ()
    hostfile: str | None = None
    output: Output = "job"
    program: Sequence[str] | str = _SSH

    def __post_init__(self) -> None:
        _check(self)

    def wrap(self, command: Sequence[str], shape: BlockShape) -> list[str]:
        """A script that starts them and waits for all. Its exit status is the first that is not 0, in the
        order of the hosts; ssh's own failure is 255.
        """
        start = _EACH.format(program=_program(self), begin=_quoted_begin())
        return _wrap(self, command, shape, start + WAIT)


@dataclass(frozen=True)
class GnuParallelLauncher:
    """The same as :class:`SshLauncher` with GNU parallel, which starts the connections and keeps the lines of
    their output apart.

    overrides: further arguments of parallel, such as ``--tag`` or ``--sshdelay``. Others: see there.
    """

    overrides: Sequence[str] | str = ()
    hosts: Sequence[str] = ()
    hostfile: str | None = None
    output: Output = "job"
    program: Sequence[str] | str = _SSH

    def __post_init__(self) -> None:
        _check(self)

    def wrap(self, command: Sequence[str], shape: BlockShape) -> list[str]:
        """A script that calls parallel. Its exit status is that of the command that failed first."""
        defaults: list[Flag] = [
            ("--plain", None),
            ("--will-cite", None),
            ("--line-buffer", None),
            ("--jobs", str(shape.nodes)),
            ("--halt", "soon,fail=1"),
        ]
        template = _TEMPLATE.format(program=shlex.join(self.program), begin=_quoted_begin())
        options = shlex.join(flags(defaults, tuple(self.overrides)))
        return _wrap(self, command, shape, _PARALLEL.format(options=options, template=quote(template)))


def _check(launcher: SshLauncher | GnuParallelLauncher) -> None:
    for field in ("overrides", "hosts", "program"):
        object.__setattr__(launcher, field, check_words(getattr(launcher, field), field))
    check_output(launcher.output)
    if launcher.hosts and launcher.hostfile is not None:
        raise ConfigError("hosts and hostfile both name the nodes: give one of them", "hosts")
    if any(host.startswith("-") or not host or len(host.split()) != 1 for host in launcher.hosts):
        raise ConfigError(f"hosts must be names, not {list(launcher.hosts)}", "hosts")
    if not launcher.program:
        raise ConfigError("program must be the words of a command, such as ['ssh']", "program")


def _program(launcher: SshLauncher) -> str:
    return shlex.join([*launcher.program, *launcher.overrides])


def _quoted_begin() -> str:
    return quote(_BEGIN)


def _wrap(
    launcher: SshLauncher | GnuParallelLauncher, command: Sequence[str], shape: BlockShape, start: str
) -> list[str]:
    before, after = node_script(command, output=launcher.output, lifeline=True)
    hosts = find_hosts(shape.nodes, launcher.hosts, launcher.hostfile)
    directory = "export WEFT_LAUNCH_DIRECTORY=$PWD\nweft_set=$(weft_environment)\n"
    script = f"{ENVIRONMENT}{hosts}{directory}{_LIFELINE}{start}"
    return head_command(script, before, after)
