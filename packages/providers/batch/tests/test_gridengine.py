"""What is asked of Grid Engine and what its answers mean; a real one is in the integration tests."""

from __future__ import annotations

import random
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from weft_interfaces import BlockShape, ConfigError, JobId, JobSpec, JobState
from weft_provider_batch import GridEngineProvider
from weft_provider_batch.array import array_id
from weft_provider_batch.host import Answer

pytestmark = pytest.mark.once

ROW = """\
<job_list state="{kind}"><JB_job_number>{job}</JB_job_number><JB_name>{name}</JB_name>
<JB_owner>root</JB_owner>
<state>{state}</state><JAT_start_time>2026-11-25T21:43:23</JAT_start_time><queue_name>{queue}</queue_name>
<master>{master}</master><slots>1</slots>{tasks}<full_job_name>{name}</full_job_name>
<hard_request name="h_rt" resource_contribution="0.000000">100</hard_request></job_list>
"""
# As 8.1.9 wrote them, some fields left out.
ACCOUNT = """\
==============================================================
qname        all.q
hostname     n1
jobname      toy
jobnumber    {job}
qsub_time    Wed Nov 25 21:43:23 2026
start_time   Wed Nov 25 21:43:24 2026
end_time     Wed Nov 25 21:43:29 2026
failed       {failed}
exit_status  {status}
"""


TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1)


def answer(stdout: str, status: int = 0, stderr: str = "") -> Answer:
    return Answer(status, stdout, stderr, 0.0)


def listing(*rows: dict[str, Any]) -> str:
    defaults = {
        "kind": "running",
        "job": 1,
        "name": "toy",
        "state": "r",
        "queue": "",
        "master": "",
        "tasks": "",
    }
    body = "".join(ROW.format(**{**defaults, **row}) for row in rows)
    return f"Welcome 5\n<?xml version='1.0'?>\n<job_info ><queue_info>{body}</queue_info></job_info>\nbye"


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ("qw", JobState.PENDING),
        ("hqw", JobState.HELD),
        ("Eqw", JobState.HELD),
        ("r", JobState.RUNNING),
        ("t", JobState.RUNNING),
        ("Rr", JobState.RUNNING),
        ("dr", JobState.RUNNING),
        ("s", JobState.HELD),
        ("?", JobState.UNKNOWN),
    ],
)
def test_states(state: str, expected: JobState) -> None:
    (job,) = GridEngineProvider().parse_queue(answer(listing({"state": state})))
    assert job.state is expected
    assert job.stuck is (state == "Eqw")


def test_a_parallel_job_is_one_with_its_master_first(make: Any) -> None:
    rows = [
        {"job": 7, "queue": f"all.q@{host}", "master": master}
        for host, master in (("n2", "SLAVE"), ("n1", "MASTER"), ("n1", "SLAVE"), ("n3", "SLAVE"))
    ]
    (job,) = GridEngineProvider().parse_queue(answer(listing(*rows)))
    assert job.hosts == ("n1", "n2", "n3")
    assert job.started_at is not None
    assert job.ends_at == job.started_at + 100


@given(TEXT, TEXT, st.from_regex(r"[A-Za-z0-9_.~-]+", fullmatch=True))
def test_names_carry_the_tag_and_the_id(name: str, tag: str, spec_id: str) -> None:
    provider = GridEngineProvider()
    shape = BlockShape()
    spec = JobSpec(id=spec_id, name=name, tag=tag, command=["true"], shape=shape, directory="runs")
    script = provider.script(spec)
    (line,) = (line for line in script.splitlines() if line.startswith("#$ -N "))
    (job,) = provider.parse_queue(answer(listing({"name": line.removeprefix("#$ -N ")})))
    assert (job.name, job.tag, job.spec_id) == (name, tag, spec_id)


