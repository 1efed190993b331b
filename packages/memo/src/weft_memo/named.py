"""Functions, methods, classes and modules as values: by their code, or by name where it is others'."""

from __future__ import annotations

import functools
import types
import typing
from pathlib import Path
from typing import Any

from .encoding import Encoding, text
from .naming import is_standard, is_users_module, qualified_name
from .node import SET, Node, Split

__all__ = ["named_split"]


def named_split(kind: type) -> Split | None:
    """How instances of the class are split, if they are code, or names for types."""
    if issubclass(kind, type):
        return _class
    found = _KINDS.get(kind)
    if found is None and kind.__module__ == "typing":
        return _typing
    if found is None and issubclass(kind, types.ModuleType):
        return _module
    return found


def _function(value: Any) -> Encoding:
    if is_standard(value):
        return b"F" + text(qualified_name(value))
    from .identity import identify_function

    return b"F\xff" + identify_function(value).digest


def _class(value: Any) -> Encoding:
    if is_standard(value):
        return b"K" + text(qualified_name(value))
    from .identity import identify_class

    return b"K\xff" + identify_class(value).digest


def _method(value: Any) -> Node:
    return Node(b"B", (value.__func__, value.__self__), labels=("", ".__self__"))


def _builtin(value: Any) -> Node | Encoding:
    owner = value.__self__
    if owner is None or isinstance(owner, types.ModuleType):
        return b"F" + text(qualified_name(value))
    return Node(b"B" + text(value.__name__), (owner,), labels=(".__self__",))


def _descriptor(value: Any) -> Node:
    return Node(b"F" + text(value.__name__), (value.__objclass__,))


def _wrapped(value: Any) -> Node:
    return Node(b"W" + text(type(value).__name__), (value.__wrapped__,), labels=(".__wrapped__",))


def _module(value: Any) -> Node | Encoding:
    """By name; a user's own by the text of its file, too."""
    head = b"m" + text(value.__name__)
    file = getattr(value, "__file__", None)
    if file is None or not is_users_module(value.__name__):
        return head + b"~"
    try:
        return Node(head, (Path(file).read_bytes(),), labels=(".__file__",))
    except OSError:
        return head + b"~"


def _alias(value: Any) -> Node:
    return Node(b"g", (value.__origin__, value.__args__), labels=(".__origin__", ".__args__"))


def _typing(value: Any) -> Node | Encoding:
    origin = typing.get_origin(value)
    if origin is typing.Union:
        return _union(value)
    if origin is not None:
        return Node(b"g", (origin, typing.get_args(value)), labels=(".__origin__", ".__args__"))
    words = repr(value)
    if getattr(typing, words.removeprefix("typing."), None) is value:
        return b"K" + text(words)  # some of these become classes, in later versions
    # TypeVar, ForwardRef: what they show is what they are.
    return b"t" + text(type(value).__qualname__) + text(words)


def _union(value: Any) -> Node:
    return Node(b"u", typing.get_args(value), SET)


_KINDS: dict[type, Split] = {
    types.FunctionType: _function,
    types.MethodType: _method,
    types.BuiltinFunctionType: _builtin,
    types.MethodWrapperType: _builtin,
    types.MethodDescriptorType: _descriptor,
    types.WrapperDescriptorType: _descriptor,
    types.ClassMethodDescriptorType: _descriptor,
    types.GetSetDescriptorType: _descriptor,
    types.MemberDescriptorType: _descriptor,
    types.ModuleType: _module,
    types.GenericAlias: _alias,
    types.UnionType: _union,
    type(functools.lru_cache(len)): _wrapped,
    staticmethod: _wrapped,
    classmethod: _wrapped,
}
