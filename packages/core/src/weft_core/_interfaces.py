"""The contracts, from the installed ``weft_interfaces``, or from the copy beside this package when both are vendored."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from weft_interfaces import *  # noqa: F403
else:
    _vendored = "." in __package__
    _interfaces = import_module("..weft_interfaces" if _vendored else "weft_interfaces", __package__)
    globals().update({name: getattr(_interfaces, name) for name in _interfaces.__all__ if name != "__version__"})
