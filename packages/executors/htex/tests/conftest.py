from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from weft_executor_htex import HighThroughputExecutor
from weft_interfaces import Blocks
from weft_interfaces.memory import InMemoryProvider
from weft_interfaces.testing.calls import Gate
from weft_interfaces.testing.recorder import PATIENCE, Recorder


@pytest.fixture
def recorder(tmp_path: Path) -> Iterator[Recorder]:
    recorder = Recorder(tmp_path / "executor")
    yield recorder
    assert recorder.repeated == [], "second outcomes"


def eventually(condition: Callable[[], bool], what: str, patience: float = PATIENCE) -> None:
    """Wait for something of which no notice is given (another process's state)."""
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.005)


@pytest.fixture(name="eventually")
def _eventually() -> Callable[..., None]:
    return eventually


class Site:
    """An executor, and the managers that a test starts for it."""

    def __init__(self, recorder: Any, **settings: Any) -> None:
        shape = {name: settings.pop(name) for name in ("walltime", "gpus") if name in settings}
        blocks = Blocks(provider=settings.pop("provider", None) or InMemoryProvider(), max=8, **shape)
        settings = {"workers_per_node": 2, "heartbeat_period": 0.2, "heartbeat_threshold": 1.5} | settings
        self.executor = HighThroughputExecutor(blocks=blocks, **settings)
        self.executor.start(recorder)
        self.managers: dict[str, subprocess.Popen[bytes]] = {}
        self._started: list[subprocess.Popen[bytes]] = []

    def start(
        self,
        block: str = "b",
        patch: str = "",
        data: bytes | None = None,
        command: Any = None,
        cwd: Path | None = None,
        **variables: str,
    ) -> subprocess.Popen[bytes]:
        """Start a manager, in a directory and with variables of its own; ``patch`` is run in it before,
        ``data`` is another setup than that of the executor's command, ``command`` another one altogether.
        """
        argv, said = command or self.executor.command(block)
        data = said if data is None else data
        if patch:
            imports = "import sys\nfrom weft_executor_htex import manager, node_store"
            argv = (sys.executable, "-c", f"{imports}\n{patch}\nsys.exit(manager.main())")
        manager = subprocess.Popen(
            list(argv),
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=cwd,
            env={**os.environ, **variables},
        )
        self._started.append(manager)
        assert manager.stdin is not None
        manager.stdin.write(data)
        manager.stdin.close()
        self.managers[block] = manager
        return manager

    def close(self) -> None:
        leftovers = self.executor.shutdown(cancel=True, timeout=5.0)
        for manager in self._started:
            manager.send_signal(signal.SIGCONT)
            try:
                manager.wait(PATIENCE)
            finally:
                manager.kill()
                manager.wait()
                assert manager.stderr is not None
                manager.stderr.close()
        assert leftovers == []


@pytest.fixture
def site(recorder: Any) -> Iterator[Callable[..., Site]]:
    sites: list[Site] = []

    def start(**settings: Any) -> Site:
        sites.append(Site(recorder, **settings))
        return sites[-1]

    yield start
    for each in sites:
        each.close()


@pytest.fixture
def gate() -> Iterator[Gate]:
    with Gate() as gate:
        yield gate
