"""Makes ``weft_test_shell`` (this machine's own shell as a channel) and ``weft_test_server`` importable."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from weft_test_server import Site, make_key


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A server of our own; afterwards no thread is left."""
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    before = set(threading.enumerate())
    site = Site(tmp_path)
    try:
        yield site
    finally:
        site.close()
    left = [thread for thread in set(threading.enumerate()) - before if thread.is_alive()]
    for thread in left:
        thread.join(10)
    assert not [thread for thread in left if thread.is_alive()], "threads are left"


@pytest.fixture
def jump(site: Site) -> Iterator[Site]:
    """A second server, which site's keys open, too."""
    jump = site.another("jump")
    try:
        yield jump
    finally:
        for channel in site.channels:
            channel.close()
        jump.close()


@pytest.fixture
def keygen() -> Callable[..., Path]:
    return make_key
