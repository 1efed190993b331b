"""Content hashes of any value, identities of functions, and crash-safe stores of results.

Modules are imported when they are first used: who needs only ``digest`` does not pay for stores.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .__about__ import __version__

if TYPE_CHECKING:
    from .binding import bind_arguments, unknown_parameters
    from .change import Change
    from .description import describe
    from .difference import differences
    from .errors import UnknownTypeError
    from .explanation import Explanation, explain_hit, explain_miss, explain_shared
    from .hasher import Hasher, digest, digest_argument
    from .identity import FunctionIdentity, identify_class, identify_function
    from .log import Lookup, LookupLog, RunRecord, read_record
    from .memo import Memo, open_store
    from .memoizer import ContentMemoizer, describe_call
    from .overlay import Overlay
    from .registry import id_for_memo
    from .remote import RemoteStore
    from .store import FileStore

__all__ = [
    "Change",
    "ContentMemoizer",
    "Explanation",
    "FileStore",
    "FunctionIdentity",
    "Hasher",
    "Lookup",
    "LookupLog",
    "Memo",
    "Overlay",
    "RemoteStore",
    "RunRecord",
    "UnknownTypeError",
    "__version__",
    "bind_arguments",
    "describe",
    "describe_call",
    "differences",
    "digest",
    "digest_argument",
    "explain_hit",
    "explain_miss",
    "explain_shared",
    "id_for_memo",
    "identify_class",
    "identify_function",
    "open_store",
    "read_record",
    "unknown_parameters",
]

_NAMES = {
    "binding": "bind_arguments unknown_parameters",
    "change": "Change",
    "description": "describe",
    "difference": "differences",
    "errors": "UnknownTypeError",
    "explanation": "Explanation explain_hit explain_miss explain_shared",
    "hasher": "Hasher digest digest_argument",
    "identity": "FunctionIdentity identify_class identify_function",
    "log": "Lookup LookupLog RunRecord read_record",
    "memo": "Memo open_store",
    "memoizer": "ContentMemoizer describe_call",
    "overlay": "Overlay",
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
