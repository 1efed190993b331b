"""What runs that were killed leave on other hosts beside their jobs: the agents of executors, and files."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from weft_interfaces import (
    ChannelError,
    Provider,
    ReapableExecutor,
    TidyProvider,
    far_directory,
)

__all__ = ["Remains", "Site", "find_remains"]

_TIMEOUT = 30.0  # seconds for a command there
_LOOK = 'for each; do [ -d "$each" ] && printf "weft-there %s\\n" "$each"; done; echo weft-end'


@dataclass(frozen=True, eq=False)
class Site:
    """A provider of the configuration, and the executors that it is for; ``label`` is the first one's."""

    label: str
    provider: Provider
    executors: Sequence[ReapableExecutor] = ()

    @property
    def kind(self) -> str:
        return type(self.provider).__name__

    @property
    def name(self) -> str:
        return f"{self.kind} of executor {self.label!r}"


@dataclass(slots=True, eq=False)
class Remains:
    """An executor's agents, or, without an executor, the directory of a run. gone: whether it was removed."""

    site: Site
    run: str
    words: str
    executor: ReapableExecutor | None = None
    gone: bool = field(default=False)

    def remove(self) -> None:
        """Raises :class:`WeftError`."""
        if self.executor is not None:
            self.executor.end_left(self.run)
        else:
            assert isinstance(self.site.provider, TidyProvider), "only of those is anything found"
            self.site.provider.remove_files(far_directory(self.run))
        self.gone = True

    def line(self) -> str:
        label = self.executor.label if self.executor is not None else self.site.label
        return f"executor {label!r}: {self.words}" + (", removed" if self.gone else "")

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": "files" if self.executor is None else "agent",
            "executor": self.site.label if self.executor is None else self.executor.label,
            "what": self.words,
            "removed": self.gone,
        }


def find_remains(site: Site, runs: Sequence[str]) -> Iterator[Remains]:
    """What there is of these runs at a site. Raises :class:`WeftError` if that could not be found out."""
    for executor in site.executors:
        for run in runs:
            words = executor.find_left(run)
            if words:
                yield Remains(site, run, "; ".join(words), executor)
    channel = site.provider.channel
    if channel is not None and channel.remote and isinstance(site.provider, TidyProvider):
        for run in _with_files(site.provider, runs):
            yield Remains(site, run, f"files in {far_directory(run)} on {channel.host}")


def _with_files(provider: TidyProvider, runs: Iterable[str]) -> list[str]:
    """The runs that have a directory there."""
    channel = provider.channel
    assert channel is not None
    directories = {far_directory(run): run for run in runs if re.fullmatch(r"[\w.-]*\w[\w.-]*", run)}
    try:
        done = channel.run(["sh", "-c", _LOOK, "sh", *directories], timeout=_TIMEOUT)
    except (TimeoutError, OSError) as error:
        raise ChannelError(f"{channel.host} does not answer: {error}") from error
    lines = done.stdout.decode(errors="replace").splitlines()
    if "weft-end" not in lines:
        said = done.stderr.decode(errors="replace").strip() or "nothing"
        raise ChannelError(f"the files on {channel.host} cannot be looked for; it said: {said}")
    return [run for directory, run in directories.items() if f"weft-there {directory}" in lines]
