"""Modules: those that count as a whole, and those that code imports when it runs."""

from __future__ import annotations

import functools
import importlib.machinery
import importlib.util
import os
import sys
import types
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from blake3 import blake3

from .code import Import, module_code
from .origin import USER, module_name, origin_of_file, origin_of_namespace

if TYPE_CHECKING:
    from .reach import Reach, Unit

__all__ = ["follow", "module_unit"]


def follow(reach: Reach, one: Import, namespace: Mapping[str, Any], edges: dict[str, Unit | str]) -> None:
    """An import inside a function. Nothing is imported for it."""
    name = _absolute(one, namespace)
    if name is None:
        edges[f"import {one.module}"] = "a relative import from no package"
        return
    module = sys.modules.get(name)
    label = f"import {name}" if one.name is None else f"from {name} import {one.name}"
    if module is None:
        edges[label] = _not_imported(reach, name, one.name)
        return
    if one.name in (None, "*"):
        if not one.uses or one.name == "*":
            edges[label] = reach.target(module, "value", name)
        for chain in one.uses if one.name is None else ():
            inner: dict[str, Unit | str] = {}
            reach.member(vars(module), module, (name, *chain), inner)
            edges.update({f"{label}: {key}": target for key, target in inner.items()})
        return
    inner = {}
    for chain in one.uses or ((),):
        reach.member(vars(module), module, (name, str(one.name), *chain), inner)
    edges.update({f"{label}: {key}": target for key, target in inner.items()})


def module_unit(reach: Reach, module: types.ModuleType) -> Unit | str:
    """A module of the user's, as a whole; the name of any other."""
    known = reach.known(id(module))
    if known is not None:
        return known
    namespace = vars(module)
    origin = origin_of_namespace(namespace)
    if origin is not USER:
        return reach.leaf(origin, module.__name__)
    name = module_name(namespace)
    unit = reach.unit(id(module), "module", name, module)
    file = getattr(module, "__file__", None)
    reach.soon(functools.partial(_fill, reach, unit, name, file, namespace))
    return unit


def _fill(reach: Reach, unit: Unit, name: str, file: str | None, namespace: Mapping[str, Any]) -> None:
    found = module_code(file, namespace) if file is not None else None
    if found is None:
        unit.own, unit.text = _file_digest(file), f"module {name}, without a source"
        return
    unit.own, unit.text = found.digest, found.text
    package = name if file and os.path.basename(file).startswith("__init__.") else name.rpartition(".")[0]
    for one in found.imports:
        follow(reach, one._replace(uses=()), {"__package__": package}, unit.edges)


def _file_digest(file: str | None) -> bytes:
    try:
        with open(file or "", "rb") as stream:
            return blake3(stream.read()).digest()
    except OSError:
        return b""


def _not_imported(reach: Reach, name: str, member: str | None) -> Unit | str:
    """By the file that an import would find, as a whole."""
    if name.partition(".")[0] in sys.stdlib_module_names:
        return name
    for full in (f"{name}.{member}", name) if member else (name,):
        if full in sys.modules:
            return reach.target(sys.modules[full], "value", full)
        file = _find(full)
        if file is None:
            continue
        origin = origin_of_file(full, file)
        if origin is not USER:
            return reach.leaf(origin, f"{name}.{member}" if member else name)
        unit = reach.known(("file", file))
        if unit is None:
            unit = reach.unit(("file", file), "module", full, file)
            reach.soon(functools.partial(_fill, reach, unit, full, file, {"__name__": full}))
        return unit
    return f"the module {name}, which is not found"


def _find(name: str) -> str | None:
    """The file of a module, without importing the packages above it."""
    path: Any = None
    file: str | None = None
    full = ""
    for part in name.split("."):
        if full and path is None:  # no package
            return None
        full = f"{full}.{part}" if full else part
        try:
            spec = importlib.machinery.PathFinder.find_spec(full, path)
            if spec is None and path is None:
                spec = importlib.util.find_spec(full)
        except (ImportError, ValueError, AttributeError):
            return None
        if spec is None:
            return None
        file, path = spec.origin, spec.submodule_search_locations
    return file


def _absolute(one: Import, namespace: Mapping[str, Any]) -> str | None:
    if not one.level:
        return one.module
    package = namespace.get("__package__")
    if not isinstance(package, str):
        package = str(namespace.get("__name__", "")).rpartition(".")[0]
    parts = package.split(".") if package else []
    if len(parts) < one.level:
        return None
    base = parts[: len(parts) - one.level + 1]
    return ".".join([*base, one.module] if one.module else base)
