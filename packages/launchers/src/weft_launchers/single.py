"""Launchers that start one process, or leave that to another one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from weft_interfaces import BlockShape, ConfigError, Launcher

from .settings import check_words

__all__ = ["SingleNodeLauncher", "WrappedLauncher"]


@dataclass(frozen=True)
class SingleNodeLauncher:
    """Runs the command as it is, once, where the block starts: for blocks of one node."""

    def wrap(self, command: Sequence[str], shape: BlockShape) -> list[str]:
        """The command itself. Raises :class:`ConfigError` for a block of more nodes: the others would be
        idle.
        """
        if shape.nodes != 1:
            raise ConfigError(
                f"launcher: SingleNodeLauncher starts one node of the {shape.nodes} that a block has: set "
                f"nodes=1, or use a launcher for several nodes, such as SrunLauncher or MpiRunLauncher",
                "launcher",
            )
        return list(command)


@dataclass(frozen=True)
class WrappedLauncher:
    """Puts words before the command on each node, such as those that start a container.

    prefix: the words, as a list, or as a text that is taken apart as a shell does it.
    launcher: what starts the whole on each node; where the block starts, once, unless said.
    """

    prefix: Sequence[str] | str
    launcher: Launcher | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "prefix", check_words(self.prefix, "prefix"))

    def wrap(self, command: Sequence[str], shape: BlockShape) -> list[str]:
        """The prefix and the command, started as ``launcher`` does it."""
        launcher = SingleNodeLauncher() if self.launcher is None else self.launcher
        return launcher.wrap([*self.prefix, *command], shape)
