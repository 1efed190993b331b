"""Jobs as a batch system lists them, and the label by which ours are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import quote, unquote

from weft_interfaces import ConfigError, JobId, JobSpec, JobState

__all__ = ["JobFiles", "ListedJob", "check_spec", "label", "read_label"]

_MARK = "weft"


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedJob:
    """One job in the answer to a query.

    reason: the batch system's own words. started_at, ends_at: seconds since the epoch by the batch system's
    clock.
    name: as the queue shows it. tag, spec_id: those of its :class:`JobSpec`, empty if it is not ours.
    stuck: no waiting will have it run.
    """

    id: JobId
    state: JobState
    reason: str = ""
    exit_code: int | None = None
    started_at: float | None = None
    ends_at: float | None = None
    hosts: Sequence[str] = ()
    name: str = ""
    tag: str = ""
    spec_id: str = ""
    stuck: bool = False


class JobFiles(NamedTuple):
    """A job's files on the channel's host, all for their owner only.

    script: what is submitted. stdout, stderr: what the job writes. input: for its standard input.
    record: the id of the job that runs the script. exit: how the script ended.
    """

    script: str
    stdout: str
    stderr: str
    input: str
    record: str
    exit: str

    @property
    def base(self) -> str:
        """What all their names begin with."""
        return self.script.removesuffix(".sh")

    @classmethod
    def of(cls, directory: str, spec_id: str) -> JobFiles:
        """The files of a job in its directory."""
        base = f"{directory}/{spec_id}"
        return cls(f"{base}.sh", f"{base}.out", f"{base}.err", f"{base}.in", f"{base}.job", f"{base}.exit")


def label(spec: JobSpec) -> str:
    """One word without blanks, quotes or separators that names a job's tag and id: for a comment, say."""
    return f"{_MARK}:{quote(spec.tag, safe='')}:{quote(spec.id, safe='')}"


def read_label(text: str) -> tuple[str, str]:
    """The tag and the id that a label names; both empty if it is none of ours."""
    mark, _, rest = text.strip().partition(":")
    tag, colon, spec_id = rest.partition(":")
    return (unquote(tag), unquote(spec_id)) if mark == _MARK and colon else ("", "")


def check_spec(spec: JobSpec) -> None:
    """Raises :class:`ConfigError` for a job that no batch system could be asked for."""
    if not spec.id or spec.id != spec.id.strip() or any(char in spec.id for char in "/\0\n"):
        raise ConfigError(f"the id of job {spec.name!r} must be usable as a file name, not {spec.id!r}")
    if not spec.command:
        raise ConfigError(f"job {spec.name!r} has no command: there is nothing to run")
    words = [*spec.command, *spec.environment, *spec.environment.values(), spec.directory]
    if any("\0" in word for word in words):
        raise ConfigError(
            f"job {spec.name!r}: its command, environment and directory must not hold NUL bytes"
        )
    if "\n" in spec.directory:
        raise ConfigError(f"the directory of job {spec.name!r} must be a single line, not {spec.directory!r}")
    for name in spec.environment:
        if not name.isidentifier() or not name.isascii():
            raise ConfigError(f"job {spec.name!r}: {name!r} is no name of an environment variable")
