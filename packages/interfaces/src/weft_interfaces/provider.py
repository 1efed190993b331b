"""Asks a batch system for blocks."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NewType, Protocol, runtime_checkable

if TYPE_CHECKING:
    from .block import BlockShape
    from .channel import Channel

__all__ = [
    "ArrayProvider",
    "BaseProvider",
    "JobId",
    "JobSpec",
    "JobState",
    "JobStatus",
    "Provider",
    "ScriptProvider",
    "SearchableProvider",
    "TidyProvider",
]

JobId = NewType("JobId", str)


class JobState(enum.Enum):
    """Where a job is::

        PENDING ──> RUNNING ──> COMPLETED | FAILED | TIMEOUT | CANCELLED
        HELD ↔ PENDING          PREEMPTED, requeued by the site: back to PENDING

    ``UNKNOWN`` is "could not be found out now": it is never taken for an end. ``GONE`` is an end whose kind
    the batch system no longer knows.
    """

    PENDING = "pending"
    HELD = "held"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"
    GONE = "gone"
    UNKNOWN = "unknown"

    @property
    def terminal(self) -> bool:
        """Whether the job has ended and will not come back."""
        return self in _TERMINAL


_TERMINAL = frozenset(
    {JobState.COMPLETED, JobState.FAILED, JobState.TIMEOUT, JobState.CANCELLED, JobState.GONE}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSpec:
    """One job to submit. Paths are on the host of the provider's channel.

    id: unique over all runs and users; the job carries it, so that a submission whose answer was lost is
    found again.
    name: for people, in the queue's listing. tag: names the run, so that what a dead run left can be found.
    command: the arguments of what to run, already wrapped by the launcher.
    directory: where the job's script and its output go.
    environment: variables to set. input: bytes for the command's standard input, kept in a file that only its
    owner can read.
    """

    id: str
    name: str
    command: Sequence[str]
    shape: BlockShape
    directory: str
    tag: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    input: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobStatus:
    """What is known of a job.

    reason: the batch system's own words, such as ``NODE_FAIL`` or ``AssocMaxJobsLimit``.
    started_at, ends_at: seconds since the epoch; ``ends_at`` is when its walltime is over.
    hosts: its nodes, once it runs. stderr_tail: the last lines it wrote, once it has ended.
    stuck: it is not running, and no waiting will change that: the reason says what the job or the site would
    have to have. A provider that is not sure does not say so.
    """

    state: JobState
    reason: str = ""
    exit_code: int | None = None
    started_at: float | None = None
    ends_at: float | None = None
    hosts: Sequence[str] = ()
    stderr_tail: str = ""
    stuck: bool = False


@runtime_checkable
class Provider(Protocol):
    """Asks a batch system for blocks. One caller at a time; methods may wait for the batch system, within a
    bound.

    Pickled, a provider is its settings, with its channel: then it can be asked on that channel's host, by an
    agent that outlives this process. One that cannot be pickled is asked from here.
    """

    @property
    def channel(self) -> Channel | None:
        """Where its commands run and its jobs' files are; None is this machine, or that it needs neither."""

    @property
    def poll_interval(self) -> float:
        """Seconds between two status queries that the site is glad to see, at least."""

    def submit(self, spec: JobSpec) -> JobId:
        """Submit one job.

        Returning: the batch system has it. Raising :class:`ProviderError` (try again) or :class:`ConfigError`
        (the request is wrong): it does not have it. A second call with the same ``spec.id`` returns
        the same job.
        """

    def status(self, ids: Sequence[JobId]) -> Mapping[JobId, JobStatus]:
        """What is known of these jobs, with one query to the batch system. Each id is in the answer.

        A query that fails makes its jobs ``UNKNOWN``, with the reason; it does not raise. A state once
        terminal stays.
        """

    def cancel(self, ids: Sequence[JobId]) -> None:
        """Ask for these jobs to end. Ended and unknown ones are no error. Raises :class:`ProviderError` if
        not asked.
        """

    def find(self, tag: str) -> Mapping[JobId, str]:
        """The jobs of this user that carry the tag and have not ended, with their names: what a dead run
        left.
        """

    def close(self) -> None:
        """Free what it holds here; jobs are left alone. May be called twice."""


@runtime_checkable
class ScriptProvider(Provider, Protocol):
    """A provider whose jobs are scripts that people can look at."""

    def script(self, spec: JobSpec) -> str:
        """What would be submitted for a job; nothing is, and nobody is asked. Raises :class:`ConfigError`."""


@runtime_checkable
class ArrayProvider(Provider, Protocol):
    """A provider whose batch system takes several jobs with one submission."""

    @property
    def array_size(self) -> int:
        """How many jobs one submission takes at most. 1: they are to be submitted one by one."""

    def submit_array(self, specs: Sequence[JobSpec]) -> Mapping[str, JobId]:
        """Submit jobs of one shape, directory and tag, at most ``array_size``; the queue may show all of them
        under the first one's name.

        Returning: the batch system has all of them; their ids, by ``spec.id``. Raising as ``submit`` does: it
        has none of those that it did not have before. Calls with a ``spec.id`` that was given before, here or
        to ``submit``, give the same job.
        """


@runtime_checkable
class SearchableProvider(Provider, Protocol):
    """A provider that knows again what each job was submitted for, also the jobs of another process."""

    def find_specs(self, tag: str) -> Mapping[str, JobId]:
        """The same jobs as ``find`` gives, waiting and running ones, each by its ``spec.id``; also those of
        one array. Raises :class:`ProviderError` if that could not be found out.
        """


@runtime_checkable
class TidyProvider(Provider, Protocol):
    """A provider that can take away what its jobs leave on the host of its channel."""

    def remove_files(self, directory: str, wanted: Sequence[str] = ()) -> Mapping[str, bytes]:
        """Remove a directory that jobs had, with all that is in it. Where its path is relative, parents that
        are empty then go, too.

        wanted: the ``spec.id`` of jobs whose output is of interest. To be called when no job is left there,
        or all have been asked to end; also after ``close``. Returning: it is not there any more; the ends of
        what these jobs wrote, by the names of their files: 64 kB of each, 2 MB of all, those of the first
        jobs first. One that is not there is no error. Raising :class:`ProviderError`: some of it may still be
        there.
        """


class BaseProvider:
    """The optional parts of a provider. Subclass it and write ``submit``, ``status`` and ``cancel``."""

    channel: Channel | None = None
    poll_interval = 10.0

    def find(self, tag: str) -> Mapping[JobId, str]:
        """This batch system cannot be searched."""
        return {}

    def close(self) -> None:
        """Nothing is held."""
