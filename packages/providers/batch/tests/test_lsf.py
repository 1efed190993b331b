"""What is asked of LSF, and what its answers mean; the recordings say where they are from."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from weft_interfaces import BlockShape, ConfigError, JobSpec, JobState, ProviderError, UnitError
from weft_provider_batch import LSFProvider
from weft_provider_batch.host import Answer

pytestmark = pytest.mark.once

TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1)
RECORDED = Path(__file__).parent / "recordings"


def answer(stdout: str, status: int = 0, stderr: str = "") -> Answer:
    return Answer(status, stdout, stderr, 0.0)


def listing(**row: str) -> str:
    fields = {"JOBID": "7", **{name.upper(): value for name, value in row.items()}}
    return json.dumps({"COMMAND": "bjobs", "JOBS": 1, "RECORDS": [fields]})


def only(said: str) -> Any:
    (job,) = LSFProvider().parse_queue(answer(said))
    return job


# -- recordings ---------------------------------------------------------------------------------------------


def test_a_job_that_was_killed_while_lsf_started_again(recording: Any) -> None:
    job = only(recording("lsf-killed.txt"))
    assert (job.id, job.state, job.reason) == (
        "12345678",
        JobState.CANCELLED,
        "TERM_OWNER: job killed by owner",
    )


def test_a_job_that_is_done(recording: Any) -> None:
    job = only(recording("lsf-done.txt"))
    assert (job.id, job.state, job.exit_code) == ("22005", JobState.COMPLETED, 0)
    assert (job.name, job.hosts) == ("ls -l", ("tbi-cn019",))


def test_a_job_that_runs(recording: Any) -> None:
    job = only(recording("lsf-running.txt"))
    assert (job.id, job.state) == ("806290", JobState.RUNNING)
    assert job.started_at == pytest.approx(time.time() - 16038, abs=5)
    assert job.ends_at == job.started_at + 86400


def test_a_job_that_is_held(recording: Any) -> None:
    job = only(recording("lsf-held.txt"))
    assert (job.state, job.hosts, job.started_at) == (JobState.HELD, (), None)
    assert job.reason == "PSUSP (held: `bresume` lets it go)"


def test_the_history_tells_how_a_job_ended(recording: Any) -> None:
    jobs = LSFProvider().parse_accounting(answer(recording("lsf-history.txt")))
    assert jobs is not None
    (job,) = jobs
    assert (job.id, job.state, job.exit_code) == ("3083242", JobState.FAILED, 1)
    assert job.reason == "TERM_MEMLIMIT: job killed after reaching LSF memory usage limit"


# -- states and ends ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "state"),
    [
        ("PEND", JobState.PENDING),
        ("PROV", JobState.PENDING),
        ("WAIT", JobState.PENDING),
        ("PSUSP", JobState.HELD),
        ("USUSP", JobState.HELD),
        ("SSUSP", JobState.HELD),
        ("RUN", JobState.RUNNING),
        ("DONE", JobState.COMPLETED),
        ("EXIT", JobState.FAILED),
        ("UNKWN", JobState.UNKNOWN),
        ("ZOMBI", JobState.UNKNOWN),
        ("?", JobState.UNKNOWN),
        ("", JobState.UNKNOWN),
    ],
)
def test_states(word: str, state: JobState) -> None:
    assert only(listing(stat=word)).state is state


@pytest.mark.parametrize(
    ("code", "reason", "state"),
    [
        ("1", "", JobState.FAILED),
        ("140", "TERM_RUNLIMIT: job killed after reaching LSF run time limit", JobState.TIMEOUT),
        ("140", "", JobState.TIMEOUT),
        ("130", "", JobState.CANCELLED),
        ("130", "TERM_UNKNOWN: unknown reason", JobState.CANCELLED),
        ("130", "TERM_MEMLIMIT: job killed after reaching LSF memory usage limit", JobState.FAILED),
        ("143", "TERM_ADMIN: job killed by root or LSF administrator", JobState.CANCELLED),
        ("143", "TERM_FORCE_OWNER: job killed by owner without time for cleanup", JobState.CANCELLED),
        ("143", "TERM_PREEMPT: job killed after preemption", JobState.FAILED),
        ("143", "TERM_WINDOW: job killed after queue run window closed", JobState.TIMEOUT),
        ("", "TERM_CWD_NOTEXIST: ...", JobState.FAILED),
    ],
)
def test_ends(code: str, reason: str, state: JobState) -> None:
    job = only(listing(stat="EXIT", exit_code=code, exit_reason=reason))
    assert (job.state, job.exit_code) == (state, int(code) if code else None)
    assert not reason or job.reason == reason


@pytest.mark.parametrize(
    ("said", "state", "code"),
    [
        ("Done successfully. The CPU time used is 0.1 seconds;", JobState.COMPLETED, 0),
        ("Exited with exit code 3. The CPU time used;", JobState.FAILED, 3),
        ("Exited by signal 2. The CPU time used;", JobState.CANCELLED, 130),
        (
            "Exited with exit code 140.\nMon: Completed <exit>; TERM_RUNLIMIT: job killed;",
            JobState.TIMEOUT,
            140,
        ),
        ("Exited with exit code 1; requeued.\nStarting (Pid 4);", None, None),
        ("Starting (Pid 4);", None, None),
    ],
)
def test_the_history(said: str, state: JobState | None, code: int | None) -> None:
    jobs = LSFProvider().parse_accounting(answer(f"\nJob <7>, User <a>\nMon: {said}\n"))
    assert jobs is not None
    assert [(job.state, job.exit_code) for job in jobs] == ([(state, code)] if state else [])
    with pytest.raises(ValueError, match="bhist failed"):
        LSFProvider().parse_accounting(answer("LSF is down. Please wait ...", 255))
    assert LSFProvider().parse_accounting(answer("", 255, "No matching job found")) == []


# -- answers that are none ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stdout", "status", "stderr"),
    [
        ("", 255, "LSF is down. Please wait ..."),
        ("Cannot connect to LSF. Please wait ...", 0, ""),
        ("", 0, ""),
        ('{"COMMAND":"bjobs","JOBS":2,"RECORDS":[{"JOBID":"1","STAT":"RUN"}]}', 0, ""),
        ('{"COMMAND":"bjobs","JOBS":1,"RECORDS":[{"JOBID":"1","ST', 0, ""),
        ('{"COMMAND":"bjobs"}', 0, ""),
        (listing(stat="RUN"), 1, ""),
    ],
)
def test_what_is_no_answer_is_taken_for_none(stdout: str, status: int, stderr: str) -> None:
    with pytest.raises(ValueError, match="bjobs"):
        LSFProvider().parse_queue(answer(stdout, status, stderr))


@pytest.mark.parametrize("status", [0, 255])
def test_no_jobs_are_an_answer(status: int) -> None:
    assert LSFProvider().parse_queue(answer("", status, "No job found")) == []
    assert LSFProvider().parse_queue(answer('{"COMMAND":"bjobs","JOBS":0,"RECORDS":[]}', status)) == []


@given(
    st.sampled_from(["lsf-running.txt", "lsf-held.txt", "lsf-history.txt"]),
    TEXT,
    st.integers(0, 800),
    st.randoms(use_true_random=False),
)
def test_no_answer_however_broken_is_more_than_a_value_error(
    name: str, text: str, place: int, chance: random.Random
) -> None:
    whole = (RECORDED / name).read_text().partition("\n----\n")[2]
    broken = whole[:place] + text + whole[place + chance.randrange(50) :]
    for parse in (LSFProvider().parse_queue, LSFProvider().parse_accounting):
        try:
            for job in parse(answer(broken)) or ():
                assert job.id
                assert not job.state.terminal or name == "lsf-history.txt"
        except ValueError:
            continue


# -- asking -------------------------------------------------------------------------------------------------


def lines(provider: LSFProvider, make: Any, **settings: Any) -> list[str]:
    script = provider.script(make.spec(**settings))
    return [line.removeprefix("#BSUB ") for line in script.splitlines() if line.startswith("#BSUB")]


def test_what_a_block_asks_for(make: Any) -> None:
    provider = LSFProvider(
        queue="normal",
        project="p",
        cores_per_node=4,
        memory_per_node="2 GiB",
        gpus_per_node=2,
        exclusive=True,
        scheduler_options="-alloc_flags smt4",
    )
    said = lines(provider, make, name="a b", shape=BlockShape(nodes=3, walltime=5401))
    for line in (
        "-J a_b",
        "-q normal",
        "-P p",
        "-n 12",
        "-x",
        "-W 1:31",
        "-o /dev/null",
        "-alloc_flags smt4",
    ):
        assert line in said
    for line in ('-R "span[ptile=4]"', '-R "rusage[mem=2048MB/host]"', '-gpu "num=2"'):
        assert line in said
    said = lines(LSFProvider(request_by_nodes=True), make, shape=BlockShape(nodes=3))
    assert "-nnodes 3" in said
    assert not [line for line in said if line.startswith("-n ")]


@given(TEXT, TEXT, st.from_regex(r"[A-Za-z0-9_.~-]+", fullmatch=True))
def test_the_description_carries_the_name_the_tag_and_the_id(name: str, tag: str, spec_id: str) -> None:
    spec = JobSpec(id=spec_id, name=name, tag=tag, command=["true"], shape=BlockShape(), directory="runs")
    (line,) = (line for line in LSFProvider().script(spec).splitlines() if line.startswith("#BSUB -Jd "))
    job = only(listing(stat="RUN", job_description=line.removeprefix('#BSUB -Jd "').removesuffix('"')))
    assert (job.name, job.tag, job.spec_id) == (name, tag, spec_id)


@pytest.mark.parametrize("settings", [{"queue": "a b"}, {"project": "a'b"}, {"gpus_per_node": -1}])
def test_options_that_are_wrong_are_named(settings: dict[str, Any]) -> None:
    with pytest.raises((ConfigError, UnitError), match=next(iter(settings))):
        LSFProvider(**settings)


@pytest.mark.parametrize(
    ("said", "key"),
    [
        ("nosuch: No such queue. Job not submitted.", "queue"),
        ("RUNLIMIT: Cannot exceed queue's hard limit(s). Job not submitted.", "walltime"),
        ("Too many processors requested. Job not submitted.", "nodes, cores_per_node"),
        ("Bad resource requirement syntax. Job not submitted.", "scheduler_options"),
        ("User permission denied. Job not submitted.", ""),
    ],
)
def test_refusals_name_the_option(toy: Any, spec: JobSpec, clock: Any, said: str, key: str) -> None:
    toy.command("bsub", f'cat >/dev/null; echo "{said}" >&2; exit 255')
    with pytest.raises(ConfigError) as caught:
        LSFProvider(channel=toy).submit(spec)
    assert said in str(caught.value)
    assert caught.value.key == key


@pytest.mark.parametrize(
    "said",
    [
        "Cannot connect to LSF. Please wait ...",
        "Pending job threshold reached. Retrying in 60 seconds...",
        "Batch daemon internal error. Job not submitted.",
    ],
)
def test_refusals_that_may_pass(toy: Any, spec: JobSpec, clock: Any, said: str) -> None:
    toy.command("bsub", f"cat >/dev/null; echo '{said}' >&2; exit 255")
    with pytest.raises(ProviderError):
        LSFProvider(channel=toy).submit(spec)


def test_a_missing_command_says_where_it_was_looked_for(toy: Any, spec: JobSpec) -> None:
    with pytest.raises(ConfigError, match=r"`bsub` is not found on toy.*PATH there"):
        LSFProvider(channel=toy).submit(spec)


@pytest.mark.parametrize(
    ("said", "fine"),
    [
        ("Job <9>: Job has already finished", True),
        ("Job <9>: No matching job found", True),
        ("Job <8> is being terminated\nJob <9>: No matching job found", True),
        ("Job <9>: User permission denied", False),
        ("LSF is down. Please wait ...", False),
        ("", False),
    ],
)
def test_killing_what_is_not_there_is_no_error(said: str, fine: bool) -> None:
    assert LSFProvider().cancelled(answer("", 255, said)) is fine


def test_the_answer_to_a_submission() -> None:
    said = "Welcome\nJob <12> is submitted to default queue <normal>.\nbye"
    assert LSFProvider().parse_submit(said) == "12"
    assert LSFProvider().parse_submit("Job not submitted") is None
