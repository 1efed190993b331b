"""What every provider must show."""

from __future__ import annotations

import tempfile
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

from ..block import BlockShape
from ..provider import (
    ArrayProvider,
    JobId,
    JobSpec,
    JobState,
    JobStatus,
    Provider,
    SearchableProvider,
    TidyProvider,
)
from .check import skip

__all__ = ["ArrayProviderSuite", "ProviderSuite"]


class ProviderSuite:
    """Subclass it and write ``make_provider``. Jobs are real: ``true``, ``false`` and ``sleep`` on one node.

    timeout: seconds that a job may take to start or to end before the suite takes the provider for broken.
    """

    timeout: float = 60.0

    def make_provider(self) -> Provider:
        """A new provider; all of them speak with the same batch system."""
        raise NotImplementedError(f"{type(self).__name__}.make_provider: write it, to return what is tested")

    def directory(self) -> str:
        """A directory for jobs on the host of the provider's channel; this machine, unless overridden."""
        return tempfile.mkdtemp(prefix="weft-suite-")

    def tick(self, provider: Provider) -> None:
        """Let time pass between two queries. A batch system with a clock of its own advances it here."""
        threading.Event().wait(min(provider.poll_interval, 0.2))

    @contextmanager
    def failing_queries(self, provider: Provider) -> Iterator[None]:
        """While inside, the batch system does not answer queries.

        The test that needs it is skipped if it stays so.
        """
        if type(self).failing_queries is ProviderSuite.failing_queries:
            skip("this suite cannot make queries fail: override failing_queries")
        yield

    # -- helpers --------------------------------------------------------------------------------------------

    def spec(self, *command: str, tag: str = "", name: str = "weft-suite", spec_id: str = "") -> JobSpec:
        """A small job."""
        return JobSpec(
            id=spec_id or f"suite-{uuid.uuid4().hex}",
            name=name,
            command=command or ("true",),
            shape=BlockShape(nodes=1, walltime=600.0),
            directory=self.directory(),
            tag=tag,
        )

    def ask(self, provider: Provider, job: JobId) -> JobStatus:
        """The status of one job, which must be in the answer."""
        answer = provider.status([job])
        assert job in answer, f"each id is in the answer of status(), but {job!r} is not: {answer}"
        assert isinstance(answer[job], JobStatus), f"status() answers with JobStatus, not {answer[job]!r}"
        return answer[job]

    def wait_for(self, provider: Provider, job: JobId, *states: JobState) -> JobStatus:
        """Ask until the job is in one of these states, or in one from which it can never come there."""
        status, limit = self.ask(provider, job), self.timeout
        pause = max(0.01, min(provider.poll_interval, 0.2))
        while status.state not in states:
            assert not status.state.terminal, f"the job should become {states[0].name}, but ended as {status}"
            assert limit > 0, (
                f"the job should become {states[0].name} within {self.timeout:g} s, but it is {status}"
            )
            limit -= pause
            self.tick(provider)
            status = self.ask(provider, job)
        return status

    @contextmanager
    def running_job(self, provider: Provider, tag: str = "", name: str = "weft-suite") -> Iterator[JobId]:
        """A job that sleeps, and is cancelled at the end."""
        job = provider.submit(self.spec("sleep", "600", tag=tag, name=name))
        try:
            self.wait_for(provider, job, JobState.RUNNING)
            yield job
        finally:
            provider.cancel([job])
            provider.close()

    # -- tests ----------------------------------------------------------------------------------------------

    def test_it_is_a_provider(self) -> None:
        provider = self.make_provider()
        assert isinstance(provider, Provider), f"it lacks methods of the Provider contract: {provider!r}"
        assert provider.poll_interval >= 0, f"poll_interval: seconds, not {provider.poll_interval!r}"

    def test_a_job_that_succeeds_is_completed(self) -> None:
        provider = self.make_provider()
        job = provider.submit(self.spec("true"))
        status = self.wait_for(provider, job, JobState.COMPLETED, JobState.GONE)
        assert status.exit_code in (None, 0), f"a job that succeeds has exit code 0, not {status.exit_code}"

    def test_a_job_that_fails_is_failed_with_its_exit_code(self) -> None:
        provider = self.make_provider()
        job = provider.submit(self.spec("false"))
        status = self.wait_for(provider, job, JobState.FAILED, JobState.GONE)
        assert status.state is JobState.GONE or status.exit_code == 1, f"its exit code is 1: {status}"

    def test_a_running_job_says_since_when(self) -> None:
        provider = self.make_provider()
        with self.running_job(provider) as job:
            status = self.ask(provider, job)
            assert status.exit_code is None, f"a running job has no exit code, but {status.exit_code}"
            if status.started_at is not None and status.ends_at is not None:
                assert status.ends_at > status.started_at, f"a job ends after it has started: {status}"

    def test_the_same_spec_is_the_same_job(self) -> None:
        provider = self.make_provider()
        spec = self.spec("sleep", "600")
        job = provider.submit(spec)
        again = provider.submit(spec)
        other = provider.submit(self.spec("sleep", "600"))
        provider.cancel([job, again, other])
        assert again == job, (
            f"a second submit with the same spec.id returns the same job, not {again!r} beside {job!r}"
        )
        assert other != job, f"another spec.id is another job, but both are {job!r}"

    def test_status_of_many_jobs_has_each_id(self) -> None:
        provider = self.make_provider()
        jobs = [provider.submit(self.spec("sleep", "600")) for _ in range(5)]
        stranger = JobId("999999999")
        answer = provider.status([*jobs, stranger])
        provider.cancel(jobs)
        missing = [job for job in (*jobs, stranger) if job not in answer]
        assert not missing, (
            f"each id is in the answer of status(), an unknown one too, but these are not: {missing}"
        )
        state = answer[stranger].state
        assert state in (JobState.GONE, JobState.UNKNOWN), (
            f"a job that nobody knows is GONE or UNKNOWN, not {state}"
        )

    def test_status_of_nothing_is_nothing(self) -> None:
        assert not self.make_provider().status([]), "status([]) has nothing to say"

    def test_a_cancelled_job_ends(self) -> None:
        provider = self.make_provider()
        with self.running_job(provider) as job:
            provider.cancel([job])
            ends = [state for state in JobState if state.terminal]
            status = self.wait_for(provider, job, *ends)
            expected = (JobState.CANCELLED, JobState.FAILED, JobState.GONE)
            assert status.state in expected, (
                f"a cancelled job is CANCELLED, or at least not a success: {status}"
            )

    def test_cancelling_ended_and_unknown_jobs_is_no_error(self) -> None:
        provider = self.make_provider()
        job = provider.submit(self.spec("true"))
        self.wait_for(provider, job, JobState.COMPLETED, JobState.GONE)
        provider.cancel([job, JobId("999999999")])
        provider.cancel([])

    def test_an_end_stays_an_end(self) -> None:
        provider = self.make_provider()
        job = provider.submit(self.spec("true"))
        ended = self.wait_for(provider, job, JobState.COMPLETED, JobState.GONE).state
        for _ in range(3):
            self.tick(provider)
            state = self.ask(provider, job).state
            assert state.terminal, f"a state once terminal stays, but {ended} became {state}"
        provider.cancel([job])
        state = self.ask(provider, job).state
        assert state.terminal, f"a state once terminal stays, but {ended} became {state}"
        assert state is not JobState.CANCELLED, (
            f"a cancel after the end does not rewrite it: {ended} became {state}"
        )

    def test_a_query_that_fails_is_not_an_end(self) -> None:
        provider = self.make_provider()
        with self.running_job(provider) as job:
            with self.failing_queries(provider):
                status = self.status_without_answers(provider, job)
            assert status.state is JobState.UNKNOWN, (
                f"a query that fails makes a job UNKNOWN, not {status.state}"
            )
            assert status.reason, "an UNKNOWN job comes with the reason why the query failed"
            self.wait_for(provider, job, JobState.RUNNING)

    def status_without_answers(self, provider: Provider, job: JobId) -> JobStatus:
        """What is said of a running job once the last answer that there was counts no more."""
        limit, pause = self.timeout, max(0.01, min(provider.poll_interval, 0.2))
        status = self.query_that_may_not_raise(provider, job)[job]
        while status.state is JobState.RUNNING and limit > 0:
            limit -= pause
            self.tick(provider)
            status = self.query_that_may_not_raise(provider, job)[job]
        return status

    def query_that_may_not_raise(self, provider: Provider, job: JobId) -> Mapping[JobId, JobStatus]:
        """Ask for a job's status; that a query fails is an answer, not an exception."""
        try:
            return provider.status([job])
        except Exception as error:
            raise AssertionError(f"a query that fails does not raise, but it did: {error!r}") from error

    def test_jobs_are_found_by_tag_until_they_end(self) -> None:
        provider, tag = self.make_provider(), f"suite-{uuid.uuid4().hex[:12]}"
        with self.running_job(provider, tag, "findme") as job:
            found = dict(provider.find(tag))
            if not found:
                skip("this batch system cannot be searched")
            assert found == {job: "findme"}, (
                f"find() gives the jobs with the tag and their names, not {found}"
            )
            assert not provider.find(tag + "x"), "find() gives no job with another tag"
            provider.cancel([job])
            self.wait_for(provider, job, *self.terminal_states())
            assert job not in provider.find(tag), "find() gives no job that has ended"

    def test_jobs_are_found_with_what_they_were_submitted_for_until_they_end(self) -> None:
        provider, tag = self.make_provider(), f"suite-{uuid.uuid4().hex[:12]}"
        if not isinstance(provider, SearchableProvider):
            skip("this provider does not know again what a job was submitted for")
        specs = [self.spec("sleep", "600", tag=tag) for _ in range(2)]
        jobs = {spec.id: provider.submit(spec) for spec in specs}
        try:
            found = dict(provider.find_specs(tag))
            assert found == jobs, f"find_specs() gives what was just submitted, too: {jobs}, not {found}"
            for job in jobs.values():
                self.wait_for(provider, job, JobState.RUNNING)
            found = dict(provider.find_specs(tag))
            assert found == jobs, f"find_specs() gives jobs that run: {jobs}, not {found}"
            assert not provider.find_specs(tag + "x"), "find_specs() gives no job with another tag"
            ended = jobs.pop(specs[0].id)
            provider.cancel([ended])
            self.wait_for(provider, ended, *self.terminal_states())
            found = dict(provider.find_specs(tag))
            assert found == jobs, f"find_specs() gives no job that has ended: {jobs}, not {found}"
        finally:
            provider.cancel(list(jobs.values()))

    def terminal_states(self) -> Sequence[JobState]:
        """All ways to end."""
        return [state for state in JobState if state.terminal]

    def test_close_leaves_jobs_alone_and_may_come_twice(self) -> None:
        provider = self.make_provider()
        job = provider.submit(self.spec("sleep", "600"))
        self.wait_for(provider, job, JobState.RUNNING)
        state = self.ask(provider, job).state
        provider.cancel([job])
        provider.close()
        provider.close()
        assert not state.terminal, f"a job that sleeps has not ended: {state}"

    def test_what_jobs_leave_is_removed_when_it_is_asked_for(self) -> None:
        provider = self.make_provider()
        if not isinstance(provider, TidyProvider):
            skip("this provider does not remove files")
        spec = self.spec("false")
        job = provider.submit(spec)
        self.wait_for(provider, job, *self.terminal_states())
        outputs = provider.remove_files(spec.directory, [spec.id])
        strange = [name for name in outputs if not name.startswith(f"{spec.id}.")]
        assert not strange, f"files are named after their job's specification, {spec.id}: {strange}"
        provider.close()
        again = provider.remove_files(spec.directory, [spec.id])
        assert not again, f"what was removed is not there any more, but it is: {again}"


