"""The benchmarks run: what they measure is not judged here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from servers.process import program, unavailable

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


def test_memo_benchmark_runs(root: Path, tmp_path: Path) -> None:
    output = tmp_path / "figures.json"
    command = [sys.executable, str(root / "benchmarks/memo.py"), "--quick", "--output", str(output)]

    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=280)

    assert result.returncode == 0, f"{result.stdout}\n{result.stderr}"
    record = json.loads(output.read_text(encoding="utf-8"))
    figures = {(figure["section"], figure["name"]): figure for figure in record["figures"]}
    assert len({section for section, _ in figures}) == 4
    assert all(figure["weft"] >= 0 for figure in figures.values() if figure["weft"] is not None)
    assert figures["memo store", "8 processes at once: errors"]["verdict"] == "met"
    assert "…" not in result.stdout  # no figure is cut


def test_pilot_benchmark_runs(root: Path, tmp_path: Path) -> None:
    output = tmp_path / "figures.json"
    command = [sys.executable, str(root / "benchmarks/htex.py"), "--quick", "--output", str(output)]

    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=280)

    assert result.returncode == 0, f"{result.stdout}\n{result.stderr}"
    record = json.loads(output.read_text(encoding="utf-8"))
    figures = {(figure["section"], figure["name"]): figure for figure in record["figures"]}
    assert {"ProcessPool", "pipeline", "kernel"} == figures["speed", "no-ops"]["others"].keys()
    assert {"no-ops", "ms", "p50", "MB", "resident", "end"} <= {name.split()[-1] for _, name in figures}
    measured = [figure for figure in figures.values() if figure["weft"] is not None]
    assert all(figure["weft"] > 0 for figure in measured if figure["unit"] != "bytes")
    assert {section for section, _ in figures if "encrypted" not in section} == {
        section.removesuffix(", encrypted") for section, _ in figures if "encrypted" in section
    }
    assert [figure["errors"] for figure in figures.values() if figure["errors"]] == []
    assert "…" not in result.stdout  # no figure is cut
    assert output.with_suffix(".txt").read_text(encoding="utf-8").split() == result.stdout.split()


def test_remote_benchmark_runs(root: Path, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        unavailable("a remote site needs root")
    for needed in ("sshd", "slurmctld"):
        program(needed)
    output = tmp_path / "figures.json"
    command = [sys.executable, str(root / "benchmarks/remote.py"), "--quick", "--output", str(output)]

    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=280)

    assert result.returncode == 0, f"{result.stdout}\n{result.stderr}"
    (row,) = json.loads(output.read_text(encoding="utf-8"))["trials"].values()
    assert row["one task p50, ms"] > 20, "the delay"
    assert row["block runs to first result, s"] > 0
    kinds = {name.partition(",")[0] for name in row if name.endswith(" us/task")}
    assert kinds >= {"agent", "cable", "client", "manager", "relay", "sshd", "worker"}
    assert all(
        row[f"{kind}, us/task"] > 0 for kind in ("agent", "cable", "client", "manager", "relay", "sshd")
    )
    assert "…" not in result.stdout  # no figure is cut


def test_contender_that_breaks_is_reported(root: Path, tmp_path: Path) -> None:
    """Ray is not installed where tests run."""
    for section in ("speed", "start"):
        command = [sys.executable, str(root / "benchmarks/alone.py"), "Ray", section, '{"starts": 1}']

        result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)

        assert result.returncode == 0, result.stderr
        found = json.loads(result.stdout)
        assert not found["samples"]
        assert found["error"] == "ModuleNotFoundError: No module named 'ray'"
        assert not found["left"]


def test_table_shows_who_broke_and_goes_on(root: Path, tmp_path: Path) -> None:
    program = """
import sys
from pathlib import Path
from alone import Found
from htex import figures
from lines import QUICK, SECTIONS
from record import keep

