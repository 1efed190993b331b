"""The contracts and the kernel can be copied into another package, and run there."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

IMPORTS = """\
import sys
from pathlib import Path

from ._vendor.weft_core import Kernel, TaskSpec
from ._vendor.weft_interfaces.memory import InMemoryExecutor
"""

# Without -S the site packages, and with them the installed originals, could be imported.
MAIN = """\
import sys
sys.path.insert(0, {folder!r})
import host.app
originals = [name for name in sys.modules if name.partition('.')[0] in ('weft_core', 'weft_interfaces')]
assert not originals, originals
assert 'host._vendor.weft_core.kernel' in sys.modules
"""


@pytest.fixture
def host(tmp_path: Path, source_of: Callable[[str], Path]) -> Path:
    """A made-up package that vendors both."""
    host = tmp_path / "elsewhere" / "host"
    for name in ("weft_core", "weft_interfaces"):
        no_caches = shutil.ignore_patterns("__pycache__")
        shutil.copytree(source_of(name), host / "_vendor" / name, ignore=no_caches)
    (host / "__init__.py").touch()
    (host / "_vendor" / "__init__.py").touch()
    return host


@pytest.mark.smoke
def test_a_vendored_kernel_runs_a_graph(host: Path, run_python: Callable[..., str], graph: str) -> None:
    (host / "app.py").write_text(IMPORTS + graph)
    main = MAIN.format(folder=str(host.parent))
    assert run_python("-I", "-S", "-c", main) == "55\n"


@pytest.mark.smoke
def test_every_module_of_the_vendored_packages_imports(host: Path, run_python: Callable[..., str]) -> None:
    walk = (
        "import importlib, pkgutil\nfrom . import _vendor\n"
        "for module in pkgutil.walk_packages(_vendor.__path__, _vendor.__name__ + '.'):\n"
        "    importlib.import_module(module.name)\n"
    )
    (host / "app.py").write_text(walk)
    run_python("-I", "-S", "-c", MAIN.format(folder=str(host.parent)))


def test_the_originals_cannot_be_imported_there(host: Path, run_python: Callable[..., str]) -> None:
    attempt = "try:\n    import weft_core\nexcept ImportError:\n    print('gone')\n"
    assert run_python("-I", "-S", "-c", attempt) == "gone\n"
