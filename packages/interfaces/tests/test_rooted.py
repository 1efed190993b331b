"""A place whose file system root is another directory."""

from __future__ import annotations

import itertools
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from weft_interfaces.testing import ChannelSuite, RootedChannel

pytestmark = pytest.mark.once


class TestRootedChannel(ChannelSuite):
    @pytest.fixture(autouse=True)
    def roots(self, tmp_path: Path) -> None:
        self.directories = (tmp_path / f"root{number}" for number in itertools.count())

    def make_channel(self) -> RootedChannel:
        return RootedChannel(next(self.directories))


@pytest.fixture
def far(tmp_path: Path) -> Iterator[RootedChannel]:
    shown = tmp_path / "shown"
    shown.mkdir()
    channel = RootedChannel(tmp_path / "far", shown=[shown])
    yield channel
    channel.close()


def said(channel: RootedChannel, *argv: str) -> str:
    ended = channel.run(argv, timeout=30)
    assert ended.exit_status == 0, ended
    return ended.stdout.decode().strip()


def test_a_path_of_the_place_is_not_on_this_side(far: RootedChannel) -> None:
    assert said(far, "pwd") == said(far, "sh", "-c", "echo $HOME") == far.home
    said(far, "touch", f"{far.home}/made there")
    assert not os.path.exists(far.home)
    assert far.here("made there").exists()
    assert far.strays() == []


def test_temporary_files_are_of_one_side_only(far: RootedChannel) -> None:
    with tempfile.NamedTemporaryFile() as ours:
        assert far.run(["test", "-e", ours.name]).exit_status == 1
    theirs = said(far, "mktemp", "-p", "/tmp")
    assert not os.path.exists(theirs)
    assert far.here(theirs).exists()


def test_what_is_shown_and_this_python_are_on_both_sides(far: RootedChannel, tmp_path: Path) -> None:
    (tmp_path / "shown" / "file").write_text("seen")
    assert said(far, "cat", str(tmp_path / "shown" / "file")) == "seen"
    assert said(far, sys.executable, "-c", "import weft_interfaces; print('imported')") == "imported"
    assert far.here(str(tmp_path / "shown" / "file")) == tmp_path / "shown" / "file"


def test_what_was_made_on_the_wrong_side_is_found(far: RootedChannel, tmp_path: Path) -> None:
    far.place = str(tmp_path / "wrong")
    os.makedirs(f"{far.place}/home")
    assert far.strays() == [far.place, f"{far.place}/home"]


def test_the_end_of_the_place_leaves_no_mount(far: RootedChannel) -> None:
    before = Path("/proc/mounts").read_text()
    said(far, "true")
    assert Path("/proc/mounts").read_text() == before
