"""SSHChannel's connection, on a server of our own: who is let in, what is said when nobody is, what is
lost."""

from __future__ import annotations

import base64
import logging
import os
import pickle
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import paramiko
import pytest
from weft_channel_ssh import AuthenticationError, ConnectError, HostKeyError, Question, SSHChannel
from weft_interfaces import AuthenticationNeededError, ChannelError, ConfigError

pytestmark = pytest.mark.once  # of the protocol and its files, not of Python

Keygen = Callable[..., Path]
SECRET = "correct horse"


def public(key: Path) -> bytes:
    return base64.b64decode(Path(f"{key}.pub").read_text().split()[1])


def output(channel: SSHChannel, command: str) -> bytes:
    """What a command line prints."""
    session = channel._start(command)
    try:
        data = b""
        while part := session.read(65536):
            data += part
        assert session.wait(30) == 0
        return data
    finally:
        session.close()


# -- who is let in ------------------------------------------------------------------------------------------


def test_a_key_opens_and_nothing_is_left(site: Any) -> None:
    with site.channel() as channel:
        assert output(channel, "echo $((6 * 7))") == b"42\n"
        assert len(site.server.connections) == 1
    assert site.policy.attempts == ["none", "publickey ssh-ed25519", "publickey ssh-ed25519"]
    with pytest.raises(ChannelError, match=r"the channel to alice@127.0.0.1 port .* is closed"):
        output(channel, "true")


def test_a_password_of_a_function(site: Any) -> None:
    site.policy.steps = [["password"]]
    channel = site.channel(key_filename=[], password=lambda: SECRET)
    channel.authenticate()
    assert site.policy.attempts == ["none", f"password {SECRET}"]


