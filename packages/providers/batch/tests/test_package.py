"""What users see of the package before they run anything."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

import weft_provider_batch
from weft_interfaces import Provider

FOLDER = Path(__file__).parent.parent


def python(*arguments: str | Path, cwd: Path | None = None) -> str:
    command = [sys.executable, "-W", "error", *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_the_example_of_the_readme_runs(tmp_path: Path) -> None:
    [example] = re.findall(r"```python\n(.*?)```", (FOLDER / "README.md").read_text(), re.DOTALL)
    assert len([line for line in example.splitlines() if line.strip()]) <= 5
    script = tmp_path / "example.py"
    script.write_text(example)
    printed = python(script, cwd=tmp_path)
    assert "#SBATCH --partition=debug\n" in printed
    assert printed.splitlines()[0] == "#!/bin/bash"
    assert not (tmp_path / "jobs").exists()


def test_importing_loads_the_interfaces_and_the_standard_library_only() -> None:
    code = "import sys; old = {*sys.modules}; import weft_provider_batch; print(*sys.modules.keys() - old)"
    roots = {name.partition(".")[0] for name in python("-c", code).split()}
    assert roots - sys.stdlib_module_names == {"weft_interfaces", "weft_provider_batch"}


def test_importing_and_making_one_starts_nothing() -> None:
    code = (
        "import threading, weft_provider_batch; weft_provider_batch.SlurmProvider();"
        "print(threading.active_count())"
    )
    assert python("-c", code) == "1\n"


def test_the_entry_points_lead_to_the_providers() -> None:
    table = (FOLDER / "pyproject.toml").read_text().partition('[project.entry-points."weft.providers"]\n')[2]
    entries = re.findall(r"(\w+) = \"(.*):(.*)\"", table.partition("\n\n")[0])
    assert {name for _, _, name in entries} == {
        name for name in weft_provider_batch.__all__ if name.endswith("Provider") and name != "BatchProvider"
    }
    for _, module, name in entries:
        assert isinstance(getattr(importlib.import_module(module), name)(), Provider)


def test_names() -> None:
    assert set(weft_provider_batch.__all__) <= set(dir(weft_provider_batch))
    assert (Path(weft_provider_batch.__file__).parent / "py.typed").exists()
