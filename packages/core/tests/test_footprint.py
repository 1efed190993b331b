"""The kernel needs the standard library and the contracts, and importing it does nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import weft_core
import weft_interfaces

IMPORT = """\
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top not in {"weft_interfaces", "weft_core"} and top not in sys.stdlib_module_names:
            raise ImportError(f"{top} is not part of the standard library")

sys.meta_path.insert(0, Block())
import importlib, logging, pkgutil, threading
import weft_core
lazy = [name for name in ("asyncio", "weft_core.scaler") if name in sys.modules]
for module in pkgutil.walk_packages(weft_core.__path__, "weft_core."):
    importlib.import_module(module.name)
print(lazy, threading.active_count(), logging.getLogger().handlers, logging.getLogger("weft").handlers)
"""

FIVE_LINES = """\
import threading
from pathlib import Path
from weft_core import Kernel, TaskSpec
from weft_interfaces.memory import InMemoryExecutor

with Kernel([InMemoryExecutor()], directory=Path("never")) as kernel:
    first = kernel.submit(TaskSpec(function=pow), (2, 5))
    print(kernel.submit(TaskSpec(function=sum), ([first, 10],)).result(), threading.active_count())
print(Path("never").exists())
"""


def run_python(code: str, folder: Path) -> str:
    paths = [str(Path(module.__path__[0]).parent) for module in (weft_core, weft_interfaces)]
    command = [sys.executable, "-S", "-W", "error", "-c", code]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    return subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=True, cwd=folder, env=environment
    ).stdout


def test_it_imports_with_third_parties_blocked_and_starts_nothing(tmp_path: Path) -> None:
    assert run_python(IMPORT, tmp_path) == "[] 1 [] []\n"


def test_a_run_without_retries_and_sinks_has_no_thread_and_no_file(tmp_path: Path) -> None:
    assert run_python(FIVE_LINES, tmp_path) == "42 1\nFalse\n"
