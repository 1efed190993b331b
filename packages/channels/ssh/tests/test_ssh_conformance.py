"""SSHChannel is a channel: on a server of our own, and on one that allows one session at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from weft_channel_ssh import SSHChannel
from weft_interfaces.testing import ChannelSuite


class TestSSHChannel(ChannelSuite):
    @pytest.fixture(autouse=True)
    def server(self, site: Any, tmp_path: Path) -> None:
        self.site = site
        home = tmp_path / "home"
        home.mkdir()
        site.policy.environment = {"HOME": str(home)}

    def make_channel(self) -> SSHChannel:
        channel: SSHChannel = self.site.channel()
        return channel


@pytest.mark.once
class TestOneSession(TestSSHChannel):
    @pytest.fixture(autouse=True)
    def one(self, server: None) -> None:
        self.site.policy.sessions = 1
