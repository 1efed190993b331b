"""Hashes values of basic types by their content."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import PurePath
from typing import Any

from ..shared import Shared

__all__ = ["PickleMemoHasher"]


class PickleMemoHasher:
    """SHA-256 over a canonical form: numbers, text, bytes, containers, dataclasses, enums, paths, and nothing
    else.

    The form of a value is the name of its type, the length of its content, and its content; members of sets
    and items of mappings are sorted by their digest. ``id_for_memo`` adds types: a function that gives, for a
    value, the content as bytes.
    """

    def __init__(self, id_for_memo: Mapping[type, Callable[[Any], bytes]] | None = None) -> None:
        self._encoders = {**_ENCODERS, **(id_for_memo or {})}

    def digest(self, value: Any) -> bytes:
        return self._digest(value, "value", ())

    def _digest(self, value: Any, path: str, above: tuple[int, ...]) -> bytes:
        if isinstance(value, Shared):
            value = value.value
        if id(value) in above:
            raise ValueError(
                f"unknown type for memoization {_name(value)} at {path}: the value contains itself"
            )
        content = b"".join(self._content(value, path, (*above, id(value))))
        kind = _name(value).encode()
        return hashlib.sha256(struct.pack(">QQ", len(kind), len(content)) + kind + content).digest()

    def _content(self, value: Any, path: str, above: tuple[int, ...]) -> Iterator[bytes]:
        kind = type(value)
        if kind in self._encoders:
            yield self._encoders[kind](value)
        elif kind in (list, tuple):
            yield from (self._digest(part, f"{path}[{i}]", above) for i, part in enumerate(value))
        elif kind in (set, frozenset):
            yield from sorted(self._digest(part, f"a member of {path}", above) for part in value)
        elif kind is dict:
            yield from sorted(self._item(key, part, path, above) for key, part in value.items())
        elif isinstance(value, PurePath):
            yield str(value).encode("utf-8", "surrogateescape")
        elif isinstance(value, Enum):
            yield value.name.encode()
        elif is_dataclass(value) and not isinstance(value, type):
            for field in fields(value):
                yield self._digest(getattr(value, field.name), f"{path}.{field.name}", above)
        else:
            raise ValueError(f"unknown type for memoization {_name(value)} at {path}")

    def _item(self, key: Any, value: Any, path: str, above: tuple[int, ...]) -> bytes:
        return self._digest(key, f"a key of {path}", above) + self._digest(value, f"{path}[{key!r}]", above)


def _name(value: Any) -> str:
    if isinstance(value, PurePath):
        return f"pathlib.{type(value).__qualname__}"  # whose real module differs between versions of Python
    return f"{type(value).__module__}.{type(value).__qualname__}"


_ENCODERS: dict[type, Callable[[Any], bytes]] = {
    type(None): lambda value: b"",
    bool: lambda value: b"1" if value else b"0",
    int: lambda value: b"%d" % value,
    float: lambda value: struct.pack(">d", value or 0.0),
    complex: lambda value: struct.pack(">dd", value.real or 0.0, value.imag or 0.0),
    str: lambda value: value.encode("utf-8", "surrogatepass"),
    bytes: bytes,
    bytearray: bytes,
}
