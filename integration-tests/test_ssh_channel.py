"""SSHChannel against OpenSSH's own servers: what it is, who is let in, and what is said of each fault."""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from servers.openssh import KINDS, SshServers, ssh_servers
from servers.process import processes_with, wait_until
from servers.sshclient import PASSPHRASE, PASSWORD, agent
from weft_channel_ssh import AuthenticationError, ConnectError, HostKeyError, Question, SSHChannel
from weft_interfaces import ChannelError
from weft_interfaces.testing import ChannelSuite

pytestmark = pytest.mark.once


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshServers]:
    folder = tmp_path_factory.mktemp("ssh") / "s"
    before = set(threading.enumerate())
    with ssh_servers(folder, *KINDS) as servers:
        servers.start("key", "inner", jump=["key"])
        servers.start("key", "behind", jump=["noforward"])
        yield servers
        left = {thread.name for thread in set(threading.enumerate()) - before if thread.is_alive()}
    assert not left, "threads are left"
    assert not list(processes_with(f"WEFT_TEST_SSHD={folder}"))


Open = Callable[..., SSHChannel]


@pytest.fixture
def open_channel(servers: SshServers) -> Iterator[Open]:
    channels: list[SSHChannel] = []

    def open_channel(name: str, key: str = "id", **settings: Any) -> SSHChannel:
        channel = SSHChannel(name, config=str(servers.config_with(key)), **settings)
        channels.append(channel)
        return channel

    yield open_channel
    for channel in channels:
        channel.close()


class Suite(ChannelSuite):
    kind: str

    @pytest.fixture(autouse=True)
    def channels(self, open_channel: Open) -> None:
        self.open_channel = open_channel

    def make_channel(self) -> SSHChannel:
        return self.open_channel(self.kind)


class TestKey(Suite):
    kind = "key"


class TestOneSession(Suite):
    kind = "onesession"


class TestBehindAnother(Suite):
    kind = "inner"


def hello(channel: SSHChannel) -> None:
    assert channel.run(["echo", "hello"], timeout=30).stdout == b"hello\n"


# -- who is let in ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["password", "otp", "keyotp", "twofactor"])
def test_questions_are_answered_once_for_all_commands(
    servers: SshServers, open_channel: Open, kind: str
) -> None:
    asked: list[str] = []

    def person(question: Question) -> str:
        asked.append(question.text)
        return PASSWORD if question.text.lower().startswith("password") else servers.code()

    before = servers[kind].connections
    channel = open_channel(kind, prompts=person)
    for _ in range(3):
        hello(channel)
    assert len(asked) == (2 if kind == "twofactor" else 1)
    assert servers[kind].connections == before + 1


def test_a_timeout_ends_also_while_another_thread_is_asked(servers: SshServers, open_channel: Open) -> None:
    asked, answered = threading.Event(), threading.Event()

    def person(question: Question) -> str:
        asked.set()
        answered.wait(30)
        return PASSWORD

    channel = open_channel("password", prompts=person)
    connecting = threading.Thread(target=channel.authenticate)
    connecting.start()
    try:
        assert asked.wait(30)
        with pytest.raises(TimeoutError, match="while another thread was connecting"):
            channel.run(["true"], timeout=0.3)
    finally:
        answered.set()
        connecting.join(30)
    hello(channel)


def test_a_password_of_a_function_goes_with_a_code_of_a_person(
    servers: SshServers, open_channel: Open
) -> None:
    asked: list[str] = []

    def person(question: Question) -> str:
        asked.append(question.text)
        return servers.code()

    hello(open_channel("twofactor", password=lambda: PASSWORD, prompts=person))
    assert ["One-time" in text for text in asked] == [True]
    hello(open_channel("password", password=lambda: PASSWORD))


