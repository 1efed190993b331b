"""``weft reap``: lists and removes the jobs that runs left behind when they were killed."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from weft_interfaces import BlockExecutor, JobId, JobStatus, Provider, WeftError

from ._client import Client, Life
from ._config import Config

__all__ = ["Left", "Reaping", "providers_of"]

_FIRST_LOOK = 0.5  # seconds after a cancellation


@dataclass(slots=True, eq=False)
class Left:
    """A job that carries the tag of a run, and has not ended. gone: whether it was seen to be."""

    site: Site
    run: str
    job: JobId
    name: str
    status: JobStatus | None = None
    gone: bool = False

    def line(self) -> str:
        state = "in a state that is not known"
        if self.status is not None:
            state = self.status.state.value + (f" ({self.status.reason})" if self.status.reason else "")
        return f"{self.site.name}: job {self.job}, {self.name}, {state}" + (", removed" if self.gone else "")

    def to_json(self) -> dict[str, Any]:
        return {
            "provider": self.site.kind,
            "executor": self.site.label,
            "job": self.job,
            "name": self.name,
            "state": self.status.state.value if self.status else "unknown",
            "reason": self.status.reason if self.status else "",
            "removed": self.gone,
        }


@dataclass(frozen=True, eq=False)
class Site:
    """A provider of the configuration, and the executor that it is for."""

    label: str
    provider: Provider

    @property
    def kind(self) -> str:
        return type(self.provider).__name__

    @property
    def name(self) -> str:
        return f"{self.kind} of executor {self.label!r}"


def providers_of(config: Config) -> list[Site]:
    """Who is asked for blocks, each provider once; no executor is started."""
    sites: dict[int, Site] = {}
    for executor in config.make_executors():
        if executor.in_blocks:
            provider = cast(BlockExecutor, executor).blocks.provider
            sites.setdefault(id(provider), Site(executor.label, provider))
    return list(sites.values())


@dataclass
class Reaping:
    """What is left of some runs at some sites.

    force: also runs whose process lives, or of whose process nothing is known. troubles: what could not be
    found out or done, in words.
    """

    clients: Sequence[Client]
    sites: Sequence[Site]
    force: bool = False
    jobs: list[Left] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._lives = {client.run: client.life() for client in self.clients}

    def find(self) -> None:
        """Ask each provider for the jobs of each run. One that fails is asked no more."""
        seen = set()
        for site in self.sites:
            try:
                for client in self.clients:
                    found = site.provider.find(client.run)
                    statuses = site.provider.status(list(found)) if found else {}
                    for job, name in found.items():
                        # Several providers of one batch system all know the job.
                        if (key := (site.kind, client.run, job, name)) not in seen:
                            seen.add(key)
                            self.jobs.append(Left(site, client.run, job, name, statuses.get(job)))
            except WeftError as error:
                self.troubles.append(f"{site.name} could not be asked: {error}")

    def removable(self) -> list[Left]:
        """The jobs that may be removed: those of dead runs, or all."""
        return [job for job in self.jobs if self.force or self._lives[job.run][0] is Life.DEAD]

    def remove(self, timeout: float) -> None:
        """Cancel the removable jobs, and watch them go for up to so many seconds."""
        waiting = []
        for site in self.sites:
            jobs = [job for job in self.removable() if job.site is site]
            if not jobs:
                continue
            try:
                site.provider.cancel([job.job for job in jobs])
            except WeftError as error:
                self.troubles.append(f"{site.name} did not cancel {len(jobs)} jobs: {error}")
            else:
                waiting += jobs
        self._watch(waiting, timeout)

    def _watch(self, jobs: list[Left], timeout: float) -> None:
        deadline, pause = time.monotonic() + timeout, 0.0
        problems: dict[Site, str] = {}
        while True:
            for site, run in dict.fromkeys((job.site, job.run) for job in jobs):
                try:
                    there = site.provider.find(run)
                except WeftError as error:
                    problems[site] = f": {error}"
                    continue
                problems.pop(site, None)
                for job in jobs:
                    job.gone = job.gone or (job.site is site and job.run == run and job.job not in there)
            jobs = [job for job in jobs if not job.gone]
            left = deadline - time.monotonic()
            if not jobs or left <= 0:
                break
            pause = max(float(job.site.provider.poll_interval) for job in jobs) if pause else _FIRST_LOOK
            time.sleep(min(pause, left))
        for job in jobs:
            why = problems.get(job.site, "")
            self.troubles.append(
                f"{job.site.name} was asked to cancel job {job.job}: it is still there after {timeout:g} s"
                f"{why}"
            )

    def close(self) -> None:
        """Free what the providers hold here."""
        for site in self.sites:
            try:
                site.provider.close()
            except WeftError as error:
                self.troubles.append(f"{site.name} could not be closed: {error}")

    @property
    def clean(self) -> bool:
        """Whether nothing is left that belongs to no living run, as far as could be found out."""
        left = [job for job in self.jobs if not job.gone]
        lives = (self._lives[job.run][0] for job in left)
        return not self.troubles and all(life is Life.ALIVE and not self.force for life in lives)

    def lines(self) -> Iterator[str]:
        """What was found, for people."""
        for client in self.clients:
            jobs = [job for job in self.jobs if job.run == client.run]
            if jobs:
                yield f"run {client.run} is {self._in_words(client)}"
            for job in jobs:
                yield f"  {job.line()}"
        if not self.jobs:
            yield f"no job is left: {len(self.clients)} runs, {len(self.sites)} providers looked at"

    def _in_words(self, client: Client) -> str:
        life, why = self._lives[client.run]
        if self.force:
            return f"{life.value}: {why}"
        return {
            Life.DEAD: f"dead: {why}",
            Life.ALIVE: f"alive: {why}; its jobs are left alone",
            Life.UNKNOWN: f"dead or alive: {why}; if dead, `weft reap --force {client.run}` removes its jobs",
        }[life]

    def to_json(self) -> dict[str, Any]:
        """The same, and what was done."""
        return {
            "runs": [self._run_json(client) for client in self.clients],
            "troubles": list(self.troubles),
        }

    def _run_json(self, client: Client) -> dict[str, Any]:
        life, why = self._lives[client.run]
        jobs: Iterable[Left] = (job for job in self.jobs if job.run == client.run)
        return {
            "run": client.run,
            "process": life.value,
            "why": why,
            "host": client.host,
            "pid": client.pid,
            "jobs": [job.to_json() for job in jobs],
        }
