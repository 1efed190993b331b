"""Check that the packages of this workspace meet only where they may.

The edges are read from each package's ``[project].dependencies``: there is no second list. The picture is a
star: everything depends on ``weft-interfaces``, and nothing but ``weft`` (the meta package) depends on a
sibling that implements something. Imports are read from the syntax tree: nothing of the packages is executed.

Usage: ``python tools/check_boundaries.py [ROOT]``. Every problem is one line, ``file:line: [rule] what.
Remedy.``, and the exit status is 1 when there is any.
"""

from __future__ import annotations

import ast
import importlib.metadata
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

INTERFACES = "weft-interfaces"
CORE = "weft-core"
META = "weft"

# The one module that may look for its sibling in two places: installed, or beside it in somebody's `_vendor`.
VENDORING_SEAM = ("weft_core", "_interfaces")

# Part of the standard library in a newer Python than the oldest that runs this script.
NEWER_STDLIB = frozenset({"annotationlib", "compression", "tomllib"})

# What every type checker brings along: not needed by anything that runs.
TYPE_CHECKER_BRINGS = frozenset({"_typeshed", "typing_extensions"})

REQUIRED_FILES = ("README.md", "CHANGELOG.md", "LICENSE")


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One broken rule: where, which, and what to do about it."""

    path: Path
    line: int
    rule: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: [{self.rule}] {self.message}"


@dataclass(frozen=True, slots=True)
class Package:
    """One member of the workspace, as its pyproject.toml describes it."""

    folder: Path
    dist: str
    requirements: tuple[str, ...]
    optional: tuple[str, ...]

    @property
    def import_name(self) -> str:
        return self.dist.replace("-", "_")

    @property
    def source(self) -> Path:
        return self.folder / "src" / self.import_name

    @property
    def pyproject(self) -> Path:
        return self.folder / "pyproject.toml"


Packages = Mapping[str, Package]  # by the name of the distribution


@dataclass(frozen=True, slots=True)
class Import:
    """One imported name: ``module`` is absolute, also when it was written relatively."""

    module: str
    name: str  # what `from module import name` takes from it, or ""
    line: int
    relative: bool
    runtime: bool  # false under TYPE_CHECKING
    lazy: bool  # true inside a function
    escapes: bool = False  # a relative import with more dots than the package is deep


# -- reading -------------------------------------------------------------------------------------------------


def canonical(name: str) -> str:
    """A distribution's name as the index compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def normalise(requirement: str) -> str:
    """The canonical distribution name in a requirement such as ``Foo.Bar>=1; python_version < "3.11"``."""
    match = re.match(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)", requirement)
    if match is None:
        raise ValueError(f"not a requirement: {requirement!r}")
    return canonical(match[1])


def read_package(pyproject: Path) -> Package:
    """Read one member.

    What ``[tool.weft] integrations`` lists may be imported as what an extra lists: libraries whose values the
    package knows where they are installed, and which it never asks for.
    """
    table: dict[str, Any] = tomllib.loads(pyproject.read_text(encoding="utf-8"))
    project: dict[str, Any] = table["project"]
    extras: dict[str, list[str]] = dict(project.get("optional-dependencies", {}))
    extras["integrations"] = table.get("tool", {}).get("weft", {}).get("integrations", [])
    return Package(
        folder=pyproject.parent,
        dist=canonical(project["name"]),
        requirements=tuple(project.get("dependencies", ())),
        optional=tuple(requirement for extra in extras.values() for requirement in extra),
    )


def find_packages(root: Path) -> list[Package]:
    """Every member under ``root/packages``, at most two folders deep, in a stable order."""
    files = {*root.glob("packages/*/pyproject.toml"), *root.glob("packages/*/*/pyproject.toml")}
    return [read_package(file) for file in sorted(files)]