class ArrayProviderSuite(ProviderSuite):
    """The same for an :class:`ArrayProvider` that takes several jobs at once."""

    def specs(self, *commands: Sequence[str], tag: str = "") -> list[JobSpec]:
        """Small jobs that can be one submission."""
        first = self.spec(tag=tag)
        return [
            replace(first, id=f"suite-{uuid.uuid4().hex}", command=command, input=str(number).encode())
            for number, command in enumerate(commands)
        ]

    def array(self) -> ArrayProvider:
        """A provider that takes three jobs at once."""
        provider = self.make_provider()
        assert isinstance(provider, ArrayProvider), f"it is no ArrayProvider: {provider!r}"
        assert provider.array_size >= 3, f"it takes {provider.array_size} jobs at once, the suite submits 3"
        return provider

    def test_each_job_of_an_array_has_its_own_command_input_and_end(self) -> None:
        provider = self.array()
        script = 'read number; [ "$number" = "$0" ] || exit 99; exit "$1"'
        specs = self.specs(*(["sh", "-c", script, str(number), str(number + 3)] for number in range(3)))
        jobs = provider.submit_array(specs)
        assert list(jobs) == [spec.id for spec in specs], "each specification has a job in the answer"
        assert len(set(jobs.values())) == 3, f"each has a job of its own: {jobs}"
        for number, spec in enumerate(specs):
            status = self.wait_for(provider, jobs[spec.id], JobState.FAILED)
            assert status.exit_code in (number + 3, None), f"its command ended with {number + 3}: {status}"

    def test_a_job_of_an_array_is_the_same_when_it_is_submitted_again(self) -> None:
        provider = self.array()
        specs = self.specs(*[["sleep", "600"]] * 3)
        jobs = dict(provider.submit_array(specs))
        try:
            other = self.array()
            assert dict(provider.submit_array(specs)) == jobs, "again by the same provider"
            assert dict(other.submit_array(specs[1:])) == {each.id: jobs[each.id] for each in specs[1:]}
            assert self.array().submit(specs[0]) == jobs[specs[0].id], "again by itself"
        finally:
            provider.cancel(list(jobs.values()))

    def test_a_job_of_an_array_is_cancelled_by_itself(self) -> None:
        provider, tag = self.array(), f"suite-{uuid.uuid4().hex[:12]}"
        specs = self.specs(*[["sleep", "600"]] * 3, tag=tag)
        jobs = provider.submit_array(specs)
        try:
            for job in jobs.values():
                self.wait_for(provider, job, JobState.RUNNING)
            assert dict(provider.find(tag)) == dict.fromkeys(jobs.values(), specs[0].name)
            if isinstance(provider, SearchableProvider):
                assert dict(provider.find_specs(tag)) == jobs, "each has a specification of its own"
            provider.cancel([jobs[specs[1].id]])
            self.wait_for(provider, jobs[specs[1].id], *self.terminal_states())
            left = {jobs[specs[0].id], jobs[specs[2].id]}
            assert set(provider.find(tag)) == left, "the others are left alone"
        finally:
            provider.cancel(list(jobs.values()))
