"""The OpenSSH servers that other tests rely on, as the plain ``ssh`` sees them."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest
from servers.openssh import KINDS, SshServers, ssh_servers
from servers.process import processes_with, wait_until
from servers.sshclient import PASSWORD, agent

pytestmark = pytest.mark.once

PLAIN = ["key", "noforward", "nosftp", "banner", "onesession"]
QUESTIONS = {"password": 1, "otp": 1, "keyotp": 1, "twofactor": 2}


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshServers]:
    folder = tmp_path_factory.mktemp("ssh") / "s"
    with ssh_servers(folder, *KINDS) as servers:
        yield servers
    assert not list(processes_with(f"WEFT_TEST_SSHD={folder}"))
    assert str(folder) not in Path("/proc/mounts").read_text()


def done(
    argv: Sequence[str], variables: Mapping[str, str] | None = None, input: str = ""
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        argv, env={**os.environ, **(variables or {})}, input=input, capture_output=True, text=True, timeout=30
    )


def asked(servers: SshServers, name: str, *answers: str) -> subprocess.CompletedProcess[str]:
    options = ["-oNumberOfPasswordPrompts=1"]
    return done(servers.ssh(name, "echo $USER", options=options, asks=True), servers.answers(*answers))


@pytest.mark.parametrize("kind", PLAIN)
def test_a_key_is_enough(servers: SshServers, kind: str) -> None:
    result = done(servers.ssh(kind, "echo $USER; pwd"))
    assert (result.returncode, result.stdout) == (0, f"alice\n{servers.home}\n"), result.stderr
    assert ("Authorized users only" in result.stderr) == (kind == "banner")


@pytest.mark.parametrize("kind", QUESTIONS)
def test_questions_are_asked_and_right_answers_taken(servers: SshServers, kind: str) -> None:
    answers = {
        "password": [PASSWORD],
        "otp": [servers.code()],
        "keyotp": [servers.code()],
        "twofactor": [PASSWORD, servers.code()],
    }[kind]
    assert len(answers) == QUESTIONS[kind]
    result = asked(servers, kind, *answers)
    assert (result.returncode, result.stdout) == (0, "alice\n"), result.stderr


@pytest.mark.parametrize("kind", QUESTIONS)
def test_wrong_answers_and_none_are_refused(servers: SshServers, kind: str) -> None:
    before = servers[kind].log
    for result in (asked(servers, kind, "000000"), done(servers.ssh(kind, "true"))):
        assert result.returncode == 255
        assert "Permission denied" in result.stderr
    assert servers[kind].connections == before.count("Connection from ") + 2


def test_a_code_is_good_once(servers: SshServers) -> None:
    code = servers.code()
    assert asked(servers, "otp", code).returncode == 0
    assert asked(servers, "otp", code).returncode == 255
    assert asked(servers, "otp", servers.code()).returncode == 0


@pytest.mark.parametrize("key", ["stranger", "expired", "locked"])
def test_other_keys_are_refused(servers: SshServers, key: str) -> None:
    result = done(servers.ssh("key", "true", key=key))
    assert result.returncode == 255
    assert "Permission denied" in result.stderr


def test_an_agent_has_the_key_or_no_key(servers: SshServers, tmp_path: Path) -> None:
    argv = servers.ssh("key", "true", key="none", options=["-oIdentitiesOnly=no"])
    (tmp_path / "with").mkdir()
    with agent(tmp_path / "with", servers.keys / "id") as socket:
        assert done(argv, {"SSH_AUTH_SOCK": str(socket)}).returncode == 0
    with agent(tmp_path) as socket:
        assert done(argv, {"SSH_AUTH_SOCK": str(socket)}).returncode == 255


def test_forwarding_commands_and_sftp_are_refused_where_they_should_be(servers: SshServers) -> None:
    target = f"-W127.0.0.1:{servers['key'].port}"
    assert done(servers.ssh("key", options=[target])).stdout.startswith("SSH-2.0")
    assert "administratively prohibited" in done(servers.ssh("noforward", options=[target])).stderr
    assert "sftp connections only" in done(servers.ssh("sftponly", "true")).stdout
    assert done(servers.ssh("forced", "true")).returncode == 3
    for kind in ("sftponly", "key", "nosftp"):
        argv = ["sftp", "-q", "-F", str(servers.config), "-b", "-", kind]
        assert (done(argv, input="ls\n").returncode == 0) == (kind != "nosftp")


def test_a_host_behind_another(servers: SshServers) -> None:
    servers.start("key", "jump")
    servers.start("key", "inner", jump=["jump"])
    before = servers["jump"].connections
    assert done(servers.ssh("inner", "true")).returncode == 0
    assert servers["jump"].connections == before + 1
    servers["jump"].stop()
    assert done(servers.ssh("inner", "true")).returncode == 255
    servers["jump"].start()
    assert done(servers.ssh("inner", "true")).returncode == 0


def test_a_changed_host_key_is_noticed(servers: SshServers) -> None:
    servers["banner"].change_host_key()
    result = done(servers.ssh("banner", "true"))
    assert result.returncode == 255
    assert "has changed" in result.stderr
    servers.trust()
    assert done(servers.ssh("banner", "true")).returncode == 0


def test_a_session_is_cut_and_survives_a_restart(servers: SshServers) -> None:
    server = servers["nosftp"]
    command = servers.ssh("nosftp", "echo ready; exec cat")
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "ready\n"
            # Those of earlier tests may still be ending.
            wait_until("it is the only one", lambda: len(server.sessions()) == 1)
            (session,) = server.sessions()
            server.restart()
            process.stdin.write("still here\n")
            process.stdin.flush()
            assert process.stdout.readline() == "still here\n"
            os.kill(session, 0)
        finally:
            process.kill()
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        wait_until("it is the only one", lambda: len(server.sessions()) == 1)
        begun = time.monotonic()
        assert server.cut() == 1
        assert process.wait(10) == 255
        assert time.monotonic() - begun < 2


def test_a_server_that_is_frozen_says_nothing(servers: SshServers) -> None:
    server = servers["onesession"]
    server.freeze()
    result = done(servers.ssh("onesession", "true", options=["-oConnectTimeout=1"]))
    assert result.returncode == 255
    assert "timed out" in result.stderr
    server.thaw()
    assert done(servers.ssh("onesession", "true")).returncode == 0


@pytest.mark.parametrize(
    ("shell", "startup", "status", "output"),
    [
        ("/bin/tcsh", "", 0, "/bin/tcsh\n"),
        ("/bin/bash", "echo junk", 0, "junk\n/bin/bash\n"),
        ("/bin/bash", "exit 3", 3, ""),
    ],
)
def test_login_shells_of_all_kinds(
    servers: SshServers, shell: str, startup: str, status: int, output: str
) -> None:
    servers.set_shell(shell)
    servers.set_startup(startup)
    try:
        result = done(servers.ssh("key", "echo $SHELL"))
    finally:
        servers.set_shell("/bin/bash")
        servers.set_startup("")
    assert (result.returncode, result.stdout) == (status, output)


def test_nothing_of_it_is_seen_by_this_machine(servers: SshServers) -> None:
    begun = time.monotonic()
    servers.start("otp", "another")
    assert time.monotonic() - begun < 1
    assert "alice" not in Path("/etc/passwd").read_text()
    assert str(servers.folder) not in Path("/proc/mounts").read_text()
    wait_until("it listens", lambda: "Server listening" in servers["another"].log)
