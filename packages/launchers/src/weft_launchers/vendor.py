"""Launchers of single vendors: Cray's aprun and IBM's jsrun.

aprun: Cray, *Workload Management and Application Placement for the Cray Linux Environment* (S-2496), "Using
the aprun Command", and HPE's a00114008, "Run Applications Using the aprun Command". jsrun: IBM, *LSF Job Step
Manager*, "jsrun command" (https://www.ibm.com/docs/en/SSWRJV_10.1.0/jsm/jsrun.html).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from weft_interfaces import BlockShape

from .node import Output, node_command, node_script
from .settings import Flag, check_count, check_output, check_words, flags

__all__ = ["AprunLauncher", "JsrunLauncher"]


@dataclass(frozen=True)
class AprunLauncher:
    """Starts the command on each node by ``aprun``, on Cray systems with ALPS.

    overrides: further arguments, in place of ours where they name the same option.
    ranks_per_node: processes on each node. output: see :class:`SrunLauncher`.

    aprun passes the environment on. The job's input comes from the file that ``WEFT_JOB_INPUT`` names.
    """

    overrides: Sequence[str] | str = ()
    ranks_per_node: int = 1
    output: Output = "job"

    def __post_init__(self) -> None:
        object.__setattr__(self, "overrides", check_words(self.overrides, "overrides"))
        check_output(self.output)
        check_count(self.ranks_per_node, "ranks_per_node")

    def wrap(self, command: Sequence[str], shape: BlockShape) -> list[str]:
        """The command of aprun, with its exit status."""
        ranks = self.ranks_per_node
        defaults: list[Flag] = [
            ("-n", str(shape.nodes * ranks)),
            ("-N", str(ranks)),
            ("-cc", "none"),
            ("-b", None),  # /bin/sh is there, it need not be copied
            ("-q", None),  # no accounts of resources on the standard output
        ]
        script = node_script(command, output=self.output, rank='"${ALPS_APP_PE-}"', ranks_per_node=ranks)
        return ["aprun", *flags(defaults, tuple(self.overrides)), *node_command("".join(script))]


@dataclass(frozen=True)
class JsrunLauncher:
    """Starts the command on each node by ``jsrun``, in blocks of LSF with IBM's Job Step Manager.

    Each node is one resource set, with all processors, and all GPUs if the block asks for some.
    overrides: further arguments, in place of ours where they name the same option.
    ranks_per_node: processes on each node. output: see :class:`SrunLauncher`.

    jsrun passes the environment on. The job's input comes from the file that ``WEFT_JOB_INPUT`` names.
    """

    overrides: Sequence[str] | str = ()
    ranks_per_node: int = 1
    output: Output = "job"

    def __post_init__(self) -> None:
        object.__setattr__(self, "overrides", check_words(self.overrides, "overrides"))
        check_output(self.output)
        check_count(self.ranks_per_node, "ranks_per_node")

    def wrap(self, command: Sequence[str], shape: BlockShape) -> list[str]:
        """The command of jsrun, with its exit status."""
        defaults: list[Flag] = [
            ("--nrs", str(shape.nodes)),
            ("--rs_per_host", "1"),
            ("--tasks_per_rs", str(self.ranks_per_node)),
            ("--cpu_per_rs", "ALL_CPUS"),
            ("--bind", "none"),
        ]
        if shape.gpus:
            defaults.append(("--gpu_per_rs", "ALL_GPUS"))
        script = node_script(
            command,
            output=self.output,
            rank='"${JSM_NAMESPACE_RANK-${PMIX_RANK-}}"',
            ranks_per_node=self.ranks_per_node,
        )
        return ["jsrun", *flags(defaults, tuple(self.overrides)), *node_command("".join(script))]
