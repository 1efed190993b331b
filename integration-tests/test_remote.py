"""Runs on the Slurm of a remote site, of which nothing but one login node's ssh is reached."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from servers.process import program
from servers.site import Site, remote_site
from servers.siteconfig import site_config

pytestmark = [pytest.mark.once, pytest.mark.timeout(300)]


def configuration(folder: Path, channel: str) -> Path:
    """A file that leads to a site whose nodes have this Python where it is here."""
    path = folder / "site.toml"
    path.write_text(site_config(channel))
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


@pytest.mark.parametrize("kind", ["ssh", "openssh"])
def test_the_census_runs_through_a_jump_host(
    behind: Site, root: Path, tmp_path: Path, census: str, kind: str
) -> None:
    before = behind.counters()
    config = configuration(tmp_path, behind.channel(kind))
    done = weft_run(tmp_path, config, root / "examples/census/census.py", *SMALL)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert (tmp_path / "census-output/census.csv").read_text() == census
    after = behind.counters()
    assert after.connections - before.connections == 1
    assert after.called_back == before.called_back


@pytest.fixture(scope="module")
def behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A site of which a jump host alone is reached."""
    with remote_site(
        tmp_path_factory.mktemp("site") / "s", jump=True, compute_python=Path(sys.executable)
    ) as site:
        yield site


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A site whose login node asks for a key and a one-time password."""
    with remote_site(
        tmp_path_factory.mktemp("site") / "s", auth="keyotp", compute_python=Path(sys.executable)
    ) as site:
        yield site


def test_a_second_factor_is_asked_for_once_in_a_terminal(
    guarded: Site, root: Path, tmp_path: Path, census: str
) -> None:
    config = configuration(tmp_path, guarded.channel("ssh"))
    script = root / "examples/census/census.py"
    terminal, end = pty.openpty()
    command = [program("setsid"), "--ctty", "--wait", sys.executable, "-m", "weft", "run", "--quiet"]
    with subprocess.Popen(
        [*command, "--config", str(config), str(script), "--", *SMALL],
        cwd=tmp_path,
        stdin=end,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        os.close(end)
        shown = b""
        while b"password" not in shown.lower():
            shown += os.read(terminal, 4096)
        os.write(terminal, f"{guarded.code()}\n".encode())
        stdout, stderr = process.communicate(timeout=200)
    os.close(terminal)
    assert process.returncode == 0, f"{stdout}\n{stderr}"
    assert (tmp_path / "census-output/census.csv").read_text() == census


def test_a_second_factor_is_asked_for_once_by_the_users_own_ssh(
    guarded: Site, root: Path, tmp_path: Path, census: str
) -> None:
    config = configuration(tmp_path, guarded.channel("openssh"))
    answers = guarded.answers(guarded.code(), "this is asked once")
    done = weft_run(tmp_path, config, root / "examples/census/census.py", *SMALL, environment=answers)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert (tmp_path / "census-output/census.csv").read_text() == census