lines = SECTIONS["speed"](QUICK)
first, *_, last = [line.name for line in lines]
found = {
    "weft": Found({line.name: [1.0] for line in lines}),
    "Ray": Found(error="no such module"),
    "Parsl": Found({first: [0.5]}, error="too slow"),
    "Dask": Found({first: [1.0], last: [1.0]}, left=["scheduler"]),
}
keep(list(figures("speed", lines, found)), Path(sys.argv[1]), {})
"""
    output = tmp_path / "figures.json"

    subprocess.run(
        [sys.executable, "-c", program, str(output)], cwd=root / "benchmarks", timeout=60, check=True
    )

    figures = {figure["name"]: figure for figure in json.loads(output.read_text("utf-8"))["figures"]}
    assert figures["no-ops"]["others"] == {"Parsl": 0.5, "Dask": 1.0}
    assert figures["no-ops"]["errors"] == {"Ray": "speed: no such module"}
    assert figures["no-ops, Parsl = 1"]["weft"] == 2
    assert figures["chain"]["errors"] == {"Ray": "speed: no such module", "Parsl": "speed: too slow"}
    table = output.with_suffix(".txt").read_text("utf-8")
    assert table.count("Ray: speed: no such module") == 1
    assert table.count("Dask: speed: left behind, and ended: scheduler") == 1
    assert "failed" in table


def test_what_a_contender_leaves_behind_is_ended(root: Path, tmp_path: Path) -> None:
    program = """
import subprocess, sys, alone
alone.adopt_orphans()
alone.GRACE = 0.1
parent = "import subprocess; subprocess.Popen(['sleep', '1000'], start_new_session=True)"
process = alone.start([sys.executable, "-c", parent], sys.argv[1])
process.wait()
print(*alone.living().values())
print(*alone.sweep(process))
print(*alone.living().values())
"""
    command = [sys.executable, "-c", program, str(tmp_path)]

    result = subprocess.run(
        command, cwd=root / "benchmarks", capture_output=True, text=True, timeout=60, check=True
    )

    assert result.stdout == "sleep\nsleep\n\n"


def test_bare_pipeline_passes_values_and_errors(root: Path, tmp_path: Path) -> None:
    program = """
from pipeline import Pipeline
with Pipeline(2) as pipeline:
    futures = [pipeline.submit(divmod, number, number % 7) for number in range(5_000)]
    for number, future in enumerate(futures):
        error = future.exception(30)
        if number % 7:
            assert future.result() == divmod(number, number % 7)
        else:
            assert isinstance(error, ZeroDivisionError), error
"""
    command = [sys.executable, "-c", program]

    subprocess.run(command, cwd=root / "benchmarks", timeout=60, check=True)


@pytest.mark.parametrize(
    ("script", "verdict", "part"),
    [
        ("scale", "No manager was declared dead wrongly, and nothing was left over.", "trials"),
        ("soak", "Every future ended once, as it should; memory is flat; nothing is left.", "samples"),
        ("faults", "Nothing was lost, and nothing is left.", "faults"),
    ],
)
def test_reliability_benchmark_finds_nothing_wrong(
    root: Path, tmp_path: Path, script: str, verdict: str, part: str
) -> None:
    output = tmp_path / "found.json"
    command = [sys.executable, str(root / f"benchmarks/{script}.py"), "--quick", "--output", str(output)]

    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=280)

    assert result.returncode == 0, f"{result.stdout}\n{result.stderr}"
    record = json.loads(output.read_text(encoding="utf-8"))
    assert {"date", "machine", "packages", "settings", part} <= record.keys()
    assert record[part]
    assert verdict in result.stdout
    assert "…" not in result.stdout  # no figure is cut


def test_unknown_section_is_named(root: Path) -> None:
    command = [sys.executable, str(root / "benchmarks/kernel.py"), "nosuch"]

    result = subprocess.run(command, capture_output=True, text=True, timeout=60)

    assert result.returncode == 2
    assert "the sections are threads, processes" in result.stderr
