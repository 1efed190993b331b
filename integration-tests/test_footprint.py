"""The contracts and the kernel need nothing but the standard library, and importing them does nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.smoke

# Refuses every import that is neither of the standard library nor ours.
BLOCK = """\
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        top = name.partition('.')[0]
        if top not in {'weft_interfaces', 'weft_core'} and top not in sys.stdlib_module_names:
            raise ImportError(f'{top} is not part of the standard library')

before = {name.partition('.')[0] for name in sys.modules}
sys.meta_path.insert(0, Block())
"""

WALK = """\
import importlib, pkgutil
for top in ('weft_interfaces', 'weft_core'):
    package = importlib.import_module(top)
    for module in pkgutil.walk_packages(package.__path__, top + '.'):
        importlib.import_module(module.name)
loaded = {name.partition('.')[0] for name in sys.modules} - before
print(*sorted(name for name in loaded if name not in sys.stdlib_module_names))
"""

# Imported in this order, a package that the kernel would load by itself cannot hide behind the one before.
IDLE = """\
import importlib.metadata, logging, threading
def refuse(*args, **kwargs):
    raise AssertionError('an entry point was looked up during import')
importlib.metadata.entry_points = importlib.metadata.distributions = refuse
import weft_core, weft_interfaces, weft_executor_local, weft_executor_htex, weft_memo, weft_provider_local
import weft
print(threading.active_count(), logging.getLogger().handlers, logging.getLogger().level == logging.WARNING)
"""


def test_the_kernel_imports_with_third_parties_blocked(run_python: Callable[..., str]) -> None:
    assert run_python("-I", "-c", BLOCK + WALK) == "weft_core weft_interfaces\n"


def test_the_block_blocks(run_python: Callable[..., str]) -> None:
    attempt = "try:\n    import cloudpickle\nexcept ImportError as error:\n    print(error)\n"
    assert run_python("-I", "-c", BLOCK + attempt) == "cloudpickle is not part of the standard library\n"


def test_importing_starts_nothing(run_python: Callable[..., str]) -> None:
    assert run_python("-I", "-c", IDLE) == "1 [] True\n"


def environment(venv: Path, root: Path, uv: str, *packages: str) -> tuple[Path, set[str]]:
    """A new one with these of our packages: its Python, and the distributions in it."""
    python = venv / "bin" / "python"
    folders = [str(root / "packages" / name) for name in packages]
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, str(venv)], check=True)
    subprocess.run([uv, "pip", "install", "--quiet", "--python", str(python), *folders], check=True)
    listed = [uv, "pip", "list", "--python", str(python), "--format", "json"]
    installed = subprocess.run(listed, check=True, capture_output=True, text=True).stdout
    return python, {entry["name"] for entry in json.loads(installed)}


def test_an_empty_environment_runs_a_graph(
    tmp_path: Path, root: Path, uv: str, run_python: Callable[..., str], graph: str
) -> None:
    python, names = environment(tmp_path / "venv", root, uv, "interfaces", "core")
    assert names == {"weft-core", "weft-interfaces"}

    imports = (
        "from pathlib import Path\nfrom weft_core import Kernel, TaskSpec\n"
        "from weft_interfaces.memory import InMemoryExecutor\n"
    )
    assert run_python("-I", "-c", imports + graph, python=python) == "55\n"


MEMO = """
import time
from weft_interfaces import MemoEntry
from weft_memo import FileStore, digest

key = digest(("simulate", {"seed": 3}))
store = FileStore("store")
store.put(MemoEntry(key=key, task="simulate", value=[1.5], time=time.time()))
store.close()
print(FileStore("store").get(key).value)
"""


def test_hashing_and_stores_serve_other_tools(
    tmp_path: Path, root: Path, uv: str, run_python: Callable[..., str]
) -> None:
    python, names = environment(tmp_path / "venv", root, uv, "interfaces", "memo")
    assert names - {"typing-extensions"} == {"blake3", "weft-interfaces", "weft-memo"}
    assert run_python("-c", MEMO, python=python) == "[1.5]\n"
