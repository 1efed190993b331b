"""Instances of classes that nobody has said anything about: by what they are made of."""

from __future__ import annotations

import copyreg
import dataclasses
from collections.abc import Callable
from typing import Any, Final, cast

from .encoding import LEAVES, Encoding, text
from .errors import UnknownTypeError
from .naming import is_standard, qualified_name
from .node import ATTRIBUTES, PAIRS, SPLITS, Node, Split, View
from .standard import standard_split

__all__ = ["attributes", "base_split", "instance_split", "refuse"]

_EXACT: Final[dict[type, Callable[[Any], Any]]] = {
    int: int.__int__,
    float: float.__pos__,
    complex: complex.__pos__,
    str: str.__str__,
    bytes: lambda value: bytes(memoryview(value)),
    bytearray: lambda value: bytes(memoryview(value)),
}
_MAKERS = tuple(vars(copyreg)[name] for name in ("__newobj__", "__newobj_ex__", "_reconstructor"))
_REBUILT = ("__reduce__", "__reduce_ex__", "__getstate__", "__getnewargs__", "__getnewargs_ex__")


def instance_split(kind: type) -> Split:
    """How instances of a class are split; raises :class:`UnknownTypeError` where none can be."""
    reason = _live(kind)
    if reason:
        raise UnknownTypeError(qualified_name(kind), "", reason)
    if not _rebuilds(kind):
        base = base_split(kind)
        if base is not None:
            return _derived(kind, *base)
        if dataclasses.is_dataclass(kind):
            return _dataclass(kind)
    return _reduced(kind)


def refuse(kind: type, reason: str) -> Split:
    """A split that says why there is none."""
    name = qualified_name(kind)

    def split(value: Any) -> Node:
        raise UnknownTypeError(name, "", reason)

    return split


def _live(kind: type) -> str:
    """Why a value of the class is a thing that happens, rather than a content; empty if it is not."""
    if kind is object:
        return "it has no content, only an identity"
    if hasattr(kind, "add_done_callback") and hasattr(kind, "result"):
        return "a future: pass its value"
    if hasattr(kind, "fileno") and hasattr(kind, "close"):
        return "it stands for something that is open"
    if hasattr(kind, "__next__") and is_standard(kind):
        return "an iterator changes when it is read: pass a list of what it gives"
    if hasattr(kind, "submit") and hasattr(kind, "shutdown"):
        return "an executor"
    if hasattr(kind, "start") and hasattr(kind, "join") and hasattr(kind, "is_alive"):
        return "a thread or process"
    return ""


def _rebuilds(kind: type) -> bool:
    """Whether the class says itself what is pickled of its instances."""
    if kind in copyreg.dispatch_table:
        return True
    for cls in kind.__mro__:
        if cls in _EXACT or cls in SPLITS or cls in (object, BaseException) or standard_split(cls):
            continue
        own = [name for name in _REBUILT if name in cls.__dict__]
        if (
            own
            and not all(getattr(cls.__dict__[name], "__module__", "") == "dataclasses" for name in own)
            and not is_namedtuple(cls)
        ):
            return True
    return False


def is_namedtuple(kind: type) -> bool:
    """Whether :func:`collections.namedtuple` made the class, or it looks like that."""
    fields = kind.__dict__.get("_fields")
    return issubclass(kind, tuple) and isinstance(fields, tuple) and all(type(one) is str for one in fields)


def attributes(value: Any, base: type = object) -> dict[str, Any]:
    """What an instance holds, in its dictionary and in its slots; without the slots of a base class."""
    found: dict[str, Any] = {}
    for cls in type(value).__mro__[::-1]:
        if issubclass(base, cls):
            continue
        slots = cls.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else tuple(slots):
            if name in ("__dict__", "__weakref__"):
                continue
            if name.startswith("__") and not name.endswith("__") and cls.__name__.strip("_"):
                name = f"_{cls.__name__.lstrip('_')}{name}"
            try:
                found[name] = object.__getattribute__(value, name)
            except AttributeError:
                continue
    try:
        own = object.__getattribute__(value, "__dict__")
    except AttributeError:
        return found
    found.update(own)
    return found


