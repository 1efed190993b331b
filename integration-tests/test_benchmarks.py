"""The benchmarks run: what they measure is not judged here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(300)


def test_kernel_benchmark_runs(root: Path, tmp_path: Path) -> None:
    output = tmp_path / "figures.json"
    command = [sys.executable, str(root / "benchmarks/kernel.py"), "--quick", "--output", str(output)]

    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=280)

    assert result.returncode == 0, f"{result.stdout}\n{result.stderr}"
    record = json.loads(output.read_text(encoding="utf-8"))
    assert {"date", "machine", "packages", "settings", "figures"} == record.keys()
    targets = [figure for figure in record["figures"] if figure["target"]]
    assert len(targets) >= 9
    assert {figure["verdict"] for figure in targets} <= {"met", "missed"}
    assert f"of {len(targets)} targets met." in result.stdout
    assert "…" not in result.stdout  # no figure is cut
    assert all(figure["weft"] > 0 for figure in record["figures"] if figure["unit"] != "bytes")


def test_pilot_benchmark_runs(root: Path, tmp_path: Path) -> None:
    output = tmp_path / "figures.json"
    command = [sys.executable, str(root / "benchmarks/htex.py"), "--quick", "--output", str(output)]

    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=280)

    assert result.returncode == 0, f"{result.stdout}\n{result.stderr}"
    record = json.loads(output.read_text(encoding="utf-8"))
    names = {figure["name"].split()[-1] for figure in record["figures"]}
    assert {"no-ops", "ms", "p50", "end"} <= names
    assert all(figure["weft"] > 0 for figure in record["figures"])


def test_unknown_section_is_named(root: Path) -> None:
    command = [sys.executable, str(root / "benchmarks/kernel.py"), "nosuch"]

    result = subprocess.run(command, capture_output=True, text=True, timeout=60)

    assert result.returncode == 2
    assert "the sections are threads, processes" in result.stderr
