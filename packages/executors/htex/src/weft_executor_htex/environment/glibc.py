"""Which version of the GNU C library compiled code needs: a node with an older one cannot load it.

Compiled files name the versions of the library's symbols that they are linked to (``GLIBC_2.34``).
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterable

from ..versions import as_number
from .archive import Entry

__all__ = ["PYTHON", "needed"]

PYTHON = "Python"  # what is in no package
_VERSION = re.compile(rb"\0GLIBC_(2\.\d+)(?=[\0.])")
_SITE = ("site-packages", "dist-packages")


def needed(entries: Iterable[Entry]) -> dict[str, str]:
    """The least version for each package that has compiled code, by the name that it is imported by, and for
    Python itself.
    """
    found: dict[str, str] = {}
    for entry in entries:
        if entry.path and (version := _newest(entry.path)):
            name = _owner(entry.name)
            found[name] = max(found.get(name, version), version, key=as_number)
    return {name: found[name] for name in sorted(found)}


def _newest(path: str) -> str:
    """The version that a file needs; empty if it is no compiled code."""
    with open(path, "rb") as file:
        if file.read(4) != b"\x7fELF":
            return ""
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            versions = {match[1].decode() for match in _VERSION.finditer(data)}
    return max(versions, key=as_number, default="")


def _owner(name: str) -> str:
    """``numpy`` of ``env/lib/python3.11/site-packages/numpy.libs/blas.so``, and of ``000/numpy/a.so``."""
    parts = name.split("/")
    inside = next((number for number, part in enumerate(parts[:-1]) if part in _SITE), None)
    if inside is None:
        inside = 0 if parts[0].isdecimal() and len(parts) > 1 else None
    return PYTHON if inside is None else parts[inside + 1].partition(".")[0]
