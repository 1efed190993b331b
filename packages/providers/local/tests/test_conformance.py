from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from weft_interfaces import ChannelError, Provider
from weft_interfaces.testing import ProviderSuite, RootedChannel, left_out
from weft_provider_local import LocalProvider


@left_out("test_a_query_that_fails_is_not_an_end")  # there is nothing to ask that could fail
class TestLocalProvider(ProviderSuite):
    def make_provider(self) -> Provider:
        return LocalProvider()


class Breakable(RootedChannel):
    """Its cable can be pulled out."""

    broken = False

    def _check(self) -> None:
        if self.broken:
            raise ChannelError("the cable is out")
        super()._check()


@pytest.mark.once
class TestFarLocalProvider(ProviderSuite):
    """On the host of a channel, whose files are not this machine's."""

    @pytest.fixture(autouse=True)
    def _place(self, tmp_path: Path) -> Iterator[None]:
        self.channel = Breakable(tmp_path / "far")
        yield
        assert self.channel.strays() == []
        self.channel.close()

    def make_provider(self) -> Provider:
        return LocalProvider(self.channel)

    def directory(self) -> str:
        return "the runs of it's owner"

    @contextlib.contextmanager
    def failing_queries(self, provider: Provider) -> Iterator[None]:
        self.channel.broken = True
        yield
        self.channel.broken = False
