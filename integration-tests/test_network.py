"""Managers on hosts with a network of their own, whose cable is pulled out and put back."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import weft
from servers.host import Host, network
from weft_interfaces.memory import InMemoryProvider
from weft_interfaces.testing.recorder import PATIENCE, Recorder

pytestmark = pytest.mark.once

THRESHOLD = 15.0  # seconds; a connection on which nobody confirms anything is given up after a third of it


@pytest.fixture
def apart(tmp_path: Path) -> Iterator[tuple[weft.HighThroughputExecutor, Recorder, Host]]:
    """An executor whose only manager is on another host."""
    recorder = Recorder(tmp_path / "executor")
    with network(tmp_path / "network", ["n1"]) as hosts:
        executor = weft.HighThroughputExecutor(
            workers_per_node=2,
            blocks=weft.Blocks(provider=InMemoryProvider()),
            address=hosts.head,
            heartbeat_period=1,
            heartbeat_threshold=THRESHOLD,
        )
        executor.start(recorder)
        [host] = hosts.hosts
        argv, data = executor.command("b")
        manager = subprocess.Popen(host.enter(argv), stdin=subprocess.PIPE)
        try:
            assert manager.stdin is not None
            manager.stdin.write(data)
            manager.stdin.close()
            yield executor, recorder, host
            assert executor.shutdown(cancel=True) == []
            assert manager.wait(PATIENCE) == 0
        finally:
            manager.kill()
            manager.wait()
            executor.shutdown(cancel=True)
    assert recorder.repeated == []


@pytest.mark.parametrize("seconds", [2.0, 7.0], ids=["short", "until-the-connection-is-given-up"])
def test_a_cable_that_is_put_back_costs_nothing(apart: Any, seconds: float) -> None:
    executor, recorder, host = apart
    assert recorder.value(executor, abs, -1) == 1
    calls = [recorder.call(time.sleep, 0.01) for _ in range(int(100 * (seconds + 3)))]
    executor.submit(calls)
    recorder.wait(calls[50])
    host.cut()
    try:
        time.sleep(seconds)  # so long it is out
    finally:
        host.mend()
    assert [outcome.error for outcome in recorder.wait(*calls) if outcome.error] == []
    assert [event.data for event in recorder.events if event.kind == "manager.gone"] == []
