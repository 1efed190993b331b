from __future__ import annotations

from pathlib import Path

import pytest
from weft_channel_local import LocalChannel
from weft_interfaces.testing import ChannelSuite


class TestLocalChannel(ChannelSuite):
    @pytest.fixture(autouse=True)
    def home(self, tmp_path: Path) -> None:
        self.directory = tmp_path

    def make_channel(self) -> LocalChannel:
        return LocalChannel(self.directory)
