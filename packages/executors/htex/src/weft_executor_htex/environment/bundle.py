"""The user's own modules: what Python would import that is neither installed nor its own.

That is: the script's directory, the entries of PYTHONPATH, and packages installed as editable. Of each, the
modules and packages are taken, with all files inside packages; what else lies beside a script is data, and
is not a module's business.
"""

from __future__ import annotations

import ast
import os
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path

from weft_interfaces import ConfigError, format_bytes

from .archive import Entry

__all__ = ["collect", "user_entries"]

_MOST_BYTES = 100 << 20
_MOST_FILES = 20_000
_SUFFIXES = (".py", ".so")
_LONG_AGO = 1_000_000_000  # the time of all files, as it is not their content
_NO_FOLDER = ("__pycache__", "node_modules", "site-packages", "dist-packages")


def user_entries() -> list[str]:
    """The entries of ``sys.path`` that are the user's own, as absolute paths, in their order."""
    library = {os.path.realpath(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "scripts")}
    library |= {os.path.join(folder, "lib-dynload") for folder in library}
    archive = "python{}{}.zip".format(*sys.version_info)
    found: dict[str, None] = {}
    for entry in map(os.path.abspath, sys.path):
        name = os.path.basename(entry)
        installed = name in ("site-packages", "dist-packages", archive, "lib-dynload")
        if os.path.exists(entry) and not installed and os.path.realpath(entry) not in library:
            found[entry] = None
    return list(found)


def collect(entries: Sequence[str], of: str) -> list[Entry]:
    """The files of the modules in these entries of ``sys.path``, and of packages that are editable in another
    way, as ``000/...`` for the first entry, and so on. A zip file stays one: ``001.zip``.

    Raises :class:`ConfigError`, naming the largest files, if they are too many or too large to be modules.
    """
    return sorted(_within_bounds(_all(entries), of), key=lambda entry: entry.name)


def _all(entries: Sequence[str]) -> Iterator[Entry]:
    for number, entry in enumerate(entries):
        if os.path.isdir(entry):
            for name, path in _modules(entry):
                yield Entry(f"{number:03}/{name}", path, mtime=_LONG_AGO)
        else:
            yield Entry(f"{number:03}.zip", entry, mtime=_LONG_AGO)
    yield from _editable(len(entries))


def _within_bounds(entries: Iterator[Entry], of: str) -> list[Entry]:
    kept: list[Entry] = []
    sizes: dict[str, int] = {}
    total = 0
    for entry in entries:
        kept.append(entry)
        sizes[entry.path] = size = os.path.getsize(entry.path)
        total += size
        if len(kept) > _MOST_FILES or total > _MOST_BYTES:
            largest = sorted(sizes, key=sizes.__getitem__, reverse=True)[:5]
            what = ", ".join(f"{path} ({format_bytes(sizes[path])})" for path in largest)
            raise ConfigError(
                f"environment {of}: the modules beside the script and on PYTHONPATH are too many to be sent: "
                f"more than {_MOST_FILES} files or {format_bytes(_MOST_BYTES)}. The largest are {what}. "
                "Keep data out of packages, or the script in a directory with nothing but its modules",
                "environment",
            )
    return kept


def _modules(directory: str) -> Iterator[tuple[str, str]]:
    """The modules and packages that stand in a directory: names inside it, and paths."""
    for child in _listed(directory):
        path = os.path.join(directory, child)
        if child.endswith(_SUFFIXES) and os.path.isfile(path):
            yield child, path
        elif child.isidentifier() and os.path.isdir(path) and _is_package(path):
            for name, file in _tree(path):
                yield f"{child}/{name}", file


def _listed(directory: str) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except PermissionError:
        return []


def _is_package(folder: str) -> bool:
    """Whether there is a module right inside, or it is known as a namespace of such."""
    name = os.path.basename(folder)
    if name in _NO_FOLDER or os.path.exists(os.path.join(folder, "pyvenv.cfg")):
        return False
    return name in sys.modules or any(child.endswith(_SUFFIXES) for child in _listed(folder))


def _tree(directory: str) -> Iterator[tuple[str, str]]:
    for folder, folders, files in os.walk(directory):
        inside = os.path.relpath(folder, directory)
        folders[:] = sorted(
            name
            for name in folders
            if name not in _NO_FOLDER
            and not name.startswith(".")
            and not os.path.exists(os.path.join(folder, name, "pyvenv.cfg"))
        )
        for name in sorted(files):
            path = os.path.join(folder, name)
            if not name.startswith(".") and os.path.isfile(path) and os.access(path, os.R_OK):
                yield os.path.normpath(os.path.join(inside, name)), path


def _editable(number: int) -> Iterator[Entry]:
    """Packages that setuptools has found by a module of its own, and not by an entry of the path."""
    for site in sys.path:
        if os.path.isdir(site):
            for finder in sorted(Path(site).glob("__editable___*_finder.py")):
                for package, where in _mapping(finder).items():
                    name = package.replace(".", "/")
                    if os.path.isdir(where):
                        for inside, path in _tree(where):
                            yield Entry(f"{number:03}/{name}/{inside}", path, mtime=_LONG_AGO)
                    elif os.path.isfile(f"{where}.py"):
                        yield Entry(f"{number:03}/{name}.py", f"{where}.py", mtime=_LONG_AGO)


def _mapping(finder: Path) -> dict[str, str]:
    for node in ast.parse(finder.read_text()).body:
        if isinstance(node, ast.AnnAssign | ast.Assign) and node.value is not None:
            targets = [node.target] if isinstance(node, ast.AnnAssign) else node.targets
            if any(isinstance(target, ast.Name) and target.id == "MAPPING" for target in targets):
                found = ast.literal_eval(node.value)
                return {str(name): str(where) for name, where in found.items()}
    return {}
