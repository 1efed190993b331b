"""What workers of blocks of this machine find, and how what a node lacks is said."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from weft_executor_htex import HighThroughputExecutor
from weft_interfaces import as_pool

PATIENCE = 30.0


@pytest.mark.parametrize(
    ("settings", "granted", "words"),
    [
        ({"affinity": "block", "workers_per_node": 5000}, "", "a processor for each of 5000 workers"),
        (
            {"accelerators": 2},
            "GPU-x",
            "accelerators=2, but this node's CUDA_VISIBLE_DEVICES names 1: 'GPU-x'",
        ),
    ],
)
def test_what_a_node_has_not_is_what_the_calls_fail_with(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], granted: str, words: str
) -> None:
    if granted:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", granted)
    with as_pool(HighThroughputExecutor(**settings)) as pool:
        error = pool.submit(abs, -1).exception(PATIENCE)
    assert words in str(error)


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text))
    return path


SCRIPT = """
    import os, subprocess, sys, tempfile
    from pathlib import Path
    import colorsys

    def double(n):
        import colorsys
        return colorsys.double(n), colorsys.__file__, os.getcwd()

    if __name__ == "__main__":
        from weft_executor_htex import HighThroughputExecutor
        from weft_interfaces import as_pool
        with as_pool(HighThroughputExecutor(workers_per_node=1)) as pool:
            print(pool.submit(colorsys.double, 4).result(), *pool.submit(double, 5).result(), sep="\\n")
"""


@pytest.mark.parametrize("how", ["script", "module", "command"])
def test_modules_beside_the_script_can_be_imported(tmp_path: Path, how: str) -> None:
    """Also one that hides a module of Python, or of PYTHONPATH. Calls run where the client is."""
    script = write(tmp_path / "project" / "script.py", SCRIPT)
    module = write(tmp_path / "project" / "colorsys.py", "def double(n):\n    return 2 * n\n")
    hidden = write(tmp_path / "other" / "colorsys.py", "raise ImportError('the wrong one')\n")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    argv, cwd = {
        "script": ([str(script)], elsewhere),
        "module": (["-m", "script"], script.parent),
        "command": (["-c", textwrap.dedent(SCRIPT)], script.parent),
    }[how]
    environment = {**os.environ, "PYTHONPATH": str(hidden.parent)}
    done = subprocess.run(
        [sys.executable, *argv], cwd=cwd, env=environment, capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["8", "10", str(module), str(cwd)]
