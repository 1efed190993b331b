"""What a value looks like, as a short text that two runs can compare.

A description is JSON. A leaf is a text: its ``repr``. Anything else is an object: ``t`` its type, ``n`` its
length, ``s`` a summary (the beginning of a text, the dtype and shape of an array), and its parts: ``i``
items, ``k`` values by key, ``f`` values by field, ``m`` members of a set. What has no room is there as ``d``,
a digest of it, or null where none can be had: so that two descriptions can still say that something in there
differs.
"""

from __future__ import annotations

import functools
import json
import re
import types
from collections import OrderedDict, deque
from collections.abc import Callable
from enum import Enum
from itertools import islice
from typing import Any

from weft_interfaces import Shared

from .leaf import (
    BEGINNING,
    BITS,
    TEXT,
    enum_text,
    fields_of,
    is_secret,
    leaf,
    module_of,
    short_hash,
    type_name,
)

__all__ = ["describe"]

_BUDGET = 256  # leaves, each counted once more for every 16 characters
_DEPTH = 10
_SORTED = 10_000  # keys or members that are sorted to find the first ones

_CODE = (
    types.FunctionType,
    types.BuiltinFunctionType,
    types.MethodType,
    type(str.join),
    type(len),
    type,
)
_LIBRARIES = frozenset({"numpy", "pandas", "polars", "pyarrow", "scipy", "torch"})

_encode = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode
_quote = json.JSONEncoder(ensure_ascii=False).encode

Node = Any


def describe(value: Any, name: str = "", digest: bytes | None = None) -> str:
    """A description of ``value``: JSON of at most some ten thousand characters, the same for equal values.

    Never raises, changes nothing, and calls nothing that a user's class defines but what hashes it. name: of
    the parameter; one that says that it holds a secret (``password``, ``token``, ...) is described by a
    digest alone, as are keys and fields inside. digest: of the whole value, where it is known, so that it
    need not be taken again.
    """
    try:
        if name and is_secret(name):
            return _encode(_hidden(value, digest))
        return _encode(_node(value, _BUDGET, (), digest)[0])
    except Exception:  # noqa: BLE001  an explanation must not cost the task
        return _encode({"t": type_name(type(value)), "d": None})


def _node(value: Any, budget: int, above: tuple[int, ...], digest: bytes | None = None) -> tuple[Node, int]:
    """The description of a value within ``budget``, and what of that it took. ``above``: the ids of what it
    is in.
    """
    text = leaf(value)
    if text is not None:
        return text, 1 + len(text) // 16
    kind = type(value)
    if kind is str or kind is bytes or kind is bytearray or kind is int:
        return _long(value, digest), 4
    if id(value) in above:
        return f"<itself, {len(above) - above.index(id(value))} up>", 1
    if budget < 2 or len(above) >= _DEPTH:
        return _closed(value, digest), 2
    for base, describe_kind in _KINDS:
        if issubclass(kind, base):
            return describe_kind(value, budget, (*above, id(value)), digest)
    if not _LIBRARIES.isdisjoint([module_of(base).partition(".")[0] for base in kind.__mro__]):
        from .frames import describe_frame

        return describe_frame(value, lambda part: _digest(part, None)), 4
    return _instance(value, budget, (*above, id(value)), digest)


def _long(value: Any, digest: bytes | None) -> Node:
    """Text, bytes and numbers that are too long to be shown."""
    if type(value) is int:
        return {"t": "int", "s": f"of {value.bit_length()} bits", "d": _digest(value, digest)}
    node = {"t": type(value).__name__, "n": len(value), "d": _digest(value, digest)}
    if type(value) is str:
        node["s"] = repr(value[:BEGINNING])
    return node


def _closed(value: Any, digest: bytes | None = None) -> Node:
    """A value by its type, its length and its digest."""
    kind = type(value)
    node: dict[str, Any] = {"t": type_name(kind), "d": _digest(value, digest)}
    base: Any = next((base for base in _CONTAINERS if issubclass(kind, base)), None)
    if base is not None:
        node["n"] = base.__len__(value)
    return node


