"""What users see of the package before they run anything."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import weft_launchers


def python(*arguments: str) -> str:
    command = [sys.executable, "-W", "error", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_importing_loads_the_interfaces_and_the_standard_library_only() -> None:
    code = "import sys; old = {*sys.modules}; import weft_launchers; print(*sys.modules.keys() - old)"
    roots = {name.partition(".")[0] for name in python("-c", code).split()}
    assert roots - sys.stdlib_module_names <= {"weft_interfaces", "weft_launchers"}


def test_names() -> None:
    assert set(weft_launchers.__all__) <= set(dir(weft_launchers))
    assert (Path(weft_launchers.__file__).parent / "py.typed").exists()
