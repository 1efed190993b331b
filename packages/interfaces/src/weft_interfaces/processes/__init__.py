"""Worker processes, for executors that have some: forked from a clean template, killed as a group, each death
certified.

::

    executor ── Catalogue: calls, pickled ──> Entry ── Staff ──> template process ── fork ──> worker processes
             <── unpack_result: Outcome ── Ending ──┘

It is a library and no executor: an executor of one machine puts the two halves together in one process, one
whose workers are on other nodes puts a network between them. The standard library is all that it needs; what
pickles is passed in by name. Its modules are imported when one of their names is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .backlog import Backlog
    from .catalogue import Catalogue, Entry, FunctionRecord, OptionsRecord
    from .cpus import available_cpus
    from .end_file import write_end
    from .exits import exit_error
    from .kill import kill_tree
    from .results import pack_error, unpack_result
    from .settings import WorkerSettings
    from .staff import Ending, Staff

__all__ = [
    "Backlog",
    "Catalogue",
    "Ending",
    "Entry",
    "FunctionRecord",
    "OptionsRecord",
    "Staff",
    "WorkerSettings",
    "available_cpus",
    "exit_error",
    "kill_tree",
    "pack_error",
    "unpack_result",
    "write_end",
]

_NAMES = {
    "backlog": "Backlog",
    "catalogue": "Catalogue Entry FunctionRecord OptionsRecord",
    "cpus": "available_cpus",
    "end_file": "write_end",
    "exits": "exit_error",
    "kill": "kill_tree",
    "results": "pack_error unpack_result",
    "settings": "WorkerSettings",
    "staff": "Ending Staff",
}
_HOMES = {name: module for module, names in _NAMES.items() for name in names.split()}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    return value


def __dir__() -> list[str]:
    return __all__