def _hidden(value: Any, digest: bytes | None = None) -> Node:
    return {"t": type_name(type(value)), "secret": True, "d": _digest(value, digest)}


def _digest(value: Any, known: bytes | None) -> str | None:
    """16 hexadecimal digits, or None for what cannot be hashed."""
    if known is None:
        from .hasher import digest  # not at the top: hashing functions needs descriptions of their globals

        try:
            known = digest(value)
        except Exception:  # noqa: BLE001  a type that is unknown, a value that changes meanwhile, ...
            return None
    return known.hex()[:16]


# -- containers ---------------------------------------------------------------------------------------------


def _sequence(value: Any, budget: int, above: tuple[int, ...], digest: bytes | None) -> tuple[Node, int]:
    kind = type(value)
    base: Any = next(base for base in _CONTAINERS if issubclass(kind, base))
    if base is tuple and type(getattr(kind, "_fields", None)) is tuple:
        return _instance(value, budget, above, digest)
    length = base.__len__(value)
    parts = list(islice(base.__iter__(value), budget))
    nodes, used = [], 1
    for index, part in enumerate(parts):
        if used >= budget:
            break
        node, cost = _node(part, max(1, (budget - used) // (len(parts) - index)), above)
        nodes.append(node)
        used += cost
    node = {"t": type_name(kind), "n": length, "i": nodes}
    if len(nodes) < length:
        rest = list(islice(base.__iter__(value), len(nodes), None)) if digest is None else None
        node["d"] = _digest(rest, digest)
    return node, used + 1


def _mapping(value: Any, budget: int, above: tuple[int, ...], digest: bytes | None) -> tuple[Node, int]:
    if dict.__len__(value) > _SORTED:
        return _closed(value, digest), 2
    pairs = [(_key(key), key, part) for key, part in dict.items(value)]
    keys = [text for text, _, _ in pairs]
    pairs.sort(key=_first)
    node, used = _named(pairs, budget, above, digest)
    node = {"t": type_name(type(value)), "n": len(pairs), "k": node.pop("f"), **node}
    if issubclass(type(value), OrderedDict):
        node["o"] = short_hash(keys)
    return node, used


def _named(
    pairs: list[tuple[str, Any, Any]], budget: int, above: tuple[int, ...], digest: bytes | None
) -> tuple[dict[str, Any], int]:
    """The parts of a mapping, or of an instance, that have room, by name; and a digest of the others."""
    nodes: dict[str, Node] = {}
    used = 1
    for index, (name, key, part) in enumerate(pairs):
        if used >= budget:
            break
        if type(key) is str and is_secret(key):
            nodes[name], cost = _hidden(part), 2
        else:
            nodes[name], cost = _node(part, max(1, (budget - used) // (len(pairs) - index)), above)
        used += cost + len(name) // 16
    result: dict[str, Any] = {"f": nodes}
    if len(nodes) < len(pairs):
        result["d"] = _digest([(name, part) for name, _, part in pairs[len(nodes) :]], digest)
    return result, used


def _members(value: Any, budget: int, above: tuple[int, ...], digest: bytes | None) -> tuple[Node, int]:
    base: Any = set if issubclass(type(value), set) else frozenset
    if base.__len__(value) > _SORTED:
        return _closed(value, digest), 2
    texts = sorted(_key(member) for member in base.__iter__(value))
    node: dict[str, Any] = {"t": type_name(type(value)), "n": len(texts), "m": []}
    used = 1
    for text in texts:
        if used >= budget:
            node["d"] = short_hash(texts[len(node["m"]) :])
            break
        node["m"].append(text)
        used += 1 + len(text) // 16
    return node, used


def _key(key: Any, depth: int = 0) -> str:
    """A key, or a member of a set, as it is shown: ``"name"``, ``3``, ``(1, 2)``."""
    if type(key) is str and len(key) <= TEXT:
        return _quote(key)
    text = leaf(key)
    if text is not None:
        return text
    if type(key) is tuple and len(key) <= 8 and depth < 4:
        inner = [_key(part, depth + 1) for part in key]
        return f"({', '.join(inner)}{',' if len(inner) == 1 else ''})"
    if issubclass(type(key), Enum):
        return enum_text(key)
    return f"{type_name(type(key))} {_digest(key, None)}"


def _first(pair: tuple[str, Any, Any]) -> str:
    return pair[0]


# -- objects ------------------------------------------------------------------------------------------------


def _instance(value: Any, budget: int, above: tuple[int, ...], digest: bytes | None) -> tuple[Node, int]:
    fields = fields_of(value)
    kind = type(value)
    if not fields:
        return _closed(value, digest), 2
    node, used = _named([(name, name, part) for name, part in fields.items()], budget, above, digest)
    return {"t": type_name(kind), **node}, used


def _enum(value: Any, budget: int, above: tuple[int, ...], digest: bytes | None) -> tuple[Node, int]:
    return {"t": type_name(type(value)), "s": enum_text(value)}, 2


def _exception(value: Any, budget: int, above: tuple[int, ...], digest: bytes | None) -> tuple[Node, int]:
    fields = [("args", "args", BaseException.args.__get__(value))]  # type: ignore[attr-defined]
    fields += [(name, name, part) for name, part in fields_of(value).items()]
    node, used = _named(fields, budget, above, digest)
    return {"t": type_name(type(value)), **node}, used


def _partial(value: Any, budget: int, above: tuple[int, ...], digest: bytes | None) -> tuple[Node, int]:
    parts = [
        ("func", "func", value.func),
        ("args", "args", value.args),
        ("keywords", "keywords", value.keywords),
    ]
    node, used = _named(parts, budget, above, digest)
    return {"t": "functools.partial", **node}, used


def _code(value: Any, budget: int, above: tuple[int, ...], digest: bytes | None) -> tuple[Node, int]:
    name = f"{module_of(value)}.{getattr(value, '__qualname__', '?')}"
    return {"t": type(value).__name__, "s": name, "d": _digest(value, digest)}, 3


def _module_object(value: Any, budget: int, above: tuple[int, ...], digest: bytes | None) -> tuple[Node, int]:
    return f"<module {vars(value).get('__name__')}>", 1


def _shared(value: Any, budget: int, above: tuple[int, ...], digest: bytes | None) -> tuple[Node, int]:
    return _node(value.value, budget, above, digest)


def _derived(value: Any, budget: int, above: tuple[int, ...], digest: bytes | None) -> tuple[Node, int]:
    """An instance of a subclass of a plain type."""
    base: Any = next(base for base in _PLAIN if issubclass(type(value), base))
    if base is str:
        shown = leaf(str.__str__(value)[:TEXT])
    elif base is int:
        shown = repr(int.__int__(value)) if int.bit_length(value) <= BITS else "..."
    else:
        shown = base.__repr__(base(value) if base is bytearray else value)[:TEXT]
    return {"t": type_name(type(value)), "s": shown, "d": _digest(value, digest)}, 3


def _slice(value: Any, budget: int, above: tuple[int, ...], digest: bytes | None) -> tuple[Node, int]:
    parts = [(name, name, getattr(value, name)) for name in ("start", "stop", "step")]
    node, used = _named(parts, budget, above, digest)
    return {"t": "slice", **node}, used


def _pattern(value: Any, budget: int, above: tuple[int, ...], digest: bytes | None) -> tuple[Node, int]:
    parts = [(name, name, getattr(value, name)) for name in ("pattern", "flags")]
    node, used = _named(parts, budget, above, digest)
    return {"t": "re.Pattern", **node}, used


_PLAIN = (str, bytes, bytearray, int, float, complex)
_CONTAINERS = (list, tuple, dict, set, frozenset, deque)
_KINDS: tuple[tuple[Any, Callable[..., tuple[Node, int]]], ...] = (
    ((list, deque), _sequence),
    (dict, _mapping),
    (tuple, _sequence),
    ((set, frozenset), _members),
    (Enum, _enum),
    (_PLAIN, _derived),
    (slice, _slice),
    (re.Pattern, _pattern),
    (_CODE, _code),
    (types.ModuleType, _module_object),
    (functools.partial, _partial),
    (BaseException, _exception),
    (Shared, _shared),
)
