"""Where a module comes from: the user, an installed distribution, the standard library, or Weft."""

from __future__ import annotations

import functools
import os
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Origin", "module_name", "origin_of_file", "origin_of_module", "origin_of_namespace"]

_INSTALLED = ("site-packages", "dist-packages")
MAIN = ("__main__", "__mp_main__")
_WEFT = ("weft_executor_", "weft_provider_", "weft_channel_")
_WEFT_NAMES = frozenset(
    ["weft", "weft_interfaces", "weft_core", "weft_memo", "weft_launchers", "weft_staging", "weft_monitoring"]
)


@dataclass(frozen=True, slots=True)
class Origin:
    """kind: ``"user"``, ``"package"``, ``"standard"`` or ``"weft"``. name, version: the distribution of a
    package.
    """

    kind: str
    name: str = ""
    version: str = ""


USER, STANDARD, WEFT = Origin("user"), Origin("standard"), Origin("weft")


def origin_of_module(name: str) -> Origin:
    """Of the module that has been imported under this name."""
    module = sys.modules.get(name)
    return origin_of_namespace({"__name__": name} if module is None else vars(module))


def origin_of_namespace(namespace: Mapping[str, Any]) -> Origin:
    """Of the module that has these globals."""
    name, file = namespace.get("__name__"), namespace.get("__file__")
    if not isinstance(file, str):
        spec = namespace.get("__spec__")
        file = getattr(spec, "origin", None)
        if file is None and (path := getattr(spec, "submodule_search_locations", None)):
            file = os.path.join(next(iter(path), ""), "__init__.py")
    return origin_of_file(name if isinstance(name, str) else "", file if isinstance(file, str) else None)


@functools.lru_cache(maxsize=4096)
def origin_of_file(name: str, file: str | None) -> Origin:
    """Of a module by its name and file. One that nothing is known of is the user's."""
    top = name.partition(".")[0]
    if top in MAIN:
        return USER
    if top in _WEFT_NAMES or top.startswith(_WEFT):
        return WEFT
    if file is None or file in ("built-in", "frozen"):
        known = top in sys.builtin_module_names or top in sys.stdlib_module_names
        return STANDARD if known else USER
    root = _installation(name, file)
    if root is not None:
        found = _distribution(top, file)
        return USER if found is None else Origin("package", *found)
    return STANDARD if _is_below(os.path.abspath(file), _standard_folders()) else USER


def module_name(namespace: Mapping[str, Any]) -> str:
    """The name of a module for people. Of ``__main__`` it is what it could be imported as."""
    name = namespace.get("__name__")
    if name not in MAIN:
        return name if isinstance(name, str) else "<unknown>"
    spec, file = namespace.get("__spec__"), namespace.get("__file__")
    if spec is not None and isinstance(spec.name, str) and spec.name != "__main__":
        return spec.name.removesuffix(".__main__")
    if isinstance(file, str) and not file.startswith("<"):
        return os.path.splitext(os.path.basename(file))[0]
    return "__main__"


def _installation(name: str, file: str) -> str | None:
    """The folder that distributions were installed in and that holds the module; None if it is in none."""
    folders = [os.path.dirname(os.path.abspath(file))]
    while (parent := os.path.dirname(folders[-1])) != folders[-1]:
        folders.append(parent)
    for folder in folders:
        if os.path.basename(folder) in _INSTALLED:
            return folder
    depth = name.count(".") + os.path.basename(file).startswith("__init__.")
    root = folders[min(depth, len(folders) - 1)]  # pip install --target makes such, of any name
    return root if name and _has_distributions(root) else None


@functools.lru_cache(maxsize=256)
def _has_distributions(folder: str) -> bool:
    try:
        return any(entry.endswith(".dist-info") for entry in os.listdir(folder))
    except OSError:
        return False


@functools.lru_cache(maxsize=1)
def _standard_folders() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    folders = {paths["stdlib"], paths["platstdlib"], os.path.dirname(os.__file__)}
    return tuple(folders | {os.path.realpath(folder) for folder in folders})


def _is_below(file: str, roots: tuple[str, ...]) -> bool:
    return any(file.startswith(root + os.sep) for root in roots)


def _distribution(top: str, file: str) -> tuple[str, str] | None:
    from importlib import metadata

    try:
        found = metadata.distribution(top)
    except (metadata.PackageNotFoundError, ValueError):
        names = list(dict.fromkeys(_distributions().get(top, ())))
        if not names:
            return None
        found = metadata.distribution(names[0])
        if len(names) > 1:  # a namespace that several share
            found = next((one for name in names if _holds(one := metadata.distribution(name), file)), found)
    return found.metadata["Name"], found.version


def _holds(distribution: Any, file: str) -> bool:
    return any(str(distribution.locate_file(part)) == file for part in distribution.files or ())


@functools.lru_cache(maxsize=1)
def _distributions() -> Mapping[str, list[str]]:
    from importlib import metadata

    return metadata.packages_distributions()
