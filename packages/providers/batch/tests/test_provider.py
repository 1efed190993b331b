"""The base: what is asked when, and what the answers mean, whatever the batch system."""

from __future__ import annotations

import copy
import errno
import os
import pickle
import subprocess
import time
from dataclasses import replace
from typing import Any

import pytest
from weft_interfaces import ChannelError, ConfigError, JobId, JobSpec, JobState, ProviderError
from weft_provider_batch import (
    GridEngineProvider,
    HTCondorProvider,
    LSFProvider,
    PBSProProvider,
    SlurmProvider,
    TorqueProvider,
)

pytestmark = pytest.mark.once

PROVIDERS = [
    GridEngineProvider,
    HTCondorProvider,
    LSFProvider,
    PBSProProvider,
    SlurmProvider,
    TorqueProvider,
]

ONE = JobId("1")


def row(state: str, spec: JobSpec, *, job: str = "1", started: str = "-", ends: str = "-") -> str:
    return f"{job} {state} - {started} {ends} weft:{spec.tag}:{spec.id}"


def left(toy: Any, spec: JobSpec, text: str, stderr: str = "") -> None:
    """What a job leaves."""
    (toy.home / "runs" / f"{spec.id}.exit").write_text(f"{text}\n")
    (toy.home / "runs" / f"{spec.id}.err").write_text(stderr)


# -- asking -------------------------------------------------------------------------------------------------


def test_all_providers_of_a_channel_share_one_query(toy: Any, make: Any, clock: Any) -> None:
    first, second = make.provider(channel=toy), make.provider(channel=toy)
    first.status([ONE])
    second.status([ONE, JobId("2")])
    assert toy.calls("toyq") == 1
    clock.now += 10
    second.status([ONE])
    first.status([ONE])
    assert toy.calls("toyq") == 2


def test_a_batch_system_in_trouble_is_asked_less_often_and_then_as_before(
    toy: Any, make: Any, clock: Any, spec: JobSpec
) -> None:
    provider = make.provider(channel=toy)
    toy.command("toyq", "echo out of order >&2; exit 1")
    asked = []
    for second in range(200):
        before = toy.calls("toyq")
        status = provider.status([ONE])[ONE]
        assert status.state is JobState.UNKNOWN
        assert "out of order" in status.reason
        if toy.calls("toyq") > before:
            asked.append(second)
        clock.now += 1
    assert asked == [0, 18, 54, 108, 162]
    toy.command("toyq", "cat queue; echo end")
    toy.queue(row("running", spec))
    clock.now += 60
    assert provider.status([ONE])[ONE].state is JobState.RUNNING


def test_an_answer_without_its_end_and_a_channel_without_a_host_are_no_ends(
    toy: Any, make: Any, clock: Any, spec: JobSpec
) -> None:
    provider = make.provider(channel=toy)
    toy.command("toyq", "cat queue")
    assert "no end" in provider.status([ONE])[ONE].reason
    toy.trouble = ChannelError("the cable is out")
    clock.now += 100
    assert "the cable is out" in provider.status([ONE])[ONE].reason
    toy.trouble = TimeoutError()
    clock.now += 100
    assert "no answer within 30 s" in provider.status([ONE])[ONE].reason
    assert provider.status([ONE])[ONE].state is JobState.UNKNOWN


def test_ends_are_asked_for_no_more(toy: Any, make: Any, clock: Any, spec: JobSpec) -> None:
    provider = make.provider(channel=toy)
    toy.queue(row("completed", spec))
    assert provider.status([ONE])[ONE].state is JobState.COMPLETED
    clock.now += 100
    toy.queue(row("running", spec))
    assert provider.status([ONE])[ONE].state is JobState.COMPLETED
    assert make.provider(channel=toy).status([ONE])[ONE].state is JobState.COMPLETED
    assert toy.calls("toyq") == 1


