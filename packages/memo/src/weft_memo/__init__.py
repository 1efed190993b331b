"""Content hashes of any value, identities of functions, and crash-safe stores of results.

Modules are imported when they are first used: who needs only ``digest`` does not pay for stores.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .__about__ import __version__

if TYPE_CHECKING:
    from .binding import bind_arguments, unknown_parameters
    from .errors import UnknownTypeError
    from .hasher import Hasher, digest, digest_argument
    from .identity import FunctionIdentity, identify_class, identify_function
    from .memo import Memo, open_store
    from .memoizer import ContentMemoizer
    from .registry import id_for_memo
    from .remote import RemoteStore
    from .store import FileStore

__all__ = [
    "ContentMemoizer",
    "FileStore",
    "FunctionIdentity",
    "Hasher",
    "Memo",
    "RemoteStore",
    "UnknownTypeError",
    "__version__",
    "bind_arguments",
    "digest",
    "digest_argument",
    "id_for_memo",
    "identify_class",
    "identify_function",
    "open_store",
    "unknown_parameters",
]

_NAMES = {
    "binding": "bind_arguments unknown_parameters",
    "errors": "UnknownTypeError",
    "hasher": "Hasher digest digest_argument",
    "identity": "FunctionIdentity identify_class identify_function",
    "memo": "Memo open_store",
    "memoizer": "ContentMemoizer",
    "registry": "id_for_memo",
    "remote": "RemoteStore",
    "store": "FileStore",
}
_HOMES = {name: module for module, names in _NAMES.items() for name in names.split()}


def __getattr__(name: str) -> object:
    from importlib import import_module

    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    return value


def __dir__() -> list[str]:
    return __all__
