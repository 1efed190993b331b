"""What tests of batch systems do with one job, and with a run that the batch system refuses."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from weft_interfaces import JobId, JobState, JobStatus, Provider

__all__ = ["run_refused", "wait_for"]

_SCRIPT = """
import weft

@weft.task
def double(x):
    return 2 * x

print(double(3).result())
"""


def wait_for(provider: Provider, job: JobId, *states: JobState, timeout: float = 60.0) -> JobStatus:
    """Its status once it is in one of these states. It may not end in another one."""
    begun = time.monotonic()
    while (status := provider.status([job])[job]).state not in states:
        assert not status.state.terminal, status
        assert time.monotonic() < begun + timeout, status
        time.sleep(0.2)
    print(f"measured: {status.state.value} ({status.reason}) after {time.monotonic() - begun:.1f} s")
    return status


def run_refused(folder: Path, configuration: str, environment: Mapping[str, str]) -> str:
    """What a run by a configuration says on stderr. It has to fail, with no result, within 30 seconds."""
    (folder / "site.toml").write_text(configuration)
    (folder / "script.py").write_text(_SCRIPT)
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "weft", "run", "--quiet", "--config", "site.toml", "script.py"],
        cwd=folder,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    seconds = time.monotonic() - begun
    print(f"measured: a run that is refused ended after {seconds:.1f} s")
    assert (done.returncode, done.stdout) == (1, ""), done.stderr
    assert seconds < 30
    return done.stderr
