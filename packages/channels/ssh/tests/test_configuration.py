from __future__ import annotations

import getpass
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from weft_channel_ssh.configuration import Address, Configuration, Destination, parse_address
from weft_interfaces import ConfigError

Resolve = Callable[..., Destination]


@pytest.fixture
def resolve(tmp_path: Path) -> Resolve:
    def resolve(text: str, host: str = "login", **explicit: Any) -> Destination:
        (tmp_path / "config").write_text(text)
        return Configuration(str(tmp_path / "config")).resolve(parse_address(host, "host"), explicit)

    return resolve


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("login", Address("login")),
        ("alice@login.site.org:2222", Address("login.site.org", "alice", 2222)),
        ("ssh://alice@login:22/", Address("login", "alice", 22)),
        ("a@b@login", Address("login", "a@b")),
        ("::1", Address("::1")),
        ("bob@[fe80::1]:2222", Address("fe80::1", "bob", 2222)),
    ],
)
def test_addresses(text: str, address: Address) -> None:
    assert parse_address(text, "host") == address


@pytest.mark.parametrize(
    "text", ["", "@login", "login:", "login:0", "login:70000", "login:ssh", "-oProxyCommand=x", "a b"]
)
def test_what_is_no_address_is_refused_by_name(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^jump\[1\]: "):
        parse_address(text, "jump[1]")


def test_the_file_says_who_where_and_how(resolve: Resolve) -> None:
    found = resolve(
        """
        Host login
          HostName login3.site.org
          User alice
          Port 2222  # the other sshd
          IdentityFile ~/.ssh/one
          IdentityFile /keys/%r-%h
          IdentitiesOnly yes
          HostKeyAlias login.site
          UserKnownHostsFile ~/hosts /keys/%n
          GlobalKnownHostsFile none
          ConnectTimeout 1m5s
          ServerAliveInterval 20
          ServerAliveCountMax 4
          ProxyJump bob@outer:2200,inner
          PasswordAuthentication no
        Host *
          User nobody
        """
    )
    home = str(Path.home())
    assert found == Destination(
        name="login",
        hostname="login3.site.org",
        user="alice",
        port=2222,
        key_files=(f"{home}/.ssh/one", "/keys/alice-login3.site.org"),
        key_files_named=True,
        only_these_keys=True,
        agent=found.agent,
        known_hosts=(f"{home}/hosts", "/keys/login"),
        host_key_alias="login.site",
        connect_timeout=65,
        keepalive=20,
        keepalive_count=4,
        refused=frozenset({"password"}),
        jumps=("bob@outer:2200", "inner"),
    )
    assert found.key_name == "login.site"


def test_what_is_said_wins(resolve: Resolve) -> None:
    text = "User alice\nPort 2222\nProxyJump outer\nServerAliveInterval 20\n"
    found = resolve(text, "bob@login:2200", jumps=(), keepalive=0.0, known_hosts=("/a",), port=None)
    assert (found.user, found.port, found.jumps, found.keepalive) == ("bob", 2200, (), 0.0)
    assert (found.known_hosts, found.key_name) == (("/a",), "[login]:2200")


def test_without_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSH_AUTH_SOCK", "/run/agent")
    found = Configuration(None).resolve(Address("Login"), {})
    assert (found.user, found.port, found.key_name, found.agent) == (
        getpass.getuser(),
        22,
        "login",
        "/run/agent",
    )
    assert not found.key_files_named


@pytest.mark.parametrize(
    ("value", "agent"), [("none", None), ("/a/b", "/a/b"), ("$MY_AGENT", "/c"), ("SSH_AUTH_SOCK", "/d")]
)
def test_which_agent(
    resolve: Resolve, monkeypatch: pytest.MonkeyPatch, value: str, agent: str | None
) -> None:
    monkeypatch.setenv("MY_AGENT", "/c")
    monkeypatch.setenv("SSH_AUTH_SOCK", "/d")
    assert resolve(f"IdentityAgent {value}").agent == agent


def test_files_that_are_included(resolve: Resolve, tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "a").write_text("Host other\n User wrong\nHost login\n HostName right\n")
    (tmp_path / "more" / "b").write_text("Port 2222\n")
    found = resolve(f"Include {tmp_path}/more/*\nUser alice\nHost login\n  Include more/b\n  User wrong\n")
    assert (found.hostname, found.user, found.port) == ("right", "alice", 2222)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Port many", "Port: a port is a number"),
        ("ConnectTimeout soon", "connecttimeout: 'soon' is no time"),
        ("ProxyCommand nc %h %p", "ProxyCommand is run by OpenSSHChannel only"),
        ("Host login\n Include config", "goes round in circles"),
        ("Nonsense", "Unparsable line Nonsense"),
        ("Match user", "Missing parameter"),
    ],
)
def test_what_cannot_be_followed_names_the_file_or_the_key(resolve: Resolve, text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        resolve(text)


def test_a_file_that_is_named_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"config: .*/none cannot be read"):
        Configuration(str(tmp_path / "none"))


def test_keepalive_may_be_off(resolve: Resolve) -> None:
    assert resolve("ServerAliveInterval 0").keepalive == 0
    assert resolve("ConnectTimeout none").connect_timeout > 0


def test_a_proxy_command_may_be_none(resolve: Resolve) -> None:
    assert resolve("ProxyCommand none").jumps == ()
    assert resolve("ProxyJump none").jumps == ()
