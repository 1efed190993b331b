"""The base of all providers for batch systems.

What a batch system itself must say is in :class:`Scheduler`; all else is here::

    submit: script and input are written ── submit_command ── parse_submit ──> id
               │ the script is there already: was it accepted before?
               └──> its record, then queue_command: the job with this specification's label

    status: queue_command ── parse_queue, one query for all ──> a state that is no end
               │ ended, or vanished                         └──> an end, with what the job left
               └──> accounting_command ── its exit file ── missing in several answers: GONE
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

from weft_interfaces import (
    BaseProvider,
    Channel,
    ConfigError,
    JobId,
    JobSpec,
    JobState,
    JobStatus,
    ProviderError,
    parse_seconds,
)

from .array import array_id, render_array
from .ending import judge, judge_ended, judge_vanished
from .host import Answer, Ending, Host
from .job import JobFiles, ListedJob, check_spec
from .local import local_channel
from .queue import Queue, Watched, queue_of
from .scheduler import Refusal, Scheduler
from .script import render

__all__ = ["BatchProvider", "Refusal"]

_LEAST_INTERVAL = 1.0  # seconds
_SETTLE = 5.0  # seconds in which a batch system may still take a job whose submission was not answered
_CERTAIN = 3  # queries that must miss a job that left nothing behind
_PATIENT = 12  # the same while its accounting does not answer
_ARRAY = 50  # elements of one array, whose label has the ids of all
_AT_ONCE = 500  # jobs named in one command
_LIVE = ("_host", "_queue", "_unanswered")  # attributes that are no settings


class BatchProvider(Scheduler, BaseProvider):
    """Asks a batch system for blocks, over a channel to where its commands are.

    channel: where that is; None is this machine. worker_init: shell commands that run on a block's first node
    before the block's own; when the last of them fails, so does the block.
    scheduler_options: options of the batch system's own, as its scripts have them, one or more on a line.
    command_timeout: how long one command may take. poll_interval: the least time between two status queries,
    at least a second. Both are seconds, or text such as ``"1 min"``. arrays: whether blocks that are asked
    for together are one submission, where the batch system has arrays.

    All providers of a process that use equal channels and the same batch system share one query. Methods may
    be called from any thread; none waits longer than its commands, each within ``command_timeout``.
    """

    # -- what users say -------------------------------------------------------------------------------------

    def __init__(
        self,
        *,
        worker_init: str = "",
        scheduler_options: str = "",
        channel: Channel | None = None,
        command_timeout: float | str = 30.0,
        poll_interval: float | str = 10.0,
        arrays: bool = False,
    ) -> None:
        self._arrays = arrays
        self.poll_interval = parse_seconds(poll_interval, "poll_interval")
        if self.poll_interval < _LEAST_INTERVAL:
            raise ConfigError(
                f"poll_interval must be at least {_LEAST_INTERVAL:g} s, not {self.poll_interval:g} s: "
                f"{self.system} serves others, too",
                "poll_interval",
            )
        self._worker_init = _text("worker_init", worker_init)
        self._options = _option_lines(_text("scheduler_options", scheduler_options), self.directive)
        self.channel = channel
        self._unanswered: set[str] = set()
        self._timeout = parse_seconds(command_timeout, "command_timeout")

    def __getstate__(self) -> dict[str, Any]:
        """Its settings: pickled, it may be asked on another machine. What it knows of jobs stays here."""
        return {name: value for name, value in self.__dict__.items() if name not in _LIVE}

    def __setstate__(self, settings: Mapping[str, Any]) -> None:
        self.__dict__.update(settings)
        self._unanswered = set()

    @cached_property
    def _host(self) -> Host:
        return Host(self.channel or local_channel(), self._timeout)

    @cached_property
    def _queue(self) -> Queue:
        return queue_of(self._host.channel, (type(self), *self.queue_command(())))

    # -- the contract ---------------------------------------------------------------------------------------

    def script(self, spec: JobSpec) -> str:
        """The script that would be submitted for a job. Nothing is written, nobody is asked."""
        check_spec(spec)
        return self._render(spec, JobFiles.of(spec.directory.rstrip("/"), spec.id))

    @property
    def array_size(self) -> int:
        return _ARRAY if self._arrays else 1

    def submit(self, spec: JobSpec) -> JobId:
        return self.submit_array([spec])[spec.id]

    def submit_array(self, specs: Sequence[JobSpec]) -> Mapping[str, JobId]:
        for spec in specs:
            check_spec(spec)
        with self._queue.submitting:
            found = {spec.id: self._queue.by_spec.get(spec.id) for spec in specs}
            places = {
                spec.id: self._host.prepare(spec.directory, spec.id) for spec in specs if not found[spec.id]
            }
            new = []
            for spec in (each for each in specs if each.id in places):
                place = places[spec.id]
                files = JobFiles.of(place.directory, spec.id)
                earlier = self._earlier(spec, place.record) if place.submitted else None
                if earlier is None:
                    new.append((spec, files))
                else:
                    self._accepted(spec, files, earlier)
            if new:
                for (spec, files), job_id in zip(new, self._submit(new), strict=True):
                    self._accepted(spec, files, job_id)
            return {spec.id: self._queue.by_spec[spec.id] for spec in specs}

    def status(self, ids: Sequence[JobId]) -> Mapping[JobId, JobStatus]:
        with self._queue.lock:
            jobs = {job_id: self._queue.watched(job_id) for job_id in ids}
            if any(job.ended is None for job in jobs.values()):
                self._queue.refresh(self._list, self.poll_interval)
                if not self._queue.trouble:
                    self._find_ends(jobs)
            return {job_id: job.ended or self._now(job_id, job) for job_id, job in jobs.items()}

    def cancel(self, ids: Sequence[JobId]) -> None:
        with self._queue.lock:
            due = [job_id for job_id in dict.fromkeys(ids) if self._queue.watched(job_id).ended is None]
        for start in range(0, len(due), _AT_ONCE):
            some = due[start : start + _AT_ONCE]
            answer = self._host.ask(self.cancel_command(some))
            if not self.cancelled(answer):
                raise ProviderError(f"{self.system} did not cancel {len(some)} jobs: {answer.words}")
            with self._queue.lock:
                for job_id in some:
                    self._queue.watched(job_id).cancelled = True

    def find(self, tag: str) -> Mapping[JobId, str]:
        """The jobs of this user that carry the tag and have not ended, with their names.

        Raises :class:`ProviderError` if that could not be found out.
        """
        return {job.id: job.name for job in self._tagged(tag)}

    def find_specs(self, tag: str) -> Mapping[str, JobId]:
        return {job.spec_id: job.id for job in self._tagged(tag) if job.spec_id}

    def close(self) -> None:
        """Jobs are left alone, but for those that nobody knows of: submissions that got no answer are looked
        up, and cancelled. Raises :class:`ProviderError` if that cannot be done.
        """
        lost, self._unanswered = self._unanswered, set()
        if not lost:
            return
        try:
            listing = self._fresh_listing().values()
            self.cancel([job.id for job in listing if job.spec_id in lost and not job.state.terminal])
        except (ProviderError, ConfigError) as error:
            raise ProviderError(
                f"{len(lost)} submissions to {self.system} got no answer, and may have become jobs: {error}"
            ) from error

    def remove_files(self, directory: str, wanted: Sequence[str] = ()) -> Mapping[str, bytes]:
        return self._host.remove_directory(directory, wanted)

    # -- submitting -----------------------------------------------------------------------------------------

    def _earlier(self, spec: JobSpec, record: str) -> JobId | None:
        """The job that was submitted for this specification, by whichever process; None if there is none.

        Raises :class:`ProviderError` if that cannot be found out, or not yet.
        """
        found = [job for job in self._fresh_listing().values() if job.spec_id == spec.id]
        if found:
            return min(found, key=lambda job: job.state.terminal).id
        if record:  # it has run, and is in the queue no longer
            return JobId(record)
        lost_at = self._queue.uncertain.get(spec.id)
        if lost_at is not None and time.monotonic() - lost_at < _SETTLE:
            raise ProviderError(
                f"{self.system} did not answer to the submission of job {spec.name!r}, and does not list it; "
                f"it may still come, for {_SETTLE:g} s"
            )
        return None

    def _accepted(self, spec: JobSpec, files: JobFiles, job_id: JobId) -> None:
        self._unanswered.discard(spec.id)
        with self._queue.lock:
            self._queue.by_spec[spec.id] = job_id
            self._queue.uncertain.pop(spec.id, None)
            job = self._queue.watched(job_id)
            job.since, job.files = time.monotonic(), files

    def _submit(self, new: Sequence[tuple[JobSpec, JobFiles]]) -> Sequence[JobId]:
        """The ids of these jobs; several are an array."""
        spec, files, texts = self._written(new)
        inputs = {its.input: each.input for each, its in new if each.input}
        try:
            for path, data in inputs.items():
                self._host.write(path, data)
            for path, text in texts.items():
                self._host.write(path, text.encode(errors="surrogateescape"))
            answer = self._ask_to_submit(spec, files, texts[files.script])
        except ConfigError:
            self._host.remove(*inputs, *texts)
            raise
        except ProviderError:
            self._lose(new)
            raise
        job_id = self.parse_submit(answer.stdout) if answer.exit_status == 0 else None
        if job_id is not None:
            return [job_id] if len(new) == 1 else self.array_elements(job_id, len(new))
        refusal = self._refusal(spec, answer)
        if isinstance(refusal, ConfigError):
            self._host.remove(*inputs, *texts)
        else:
            self._lose(new)
        raise refusal

    def _written(self, new: Sequence[tuple[JobSpec, JobFiles]]) -> tuple[JobSpec, JobFiles, dict[str, str]]:
        """What is submitted for these jobs, with all the files that it needs: text by path."""
        spec, files = new[0]
        if len(new) == 1:
            return spec, files, {files.script: self._render(spec, files), **self.extra_files(spec, files)}
        whole = replace(spec, id=array_id([each.id for each, _ in new]))
        path = f"{files.base}.array.sh"
        files = files._replace(script=path, stdout="/dev/null", stderr="/dev/null")
        texts = {its.script: self._render(each, its, element=True) for each, its in new}
        directives = [*self._directives(whole, files), self.array_directive(len(new))]
        lines = [f"{self.directive} {line}" for line in directives]
        texts[path] = render_array(list(texts), directives=lines, number=self.array_number)
        return whole, files, texts

    def _ask_to_submit(self, spec: JobSpec, files: JobFiles, text: str) -> Answer:
        forget = (self.job_id_variable, self.job_variables) if self.job_variables else None
        script = text.encode(errors="surrogateescape") if self.script_on_stdin else b""
        return self._host.ask(self.submit_command(spec, files), input=script, forget=forget)

    def _lose(self, new: Sequence[tuple[JobSpec, JobFiles]]) -> None:
        """Whether they were accepted is not known."""
        for spec, _ in new:
            self._queue.uncertain[spec.id] = time.monotonic()
            self._unanswered.add(spec.id)

    def _refusal(self, spec: JobSpec, answer: Answer) -> ConfigError | ProviderError:
        said = f"{answer.stderr}\n{answer.stdout}"
        what = f"{self.system} on {self._host.name} refused job {spec.name!r}"
        if answer.exit_status == 0:
            return ProviderError(f"{self.system} named no job for {spec.name!r}; it said: {answer.words}")
        if not re.search(self.transient, said, re.IGNORECASE):
            for pattern, option in self.refusals:
                if re.search(pattern, said, re.IGNORECASE):
                    about = f"; look at `{option}`" if option else ""
                    return ConfigError(f"{what}: {answer.words}{about}", option)
        return ProviderError(f"{what}: {answer.words}")

    def _directives(self, spec: JobSpec, files: JobFiles) -> list[str]:
        """The options of a job, one on each line."""
        lines = [" ".join(map(self.quote, group)) for group in self.directives(spec, files)]
        return [*lines, *self._options]

    def _render(self, spec: JobSpec, files: JobFiles, *, element: bool = False) -> str:
        return render(
            spec,
            files,
            prefix=self.directive,
            directives=[] if element else self._directives(spec, files),
            worker_init=self._worker_init,
            job_id_variable=self.job_id_variable,
            redirects=self.redirects or element,
            host_list_variable=self.host_list_variable,
            job_id=self.array_job if element else "",
        )

    # -- asking ---------------------------------------------------------------------------------------------

    def _list(self, ids: Sequence[JobId]) -> Mapping[JobId, ListedJob]:
        answer = self._host.ask(self.queue_command(ids), environment=self.query_environment)
        try:
            jobs = self.parse_queue(answer)
        except ValueError as error:
            raise ProviderError(
                f"{self.system} was asked for its queue: {_trouble(answer, error)}"
            ) from error
        return {job.id: _by_our_clock(job, answer.skew) for job in jobs}

    def _fresh_listing(self) -> Mapping[JobId, ListedJob]:
        with self._queue.lock:
            self._queue.refresh(self._list, None)
            if self._queue.trouble:
                raise ProviderError(self._queue.trouble)
            return self._queue.listing

    def _look_up(self, ids: Sequence[JobId]) -> Mapping[JobId, ListedJob] | None:
        """Jobs in the accounting; None if it did not answer."""
        found: dict[JobId, ListedJob] = {}
        for start in range(0, len(ids), _AT_ONCE):
            some = self._look_up_some(ids[start : start + _AT_ONCE])
            if some is None:
                return None
            found.update(some)
        return found

    def _look_up_some(self, ids: Sequence[JobId]) -> Mapping[JobId, ListedJob] | None:
        command = self.accounting_command(ids) if self._queue.accounting is not False else None
        if command is None:
            self._queue.accounting = False
            return {}
        try:
            answer = self._host.ask(command, environment=self.query_environment)
            jobs = self.parse_accounting(answer)
        except (ProviderError, ValueError):
            return None
        except ConfigError:  # there is no such command
            self._queue.accounting = False
            return {}
        self._queue.accounting = jobs is not None
        return {job.id: _by_our_clock(job, answer.skew) for job in jobs or ()}

    def _tagged(self, tag: str) -> list[ListedJob]:
        jobs = self._fresh_listing().values()
        return [job for job in jobs if job.tag == tag and not job.state.terminal]

    # -- judging --------------------------------------------------------------------------------------------

    def _now(self, job_id: JobId, job: Watched) -> JobStatus:
        """How a job is that is not known to have ended."""
        if self._queue.trouble:
            return JobStatus(state=JobState.UNKNOWN, reason=self._queue.trouble)
        listed = self._queue.listing.get(job_id)
        if listed is not None:
            return judge(listed, Ending())
        if job.since >= self._queue.answered_at:
            return JobStatus(state=JobState.PENDING, reason=f"submitted; {self.system} was not asked since")
        reason = f"{self.system} lists it no longer, and how it ended is not known yet"
        return JobStatus(state=JobState.UNKNOWN, reason=reason)

    def _find_ends(self, jobs: Mapping[JobId, Watched]) -> None:
        """Look at those that have ended, and at those that are missing in the last answer."""
        queue, ended, missing = self._queue, dict[JobId, ListedJob](), list[JobId]()
        for job_id, job in jobs.items():
            listed = queue.listing.get(job_id)
            if job.ended is not None:
                continue
            if listed is None:
                if job.since < queue.answered_at and job.looked_up != queue.number:
                    job.missed, job.looked_up = job.missed + 1, queue.number
                    missing.append(job_id)
            else:
                job.seen, job.missed = listed, 0
                if listed.state.terminal:
                    ended[job_id] = listed
        looked_up = self._look_up(missing) if missing else {}
        endings = self._endings(ended, missing)
        for job_id, listed in ended.items():
            jobs[job_id].ended = judge_ended(jobs[job_id], listed, endings[job_id])
        for job_id in missing:
            known = (looked_up or {}).get(job_id)
            certain = jobs[job_id].missed >= (_CERTAIN if looked_up is not None else _PATIENT)
            jobs[job_id].ended = judge_vanished(
                jobs[job_id], known, endings[job_id], certain=certain, system=self.system
            )

    def _endings(self, ended: Iterable[JobId], missing: Iterable[JobId]) -> Mapping[JobId, Ending]:
        """What these jobs left, where that is known."""
        over = {**dict.fromkeys(missing, False), **dict.fromkeys(ended, True)}
        files = {job_id: self._queue.watched(job_id).files for job_id in over}
        known = {job_id: (these.base, over[job_id]) for job_id, these in files.items() if these is not None}
        found = self._host.endings(list(known.values()))
        return {**dict.fromkeys(over, Ending()), **dict(zip(known, found, strict=True))}


def _by_our_clock(job: ListedJob, skew: float) -> ListedJob:
    if not skew:
        return job
    started = None if job.started_at is None else job.started_at - skew
    ends = None if job.ends_at is None else job.ends_at - skew
    return replace(job, started_at=started, ends_at=ends)


def _trouble(answer: Answer, error: ValueError) -> str:
    if answer.exit_status:
        return f"exit status {answer.exit_status}, {answer.words}"
    return f"{error}; it said: {answer.words[:400]}"


def _text(option: str, value: str) -> str:
    if "\0" in value:
        raise ConfigError(f"{option} must not hold NUL characters: {value!r}", option)
    return value


def _option_lines(text: str, directive: str) -> list[str]:
    lines = (line.strip() for line in text.splitlines())
    if directive:
        lines = (line.removeprefix(directive).strip() for line in lines)
    return [line for line in lines if line and not line.startswith("#")]