@pytest.mark.parametrize(
    ("failed", "status", "state", "reason"),
    [
        ("0", "0", JobState.COMPLETED, ""),
        ("0", "3", JobState.FAILED, ""),
        (
            "37  : qmaster enforced h_rt, h_cpu, or h_vmem limit",
            "137",
            JobState.TIMEOUT,
            "failed 37: qmaster",
        ),
        ("100 : assumedly after job", "137", JobState.FAILED, "failed 100: assumedly after job"),
        ("26  : opening input/output file", "0", JobState.FAILED, "failed 26: opening input/output file"),
    ],
)
def test_the_accounting(failed: str, status: str, state: JobState, reason: str) -> None:
    text = ACCOUNT.format(job=5, failed=failed, status=status) + "weft-end\n"
    jobs = GridEngineProvider().parse_accounting(answer(text, 1, "error: job id 6 not found"))
    assert jobs is not None
    (job,) = jobs
    assert (job.id, job.state, job.hosts) == ("5", state, ("n1",))
    assert job.reason.startswith(reason)
    assert job.ends_at is not None
    assert job.started_at == job.ends_at - 5


def test_accounting_that_is_not_there_and_that_is_cut_short() -> None:
    provider = GridEngineProvider()
    assert provider.parse_accounting(answer("weft-end\n", 0, "sh: 1: qacct: not found")) is None
    with pytest.raises(ValueError, match="cut short"):
        provider.parse_accounting(answer(ACCOUNT.format(job=5, failed="0", status="0")))


@given(st.text(), st.integers(0, 600), st.randoms(use_true_random=False))
def test_no_answer_however_broken_is_more_than_a_value_error(
    text: str, place: int, chance: random.Random
) -> None:
    for whole in (listing({}), ACCOUNT.format(job=5, failed="0", status="0") + "weft-end\n"):
        broken = whole[:place] + text + whole[place + chance.randrange(50) :]
        for parse in (GridEngineProvider().parse_queue, GridEngineProvider().parse_accounting):
            try:
                for job in parse(answer(broken)) or ():
                    assert job.id
            except ValueError:
                pass


def test_what_a_block_asks_for(make: Any) -> None:
    provider = GridEngineProvider(
        queue="all.q", project="p", parallel_environment="rr", memory_per_node="4 GiB", gpus_per_node=2
    )
    script = provider.script(make.spec(shape=BlockShape(nodes=3, cpus=2, walltime=90.5)))
    for line in ("-q all.q", "-P p", "-pe rr 6", "-l h_rt=91,h_vmem=2048M,gpu=2", "-w e", "-S /bin/bash"):
        assert f"#$ {line}\n" in script


@pytest.mark.parametrize("option", ["queue", "project", "parallel_environment", "memory_resource"])
def test_options_that_are_no_words_are_refused(option: str) -> None:
    with pytest.raises(ConfigError, match=option):
        GridEngineProvider(**{option: "a b"})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("said", "status", "fine"),
    [
        ('denied: job "77" does not exist', 1, True),
        ("root has deleted job 1", 0, True),
        ('unable to send message to qmaster using port 1 on host "h": got send error', 1, False),
        ("denied: you are not the owner", 1, False),
    ],
)
def test_deleting_what_is_not_there_is_no_error(said: str, status: int, fine: bool) -> None:
    assert GridEngineProvider().cancelled(answer(said, status)) is fine


def test_the_answer_to_a_submission() -> None:
    assert GridEngineProvider().parse_submit("hello 4\n12\nbye") == JobId("12")
    assert GridEngineProvider().parse_submit("Your job") is None


def test_elements_of_an_array_are_jobs_of_their_own() -> None:
    """Those that wait share a row, one that runs has its own."""
    provider = GridEngineProvider(arrays=True)
    assert provider.parse_submit("123.1-4:1\n") == "123"
    assert provider.array_elements(JobId("123"), 2) == ["123.1", "123.2"]
    label = quote(array_id(["b-1", "b-2", "b-3", "b-4"]), safe="")
    rows = [
        {"job": 123, "name": f"toy.weft.tag.{label}", "state": state, "tasks": f"<tasks>{tasks}</tasks>"}
        for state, tasks in (("r", "2"), ("r", "2.n7"), ("qw", "1,3-4:1"))
    ]
    found = {job.id: (job.spec_id, job.state) for job in provider.parse_queue(answer(listing(*rows)))}
    assert found == {
        "123.2": ("b-2", JobState.RUNNING),
        "123.1": ("b-1", JobState.PENDING),
        "123.3": ("b-3", JobState.PENDING),
        "123.4": ("b-4", JobState.PENDING),
    }
    text = ACCOUNT.format(job=123, failed="0", status="0") + "taskid       3\nweft-end\n"
    (past,) = provider.parse_accounting(answer(text)) or ()
    assert past.id == "123.3"
