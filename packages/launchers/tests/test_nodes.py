"""What launchers do on nodes: hosts, input, environment, output, exit status, the end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from weft_interfaces import BlockShape, Launcher
from weft_launchers import AprunLauncher, JsrunLauncher, MpiRunLauncher, SshLauncher

BOUND = 60.0
# In place of ssh: a shell with nothing of our environment, in the home directory, as sshd gives it.
LOGIN = ["/bin/sh", "-c", 'cd /; exec env -i PATH="$PATH" HOST="$1" /bin/sh -c "$2"', "login"]

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def run(
    launcher: Launcher, *command: str, nodes: int = 1, **variables: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        launcher.wrap(command, BlockShape(nodes=nodes)),
        env={**os.environ, **variables},
        input="of the head\n",
        capture_output=True,
        text=True,
        timeout=BOUND,
        check=False,
    )


def ssh(*hosts: str, **settings: object) -> SshLauncher:
    return SshLauncher(program=LOGIN, hosts=hosts, **settings)


SAY_HOST = ("sh", "-c", 'echo "$WEFT_NODE_RANK $HOST"')

# -- hosts --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("PBS_NODEFILE", "b\nb\na\nc\nc\n"),
        ("PE_HOSTFILE", "b 2 all.q@b UNDEFINED\na 1 all.q@a <NULL>\nc 1 all.q@c UNDEFINED\n"),
        ("LSB_DJOB_HOSTFILE", "b\na\na\nc\n"),
        ("OAR_NODEFILE", "b\na\nc"),
    ],
)
def test_hosts_are_read_from_the_batch_systems_file(tmp_path: Path, variable: str, text: str) -> None:
    file = tmp_path / "two words"
    file.write_text(text)
    ended = run(SshLauncher(program=LOGIN), *SAY_HOST, nodes=3, **{variable: str(file)})
    assert sorted(ended.stdout.splitlines()) == ["0 b", "1 a", "2 c"], ended.stderr


def test_hosts_of_lsf_may_be_in_a_variable() -> None:
    ended = run(SshLauncher(program=LOGIN), *SAY_HOST, nodes=2, LSB_MCPU_HOSTS="b 2 a 16")
    assert sorted(ended.stdout.splitlines()) == ["0 b", "1 a"]


def test_a_hostfile_may_be_given(tmp_path: Path) -> None:
    file = tmp_path / "it's a file"
    file.write_text("x\n\ny\n")
    ended = run(SshLauncher(program=LOGIN, hostfile=str(file)), *SAY_HOST, nodes=2)
    assert sorted(ended.stdout.splitlines()) == ["0 x", "1 y"]


def test_of_more_hosts_the_first_are_taken() -> None:
    ended = run(ssh("a", "b", "c"), *SAY_HOST, nodes=2)
    assert sorted(ended.stdout.splitlines()) == ["0 a", "1 b"]


def test_too_few_hosts_are_an_error_that_names_them() -> None:
    ended = run(ssh("a", "b"), "true", nodes=3)
    assert ended.returncode == 2
    assert "the block is to have 3 nodes, but its list of hosts has 2: a b" in ended.stderr


def test_no_hosts_are_an_error_that_says_where_they_were_looked_for() -> None:
    ended = run(SshLauncher(program=LOGIN), "true", nodes=2)
    assert ended.returncode == 2
    assert "PBS_NODEFILE" in ended.stderr
    assert "give the launcher hosts or hostfile" in ended.stderr


def test_a_list_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    ended = run(SshLauncher(program=LOGIN), "true", PBS_NODEFILE=str(tmp_path / "none"))
    assert ended.returncode == 2
    assert str(tmp_path / "none") in ended.stderr


# -- input, environment, directory --------------------------------------------------------------------------

INPUTS = [ssh("a", "b"), AprunLauncher(), JsrunLauncher()]


@pytest.mark.parametrize("launcher", INPUTS, ids=lambda each: type(each).__name__)
def test_every_node_gets_the_jobs_input(launcher: Launcher, tmp_path: Path) -> None:
    (tmp_path / "in put").write_text("the keys\n")
    ended = run(launcher, "cat", nodes=2, WEFT_JOB_INPUT=str(tmp_path / "in put"))
    assert (ended.returncode, ended.stdout) == (0, "the keys\nthe keys\n"), ended.stderr


@pytest.mark.parametrize("launcher", INPUTS, ids=lambda each: type(each).__name__)
def test_an_input_that_a_node_cannot_read_says_so(launcher: Launcher, tmp_path: Path) -> None:
    ended = run(launcher, "cat", WEFT_JOB_INPUT=str(tmp_path / "none"))
    assert (ended.returncode, ended.stdout) == (2, "")
    host = os.uname().nodename
    assert (
        f"weft: {host} cannot read the input of its job, {tmp_path}/none: all nodes must share"
        in ended.stderr
    )


@pytest.mark.parametrize(("launcher", "each"), [(AprunLauncher(ranks_per_node=2), 2), (JsrunLauncher(), 1)])
def test_processes_know_their_nodes_number(launcher: Launcher, each: int) -> None:
    ended = run(launcher, "sh", "-c", "echo $WEFT_NODE_RANK", nodes=3)
    assert sorted(ended.stdout.split()) == sorted("012" * each)


def test_the_environment_of_the_job_is_there_and_that_of_the_login_stays() -> None:
    code = "import os, json; print(json.dumps(dict(os.environ)))"
    odd = "a 'b' \"c\"\n\\d !e\\0134 $f `g` %h ü"
    given = {
        "JOBS_OWN": odd,
        "WEFT_X": "",
        "HOST": "the head's",
        "SSH_AUTH_SOCK": "/x",
        "NOT-A-NAME": "x",
        "LC_ALL": "C",
    }
    ended = run(ssh("node"), sys.executable, "-c", code, **given)
    found = json.loads(ended.stdout)
    assert found["JOBS_OWN"] == odd
    assert (found["WEFT_X"], found["LC_ALL"], found["HOST"]) == ("", "C", "node")
    assert not {"SSH_AUTH_SOCK", "NOT-A-NAME", "WEFT_LAUNCH_DIRECTORY"} & found.keys()


def test_a_temporary_directory_that_a_node_has_not_is_forgotten(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    command = ("sh", "-c", 'echo "${TMPDIR-none}"')
    assert run(ssh("a"), *command, TMPDIR=str(tmp_path / "there")).stdout == f"{tmp_path}/there\n"
    node = ["/bin/sh", "-c", f'mv {tmp_path}/there {tmp_path}/gone; exec /bin/sh -c "$2"', "login"]
    launcher = SshLauncher(program=node, hosts=["a"])
    assert run(launcher, *command, TMPDIR=str(tmp_path / "there")).stdout == "none\n"


def test_it_runs_in_the_jobs_directory_or_says_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "two words"
    place.mkdir()
    monkeypatch.chdir(place)
    assert run(ssh("a"), "pwd", "-P").stdout == f"{place}\n"
    node = ["/bin/sh", "-c", f'cd /; mv "{place}" {tmp_path}/gone; exec /bin/sh -c "$2"', "login"]
    ended = run(SshLauncher(program=node, hosts=["a"]), "pwd")
    assert (ended.returncode, ended.stdout) == (0, "/\n")
    assert "the command runs in /" in ended.stderr


# -- output and exit status ---------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [lambda **kw: ssh("a", "b", **kw), AprunLauncher, JsrunLauncher])
def test_output_can_go_to_files_of_each_node(make: Callable[..., Launcher], tmp_path: Path) -> None:
    script = 'echo "out $WEFT_NODE_RANK"; echo "err $WEFT_NODE_RANK" >&2; [ "$WEFT_NODE_RANK" = 0 ] || exit 5'
    ended = run(
        make(output="files"),
        "sh",
        "-c",
        script,
        nodes=2,
        WEFT_BLOCK_ID="b7",
        WEFT_JOB_DIRECTORY=str(tmp_path),
    )
    host = os.uname().nodename
    files = {path.name: path.read_text() for path in tmp_path.glob("b7.*")}
    assert files == {
        f"b7.{host}.{rank}.{kind}": f"{kind} {rank}\n" for rank in (0, 1) for kind in ("out", "err")
    }
    assert (ended.returncode, ended.stdout) == (5, "")
    assert (
        f"on {host} the command ended with exit status 5; the end of {tmp_path}/b7.{host}.1.err:\nerr 1\n"
        in ended.stderr
    )
    assert "err 0" not in ended.stderr


def test_files_are_beside_the_jobs_input_unless_said(tmp_path: Path) -> None:
    (tmp_path / "input").write_text("x\n")
    ended = run(AprunLauncher(output="files"), "cat", WEFT_JOB_INPUT=str(tmp_path / "input"))
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / f"block.{os.uname().nodename}.0.out").read_text() == "x\n"


@pytest.mark.parametrize("output", ["job", "files"])
def test_the_exit_status_is_the_first_that_is_not_0(output: str, tmp_path: Path) -> None:
    script = 'case "$HOST" in a) exit 0;; b) exit 3;; c) kill -9 $$;; esac'
    launcher = ssh("a", "b", "c", output=output)
    assert run(launcher, "sh", "-c", script, nodes=3, WEFT_JOB_DIRECTORY=str(tmp_path)).returncode == 3
    launcher = ssh("a", "c", output=output)
    assert run(launcher, "sh", "-c", script, nodes=2, WEFT_JOB_DIRECTORY=str(tmp_path)).returncode == 137


def test_a_node_that_fails_leaves_the_others_alone() -> None:
    ended = run(ssh("a", "b"), "sh", "-c", '[ "$HOST" = b ] || exit 3; sleep 0.3; echo whole', nodes=2)
    assert (ended.returncode, ended.stdout) == (3, "whole\n")


def test_a_command_that_is_not_there_is_127() -> None:
    ended = run(ssh("a"), "no-such-command-of-weft")
    assert ended.returncode == 127
    assert "no-such-command-of-weft" in ended.stderr


def test_a_missing_mpirun_is_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("uname", "awk"):
        path = next(
            f"{folder}/{name}" for folder in ("/usr/bin", "/bin") if os.path.exists(f"{folder}/{name}")
        )
        (tmp_path / name).symlink_to(path)
    ended = run(MpiRunLauncher(), "true", PATH=str(tmp_path))
    assert ended.returncode == 127
    assert "weft: mpirun is not on the PATH of" in ended.stderr
    assert "load its module in worker_init" in ended.stderr


def test_an_mpirun_of_no_known_kind_is_an_error_that_says_what_to_set(tmp_path: Path) -> None:
    (tmp_path / "mpirun").write_text("#!/bin/sh\necho Version 1 of another kind\n")
    (tmp_path / "mpirun").chmod(0o755)
    ended = run(MpiRunLauncher(), "true", PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert ended.returncode == 2
    assert "set flavor of the launcher to openmpi, mpich or intel" in ended.stderr


# -- the end ------------------------------------------------------------------------------------------------


def runs(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] not in (b"Z", b"X")
    except (FileNotFoundError, ProcessLookupError):
        return False


def eventually(condition: Callable[[], object]) -> bool:
    end = time.monotonic() + BOUND
    while not condition():
        if time.monotonic() > end:
            return False
        threading.Event().wait(0.01)
    return True


@pytest.mark.once
@pytest.mark.parametrize("output", ["job", "files"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_what_runs_on_the_nodes_ends_with_the_head(tmp_path: Path, output: str, number: int) -> None:
    # As behind ssh: a session of its own, that the head's end does not reach.
    node = ["setsid", "--wait", "/bin/sh", "-c", 'HOST="$1" exec /bin/sh -c "$2"', "login"]
    script = f"cd {tmp_path}; sleep 600 & echo $! $$ >new.$HOST; mv new.$HOST pids.$HOST; wait"
    launcher = SshLauncher(program=node, hosts=["a", "b"], output=output)
    head = subprocess.Popen(
        launcher.wrap(["sh", "-c", script], BlockShape(nodes=2)),
        env={**os.environ, "WEFT_JOB_DIRECTORY": str(tmp_path)},
        stderr=subprocess.DEVNULL,
    )
    try:
        assert eventually(lambda: len(list(tmp_path.glob("pids.[ab]"))) == 2)
        pids = [int(pid) for path in tmp_path.glob("pids.[ab]") for pid in path.read_text().split()]
        assert all(map(runs, pids))
    finally:
        head.send_signal(number)
        head.wait(BOUND)
    assert eventually(lambda: not any(map(runs, pids)))


@pytest.mark.once
def test_a_head_leaves_no_file(tmp_path: Path) -> None:
    for status in ("0", "3"):
        run(ssh("a", "b"), "sh", "-c", f"exit {status}", nodes=2, TMPDIR=str(tmp_path))
    run(ssh("a"), "true", nodes=2, TMPDIR=str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["stand-ins"]
