"""The contracts, from the installed ``weft_interfaces``, or from the copy beside this package when both are
vendored.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from weft_interfaces import *  # noqa: F403
else:
    _contracts = import_module("..weft_interfaces" if "." in __package__ else "weft_interfaces", __package__)

    def __getattr__(name: str) -> object:
        return getattr(_contracts, name)