def test_times_are_by_our_clock(toy: Any, make: Any, clock: Any, spec: JobSpec) -> None:
    toy.command("date", "echo $(($(/bin/date +%s) + 5000))")
    now = time.time()
    toy.queue(row("running", spec, started=str(now + 4990), ends=str(now + 5100)))
    status = make.provider(channel=toy).status([ONE])[ONE]
    assert status.started_at == pytest.approx(now - 10, abs=3)
    assert status.ends_at == pytest.approx(now + 100, abs=3)


def test_a_clock_that_may_be_right_is_taken_for_right(toy: Any, make: Any, clock: Any, spec: JobSpec) -> None:
    toy.queue(row("running", spec, started="1000", ends="2000"))
    status = make.provider(channel=toy).status([ONE])[ONE]
    assert (status.started_at, status.ends_at) == (1000, 2000)


# -- submitting ---------------------------------------------------------------------------------------------


def test_a_submission_without_an_answer_is_looked_up_before_the_next(
    toy: Any, make: Any, clock: Any, spec: JobSpec
) -> None:
    toy.command("toysub", "echo hello")
    provider = make.provider(channel=toy)
    with pytest.raises(ProviderError, match="named no job"):
        provider.submit(spec)
    with pytest.raises(ProviderError, match="may still come"):
        provider.submit(spec)
    toy.queue(row("completed", spec, job="7"), row("running", spec, job="8"))
    assert provider.submit(spec) == "8"
    assert provider.submit(spec) == "8"
    assert toy.calls("toysub") == 1


def test_one_that_never_came_is_submitted_again(toy: Any, make: Any, clock: Any, spec: JobSpec) -> None:
    toy.command("toysub", "echo busy >&2; exit 1")
    provider = make.provider(channel=toy)
    with pytest.raises(ProviderError, match="busy"):
        provider.submit(spec)
    toy.command("toysub", "echo job 3")
    clock.now += 6
    assert provider.submit(spec) == "3"


def test_one_that_has_run_and_is_gone_is_found_by_its_record(
    toy: Any, make: Any, clock: Any, spec: JobSpec
) -> None:
    toy.command("toysub", 'TOY_ID=55 /bin/bash "$1"; exit 1')
    with pytest.raises(ProviderError):
        make.provider(channel=toy).submit(spec)
    provider = make.provider(channel=toy)
    assert provider.submit(spec) == "55"
    clock.now += 100
    assert provider.status([JobId("55")])[JobId("55")].state is JobState.COMPLETED


def test_while_it_cannot_be_looked_up_nothing_is_submitted(
    toy: Any, make: Any, clock: Any, spec: JobSpec
) -> None:
    toy.command("toysub", "exit 1")
    provider = make.provider(channel=toy)
    with pytest.raises(ProviderError):
        provider.submit(spec)
    toy.command("toyq", "echo out of order; exit 1")
    clock.now += 100
    with pytest.raises(ProviderError, match="out of order"):
        provider.submit(spec)
    assert toy.calls("toysub") == 1


@pytest.mark.parametrize(("said", "key"), [("no such colour", "colour"), ("Refused by the site", "")])
def test_a_refusal_is_wrong_input_and_leaves_no_input(
    toy: Any, make: Any, clock: Any, said: str, key: str
) -> None:
    toy.command("toysub", f"echo '{said}' >&2; exit 1")
    spec = make.spec(input=b"secret")
    with pytest.raises(ConfigError, match=said) as caught:
        make.provider(channel=toy).submit(spec)
    assert caught.value.key == key
    assert list((toy.home / "runs").iterdir()) == []


def test_a_refusal_that_may_pass_may_be_tried_again(toy: Any, make: Any, spec: JobSpec) -> None:
    toy.command("toysub", "echo 'refused: busy' >&2; exit 1")
    with pytest.raises(ProviderError, match="refused: busy"):
        make.provider(channel=toy).submit(spec)


def test_a_missing_command_says_where_it_was_looked_for(toy: Any, make: Any, spec: JobSpec) -> None:
    (toy.bin / "toysub").unlink()
    with pytest.raises(ConfigError, match=r"`toysub` is not found on toy.*PATH there, which is .*home/bin:"):
        make.provider(channel=toy).submit(spec)


