"""The batch systems that cannot be run here, behind commands that behave as theirs do over time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import pytest
from weft_interfaces import ConfigError, JobState, Provider, ProviderError
from weft_interfaces.testing import ProviderSuite
from weft_provider_batch import (
    BatchProvider,
    HTCondorProvider,
    LSFProvider,
    PBSProProvider,
    TorqueProvider,
)

pytestmark = pytest.mark.once


class FakeSuite(ProviderSuite):
    """What all must show; the clock that decides when to ask is advanced by hand."""

    timeout = 20.0
    kind: ClassVar[str]
    provider: ClassVar[type[BatchProvider]]
    chatty: ClassVar[bool] = True
    """Whether its commands may print more than their answer: a site wraps them."""

    @pytest.fixture(autouse=True)
    def batch_system(self, fake: Any, clock: Any) -> None:
        self.fake, self.clock = fake(self.kind), clock

    def make_provider(self, **options: Any) -> BatchProvider:
        return self.provider(channel=self.fake, poll_interval=1, **options)

    def directory(self) -> str:
        return "it's jobs"

    def tick(self, provider: Provider) -> None:
        self.clock.now += 10
        threading.Event().wait(0.05)

    @contextmanager
    def failing_queries(self, provider: Provider) -> Iterator[None]:
        self.fake.settings(fail="cannot connect to server", fail_status=255)
        self.clock.now += 100
        yield
        self.fake.settings()
        self.clock.now += 100

    # -- over time ------------------------------------------------------------------------------------------

    def test_junk_before_the_answers_makes_no_difference(self) -> None:
        self.fake.banner = b"Loading gcc/12\n  5\n12\nWelcome!\n"
        if self.chatty:
            self.fake.settings(junk="Loading gcc/12\n  5 modules\nWelcome!\n")
        self.test_a_job_that_fails_is_failed_with_its_exit_code()

    @pytest.mark.parametrize(
        "how",
        [{"cut": 30}, {"fail": "timed out"}, {"fail": "out of order"}, {"instead": "<html>502</html>"}],
    )
    def test_no_answer_and_half_an_answer_end_nothing(self, how: dict[str, Any]) -> None:
        provider = self.make_provider()
        with self.running_job(provider) as job:
            self.fake.settings(**how)
            for _ in range(20):
                self.clock.now += 100
                status = self.ask(provider, job)
                assert not status.state.terminal
                if status.state is JobState.RUNNING:  # only the end of it was missing
                    break
            self.fake.settings()
            self.clock.now += 100
            self.wait_for(provider, job, JobState.RUNNING)

    def test_a_slow_answer_is_no_end(self) -> None:
        provider, impatient = self.make_provider(), self.make_provider(command_timeout=1)
        with self.running_job(provider) as job:
            self.fake.settings(slow=2)
            self.clock.now += 100
            status = self.ask(impatient, job)
            assert status.state is JobState.UNKNOWN
            assert "no answer within 1 s" in status.reason
            self.fake.settings()
            self.clock.now += 100
            self.wait_for(provider, job, JobState.RUNNING)

    def test_a_job_that_is_forgotten_is_known_by_what_it_left(self) -> None:
        for command, state, code in (("true", JobState.COMPLETED, 0), ("exit 7", JobState.FAILED, 7)):
            provider = self.make_provider()
            job = provider.submit(self.spec("sh", "-c", command))
            self.fake.until(lambda job=job: self.fake.ended(job))
            self.fake.forget(job)
            status = self.wait_for(provider, job, state)
            assert status.exit_code == code

    def test_a_job_whose_walltime_is_over_is_a_timeout(self) -> None:
        self.fake.settings(minute=1)
        provider = self.make_provider()
        job = provider.submit(self.fake.short(self.spec("sleep", "600")))
        status = self.wait_for(provider, job, JobState.TIMEOUT)
        assert status.reason

    def test_a_held_job_is_held_with_its_reason(self) -> None:
        self.fake.settings(hold=True)
        provider = self.make_provider()
        job = provider.submit(self.spec("true"))
        assert self.wait_for(provider, job, JobState.HELD).reason
        provider.cancel([job])
        assert self.wait_for(provider, job, JobState.CANCELLED).reason

    def test_an_answer_that_got_lost_doubles_nothing(self) -> None:
        spec = self.spec("sleep", "600")
        self.fake.lose_answers()
        with pytest.raises(ProviderError):
            self.make_provider().submit(spec)
        self.fake.install()
        provider = self.make_provider()
        job = provider.submit(spec)
        assert list(self.fake.jobs()) == [1]
        provider.cancel([job])

    def test_many_jobs_are_asked_for_at_once(self) -> None:
        provider = self.make_provider()
        jobs = [provider.submit(self.spec("sleep", "600")) for _ in range(4)]
        self.wait_for(provider, jobs[-1], JobState.RUNNING)
        before = self.fake.queries()
        answer = provider.status(jobs)
        self.clock.now += 10
        answer = provider.status(jobs)
        assert self.fake.queries() == before + 1
        assert {status.state for status in answer.values()} == {JobState.RUNNING}
        provider.cancel(jobs)


class TestPBSPro(FakeSuite):
    kind = "pbs"
    provider = PBSProProvider

    @pytest.mark.parametrize(
        "how", [{"json": "plain"}, {"json": "first"}, {"json": "broken"}, {"history": False}, {}]
    )
    def test_whatever_its_version_and_settings(self, how: dict[str, Any]) -> None:
        self.fake.settings(**how)
        provider = self.make_provider()
        jobs = [provider.submit(self.spec("sleep", "600", tag="tag", name=f"b{n}")) for n in range(3)]
        for job in jobs:
            status = self.wait_for(provider, job, JobState.RUNNING)
            assert status.hosts == ("node1", "node2")
            assert status.ends_at is not None
            assert status.started_at is not None
            assert status.ends_at - status.started_at == 600
        assert provider.find("tag") == dict(zip(jobs, ("b0", "b1", "b2"), strict=True))
        provider.cancel(jobs[:2])
        for job in jobs[:2]:
            self.wait_for(provider, job, JobState.CANCELLED)
        assert self.ask(provider, jobs[2]).state is JobState.RUNNING
        provider.cancel(jobs)
        done = provider.submit(self.spec("sh", "-c", "exit 3"))
        assert self.wait_for(provider, done, JobState.FAILED).exit_code == 3

    @pytest.mark.parametrize("history", [True, False])
    def test_several_that_end_at_once_while_nothing_else_is_there(self, history: bool) -> None:
        self.fake.settings(history=history)
        provider = self.make_provider()
        jobs = [provider.submit(self.spec("sh", "-c", f"exit {code}")) for code in (3, 4, 5)]
        ends = [self.wait_for(provider, job, JobState.FAILED).exit_code for job in jobs]
        assert ends == [3, 4, 5]

    def test_an_unknown_queue_is_named(self) -> None:
        with pytest.raises(ConfigError, match=r"Unknown queue.*`queue`") as caught:
            self.make_provider(queue="nosuch").submit(self.spec("true"))
        assert caught.value.key == "queue"


class TestTorque(FakeSuite):
    kind = "torque"
    provider = TorqueProvider

    def test_an_unknown_queue_is_named(self) -> None:
        with pytest.raises(ConfigError, match=r"Unknown queue MSG.*`queue`"):
            self.make_provider(queue="nosuch").submit(self.spec("true"))


class TestLSF(FakeSuite):
    kind = "lsf"
    provider = LSFProvider

    def test_an_unknown_queue_is_named(self) -> None:
        with pytest.raises(ConfigError, match=r"No such queue.*`queue`"):
            self.make_provider(queue="nosuch").submit(self.spec("true"))


class TestHTCondor(FakeSuite):
    kind = "condor"
    provider = HTCondorProvider
    chatty = False  # nothing is an answer, too, so that what is none cannot be told from something else

    def test_wrong_requirements_are_named(self) -> None:
        with pytest.raises(ConfigError, match=r"Parse error.*`requirements`"):
            self.make_provider(requirements="nosuch").submit(self.spec("true"))


@pytest.mark.parametrize(
    ("kind", "provider"),
    [("pbs", PBSProProvider), ("torque", TorqueProvider), ("lsf", LSFProvider), ("condor", HTCondorProvider)],
)
def test_all_paths_and_commands_are_those_of_the_channels_host(
    kind: str, provider: type[BatchProvider], far: Any, make: Any, clock: Any
) -> None:
    channel = far(kind)
    batch = provider(channel=channel)
    script = 'cat; echo "$WEFT_JOB_TAG" >&2; exit 3'
    spec = make.spec(command=["sh", "-c", script], directory="its jobs", tag="t g", input=b"secret")
    job = batch.submit(spec)

    def ended() -> bool:
        clock.now += 10
        return batch.status([job])[job].state.terminal

    channel.until(ended)
    status = batch.status([job])[job]
    assert (status.state, status.exit_code, status.stderr_tail) == (JobState.FAILED, 3, "t g\n")
    assert (channel.home / "its jobs" / f"{spec.id}.out").read_bytes() == b"secret"
    assert not (channel.home / "its jobs" / f"{spec.id}.in").exists()
    assert channel.far.strays() == []
