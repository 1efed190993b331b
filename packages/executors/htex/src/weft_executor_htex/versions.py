"""Versions of packages, which should be the same where a function is pickled and where it runs, and of the C
library that their compiled code needs.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

__all__ = ["OLD_LIBRARY", "as_number", "describe", "differing", "imported", "remedy", "too_new", "unloadable"]

# What to do about a C library that is older than what was sent needs.
OLD_LIBRARY = (
    "take a Python that suits any glibc (of uv or conda), packages with older wheels, or an environment of "
    "the cluster's own"
)
_UNLOADABLE = "needs glibc "
_OWN = ("weft-interfaces", "weft-executor-htex", "cloudpickle")


def imported() -> dict[str, str]:
    """The versions of what this process has imported, and of what every call needs, by distribution."""
    from importlib.metadata import packages_distributions

    found = set(_OWN)
    tops = {name.partition(".")[0] for name in list(sys.modules)}
    for top, distributions in packages_distributions().items():
        if top in tops and top not in sys.stdlib_module_names:
            found.update(distributions)
    return {name: version for name in sorted(found) if (version := _version(name))}


def differing(wanted: Mapping[str, str]) -> dict[str, str]:
    """Of these, those of which this Python has another version; an empty one if it has none."""
    here = {name: _version(name) for name in wanted}
    return {name: here[name] for name in wanted if here[name] != wanted[name]}


def describe(there: Mapping[str, str]) -> str:
    """In words, how this process differs from one that has these."""
    return ", ".join(
        f"{name} {there[name]}"
        if there[name].startswith(_UNLOADABLE)
        else f"{name} {there[name] or 'missing'} there and {_version(name) or 'missing'} here"
        for name in sorted(there)
    )


def remedy(there: Mapping[str, str]) -> str:
    """What to do about these differences."""
    unloadable = [words.startswith(_UNLOADABLE) for words in there.values()]
    found = ['install the same there, or set environment="pack"'] if not all(unloadable) else []
    return "; ".join([*found, *([OLD_LIBRARY] if any(unloadable) else [])])


def unloadable(wanted: Mapping[str, str]) -> dict[str, str]:
    """Of what was sent and needs these versions of the GNU C library, what this node cannot load; why, in
    words.
    """
    here = _glibc()
    return {
        name: f"{_UNLOADABLE}{version}, and there is {here or 'none'}"
        for name, version in too_new(wanted, here).items()
    }


def too_new(wanted: Mapping[str, str], there: str) -> dict[str, str]:
    """Of these versions of a library, by who needs them, those that are newer than the one that is there."""
    return {name: version for name, version in wanted.items() if as_number(version) > as_number(there)}


def as_number(version: str) -> tuple[int, ...]:
    """For comparisons: ``2.9`` is older than ``2.28``."""
    return tuple(int(part) for part in version.split(".") if part.isdecimal())


def _glibc() -> str:
    """The version that this process has; empty where there is another C library."""
    known = "CS_GNU_LIBC_VERSION" in os.confstr_names
    kind, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "" if known else "").partition(" ")
    return version if kind == "glibc" else ""


def _version(name: str) -> str:
    from importlib.metadata import PackageNotFoundError, version  # 20 ms that few managers need

    try:
        return version(name)
    except PackageNotFoundError:
        return ""
