"""Runs of this machine on the Slurm of a remote site, of which nothing but one login node's ssh is reached."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from servers.site import Site

pytestmark = [pytest.mark.once, pytest.mark.timeout(300)]

CONFIGURATION = """
[[executors]]
type = "htex"
workers_per_node = 1
environment = "{environment}"

[executors.blocks]
init = 2
max = 2
walltime = "00:20:00"
launcher = "srun"

[executors.blocks.provider]
type = "slurm"
poll_interval = 1
cores_per_node = 1
channel = {channel}
"""


def configuration(folder: Path, channel: str) -> Path:
    """A file that leads to a site whose nodes have this Python where it is here."""
    path = folder / "site.toml"
    path.write_text(CONFIGURATION.format(channel=channel, environment=sys.executable))
    return path


def weft_run(
    folder: Path, config: Path, script: Path, *arguments: str, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "weft", "run", "--config", str(config), str(script), "--", *arguments]
    return subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **(environment or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


SMALL = ("json", "wsgiref", "abc.py")


@pytest.fixture(scope="session")
def census(root: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """What the example says of a part of the library on this machine."""
    folder = tmp_path_factory.mktemp("census")
    script = root / "examples/census/census.py"
    done = weft_run(folder, root / "examples/processes.toml", script, *SMALL)
    assert done.returncode == 0, done.stderr
    return (folder / "census-output/census.csv").read_text()


@pytest.mark.parametrize("kind", ["ssh", "openssh"])
def test_the_census_runs_over_one_connection_by_configuration_alone(
    site: Site, root: Path, tmp_path: Path, census: str, kind: str
) -> None:
    before = site.counters()
    begun = time.monotonic()
    config = configuration(tmp_path, site.channel(kind))
    done = weft_run(tmp_path, config, root / "examples/census/census.py", *SMALL)
    print(f"measured: the census over {kind} took {time.monotonic() - begun:.1f} s")
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert (tmp_path / "census-output/census.csv").read_text() == census
    after = site.counters()
    assert after.connections - before.connections == 1
    assert after.refused == before.refused
    assert after.called_back == before.called_back
