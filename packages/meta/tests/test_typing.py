from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CHECKER = "-m mypy --strict --config-file= --no-color-output --follow-imports=silent"
MYPY = [sys.executable, *CHECKER.split()]
CASES = Path(__file__).with_name("typing_cases.py")


def test_mypy_sees_what_the_cases_say(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    done = subprocess.run(
        [*MYPY, f"--cache-dir={tmp_path}", str(CASES)],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        env={**os.environ, "MYPYPATH": os.pathsep.join(path for path in sys.path if path.endswith("/src"))},
    )
    lines = CASES.read_text().splitlines()
    expected = {number for number, line in enumerate(lines, start=1) if line.endswith("# error")}
    errors = [line for line in done.stdout.splitlines() if ": error:" in line]
    found = {int(line.split(":")[1]) for line in errors if CASES.name in line.split(":")[0]}
    assert found == expected, done.stdout + done.stderr
    assert len(errors) == len(expected), done.stdout
