from __future__ import annotations

from pathlib import Path

import pytest
from weft_interfaces.testing import ChannelSuite
from weft_test_shell import LocalShellChannel


class TestShellChannel(ChannelSuite):
    @pytest.fixture(autouse=True)
    def home(self, tmp_path: Path) -> None:
        self.directory = tmp_path

    def make_channel(self) -> LocalShellChannel:
        return LocalShellChannel(str(self.directory))
