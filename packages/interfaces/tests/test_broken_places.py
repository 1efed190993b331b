"""Providers, launchers, channels and stagings that break a promise fail in that promise's test."""

from __future__ import annotations

import itertools
import os
import shlex
import threading
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from weft_interfaces import ChannelError, CommandResult, DirectLauncher, JobState, JobStatus, ProviderError
from weft_interfaces.memory import InMemoryChannel, InMemoryProvider, InMemoryStaging
from weft_interfaces.testing import ChannelSuite, LauncherSuite, ProviderSuite, StagingSuite

pytestmark = pytest.mark.once  # it is the suites that are tested

# -- providers ----------------------------------------------------------------------------------------------


class Provider(InMemoryProvider):
    def __init__(self):
        super().__init__(queue_time=3.0)


class FailingQueryIsAnEnd(Provider):
    def status(self, ids):
        answer = super().status(ids)
        gone = JobStatus(state=JobState.GONE, reason="not in the listing")
        return {i: gone if status.state is JobState.UNKNOWN else status for i, status in answer.items()}


class FailingQueryRaises(Provider):
    def status(self, ids):
        answer = super().status(ids)
        if any(status.state is JobState.UNKNOWN for status in answer.values()):
            raise ProviderError("squeue: connection refused")
        return answer


class FailsWithoutReason(Provider):
    def status(self, ids):
        return {i: replace(status, reason="") for i, status in super().status(ids).items()}


class SubmitsTwice(Provider):
    count = itertools.count()

    def submit(self, spec):
        return super().submit(replace(spec, id=f"{spec.id}-{next(self.count)}"))


class SubmitsOnce(Provider):
    def submit(self, spec):
        return super().submit(replace(spec, id="always the same"))


class OmitsUnknownJobs(Provider):
    def status(self, ids):
        return super().status([job_id for job_id in ids if job_id in self.specs])


class InventsJobs(Provider):
    def status(self, ids):
        running = JobStatus(state=JobState.RUNNING)
        return {i: status if i in self.specs else running for i, status in super().status(ids).items()}


class ForgetsEnds(Provider):
    asked = itertools.count()

    def status(self, ids):
        pending = JobStatus(state=JobState.PENDING)
        odd = next(self.asked) % 2
        return {i: pending if odd and s.state.terminal else s for i, s in super().status(ids).items()}


class CancelRewritesEnds(Provider):
    def cancel(self, ids):
        super().cancel(ids)
        for job_id in ids:
            if job_id in self._jobs:
                self._jobs[job_id].status = JobStatus(state=JobState.CANCELLED)


class CancelRaises(Provider):
    def cancel(self, ids):
        for job_id in ids:
            if self._jobs[job_id].status.state.terminal:
                raise ProviderError("no such job")
        super().cancel(ids)


class CancelDoesNothing(Provider):
    def cancel(self, ids):
        pass


class FailureIsSuccess(Provider):
    def status(self, ids):
        done = JobStatus(state=JobState.COMPLETED)
        return {i: done if s.state is JobState.FAILED else s for i, s in super().status(ids).items()}


class LosesExitCodes(Provider):
    def status(self, ids):
        return {i: replace(status, exit_code=None) for i, status in super().status(ids).items()}


class FindsEndedJobs(Provider):
    def find(self, tag):
        return {job_id: spec.name for job_id, spec in self.specs.items() if spec.tag == tag}


class FindsAllJobs(Provider):
    def find(self, tag):
        return {job_id: spec.name for job_id, spec in self.specs.items()}


class FindsSpecsOfEndedJobs(Provider):
    def find_specs(self, tag):
        return {spec.id: job_id for job_id, spec in self.specs.items() if spec.tag == tag}


class FindsSpecsOfRunningJobsOnly(Provider):
    def find_specs(self, tag):
        states = super().status(list(self.specs))
        found = super().find_specs(tag)
        return {name: job for name, job in found.items() if states[job].state is JobState.RUNNING}


class CloseEndsJobs(Provider):
    def submit(self, spec):
        job_id = super().submit(spec)
        self.close()
        return job_id

    def close(self):
        self.cancel(list(self.specs))


