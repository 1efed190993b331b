"""What is asked of HTCondor, and what its answers mean; the recordings say where they are from."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from weft_interfaces import BlockShape, ConfigError, JobId, JobSpec, JobState, ProviderError, UnitError
from weft_provider_batch import HTCondorProvider
from weft_provider_batch.host import Answer
from weft_provider_batch.job import JobFiles

pytestmark = pytest.mark.once

TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1)
RECORDED = Path(__file__).parent / "recordings"


def answer(said: str, status: int = 0) -> Answer:
    return Answer(0, f"{said}\nweft-status {status}\n", "", 0.0)


def ad(**attributes: Any) -> str:
    return json.dumps([{"ClusterId": 7, "ProcId": 0, **attributes}])


def only(said: str) -> Any:
    (job,) = HTCondorProvider().parse_queue(answer(said))
    return job


# -- recordings ---------------------------------------------------------------------------------------------


def test_the_queue(recording: Any) -> None:
    held, removed = HTCondorProvider().parse_queue(answer(recording("htcondor-queue.json")))
    assert (held.id, held.state) == ("123.2", JobState.HELD)
    assert held.reason == "The credentials for the job are invalid"
    assert (removed.id, removed.state) == ("123.1", JobState.CANCELLED)


def test_the_history_of_a_job_that_says_no_exit_code(recording: Any) -> None:
    jobs = HTCondorProvider().parse_accounting(answer(recording("htcondor-history.json")))
    assert jobs is not None
    assert [(job.id, job.state) for job in jobs] == [("123.0", JobState.GONE)]


# -- states and ends ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "state"),
    [
        (0, JobState.PENDING),
        (1, JobState.PENDING),
        (2, JobState.RUNNING),
        (3, JobState.CANCELLED),
        (5, JobState.HELD),
        (6, JobState.RUNNING),
        (7, JobState.HELD),
        (8, JobState.UNKNOWN),
        ("2", JobState.UNKNOWN),
        (None, JobState.UNKNOWN),
        (True, JobState.UNKNOWN),
    ],
)
def test_states(number: Any, state: JobState) -> None:
    assert only(ad(JobStatus=number)).state is state


def test_a_job_that_runs() -> None:
    attributes = {"JobCurrentStartDate": 1795643003, "WeftWalltime": 60, "RemoteHost": "slot1_2@node7.pool"}
    job = only(ad(JobStatus=2, WeftLabel="weft:t:i", WeftName="a%20b", **attributes))
    assert (job.started_at, job.ends_at, job.hosts) == (1795643003, 1795643063, ("node7.pool",))
    assert (job.name, job.tag, job.spec_id) == ("a b", "t", "i")


@pytest.mark.parametrize(
    ("attributes", "state", "code", "words"),
    [
        ({"JobStatus": 4, "ExitBySignal": False, "ExitCode": 0}, JobState.COMPLETED, 0, ""),
        ({"JobStatus": 4, "ExitBySignal": False, "ExitCode": 3}, JobState.FAILED, 3, ""),
        ({"JobStatus": 4, "ExitBySignal": True, "ExitSignal": 9}, JobState.FAILED, 137, "signal 9"),
        ({"JobStatus": 4}, JobState.GONE, None, "not known"),
        (
            {"JobStatus": 3, "RemoveReason": "via condor_rm (by user a)"},
            JobState.CANCELLED,
            None,
            "condor_rm",
        ),
        (
            {
                "JobStatus": 3,
                "RemoveReason": "The job attribute PeriodicRemove expression '...' evaluated to TRUE",
            },
            JobState.TIMEOUT,
            None,
            "its walltime was over",
        ),
        ({"JobStatus": 3}, JobState.CANCELLED, None, "removed"),
    ],
)
def test_ends(attributes: dict[str, Any], state: JobState, code: int | None, words: str) -> None:
    job = only(ad(**attributes))
    assert (job.state, job.exit_code) == (state, code)
    assert words in job.reason


@pytest.mark.parametrize(
    ("code", "words"),
    [(1, "condor_release"), (13, "input could not"), (26, "site's policy"), (34, "more memory"), (999, "")],
)
def test_holds_are_explained(code: int, words: str) -> None:
    reason = only(ad(JobStatus=5, HoldReasonCode=code, HoldReason="its words")).reason
    assert reason.startswith("its words")
    assert words in reason


# -- answers that are none ----------------------------------------------------------------------------------


def test_no_jobs_are_an_answer() -> None:
    for said in ("", "\n", "[\n]\n"):
        assert HTCondorProvider().parse_queue(answer(said)) == []


def test_the_lists_of_several_queues_are_one() -> None:
    said = f"{ad(JobStatus=2)}\n[\n]\n{ad(JobStatus=1, ProcId=1)}\n"
    assert [job.id for job in HTCondorProvider().parse_queue(answer(said))] == ["7.0", "7.1"]


@pytest.mark.parametrize(
    "said",
    [
        "-- Failed to fetch ads from: <127.0.0.1:9618>",
        "hello",
        '[{"ClusterId": 7, "Pro',
        "[1, 2] garbage",
        '{"a": 1}',
    ],
)
def test_what_is_no_answer_is_taken_for_none(said: str) -> None:
    with pytest.raises(ValueError, match="answer"):
        HTCondorProvider().parse_queue(answer(said))


def test_a_command_that_failed_and_half_an_answer_are_none() -> None:
    with pytest.raises(ValueError, match="exit status 1"):
        HTCondorProvider().parse_queue(answer(ad(JobStatus=2), 1))
    with pytest.raises(ValueError, match="failed"):
        HTCondorProvider().parse_queue(Answer(0, ad(JobStatus=2), "", 0.0))


@given(st.sampled_from([2, 5]), TEXT, st.integers(0, 200), st.randoms(use_true_random=False))
def test_no_answer_however_broken_is_more_than_a_value_error(
    status: int, text: str, place: int, chance: random.Random
) -> None:
    whole = ad(JobStatus=status, HoldReason="a", RemoteHost="b@c", JobCurrentStartDate=5)
    broken = whole[:place] + text + whole[place + chance.randrange(50) :]
    provider = HTCondorProvider()
    for parse in (provider.parse_queue, provider.parse_accounting):
        for said in (answer(broken), Answer(0, broken, "", 0.0)):
            try:
                for job in parse(said) or ():
                    assert job.id
            except ValueError:
                continue


# -- asking -------------------------------------------------------------------------------------------------


def description(provider: HTCondorProvider, spec: JobSpec) -> list[str]:
    (text,) = provider.extra_files(spec, JobFiles.of(spec.directory, spec.id)).values()
    return text.splitlines()


def test_what_a_block_asks_for(make: Any) -> None:
    provider = HTCondorProvider(
        cores_per_node=4,
        memory_per_node="2 GiB",
        gpus_per_node=1,
        requirements='OpSysAndVer == "AlmaLinux9"',
        project="p",
        environment={"A": 'it\'s a "b" $c', "B": "x"},
        transfer_input_files=["/a b", "c"],
        scheduler_options='+JobFlavour = "workday"\nrank = Memory',
    )
    spec = make.spec(id="it", directory="/run $(x) dir", shape=BlockShape(walltime=90.5))
    said = description(provider, spec)
    shown = [line for line in provider.script(spec).splitlines() if line.startswith("#CONDOR")]
    assert shown == [f"#CONDOR {line}" for line in said[:-1]]
    assert said[-3:] == ['+JobFlavour = "workday"', "rank = Memory", "queue"]
    for line in (
        "universe = vanilla",
        "executable = /bin/bash",
        "transfer_executable = False",
        "arguments = \"-l '/run $(DOLLAR)(x) dir/it.sh'\"",
        "output = /run $(DOLLAR)(x) dir/it.out",
        "request_cpus = 4",
        "request_memory = 2048",
        "request_gpus = 1",
        'requirements = OpSysAndVer == "AlmaLinux9"',
        '+ProjectName = "p"',
        "transfer_input_files = /a b, c",
        "+WeftWalltime = 91",
        "periodic_remove = JobStatus == 2 && time() - JobCurrentStartDate > 91",
    ):
        assert line in said
    (line,) = (line for line in said if line.startswith("environment"))
    assert line == (
        'environment = "A=\'it\'\'s a ""b"" $(DOLLAR)c\' B=x WEFT_CONDOR_JOB=$(ClusterId).$(ProcId)"'
    )


@given(TEXT, TEXT, st.from_regex(r"[A-Za-z0-9_.~-]+", fullmatch=True))
def test_attributes_carry_the_name_the_tag_and_the_id(name: str, tag: str, spec_id: str) -> None:
    spec = JobSpec(id=spec_id, name=name, tag=tag, command=["true"], shape=BlockShape(), directory="runs")
    said = dict(
        line[1:].split(" = ", 1) for line in description(HTCondorProvider(), spec) if line.startswith("+")
    )
    job = only(ad(JobStatus=2, **{key: value.strip('"') for key, value in said.items()}))
    assert (job.name, job.tag, job.spec_id) == (name, tag, spec_id)


def test_several_nodes_are_refused(make: Any, toy: Any) -> None:
    for act in (HTCondorProvider(channel=toy).submit, HTCondorProvider().script):
        with pytest.raises(ConfigError, match=r"one slot.*more blocks of one node") as caught:
            act(make.spec(shape=BlockShape(nodes=2)))
        assert caught.value.key == "nodes"


@pytest.mark.parametrize(
    "settings",
    [
        {"requirements": "a\nqueue 5"},
        {"project": "a\0"},
        {"environment": {"a b": "c"}},
        {"environment": {"a": "b\nc"}},
        {"transfer_input_files": ["a\nb"]},
        {"cores_per_node": -1},
    ],
)
def test_options_that_are_wrong_are_named(settings: dict[str, Any]) -> None:
    with pytest.raises((ConfigError, UnitError), match=next(iter(settings))):
        HTCondorProvider(**settings)


def test_refusals_that_may_pass(toy: Any, spec: JobSpec, clock: Any) -> None:
    toy.command("condor_submit", 'echo "ERROR: Can\'t find address of local schedd" >&2; exit 1')
    with pytest.raises(ProviderError, match="find address"):
        HTCondorProvider(channel=toy).submit(spec)


@pytest.mark.parametrize(
    ("said", "fine"),
    [
        ("Job 9.0 not found", True),
        ("Couldn't find/remove all jobs in cluster 9", True),
        ("Job 8.0 marked for removal\nJob 9.0 not found", True),
        ("Permission denied to remove 9.0", False),
        ("ERROR: Can't find address of local schedd", False),
        ("", False),
    ],
)
def test_removing_what_is_not_there_is_no_error(said: str, fine: bool) -> None:
    assert HTCondorProvider().cancelled(Answer(1, "", said, 0.0)) is fine


def test_the_answer_to_a_submission() -> None:
    said = "Submitting job(s).\n1 job(s) submitted to cluster 57.\n"
    assert HTCondorProvider().parse_submit(said) == "57.0"
    assert HTCondorProvider().parse_submit("57") is None


def test_only_the_jobs_that_are_named_are_looked_up() -> None:
    command = HTCondorProvider().accounting_command([JobId("5.0"), JobId("6.1"), JobId("x")])
    assert command is not None
    assert command[-1] == "(ClusterId == 5 && ProcId == 0) || (ClusterId == 6 && ProcId == 1)"
