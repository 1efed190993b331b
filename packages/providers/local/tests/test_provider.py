from __future__ import annotations

import errno
import gc
import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from weft_interfaces import BlockShape, ConfigError, JobId, JobSpec, JobState, JobStatus, ProviderError
from weft_provider_local import LocalProvider, group, job, provider, start

PATIENCE = 20.0

# Says in its output when it is ready, and does not end when it is asked to.
STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
    "print('ready', flush=True); time.sleep(600)"
)

# Starts a process in a session of its own.
NESTED = (
    "import subprocess; p = subprocess.Popen(['sleep', '600'], start_new_session=True);"
    "print(p.pid, flush=True); p.wait()"
)

# What other processes begin with.
HEAD = """
import json, os, sys
from weft_interfaces import BlockShape, JobSpec, JobState
from weft_provider_local import LocalProvider

p = LocalProvider()

def submit(name, directory, command=("sleep", "600"), walltime=None, tag=""):
    shape = BlockShape(walltime=walltime)
    return p.submit(
        JobSpec(id=name, name=name, command=command, shape=shape, directory=directory, tag=tag)
    )
"""


def eventually(condition: Callable[[], object], patience: float = PATIENCE) -> bool:
    """Wait for something of which no notice is given (another process's state)."""
    deadline = time.monotonic() + patience
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


class Jobs:
    """Submits jobs to a provider and waits for what becomes of them."""

    def __init__(self, directory: Path) -> None:
        self.provider = LocalProvider()
        self.directory = directory
        self.submitted: list[JobId] = []

    def spec(self, *command: str, **fields: Any) -> JobSpec:
        fields = {
            "id": f"test-{uuid.uuid4().hex}",
            "name": "test",
            "shape": BlockShape(walltime=fields.pop("walltime", None)),
            "directory": str(self.directory),
            **fields,
        }
        return JobSpec(command=command, **fields)

    def submit(self, *command: str, **fields: Any) -> JobId:
        return self.submit_spec(self.spec(*command, **fields))

    def submit_spec(self, spec: JobSpec) -> JobId:
        self.submitted.append(self.provider.submit(spec))
        return self.submitted[-1]

    def status(self, job_id: JobId) -> JobStatus:
        return self.provider.status([job_id])[job_id]

    def end(self, job_id: JobId) -> JobStatus:
        assert eventually(lambda: self.status(job_id).state.terminal), self.status(job_id)
        return self.status(job_id)

    def run(self, *command: str, **fields: Any) -> JobStatus:
        return self.end(self.submit(*command, **fields))

    def out(self, spec: JobSpec) -> str:
        return (self.directory / f"{spec.id}.out").read_text()

    def ready(self, spec: JobSpec) -> str:
        assert eventually(lambda: self.out(spec).endswith("\n")), "the job says nothing"
        return self.out(spec)


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[Jobs]:
    jobs = Jobs(tmp_path / "jobs")
    yield jobs
    jobs.provider.cancel(jobs.submitted)


@pytest.fixture
def short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "_GRACE", 0.05)


