"""What a task asks for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .units import format_bytes, format_seconds, parse_bytes, parse_count, parse_seconds

__all__ = ["Resources"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What one task asks for. All but ``nodes`` and ``ranks`` are per node.

    cpus: processor cores; a task with 2 takes two worker slots. Fractions down to 0 are allowed.
    memory: bytes, or text such as ``"4GB"``; None asks for no particular amount. Executors whose workers are
    processes stop a task that uses more.
    gpus: accelerators, fractions allowed.
    nodes: whole nodes; more than one is an MPI task, which runs once and is given the host list.
    ranks: MPI ranks over all nodes; as many as nodes unless said.
    walltime: seconds, or text such as ``"90s"``, ``"01:30:00"``: no block that ends sooner is given the task.

    Raises :class:`UnitError`, which names the field, for anything that cannot be read.
    """

    cpus: float = 1
    memory: int | str | None = None
    gpus: float = 0
    nodes: int = 1
    ranks: int = 0
    walltime: float | str | None = None

    def __post_init__(self) -> None:
        self._set("cpus", parse_count(self.cpus, "cpus"))
        self._set("gpus", parse_count(self.gpus, "gpus"))
        self._set("nodes", parse_count(self.nodes, "nodes", least=1, whole=True))
        self._set("ranks", parse_count(self.ranks or self.nodes, "ranks", least=1, whole=True))
        if self.memory is not None:
            self._set("memory", parse_bytes(self.memory, "memory"))
        if self.walltime is not None:
            self._set("walltime", parse_seconds(self.walltime, "walltime"))

    def _set(self, field: str, value: Any) -> None:
        object.__setattr__(self, field, value)

    @property
    def ranks_per_node(self) -> int:
        """MPI ranks on each node, rounded up."""
        return -(-self.ranks // self.nodes)

    @property
    def slots(self) -> int:
        """Worker slots that the task takes on a node: its cpus, rounded up, at least one."""
        return max(1, -int(-self.cpus // 1))

    def __str__(self) -> str:
        parts = [f"cpus={self.cpus:g}"]
        if self.memory is not None:
            parts.append(f"memory={format_bytes(float(self.memory))}")
        if self.gpus:
            parts.append(f"gpus={self.gpus:g}")
        if self.nodes > 1 or self.ranks > 1:
            parts.append(f"nodes={self.nodes}, ranks={self.ranks}")
        if self.walltime is not None:
            parts.append(f"walltime={format_seconds(float(self.walltime))}")
        return ", ".join(parts)