# -- classes derived from built-in ones ----------------------------------------------------------------------


def base_split(kind: type) -> tuple[type, Split] | None:
    """The nearest base class whose values are hashed by what they are, and how."""
    for cls in kind.__mro__[1:]:
        if cls in SPLITS:
            return cls, SPLITS[cls]
        if cls in _EXACT:
            return cls, _as_leaf(cls)
        split = standard_split(cls)
        if split is not None:
            return cls, split
    return None


def _as_leaf(base: type) -> Split:
    exact, leaf = _EXACT[base], LEAVES[base]

    def split(value: Any) -> Encoding:
        return leaf(exact(value))

    return split


def _derived(kind: type, base: type, split: Split) -> Split:
    if base is tuple:
        named = next((cls for cls in kind.__mro__ if is_namedtuple(cls)), None)
        if named is not None:
            return _namedtuple(kind, named.__dict__["_fields"])
    head = b"S" + text(qualified_name(kind))
    return lambda value: Node(head, (View(split, value), attributes(value, base)), labels=("", ""))


def _namedtuple(kind: type, fields: tuple[str, ...]) -> Split:
    head = b"N" + text(qualified_name(kind)) + b"".join(map(text, fields))
    labels = tuple(f".{name}" for name in fields)

    def split(value: Any) -> Node:
        parts = list(tuple.__iter__(value))
        own = attributes(value, tuple)
        if own or len(parts) != len(labels):
            return Node(head, (parts, own), labels=("", ""))
        return Node(head, parts, labels=labels)

    return split


# -- classes of the user's -----------------------------------------------------------------------------------


def _dataclass(kind: type) -> Split:
    names = tuple(field.name for field in dataclasses.fields(kind))
    head = b"D" + text(qualified_name(kind)) + b"".join(map(text, names))
    labels = tuple(f".{name}" for name in names)

    def split(value: Any) -> Node:
        own = getattr(value, "__dict__", None)
        if own is None or len(own) <= len(names):
            try:
                return Node(head, [object.__getattribute__(value, name) for name in names], labels=labels)
            except AttributeError:
                pass
        return Node(b"O" + head[1:], (attributes(value),), labels=("",))

    return split


def _reduced(kind: type) -> Split:
    """As :mod:`pickle` would take it apart; what pickle cannot do has no content."""
    name, as_class = qualified_name(kind), cast("Any", kind)

    def split(value: Any) -> Node:
        try:
            reduce = copyreg.dispatch_table.get(kind)
            reduced = reduce(value) if reduce is not None else as_class.__reduce_ex__(value, 4)
            return _rebuilt(name, kind, reduced)
        except RecursionError:
            raise
        except Exception as error:
            raise UnknownTypeError(name, "", str(error).partition("\n")[0][:200]) from error

    return split


def _rebuilt(name: str, kind: type, reduced: Any) -> Node:
    if isinstance(reduced, str):
        return Node(b"G" + text(name), (reduced,), labels=("",))
    whole: tuple[Any, ...] = (*reduced, None, None, None, None)
    function, args, state, items, pairs = whole[:5]
    if function in _MAKERS:
        args = args[1:]
    elif function is not kind:
        name += "\0" + qualified_name(function)
    state = _merged(state)
    head = text(name)
    if type(state) is dict and not args and items is None and pairs is None:
        return Node(b"O" + head, [part for pair in state.items() for part in pair], PAIRS, ATTRIBUTES)
    parts = (state, args, None if items is None else list(items), None if pairs is None else dict(pairs))
    return Node(b"R" + head, parts, labels=("", "", "", ""))


def _merged(state: Any) -> Any:
    """One dictionary, of attributes that are partly in slots."""
    if type(state) is not tuple or len(state) != 2 or type(state[1]) is not dict:
        return state
    return {**state[0], **state[1]} if type(state[0]) is dict else state[1] if state[0] is None else state
