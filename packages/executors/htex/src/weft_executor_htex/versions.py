"""Versions of packages, which should be the same where a function is pickled and where it runs."""

from __future__ import annotations

import sys
from collections.abc import Mapping

__all__ = ["describe", "differing", "imported"]

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
        f"{name} {there[name] or 'missing'} there and {_version(name) or 'missing'} here"
        for name in sorted(there)
    )


def _version(name: str) -> str:
    from importlib.metadata import PackageNotFoundError, version  # 20 ms that few managers need

    try:
        return version(name)
    except PackageNotFoundError:
        return ""
