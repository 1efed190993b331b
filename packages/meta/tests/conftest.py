from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import weft

DEADLINE = 30.0

hypothesis.settings.register_profile(
    "weft", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("weft")

# weft_test_tasks can be imported, by worker processes too, which copy the path.
sys.path.append(str(Path(__file__).parent))


def eventually(condition: Callable[[], Any], what: str = "the condition", timeout: float = DEADLINE) -> Any:
    """What the condition gives, once it is true."""
    until = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < until, f"{what} did not come true in {timeout:g} s"
        time.sleep(0.005)
    return value


def is_running(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def let_it_wait(pid: int) -> None:
    """Return once the main thread of a process waits for something, and not just for its turn.

    Python overlooks a signal that comes between the last instruction and the wait until the wait ends.
    """

    def switches() -> str | None:
        try:
            status = Path(f"/proc/{pid}/status").read_text()
        except OSError:
            return "it has ended"
        return status.partition("voluntary_ctxt_switches")[2] if "State:\tS" in status else None

    def settled() -> bool:
        before = switches()
        time.sleep(0.05)  # ten times as long as threads wait for their turn
        return before is not None and switches() == before

    eventually(settled, f"the waiting of process {pid}")


class Program:
    """A Python program in a process of its own; its stderr and stdout can be waited for while it runs."""

    def __init__(self, argv: list[str], cwd: Path, env: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            argv,
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self._texts = {"out": "", "err": ""}
        self._threads = [
            threading.Thread(target=self._read, args=(name, stream))
            for name, stream in (("out", self.process.stdout), ("err", self.process.stderr))
        ]
        for thread in self._threads:
            thread.start()

    def _read(self, name: str, stream: Any) -> None:
        while data := os.read(stream.fileno(), 65536):
            self._texts[name] += data.decode()

    @property
    def out(self) -> str:
        return self._texts["out"]

    @property
    def err(self) -> str:
        return self._texts["err"]

    def wait_for(self, text: str) -> None:
        eventually(lambda: text in self.out + self.err or self.process.poll() is not None, repr(text))
        assert text in self.out + self.err, self.out + self.err

    def interrupt(self) -> None:
        """Press Ctrl-C, once its main thread waits."""
        let_it_wait(self.process.pid)
        self.process.send_signal(signal.SIGINT)

    def end(self, timeout: float = DEADLINE) -> int:
        """The exit status, once it has ended and all its output was read."""
        try:
            status = self.process.wait(timeout)
        finally:
            self.close()
        return status

    def close(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        for thread in self._threads:
            thread.join(DEADLINE)
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()


@pytest.fixture
def environment() -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("WEFT_", "COV_"))}
    return {
        **kept,
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "NO_COLOR": "1",
        "COLUMNS": "200",
    }


@pytest.fixture
def start(tmp_path: Path, environment: dict[str, str]) -> Iterator[Callable[..., Program]]:
    """Start a program: the text of a script, or with ``argv=`` the arguments for the interpreter."""
    programs = []

    def begin(
        script: str = "", *, argv: list[str] | None = None, env: dict[str, str] | None = None
    ) -> Program:
        if argv is None:
            (tmp_path / "script.py").write_text("import weft\n" + textwrap.dedent(script))
            argv = ["script.py"]
        program = Program([sys.executable, *argv], tmp_path, {**environment, **(env or {})})
        programs.append(program)
        return program

    yield begin
    for program in programs:
        program.close()


@pytest.fixture
def run(tmp_path: Path) -> Iterator[weft.Run]:
    """A run on four threads, the current one of the test."""
    config = weft.Config(executors=[weft.ThreadExecutor(workers=4)], run_dir=tmp_path, shutdown_timeout=5)
    with weft.run(config) as opened:
        yield opened


@pytest.fixture
def let_wait() -> Callable[[int], None]:
    return let_it_wait


@pytest.fixture
def wait_until() -> Callable[..., Any]:
    return eventually


@pytest.fixture
def running() -> Callable[[int], bool]:
    return is_running
