"""What is asked of Slurm and what its answers mean; on a real one in integration-tests/test_slurm.py."""

from __future__ import annotations

import random
import re
import shlex
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from weft_interfaces import BlockShape, ConfigError, JobId, JobState
from weft_provider_batch import SlurmProvider
from weft_provider_batch.array import array_id, element_of
from weft_provider_batch.host import Answer
from weft_provider_batch.hostlist import expand_hosts

pytestmark = pytest.mark.once

# As Slurm 22.05.8 wrote it, asked as this provider does.
QUEUE = """\
weft|JOBID|STATE|REASON|START_TIME|END_TIME|NODELIST|COMMENT|NAME
weft|1|FAILED|NonZeroExitCode|1795641177|1795641182|n1|weft:x%20y:id1|a b|c
weft|6|FAILED|BadConstraints|1795641178|1795641178||weft:x%20y:id1|a b|c
weft|5|PENDING|PartitionNodeLimit|N/A|N/A||weft:x%20y:id1|a b|c
weft|2|PENDING|JobHeldUser|N/A|N/A||weft:x%20y:id1|a b|c
weft|4|RUNNING|None|1795641179|1795644779|n[1-2,4]|weft:x%20y:id1|a b|c
weft|3|PENDING|PartitionTimeLimit|N/A|N/A||weft:x%20y:id1|a b|c
weft|18|PENDING|job requeued in held state|1795642500|N/A||(null)|weft-test
"""
# An array of three, one that is held, and single jobs. Slurm 22.05.8, 24.11.5 and 26.05.5 wrote it alike.
ARRAYS = """\
weft|JOBID|STATE|REASON|START_TIME|END_TIME|NODELIST|COMMENT|NAME
weft|1_1|CANCELLED|None|1795656091|1795656093|n1|weft:run:%2Frun-htex-%2F1%2F2%2F3|a|b c
weft|2|COMPLETED|None|1795656091|1795656092|n2|weft:run:run-htex-4|a|b c
weft|1_2|FAILED|NonZeroExitCode|1795656091|1795656092|n2|weft:run:%2Frun-htex-%2F1%2F2%2F3|a|b c
weft|3_0|PENDING|JobHeldUser|N/A|N/A||weft:run:%2Frun-htex-%2F5%2F6|a|b c
weft|3_1|PENDING|JobHeldUser|N/A|N/A||weft:run:%2Frun-htex-%2F5%2F6|a|b c
weft|4|RUNNING|None|1795656093|1795656693|n[2-3]|weft:run:run-htex-7|a|b c
weft|1_0|RUNNING|None|1795656091|1795656691|n1|weft:run:%2Frun-htex-%2F1%2F2%2F3|a|b c
"""
ACCOUNTS = """\
JobID|State|ExitCode|Start|End|NodeList
12|CANCELLED by 0|0:15|1795641177|1795641182|n1
13|NODE_FAIL|0:0|1795641177|1795641182|n[1-2]
14|FAILED|3:0|1795641177|1795641182|n1
15|OUT_OF_MEMORY|0:125|1795641177|1795641182|n1
16|PENDING|0:0|Unknown|Unknown|None assigned
"""


def answer(stdout: str, status: int = 0, stderr: str = "") -> Answer:
    return Answer(status, stdout, stderr, 0.0)


def test_the_queue_as_slurm_writes_it() -> None:
    jobs = {job.id: job for job in SlurmProvider().parse_queue(answer(f"Welcome\n5\n{QUEUE}bye\n"))}
    states = {job_id: (job.state, job.reason.partition(" ")[0]) for job_id, job in jobs.items()}
    assert states == {
        "1": (JobState.FAILED, "NonZeroExitCode"),
        "6": (JobState.FAILED, "BadConstraints"),
        "5": (JobState.PENDING, "PartitionNodeLimit"),
        "2": (JobState.HELD, "JobHeldUser"),
        "4": (JobState.RUNNING, ""),
        "3": (JobState.PENDING, "PartitionTimeLimit"),
        "18": (JobState.HELD, "job"),
    }
    assert [job_id for job_id, job in jobs.items() if job.stuck] == ["3"]
    job = jobs[JobId("4")]
    assert (job.started_at, job.ends_at, job.hosts) == (1795641179, 1795644779, ("n1", "n2", "n4"))
    assert (job.name, job.tag, job.spec_id) == ("a b|c", "x y", "id1")


