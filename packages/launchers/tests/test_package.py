"""What users see of the package before they run anything."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

import weft_launchers
from weft_interfaces import BlockShape, Launcher

FOLDER = Path(__file__).parent.parent


def python(*arguments: str | Path) -> str:
    command = [sys.executable, "-W", "error", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_the_example_of_the_readme_runs(tmp_path: Path) -> None:
    [example] = re.findall(r"```python\n(.*?)```", (FOLDER / "README.md").read_text(), re.DOTALL)
    script = tmp_path / "example.py"
    script.write_text(example)
    assert "srun --nodes=4 --ntasks=4" in python(script)


def test_every_entry_point_leads_to_a_launcher_and_every_launcher_has_one() -> None:
    table = (FOLDER / "pyproject.toml").read_text().partition('"weft.launchers"]\n')[2].partition("\n\n")[0]
    points = dict(re.findall(r'^(\S+) = "weft_launchers:(\w+)"$', table, re.MULTILINE))
    assert sorted(points.values()) == sorted(name for name in weft_launchers.__all__ if name != "__version__")
    for name in points.values():
        make = getattr(importlib.import_module("weft_launchers"), name)
        launcher = make(["nice"]) if name == "WrappedLauncher" else make()
        assert isinstance(launcher, Launcher)
        assert "cmd" in launcher.wrap(["cmd"], BlockShape())[-1]


def test_importing_loads_the_interfaces_and_the_standard_library_only() -> None:
    code = "import sys; old = {*sys.modules}; import weft_launchers; print(*sys.modules.keys() - old)"
    roots = {name.partition(".")[0] for name in python("-c", code).split()}
    assert roots - sys.stdlib_module_names <= {"weft_interfaces", "weft_launchers"}


def test_names() -> None:
    assert set(weft_launchers.__all__) <= set(dir(weft_launchers))
    assert (Path(weft_launchers.__file__).parent / "py.typed").exists()
