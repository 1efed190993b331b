"""The contracts, from the installed ``weft_interfaces``, or from the copy beside this package when both are
vendored.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from weft_interfaces import *  # noqa: F403
else:
    # Not __package__, which modules that are imported from an archive have as of Python 3.10.
    _package = __name__.rpartition(".")[0]
    _contracts = import_module("..weft_interfaces" if "." in _package else "weft_interfaces", _package)

    def __getattr__(name: str) -> object:
        return getattr(_contracts, name)