def test_the_accounting_as_slurm_writes_it() -> None:
    jobs = SlurmProvider().parse_accounting(answer(ACCOUNTS))
    assert jobs is not None
    assert [(job.id, job.state, job.reason, job.exit_code) for job in jobs] == [
        ("12", JobState.CANCELLED, "CANCELLED by 0", None),
        ("13", JobState.FAILED, "NODE_FAIL", None),
        ("14", JobState.FAILED, "", 3),
        ("15", JobState.FAILED, "OUT_OF_MEMORY", None),
        ("16", JobState.PENDING, "", None),
    ]
    assert SlurmProvider().parse_accounting(answer("", 1, "Slurm accounting storage is disabled")) is None


@pytest.mark.parametrize("output", ["", "garbage", QUEUE.partition("\n")[2]])
def test_what_is_no_answer_is_taken_for_none(output: str) -> None:
    with pytest.raises(ValueError, match="heading"):
        SlurmProvider().parse_queue(answer(output))
    with pytest.raises(ValueError, match="failed"):
        SlurmProvider().parse_queue(answer(QUEUE, 1))
    with pytest.raises(ValueError, match="heading"):
        SlurmProvider().parse_accounting(answer(output))


@given(st.text(), st.integers(0, 400), st.randoms(use_true_random=False))
def test_no_answer_however_broken_is_more_than_a_value_error(
    text: str, place: int, chance: random.Random
) -> None:
    for whole in (QUEUE, ACCOUNTS):
        broken = whole[:place] + text + whole[place + chance.randrange(50) :]
        for parse in (SlurmProvider().parse_queue, SlurmProvider().parse_accounting):
            try:
                for job in parse(answer(broken)) or ():
                    assert job.id
            except ValueError:
                pass


@pytest.mark.parametrize(
    ("output", "job"),
    [("12\n", "12"), ("Lmod: loading 5\n12;tiny\n", "12;tiny"), ("5 modules\n12\nbye\n", "12"), ("no", None)],
)
def test_the_answer_to_a_submission(output: str, job: str | None) -> None:
    assert SlurmProvider().parse_submit(output) == job


def test_jobs_on_several_clusters() -> None:
    provider = SlurmProvider(clusters="a,b")
    head, *rows = QUEUE.splitlines()
    text = "\n".join(["CLUSTER: a", head, rows[0], "CLUSTER: b", head, rows[4]])
    assert [job.id for job in provider.parse_queue(answer(text))] == ["1;a", "4;b"]
    assert provider.cancel_command([JobId("4;b")]) == ["scancel", "--clusters=a,b", "4"]
    assert "--clusters=a,b" in provider.queue_command(())


@pytest.mark.parametrize(
    ("stderr", "fine"),
    [
        ("scancel: error: Kill job error on job id 5: Invalid job id specified", True),
        ("scancel: error: Kill job error on job id 5: Access/permission denied", False),
        ("", False),
    ],
)
def test_cancelling_what_is_not_there_is_no_error(stderr: str, fine: bool) -> None:
    assert SlurmProvider().cancelled(answer("", 1, stderr)) is fine


def directives(make: Any, provider: SlurmProvider, **shape: Any) -> list[str]:
    script = provider.script(make.spec(shape=BlockShape(**shape), id="it"))
    return [line.removeprefix("#SBATCH ") for line in script.splitlines() if line.startswith("#SBATCH")]


def test_the_options_are_those_of_the_block_or_of_the_provider(make: Any) -> None:
    provider = SlurmProvider(
        partition="p",
        account="a",
        qos="q",
        constraint="c&d",
        reservation="r",
        cores_per_node=4,
        memory_per_node="2 GiB",
        gpus_per_node=1,
        scheduler_options="--mail-type=FAIL",
    )
    lines = directives(make, provider, nodes=2)
    for option in ("partition=p", "account=a", "qos=q", "reservation=r", "nodes=2", "gpus-per-node=1"):
        assert f"--{option}" in lines
    for option in ("'--constraint=c&d'", "--cpus-per-task=4", "--mem=2048M", "--mail-type=FAIL"):
        assert option in lines
    assert not [line for line in lines if "time" in line or "exclusive" in line]
    lines = directives(make, provider, cpus=2, memory=2**20 + 1, gpus=0, walltime=90061.5)
    assert {"--cpus-per-task=2", "--mem=2M", "--time=1-01:01:02"} <= {*lines}
    assert not [line for line in lines if "gpus" in line]