def test_two_factors_are_asked_for_once(site: Any) -> None:
    site.policy.steps = [["publickey", "keyboard-interactive"]]
    site.policy.instructions = "two of them"
    asked: list[Question] = []

    def person(question: Question) -> str:
        asked.append(question)
        return SECRET if "Password" in question.text else "123456"

    channel = site.channel(prompts=person)
    threads = [threading.Thread(target=output, args=(channel, "true")) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert [(question.text, question.kind) for question in asked] == [
        ("Password: ", "challenge"),
        ("One-time password: ", "challenge"),
    ]
    assert asked[0].instructions == "two of them"
    assert asked[0].destination == f"alice@127.0.0.1 port {site.server.port}"


def test_a_password_is_not_given_for_a_second_factor(site: Any) -> None:
    site.policy.steps = [["keyboard-interactive"]]
    asked: list[str] = []

    def person(question: Question) -> str:
        asked.append(question.text)
        return "123456"

    site.channel(password=lambda: SECRET, prompts=person).authenticate()
    assert asked == ["One-time password: "]
    assert site.policy.attempts[-1] == f"answers {[SECRET, '123456']}"


def test_a_passphrase_is_asked_for_once_and_for_a_key_that_is_wanted(site: Any, keygen: Keygen) -> None:
    locked = keygen(site.folder / "locked", "-N", SECRET)
    unwanted = keygen(site.folder / "unwanted", "-N", SECRET)
    site.policy.keys = {public(locked)}
    asked: list[Question] = []

    def person(question: Question) -> str:
        asked.append(question)
        return SECRET

    channel = site.channel(key_filename=[str(unwanted), str(locked)], prompts=person)
    channel.authenticate()
    site.server.cut()
    assert output(channel, "echo again") == b"again\n"
    assert [(question.kind, question.text) for question in asked] == [
        ("passphrase", f"passphrase of {locked}: ")
    ]


@pytest.mark.parametrize("kind", [("ecdsa",), ("rsa", "-b", "2048")], ids=" ".join)
def test_other_kinds_of_keys(site: Any, keygen: Keygen, kind: tuple[str, ...]) -> None:
    key = keygen(site.folder / "other", "-t", *kind)
    site.policy.keys = {public(key)}
    site.channel(key_filename=str(key)).authenticate()


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """A real agent without keys; what is called adds some."""
    path = str(tmp_path / "agent")
    with subprocess.Popen(["ssh-agent", "-D", "-a", path], stdout=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + 30
            while (
                subprocess.run(
                    ["ssh-add", "-l"], env={**os.environ, "SSH_AUTH_SOCK": path}, capture_output=True
                ).returncode
                == 2
            ):
                assert time.monotonic() < deadline, "ssh-agent answers"
            monkeypatch.setenv("SSH_AUTH_SOCK", path)
            yield lambda *keys: subprocess.run(["ssh-add", "-q", *map(str, keys)], check=True, timeout=30)
        finally:
            process.terminate()


def test_keys_of_the_agent(site: Any, agent: Callable[..., None], keygen: Keygen) -> None:
    rsa = keygen(site.folder / "rsa", "-t", "rsa", "-b", "2048")
    agent(keygen(site.folder / "unwanted"), site.key, rsa)
    for wanted in (site.key, rsa):
        site.policy.keys = {public(wanted)}
        site.channel(key_filename=[]).authenticate()
    site.policy.attempts.clear()
    (site.folder / "config").write_text(f"IdentitiesOnly yes\nIdentityFile {rsa}\n")
    site.channel(key_filename=None, config=str(site.folder / "config")).authenticate()
    assert site.policy.attempts == ["none", "publickey ssh-rsa", "publickey ssh-rsa"]


# -- who is not ---------------------------------------------------------------------------------------------


def refused(channel: SSHChannel, kind: type[ChannelError] = AuthenticationError) -> str:
    """What is said when it is not let in."""
    with pytest.raises(kind) as caught:
        channel.authenticate()
    assert type(caught.value) is kind
    assert SECRET not in "".join(map(str, (caught.value, caught.value.__cause__, caught.value.__context__)))
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    return str(caught.value)


def test_a_wrong_password_is_tried_once_and_the_place_left_alone(site: Any) -> None:
    site.policy.steps = [["publickey"], ["password"]]
    site.policy.keys = set()
    site.policy.banner = "Authorised users only.\r\n"
    channel = site.channel(password=lambda: "wrong")
    words = refused(channel)
    assert "not let in: the server offers publickey,password; " in words
    assert (
        f"publickey: the server refused the key {site.key}; password: the server refused what password= gave"
        in words
    )
    assert "it says: Authorised users only." in words
    assert words.endswith("To go on: check the password, then call channel.authenticate()")
    tried = list(site.policy.attempts)
    assert tried.count("password wrong") == 1
    for _ in range(3):
        with pytest.raises(AuthenticationError, match="check the password"):
            output(channel, "true")
    assert site.policy.attempts == tried
    assert channel.needs_authentication
    site.policy.password = "wrong"
    channel.authenticate()
    assert not channel.needs_authentication
    assert output(channel, "echo in") == b"in\n"


def test_a_wrong_second_factor(site: Any) -> None:
    site.policy.steps = [["publickey", "keyboard-interactive"]]
    words = refused(site.channel(password=lambda: SECRET, prompts=lambda question: "000000"))
    assert "the server offers publickey; after what it accepted it wants keyboard-interactive" in words
    assert f"the key {site.key} was accepted" in words
    assert "refused what password= gave and the answer to 'One-time password:'" in words
    assert "a code counts once" in words


def test_an_agent_without_keys(site: Any, agent: Callable[..., None]) -> None:
    site.policy.steps = [["publickey"], ["hostbased"]]
    words = refused(site.channel(key_filename=[]))
    assert "the server offers publickey,hostbased; " in words
    assert "your agent has no keys" in words
    assert "give it a key: ssh-add, or key_filename=" in words
    assert "hostbased is not known here: OpenSSHChannel may know it" in words


def test_an_agent_that_is_gone(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSH_AUTH_SOCK", str(site.folder / "none"))
    assert f"no agent answers at {site.folder}/none: No such file" in refused(site.channel(key_filename=[]))


def test_a_key_that_is_not_there(site: Any) -> None:
    words = refused(site.channel(key_filename=str(site.folder / "none")))
    assert f"there is no file {site.folder}/none" in words
    assert "there is no agent (SSH_AUTH_SOCK is not set)" in words


def test_a_certificate_that_has_expired(site: Any, keygen: Keygen) -> None:
    key = keygen(site.folder / "short")
    command = [
        "ssh-keygen",
        "-q",
        "-s",
        str(site.key),
        "-I",
        "a",
        "-n",
        "alice",
        "-V",
        "-2d:-1d",
        f"{key}.pub",
    ]
    subprocess.run(command, check=True, timeout=30)
    words = refused(site.channel(key_filename=str(key)))
    assert f"the certificate {key}-cert.pub: it expired on " in words
    assert "have the certificate renewed" in words


def test_a_wrong_passphrase(site: Any, keygen: Keygen) -> None:
    locked = keygen(site.folder / "locked", "-N", SECRET)
    site.policy.keys = {public(locked)}
    words = refused(site.channel(key_filename=str(locked), prompts=lambda question: "no"))
    assert f"the key {locked}: the server wants it, but the passphrase is wrong" in words


def test_methods_that_are_switched_off(site: Any) -> None:
    (site.folder / "config").write_text("PasswordAuthentication no\n")
    site.policy.steps = [["password"]]
    words = refused(site.channel(config=str(site.folder / "config"), password=lambda: SECRET))
    assert "password: switched off in the configuration" in words
    assert site.policy.attempts == ["none"]


def test_where_nobody_can_be_asked_the_channel_waits(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second factor is needed again after the connection was lost; meanwhile nothing is tried."""
    site.policy.steps = [["publickey", "keyboard-interactive"]]
    here = threading.Event()
    here.set()

    def person(question: Question) -> str:
        if not here.is_set():
            raise AuthenticationNeededError("nobody is there")
        return SECRET if "Password" in question.text else "123456"

    channel = site.channel(prompts=person)
    channel.authenticate()
    here.clear()
    site.server.cut()
    with pytest.raises(AuthenticationNeededError, match="keyboard-interactive: nobody is there"):
        output(channel, "true")
    assert channel.needs_authentication
    tried = len(site.policy.attempts)
    with pytest.raises(
        AuthenticationNeededError, match=r"call channel.authenticate.. where somebody can be asked"
    ):
        output(channel, "true")
    assert len(site.policy.attempts) == tried
    here.set()
    channel.authenticate()
    assert output(channel, "echo back") == b"back\n"


def test_who_calls_while_somebody_is_asked_waits_and_goes_on(site: Any) -> None:
    site.policy.steps = [["keyboard-interactive"]]
    asked, answer = threading.Event(), threading.Event()

    def person(question: Question) -> str:
        asked.set()
        assert answer.wait(30)
        return SECRET if "Password" in question.text else "123456"

    channel = site.channel(prompts=person)
    got: list[bytes] = []
    first = threading.Thread(target=channel.authenticate)
    first.start()
    assert asked.wait(30)
    second = threading.Thread(target=lambda: got.append(output(channel, "echo now")))
    second.start()
    second.join(0.2)
    assert second.is_alive()
    answer.set()
    first.join(30)
    second.join(30)
    assert got == [b"now\n"]


def test_the_server_hangs_up_while_somebody_is_asked(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weft_channel_ssh.connection._PATIENCE", 0.0)
    site.policy.steps = [["keyboard-interactive"]]

    def person(question: Question) -> str:
        site.server.cut()
        return SECRET

    channel = site.channel(prompts=person)
    started = time.monotonic()
    with pytest.raises(ConnectError, match="the connection was cut during authentication"):
        channel.authenticate()
    assert time.monotonic() - started < 25


def test_a_connection_that_is_cut_during_authentication_is_made_again(site: Any) -> None:
    cuts = iter([True, True])
    site.policy.hang_up = lambda method: next(cuts, False)
    channel = site.channel()
    assert output(channel, "echo in") == b"in\n"
    assert site.policy.attempts.count("none") == 3


def test_no_secret_is_shown(site: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    site.policy.steps = [["password"]]
    channel = site.channel(key_filename=[], password=lambda: SECRET)
    channel.authenticate()
    assert repr(channel) == f"<SSHChannel alice@127.0.0.1 port {site.server.port}>"
    shown = [repr(channel), str(channel.__dict__), repr(channel._connection._credentials), caplog.text]
    assert not [text for text in shown if SECRET in text]
    with pytest.raises(ConfigError, match=r"^password: a function") as caught:
        SSHChannel("host", password=SECRET, config=None)  # type: ignore[arg-type]
    assert SECRET not in str(caught.value)
    with pytest.raises(ConfigError, match=r"^password: it has to return a text, not a bytes") as other:
        site.channel(key_filename=[], password=SECRET.encode).authenticate()
    assert SECRET not in str(other.value)


# -- which host it is ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("known", ["", "another key"])
def test_nothing_is_sent_to_a_host_that_is_not_the_one_known(site: Any, keygen: Keygen, known: str) -> None:
    site.policy.steps = [["password"]]
    text = ""
    if known:
        key = paramiko.PKey.from_path(keygen(site.folder / "wrong"))
        text = f"[127.0.0.1]:{site.server.port} {key.get_name()} {key.get_base64()}\n"
    site.known_hosts.write_text(text)
    asked: list[str] = []
    channel = site.channel(
        password=lambda: asked.append("password") or SECRET, prompts=lambda question: SECRET
    )
    with pytest.raises(
        HostKeyError, match="the host's key has changed" if known else "this host is not known"
    ):
        output(channel, "true")
    assert asked == []
    assert site.policy.attempts == []
    site.known_hosts.write_text(site.server.line)  # accepted meanwhile
    assert output(channel, "echo in") == b"in\n"


def test_a_host_is_asked_for_the_key_that_is_known(site: Any, keygen: Keygen) -> None:
    other = paramiko.PKey.from_path(keygen(site.folder / "second", "-t", "rsa", "-b", "2048"))
    site.server.host_keys.append(other)
    site.known_hosts.write_text(f"[127.0.0.1]:{site.server.port} ssh-rsa {other.get_base64()}\n")
    site.channel().authenticate()


# -- what is lost -------------------------------------------------------------------------------------------


def test_a_lost_connection_is_made_again(site: Any) -> None:
    channel = site.channel()
    session = channel._start("echo ready; cat")
    assert session.read(6) == b"ready\n"
    site.server.cut()
    with pytest.raises(ConnectError, match="the connection was lost"):
        session.read(1)
    with pytest.raises(ConnectError, match="the connection was lost"):
        session.wait(10)
    with pytest.raises(ConnectError, match="the connection was lost"):
        session.write(b"x" * 100_000)
    session.close()
    assert output(channel, "echo again") == b"again\n"


def test_a_host_that_does_not_answer_is_tried_for_some_seconds(
    site: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("weft_channel_ssh.connection._PATIENCE", 1.0)
    site.server.accepting = False
    channel = site.channel()
    started = time.monotonic()
    for _ in range(2):
        with pytest.raises(ConnectError, match="cut before any key was exchanged, or no SSH server is there"):
            output(channel, "true")
    assert time.monotonic() - started < 30
    site.server.accepting = True
    monkeypatch.setattr("weft_channel_ssh.connection._PATIENCE", 30.0)
    assert output(channel, "echo in") == b"in\n"


def test_a_port_where_nobody_listens(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weft_channel_ssh.connection._PATIENCE", 0.0)
    port = site.server.port
    channel = site.channel()
    site.server.close()
    with pytest.raises(ConnectError, match=f"127.0.0.1 port {port} cannot be reached: Connection refused"):
        output(channel, "true")


def test_close_wakes_who_waits(site: Any) -> None:
    channel = site.channel()
    session = channel._start("echo ready; sleep 600")
    assert session.read(6) == b"ready\n"
    ended: list[object] = []

    def wait() -> None:
        try:
            ended.append(session.read(1))
        except ChannelError as error:
            ended.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    session.close()
    channel.close()
    thread.join(10)
    assert ended


def test_a_server_that_falls_silent_is_noticed(
    tmp_path: Path, site: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relay between the two that stops, as a network does."""
    from weft_channel_ssh import wire

    monkeypatch.setattr(wire, "_TURN", 0.05)
    monkeypatch.setattr("weft_channel_ssh.connection._PATIENCE", 0.0)
    jump = site.another("relay")
    try:
        port = jump.server.port
        channel = site.channel(port=port, keepalive=0.2)
        session = channel._start("echo $PPID; sleep 600")
        session.read(100)
        (transport,) = jump.server.connections
        stopped = threading.Event()
        monkeypatch.setattr(transport, "_parse_global_request", lambda message: stopped.wait(30))
        transport._handler_table[80] = lambda message: stopped.wait(30)
        with pytest.raises(ConnectError, match=r"it did not answer 3 times within 0.6"):
            session.read(1)
        stopped.set()
        session.close()
        channel.close()
    finally:
        jump.close()


def test_after_a_fork_the_child_has_a_connection_of_its_own(site: Any) -> None:
    channel = site.channel()
    assert output(channel, "echo parent") == b"parent\n"
    reading, writing = os.pipe()
    child = _fork()
    if not child:
        status = 1
        try:
            os.write(writing, output(channel, "echo child"))
            channel.close()
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    try:
        assert os.read(reading, 100) == b"child\n"
    finally:
        os.close(reading)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert output(channel, "echo parent") == b"parent\n"


def _fork() -> int:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # that there are threads is the point
        return os.fork()


# -- sessions -----------------------------------------------------------------------------------------------


def test_output_of_any_size_in_any_order(site: Any) -> None:
    """More than any window, to the stream that is read last."""
    channel = site.channel()
    session = channel._start("head -c 40000000 /dev/zero >&2 & head -c 40000000 /dev/zero; wait")
    counts = [0, 0]

    def read(number: int, receive: Callable[[int], bytes]) -> None:
        while data := receive(1 << 20):
            counts[number] += len(data)

    reader = threading.Thread(target=read, args=(1, session.read_stderr))
    reader.start()
    read(0, session.read)
    reader.join(60)
    assert session.wait(30) == 0
    assert counts == [40_000_000, 40_000_000]


def test_a_server_without_commands(site: Any) -> None:
    site.policy.commands = False
    session = site.channel()._start("true")
    assert session.read(1) == b""
    with pytest.raises(ChannelError, match="the server runs no commands for this user"):
        session.wait(10)


def test_writing_after_the_end_raises(site: Any) -> None:
    session = site.channel()._start("cat >/dev/null")
    session.close_stdin()
    session.close_stdin()
    with pytest.raises(ChannelError, match="reads no more"):
        session.write(b"x")
    assert session.wait(30) == 0
    session.close()
    session.close()


def test_waiting_is_bounded(site: Any) -> None:
    session = site.channel()._start("sleep 600")
    with pytest.raises(TimeoutError, match=r"has not ended within 0.1 s"):
        session.wait(0.1)
    session.close()


def test_channels_with_other_environments_are_not_equal(site: Any) -> None:
    assert site.channel(environment={"A": "1"}) == site.channel(environment={"A": "1"})
    assert site.channel(environment={"A": "1"}) != site.channel()
    assert len({site.channel(), site.channel(), site.channel(environment={"A": "1"})}) == 2


# -- jump hosts ---------------------------------------------------------------------------------------------


def test_through_jump_hosts(site: Any, jump: Any) -> None:
    third = site.another("third")
    try:
        way = [f"bob@127.0.0.1:{jump.server.port}", f"carol@127.0.0.1:{third.server.port}"]
        channel = site.channel(jump=way)
        assert output(channel, "echo inside") == b"inside\n"
        assert repr(channel).endswith(f" through {way[0]}, {way[1]}>")
        assert len(jump.server.connections) == len(third.server.connections) == 1
        jump.server.cut()
        assert output(channel, "echo again") == b"again\n"
        assert channel == site.channel(jump=way)
        assert hash(channel) == hash(site.channel(jump=way))
        assert channel != site.channel()
        channel.close()
        deadline = time.monotonic() + 30
        while jump.server.connections:  # it has yet to see it
            assert time.monotonic() < deadline, "nobody is connected with the jump host any more"
            threading.Event().wait(0.02)
    finally:
        for each in site.channels:
            each.close()
        third.close()


def test_a_channel_as_jump_host_is_shared_and_outlives(site: Any, jump: Any) -> None:
    gateway = site.channel(port=jump.server.port)
    for _ in range(2):
        with site.channel(jump=[gateway]) as channel:
            assert output(channel, "echo inside") == b"inside\n"
    assert len(jump.server.connections) == 1
    assert output(gateway, "echo gateway") == b"gateway\n"
    gateway.close()
    with pytest.raises(ConfigError, match=r"^jump\[1\]: only the first can be a channel"):
        site.channel(jump=["a", gateway])
    with pytest.raises(ConfigError, match=r"^jump: it is a list of hosts"):
        site.channel(jump="a")


def test_a_jump_host_that_forbids_to_go_on(site: Any, jump: Any) -> None:
    jump.policy.forward = False
    channel = site.channel(jump=[f"bob@127.0.0.1:{jump.server.port}"])
    with pytest.raises(
        ChannelError, match=r"the jump host bob@127.0.0.1 port \d+ forbids to go on.*AllowTcpForwarding no"
    ):
        channel.authenticate()


def test_a_jump_host_that_asks_again(site: Any, jump: Any) -> None:
    """Whoever authenticates does so on the whole way."""
    jump.policy.steps = [["publickey", "keyboard-interactive"]]
    here = threading.Event()

    def person(question: Question) -> str:
        if not here.is_set():
            raise AuthenticationNeededError("nobody is there")
        assert question.destination.startswith("bob@")
        return SECRET if "Password" in question.text else "123456"

    channel = site.channel(jump=[f"bob@127.0.0.1:{jump.server.port}"], prompts=person)
    for _ in range(2):
        with pytest.raises(AuthenticationNeededError, match=r"^bob@127.0.0.1 port \d+: .*nobody is there"):
            output(channel, "true")
    assert site.policy.attempts == []
    here.set()
    channel.authenticate()
    assert output(channel, "echo inside") == b"inside\n"


def test_a_jump_host_that_is_down(site: Any, jump: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weft_channel_ssh.connection._PATIENCE", 0.0)
    jump.server.close()
    channel = site.channel(jump=[f"bob@127.0.0.1:{jump.server.port}"])
    with pytest.raises(
        ConnectError, match=rf"^bob@127.0.0.1 port \d+: .*port {jump.server.port} cannot be reached"
    ):
        channel.authenticate()


def test_a_host_behind_the_jump_host_that_is_down(
    site: Any, jump: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("weft_channel_ssh.connection._PATIENCE", 0.0)
    channel = site.channel(jump=[f"bob@127.0.0.1:{jump.server.port}"])
    site.server.close()
    with pytest.raises(
        ConnectError, match=rf"the jump host bob.* could not connect to 127.0.0.1 port {site.server.port}"
    ):
        channel.authenticate()


def test_jump_hosts_of_the_configuration(site: Any, jump: Any, tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text(
        f"Host inner\n HostName 127.0.0.1\n Port {site.server.port}\n ProxyJump outer\n"
        f"Host outer\n HostName 127.0.0.1\n Port {jump.server.port}\n".replace("\\\n", "\n")
    )
    settings = {"key_filename": str(site.key), "known_hosts": str(site.known_hosts), "config": str(config)}
    with SSHChannel("inner", **settings) as channel:  # type: ignore[arg-type]
        assert channel.host == "inner"
        assert output(channel, "echo inside") == b"inside\n"
        assert len(jump.server.connections) == 1
    config.write_text("Host a\n ProxyJump b\nHost b\n ProxyJump a\n")
    with pytest.raises(ConfigError, match="leads through itself"):
        SSHChannel("a", config=str(config))
