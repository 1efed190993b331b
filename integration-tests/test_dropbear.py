"""Both channels on a server that is not OpenSSH's: dropbear."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from servers.dropbear import dropbear
from servers.openssh import SshServers, ssh_servers
from weft_channel_ssh import OpenSSHChannel, SSHChannel
from weft_interfaces.testing import ChannelSuite

pytestmark = [pytest.mark.once, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshServers]:
    with ssh_servers(tmp_path_factory.mktemp("ssh") / "s") as servers, dropbear(servers):
        yield servers


class TestSSHChannel(ChannelSuite):
    @pytest.fixture(autouse=True)
    def _servers(self, servers: SshServers) -> None:
        self.servers = servers

    def make_channel(self) -> SSHChannel:
        return SSHChannel("dropbear", config=str(self.servers.config))


class TestOpenSSHChannel(ChannelSuite):
    @pytest.fixture(autouse=True)
    def _servers(self, servers: SshServers) -> None:
        self.servers = servers

    def make_channel(self) -> OpenSSHChannel:
        return OpenSSHChannel("dropbear", ["-F", str(self.servers.config)])
