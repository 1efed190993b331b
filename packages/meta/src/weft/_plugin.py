"""Finds plug-ins by the names that configurations give them.

A table of known names comes first, so that one that is not installed can say which distribution has it; then
the entry points of all that is installed, which are read when a name is asked for, never at import.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, NamedTuple

from weft_interfaces import ConfigError, MissingPluginError

from ._hint import did_you_mean

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = ["GROUPS", "find_plugin", "plugin_names"]

_BATCH = ("slurm", "pbs", "torque", "lsf", "gridengine", "htcondor")
_LAUNCHERS = (
    "aprun",
    "jsrun",
    "mpiexec",
    "mpirun",
    "parallel",
    "single",
    "srun",
    "srun-mpi",
    "ssh",
    "wrapped",
)

# What is known by name, and the distribution that has it.
GROUPS: dict[str, dict[str, str]] = {
    "weft.executors": {
        "threads": "weft-executor-local",
        "processes": "weft-executor-local",
        "htex": "weft-executor-htex",
    },
    "weft.providers": {
        "local": "weft-provider-local",
        **dict.fromkeys(_BATCH, "weft-provider-batch"),
        "kubernetes": "weft-provider-kubernetes",
    },
    "weft.launchers": dict.fromkeys(_LAUNCHERS, "weft-launchers"),
    "weft.channels": {
        "local": "weft-channel-local",
        "ssh": "weft-channel-ssh",
        "openssh": "weft-channel-ssh",
    },
    "weft.staging": {},
    "weft.memo": dict.fromkeys(("file", "remote"), "weft-memo"),
    "weft.monitoring": {},
}


class _Found(NamedTuple):
    distribution: str
    entry_point: EntryPoint

    def __str__(self) -> str:
        return f"{self.entry_point.value} (from {self.distribution})"


def find_plugin(group: str, name: str) -> Any:
    """What the group's plug-in of this name is: a class, or something else that makes one when called.

    Raises :class:`MissingPluginError` when it is not installed, or cannot be imported, and
    :class:`ConfigError` when nothing or more than one thing has this name.
    """
    found = [candidate for candidate in _installed(group) if candidate.entry_point.name == name]
    if len(found) > 1:
        both = " and ".join(str(candidate) for candidate in found)
        raise ConfigError(f"two plug-ins of {group} are called {name!r}: {both}; uninstall one of them")
    if not found:
        raise _missing(group, name)
    try:
        return found[0].entry_point.load()
    except (ImportError, AttributeError) as error:
        raise MissingPluginError(f"the plug-in {name!r}, {found[0]}, cannot be imported: {error}") from error


def plugin_names(group: str) -> list[str]:
    """All names of the group: those that are known, and those that are installed."""
    return sorted({*GROUPS[group], *(candidate.entry_point.name for candidate in _installed(group))})


def _installed(group: str) -> list[_Found]:
    """The group's entry points. Those of an editable install may be listed twice, and are one."""
    # Not entry_points(group=...): it drops all but the first of equal names, and the distribution.
    from importlib.metadata import distributions

    found = {}
    for distribution in distributions():
        for entry_point in distribution.entry_points:
            if entry_point.group == group:
                name = str(distribution.metadata["Name"])
                found[entry_point.name, entry_point.value, name.lower()] = _Found(name, entry_point)
    return list(found.values())


def _missing(group: str, name: str) -> Exception:
    distribution = GROUPS[group].get(name)
    if distribution is not None:
        return MissingPluginError(
            f"{name!r} is in {distribution}, which is not installed: pip install {distribution}"
        )
    names = plugin_names(group)
    known = f"; known are {', '.join(names)}" if names else "; none is installed"
    return ConfigError(f"{name!r} is no plug-in of {group}{did_you_mean(name, names)}{known}")


def load(target: str) -> Any:
    """What ``"module:attribute"`` names."""
    module, _, attribute = target.partition(":")
    return getattr(importlib.import_module(module), attribute)