class EndsBeforeItStarts(Provider):
    def status(self, ids):
        return {
            i: replace(s, ends_at=s.started_at and s.started_at - 1) for i, s in super().status(ids).items()
        }


PROVIDERS = [
    (FailingQueryIsAnEnd, "test_a_query_that_fails_is_not_an_end"),
    (FailingQueryRaises, "test_a_query_that_fails_is_not_an_end"),
    (FailsWithoutReason, "test_a_query_that_fails_is_not_an_end"),
    (SubmitsTwice, "test_the_same_spec_is_the_same_job"),
    (SubmitsOnce, "test_the_same_spec_is_the_same_job"),
    (OmitsUnknownJobs, "test_status_of_many_jobs_has_each_id"),
    (InventsJobs, "test_status_of_many_jobs_has_each_id"),
    (ForgetsEnds, "test_an_end_stays_an_end"),
    (CancelRewritesEnds, "test_an_end_stays_an_end"),
    (CancelRaises, "test_cancelling_ended_and_unknown_jobs_is_no_error"),
    (CancelDoesNothing, "test_a_cancelled_job_ends"),
    (FailureIsSuccess, "test_a_job_that_fails_is_failed_with_its_exit_code"),
    (LosesExitCodes, "test_a_job_that_fails_is_failed_with_its_exit_code"),
    (FindsEndedJobs, "test_jobs_are_found_by_tag_until_they_end"),
    (FindsAllJobs, "test_jobs_are_found_by_tag_until_they_end"),
    (FindsSpecsOfEndedJobs, "test_jobs_are_found_with_what_they_were_submitted_for_until_they_end"),
    (FindsSpecsOfRunningJobsOnly, "test_jobs_are_found_with_what_they_were_submitted_for_until_they_end"),
    (CloseEndsJobs, "test_close_leaves_jobs_alone_and_may_come_twice"),
    (EndsBeforeItStarts, "test_a_running_job_says_since_when"),
]


@contextmanager
def failing_queries(provider):
    provider.fail_queries()
    yield


@pytest.mark.parametrize(("provider", "test"), PROVIDERS, ids=lambda part: getattr(part, "__name__", part))
def test_a_broken_provider_fails(suite_fails, provider, test):
    suite_fails(
        ProviderSuite,
        test,
        ProviderError,
        KeyError,
        make_provider=provider,
        directory=lambda: "/memory",
        tick=lambda provider: provider.advance(1.0),
        failing_queries=failing_queries,
    )


# -- launchers ----------------------------------------------------------------------------------------------


class JoinsForAShell:
    def wrap(self, command, shape):
        return ["sh", "-c", " ".join(command)]


class HidesTheExitStatus:
    def wrap(self, command, shape):
        return ["sh", "-c", f"{shlex.join(command)}; true"]


class ExpandsVariables:
    def wrap(self, command, shape):
        return [os.path.expandvars(word) for word in command]


class DropsEmptyWords:
    def wrap(self, command, shape):
        return [word for word in command if word]


class CountsItsCalls(DirectLauncher):
    count = itertools.count()

    def wrap(self, command, shape):
        return ["env", f"COUNT={next(self.count)}", *command]


class ChangesTheCommand:
    def wrap(self, command, shape):
        if isinstance(command, list):
            command.insert(0, "env")
        return list(command)


class GivesTheSameList:
    def wrap(self, command, shape):
        return command


class GivesText:
    def wrap(self, command, shape):
        return shlex.join(command)


class GivesNothing:
    def wrap(self, command, shape):
        return []


LAUNCHERS = [
    (JoinsForAShell, "test_arguments_arrive_unchanged"),
    (ExpandsVariables, "test_arguments_arrive_unchanged"),
    (DropsEmptyWords, "test_arguments_arrive_unchanged"),
    (HidesTheExitStatus, "test_the_exit_status_is_that_of_the_command"),
    (CountsItsCalls, "test_it_is_a_pure_function"),
    (ChangesTheCommand, "test_it_is_a_pure_function"),
    (GivesTheSameList, "test_it_is_a_pure_function"),
    (GivesText, "test_it_gives_a_list_of_words"),
    (GivesNothing, "test_it_gives_a_list_of_words"),
    (object, "test_it_is_a_launcher"),
]


