"""A census of the standard library of the Python that runs this, as a graph of tasks.

::

    find ──> survey ──┬──> count, count, ... ──> merge ──┐    for each package: batches, a tree
                      ├──> count, count, ... ──> merge ──┴──> merge ──> the total
                      └──> weigh, weigh, ...                  the same lines and bytes, by find and wc

Where the tasks run is not said here: ``weft run census.py --config ../processes.toml``.
"""

from __future__ import annotations

import argparse
import ast
import gc
import os
import sysconfig
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote
from typing import TypeAlias

import weft

BATCH = 16  # files for one task
FAN_IN = 8  # censuses for one merge
NOT_THE_LIBRARY = {"site-packages", "dist-packages", "__pycache__"}
BRANCHES = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler, ast.match_case)

Merged: TypeAlias = "weft.Future[Census]"


@dataclass
class Census:
    """What was counted in some files. Two can be added."""

    counts: Counter[str] = field(
        default_factory=Counter
    )  # of files, lines, bytes, classes, functions, branches, imports
    lengths: Counter[int] = field(default_factory=Counter)  # how many functions are so many lines long
    imported: Counter[str] = field(default_factory=Counter)  # how many statements import this module
    refused: dict[str, str] = field(default_factory=dict)  # files that are no valid Python, and why

    def __add__(self, other: Census) -> Census:
        return Census(
            self.counts + other.counts,
            self.lengths + other.lengths,
            self.imported + other.imported,
            self.refused | other.refused,
        )


# -- what is done with one file: nothing here knows of Weft --------------------------------------------------


def examine(root: str, name: str) -> Census:
    source = Path(root, name).read_bytes()
    census = Census(Counter(files=1, bytes=len(source), lines=source.count(b"\n")))
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError) as error:  # some files that parsers are tested with
        census.refused[name] = str(error)
        return census
    for node in statements(tree):
        examine_statement(node, census)
    return census


def examine_statement(node: ast.AST, census: Census) -> None:
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef():
            census.counts["functions"] += 1
            census.lengths[(node.end_lineno or node.lineno) - node.lineno + 1] += 1
        case ast.ClassDef():
            census.counts["classes"] += 1
        case ast.Import(names=names):
            census.counts["imports"] += 1
            census.imported.update({name.name.partition(".")[0] for name in names})
        case ast.ImportFrom(module=module, level=level):
            census.counts["imports"] += 1
            if module and not level:
                census.imported[module.partition(".")[0]] += 1
        case _ if isinstance(node, BRANCHES):
            census.counts["branches"] += 1


def statements(node: ast.AST) -> Iterator[ast.AST]:
    """All statements below a node, and the handlers and cases that are parts of them."""
    for part in ("body", "orelse", "handlers", "finalbody", "cases"):
        for child in getattr(node, part, ()):
            yield child
            yield from statements(child)


# -- tasks ---------------------------------------------------------------------------------------------------


@weft.task
def find(root: str, wanted: list[str]) -> dict[str, list[str]]:
    """The files of each package, relative to the root. A module in a file of its own is a package too."""
    packages: dict[str, list[str]] = {}
    for folder, folders, files in os.walk(root, followlinks=True):
        folders[:] = sorted(set(folders) - NOT_THE_LIBRARY)
        for file in sorted(files):
            name = Path(folder, file).relative_to(root)
            if name.suffix == ".py" and Path(root, name).is_file():
                packages.setdefault(name.parts[0], []).append(str(name))
    return {package: packages[package] for package in wanted or sorted(packages)}


@weft.task
def count(root: str, files: list[str]) -> Census:
    warnings.simplefilter("ignore", SyntaxWarning)  # old habits of old files are not our business
    gc.disable()  # a syntax tree is millions of objects and no garbage: looking for some costs a fifth
    try:
        return sum((examine(root, file) for file in files), Census())
    finally:
        gc.enable()


@weft.task
def merge(parts: list[Census]) -> Census:
    return sum(parts, Census())


@weft.shell
def weigh(root: str, package: str) -> str:
    """Lines and bytes of a package, as every POSIX system can count them."""
    return f"cd {quote(root)} && find -L {quote(package)} -type f -name '*.py' -exec cat {{}} + | wc -lc"


@weft.join
def survey(
    root: str, packages: dict[str, list[str]]
) -> tuple[dict[str, Merged], dict[str, weft.Future[weft.ShellResult]], Merged]:
    """Fan out over the packages. It returns futures, and is done when they are; no worker waits for them."""
    counted = {
        package: combine(merge, [count(root, files[i : i + BATCH]) for i in range(0, len(files), BATCH)])
        for package, files in packages.items()
    }
    weighed = {package: weigh(root, package) for package in packages}
    return counted, weighed, combine(merge, list(counted.values()))


def combine(task: Callable[[list[Merged]], Merged], futures: list[Merged]) -> Merged:
    """Reduce futures as a tree: groups, as soon as each is done, then groups of these, until one is left."""
    while len(futures) > 1:
        futures = [task(futures[i : i + FAN_IN]) for i in range(0, len(futures), FAN_IN)]
    return futures[0]


# -- the run -------------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(prog="census", description=__doc__.partition("\n")[0])
    parser.add_argument(
        "package", nargs="*", help="as it is called in the library's folder: json, abc.py (default: all)"
    )
    parser.add_argument(
        "--output", type=Path, default=Path("census-output"), help="folder (default: %(default)s)"
    )
    arguments = parser.parse_args()

    root = os.path.realpath(sysconfig.get_path("stdlib"))
    if unknown := [package for package in arguments.package if not Path(root, package).exists()]:
        parser.error(f"{root} has no {', '.join(unknown)}")
    began = time.perf_counter()
    with weft.run() as run:
        packages = find(root, arguments.package)
        surveyed = survey(root, packages)
        import report  # it takes a second to load: meanwhile the tasks run, and workers do without it

        counted, weighed, total = surveyed.result()
    seconds = time.perf_counter() - began

    caption = f"{run.counts().done} tasks in {seconds:.1f} s, {root}"
    report.write(arguments.output, counted, total)
    report.show(counted, total, caption, arguments.output)
    if wrong := disagreements(counted, weighed):
        raise SystemExit("\n".join(["census: wc disagrees", *wrong]))
    print(f"find and wc count the same lines and bytes in all {len(counted)} packages.")


def disagreements(counted: dict[str, Census], weighed: dict[str, weft.ShellResult]) -> list[str]:
    """What the two ways of counting do not agree on, in words."""
    wrong = []
    for package, census in counted.items():
        expected = f"{census.counts['lines']} lines, {census.counts['bytes']} bytes"
        found = "{} lines, {} bytes".format(*weighed[package].stdout.split())
        if found != expected:
            wrong.append(f"{package}: {found}; Python counts {expected}")
    return wrong


if __name__ == "__main__":
    main()
