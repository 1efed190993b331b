"""Launchers for blocks of Slurm."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from weft_interfaces import BlockShape

from .head import ENVIRONMENT, WAIT, find_hosts, head_command
from .node import DECODE, Output, node_command, node_script
from .settings import Flag, check_count, check_output, check_words, flags

__all__ = ["SrunLauncher", "SrunMPILauncher"]


def _common(overlap: bool, mpi: str) -> list[Flag]:
    shared: list[Flag] = [("--overlap", None)] if overlap else []
    return [
        ("--export=", "ALL"),
        ("--mpi=", mpi),
        # Without a number of processors for each task, binding would leave it one, and all workers with it.
        ("--cpu-bind=", "none"),
        # Managers are independent: one that ends leaves the others alone.
        ("--kill-on-bad-exit=", "0"),
        ("--wait=", "0"),
        *shared,
    ]


@dataclass(frozen=True)
class SrunLauncher:
    """One job step on all nodes, by ``srun``, which gives the standard input to every process.

    overrides: further arguments, in place of ours where they name the same option.
    ranks_per_node: processes on each node.
    output: ``"job"`` leaves what nodes write in the job's own output, ``"files"`` gives each process files of
    its own, ``<block id>.<host>.<rank>.out`` and ``.err`` in ``$WEFT_JOB_DIRECTORY``.
    overlap: let other job steps use the same processors, so that tasks can call srun; Slurm before 20.11 does
    not know the option.
    mpi: the kind of MPI that the command itself uses, see ``srun --mpi=list``.
    """

    overrides: Sequence[str] | str = ()
    ranks_per_node: int = 1
    output: Output = "job"
    overlap: bool = True
    mpi: str = "none"

    rank_program: ClassVar[str] = "srun"

    def __post_init__(self) -> None:
        object.__setattr__(self, "overrides", check_words(self.overrides, "overrides"))
        check_output(self.output)
        check_count(self.ranks_per_node, "ranks_per_node")

    def wrap(self, command: Sequence[str], shape: BlockShape) -> list[str]:
        """The command of srun. Its exit status is the highest of all."""
        size: list[Flag] = [
            ("--nodes=", str(shape.nodes)),
            ("--ntasks=", str(shape.nodes * self.ranks_per_node)),
        ]
        if self.ranks_per_node > 1:  # what runs there finds it in its environment, as a default for srun
            size.append(("--ntasks-per-node=", str(self.ranks_per_node)))
        options = flags([*size, *_common(self.overlap, self.mpi)], tuple(self.overrides))
        words = list(command)
        if ":" in words:  # to srun, the beginning of another part of the job
            words = node_command(f"exec {shlex.join(command)}\n")
        if self.output == "files":
            parts = node_script(
                command,
                output="files",
                rank='"${SLURM_PROCID-}"',
                ranks_per_node=self.ranks_per_node,
                own_input=False,
            )
            words = node_command("".join(parts))
        return ["srun", *options, *words]


_STEPS = """
{environment}{hosts}
weft_input=${{WEFT_JOB_INPUT-}}
weft_spool=
if [ -z "$weft_input" ]; then
    weft_spool=$(mktemp) || exit 2
    cat >"$weft_spool" || exit 2
    weft_input=$weft_spool
fi
weft_set=$(weft_environment)
weft_rank=0
weft_pids=
for weft_host in $weft_hosts; do
    exec 3<"$weft_input" || exit 2
    {srun} --nodelist="$weft_host" /bin/sh -c {decode} weft \\
        "$weft_before$weft_set"'export WEFT_NODE_RANK='"$weft_rank"'\\0012'"$weft_after" <&3 3<&- &
    weft_pids="$weft_pids $!"
    weft_rank=$((weft_rank + 1))
done
exec 3<&-
[ -z "$weft_spool" ] || rm -f "$weft_spool"
"""


@dataclass(frozen=True)
class SrunMPILauncher:
    """One job step for each node, each by an ``srun`` of its own: for managers whose tasks are MPI programs.

    The command does not see that it is in a job step: it has the environment of the job's script, so
    ``srun`` and ``mpirun`` in it find the whole allocation, and the end of one step leaves the others alone.
    overrides, output, overlap: see :class:`SrunLauncher`.
    """

    overrides: Sequence[str] | str = ()
    output: Output = "job"
    overlap: bool = True

    rank_program: ClassVar[str] = "srun"

    def __post_init__(self) -> None:
        object.__setattr__(self, "overrides", check_words(self.overrides, "overrides"))
        check_output(self.output)

    def wrap(self, command: Sequence[str], shape: BlockShape) -> list[str]:
        """A script that starts the steps and waits for all. Its exit status is the first that is not 0, in
        the order of the nodes.
        """
        size: list[Flag] = [("--nodes=", "1"), ("--ntasks=", "1")]
        options = flags([*size, *_common(self.overlap, "none")], tuple(self.overrides))
        before, after = node_script(
            command, output=self.output, own_input=False, scrub="SLURM_|PMI_|PMIX_|PMI2_|OMPI_"
        )
        script = _STEPS.format(
            environment=ENVIRONMENT,
            hosts=find_hosts(shape.nodes, (), None),
            srun=shlex.join(["srun", *options]),
            decode=shlex.quote(DECODE),
        )
        return head_command(f"{script}{WAIT}", before, after)
