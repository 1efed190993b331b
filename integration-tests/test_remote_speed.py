"""What large data take of a login node when the way to it is long."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers.site import Site, remote_site
from weft_channel_ssh import OpenSSHChannel, SSHChannel

pytestmark = [pytest.mark.once, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def distant(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A site at the other end of a continent."""
    with remote_site(tmp_path_factory.mktemp("site") / "s", nodes=1) as site:
        site.delay(0.05)
        yield site


@pytest.mark.parametrize("kind", ["ssh", "openssh"])
def test_sshd_stays_small_when_it_has_more_to_send_than_the_network_takes(distant: Site, kind: str) -> None:
    config = str(distant.config)
    channel = SSHChannel("login", config=config) if kind == "ssh" else OpenSSHChannel("login", ["-F", config])
    with channel, contextlib.closing(channel.open(["head", "-c", "40000000", "/dev/zero"])) as process:
        left = 40_000_000
        while left:
            data = process.read(1 << 18)
            assert data
            left -= len(data)
        most = max(_peaks(distant))
    print(f"measured: sshd has {most:.0f} MB at most")
    assert most < 25


def _peaks(site: Site) -> Iterator[float]:
    """Megabytes, of the processes that serve connections with the login node."""
    inside = os.readlink(f"/proc/{site.login.pid}/ns/pid")
    for name in filter(str.isdecimal, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            command = Path(f"/proc/{name}/cmdline").read_bytes()
            if command.startswith(b"sshd: ") and os.readlink(f"/proc/{name}/ns/pid") == inside:
                status = Path(f"/proc/{name}/status").read_text()
                yield int(status.partition("VmHWM:")[2].split()[0]) / 1000
