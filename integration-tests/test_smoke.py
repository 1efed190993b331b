"""What a user has after `pip install weft`: the command, the entry points, a run on processes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import Distribution, distribution
from pathlib import Path

import pytest

pytestmark = pytest.mark.smoke

DISTRIBUTIONS = ("weft", "weft-core", "weft-executor-local", "weft-interfaces")

SCRIPT = """\
import weft

@weft.task
def double(x: int) -> int:
    return 2 * x

@weft.task
def total(values: list[int]) -> int:
    return sum(values)

if __name__ == "__main__":
    with weft.run():
        print("total", total([double(i) for i in range(10)]).result(timeout=60))
"""


def is_editable(dist: Distribution) -> bool:
    origin = json.loads(dist.read_text("direct_url.json") or "{}")
    return bool(origin.get("dir_info", {}).get("editable"))


@pytest.mark.wheels
@pytest.mark.skipif(os.environ.get("WEFT_WHEELS") != "1", reason="only where the wheels are installed")
@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_the_wheel_is_complete(name: str) -> None:
    dist = distribution(name)
    assert not is_editable(dist)
    files = {str(file) for file in dist.files or ()}
    folder = name.replace("-", "_")
    assert f"{folder}/py.typed" in files
    assert any(file.endswith("licenses/LICENSE") for file in files)
    assert not [file for file in files if "tests/" in file]


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_the_version_is_the_one_that_the_package_says(name: str, run_python: Callable[..., str]) -> None:
    code = f"import {name.replace('-', '_')} as package; print(package.__version__)"
    assert run_python("-I", "-c", code).strip() == distribution(name).version


def test_every_entry_point_loads() -> None:
    ours = [point for name in DISTRIBUTIONS for point in distribution(name).entry_points]
    assert {point.name for point in ours if point.group == "weft.executors"} >= {"threads", "processes"}
    for point in ours:
        assert callable(point.load()), point


def test_the_command_says_its_version(run_python: Callable[..., str]) -> None:
    version = distribution("weft").version
    command = shutil.which("weft", path=str(Path(sys.executable).parent))
    assert command is not None
    said = subprocess.run([command, "--version"], capture_output=True, text=True, check=True).stdout
    assert version in said
    assert version in run_python("-m", "weft", "--version")


def test_a_script_runs_by_itself(tmp_path: Path, run_python: Callable[..., str]) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    assert "total 90" in run_python("script.py")


def test_a_script_runs_under_the_command(tmp_path: Path, run_python: Callable[..., str]) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    assert "total 90" in run_python("-m", "weft", "run", "script.py")