@pytest.mark.parametrize(("launcher", "test"), LAUNCHERS, ids=lambda part: getattr(part, "__name__", part))
def test_a_broken_launcher_fails(suite_fails, monkeypatch, launcher, test):
    monkeypatch.setenv("HOME", "/somewhere")
    suite_fails(LauncherSuite, test, timeout=30.0, make_launcher=launcher)


# -- channels -----------------------------------------------------------------------------------------------


class GoesThroughAShell(InMemoryChannel):
    def run(self, argv, **options):
        try:
            argv = shlex.split(" ".join(argv))
        except ValueError:
            return CommandResult(2, b"", b"sh: syntax error")
        return super().run([os.path.expandvars(word) for word in argv], **options)


class RaisesOnFailure(InMemoryChannel):
    def run(self, argv, **options):
        result = super().run(argv, **options)
        if result.exit_status and argv[0] != "rm":
            raise ChannelError(f"exit status {result.exit_status}")
        return result


class MergesStderr(InMemoryChannel):
    def run(self, argv, **options):
        status, stdout, stderr = super().run(argv, **options)
        return CommandResult(status, stdout + stderr, b"")


class CutsOutput(InMemoryChannel):
    def run(self, argv, **options):
        status, stdout, stderr = super().run(argv, **options)
        return CommandResult(status, stdout[:65536], stderr)


class TimesOutQuietly(InMemoryChannel):
    def run(self, argv, **options):
        try:
            return super().run(argv, **options)
        except TimeoutError:
            return CommandResult(-9, b"", b"")


class LeaksEnvironment(InMemoryChannel):
    def __init__(self):
        super().__init__()
        self.leaked = {}

    def run(self, argv, *, environment=None, **options):
        self.leaked.update(environment or {})
        return super().run(argv, environment=self.leaked, **options)


class IgnoresEnvironment(InMemoryChannel):
    def run(self, argv, *, environment=None, **options):
        return super().run(argv, **options)


class IgnoresDirectory(InMemoryChannel):
    def run(self, argv, *, cwd=None, **options):
        return super().run(argv, **options)


class MixesUpThreads(InMemoryChannel):
    last = b""

    def run(self, argv, *, input=b"", **options):
        self.last = input or self.last
        threading.Event().wait(0.002)
        return super().run(argv, input=self.last, **options)


