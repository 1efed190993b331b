"""What of a value is shown as it is, and what things are called."""

from __future__ import annotations

import datetime
import decimal
import fractions
import pathlib
import re
import types
import uuid
from collections.abc import Iterable
from contextlib import suppress
from hashlib import blake2b
from typing import Any

__all__ = [
    "BEGINNING",
    "BITS",
    "TEXT",
    "enum_text",
    "fields_of",
    "is_secret",
    "leaf",
    "module_of",
    "short_hash",
    "type_name",
]

TEXT = 120  # characters of a text that is shown whole
BEGINNING = 60  # of a longer one
BITS = 256
_BYTES = 40

# These are written in C or in the standard library, and hold nothing of the user's.
_REPR = frozenset(
    {bool, float, complex, type(None), type(...), type(NotImplemented), range, uuid.UUID, decimal.Decimal}
    | {fractions.Fraction, datetime.date, datetime.timedelta, pathlib.PurePosixPath, pathlib.PosixPath}
    | {pathlib.PureWindowsPath, pathlib.WindowsPath}
)
_SECRET = re.compile("passw|secret|token|credential|api_?key|private_?key", re.IGNORECASE).search


def is_secret(name: str) -> bool:
    """Whether a name says that what it names is not to be shown."""
    return _SECRET(name) is not None


def leaf(value: Any) -> str | None:
    """The ``repr`` of what is plain and short."""
    kind = type(value)
    if kind is str:
        return repr(value) if len(value) <= TEXT else None
    if kind is int:
        return repr(value) if value.bit_length() <= BITS else None
    if kind in _REPR:
        return repr(value)
    if kind is bytes or kind is bytearray:
        return repr(value) if len(value) <= _BYTES else None
    if kind is datetime.datetime or kind is datetime.time:
        zone = value.tzinfo
        return repr(value) if zone is None or type(zone) is datetime.timezone else None
    return None


def fields_of(value: Any) -> dict[str, Any]:
    """The attributes that an instance holds, those of a dataclass in its order, others sorted by name; what
    its class computes is not among them.
    """
    kind = type(value)
    if issubclass(kind, tuple):
        names = kind._fields  # type: ignore[attr-defined]
        return dict(zip(map(str, names), tuple.__iter__(value), strict=False))
    found: dict[str, Any] = {}
    for base in kind.__mro__:
        for name, attribute in vars(base).items():
            if type(attribute) is types.MemberDescriptorType and base.__module__ != "builtins":
                try:
                    found[name] = attribute.__get__(value)
                except AttributeError:
                    continue
    with suppress(AttributeError):
        found.update(object.__getattribute__(value, "__dict__"))
    declared = getattr(kind, "__dataclass_fields__", None)
    names = [name for name in declared if name in found] if type(declared) is dict else []
    return {str(name): found[name] for name in (*names, *sorted(found.keys() - names, key=str))}


def enum_text(value: Any) -> str:
    """``Color.RED``, without running what the class defines."""
    state = object.__getattribute__(value, "__dict__")
    shown = state.get("_name_") or leaf(state.get("_value_"))
    return f"{type(value).__name__}.{shown}"


def type_name(kind: type) -> str:
    """The name of a type, with its module unless it is built in."""
    module, name = module_of(kind), kind.__qualname__
    return name if module == "builtins" else f"{module}.{name}"


def module_of(value: Any) -> str:
    """The name of the module in which a class or a function was made."""
    module = getattr(value, "__module__", None)
    return module if type(module) is str else "?"


def short_hash(texts: Iterable[str]) -> str:
    """16 hexadecimal digits that stand for texts and their order."""
    return blake2b("\n".join(texts).encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
