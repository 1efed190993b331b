"""What users see of the package before they run anything."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

import weft_channel_local
from weft_interfaces import Channel

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
    assert python(script, cwd=tmp_path) == "a channel 3\n"


def test_importing_loads_the_interfaces_and_the_standard_library_only() -> None:
    code = "import sys; old = {*sys.modules}; import weft_channel_local; print(*sys.modules.keys() - old)"
    roots = {name.partition(".")[0] for name in python("-c", code).split()}
    assert roots - sys.stdlib_module_names == {"weft_interfaces", "weft_channel_local"}


def test_importing_and_making_one_starts_nothing() -> None:
    code = (
        "import threading, weft_channel_local; weft_channel_local.LocalChannel();"
        "print(threading.active_count())"
    )
    assert python("-c", code) == "1\n"


def test_the_entry_point_leads_to_the_channel() -> None:
    table = r'\[project\.entry-points\."weft\.channels"\]\nlocal = "(.*):(.*)"\n\n'
    [(module, name)] = re.findall(table, (FOLDER / "pyproject.toml").read_text())
    channel = getattr(importlib.import_module(module), name)()
    assert isinstance(channel, Channel)


def test_names() -> None:
    assert set(weft_channel_local.__all__) <= set(dir(weft_channel_local))
    assert (Path(weft_channel_local.__file__).parent / "py.typed").exists()