@pytest.mark.parametrize(
    ("trouble", "kind"),
    [
        (PermissionError(errno.EACCES, "no"), ConfigError),
        (OSError(errno.EROFS, "no"), ConfigError),
        (OSError(errno.ENOSPC, "no room"), ProviderError),
        (ChannelError("away"), ProviderError),
        (TimeoutError(), ProviderError),
    ],
)
def test_what_happens_to_files_is_wrong_input_or_may_pass(
    toy: Any, make: Any, spec: JobSpec, trouble: Exception, kind: type[Exception]
) -> None:
    toy.trouble = trouble
    with pytest.raises(kind, match="'runs' on toy"):
        make.provider(channel=toy).submit(spec)


@pytest.mark.parametrize(
    "settings",
    [
        {"id": ""},
        {"id": "a/b"},
        {"id": "a\nb"},
        {"command": []},
        {"command": ["a\0"]},
        {"directory": "a\nb"},
        {"environment": {"a b": "c"}},
    ],
)
def test_jobs_that_cannot_be_are_refused(toy: Any, make: Any, settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        make.provider(channel=toy).submit(make.spec(**settings))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"poll_interval": 0.5}, "poll_interval must be at least 1 s"),
        ({"worker_init": "a\0"}, "worker_init"),
        ({"scheduler_options": "a\0"}, "scheduler_options"),
    ],
)
def test_options_that_are_wrong_are_named(make: Any, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make.provider(**settings)


# -- ends ---------------------------------------------------------------------------------------------------


def submitted(toy: Any, provider: Any, clock: Any, spec: JobSpec, **times: str) -> None:
    provider.submit(spec)
    assert provider.status([ONE])[ONE].state is JobState.PENDING
    clock.now += 10
    toy.queue(row("running", spec, **times))
    assert provider.status([ONE])[ONE].state is JobState.RUNNING
    clock.now += 10
    toy.queue()


def test_a_job_that_vanished_is_looked_up_in_the_accounting(
    toy: Any, make: Any, clock: Any, spec: JobSpec
) -> None:
    provider = make.provider(channel=toy)
    submitted(toy, provider, clock, spec)
    toy.accounts(row("timeout", spec))
    left(toy, spec, "143 command", "the end\n")
    status = provider.status([ONE])[ONE]
    assert (status.state, status.stderr_tail) == (JobState.TIMEOUT, "the end\n")


@pytest.mark.parametrize("away", ["echo disabled", "exit 1"])
@pytest.mark.parametrize(
    ("text", "state", "code", "words"),
    [
        ("0 command", JobState.COMPLETED, 0, ""),
        ("3 command", JobState.FAILED, 3, "exit status 3"),
        ("3 worker_init", JobState.FAILED, 3, "worker_init failed with exit status 3"),
        ("127 command", JobState.FAILED, 127, "not found on the node"),
        ("126 command", JobState.FAILED, 126, "could not be run"),
    ],
)
def test_without_accounting_its_exit_file_tells(
    toy: Any,
    make: Any,
    clock: Any,
    spec: JobSpec,
    away: str,
    text: str,
    state: JobState,
    code: int,
    words: str,
) -> None:
    toy.command("toyacct", away)
    provider = make.provider(channel=toy)
    submitted(toy, provider, clock, spec)
    left(toy, spec, text)
    status = provider.status([ONE])[ONE]
    assert (status.state, status.exit_code) == (state, code)
    assert words in status.reason


def test_thousands_that_vanish_at_once_are_looked_up_in_commands_that_hosts_can_run(
    toy: Any, make: Any, clock: Any, spec: JobSpec
) -> None:
    ids = [JobId(str(number)) for number in range(1, 1201)]
    toy.accounts(*(row("completed", spec, job=job) for job in ids))
    answer = make.provider(channel=toy).status(ids)
    assert {status.state for status in answer.values()} == {JobState.COMPLETED}
    assert toy.calls("toyq") == 1
    assert toy.calls("toyacct") == 3


@pytest.mark.parametrize("provider", PROVIDERS)
def test_no_command_has_a_word_that_is_too_long_for_a_host(provider: Any) -> None:
    ids = [JobId(f"{number}.pbs-server-01.cluster.example.org") for number in range(10**6, 10**6 + 500)]
    if provider is HTCondorProvider:
        ids = [JobId(f"{number}.0") for number in range(10**6, 10**6 + 500)]
    made = provider()
    for command in (made.queue_command(ids), made.accounting_command(ids), made.cancel_command(ids)):
        words = [len(word) for word in command or ()]
        assert max(words, default=0) < 100_000
        assert sum(words) < 200_000


@pytest.mark.parametrize(("cancelled", "state"), [(True, JobState.CANCELLED), (False, JobState.FAILED)])
def test_one_that_is_listed_as_killed_is_cancelled_if_we_have_asked_for_it(
    toy: Any, make: Any, clock: Any, spec: JobSpec, cancelled: bool, state: JobState
) -> None:
    provider = make.provider(channel=toy)
    provider.submit(spec)
    if cancelled:
        provider.cancel([ONE])
    toy.queue(row("failed", spec, started="1000", ends="2000"))  # the end is when it ended
    clock.now += 10
    assert provider.status([ONE])[ONE].state is state


def test_one_that_left_nothing_is_gone_after_several_answers(
    toy: Any, make: Any, clock: Any, spec: JobSpec
) -> None:
    provider = make.provider(channel=toy)
    submitted(toy, provider, clock, spec)
    for _ in range(2):
        status = provider.status([ONE])[ONE]
        assert status.state is JobState.UNKNOWN
        assert "lists it no longer" in status.reason
        assert provider.status([ONE])[ONE].state is JobState.UNKNOWN
        clock.now += 10
    toy.command("toyq", "exit 1")  # says nothing
    provider.status([ONE])
    clock.now += 100
    toy.command("toyq", "echo end")
    assert provider.status([ONE])[ONE].state is JobState.GONE


def test_one_that_comes_back_was_not_gone(toy: Any, make: Any, clock: Any, spec: JobSpec) -> None:
    provider = make.provider(channel=toy)
    submitted(toy, provider, clock, spec)
    for _ in range(6):
        for state, rows in ((JobState.UNKNOWN, ()), (JobState.RUNNING, (row("running", spec),))):
            toy.queue(*rows)
            clock.now += 10
            assert provider.status([ONE])[ONE].state is state


def test_accounting_that_does_not_answer_makes_nothing_certain_soon(
    toy: Any, make: Any, clock: Any, spec: JobSpec
) -> None:
    provider = make.provider(channel=toy)
    submitted(toy, provider, clock, spec)
    toy.command("toyacct", "exit 1")
    for _ in range(11):
        assert provider.status([ONE])[ONE].state is JobState.UNKNOWN
        clock.now += 10
    assert provider.status([ONE])[ONE].state is JobState.GONE


@pytest.mark.parametrize("text", ["", "143 command"])
def test_one_that_was_cancelled_is_cancelled(
    toy: Any, make: Any, clock: Any, spec: JobSpec, text: str
) -> None:
    provider = make.provider(channel=toy)
    submitted(toy, provider, clock, spec)
    provider.cancel([ONE, JobId("2"), ONE])
    assert (toy.home / "deleted").read_text() == "1 2\n"
    if text:
        left(toy, spec, text)
    for _ in range(3):
        status = provider.status([ONE])[ONE]
        clock.now += 10
    assert status.state is JobState.CANCELLED


@pytest.mark.parametrize("text", ["", "143 command"])
def test_one_whose_walltime_was_over_is_a_timeout(
    toy: Any, make: Any, clock: Any, spec: JobSpec, text: str
) -> None:
    provider = make.provider(channel=toy)
    submitted(toy, provider, clock, spec, started="1000", ends=str(int(time.time()) - 1))
    if text:
        left(toy, spec, text)
    for _ in range(3):
        status = provider.status([ONE])[ONE]
        clock.now += 10
    assert status.state is JobState.TIMEOUT
    assert "walltime" in status.reason


def test_the_input_is_removed_when_a_job_is_over_and_not_before(toy: Any, make: Any, clock: Any) -> None:
    spec = make.spec(input=b"secret")
    provider = make.provider(channel=toy)
    submitted(toy, provider, clock, spec)
    path = toy.home / "runs" / f"{spec.id}.in"
    provider.status([ONE])
    assert path.stat().st_mode & 0o777 == 0o600
    toy.queue(row("failed", spec))
    clock.now += 10
    assert provider.status([ONE])[ONE].state is JobState.FAILED
    assert not path.exists()


def test_the_end_of_stderr_may_hold_anything(toy: Any, make: Any, clock: Any) -> None:
    specs = [make.spec() for _ in range(60)]
    provider = make.provider(channel=toy)
    for number, spec in enumerate(specs):
        toy.command("toysub", f"echo job {number}")
        provider.submit(spec)
        left(
            toy,
            spec,
            f"{number % 5} command",
            f"weft-ending 5 0 command\n\xff {number}\n" + "x" * 9000 * (number % 2),
        )
    toy.queue(*(row("failed", spec, job=str(number)) for number, spec in enumerate(specs)))
    clock.now += 10
    answer = provider.status([JobId(str(number)) for number in range(60)])
    assert [status.exit_code for status in answer.values()] == [number % 5 for number in range(60)]
    assert answer[JobId("58")].stderr_tail == "weft-ending 5 0 command\n\xff 58\n"
    assert answer[JobId("59")].stderr_tail == "x" * 8192


def test_one_that_failed_without_a_word_is_given_some(toy: Any, make: Any, clock: Any, spec: JobSpec) -> None:
    provider = make.provider(channel=toy)
    submitted(toy, provider, clock, spec)
    toy.queue(row("failed", spec))
    assert "is its directory there, on its node" in provider.status([ONE])[ONE].reason


def test_a_refused_cancellation_is_said(toy: Any, make: Any, clock: Any) -> None:
    toy.command("toydel", "echo not now >&2; exit 1")
    with pytest.raises(ProviderError, match="not now"):
        make.provider(channel=toy).cancel([ONE])


def test_jobs_are_found_by_tag_and_not_when_nobody_answers(toy: Any, make: Any, clock: Any) -> None:
    spec, other = make.spec(tag="a:b c"), make.spec(tag="b")
    toy.queue(
        f"1 running - - - weft:a%3Ab%20c:{spec.id}",
        row("running", other, job="2"),
        f"3 completed - - - weft:a%3Ab%20c:{spec.id}",
        "4 running - - - weft",
    )
    provider = make.provider(channel=toy)
    assert provider.find("a:b c") == {"1": "toy"}
    assert provider.find_specs("a:b c") == {spec.id: "1"}
    toy.command("toyq", "exit 1")
    for search in (provider.find, provider.find_specs):
        with pytest.raises(ProviderError):
            search("a:b c")


# -- the script ---------------------------------------------------------------------------------------------


def run(script: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", script], env={**os.environ, **variables}, capture_output=True, text=True, timeout=30
    )


def test_the_script_passes_everything_on_as_it_is(make: Any, tmp_path: Any) -> None:
    words = ["a b", "$HOME", "`x`", "it's", '"q"', "new\nline", "*", "${directives}", "\\", ""]
    spec = make.spec(
        command=["printf", "%s|", *words],
        environment={"VALUE": "a'b\n$c"},
        directory=str(tmp_path),
        tag="t'ag",
    )
    provider = make.provider(worker_init='echo "$VALUE|$WEFT_JOB_TAG|$WEFT_JOB_DIRECTORY|" >&2')
    done = run(provider.script(spec), TOY_ID="9")
    assert done.stdout == "".join(f"{word}|" for word in words)
    assert done.stderr == f"a'b\n$c|t'ag|{tmp_path}|\n"
    assert (tmp_path / f"{spec.id}.exit").read_text() == "0 command\n"
    assert (tmp_path / f"{spec.id}.job").read_text() == "9\n"


def test_a_block_is_run_by_one_job_which_may_be_requeued(make: Any, tmp_path: Any) -> None:
    script = make.provider().script(make.spec(command=["echo", "ran"], directory=str(tmp_path)))
    assert [run(script, TOY_ID=job).stdout for job in ("9", "10", "9")] == ["ran\n", "", "ran\n"]


def test_the_options_of_the_site_are_as_they_were_given(make: Any) -> None:
    provider = make.provider(scheduler_options="#TOY -x 'a b'\n\n  -y\n# no option")
    lines = [line for line in provider.script(make.spec(name="a b")).splitlines() if line.startswith("#TOY")]
    assert lines[0] == "#TOY -n 'a b'"
    assert lines[2:] == ["#TOY -x 'a b'", "#TOY -y"]


def test_a_command_has_time_to_end_by_itself(make: Any, tmp_path: Any) -> None:
    ready = tmp_path / "ready"
    program = f"trap 'echo done; exit 5' TERM; touch {ready}; while :; do sleep 0.05; done"
    script = make.provider().script(
        make.spec(id="it", command=["sh", "-c", program], directory=str(tmp_path))
    )
    process = subprocess.Popen(["bash", "-c", script], stdout=subprocess.PIPE, start_new_session=True)
    while not ready.exists():
        assert process.poll() is None
        time.sleep(0.02)
    os.killpg(process.pid, 15)
    stdout, _ = process.communicate(timeout=20)
    assert (process.returncode, stdout) == (5, b"done\n")
    assert (tmp_path / "it.exit").read_text() == "5 command\n"


# -- on another machine -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind",
    [SlurmProvider, GridEngineProvider, PBSProProvider, TorqueProvider, LSFProvider, HTCondorProvider],
)
def test_a_pickled_provider_is_its_settings(kind: Any, make: Any) -> None:
    provider = kind(worker_init="module load x", poll_interval="3 s", cores_per_node=1)
    again = pickle.loads(pickle.dumps(provider, 4))
    spec = make.spec(directory="/runs")
    assert again.script(spec) == provider.script(spec)
    assert "module load x" in again.script(spec)
    assert (again.poll_interval, again.channel) == (3.0, None)