@pytest.mark.parametrize(
    ("exclusive", "cpus", "expected"),
    [(None, None, True), (None, 2, False), (True, 2, True), (False, None, False)],
)
def test_nodes_are_whole_unless_cores_are_asked_for(
    make: Any, exclusive: bool | None, cpus: int | None, expected: bool
) -> None:
    lines = directives(make, SlurmProvider(exclusive=exclusive), cpus=cpus)
    assert ("--exclusive" in lines) is expected


@pytest.mark.parametrize("option", ["partition", "account", "qos", "constraint", "reservation", "clusters"])
def test_options_of_several_lines_are_refused(option: str) -> None:
    with pytest.raises(ConfigError, match=option):
        SlurmProvider(**{option: "a\n#SBATCH --b"})  # type: ignore[arg-type]


def test_a_directory_that_slurm_cannot_name_is_refused(make: Any) -> None:
    with pytest.raises(ConfigError, match="backslash"):
        SlurmProvider().script(make.spec(directory="a\\b"))
    assert "--output=50%%/it.out" in directives_of(make, "50%")


def directives_of(make: Any, directory: str) -> str:
    return SlurmProvider().script(make.spec(directory=directory, id="it"))


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ("", ()),
        ("n1", ("n1",)),
        ("n[1-3]", ("n1", "n2", "n3")),
        ("n[08-10,12],gpu01", ("n08", "n09", "n10", "n12", "gpu01")),
        ("r[1-2]n[3-4]-ib", ("r1n3-ib", "r1n4-ib", "r2n3-ib", "r2n4-ib")),
        ("n[1-999999999]", ("n[1-999999999]",)),
        ("n[1-", ("n[1-",)),
    ],
)
def test_lists_of_hosts(text: str, hosts: tuple[str, ...]) -> None:
    assert expand_hosts(text) == hosts


def test_an_array_is_a_script_that_runs_the_scripts_of_its_elements(toy: Any, make: Any) -> None:
    toy.command("sbatch", 'cat "$2" >submitted; echo 123')
    provider = SlurmProvider(channel=toy, arrays=True)
    specs = [make.spec(id=f"run-{number}") for number in (7, 8, 12)]
    assert dict(provider.submit_array(specs)) == {"run-7": "123_0", "run-8": "123_1", "run-12": "123_2"}
    script = (toy.home / "submitted").read_text()
    assert "#SBATCH --array=0-2\n" in script
    assert f"  1) exec /bin/bash {shlex.quote(f'{toy.home}/runs/run-8.sh')} ;;\n" in script
    (comment,) = re.findall(r"--comment=(\S+)", script)
    rows = [f"123_{number}|RUNNING|None|0|0|n1|{comment}|toy" for number in range(4)]
    head = QUEUE.partition("\n")[0]
    listed = provider.parse_queue(answer("\n".join([head, *(f"weft|{row}" for row in rows)])))
    assert [job.spec_id for job in listed] == ["run-7", "run-8", "run-12", ""]
    element = (toy.home / "runs/run-12.sh").read_text()
    assert 'weft_job="${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}"' in element


def test_arrays_as_slurm_lists_them() -> None:
    jobs = {job.id: (job.spec_id, job.state) for job in SlurmProvider().parse_queue(answer(ARRAYS))}
    assert jobs == {
        "1_0": ("run-htex-1", JobState.RUNNING),
        "1_1": ("run-htex-2", JobState.CANCELLED),
        "1_2": ("run-htex-3", JobState.FAILED),
        "2": ("run-htex-4", JobState.COMPLETED),
        "3_0": ("run-htex-5", JobState.HELD),
        "3_1": ("run-htex-6", JobState.HELD),
        "4": ("run-htex-7", JobState.RUNNING),
    }


def test_elements_of_an_array_are_found_with_what_they_were_submitted_for(toy: Any) -> None:
    toy.command("squeue", f"cat <<'end'\n{ARRAYS}end")
    found = SlurmProvider(channel=toy).find_specs("run")
    assert found == {"run-htex-1": "1_0", "run-htex-5": "3_0", "run-htex-6": "3_1", "run-htex-7": "4"}


def test_without_arrays_each_block_is_submitted_by_itself() -> None:
    assert SlurmProvider().array_size == 1
    assert SlurmProvider(arrays=True).array_size > 1


@given(st.lists(st.text(st.characters(exclude_characters="/\0\n")), min_size=2, unique=True))
def test_the_id_of_an_array_holds_those_of_its_elements(ids: list[str]) -> None:
    assert [element_of(array_id(ids), number) for number in range(len(ids) + 1)] == [*ids, ""]
