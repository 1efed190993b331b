"""Launchers for Open MPI, MPICH and Intel MPI."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from weft_interfaces import BlockShape, ConfigError

from .head import ENVIRONMENT, head_command, quote
from .node import DECODE, Output, node_script
from .settings import Flag, check_count, check_output, check_words, flags

__all__ = ["Flavor", "MpiExecLauncher", "MpiRunLauncher"]

Flavor = Literal["auto", "openmpi", "mpich", "intel"]

_FLAVOR = """
command -v {program} >/dev/null || {{
    echo "weft: {program} is not on the PATH of $(uname -n): load its module in worker_init" >&2
    exit 127
}}
weft_flavor={flavor}
if [ "$weft_flavor" = auto ]; then
    case $({program} --version 2>&1 </dev/null) in
        *"Open MPI"* | *OpenRTE* | *PRRTE* | *prterun*) weft_flavor=openmpi ;;
        *Intel*) weft_flavor=intel ;;
        *HYDRA* | *MPICH* | *hydra*) weft_flavor=mpich ;;
        *)
            echo "weft: {program} does not say whose it is: set flavor of the launcher to openmpi," \
                "mpich or intel" >&2
            exit 2
            ;;
    esac
fi
"""

_START = """
{environment}
weft_hostfile={hostfile}
# In a job of Slurm they start their own daemons by srun: these are to leave room for the steps of tasks.
export SLURM_OVERLAP=1
# The nodes read the input from its file. Open MPI 4.1 may crash when it passes on what nobody reads.
weft_stdin=
[ -z "${{WEFT_JOB_INPUT-}}" ] || {{ exec </dev/null; weft_stdin=none; }}
case $weft_flavor in
    openmpi)
        set -- {openmpi}
        [ -z "$weft_stdin" ] || set -- --stdin "$weft_stdin" "$@"
        [ -z "$weft_hostfile" ] || set -- --hostfile "$weft_hostfile" "$@"
        ;;
    mpich)
        set -- {mpich}
        [ -z "$weft_hostfile" ] || set -- -f "$weft_hostfile" "$@"
        ;;
    intel)
        set -- {intel}
        [ -z "$weft_hostfile" ] || set -- -f "$weft_hostfile" "$@"
        export I_MPI_PIN="${{I_MPI_PIN:-0}}"
        ;;
esac
exec {program} "$@" /bin/sh -c {decode} weft "$weft_before$weft_set$weft_after"
"""

_RANK = '"${OMPI_COMM_WORLD_RANK-${PMIX_RANK-${PMI_RANK-}}}"'
# So that the command can call mpirun itself, which refuses where it finds itself in its own processes.
_SCRUB = "SLURM_OVERLAP|OMPI_|PMIX_|PMI_|PMI2_|PRTE_|HYDRA_|HYDI_|MPIR_|MPI_LOCALRANKID|MPI_LOCALNRANKS"
# The batch system's list, where launch programs that were not built for it would not find it.
_HOSTFILE = "${PBS_NODEFILE:-}"


@dataclass(frozen=True)
class _MpiLauncher:
    overrides: Sequence[str] | str = ()
    ranks_per_node: int = 1
    output: Output = "job"
    flavor: Flavor = "auto"
    hostfile: str | None = None
    mpi_program: bool = False

    program: ClassVar[str] = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "overrides", check_words(self.overrides, "overrides"))
        check_output(self.output)
        check_count(self.ranks_per_node, "ranks_per_node")
        if self.flavor not in ("auto", "openmpi", "mpich", "intel"):
            raise ConfigError(f"flavor must be auto, openmpi, mpich or intel, not {self.flavor!r}", "flavor")

    def wrap(self, command: Sequence[str], shape: BlockShape) -> list[str]:
        """A script that finds out whose the program is, and calls it as that is called.

        The exit status is not 0 if one command's was not. Open MPI gives the first one's, and ends the
        others; MPICH lets the others go on, and gives all at once (a bitwise or).
        """
        before, after = node_script(
            command,
            output=self.output,
            rank=_RANK,
            ranks_per_node=self.ranks_per_node,
            scrub="" if self.mpi_program else _SCRUB,
        )
        number, each = str(shape.nodes * self.ranks_per_node), str(self.ranks_per_node)
        openmpi: list[Flag] = [
            ("-n", number),
            ("--map-by", f"ppr:{each}:node:OVERSUBSCRIBE"),
            ("--bind-to", "none"),
        ]
        mpich: list[Flag] = [("-n", number), ("-ppn", each)]
        overrides = tuple(self.overrides)
        script = _FLAVOR + _START
        return head_command(
            script.format(
                program=self.program,
                flavor=self.flavor,
                environment=f"{ENVIRONMENT}weft_set=$(weft_environment)",
                hostfile=_HOSTFILE if self.hostfile is None else quote(self.hostfile),
                openmpi=shlex.join(flags(openmpi, overrides)),
                mpich=shlex.join(flags([*mpich, ("-disable-auto-cleanup", None)], overrides)),
                intel=shlex.join(flags(mpich, overrides)),
                decode=quote(DECODE),
            ),
            before,
            after,
        )


@dataclass(frozen=True)
class MpiRunLauncher(_MpiLauncher):
    """Starts the command on each node by ``mpirun``, of Open MPI, MPICH or Intel MPI.

    overrides: further arguments, in place of ours where they name the same option.
    ranks_per_node: processes on each node. output: see :class:`SrunLauncher`.
    flavor: whose program it is; found out on the block's first node unless said.
    hostfile: the nodes, one on each line; the batch system's unless said.
    mpi_program: the command itself is an MPI program. Unless said, what it would find its peers by is taken
    away, so that it can call mpirun itself.

    The command has the job's environment on each node, and the job's input from the file that
    ``WEFT_JOB_INPUT`` names.
    """

    program: ClassVar[str] = "mpirun"
    rank_program: ClassVar[str] = "mpirun"


@dataclass(frozen=True)
class MpiExecLauncher(_MpiLauncher):
    """The same as :class:`MpiRunLauncher`, by ``mpiexec``."""

    program: ClassVar[str] = "mpiexec"
    rank_program: ClassVar[str] = "mpiexec"
