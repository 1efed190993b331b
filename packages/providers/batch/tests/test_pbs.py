"""What is asked of PBS Pro and Torque, and what their answers mean; recordings say where they are from."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from weft_interfaces import BlockShape, ConfigError, JobId, JobSpec, JobState, ProviderError, UnitError
from weft_provider_batch import PBSProProvider, TorqueProvider
from weft_provider_batch.host import Answer
from weft_provider_batch.qstat import clock_seconds, exec_hosts, read_jobs, read_time

pytestmark = pytest.mark.once

TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1)
PROVIDERS = [PBSProProvider, TorqueProvider]


def answer(said: str, listed: str = "", asked: str = "", status: int = 0) -> Answer:
    marks = f"weft-mine {listed}\nweft-asked {asked or listed}\nweft-status {status}\n"
    return Answer(0, f"{said}\n{marks}", "", 0.0)


def only(provider: PBSProProvider | TorqueProvider, said: str, **where: Any) -> Any:
    (job,) = provider.parse_queue(answer(said, **where))
    return job


# -- recordings ---------------------------------------------------------------------------------------------


def test_a_job_of_pbs_pro_that_waits_says_why(recording: Any) -> None:
    job = only(PBSProProvider(), recording("pbspro-queued.txt"), listed="7013474.pbs")
    assert (job.id, job.state, job.name) == ("7013474.pbs", JobState.PENDING, "job-01.pbs")
    assert job.reason == "Not Running: Insufficient amount of resource: ncpus"
    assert (job.hosts, job.started_at, job.exit_code) == ((), None, None)


def test_jobs_of_pbs_pro_that_run(recording: Any) -> None:
    job = only(PBSProProvider(), recording("pbspro-running.json"))
    assert (job.state, job.reason, job.hosts) == (JobState.RUNNING, "", ("charon24", "charon21"))
    assert job.started_at == 1664918613  # as if 21:23:33 were UTC, for which the command asks
    assert job.ends_at == job.started_at + 60
    job = only(PBSProProvider(), recording("pbspro-running.txt"))
    assert (job.state, job.hosts) == (JobState.RUNNING, ("execute-2",))


def test_a_job_of_pbs_pro_that_has_ended_though_its_answer_is_no_json(recording: Any) -> None:
    said = recording("pbspro-finished.json")
    with pytest.raises(ValueError, match=r"trailing comma|property name"):
        json.loads(said)
    job = only(PBSProProvider(), said)
    assert (job.id, job.state) == ("2154.edtb-01.mcp.alcf.anl.gov", JobState.COMPLETED)


def test_variables_that_are_no_json(recording: Any) -> None:
    said = recording("pbspro-zeros.json")
    with pytest.raises(ValueError, match=r"delimiter|escape"):
        json.loads(said)
    job = only(PBSProProvider(), said)
    assert (job.id, job.state) == ("53.testpbs.nas.nasa.gov", JobState.HELD)
    assert job.reason.startswith("held by its owner")


def test_several_jobs_that_are_no_json(recording: Any) -> None:
    said = recording("pbspro-several.json")
    jobs = PBSProProvider().parse_queue(answer(said, listed="1.vbox 2.vbox"))
    assert [(job.id, job.state) for job in jobs] == [
        ("1.vbox", JobState.PENDING),
        ("2.vbox", JobState.RUNNING),
    ]


def test_a_job_that_is_left_out_makes_the_answer_none(recording: Any) -> None:
    said = recording("pbspro-first.json")
    with pytest.raises(ValueError, match=r"leaves out 11.ip-10-0-6-176"):
        PBSProProvider().parse_queue(answer(said, listed="10.ip-10-0-6-176 11.ip-10-0-6-176"))
    said += "qstat: Unknown Job Id 11.ip-10-0-6-176\n"
    assert only(PBSProProvider(), said, listed="10.ip-10-0-6-176 11.ip-10-0-6-176", status=153)


def test_a_server_may_have_several_names() -> None:
    said = "Job Id: 11.pbs.site.org\n    job_state = R\n\nqstat: Unknown Job Id 1.pbs.site.org\n"
    job = only(PBSProProvider(), said, listed="11.pbs 1.pbs", status=153)
    assert (job.id, job.state) == ("11.pbs", JobState.RUNNING)
    with pytest.raises(ValueError, match=r"leaves out 1\.pbs"):
        PBSProProvider().parse_queue(answer(said.replace(" 1.", " 111."), listed="11.pbs 1.pbs", status=153))


@pytest.mark.parametrize("said", ["", "<html>502</html>", '{\n"timestamp":1\n}'])
def test_no_word_on_those_that_were_asked_for_is_no_answer(said: str) -> None:
    for provider in (PBSProProvider(), TorqueProvider()):
        with pytest.raises(ValueError, match=r"leaves out 1\.s"):
            provider.parse_queue(answer(said, asked="1.s"))


def test_no_jobs_are_an_answer(recording: Any) -> None:
    assert not PBSProProvider().parse_queue(answer(recording("pbspro-none.json")))
    assert not PBSProProvider().parse_queue(answer("qstat: Unknown Job Id 1.vbox", status=153))
    assert not TorqueProvider().parse_queue(answer(""))


def test_jobs_of_torque(recording: Any) -> None:
    done, deleted = TorqueProvider().parse_queue(answer(recording("torque-completed.txt")))
    assert (done.id, done.state, done.exit_code) == ("9.torque01.bcgsc.ca", JobState.COMPLETED, 0)
    assert done.hosts == ("torque01.bcgsc.ca",)
    assert (deleted.id, deleted.state) == ("48[1].torque01.bcgsc.ca", JobState.CANCELLED)
    assert deleted.reason.endswith("its dependency of array 43[].torque01.bcgsc.ca can never be satisfied")
    failed = only(TorqueProvider(), recording("torque-failed.txt"))
    assert (failed.state, failed.exit_code) == (JobState.FAILED, None)
    assert "exit status -1: it could not be started" in failed.reason
    running = only(TorqueProvider(), recording("torque-running.txt"))
    assert (running.state, running.hosts) == (JobState.RUNNING, ("n003",))
    assert running.ends_at == running.started_at + 3600


# -- states and ends ----------------------------------------------------------------------------------------


def job_text(**attributes: Any) -> str:
    return "Job Id: 1.s\n" + "".join(f"    {name} = {value}\n" for name, value in attributes.items())


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(
    ("letter", "state"),
    [
        ("Q", JobState.PENDING),
        ("W", JobState.PENDING),
        ("T", JobState.PENDING),
        ("H", JobState.HELD),
        ("S", JobState.HELD),
        ("U", JobState.HELD),
        ("R", JobState.RUNNING),
        ("E", JobState.RUNNING),
        ("B", JobState.RUNNING),
        ("M", JobState.UNKNOWN),
        ("?", JobState.UNKNOWN),
        ("", JobState.UNKNOWN),
    ],
)
def test_states(provider: Any, letter: str, state: JobState) -> None:
    assert only(provider(), job_text(Job_Name="x", job_state=letter)).state is state


STARTED = {"stime": "Wed Nov 25 21:43:23 2026", "Resource_List.walltime": "00:01:00"}


@pytest.mark.parametrize(
    ("attributes", "state", "code", "words"),
    [
        ({"Exit_status": 0, **STARTED}, JobState.COMPLETED, 0, ""),
        ({"Exit_status": 3, **STARTED}, JobState.FAILED, 3, ""),
        ({"Exit_status": 127, **STARTED}, JobState.FAILED, 127, ""),
        ({"Exit_status": 143, **STARTED}, JobState.FAILED, 143, ""),
        ({"Exit_status": 143, "substate": 91, **STARTED}, JobState.CANCELLED, None, "deleted"),
        ({"Exit_status": 271, **STARTED}, JobState.CANCELLED, None, "271: told to end"),
        ({"Exit_status": 265, **STARTED}, JobState.FAILED, 137, "265: killed"),
        ({"Exit_status": -29, **STARTED}, JobState.TIMEOUT, None, "walltime was over"),
        (
            {"Exit_status": 271, "resources_used.walltime": "00:01:07", **STARTED},
            JobState.TIMEOUT,
            None,
            "271",
        ),
        (
            {"Exit_status": 143, "resources_used.walltime": "00:01:07", **STARTED},
            JobState.TIMEOUT,
            None,
            "143",
        ),
        ({"Exit_status": 1, "resources_used.walltime": "00:01:07", **STARTED}, JobState.FAILED, 1, ""),
        ({"Exit_status": -27, **STARTED}, JobState.FAILED, None, "more memory"),
        ({"Exit_status": -3, **STARTED}, JobState.FAILED, None, "could not be started"),
        ({"Exit_status": -99, **STARTED}, JobState.FAILED, None, "-99: it could not be run"),
        ({}, JobState.CANCELLED, None, "deleted"),
        ({"Exit_status": "?", **STARTED}, JobState.GONE, None, "how is not said"),
        ({"comment": "Job deleted by the site", "Exit_status": 1}, JobState.FAILED, 1, "deleted by the site"),
        ({"comment": "Job run at Mon and failed", "Exit_status": 1}, JobState.FAILED, 1, ""),
    ],
)
@pytest.mark.parametrize("letter", ["F", "X"])
def test_ends_of_pbs_pro(
    letter: str, attributes: dict[str, Any], state: JobState, code: int | None, words: str
) -> None:
    job = only(PBSProProvider(), job_text(job_state=letter, **attributes))
    assert (job.state, job.exit_code) == (state, code)
    assert words in job.reason
    assert bool(words) == bool(job.reason)


@pytest.mark.parametrize(("status", "state"), [(-11, JobState.TIMEOUT), (-10, JobState.FAILED)])
def test_ends_of_torque(status: int, state: JobState) -> None:
    assert only(TorqueProvider(), job_text(job_state="C", exit_status=status)).state is state


@pytest.mark.parametrize(
    ("kind", "words"), [("u", "held by its owner"), ("s", "held by the system"), ("o", "held by an operator")]
)
def test_holds(kind: str, words: str) -> None:
    said = job_text(job_state="H", Hold_Types=kind, comment="job held, too many failed attempts to run")
    job = only(PBSProProvider(), said)
    assert words in job.reason
    assert job.reason.endswith("too many failed attempts to run")
    assert job.stuck is (kind == "s")


@pytest.mark.parametrize(
    ("letter", "comment"),
    [
        ("H", "Job held by root"),
        # Of a site whose nodes come when there are jobs: https://github.com/Azure/az-hop/issues/133
        ("Q", "Can Never Run: Insufficient amount of resource: slot_type (hb120rs_v2 != hc44rs)"),
    ],
)
def test_what_may_pass_is_not_taken_for_stuck(letter: str, comment: str) -> None:
    assert not only(PBSProProvider(), job_text(job_state=letter, Hold_Types="s", comment=comment)).stuck


# -- answers that are none ----------------------------------------------------------------------------------


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(
    ("said", "status"),
    [
        ("Connection refused\nqstat: cannot connect to server s (errno=15010)", 255),
        ("qstat: cannot connect to server s (errno=111)", 153),
        ("qstat: End of File", 0),
        ("", 139),
        ("{\n  broken", 0),
        ('{\n  "Jobs":[]}', 0),
        ('{\n  "timestamp":1,\n  "Jobs":{"1.s":{"job_state":', 0),
    ],
)
def test_what_is_no_answer_is_taken_for_none(provider: Any, said: str, status: int) -> None:
    with pytest.raises(ValueError, match="qstat"):
        provider().parse_queue(answer(said, status=status))


def test_an_answer_without_its_end_is_none() -> None:
    for said in ("", job_text(job_state="R"), "weft-mine 1.s\n"):
        with pytest.raises(ValueError, match="failed"):
            PBSProProvider().parse_queue(Answer(0, said, "", 0.0))
    with pytest.raises(ValueError, match="failed"):
        PBSProProvider().parse_queue(Answer(1, answer("").stdout, "", 0.0))


RECORDED = Path(__file__).parent / "recordings"
RECORDINGS = [
    "pbspro-queued.txt",
    "pbspro-running.json",
    "pbspro-zeros.json",
    "pbspro-several.json",
    "torque-completed.txt",
]


@given(st.sampled_from(RECORDINGS), TEXT, st.integers(0, 3000), st.randoms(use_true_random=False))
def test_no_answer_however_broken_is_more_than_a_value_error(
    name: str, text: str, place: int, chance: random.Random
) -> None:
    whole = (RECORDED / name).read_text().partition("\n----\n")[2]
    broken = whole[:place] + text + whole[place + chance.randrange(200) :]
    for provider in (PBSProProvider(), TorqueProvider()):
        try:
            jobs = provider.parse_queue(answer(broken))
        except ValueError:
            continue
        # What was not said to have ended has not.
        ended = {"9.torque01.bcgsc.ca", "48[1].torque01.bcgsc.ca"}
        for job in jobs:
            assert job.id
            assert not job.state.terminal or name == "torque-completed.txt" or job.id in ended


@given(st.text(), st.text())
def test_garbage_is_no_answer(said: str, listed: str) -> None:
    for text in (said, f"{said}\nweft-mine {listed}\nweft-asked {listed}\nweft-status 0\n", "{" + said + "}"):
        try:
            assert all(
                not job.state.terminal for job in PBSProProvider().parse_queue(Answer(0, text, "", 0.0))
            )
        except ValueError:
            continue


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("72:00:00", 259200),
        ("01:00:00:01", 86401),
        ("90", 90),
        ("1:30", 90),
        ("", None),
        ("x", None),
        ("--", None),
    ],
)
def test_durations(text: str, seconds: float | None) -> None:
    assert clock_seconds(text) == seconds


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ("node1/0*4+node2/0*4", ("node1", "node2")),
        ("n1/0+n1/1+n2/0-3", ("n1", "n2")),
        ("edtb-01/0", ("edtb-01",)),
        ("", ()),
    ],
)
def test_hosts(text: str, hosts: tuple[str, ...]) -> None:
    assert exec_hosts(text) == hosts


def test_times() -> None:
    assert read_time("Wed Nov 25 21:43:23 2026") == 1795643003
    assert read_time("1795643003") == 1795643003
    assert read_time("UNKNOWN") is None


def test_lines_of_values_are_no_attributes() -> None:
    said = "Job Id: 1.s\n    job_state = R\n    Variable_List = A=() {\n    job_state = F\n    x = 1\n}\n"
    assert read_jobs(said)["1.s"]["job_state"] == "R"


# -- asking -------------------------------------------------------------------------------------------------


def lines(provider: Any, make: Any, **settings: Any) -> list[str]:
    script = provider.script(make.spec(**settings))
    return [line.removeprefix("#PBS ") for line in script.splitlines() if line.startswith("#PBS")]


def test_what_a_block_of_pbs_pro_asks_for(make: Any) -> None:
    provider = PBSProProvider(
        queue="workq",
        account="a",
        project="p",
        cores_per_node=4,
        memory_per_node="2 GiB",
        gpus_per_node=1,
        select_options="mpiprocs=4",
        exclusive=True,
        scheduler_options="#PBS -l filesystems=home:grand\n-m n",
    )
    said = lines(provider, make, shape=BlockShape(nodes=3, walltime=90061.5))
    for line in (
        "-q workq",
        "-A a",
        "-P p",
        "-S /bin/bash",
        "-o /dev/null",
        "-l filesystems=home:grand",
        "-m n",
    ):
        assert line in said
    assert "-l select=3:ncpus=4:mem=2048mb:ngpus=1:mpiprocs=4" in said
    assert "-l place=scatter:excl" in said
    assert "-l walltime=25:01:02" in said
    assert lines(PBSProProvider(), make)[5:] == ["-l select=1"]


def test_what_a_block_of_torque_asks_for(make: Any) -> None:
    provider = TorqueProvider(
        queue="batch",
        cores_per_node=4,
        memory_per_node="2 GiB",
        gpus_per_node=1,
        node_properties="infiniband",
    )
    said = lines(provider, make, shape=BlockShape(nodes=2, walltime=60))
    for line in ("-q batch", "-l nodes=2:ppn=4:gpus=1:infiniband", "-l mem=4096mb", "-l walltime=00:01:00"):
        assert line in said


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(
    ("name", "word"),
    [("weft block 12 of many", "weft_block_12_o"), ("1st", "w1st"), ("é", "w_"), ("a" * 300, "a" * 15)],
)
def test_names_are_those_that_any_version_takes(provider: Any, make: Any, name: str, word: str) -> None:
    assert f"-N {word}" in lines(provider(), make, name=name)


@given(TEXT, TEXT, st.from_regex(r"[A-Za-z0-9_.~-]+", fullmatch=True))
def test_variables_carry_the_name_the_tag_and_the_id(name: str, tag: str, spec_id: str) -> None:
    for provider in (PBSProProvider(), TorqueProvider()):
        spec = JobSpec(id=spec_id, name=name, tag=tag, command=["true"], shape=BlockShape(), directory="runs")
        (line,) = (line for line in provider.script(spec).splitlines() if line.startswith("#PBS -v "))
        variables = f"PBS_O_HOME=/home,{line.removeprefix('#PBS -v ')},PBS_O_HOST=h"
        job = only(provider, job_text(job_state="R", Variable_List=variables))
        assert (job.name, job.tag, job.spec_id) == (name, tag, spec_id)


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(
    "settings",
    [{"queue": "a b"}, {"account": "a\n#PBS -h"}, {"scheduler_options": "-v A=1"}, {"cores_per_node": -1}],
)
def test_options_that_are_wrong_are_named(provider: Any, settings: dict[str, Any]) -> None:
    with pytest.raises((ConfigError, UnitError), match=next(iter(settings))):
        provider(**settings)


@pytest.mark.parametrize(
    ("output", "job"),
    [
        ("1234.server\n", "1234.server"),
        ("Welcome\n5\n12.3\n1234.pbs-1.site.org\nbye\n", "1234.pbs-1.site.org"),
        ("1234[].server\n", "1234[].server"),
        ("77\n", "77"),
        ("", None),
        ("no allocation left", None),
    ],
)
def test_the_answer_to_a_submission(output: str, job: str | None) -> None:
    assert PBSProProvider().parse_submit(output) == job


@pytest.mark.parametrize(
    ("said", "key"),
    [
        ("qsub: Unknown queue", "queue"),
        ("qsub: submit error (Unknown queue MSG=cannot locate queue)", "queue"),
        ("qsub: Access to queue is denied", "queue"),
        ("qsub: Invalid account", "account"),
        ("qsub: Illegal attribute or resource value Resource_List.walltime", "walltime"),
        ("qsub: Illegal attribute or resource value", "scheduler_options"),
        ("qsub: Unknown resource: flesystems", "scheduler_options"),
        ("qsub: Job violates queue and/or server resource limits", "walltime, nodes, cores, memory, queue"),
        ("qsub: Job rejected by all possible destinations", "walltime, nodes, cores, memory, queue"),
        ("qsub: submit error (Job exceeds queue resource limits MSG=cannot satisfy queue max)", None),
        ("qsub: Request rejected.  Reason: No active allocation found for project", "project, account"),
        ("qsub: Bad UID for job execution", ""),
    ],
)
@pytest.mark.parametrize("provider", PROVIDERS)
def test_refusals_name_the_option(
    provider: Any, toy: Any, spec: JobSpec, clock: Any, said: str, key: str | None
) -> None:
    toy.command("qsub", f"echo '{said}' >&2; exit 170")
    with pytest.raises(ConfigError) as caught:
        provider(channel=toy).submit(spec)
    assert said in str(caught.value)
    assert key is None or caught.value.key == key


@pytest.mark.parametrize(
    "said",
    [
        "Connection refused\nqsub: cannot connect to server pbs (errno=15010)",
        "qsub: would exceed queue workq's per-user limit",
        "qsub: Maximum number of jobs for user a already in queue workq",
        "qsub: Resource temporarily unavailable",
        "qsub: Request not allowed: Server shutting down",
        "qsub: End of File",
    ],
)
def test_refusals_that_may_pass(toy: Any, spec: JobSpec, clock: Any, said: str) -> None:
    toy.command("qsub", f"echo '{said}' >&2; exit 1")
    with pytest.raises(ProviderError):
        PBSProProvider(channel=toy).submit(spec)


@pytest.mark.parametrize(
    ("said", "status", "fine"),
    [
        ("", 0, True),
        ("qdel: Unknown Job Id 9.s", 153, True),
        ("qdel: Job has finished 9.s", 35, True),
        ("qdel: Unknown Job Id 9.s\nqdel: Unauthorized Request 8.s", 153, False),
        ("qdel: Request invalid for state of job MSG=invalid state for job - COMPLETE 9.s", 170, True),
        ("qdel: cannot connect to server s (errno=15010)", 255, False),
        ("", 1, False),
    ],
)
def test_deleting_what_is_not_there_is_no_error(said: str, status: int, fine: bool) -> None:
    assert PBSProProvider().cancelled(Answer(status, "", said, 0.0)) is fine


def test_ids_that_are_none_are_not_asked_for() -> None:
    command = PBSProProvider().queue_command([JobId("1.s"), JobId("-x"), JobId("2[].s"), JobId("$(id)")])
    assert command[4:] == ["1.s", "2[].s"]
