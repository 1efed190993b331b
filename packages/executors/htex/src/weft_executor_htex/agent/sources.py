"""Finds the sources of modules, and of those that they import, to be sent to where they are not installed.

Packages that do nothing when they are imported, but for importing what is in them, are left empty where
nobody imports a name from them: who needs one batch system does not get all of them. Where a package finds
its names only when they are asked for, the name's own module is what goes along.
"""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.util
import sys
from collections.abc import Iterable, Iterator
from typing import NamedTuple, TypeGuard

from .lower import UnfitError, lower, parse

__all__ = ["find_sources", "names_from", "run"]

_MOST = 400  # modules


class _Module(NamedTuple):
    """A module and where it is in an archive."""

    name: str
    path: str
    source: str
    tree: ast.Module

    @property
    def package(self) -> str:
        """What its relative imports start from."""
        return self.name if self.path.endswith("__init__.py") else self.name.rpartition(".")[0]


def find_sources(names: Iterable[str]) -> dict[str, str]:
    """The sources of these modules, and of all that they import, made for Python 3.8: by path.

    What is imported inside functions is left out where it cannot go along. Raises :class:`UnfitError`.
    """
    found: dict[str, _Module] = {}
    empty: dict[str, str] = {}
    later = _collect(names, found, empty)
    while later:
        name = later.pop()
        if name in found:
            continue
        others, passed = dict(found), dict(empty)
        try:
            later |= _collect([name], others, passed)
        except UnfitError:
            continue
        found, empty = others, passed
    files = dict.fromkeys(empty.values(), "")
    for module in found.values():
        try:
            files[module.path] = lower(module.source, module.tree)
        except UnfitError as error:
            raise UnfitError(f"module {module.name}, {error}") from error
    return files


def _collect(names: Iterable[str], found: dict[str, _Module], empty: dict[str, str]) -> set[str]:
    """Add modules and what they import at once. Returns what they may import later."""
    waiting, later = list(names), set[str]()
    while waiting:
        name = waiting.pop()
        if name in found or _is_standard(name):
            continue
        module = found[name] = _read(name)
        if len(found) > _MOST:
            raise UnfitError(f"module {name} would bring more than {_MOST} others along")
        for parent in _parents(name):
            if parent not in found and parent not in empty:
                above = _read(parent)
                if _only_defines(above.tree):
                    empty[parent] = above.path
                else:
                    waiting.append(parent)
        for each, at_once in _find_imports(module.tree, module.package):
            if at_once:
                waiting.append(each)
            else:
                later.add(each)
    return later


def _parents(name: str) -> Iterator[str]:
    while "." in name:
        name = name.rpartition(".")[0]
        yield name


def _is_standard(name: str) -> bool:
    """Whether it is of Python's own library."""
    return name.partition(".")[0] in sys.stdlib_module_names


@functools.cache
def _read(name: str) -> _Module:
    if name == "__main__":
        raise UnfitError("it is defined in the script that runs; move it to a module")
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError, AttributeError) as error:
        raise UnfitError(f"module {name} cannot be found: {error}") from error
    if spec is None:
        raise UnfitError(f"module {name} is not there")
    base = name.replace(".", "/")
    path = f"{base}/__init__.py" if spec.submodule_search_locations is not None else f"{base}.py"
    if spec.origin is None and spec.submodule_search_locations is not None:
        return _Module(name, path, "", ast.Module([], []))
    if spec.origin is None or not spec.origin.endswith(".py"):
        raise UnfitError(f"module {name} is not Python's source")
    try:
        with open(spec.origin, encoding="utf-8") as file:
            source = file.read()
        return _Module(name, path, source, parse(source))
    except (OSError, ValueError) as error:
        raise UnfitError(f"the source of module {name} cannot be read: {error}") from error
    except UnfitError as error:
        raise UnfitError(f"module {name}, {error}") from error


def _only_defines(tree: ast.Module) -> bool:
    """Whether the module does nothing of its own when it is imported."""
    definitions = (
        *(ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign),
        *(ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef),
    )
    return all(
        isinstance(node, definitions)
        or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
        or _is_for_checkers(node)
        for node in tree.body
    )


# -- imports ------------------------------------------------------------------------------------------------


def _find_imports(tree: ast.Module, package: str) -> Iterator[tuple[str, bool]]:
    """The modules that one imports whose relative imports start from ``package``, but Python's own, and
    whether it does so when it is imported itself.
    """
    at_once = set(map(id, _imported_at_once(tree)))
    for node in run(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = list(names_from(node, package))
        else:
            continue
        yield from ((name, id(node) in at_once) for name in names if not _is_standard(name))


def _imported_at_once(tree: ast.AST) -> Iterator[ast.AST]:
    """What runs at import, and must."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.Try)):
            continue
        yield node
        yield from _imported_at_once(node)


def names_from(node: ast.ImportFrom, package: str) -> Iterator[str]:
    """The modules that such a statement needs, in a module whose relative imports start from ``package``."""
    base = node.module or ""
    if node.level:
        above = package.split(".")[: len(package.split(".")) - node.level + 1]
        base = ".".join([*above, base] if base else above)
    if _is_standard(base):
        return
    direct = False
    for alias in node.names:
        home = _home(base, alias.name)
        if home is not None:
            yield home
        direct = direct or home != f"{base}.{alias.name}"
    if direct:  # else it is but the folder of what is wanted
        yield base


def _home(base: str, name: str) -> str | None:
    """The module in which a name of a module is at home; None where that cannot be told."""
    try:
        module = importlib.import_module(base)
        value = getattr(module, name, None)
        if value is None and hasattr(module, "__path__"):
            value = importlib.import_module(f"{base}.{name}")
    except ImportError:
        return None
    if type(value) is type(sys):
        return str(value.__name__)
    home = getattr(value, "__module__", None)
    return home if isinstance(home, str) and not _is_standard(home) else None


def run(tree: ast.AST) -> Iterator[ast.AST]:
    """What is not for type checkers alone."""
    for node in ast.iter_child_nodes(tree):
        if _is_for_checkers(node):
            for other in node.orelse:
                yield other
                yield from run(other)
            continue
        yield node
        yield from run(node)


def _is_for_checkers(node: ast.AST) -> TypeGuard[ast.If]:
    """Whether its first branch is for type checkers alone."""
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