class PutsInParts(InMemoryChannel):
    def put(self, local, remote):
        whole = local.read_bytes()
        super().put(local, remote)
        path = self._path(remote)
        self.files[path] = whole[: len(whole) // 2]
        threading.Event().wait(0.1)
        self.files[path] = whole


class LosesPermissions(InMemoryChannel):
    def get(self, remote, local):
        super().get(remote, local)
        local.chmod(0o644)


class KeepsOldFiles(InMemoryChannel):
    def put(self, local, remote):
        if self._path(remote) not in self.files:
            super().put(local, remote)


class LeavesEmptyFiles(InMemoryChannel):
    def get(self, remote, local):
        local.touch()
        super().get(remote, local)


class LeavesParts(InMemoryChannel):
    def get(self, remote, local):
        super().get(remote, local)
        local.with_suffix(".part").touch()


class MakesDirectoriesOnce(InMemoryChannel):
    def makedirs(self, path, mode=0o700):
        if self._path(path) in self.directories:
            raise FileExistsError(path)
        super().makedirs(path, mode)


class MakesNoParents(InMemoryChannel):
    def makedirs(self, path, mode=0o700):
        if os.path.dirname(self._path(path)) not in self.directories:
            raise FileNotFoundError(path)
        super().makedirs(path, mode)


class CloseLeavesProcesses(InMemoryChannel):
    def close(self):
        pass


class SwallowsTheFirstByte(InMemoryChannel):
    """Loses a byte of what a process writes."""

    def open(self, argv, **options):
        process = super().open(argv, **options)
        read, first = process.read, [True]

        def swallow(size):
            data = read(size)
            if first.pop() if first else False:
                return data[1:]
            return data

        process.read = swallow
        return process


class HidesStderr(InMemoryChannel):
    def open(self, argv, **options):
        process = super().open(argv, **options)
        process.stderr_tail = lambda: ""
        return process


class WritesIntoTheVoid(InMemoryChannel):
    def open(self, argv, **options):
        process = super().open(argv, **options)
        process.write = lambda data: None
        return process


class NoHost(InMemoryChannel):
    host = ""


class FlattensLinks(InMemoryChannel):
    def _put_tree(self, local, path):
        super()._put_tree(local, path)
        self.files.update(dict.fromkeys(self.links, b""))
        self.links.clear()


class OmitsEmptyDirectories(InMemoryChannel):
    def _put_tree(self, local, path):
        super()._put_tree(local, path)
        if not self._below(path):
            del self.directories[path]


class MixesDirectories(InMemoryChannel):
    def put(self, local, remote):
        if local.is_dir():
            self._put_tree(local, self._path(remote))
        else:
            super().put(local, remote)


CHANNELS = [
    (GoesThroughAShell, "test_arguments_arrive_as_they_are"),
    (RaisesOnFailure, "test_the_exit_status_is_the_callers_business"),
    (MergesStderr, "test_stderr_is_kept_apart"),
    (CutsOutput, "test_input_and_output_of_any_size"),
    (TimesOutQuietly, "test_a_timeout_kills_and_raises"),
    (LeaksEnvironment, "test_the_environment_is_added_to_and_does_not_leak"),
    (IgnoresEnvironment, "test_the_environment_is_added_to_and_does_not_leak"),
    (IgnoresDirectory, "test_a_command_runs_in_its_directory"),
    (MixesUpThreads, "test_threads_may_run_commands_at_once"),
    (PutsInParts, "test_the_final_name_never_shows_a_part"),
    (LosesPermissions, "test_permissions_are_kept"),
    (KeepsOldFiles, "test_what_is_there_is_replaced"),
    (LeavesEmptyFiles, "test_a_file_that_is_not_there_cannot_be_had"),
    (LeavesParts, "test_a_file_goes_there_and_back"),
    (MakesDirectoriesOnce, "test_directories_are_made_with_their_parents"),
    (MakesNoParents, "test_directories_are_made_with_their_parents"),
    (FlattensLinks, "test_a_directory_goes_there_and_back_with_all_that_is_in_it"),
    (OmitsEmptyDirectories, "test_a_directory_goes_there_and_back_with_all_that_is_in_it"),
    (MixesDirectories, "test_a_directory_takes_no_place_where_something_is"),
    (CloseLeavesProcesses, "test_close_ends_what_was_opened_and_may_come_twice"),
    (SwallowsTheFirstByte, "test_an_open_process_answers"),
    (SwallowsTheFirstByte, "test_an_open_process_carries_much_in_both_directions"),
    (HidesStderr, "test_the_end_of_stderr_is_known"),
    (WritesIntoTheVoid, "test_writing_to_a_process_that_is_gone_raises"),
    (NoHost, "test_it_is_a_channel_with_a_host"),
]


@pytest.mark.parametrize(("channel", "test"), CHANNELS, ids=lambda part: getattr(part, "__name__", part))
def test_a_broken_channel_fails(suite_fails, channel, test):
    made = []

    def make_channel():
        made.append(channel())
        return made[-1]

    suite_fails(
        ChannelSuite,
        test,
        ChannelError,
        FileExistsError,
        FileNotFoundError,
        timeout=1.0,
        make_channel=make_channel,
    )
    for one in made:
        InMemoryChannel.close(one)


# -- staging ------------------------------------------------------------------------------------------------


class Staging(InMemoryStaging):
    def __init__(self):
        super().__init__("broken")


class ShowsPartsOfPath(Staging):
    def stage_in(self, url, path):
        self._begin(url)
        data = self.files.get(url)
        if data is None:
            raise FileNotFoundError(url)
        with path.open("wb") as file:
            for start in range(0, len(data), 1 << 16):
                file.write(data[start : start + (1 << 16)])
                file.flush()
                threading.Event().wait(0.0002)


class ShowsPartsOfUrl(Staging):
    def stage_out(self, path, url):
        data = path.read_bytes()
        self.files[url] = data[: len(data) // 2]
        threading.Event().wait(0.1)
        self.files[url] = data


class MakesEmptyFiles(Staging):
    def stage_in(self, url, path):
        path.touch()
        super().stage_in(url, path)


class DestroysWhatWasThere(Staging):
    def stage_in(self, url, path):
        path.unlink(missing_ok=True)
        super().stage_in(url, path)


class MissingIsEmpty(Staging):
    def stage_in(self, url, path):
        path.write_bytes(self.files.get(url, b""))


class MovesTheFile(Staging):
    def stage_out(self, path, url):
        super().stage_out(path, url)
        path.unlink()


class LeavesItsParts(Staging):
    def stage_in(self, url, path):
        super().stage_in(url, path)
        path.with_name("leftover.part").touch()


class TranslatesNewlines(Staging):
    def stage_in(self, url, path):
        super().stage_in(url, path)
        path.write_bytes(path.read_bytes().replace(b"\r\n", b"\n"))


class KeepsTheFirst(Staging):
    def stage_out(self, path, url):
        if url not in self.files:
            super().stage_out(path, url)


class QuotesNames(Staging):
    def stage_in(self, url, path):
        super().stage_in(url, Path(path.parent, path.name.replace(" ", "_")))


class HandlesEverything(Staging):
    def handles(self, url):
        return True


class HandlesNothing(Staging):
    def handles(self, url):
        return False


class CannotBePickled(Staging):
    def __init__(self):
        super().__init__()
        self.lock = threading.Lock()


class ForgetsWhenPickled(Staging):
    def __reduce__(self):
        return InMemoryStaging, ("another",)


class OneThreadOnly(Staging):
    def stage_in(self, url, path):
        fixed = path.with_name("download.tmp")
        fixed.write_bytes(self.files[url][:1])
        fixed.write_bytes(self.files[url])
        threading.Event().wait(0.01)
        fixed.rename(path)


class IgnoresForeignUrls(Staging):
    def stage_in(self, url, path):
        if self.handles(url):
            super().stage_in(url, path)


STAGINGS = [
    (ShowsPartsOfPath, "test_the_path_never_shows_a_part"),
    (ShowsPartsOfUrl, "test_the_url_never_shows_a_part"),
    (MakesEmptyFiles, "test_a_file_that_is_not_there_is_not_found"),
    (MissingIsEmpty, "test_a_file_that_is_not_there_is_not_found"),
    (DestroysWhatWasThere, "test_a_move_that_fails_keeps_what_was_there"),
    (MovesTheFile, "test_both_directions_may_be_repeated"),
    (LeavesItsParts, "test_nothing_but_the_file_is_left"),
    (TranslatesNewlines, "test_a_file_goes_there_and_back"),
    (KeepsTheFirst, "test_a_file_goes_there_and_back"),
    (QuotesNames, "test_names_may_be_awkward"),
    (HandlesEverything, "test_it_says_what_it_handles"),
    (HandlesNothing, "test_it_says_what_it_handles"),
    (CannotBePickled, "test_it_survives_pickle"),
    (ForgetsWhenPickled, "test_it_survives_pickle"),
    (OneThreadOnly, "test_threads_may_move_files_at_once"),
    (IgnoresForeignUrls, "test_what_it_does_not_handle_raises"),
]


@pytest.mark.parametrize(("staging", "test"), STAGINGS, ids=lambda part: getattr(part, "__name__", part))
def test_a_broken_staging_fails(suite_fails, staging, test):
    other = (FileNotFoundError, TypeError, AttributeError)
    urls = {"make_staging": staging, "url": lambda name: f"memory://broken/{name}"}
    suite_fails(StagingSuite, test, *other, timeout=5.0, **urls)
