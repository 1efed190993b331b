"""What users see of the package before they run anything."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import weft_executor_local

README = Path(__file__).parent.parent / "README.md"


def test_the_example_of_the_readme_runs(tmp_path: Path) -> None:
    [example] = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert len([line for line in example.splitlines() if line.strip()]) <= 5
    script = tmp_path / "example.py"
    script.write_text(example)
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("332833500\n", "")


def test_importing_loads_neither_executor() -> None:
    code = "import sys, weft_executor_local; print(*(n for n in sys.modules if n.startswith('weft')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == {"weft_executor_local", "weft_executor_local.__about__"}


def test_threads_need_no_pickling_library() -> None:
    code = "import sys; sys.modules['cloudpickle'] = None; from weft_executor_local import ThreadExecutor"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_names() -> None:
    assert set(weft_executor_local.__all__) <= set(dir(weft_executor_local))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        weft_executor_local.nothing  # noqa: B018