def pid_of(job_id: JobId) -> int:
    return int(job_id.partition(".")[0])


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def elsewhere(code: str, *arguments: str) -> Any:
    """What another process prints, as JSON."""
    command = [sys.executable, "-W", "error", "-c", HEAD + code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return json.loads(done.stdout)


# -- refused ----------------------------------------------------------------------------------------------


def no_descriptors() -> int:
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


def test_a_missing_command_is_named_and_leaves_nothing(jobs: Jobs) -> None:
    before = no_descriptors()
    spec = jobs.spec("no-such-command", "x", name="block-1", input=b"x")
    with pytest.raises(ConfigError, match=r"'block-1'.*'no-such-command'"):
        jobs.provider.submit(spec)
    assert list(jobs.directory.iterdir()) == []
    assert no_descriptors() == before


def test_a_command_that_cannot_be_run_is_named(jobs: Jobs, tmp_path: Path) -> None:
    (tmp_path / "data").write_text("no program")
    with pytest.raises(ConfigError, match="data"):
        jobs.submit(str(tmp_path / "data"))
    with pytest.raises(ConfigError, match="nothing to run"):
        jobs.submit()
    with pytest.raises(ConfigError, match="null byte"):
        jobs.submit("echo", "a\0b")


def test_the_environment_can_be_wrong(jobs: Jobs) -> None:
    with pytest.raises(ConfigError, match="environment variable name"):
        jobs.submit("true", environment={"A=B": "x"})


def test_a_refused_job_may_be_submitted_again(jobs: Jobs, tmp_path: Path) -> None:
    script = tmp_path / "late"
    spec = jobs.spec(str(script))
    with pytest.raises(ConfigError):
        jobs.submit_spec(spec)
    script.write_text("#!/bin/sh\nexit 7\n")
    script.chmod(0o700)
    assert jobs.end(jobs.submit_spec(spec)).exit_code == 7


def test_a_directory_that_cannot_be_made_is_named(jobs: Jobs, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for directory in ("file", "file/deeper", "a\0b"):
        with pytest.raises(ConfigError, match="'block-1' cannot be made"):
            jobs.submit("true", directory=str(tmp_path / directory), name="block-1")


@pytest.mark.parametrize("spec_id", ["", "../x", "a/b", "a\0b"])
def test_an_id_that_is_no_file_name_is_refused(jobs: Jobs, spec_id: str) -> None:
    with pytest.raises(ConfigError, match="file name"):
        jobs.submit("true", id=spec_id)


def test_what_may_work_later_is_transient(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any, **options: Any) -> Any:
        raise OSError(errno.EAGAIN, "no more processes")

    spec = jobs.spec("true")
    monkeypatch.setattr(start.subprocess, "Popen", full)  # type: ignore[attr-defined]
    with pytest.raises(ProviderError, match=r"'true'.*no more processes"):
        jobs.submit_spec(spec)
    monkeypatch.undo()
    assert jobs.end(jobs.submit_spec(spec)).state is JobState.COMPLETED


def test_a_job_that_cannot_be_written_down_does_not_run(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    pids: list[int] = []

    def full(files: start.JobFiles, job_id: JobId) -> None:
        pids.append(pid_of(job_id))
        raise OSError(errno.ENOSPC, "disk full")

    monkeypatch.setattr(start.JobFiles, "write_record", full)
    with pytest.raises(ProviderError, match="disk full"):
        jobs.submit("sleep", "600")
    with pytest.raises(ProcessLookupError):  # not even a zombie
        os.kill(pids[0], 0)
    assert list(jobs.directory.iterdir()) == []


# -- how jobs end -----------------------------------------------------------------------------------------


def test_exit_status_and_the_end_of_stderr(jobs: Jobs) -> None:
    script = "i=0; while [ $i -lt 2000 ]; do echo line $i >&2; i=$((i+1)); done; exit 3"
    status = jobs.run("sh", "-c", script)
    assert (status.state, status.exit_code) == (JobState.FAILED, 3)
    assert "3" in status.reason
    assert status.stderr_tail.endswith("line 1998\nline 1999\n")
    assert 4000 < len(status.stderr_tail) <= 8192


def test_stderr_may_be_no_text_or_gone(jobs: Jobs) -> None:
    assert jobs.run("sh", "-c", r"printf '\377x' >&2").stderr_tail == "\ufffdx"
    spec = jobs.spec("sh", "-c", 'rm "$1"', "sh", "")
    path = jobs.directory / f"{spec.id}.err"
    status = jobs.run("rm", str(path), id=spec.id)
    assert (status.state, status.stderr_tail) == (JobState.COMPLETED, "")


def test_killed_by_a_signal(jobs: Jobs) -> None:
    status = jobs.run("sh", "-c", "kill -KILL $$")
    assert (status.state, status.exit_code) == (JobState.FAILED, 137)
    assert "signal 9 (SIGKILL)" in status.reason


def test_a_job_that_runs_says_where_and_since_when(jobs: Jobs) -> None:
    before = time.time()
    status = jobs.status(jobs.submit("sleep", "600", walltime=300.0))
    assert status.state is JobState.RUNNING
    assert status.started_at is not None
    assert before - 1 <= status.started_at <= time.time() + 1
    assert status.ends_at == status.started_at + 300
    assert len(status.hosts) == 1


def test_its_walltime_ends_it(jobs: Jobs) -> None:
    started = time.monotonic()
    status = jobs.run("sleep", "600", walltime=0.2)
    assert time.monotonic() - started >= 0.19
    assert (status.state, status.exit_code) == (JobState.TIMEOUT, 128 + signal.SIGTERM)
    assert "walltime" in status.reason


@pytest.mark.usefixtures("short_grace")
def test_walltime_kills_what_ignores_it_and_status_does_not_wait(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = jobs.spec(sys.executable, "-c", STUBBORN, walltime=PATIENCE)
    job_id = jobs.submit_spec(spec)
    jobs.ready(spec)
    clock = time.monotonic() + 2 * PATIENCE
    monkeypatch.setattr(job.time, "monotonic", lambda: clock)  # type: ignore[attr-defined]
    assert jobs.status(job_id).state is JobState.RUNNING  # asked to end: it has its grace
    assert not gone(pid_of(job_id))
    clock += 1
    jobs.status(job_id)
    monkeypatch.undo()
    status = jobs.end(job_id)
    assert (status.state, status.exit_code) == (JobState.TIMEOUT, 137)


def test_the_clock_may_be_set(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = jobs.submit("sleep", "600", walltime=300.0)
    now = time.time()
    monkeypatch.setattr(job.time, "time", lambda: now + 4000)  # type: ignore[attr-defined]
    assert jobs.status(job_id).state is JobState.RUNNING
    monkeypatch.undo()
    assert jobs.status(job_id).state is JobState.RUNNING


def test_cancel_returns_when_it_has_ended(jobs: Jobs) -> None:
    ids = [jobs.submit("sleep", "600") for _ in range(5)]
    jobs.provider.cancel(ids)
    for status in jobs.provider.status(ids).values():
        assert (status.state, status.exit_code) == (JobState.CANCELLED, 128 + signal.SIGTERM)
    assert all(map(gone, map(pid_of, ids)))


@pytest.mark.usefixtures("short_grace")
def test_a_job_that_ignores_it_is_killed(jobs: Jobs) -> None:
    spec = jobs.spec(sys.executable, "-c", STUBBORN)
    job_id = jobs.submit_spec(spec)
    jobs.ready(spec)
    jobs.provider.cancel([job_id])
    status = jobs.status(job_id)
    assert (status.state, status.exit_code) == (JobState.CANCELLED, 137)


def test_a_job_may_end_in_its_own_way(jobs: Jobs) -> None:
    spec = jobs.spec("sh", "-c", "trap 'echo bye >&2; exit 5' TERM; echo ready; while :; do sleep 0.01; done")
    job_id = jobs.submit_spec(spec)
    jobs.ready(spec)
    jobs.provider.cancel([job_id])
    status = jobs.status(job_id)
    assert (status.state, status.exit_code) == (JobState.CANCELLED, 5)
    assert status.stderr_tail.endswith("bye\n")


@pytest.mark.parametrize("last", ["exit 0", "sleep 600"], ids=["it ended", "it was cancelled"])
def test_what_is_left_in_its_group_is_killed(jobs: Jobs, last: str) -> None:
    left = f'trap "" TERM; {sys.executable} -c "{STUBBORN}" & echo $!; trap - TERM; read go < "$1"; {last}'
    gate = jobs.directory.parent / "gate"
    os.mkfifo(gate)
    spec = jobs.spec("bash", "-c", left, "bash", str(gate))
    job_id = jobs.submit_spec(spec)
    assert eventually(lambda: len(jobs.out(spec).splitlines()) == 2 and jobs.out(spec).endswith("\n"))
    grandchild = int(jobs.out(spec).replace("ready\n", ""))
    assert not gone(grandchild)
    with open(gate, "w") as file:
        file.write("go\n")
    if last != "exit 0":
        jobs.provider.cancel([job_id])
    jobs.end(job_id)
    assert eventually(lambda: gone(grandchild))


def test_an_end_that_somebody_else_has_waited_for(jobs: Jobs) -> None:
    job_id = jobs.submit("true")
    os.waitpid(pid_of(job_id), 0)
    status = jobs.status(job_id)
    assert (status.state, status.exit_code) == (JobState.GONE, None)
    assert "waits for all" in status.reason


def test_no_zombie_stays_for_longer_than_to_the_next_job(jobs: Jobs) -> None:
    job_id = jobs.submit("true")
    assert eventually(lambda: gone(pid_of(job_id)))
    jobs.submit("true")
    assert not Path(f"/proc/{pid_of(job_id)}").exists()
    assert jobs.status(job_id).exit_code == 0


def test_a_forked_child_neither_loses_nor_ends_jobs(jobs: Jobs) -> None:
    job_id = jobs.submit("sleep", "600")
    code = (
        "job = submit('f', sys.argv[1])\n"
        "pid = os.fork()\n"
        "if not pid: os._exit(p.status([job])[job].state is not JobState.RUNNING)\n"
        "code = os.waitpid(pid, 0)[1]\n"
        "state = p.status([job])[job].state\n"
        "p.cancel([job])\n"
        "print(json.dumps([code, state.name, p.status([job])[job].state.name]))\n"
    )
    assert elsewhere(code, str(jobs.directory)) == [0, "RUNNING", "CANCELLED"]
    assert jobs.status(job_id).state is JobState.RUNNING


# -- what a job gets --------------------------------------------------------------------------------------


@pytest.mark.parametrize("memory", [True, False])
def test_its_input_arrives_and_has_no_name(
    jobs: Jobs, memory: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if not memory:
        monkeypatch.delattr(os, "memfd_create")
        monkeypatch.setattr(start.tempfile, "tempdir", str(tmp_path / "temporary"))  # type: ignore[attr-defined]
        (tmp_path / "temporary").mkdir()
    secret = b"secret " * 100_000
    spec = jobs.spec("sh", "-c", "wc -c; echo; sleep 600", input=secret)
    job_id = jobs.submit_spec(spec)
    assert eventually(lambda: jobs.out(spec).endswith("\n\n"))
    assert int(jobs.out(spec)) == len(secret)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.name for path in files} == {f"{spec.id}.{end}" for end in ("out", "err", "job")}
    seen = [path.read_bytes() for path in files]
    seen += [Path(f"/proc/{pid_of(job_id)}/{name}").read_bytes() for name in ("cmdline", "environ")]
    assert not any(b"secret" in text for text in seen)


def test_without_input_it_reads_nothing(jobs: Jobs) -> None:
    spec = jobs.spec("cat")
    assert jobs.end(jobs.submit_spec(spec)).state is JobState.COMPLETED
    assert jobs.out(spec) == ""


def test_its_files_are_its_owners(jobs: Jobs) -> None:
    before = os.umask(0)
    try:
        spec = jobs.spec("true", directory=str(jobs.directory / "deep"))
        jobs.submit_spec(spec)
    finally:
        os.umask(before)
    assert (jobs.directory / "deep").stat().st_mode & 0o777 == 0o700
    modes = {path.suffix: path.stat().st_mode & 0o777 for path in (jobs.directory / "deep").iterdir()}
    assert modes == {".out": 0o600, ".err": 0o600, ".job": 0o600}


def test_its_environment(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FROM_HERE", "1")
    monkeypatch.setenv("CHANGED", "before")
    monkeypatch.setenv("WEFT_JOB_ENDS_AT", "1.0")  # of the job that this process is in
    spec = jobs.spec(
        "sh",
        "-c",
        "echo $FROM_HERE $CHANGED $WEFT_JOB_NAME $WEFT_JOB_TAG [$WEFT_JOB_ENDS_AT]",
        environment={"CHANGED": "after", "WEFT_JOB_TAG": "forged"},
        tag="run-1",
    )
    jobs.end(jobs.submit_spec(spec))
    assert jobs.out(spec) == "1 after test run-1 []\n"


def test_it_leads_a_session_and_inherits_no_descriptors(jobs: Jobs) -> None:
    with open(os.devnull) as file:
        os.set_inheritable(file.fileno(), True)
        job_id = jobs.submit("sleep", "600")
    assert os.getsid(pid_of(job_id)) == pid_of(job_id)
    # The loader of programs opens some, for a moment.
    assert eventually(lambda: sorted(os.listdir(f"/proc/{pid_of(job_id)}/fd")) == ["0", "1", "2"])


def test_no_descriptor_leaks(jobs: Jobs) -> None:
    before = no_descriptors()
    ids = [jobs.submit("sleep", "600", input=b"x") for _ in range(5)]
    jobs.provider.status(ids)
    jobs.provider.cancel(ids)
    assert no_descriptors() == before


# -- seen from another process ----------------------------------------------------------------------------


def test_another_process_finds_and_cancels(jobs: Jobs) -> None:
    tag = uuid.uuid4().hex
    job_id = jobs.submit("sleep", "600", tag=tag, name="left=over ü", walltime=300.0)
    code = (
        "found = p.find(sys.argv[1])\n"
        "before = p.status(found)\n"
        "p.cancel(list(found))\n"
        "after = p.status(found)\n"
        "print(json.dumps([found, [[s.state.name, s.ends_at] for s in (*before.values(), *after.values())],"
        " p.find(sys.argv[1])]))\n"
    )
    ends_at = jobs.status(job_id).ends_at
    found, states, still = elsewhere(code, tag)
    assert found == {job_id: "left=over ü"}
    assert states[0] == ["RUNNING", ends_at]
    assert states[1][0] == "CANCELLED"
    assert still == {}
    assert gone(pid_of(job_id))
    assert jobs.end(job_id).state is JobState.FAILED  # nobody here has cancelled it


def test_jobs_outlive_who_started_them(jobs: Jobs) -> None:
    code = (
        "print(json.dumps(submit('left', sys.argv[1], walltime=float(sys.argv[2]), tag=sys.argv[3])))\n"
        "p.close()\n"
    )
    tag = uuid.uuid4().hex
    job_id = JobId(elsewhere(code, str(jobs.directory), "300", tag))
    jobs.submitted.append(job_id)
    assert jobs.provider.find(tag) == {job_id: "left"}
    status = jobs.status(job_id)
    assert status.state is JobState.RUNNING
    assert status.ends_at is not None
    again = jobs.submit("sleep", "600", id="left", tag=tag)
    assert again == job_id, "the same specification is the same job"
    os.kill(pid_of(job_id), signal.SIGKILL)
    assert jobs.end(job_id).state is JobState.GONE
    assert jobs.submit("sleep", "600", id="left") == job_id, "also when it has ended"
    short = JobId(elsewhere(code, str(jobs.directory / "short"), "0.3", tag))
    jobs.submitted.append(short)
    assert jobs.end(short).state is JobState.TIMEOUT


def test_a_submission_cut_short_is_found_by_its_environment(jobs: Jobs) -> None:
    code = (
        "from weft_provider_local import start\n"
        "def killed(*args):\n"
        "    print(json.dumps(args[1]), flush=True)\n"
        "    os._exit(0)\n"
        "start.JobFiles.write_record = killed\n"
        "submit('cut', sys.argv[1], tag=sys.argv[2])\n"
    )
    tag = uuid.uuid4().hex
    job_id = JobId(elsewhere(code, str(jobs.directory), tag))
    jobs.submitted.append(job_id)
    assert jobs.provider.find(tag) == {job_id: "cut"}
    assert jobs.submit("sleep", "600", id="cut") == job_id


@pytest.mark.usefixtures("short_grace")
def test_a_stranger_that_ignores_it_is_killed(jobs: Jobs) -> None:
    code = "print(json.dumps(submit('s', sys.argv[1], command=sys.argv[2:])))"
    job_id = JobId(elsewhere(code, str(jobs.directory), sys.executable, "-c", STUBBORN))
    jobs.submitted.append(job_id)
    assert eventually(lambda: (jobs.directory / "s.out").read_text() == "ready\n")
    jobs.provider.cancel([job_id])
    assert gone(pid_of(job_id))
    assert jobs.status(job_id).state is JobState.CANCELLED


def test_sessions_that_a_job_has_started_are_no_jobs(jobs: Jobs) -> None:
    tag = uuid.uuid4().hex
    spec = jobs.spec(sys.executable, "-c", NESTED, tag=tag)
    job_id = jobs.submit_spec(spec)
    child = int(jobs.ready(spec))
    try:
        assert jobs.provider.find(tag) == {job_id: "test"}
        assert jobs.provider.find_specs(tag) == {spec.id: job_id}
        jobs.provider.cancel([job_id])
        assert jobs.provider.find(tag) == {}
    finally:
        os.kill(child, signal.SIGKILL)


def test_an_empty_tag_finds_nothing(jobs: Jobs) -> None:
    jobs.submit("sleep", "600")
    assert jobs.provider.find("") == jobs.provider.find_specs("") == {}


@pytest.mark.parametrize("job_id", ["", "x", "1.1", "0.0", "-1.5", "1", "999999999.1", "²5.1", "5.", "a.b.c"])
def test_ids_of_no_job(jobs: Jobs, job_id: str) -> None:
    assert jobs.status(JobId(job_id)).state is JobState.GONE
    jobs.provider.cancel([JobId(job_id)])


def test_a_later_process_with_the_same_number_is_no_job(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = jobs.submit("sleep", "600")
    pid, _, started = job_id.partition(".")
    for other in (f"{pid}.{int(started) - 1}", f"{pid}.0"):
        assert jobs.status(JobId(other)).state is JobState.GONE
        with monkeypatch.context() as patch:
            patch.setattr(os, "killpg", lambda *args: pytest.fail("it was signalled"))
            jobs.provider.cancel([JobId(other)])
            group.kill(JobId(other))
    assert jobs.status(job_id).state is JobState.RUNNING


def test_what_does_not_die_is_not_waited_for_without_end(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = [jobs.submit("sleep", "600") for _ in range(3)]
    started = time.monotonic()
    with monkeypatch.context() as patch:
        patch.setattr(job, "_GRACE", 0.05)
        patch.setattr(provider, "_PATIENCE", 0.2)
        patch.setattr(os, "killpg", lambda *args: None)
        jobs.provider.cancel(ids)
    assert 0.15 < time.monotonic() - started < PATIENCE
    assert {status.state for status in jobs.provider.status(ids).values()} == {JobState.RUNNING}
    assert {jobs.end(job_id).state for job_id in ids} == {JobState.CANCELLED}, "status kills"


def test_a_look_that_fails_is_not_an_end(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(pid: int) -> Any:
        raise OSError(errno.EMFILE, "too many open files")

    code = "print(json.dumps(submit('s', sys.argv[1])))"
    job_id = JobId(elsewhere(code, str(jobs.directory)))
    jobs.submitted.append(job_id)
    with monkeypatch.context() as patch:
        patch.setattr(group, "_stat", fails)
        status = jobs.status(job_id)
        assert (status.state, "too many" in status.reason) == (JobState.UNKNOWN, True)
        with pytest.raises(ProviderError, match="too many"):
            jobs.provider.cancel([job_id])
        with pytest.raises(ProviderError, match=r"'x'.*too many"):
            jobs.provider.find("x")
    assert jobs.status(job_id).state is JobState.RUNNING
    (jobs.directory / "s.job").unlink()
    with monkeypatch.context() as patch:
        patch.setattr(group, "_stat", fails)
        assert jobs.status(job_id).state is JobState.UNKNOWN
        with pytest.raises(ProviderError, match=r"runs already.*too many"):
            jobs.submit("true", id="s")
    assert jobs.status(job_id).state is JobState.RUNNING


def test_a_job_that_may_not_be_signalled_is_not_asked(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(pid: int, number: int) -> None:
        raise PermissionError(errno.EPERM, "not permitted")

    job_id, other = jobs.submit("sleep", "600"), jobs.submit("true")
    jobs.end(other)
    with monkeypatch.context() as patch:
        patch.setattr(os, "killpg", refuses)
        with pytest.raises(ProviderError, match=f"{job_id}.*not permitted"):
            jobs.provider.cancel([job_id, other])
    assert jobs.status(job_id).state is JobState.RUNNING


# -- systems that lack something --------------------------------------------------------------------------


def lack(*names: str) -> Callable[[pytest.MonkeyPatch], None]:
    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        for name in names:
            monkeypatch.delattr(os, name)

    return patch


@pytest.mark.parametrize("names", [("pidfd_open",), ("waitid",), ("pidfd_open", "waitid", "memfd_create")])
def test_without_what_only_linux_has(
    jobs: Jobs, names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    lack(*names)(monkeypatch)
    job_id = jobs.submit("sleep", "600")
    assert jobs.status(job_id).state is JobState.RUNNING
    jobs.provider.cancel([job_id])
    assert jobs.status(job_id).state is JobState.CANCELLED
    assert jobs.run("false").exit_code == 1


def test_without_proc_own_jobs_work_and_others_are_unknown(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group, "SEARCHABLE", False)
    monkeypatch.setattr(group, "_stat", lambda pid: None)
    job_id = jobs.submit("sleep", "600", tag="x")
    assert job_id.endswith(".0")
    assert jobs.status(job_id).state is JobState.RUNNING
    assert jobs.status(JobId("4000.0")).state is JobState.UNKNOWN
    assert jobs.provider.find("x") == {}
    jobs.provider.cancel([job_id])
    assert jobs.status(job_id).state is JobState.CANCELLED


# -- threads ----------------------------------------------------------------------------------------------


def test_twenty_threads_submit_ask_and_cancel(jobs: Jobs) -> None:
    before = no_descriptors()
    barrier = threading.Barrier(20)

    def one(number: int) -> JobState:
        barrier.wait(PATIENCE)
        mine = LocalProvider()
        job_id = mine.submit(jobs.spec("sleep", "600"))
        assert mine.status([job_id])[job_id].state is JobState.RUNNING
        mine.cancel([job_id])
        return mine.status([job_id])[job_id].state

    with ThreadPoolExecutor(20) as pool:
        assert set(pool.map(one, range(20))) == {JobState.CANCELLED}
    assert no_descriptors() == before


def test_one_specification_from_many_threads_is_one_job(jobs: Jobs) -> None:
    spec, barrier = jobs.spec("sleep", "600"), threading.Barrier(10)

    def one(number: int) -> JobId:
        barrier.wait(PATIENCE)
        return LocalProvider().submit(spec)

    with ThreadPoolExecutor(10) as pool:
        ids = set(pool.map(one, range(10)))
        jobs.submitted.extend(ids)
        assert len(ids) == 1
        list(pool.map(lambda number: jobs.provider.cancel(list(ids)), range(10)))
    [status] = jobs.provider.status(list(ids)).values()
    assert status.state is JobState.CANCELLED