def module_name(package: Package, file: Path) -> str:
    """The dotted name of a source file."""
    parts = file.relative_to(package.source.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def read_modules(package: Package) -> dict[str, Path]:
    """The modules of a package by their dotted names."""
    return {module_name(package, file): file for file in sorted(package.source.rglob("*.py"))}


def is_type_checking(test: ast.expr) -> bool:
    """Whether the condition of an ``if`` is ``TYPE_CHECKING``."""
    return (isinstance(test, ast.Name) and test.id == "TYPE_CHECKING") or (
        isinstance(test, ast.Attribute) and test.attr == "TYPE_CHECKING"
    )


class ImportReader(ast.NodeVisitor):
    """Collect the imports of one module, with where they stand."""

    def __init__(self, module: str, is_package: bool) -> None:
        self.imports: list[Import] = []
        self._parents = module.split(".") if is_package else module.split(".")[:-1]
        self._runtime = True
        self._lazy = False

    def visit_If(self, node: ast.If) -> None:
        if not is_type_checking(node.test):
            self.generic_visit(node)
            return
        self._runtime, before = False, self._runtime
        for child in node.body:
            self.visit(child)
        self._runtime = before
        for child in node.orelse:
            self.visit(child)

    def _visit_function(self, node: ast.AST) -> None:
        self._lazy, before = True, self._lazy
        self.generic_visit(node)
        self._lazy = before

    visit_FunctionDef = visit_AsyncFunctionDef = visit_Lambda = _visit_function

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self._add(alias.name, "", node.lineno, relative=False)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        for alias in node.names:
            self._add_from("." * node.level + (node.module or ""), alias.name, node.lineno)

    def visit_Call(self, node: ast.Call) -> None:
        """``importlib.import_module("name")`` and ``__import__("name")``, where the name can be read."""
        function = node.func
        called = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
        if called in {"import_module", "__import__"} and node.args:
            argument = node.args[0]
            if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                self._add_from(argument.value, "", node.lineno)
        self.generic_visit(node)

    def _add_from(self, written: str, name: str, line: int) -> None:
        level = len(written) - len(written.lstrip("."))
        if level == 0:
            self._add(written, name, line, relative=False)
            return
        base = self._parents[: max(0, len(self._parents) - (level - 1))]
        tail = [written[level:]] if written[level:] else []
        self._add(".".join([*base, *tail]), name, line, relative=True, escapes=not base)

    def _add(self, module: str, name: str, line: int, *, relative: bool, escapes: bool = False) -> None:
        self.imports.append(Import(module, name, line, relative, self._runtime, self._lazy, escapes))


def read_imports(module: str, file: Path) -> list[Import]:
    """Every import of one file."""
    reader = ImportReader(module, file.name == "__init__.py")
    reader.visit(ast.parse(file.read_text(encoding="utf-8"), str(file)))
    return reader.imports


# -- dependencies --------------------------------------------------------------------------------------------


def check_edges(package: Package, packages: Packages) -> Iterator[Problem]:
    """Who may depend on whom."""
    for requirement in (*package.requirements, *package.optional):
        dist = normalise(requirement)
        line = line_of(package.pyproject, requirement)
        if package.dist == INTERFACES or (package.dist == CORE and dist != INTERFACES):
            allowed = "the standard library alone" if package.dist == INTERFACES else f"{INTERFACES} alone"
            yield Problem(
                package.pyproject,
                line,
                "standard-library",
                f"{package.dist} may depend on {allowed}, not on {dist}. "
                "Move what needs it to a package of its own.",
            )
        elif dist in packages and dist != INTERFACES and package.dist != META:
            yield Problem(
                package.pyproject,
                line,
                "star",
                f"{package.dist} may not depend on its sibling {dist}: only {META} may. "
                f"Take it as an argument that a contract of {INTERFACES} types.",
            )
        if dist in packages and not is_bounded(requirement):
            yield Problem(
                package.pyproject,
                line,
                "bounds",
                f"the bounds of {requirement!r} do not read '>=X.Y,<X+1'. Write them so.",
            )


def is_bounded(requirement: str) -> bool:
    """Whether a requirement on a sibling reads ``name>=X.Y,<X+1``."""
    match = re.fullmatch(r"[A-Za-z0-9._-]+(?:\[[^]]*\])?>=(\d+)\.\d+,<(\d+)", requirement.replace(" ", ""))
    return match is not None and int(match[2]) == int(match[1]) + 1


def line_of(file: Path, text: str) -> int:
    """The first line of ``file`` that holds ``text``, or 1."""
    lines = file.read_text(encoding="utf-8").splitlines()
    return next((number for number, line in enumerate(lines, 1) if text in line), 1)


# -- imports -------------------------------------------------------------------------------------------------


@cache
def installed_imports() -> Mapping[str, frozenset[str]]:
    """The distributions that provide each top-level import name in this environment."""
    provided = importlib.metadata.packages_distributions()
    return {name: frozenset(map(canonical, dists)) for name, dists in provided.items()}


def is_stdlib(top: str) -> bool:
    """Whether a top-level name belongs to the standard library."""
    return top in sys.stdlib_module_names or top in NEWER_STDLIB


def is_declared(package: Package, top: str) -> bool:
    """Whether a distribution that the package declares provides the top-level name."""
    declared = {normalise(requirement) for requirement in (*package.requirements, *package.optional)}
    return canonical(top) in declared or bool(installed_imports().get(top, frozenset()) & declared)


def check_import(package: Package, packages: Packages, file: Path, found: Import) -> Iterator[Problem]:
    """One import: relative inside the package, declared outside of it."""
    top = found.module.partition(".")[0]
    seam = module_name(package, file) == ".".join(VENDORING_SEAM)
    if found.escapes:
        if not (seam and found.module == "weft_interfaces"):
            message = (
                f"the import leaves {package.import_name}. Import siblings absolutely, by their own names."
            )
            yield Problem(file, found.line, "relative", message)
    elif found.relative or is_stdlib(top) or (top in TYPE_CHECKER_BRINGS and not found.runtime):
        return
    elif top == package.import_name:
        message = f"{found.module} is in the same package. Import it relatively: it may be vendored."
        yield Problem(file, found.line, "relative", message)
    else:
        yield from check_foreign(package, packages, file, found)
        if package.dist == CORE and top == "weft_interfaces" and found.runtime and not seam:
            message = (
                "only weft_core._interfaces looks for weft_interfaces, or the kernel could not be vendored. "
            )
            yield Problem(file, found.line, "vendoring", message + "Import from ._interfaces.")


def check_foreign(package: Package, packages: Packages, file: Path, found: Import) -> Iterator[Problem]:
    """An import of another distribution."""
    top = found.module.partition(".")[0]
    siblings = {sibling.import_name: sibling.dist for sibling in packages.values()}
    if package.dist == INTERFACES or (package.dist == CORE and top != "weft_interfaces"):
        allowed = "the standard library" + (" and weft_interfaces" if package.dist == CORE else "")
        message = f"{package.import_name} imports {allowed} alone, not {top}. Move what needs it elsewhere."
        yield Problem(file, found.line, "standard-library", message)
    elif top in siblings and siblings[top] != INTERFACES and package.dist != META:
        message = (
            f"{package.import_name} may not import its sibling {top}: only {META} may. "
            f"Take it as an argument that a contract of {INTERFACES} types."
        )
        yield Problem(file, found.line, "star", message)
    elif not is_declared(package, top):
        message = f"{top} is not among the dependencies of {package.dist}. Declare it in its pyproject.toml."
        yield Problem(file, found.line, "undeclared", message)


# -- cycles --------------------------------------------------------------------------------------------------

Graph = Mapping[str, Mapping[str, int]]  # module -> imported module -> line


def runtime_graph(modules: Mapping[str, Path]) -> Graph:
    """What runs when a module is imported: neither type checking nor imports inside functions."""
    graph: dict[str, dict[str, int]] = {}
    for module, file in modules.items():
        edges = graph.setdefault(module, {})
        for found in read_imports(module, file):
            target = next((t for t in (f"{found.module}.{found.name}", found.module) if t in modules), None)
            if target is not None and target != module and found.runtime and not found.lazy:
                edges.setdefault(target, found.line)
    return graph


def find_cycle(graph: Graph, start: str) -> list[str]:
    """A shortest way from ``start`` back to itself, or an empty list."""
    ways = [[start]]
    seen = set()
    for way in ways:
        for target in graph[way[-1]]:
            if target == start:
                return [*way, start]
            if target not in seen:
                seen.add(target)
                ways.append([*way, target])
    return []


def check_cycles(modules: Mapping[str, Path]) -> Iterator[Problem]:
    """No module of a package may need itself to be imported; each cycle is reported once."""
    graph = runtime_graph(modules)
    reported: set[str] = set()
    for module in graph:
        cycle = [] if module in reported else find_cycle(graph, module)
        if cycle:
            reported.update(cycle)
            message = f"import cycle {' -> '.join(cycle)}. Move what both need into a third module."
            yield Problem(modules[module], graph[module][cycle[1]], "cycle", message)


# -- files ---------------------------------------------------------------------------------------------------


def check_files(package: Package) -> Iterator[Problem]:
    """What every package must bring."""
    wanted = [package.folder / name for name in REQUIRED_FILES]
    wanted += [package.source / name for name in ("__init__.py", "__about__.py", "py.typed")]
    for file in wanted:
        if not file.is_file():
            yield Problem(file, 1, "files", f"{package.dist} has no {file.name}. Add it.")
    if not any((package.folder / "tests").rglob("test_*.py")):
        yield Problem(
            package.folder / "tests", 1, "files", f"{package.dist} has no tests. Add tests/test_*.py."
        )


def check_package(package: Package, packages: Packages) -> Iterator[Problem]:
    """Every rule for one package."""
    yield from check_files(package)
    yield from check_edges(package, packages)
    modules = read_modules(package)
    yield from check_cycles(modules)
    for module, file in modules.items():
        for found in dict.fromkeys(read_imports(module, file)):
            yield from check_import(package, packages, file, found)


def check(root: Path) -> list[Problem]:
    """Every problem of the workspace at ``root``, sorted, each once."""
    packages = {package.dist: package for package in find_packages(root)}
    if not packages:
        return [
            Problem(root, 1, "files", "no package under packages/. Run this in the root of the repository.")
        ]
    return sorted({problem for package in packages.values() for problem in check_package(package, packages)})


def relative_to(root: Path, problems: Iterable[Problem]) -> Iterator[str]:
    """The problems as text, with short paths."""
    for problem in problems:
        yield str(problem).removeprefix(f"{root}/")


def main(arguments: list[str]) -> int:
    """Print every problem; 1 when there is any."""
    root = Path(arguments[0] if arguments else Path(__file__).parents[1]).resolve()
    problems = check(root)
    for line in relative_to(root, problems):
        print(line)
    packages = find_packages(root)
    print(f"boundaries: {len(packages)} packages, {len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
