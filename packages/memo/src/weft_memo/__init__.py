"""Content hashes of any value, identities of functions, and crash-safe stores of results.

Modules are imported when they are first used: who needs only ``digest`` does not pay for stores.
"""

from __future__ import annotations

from .__about__ import __version__

__all__ = ["__version__"]

_NAMES: dict[str, str] = {}
_HOMES = {name: module for module, names in _NAMES.items() for name in names.split()}


def __getattr__(name: str) -> object:
    from importlib import import_module

    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    return value


def __dir__() -> list[str]:
    return __all__
