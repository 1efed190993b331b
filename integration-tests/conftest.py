"""What the integration tests share: fresh interpreters, and where the distributions are."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from interpreters import find_interpreters
from servers.site import Site, remote_site

ROOT = Path(__file__).parents[1]

# A graph on the kernel alone: ten leaves and one task that waits for them. It prints 55.
GRAPH = """
with Kernel([InMemoryExecutor()], directory=Path("unused")) as kernel:
    leaves = [kernel.submit(TaskSpec(function=lambda x: x + 1), (i,)) for i in range(10)]
    print(kernel.submit(TaskSpec(function=sum), (leaves,)).result(timeout=30))
"""

RunPython = Callable[..., str]


@pytest.fixture(scope="session")
def root() -> Path:
    """The root of the repository."""
    return ROOT


@pytest.fixture(scope="session")
def graph() -> str:
    """The source of a small graph; it needs ``Kernel``, ``TaskSpec``, ``InMemoryExecutor`` and ``Path``."""
    return GRAPH


@pytest.fixture
def run_python(tmp_path: Path) -> RunPython:
    """Run a command line of Python in an empty folder; what it printed. Warnings are errors."""

    def run(*arguments: str | Path, python: str | Path = sys.executable) -> str:
        command = [str(python), "-W", "error", *map(str, arguments)]
        result = subprocess.run(
            command,
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        if result.returncode:
            pytest.fail(f"exit status {result.returncode}\n{result.stdout}\n{result.stderr}", pytrace=False)
        return result.stdout

    return run


@pytest.fixture(scope="session")
def source_of() -> Callable[[str], Path]:
    """The folder of an installed package."""

    def find(name: str) -> Path:
        spec = importlib.util.find_spec(name)
        assert spec is not None, f"{name} is not installed"
        assert spec.origin is not None
        return Path(spec.origin).parent

    return find


@pytest.fixture(scope="session")
def uv() -> str:
    """The uv that hatch uses."""
    found = os.environ.get("HATCH_UV") or shutil.which("uv")
    if not found:
        pytest.fail("uv is not on PATH; run the tests through hatch, which brings it", pytrace=False)
    return found


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A remote site that takes a key, for tests that leave it as it was. Its compute nodes have this Python
    with all its packages, the login node has a bare one.
    """
    with remote_site(tmp_path_factory.mktemp("site") / "s", compute_python=Path(sys.executable)) as site:
        yield site


@pytest.fixture(scope="session")
def pythons() -> dict[tuple[int, int], Path]:
    """The Pythons of this machine by version, also those that are too old for Weft."""
    return find_interpreters((3, 0))
