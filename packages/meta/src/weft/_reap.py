"""``weft reap``: lists and removes what runs left behind when they were killed: jobs, agents and files."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from weft_interfaces import BlockExecutor, JobId, JobStatus, ReapableExecutor, WeftError

from ._client import Client, Life
from ._config import Config
from ._remains import Remains, Site, find_remains

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


def providers_of(config: Config) -> list[Site]:
    """Who is asked for blocks, each provider once; no executor is started."""
    executors: dict[int, list[BlockExecutor]] = {}
    for executor in config.make_executors():
        if executor.in_blocks:
            in_blocks = cast(BlockExecutor, executor)
            executors.setdefault(id(in_blocks.blocks.provider), []).append(in_blocks)
    return [
        Site(
            some[0].label, some[0].blocks.provider, [one for one in some if isinstance(one, ReapableExecutor)]
        )
        for some in executors.values()
    ]


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
    remains: list[Remains] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._lives = {client.run: client.life() for client in self.clients}

    def find(self) -> None:
        """Ask each site for what there is of each run. One that fails is asked no more."""
        seen = set[tuple[str, str, JobId, str]]()
        for site in self.sites:
            try:
                self._find_jobs(site, seen)
                self.remains += find_remains(site, [client.run for client in self.clients])
            except WeftError as error:
                self.troubles.append(f"{site.name} could not be asked: {error}")

    def _find_jobs(self, site: Site, seen: set[tuple[str, str, JobId, str]]) -> None:
        for client in self.clients:
            found = site.provider.find(client.run)
            statuses = site.provider.status(list(found)) if found else {}
            for job, name in found.items():
                # Several providers of one batch system all know the job.
                if (key := (site.kind, client.run, job, name)) not in seen:
                    seen.add(key)
                    self.jobs.append(Left(site, client.run, job, name, statuses.get(job)))

    def _found(self) -> list[Left | Remains]:
        return [*self.jobs, *self.remains]

    def removable(self) -> list[Left]:
        """The jobs that may be removed: those of dead runs, or all."""
        return [job for job in self.jobs if self._may_remove(job.run)]

    def removable_remains(self) -> list[Remains]:
        """The same of agents and files."""
        return [each for each in self.remains if self._may_remove(each.run)]

    def _may_remove(self, run: str) -> bool:
        return self.force or self._lives[run][0] is Life.DEAD

    def remove(self, timeout: float) -> None:
        """End the agents that may be removed, cancel the jobs, watch them go for up to so many seconds, and
        remove the files of those runs of which no job is left.
        """
        # First, for it may ask for further jobs.
        self._remove_remains([each for each in self.removable_remains() if each.executor is not None])
        self._cancel_jobs(timeout)
        kept = {(job.site, job.run) for job in self.jobs if not job.gone}
        files = [each for each in self.removable_remains() if each.executor is None]
        self._remove_remains([each for each in files if (each.site, each.run) not in kept])

    def _remove_remains(self, remains: Iterable[Remains]) -> None:
        for each in remains:
            try:
                each.remove()
            except WeftError as error:
                self.troubles.append(f"{each.words}: not removed: {error}")

    def _cancel_jobs(self, timeout: float) -> None:
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
        left = [each.run for each in self._found() if not each.gone]
        lives = (self._lives[run][0] for run in left)
        return not self.troubles and all(life is Life.ALIVE and not self.force for life in lives)

    def lines(self) -> Iterator[str]:
        """What was found, for people."""
        for client in self.clients:
            found = [each for each in self._found() if each.run == client.run]
            if found:
                yield f"run {client.run} is {self._in_words(client)}"
            for each in found:
                yield f"  {each.line()}"
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
            "remains": [each.to_json() for each in self.remains if each.run == client.run],
        }
