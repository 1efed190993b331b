"""The channel of the user's own ssh, over real servers of many kinds."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from servers.openssh import SshServers, ssh_servers
from servers.slurm import Slurm, slurm
from servers.sshclient import PASSWORD
from weft_channel_ssh import AuthenticationError, ConnectError, HostKeyError, OpenSSHChannel
from weft_channel_ssh.session import Session
from weft_interfaces import BlockShape, ChannelError, JobSpec, JobState
from weft_interfaces.testing import ChannelSuite, ProviderSuite
from weft_provider_batch import SlurmProvider
from weft_provider_local import LocalProvider

pytestmark = [pytest.mark.once, pytest.mark.timeout(120)]

BOUND = 30.0
KINDS = (
    "key",
    "password",
    "twofactor",
    "noforward",
    "sftponly",
    "nosftp",
    "banner",
    "onesession",
    "forced",
    "wrapped",
)


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshServers]:
    folder = tmp_path_factory.mktemp("sshd") / "s"
    with ssh_servers(folder, *KINDS) as servers:
        servers.start("key", "inner", jump=["key"])
        yield servers


Make = Callable[..., OpenSSHChannel]


@pytest.fixture
def make(sites: SshServers) -> Iterator[Make]:
    """A channel to a server of this name; questions are not answered."""
    made: list[OpenSSHChannel] = []

    def make(name: str, *options: str, key: str = "id") -> OpenSSHChannel:
        made.append(OpenSSHChannel(name, ["-F", str(sites.config_with(key)), *options]))
        return made[-1]

    yield make
    for channel in made:
        channel.close()


def eventually(condition: Callable[[], object]) -> bool:
    end = time.monotonic() + BOUND
    while not condition():
        if time.monotonic() > end:
            return False
        threading.Event().wait(0.05)
    return True


def running(*words: str) -> list[str]:
    """The processes that have these words in their command line."""
    lines = subprocess.run(["ps", "-eo", "stat=,args="], capture_output=True, text=True, check=True).stdout
    return [line for line in lines.splitlines() if all(word in line for word in words) and line[0] != "Z"]


class TestOpenSSHChannel(ChannelSuite):
    @pytest.fixture(autouse=True)
    def _sites(self, sites: SshServers) -> None:
        self.sites = sites

    def make_channel(self) -> OpenSSHChannel:
        return OpenSSHChannel("key", ["-F", str(self.sites.config)])


# -- servers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["key", "noforward", "nosftp", "banner", "onesession", "wrapped", "inner"])
def test_any_server_that_runs_commands_will_do(make: Make, name: str, tmp_path: Path) -> None:
    channel = make(name)
    (tmp_path / "file").write_bytes(b"x" * 2_000_000)
    ended = channel.run(["printf", "%s", "a b"], timeout=BOUND)
    assert ended == (0, b"a b", b"")
    channel.put(tmp_path / "file", f"sent to {name}")
    channel.get(f"sent to {name}", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == (tmp_path / "file").read_bytes()


def test_all_goes_over_one_connection(make: Make, sites: SshServers) -> None:
    channel = make("key")
    channel.run(["true"], timeout=BOUND)
    before = sites["key"].connections
    for _ in range(5):
        channel.run(["true"], timeout=BOUND)
    channel.open(["cat"]).close()
    assert sites["key"].connections == before


def test_one_session_at_a_time_is_waited_for(make: Make) -> None:
    channel = make("onesession")
    results: list[bytes] = []

    def run(number: int) -> None:
        results.append(channel.run(["sh", "-c", f"sleep 0.2; echo {number}"], timeout=BOUND).stdout)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(BOUND)
    assert sorted(results) == [b"0\n", b"1\n", b"2\n", b"3\n"]


def test_a_session_that_is_not_given_back_is_named(make: Make) -> None:
    channel = make("onesession")
    process = channel.open(["sleep", "600"])
    with pytest.raises(TimeoutError, match=r"MaxSessions.*open are: 'sleep' on onesession"):
        channel.run(["true"], timeout=1.0)
    begun = time.monotonic()
    process.close()
    assert channel.run(["true"], timeout=BOUND).exit_status == 0
    assert time.monotonic() - begun < 15


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("forced", "exit status 3 before that, and said: This account may do one thing only"),
        ("sftponly", "was not run"),
    ],
)
def test_a_server_that_runs_something_else_is_no_success(make: Make, name: str, words: str) -> None:
    with pytest.raises(ChannelError, match="forced command") as caught:
        make(name).run(["true"], timeout=BOUND)
    assert words in str(caught.value)


SHELLS = ("/bin/sh", "/bin/bash", "/bin/dash", "/bin/bsd-csh", "/bin/tcsh", "/usr/bin/fish", "/bin/zsh")
# Where each prints something, reads nothing, fails, and goes elsewhere.
STARTUPS = {"bsd-csh": ".cshrc", "tcsh": ".tcshrc", "fish": ".config/fish/config.fish", "zsh": ".zshenv"}


@pytest.mark.parametrize("shell", SHELLS)
def test_login_shells_and_what_they_print_confuse_nothing(make: Make, sites: SshServers, shell: str) -> None:
    if not os.path.exists(shell):
        pytest.fail(f"{shell} is missing: it is in servers/packages.txt")
    startup = sites.home / STARTUPS.get(os.path.basename(shell), ".bashrc")
    startup.parent.mkdir(parents=True, exist_ok=True)
    # csh cannot write to stderr alone.
    startup.write_text(f"echo junk\n{'' if 'csh' in shell else 'echo more junk >&2'}\nfalse\ncd /\n")
    sites.set_shell(shell)
    words = ["a b", "", "x\ny\n", "!$'\"\\", "ü", "*"]
    try:
        channel = make("key")
        ended = channel.run(["printf", "%s|", *words], environment={"ODD": "1\n2!"}, timeout=BOUND)
        assert ended == (0, "".join(f"{word}|" for word in words).encode(), b"")
        assert (
            channel.run(["sh", "-c", 'echo "$ODD"'], environment={"ODD": "1\n2!"}, timeout=BOUND).stdout
            == b"1\n2!\n"
        )
        process = channel.open(["cat"])
        process.write(b"first")
        assert process.read(100) == b"first"
        process.close()
    finally:
        sites.set_shell("/bin/bash")
        startup.unlink()


def test_a_startup_file_that_ends_the_shell_is_said(make: Make, sites: SshServers) -> None:
    sites.set_startup("echo I give up; exit 5")
    try:
        with pytest.raises(ChannelError, match=r"exit status 5 before that.*I give up.*\.bashrc"):
            make("key").run(["true"], timeout=BOUND)
    finally:
        sites.set_startup("")


def test_a_timeout_ends_also_while_another_thread_is_asked(
    make: Make, sites: SshServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, pipe = sites.folder / "asked", sites.folder / "pipe"
    os.mkfifo(pipe)
    script = sites.folder / "slow"
    script.write_text(f"#!/bin/sh\ntouch {asked}; cat {pipe}\n")
    script.chmod(0o755)
    monkeypatch.setenv("SSH_ASKPASS", str(script))
    monkeypatch.setenv("SSH_ASKPASS_REQUIRE", "force")
    channel = make("password")
    connecting = threading.Thread(target=channel.authenticate)
    connecting.start()
    try:
        assert eventually(asked.exists)
        with pytest.raises(TimeoutError, match="while another thread was connecting"):
            channel.run(["true"], timeout=0.3)
    finally:
        pipe.write_text(f"{PASSWORD}\n")
        connecting.join(BOUND)
        pipe.unlink()
    assert channel.run(["true"], timeout=BOUND).exit_status == 0


def test_much_input_and_output_that_nobody_reads_cost_no_memory(make: Make) -> None:
    channel = make("key")
    data = bytes(1 << 20) * 100
    assert channel.run(["wc", "-c"], input=data, timeout=BOUND).stdout.strip() == b"%d" % len(data)
    before = memory()
    process = channel.open(["sh", "-c", "head -c 1000000000 /dev/zero; echo done >&2"])
    for _ in range(3):
        assert channel.run(["true"], timeout=BOUND).exit_status == 0
    assert memory() - before < 64 << 20
    assert process.stderr_tail() == ""
    process.close()


def memory() -> int:
    """Bytes that this process has."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


