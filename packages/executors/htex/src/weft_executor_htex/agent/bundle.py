"""The agent's file: the interchange and what it needs, for a host that has Python 3.8 and nothing else.

It is a zip file that Python runs. The same sources give the same bytes, so its digest names its content.
What gets blocks there is in it, too, as far as a run needs it: a provider, a launcher, a scaler, and the
contracts.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import io
import os
import sys
import zipfile
from collections.abc import Iterator
from typing import NamedTuple

from .lower import LATER, lower, parse
from .sources import find_sources, names_from, run

__all__ = ["BOOTSTRAP", "Bundle", "bundle", "modules"]

_PACKAGE = "weft_executor_htex"  # there, whatever it is called here
_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_FIRST = "agent.main"
_CONTRACTS = "weft_interfaces"
_STANDINS = {"msgspec": "msgspec", **{LATER[name]: name for name in LATER}}  # names there, and here

# Where Python begins with the file. Any since 2.6 can read it.
BOOTSTRAP = f"""import sys
if sys.version_info < (3, 8):
    words = "weft agent: it needs Python 3.8 or newer, and %s is %s: name another with %s\\n"
    sys.stderr.write(words % (sys.executable, sys.version.split()[0], "AgentSettings(python=...)"))
    sys.exit(78)
from {_PACKAGE}.agent.main import main
sys.exit(main(sys.argv[1:]))
"""
_DATE = (1980, 1, 1, 0, 0, 0)


class Bundle(NamedTuple):
    """``digest``: SHA-256 of the data, in hexadecimal. ``name``: of the file, which no other content has."""

    data: bytes
    digest: str

    @property
    def name(self) -> str:
        return f"weft-agent-{self.digest[:24]}.pyz"


@functools.cache
def bundle(others: tuple[str, ...] = ()) -> Bundle:
    """Make the file's content. ``others``: modules that go along, with all that they import.

    Raises :class:`UnfitError` for those that cannot.
    """
    files = {f"{_PACKAGE}/__init__.py": "", f"{_PACKAGE}/agent/__init__.py": ""}
    wanted = {_CONTRACTS, *others}
    for module in modules():
        path, source, tree = _read(module)
        files[f"{_PACKAGE}/{path}"] = lower(source, tree)
        wanted.update(_contracts_of(tree))
    files.update(find_sources(sorted(wanted)))
    for there, here in _STANDINS.items():
        _, source, tree = _read(f"agent.standin.{here}")
        files[f"{there}.py"] = source if here in LATER else lower(source, tree)
    files["__main__.py"] = BOOTSTRAP
    buffer = io.BytesIO()
    # Not compressed: other versions of zlib would make other bytes of the same.
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for path in sorted(files):
            archive.writestr(zipfile.ZipInfo(path, _DATE), files[path])
    data = buffer.getvalue()
    return Bundle(data, hashlib.sha256(data).hexdigest())


@functools.cache
def modules() -> tuple[str, ...]:
    """The modules of this package that the agent needs: those that are imported, wherever, from its first one
    on. One that cannot be imported without a third party's is left out.
    """
    found: set[str] = set()
    waiting = [_FIRST]
    while waiting:
        module = waiting.pop()
        if module in found:
            continue
        path, _, tree = _read(module)
        if not _is_alone(tree):
            continue
        found.add(module)
        waiting += _imported(module, path, tree)
    return tuple(sorted(found))


@functools.cache
def _read(module: str) -> tuple[str, str, ast.Module]:
    """Where a module is below the package, its source, and its syntax."""
    base = module.replace(".", "/")
    for path in (f"{base}.py", f"{base}/__init__.py"):
        whole = os.path.join(_ROOT, path)
        if os.path.isfile(whole):
            with open(whole, encoding="utf-8") as file:
                source = file.read()
            return path, source, parse(source)
    raise FileNotFoundError(
        f"the source of {_PACKAGE}.{module}, of which the agent is made, is not installed"
    )


def _is_alone(tree: ast.Module) -> bool:
    known = {*sys.stdlib_module_names, *_STANDINS, _CONTRACTS}
    for node in tree.body:
        if isinstance(node, ast.Import) and any(
            alias.name.partition(".")[0] not in known for alias in node.names
        ):
            return False
        if (
            isinstance(node, ast.ImportFrom)
            and not node.level
            and (node.module or "").split(".")[0] not in known
        ):
            return False
    return True


def _imported(module: str, path: str, tree: ast.Module) -> Iterator[str]:
    """Modules of this package that a module imports."""
    package = module.split(".") if path.endswith("__init__.py") else module.split(".")[:-1]
    for node in run(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            if node.module:
                yield ".".join([*base, *node.module.split(".")])
            else:
                yield from (".".join([*base, alias.name]) for alias in node.names)


def _contracts_of(tree: ast.Module) -> Iterator[str]:
    """The modules of the contracts in which a module's names are at home."""
    for node in run(tree):
        if not isinstance(node, ast.ImportFrom) or node.level:
            continue
        if (node.module or "").partition(".")[0] == _CONTRACTS:
            yield from names_from(node, "")
