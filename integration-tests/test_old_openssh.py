"""The user's own ssh may be years old: here it is OpenSSH 7.5, with the options of 7.4 (of CentOS 7)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from servers.openssh import SshServers, ssh_servers
from servers.process import program
from servers.sshclient import PASSWORD
from weft_channel_ssh import AuthenticationError, ConnectError, HostKeyError, OpenSSHChannel
from weft_interfaces.testing import ChannelSuite

pytestmark = [pytest.mark.once, pytest.mark.timeout(120)]

BOUND = 30.0


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshServers]:
    with ssh_servers(tmp_path_factory.mktemp("ssh") / "s", "key", "twofactor") as servers:
        servers.start("key", "inner", jump=["key"])
        yield servers


@pytest.fixture(autouse=True)
def _old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``ssh`` is an old one. The program that it starts for a jump host is called so, too."""
    folder = tmp_path / "old"
    folder.mkdir()
    (folder / "ssh").symlink_to(program("ssh1"))
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def channel(servers: SshServers, name: str, *options: str, key: str = "id") -> OpenSSHChannel:
    return OpenSSHChannel(name, ["-F", str(servers.config_with(key)), *options])


class TestOpenSSHChannel(ChannelSuite):
    @pytest.fixture(autouse=True)
    def _servers(self, servers: SshServers) -> None:
        self.servers = servers

    def make_channel(self) -> OpenSSHChannel:
        return channel(self.servers, "key")


def test_it_asks_and_goes_through_jump_hosts(servers: SshServers, monkeypatch: pytest.MonkeyPatch) -> None:
    with channel(servers, "inner") as inner:
        assert inner.run(["echo", "hello"], timeout=BOUND).stdout == b"hello\n"
    for name, value in servers.answers(PASSWORD, servers.code()).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("DISPLAY", ":0")
    with channel(servers, "twofactor") as asked:
        assert asked.run(["echo", "hello"], timeout=BOUND).stdout == b"hello\n"


def test_what_it_says_is_understood(servers: SshServers, tmp_path: Path) -> None:
    with pytest.raises(ConnectError, match="refuses connections on port 1"):
        channel(servers, "127.0.0.1", "-p", "1").authenticate()
    with pytest.raises(AuthenticationError, match=r"offers publickey: .*not accepted: .*stranger"):
        channel(servers, "key", key="stranger").authenticate()
    with pytest.raises(HostKeyError, match="is not known: it shows ssh-ed25519 SHA256:"):
        channel(servers, "key", f"-oUserKnownHostsFile={tmp_path}/none").authenticate()
    known = tmp_path / "known_hosts"
    known.write_text(f"[127.0.0.1]:{servers['key'].port} {servers['twofactor'].public}\n")
    with pytest.raises(HostKeyError, match=rf"has changed.*line 1 of {known}"):
        channel(servers, "key", f"-oUserKnownHostsFile={known}").authenticate()
