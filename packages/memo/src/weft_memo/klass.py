"""Classes: their bases, methods and attributes, as they are now."""

from __future__ import annotations

import collections
import dataclasses
import enum
import sys
import types
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from blake3 import blake3

from .annotation import annotation_text, class_annotations
from .code import class_text, code_of
from .naming import qualified_name
from .origin import USER, module_name, origin_of_namespace

if TYPE_CHECKING:
    from .reach import Reach, Unit

__all__ = ["class_unit"]

# What Python or a decorator puts there, and what follows from the rest.
_GENERATED = frozenset({"_abc_impl", "_is_protocol", "_is_runtime_protocol"})
_COUNTED = frozenset({"__slots__", "__weft_memo__", "__hash__", "__eq__"})
_PARAMETERS = ("init", "repr", "eq", "order", "unsafe_hash", "frozen")
_FIELD = ("init", "repr", "hash", "compare", "kw_only")
_SLOTS = (
    types.MemberDescriptorType,
    types.GetSetDescriptorType,
    type(vars(collections.namedtuple("_Pair", "first"))["first"]),
)
_MISSING = type(dataclasses.MISSING)  # there are copies of it, of classes that came by value
_MUTABLE = (dict, list, set, bytearray)


def class_unit(reach: Reach, cls: type) -> Unit | str:
    """The unit of a class of the user's; the name of any other."""
    known = reach.known(id(cls))
    if known is not None:
        return known
    namespace = _namespace(cls)
    origin = origin_of_namespace(namespace)
    if origin is not USER:
        return reach.leaf(origin, qualified_name(cls))
    name = f"{module_name(namespace)}.{cls.__qualname__}"
    unit = reach.unit(id(cls), "class", name, cls, cls.__name__)
    if reach.deep:
        reach.soon(lambda: _fill(reach, unit, cls, name))
    else:
        unit.own = blake3(cls.__qualname__.encode()).digest()
        unit.text = name
    return unit


def _fill(reach: Reach, unit: Unit, cls: type, name: str) -> None:
    edges = unit.edges
    said = [cls.__name__]
    for label, annotation in class_annotations(cls).items():
        said.append(f"{label}: {annotation_text(annotation)}")
    for number, base in enumerate(cls.__bases__):
        if base is not object:
            edges[f"base {number}"] = reach.target(base, "value", name)
    if type(cls) is not type and type(cls) not in map(type, cls.__bases__):
        edges["metaclass"] = reach.target(type(cls), "value", name)
    attributes = dict(_attributes(cls))
    changed = _changed(cls, attributes)
    for label, value in sorted(attributes.items()):
        reach.bind(vars(cls), label)
        if label in changed:
            edges[label] = "changed by the class itself: not looked into"
        elif isinstance(value, _SLOTS):
            edges[label] = "slot"
        else:
            edges[label] = reach.target(value, "attribute", f"{name}.{label}", (vars(cls), label))
    if isinstance(cls, enum.EnumMeta):
        members: Mapping[str, Any] = cls.__members__
        for member in members.values():
            label = f"member {member._name_}"
            edges[label] = reach.target(member._value_, "attribute", f"{name}.{member._name_}")
    said += _dataclass(reach, cls, name, edges)
    unit.own = blake3("\0".join(said).encode("utf-8", "surrogatepass")).digest()
    unit.text = class_text(cls, _namespace(cls)) or "\n".join(said)


def _namespace(cls: type) -> Mapping[str, Any]:
    module = sys.modules.get(cls.__module__)
    return {"__name__": cls.__module__} if module is None else vars(module)


def _attributes(cls: type) -> Iterator[tuple[str, Any]]:
    members: Mapping[str, Any] = cls.__members__ if isinstance(cls, enum.EnumMeta) else {}
    for name, value in list(vars(cls).items()):
        if name in _GENERATED or name in members:
            continue
        special = name.startswith("_") and name.endswith("_")
        function = value.__func__ if isinstance(value, (staticmethod, classmethod)) else value
        if isinstance(function, types.FunctionType):
            if special and _is_generated(cls, name, function):
                continue
        elif special and name not in _COUNTED and not isinstance(value, property):
            continue
        yield name, value


def _is_generated(cls: type, name: str, function: types.FunctionType) -> bool:
    """Whether a decorator or the standard library wrote a method: what it is made of counts instead."""
    namespace = function.__globals__
    if origin_of_namespace(namespace) is not USER:
        return True
    if hasattr(cls, "_fields") and str(namespace.get("__name__")).startswith("namedtuple_"):
        return True
    if "__dataclass_params__" not in vars(cls):
        return False
    maker = getattr(function.__code__, "co_qualname", None)  # from Python 3.11 on
    if maker is not None:
        return str(maker).startswith("__create_fn__.")
    return function.__code__.co_filename.startswith("<") and code_of(function).compiled


def _changed(cls: type, attributes: Mapping[str, Any]) -> set[str]:
    """Attributes that are a state of the class: its own methods change them."""
    changed: set[str] = set()
    for value in attributes.values():
        function = value.__func__ if isinstance(value, (staticmethod, classmethod)) else value
        if not isinstance(function, types.FunctionType):
            continue
        code = code_of(function)
        changed.update(
            chain[-1] for chain in code.assigned if chain[-2] in ("cls", "__class__", cls.__name__)
        )
        changed.update(chain[-1] for chain in code.filled if isinstance(attributes.get(chain[-1]), _MUTABLE))
    return changed & attributes.keys()


def _dataclass(reach: Reach, cls: type, name: str, edges: dict[str, Unit | str]) -> list[str]:
    parameters = vars(cls).get("__dataclass_params__")
    if parameters is None:
        return []
    said = [f"{one}={getattr(parameters, one, None)}" for one in _PARAMETERS]
    for field in vars(cls).get("__dataclass_fields__", {}).values():
        said.append(f"{field.name} " + " ".join(f"{one}={getattr(field, one)}" for one in _FIELD))
        for kind in ("default", "default_factory"):
            value = getattr(field, kind)
            if not isinstance(value, (_MISSING, types.MemberDescriptorType)) and field.name not in vars(cls):
                label = f"{kind} of {field.name}"
                edges[label] = reach.target(value, "attribute", f"{name}.{field.name}")
    return said