def test_a_locked_key_and_one_of_the_agent(
    servers: SshServers, open_channel: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hello(open_channel("key", "locked", prompts=lambda question: PASSPHRASE))
    with agent(tmp_path, servers.keys / "id") as socket:
        monkeypatch.setenv("SSH_AUTH_SOCK", str(socket))
        config = tmp_path / "config"
        text = servers.config_with("none").read_text().replace("IdentitiesOnly yes", "IdentitiesOnly no")
        config.write_text(text)
        with SSHChannel("key", config=str(config)) as channel:
            hello(channel)


def refused(channel: SSHChannel, *words: str) -> None:
    with pytest.raises(AuthenticationError) as caught:
        channel.run(["true"], timeout=30)
    for each in words:
        assert each in str(caught.value)
    assert PASSWORD not in str(caught.value)


def test_a_wrong_password(servers: SshServers, open_channel: Open) -> None:
    before = servers["password"].connections
    channel = open_channel("password", password=lambda: "wrong")
    for _ in range(3):
        refused(
            channel,
            "the server offers password; password: the server refused what password= gave",
            "check the password",
        )
    assert servers["password"].connections == before + 1


def test_a_wrong_second_factor(open_channel: Open) -> None:
    refused(
        open_channel("keyotp", prompts=lambda question: "000000"),
        "the server offers publickey; after what it accepted it wants keyboard-interactive",
        "keyboard-interactive: the server refused the answer to",
    )


@pytest.mark.parametrize("key", ["expired", "stranger"])
def test_a_key_that_has_expired_or_is_not_known(servers: SshServers, open_channel: Open, key: str) -> None:
    words = f"publickey: the server refused the key {servers.keys / key}"
    refused(
        open_channel("key", key),
        "the server offers publickey",
        words,
        "the site knows this key and it has not expired",
    )


def test_an_agent_without_keys(open_channel: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with agent(tmp_path) as socket:
        monkeypatch.setenv("SSH_AUTH_SOCK", str(socket))
        refused(open_channel("key", "none"), "your agent has no keys", "ssh-add, or key_filename=")


def test_the_banner_is_kept_for_who_is_not_let_in(open_channel: Open) -> None:
    hello(open_channel("banner"))
    refused(open_channel("banner", "stranger"), "it says: *** Authorized users only ***")


# -- which host it is ---------------------------------------------------------------------------------------


def test_a_host_that_is_not_known(servers: SshServers, open_channel: Open, tmp_path: Path) -> None:
    before = servers["password"].log
    channel = open_channel("password", known_hosts=str(tmp_path / "none"), password=lambda: PASSWORD)
    with pytest.raises(
        HostKeyError, match=r"this host is not known: its ssh-ed25519 key is SHA256:.* then run: echo"
    ):
        hello(channel)
    wait_until(
        "the server has seen us go", lambda: "closed by 127.0.0.1" in servers["password"].log[len(before) :]
    )
    assert "Failed" not in servers["password"].log[len(before) :]


def test_a_host_whose_key_has_changed(servers: SshServers, open_channel: Open) -> None:
    channel = open_channel("nosftp")
    hello(channel)
    try:
        servers["nosftp"].cut()
        servers["nosftp"].change_host_key()
        with pytest.raises(
            HostKeyError, match=r"the host's key has changed: .* ssh-keygen -R '\[127.0.0.1\]"
        ):
            hello(channel)
    finally:
        servers.trust()
    hello(channel)


# -- what the server does not do ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["sftponly", "forced"])
def test_an_account_that_runs_no_commands(open_channel: Open, kind: str) -> None:
    words = "sftp connections only" if kind == "sftponly" else "This account may do one thing only"
    with pytest.raises(ChannelError, match=words):
        open_channel(kind).run(["true"], timeout=30)


def test_a_jump_host_that_forbids_to_go_on(open_channel: Open) -> None:
    with pytest.raises(
        ChannelError, match=r"the jump host alice@noforward \(127.0.0.1\) .*forbids.*AllowTcpForwarding no"
    ):
        open_channel("behind").run(["true"])


def test_a_jump_host_that_is_down(
    servers: SshServers, open_channel: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel = open_channel("inner")
    hello(channel)
    servers["key"].cut()
    servers["key"].stop()
    try:
        with monkeypatch.context() as patch:
            patch.setattr("weft_channel_ssh.connection._PATIENCE", 0.0)
            with pytest.raises(ConnectError, match=r"^alice@key .*cannot be reached: Connection refused"):
                hello(channel)
    finally:
        servers["key"].start()
    hello(channel)


def test_an_account_whose_command_runs_what_is_asked_for(open_channel: Open) -> None:
    hello(open_channel("wrapped"))


# -- what is lost -------------------------------------------------------------------------------------------


def test_a_server_that_is_restarted(servers: SshServers, open_channel: Open) -> None:
    channel = open_channel("banner")
    process = channel.open(["cat"])
    servers["banner"].cut()
    with pytest.raises(ConnectError):
        process.wait(30)
    servers["banner"].restart()
    hello(channel)


def test_a_server_that_falls_silent(servers: SshServers, open_channel: Open) -> None:
    channel = open_channel("noforward", keepalive=1)
    process = channel.open(["cat"])
    servers["noforward"].freeze()
    begun = time.monotonic()
    try:
        with pytest.raises(ConnectError, match="did not answer 3 times within 3 s"):
            process.wait(30)
    finally:
        servers["noforward"].thaw()
    assert time.monotonic() - begun < 15
    hello(channel)


def test_a_connection_that_is_cut_during_authentication(servers: SshServers, open_channel: Open) -> None:
    cuts: list[int] = []

    def person(question: Question) -> str:
        if not cuts:
            cuts.append(servers["otp"].cut())
        return servers.code()

    hello(open_channel("otp", prompts=person))
    assert cuts == [1]


def test_a_put_that_is_cut_goes_on_and_its_file_is_whole(
    servers: SshServers, open_channel: Open, tmp_path: Path
) -> None:
    channel = open_channel("key")
    hello(channel)
    data = bytes(range(256)) * 200_000
    (tmp_path / "file").write_bytes(data)
    putting = threading.Thread(target=channel.put, args=(tmp_path / "file", "there"))
    putting.start()

    def under_way() -> bool:
        with contextlib.suppress(FileNotFoundError):
            return any(part.stat().st_size > 1_000_000 for part in servers.home.glob(".weft-*.part"))
        return False

    wait_until("some of it is there", under_way)
    assert servers["key"].cut() == 1
    putting.join(60)
    assert (servers.home / "there").read_bytes() == data
    assert not list(servers.home.glob(".weft-*"))


# -- how much, how fast -------------------------------------------------------------------------------------


def test_a_hundred_megabytes_in_both_directions(open_channel: Open) -> None:
    channel = open_channel("key")
    part, count = bytes(range(256)) * 4096, 100
    expected = hashlib.sha256(part * count).hexdigest()
    process = channel.open(["cat"])

    def write() -> None:
        for _ in range(count):
            process.write(part)
        process.close_stdin()

    writer = threading.Thread(target=write)
    writer.start()
    got, size = hashlib.sha256(), 0
    while data := process.read(1 << 20):
        got.update(data)
        size += len(data)
    writer.join(60)
    assert process.wait(30) == 0
    assert (size, got.hexdigest()) == (len(part) * count, expected)


def test_output_that_nobody_reads_holds_up_nothing(open_channel: Open) -> None:
    channel = open_channel("key")
    result = channel.run(["sh", "-c", "head -c 30000000 /dev/zero >&2; head -c 1000 /dev/zero"], timeout=60)
    assert (len(result.stdout), len(result.stderr), result.exit_status) == (1000, 30_000_000, 0)


def test_sessions_that_end_while_keys_are_exchanged_or_they_are_written_to_cost_no_connection(
    servers: SshServers, open_channel: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("paramiko.packet.Packetizer.REKEY_BYTES", 500_000)
    channel = open_channel("nosftp")
    hello(channel)
    before = servers["nosftp"].connections

    def run() -> None:
        for _ in range(25):
            assert channel.run(["true"], input=bytes(300_000), timeout=30).exit_status == 0

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    hello(channel)
    assert servers["nosftp"].connections == before


def test_much_output_that_nobody_reads_costs_little_memory(open_channel: Open) -> None:
    channel = open_channel("key")
    hello(channel)
    before = memory()
    process = channel.open(["sh", "-c", "head -c 1000000000 /dev/zero; echo done >&2"])
    for _ in range(3):
        hello(channel)
    assert memory() - before < 96 << 20  # a window of 16 MB, in parts
    assert process.stderr_tail() == ""
    process.close()


def memory() -> int:
    """Bytes that this process has."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
