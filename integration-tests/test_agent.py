"""The interchange as an agent behind a real SSH connection, and nothing but that."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import pytest
from servers.openssh import SshServers, ssh_servers
from weft_channel_ssh import OpenSSHChannel
from weft_executor_htex import AgentSettings, HighThroughputExecutor
from weft_interfaces import Blocks, as_pool
from weft_provider_local import LocalProvider

pytestmark = [pytest.mark.once, pytest.mark.timeout(120)]

BOUND = 60.0


class Here(HighThroughputExecutor):
    """Its managers run on this client's Python: the login node is this machine, with another home."""

    def _manager_python(self) -> str:
        return sys.executable


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshServers]:
    with ssh_servers(tmp_path_factory.mktemp("sshd") / "s", "key", "banner", "noforward") as servers:
        yield servers


@pytest.fixture
def pool_on(sites: SshServers, tmp_path: Path) -> Iterator[Callable[[str], Executor]]:
    """Workers of a block on this server's host, whose interchange is there, too."""
    opened: list[Any] = []
    directory = tmp_path / "cache"

    def start(name: str) -> Executor:
        channel = OpenSSHChannel(name, ["-F", str(sites.config_with("id"))])
        executor = Here(
            workers_per_node=2,
            blocks=Blocks(provider=LocalProvider(channel)),
            agent=AgentSettings(directory=str(directory)),
        )
        opened.append(channel)
        pool = as_pool(executor)
        opened.append(pool)
        return pool

    yield start
    for each in reversed(opened):
        (each.shutdown if isinstance(each, Executor) else each.close)()
    assert processes(directory) == [], "agents are left"
    assert [path.name for path in directory.iterdir() if path.suffix != ".pyz"] == []


def processes(directory: Path) -> list[int]:
    """Agents and relays whose file is there."""
    lines = subprocess.run(
        ["ps", "-ww", "-eo", "pid=,args="], capture_output=True, text=True, check=True
    ).stdout
    found = [line.split() for line in lines.splitlines() if str(directory) in line]
    ours = [words for words in found if words[-2] in ("start", "attach") and words[-3].endswith(".pyz")]
    return [int(pid) for pid, program, *_ in ours if "python" in os.path.basename(program)]


@pytest.mark.parametrize("name", ["key", "banner", "noforward"])
def test_calls_run_over_one_connection(pool_on: Callable[[str], Executor], name: str) -> None:
    pool = pool_on(name)
    assert sum(pool.map(abs, range(-2000, 0))) == 2001 * 1000
    assert len(pool.submit(bytes, 5_000_000).result(BOUND)) == 5_000_000


def test_the_connection_is_killed(pool_on: Callable[[str], Executor], tmp_path: Path) -> None:
    """On its far end, again and again: all calls run, each once."""
    pool = pool_on("key")
    path = str(tmp_path / "lines")

    def write(number: int) -> int:
        with open(path, "a") as file:
            file.write(f"{number}\n")
        return number

    futures = []
    for first in range(0, 400, 100):
        futures += [pool.submit(write, first + number) for number in range(100)]
        futures[first].result(BOUND)
        os.kill(_relay(tmp_path / "cache"), signal.SIGKILL)
    assert [future.result(BOUND) for future in futures] == list(range(400))
    assert sorted(map(int, Path(path).read_text().split())) == list(range(400))


def _relay(directory: Path) -> int:
    """The process that serves the connection: the agent itself is nobody's child."""
    end = time.monotonic() + BOUND
    while time.monotonic() < end:
        for pid in processes(directory):
            parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]
            if parent != "1":
                return pid
        threading.Event().wait(0.05)
    raise AssertionError(f"no relay runs, but {processes(directory)}")
