"""Starts a command on every node of a block."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from .block import BlockShape

__all__ = ["DirectLauncher", "Launcher", "RankLauncher"]


@runtime_checkable
class Launcher(Protocol):
    """Turns a command into one that runs it on each node of a block. A pure function: the same in, the same
    out.

    The result's exit status is that of the command, the first non-zero one if several ran. Any argument is
    passed on unchanged, whatever characters it has.
    """

    def wrap(self, command: Sequence[str], shape: BlockShape) -> list[str]:
        """The command that runs once, on the block's first node. Raises :class:`ConfigError` for a shape it
        cannot do.
        """


@runtime_checkable
class RankLauncher(Launcher, Protocol):
    """A launcher that says how tasks in its blocks start MPI ranks."""

    @property
    def rank_program(self) -> str:
        """The launch program of the block's MPI: ``"srun"``, ``"mpirun"`` or ``"mpiexec"``."""


class DirectLauncher:
    """Runs the command once, where the block starts: right for blocks of one node."""

    def wrap(self, command: Sequence[str], shape: BlockShape) -> list[str]:
        """The command itself."""
        return list(command)