# -- who may come in ----------------------------------------------------------------------------------------


def test_a_password_is_asked_for_once_per_connection(
    make: Make, sites: SshServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in sites.answers(PASSWORD, "wrong").items():
        monkeypatch.setenv(name, value)
    channel = make("password")
    assert channel.run(["true"], timeout=BOUND).exit_status == 0
    assert channel.run(["true"], timeout=BOUND).exit_status == 0
    assert PASSWORD not in repr(channel)


def test_two_factors_are_asked_for(make: Make, sites: SshServers, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in sites.answers(PASSWORD, sites.code()).items():
        monkeypatch.setenv(name, value)
    assert make("twofactor").run(["true"], timeout=BOUND).exit_status == 0


def test_without_anybody_to_ask_it_says_what_was_to_be_asked(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSH_ASKPASS", raising=False)
    channel = make("password")
    with pytest.raises(AuthenticationError, match=r"it offers password: .*SSH_ASKPASS") as caught:
        channel.run(["true"], timeout=BOUND)
    assert "Try by hand: ssh -F" in str(caught.value)


def test_a_refused_user_is_not_tried_again_before_somebody_says_so(
    make: Make, sites: SshServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in sites.answers("wrong").items():
        monkeypatch.setenv(name, value)
    channel = make("password", "-oNumberOfPasswordPrompts=1")
    with pytest.raises(AuthenticationError, match="the password or the code was wrong"):
        channel.run(["true"], timeout=BOUND)
    assert channel.needs_authentication
    before = sites["password"].connections
    with pytest.raises(AuthenticationError, match=r"authenticate\(\)"):
        channel.run(["true"], timeout=BOUND)
    assert sites["password"].connections == before
    sites.answers(PASSWORD)
    channel.authenticate()
    assert channel.run(["true"], timeout=BOUND).exit_status == 0


def test_a_key_that_is_not_accepted_is_named(
    make: Make, sites: SshServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSH_ASKPASS", raising=False)
    with pytest.raises(AuthenticationError, match=r"it offers publickey: .*not accepted: .*stranger"):
        make("key", key="stranger").run(["true"], timeout=BOUND)
    with pytest.raises(AuthenticationError, match="there is no key to offer"):
        make("key", key="none").run(["true"], timeout=BOUND)


def test_an_unknown_host_is_sent_nothing(make: Make, sites: SshServers, tmp_path: Path) -> None:
    channel = make("key", f"-oUserKnownHostsFile={tmp_path}/none")
    with pytest.raises(HostKeyError, match="is not known: it shows ssh-ed25519 SHA256:") as caught:
        channel.run(["true"], timeout=BOUND)
    shown = subprocess.run(
        ["ssh-keygen", "-lf", f"{sites['key'].key}.pub"], capture_output=True, text=True, check=True
    ).stdout.split()[1]
    assert shown in str(caught.value)
    assert "-oStrictHostKeyChecking=ask" in str(caught.value)


def test_a_changed_host_key_is_refused_hard(make: Make, sites: SshServers, tmp_path: Path) -> None:
    other, known = sites["banner"], tmp_path / "known_hosts"
    known.write_text(f"[127.0.0.1]:{sites['key'].port} {other.public}\n")
    with pytest.raises(HostKeyError, match=rf"has changed.*line 1 of {known}"):
        make("key", f"-oUserKnownHostsFile={known}").run(["true"], timeout=BOUND)


# -- connections that cannot be made, or break --------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "options", "words"),
    [
        ("127.0.0.1", ["-p", "1"], r"127\.0\.0\.1 refuses connections on port 1"),
        ("no-such-host.invalid", [], "the name no-such-host.invalid is not known"),
        ("key", ["-oProxyJump=127.0.0.1:1"], "jump host"),
        ("key", ["-oNoSuchOption=1"], "nosuchoption"),
    ],
)
def test_what_cannot_be_reached_says_why(make: Make, host: str, options: list[str], words: str) -> None:
    begun = time.monotonic()
    channel = make(host, *options)
    with pytest.raises(ChannelError, match=words):
        channel.run(["true"], timeout=BOUND)
    with pytest.raises(ChannelError, match=words):
        channel.run(["true"], timeout=BOUND)
    assert time.monotonic() - begun < BOUND


def test_no_ssh_on_path_says_what_to_install(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ChannelError, match="install OpenSSH's client"):
        make("key").run(["true"], timeout=BOUND)


def test_a_lost_connection_ends_what_ran_and_the_next_command_makes_another(
    make: Make, sites: SshServers
) -> None:
    channel = make("key")
    mark = f"6{time.monotonic_ns() % 10**8}"
    errors: list[BaseException] = []
    process = channel.open(["sleep", mark])

    def run() -> None:
        try:
            channel.run(["sleep", mark])
        except ChannelError as error:
            errors.append(error)

    runner = threading.Thread(target=run)
    runner.start()
    assert eventually(lambda: len(running("sleep", mark)) >= 2)
    sites["key"].cut()
    runner.join(BOUND)
    assert isinstance(errors[0], ConnectError)
    with pytest.raises(ConnectError, match="lost"):
        process.read(1)
    with pytest.raises(ConnectError, match="lost"):
        process.wait(BOUND)
    assert eventually(lambda: not running("sleep", mark))
    assert channel.run(["true"], timeout=BOUND).exit_status == 0


def test_a_host_that_falls_silent_is_noticed_and_named(make: Make, sites: SshServers) -> None:
    channel = make("nosftp", "-oServerAliveInterval=1", "-oServerAliveCountMax=2")
    process = channel.open(["sleep", "600"])
    sites["nosftp"].freeze()
    try:
        with pytest.raises(ConnectError, match=r"to nosftp is lost: Timeout, server .* not responding"):
            process.read(1)
    finally:
        sites["nosftp"].thaw()


class Cutting(OpenSSHChannel):
    """Its connection is cut once, after so many bytes of input."""

    left = 20_000_000
    sent = 0

    def __init__(self, sites: SshServers) -> None:
        super().__init__("key", ["-F", str(sites.config)])
        self.server = sites["key"]

    def _start(self, command: str, end: float | None = None) -> Session:
        session = super()._start(command, end)
        write = session.write

        def counted(data: bytes) -> None:
            self.sent += len(data)
            if self.left > 0 and self.sent >= self.left:
                self.left = 0
                assert self.server.cut()
            write(data)

        session.write = counted  # type: ignore[method-assign]
        return session


def test_a_connection_cut_in_a_put_goes_on_where_it_stopped(sites: SshServers, tmp_path: Path) -> None:
    data = os.urandom(1 << 20) * 40
    (tmp_path / "file").write_bytes(data)
    with Cutting(sites) as channel:
        channel.put(tmp_path / "file", "large")
    assert channel.left == 0
    assert channel.sent < len(data) + 15_000_000
    assert (sites.home / "large").read_bytes() == data
    assert not list(sites.home.glob(".weft-*"))


def test_timeouts_and_closing_leave_no_process_there(make: Make) -> None:
    channel = make("key")
    mark = f"6{time.monotonic_ns() % 10**8}"
    with pytest.raises(TimeoutError, match="was killed"):
        channel.run(["sh", "-c", f"sleep {mark} & setsid sleep {mark} & sleep {mark}"], timeout=5.0)
    assert eventually(lambda: not running("sleep", mark))
    process = channel.open(["sh", "-c", f"sleep {mark} & setsid sleep {mark} & sleep {mark}"])
    assert eventually(lambda: len(running("sleep", mark)) >= 3)
    process.close()
    assert eventually(lambda: not running(mark))


def test_a_killed_client_leaves_nothing(sites: SshServers) -> None:
    mark = f"6{time.monotonic_ns() % 10**8}"
    code = (
        "import sys; from weft_channel_ssh import OpenSSHChannel\n"
        f"channel = OpenSSHChannel('key', ['-F', {str(sites.config)!r}])\n"
        f"channel.open(['sleep', '{mark}'])\n"
        "print('ready', flush=True); sys.stdin.read()"
    )
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == b"ready\n"
        assert eventually(lambda: running("sleep", mark))
        client.send_signal(signal.SIGKILL)
    assert eventually(lambda: not running("sleep", mark))
    assert eventually(lambda: not running("ssh", f"weft-ssh-{client.pid}-"))


def test_channels_are_equal_by_what_they_reach(make: Make) -> None:
    one, two, other = make("key"), make("key"), make("banner")
    assert one == two != other
    assert len({one, two, other}) == 2


# -- files that the far side refuses ------------------------------------------------------------------------


def test_what_the_far_side_refuses_has_its_words(make: Make, tmp_path: Path) -> None:
    channel = make("key")
    (tmp_path / "file").write_bytes(b"x" * 3_000_000)
    with pytest.raises(PermissionError, match=r"Permission denied.*'key:/sys/file'"):
        channel.put(tmp_path / "file", "/sys/file")
    with pytest.raises(FileNotFoundError):
        channel.put(tmp_path / "file", "no/parent")
    with pytest.raises(IsADirectoryError):
        channel.put(tmp_path / "file", "/tmp")
    with pytest.raises(FileNotFoundError, match="key:none"):
        channel.get("none", tmp_path / "none")


# -- providers ----------------------------------------------------------------------------------------------


class TestLocalProviderOverOpenSSH(ProviderSuite):
    """Process groups of the far host."""

    @pytest.fixture(autouse=True)
    def _channel(self, sites: SshServers) -> Iterator[None]:
        self.sites = sites
        with OpenSSHChannel("key", ["-F", str(sites.config)]) as self.channel:
            yield

    def make_provider(self) -> LocalProvider:
        return LocalProvider(channel=self.channel)

    def directory(self) -> str:
        return "runs of the suite"

    @contextlib.contextmanager
    def failing_queries(self, provider: object) -> Iterator[None]:
        self.sites["key"].cut()
        self.sites["key"].stop()
        yield
        self.sites["key"].start()
        self.channel.authenticate()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    with slurm(tmp_path_factory.mktemp("slurm") / "s", nodes=2) as cluster:
        yield cluster


class TestSlurmProviderOverOpenSSH(ProviderSuite):
    """A batch system of the far host."""

    @pytest.fixture(autouse=True)
    def _site(self, sites: SshServers, cluster: Slurm) -> Iterator[None]:
        self.cluster = cluster
        options = ["-F", str(sites.config)]
        with OpenSSHChannel("key", options, environment=cluster.environment) as self.channel:
            yield
        cluster.clear()

    def make_provider(self) -> SlurmProvider:
        return SlurmProvider(channel=self.channel, poll_interval=1.0, command_timeout=20.0, cores_per_node=1)

    def directory(self) -> str:
        return "slurm's runs"

    @contextlib.contextmanager
    def failing_queries(self, provider: object) -> Iterator[None]:
        conf, away = self.cluster.folder / "slurm.conf", self.cluster.folder / "away"
        conf.rename(away)
        time.sleep(1.0)  # the last answer counts for an interval
        yield
        away.rename(conf)


def test_jobs_live_on_when_the_channel_is_closed(sites: SshServers) -> None:
    spec = JobSpec(
        id=f"block-{time.monotonic_ns()}",
        name="weft-test",
        command=("sleep", "600"),
        shape=BlockShape(nodes=1),
        directory="runs",
        tag="of-this-test",
    )
    with OpenSSHChannel("key", ["-F", str(sites.config)]) as channel:
        job = LocalProvider(channel=channel).submit(spec)
    with OpenSSHChannel("key", ["-F", str(sites.config)]) as channel:
        provider = LocalProvider(channel=channel)
        assert provider.status([job])[job].state is JobState.RUNNING
        provider.cancel([job])
