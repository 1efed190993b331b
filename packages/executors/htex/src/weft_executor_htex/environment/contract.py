"""What an environment is to the executor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from weft_interfaces import Channel

__all__ = ["Prepared", "Report", "WorkerEnvironment"]


class Report(Protocol):
    """Takes an event: what happened, and its data."""

    def __call__(self, kind: str, **data: object) -> None: ...


@dataclass(frozen=True)
class Prepared:
    """How managers start. Plain data; paths are those of the nodes.

    start: the words that come before the name of a module to be run as a program. path, user_path: see
    :class:`ManagerSetup`. versions: of the client's packages, by distribution, for managers to compare theirs
    with. glibc: see :func:`~.glibc.needed`, of what is sent.
    """

    start: Sequence[str]
    path: Sequence[str] = ()
    user_path: Sequence[str] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    glibc: Mapping[str, str] = field(default_factory=dict)

    def command(self, module: str) -> tuple[str, ...]:
        """The command that runs a module as a program, on a node."""
        return (*self.start, module)


class WorkerEnvironment(Protocol):
    """What :attr:`HighThroughputExecutor.environment` stands for."""

    def prepare(self, channel: Channel | None, report: Report) -> Prepared:
        """See to it that the place of the channel (None: this machine) has what managers need. May take
        long, and does nothing twice. Raises :class:`ConfigError` or :class:`ChannelError` with the remedy.
        """

    def outline(self, channel: Channel | None) -> Prepared:
        """What ``prepare`` would return. Nothing is packed or sent, and no other host is asked: what is known
        only then is in capital letters.
        """