def test_what_a_provider_knows_of_jobs_stays_with_it(toy: Any, make: Any, spec: JobSpec) -> None:
    provider = make.provider(channel=toy)
    toy.queue(row("running", spec))
    provider.status([ONE])
    again = copy.copy(provider)
    again.channel = None
    assert set(vars(provider)) - set(vars(again)) == {"_host", "_queue"}
    assert again._unanswered is not provider._unanswered


# -- what is left -------------------------------------------------------------------------------------------


def test_the_files_of_a_run_go_with_one_command_and_what_is_wanted_of_them_comes(
    toy: Any, make: Any, spec: JobSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = make.provider(channel=toy)
    provider.submit(replace(spec, directory=".weft/runs/it/toy"))
    directory = toy.home / ".weft/runs/it/toy"
    (directory / f"{spec.id}.err").write_text("why")
    ran = []
    run = toy.run
    monkeypatch.setattr(toy, "run", lambda argv, **options: ran.append(argv) or run(argv, **options))
    assert provider.remove_files(".weft/runs/it/toy", [spec.id]) == {f"{spec.id}.err": b"why"}
    assert len(ran) == 1
    assert not (toy.home / ".weft").exists()


def test_what_keeps_files_from_being_removed_is_said(toy: Any, make: Any) -> None:
    provider = make.provider(channel=toy)
    with pytest.raises(ProviderError, match=r"'x+' on toy was not removed: rm: .*too long"):
        provider.remove_files("x" * 300)
    with pytest.raises(ProviderError, match="'a//b' on toy was not removed: 'a//b' is not the directory"):
        provider.remove_files("a//b")
    toy.trouble = ChannelError("the cable is out")
    with pytest.raises(ProviderError, match="the cable is out"):
        provider.remove_files(".weft/runs/it")
