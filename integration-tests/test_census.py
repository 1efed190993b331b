"""The example that the README shows first: its figures, on threads and on processes, and how it is used."""

from __future__ import annotations

import ast
import csv
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

# The whole library takes seconds; minutes on a machine that is busy with other things.
pytestmark = pytest.mark.timeout(300)

PNG = b"\x89PNG\r\n\x1a\n"
SMALL = ("json", "wsgiref", "abc.py")


class Census:
    """Runs the example in an empty folder."""

    def __init__(self, root: Path, folder: Path) -> None:
        self.script = root / "examples/census/census.py"
        self.examples = root / "examples"
        self.folder = folder

    def run(self, *arguments: str, on: str | None = "processes") -> subprocess.CompletedProcess[str]:
        config = [] if on is None else ["--config", str(self.examples / f"{on}.toml")]
        weft = [sys.executable, "-m", "weft", "run", *config, str(self.script), "--", *arguments]
        return self.finish(weft)

    def finish(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, cwd=self.folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=280
        )

    def rows(self, name: str = "census.csv", output: str = "census-output") -> list[dict[str, str]]:
        with (self.folder / output / name).open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))


@pytest.fixture
def census(root: Path, tmp_path: Path) -> Census:
    return Census(root, tmp_path)


def succeeded(result: subprocess.CompletedProcess[str]) -> str:
    assert result.returncode == 0, f"{result.stdout}\n{result.stderr}"
    return result.stdout


def plain_figures(package: str) -> dict[str, int]:
    """The same figures in the plainest way: one pass over each whole tree, and no Weft."""
    library = Path(sysconfig.get_path("stdlib"))
    paths = [library / package] if package.endswith(".py") else sorted((library / package).rglob("*.py"))
    sources = [path.read_bytes() for path in paths]
    nodes = [node for source in sources for node in ast.walk(ast.parse(source))]
    functions = [node for node in nodes if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    lengths = sorted((node.end_lineno or 0) - node.lineno + 1 for node in functions)
    branches = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler, ast.match_case)
    return {
        "files": len(sources),
        "lines": sum(len(source.split(b"\n")) - 1 for source in sources),
        "bytes": sum(path.stat().st_size for path in paths),
        "classes": sum(isinstance(node, ast.ClassDef) for node in nodes),
        "functions": len(functions),
        "branches": sum(isinstance(node, branches) for node in nodes),
        "imports": sum(isinstance(node, (ast.Import, ast.ImportFrom)) for node in nodes),
        "median_function": lengths[(len(lengths) + 1) // 2 - 1],
        "longest_function": lengths[-1],
        "unparsable": 0,
    }


@pytest.mark.parametrize("on", [None, "processes", "htex"])
def test_figures_are_those_of_a_plain_computation(census: Census, on: str | None) -> None:
    succeeded(census.run(*SMALL, on=on))

    found = {row.pop("package"): {key: int(value) for key, value in row.items()} for row in census.rows()}

    assert found == {package: plain_figures(package) for package in SMALL}


def test_it_runs_as_a_plain_script_too(census: Census) -> None:
    out = succeeded(census.finish([sys.executable, str(census.script), "json"]))

    assert "find and wc count the same lines and bytes in all 1 packages" in out


def test_whole_library(census: Census) -> None:
    """Every source file is counted or named as one that is no Python."""
    library = Path(sysconfig.get_path("stdlib"))
    skipped = {"site-packages", "dist-packages"}
    files = [path for path in library.rglob("*.py") if path.relative_to(library).parts[0] not in skipped]

    result = census.run("--output", "found")

    out = succeeded(result)
    rows = census.rows(output="found")
    assert sum(int(row["files"]) for row in rows) == len(files)
    assert {row["package"] for row in rows} == {path.relative_to(library).parts[0] for path in files}
    assert f"the same lines and bytes in all {len(rows)} packages" in out
    assert "tasks done" in result.stderr
    refused = census.rows("unparsable.csv", output="found")
    assert sum(int(row["unparsable"]) for row in rows) == len(refused)
    for row in refused:
        with pytest.raises((SyntaxError, ValueError)):
            ast.parse((library / row["file"]).read_bytes())
    picture = (census.folder / "found/census.png").read_bytes()
    assert picture.startswith(PNG)
    assert len(picture) > 20_000


def test_unknown_package_is_named(census: Census) -> None:
    result = census.run("json", "no_such_package")

    assert result.returncode == 2
    assert "has no no_such_package" in result.stderr
    assert not (census.folder / "census-output").exists()
