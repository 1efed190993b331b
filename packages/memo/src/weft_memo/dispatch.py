"""Things that are code, or hold code: how each is followed."""

from __future__ import annotations

import functools
import io
import logging
import threading
import types
import typing
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from blake3 import blake3

from .annotation import annotation_text
from .origin import origin_of_module

if TYPE_CHECKING:
    from .reach import Reach, Unit

    Handler = Callable[[Reach, Any, str], "Unit | str"]

__all__ = ["NOT_LOOKED_INTO", "handler", "has_content", "is_code", "without_content"]


NOT_LOOKED_INTO = ": not looked into"


def handler(value: Any) -> Handler | None:
    """How to follow a value; None for plain data."""
    kind = type(value)
    known = _HANDLERS.get(kind)
    if known is not None:
        return known
    if isinstance(value, type):
        return _class
    for base, one in _BASES:
        if isinstance(value, base):
            return one
    module = getattr(kind, "__module__", None)
    if isinstance(module, str):
        origin = origin_of_module(module).kind
        if origin == "weft":
            return _weft
        if origin != "user" and callable(value) and hasattr(value, "__wrapped__"):
            return _wrapper
    return None


def is_code(value: Any) -> bool:
    """Whether a value is, or holds, code that can be followed."""
    return handler(value) is not None


def has_content(value: Any) -> bool:
    """Whether there is anything in a value that could be looked into."""
    return not isinstance(value, _OPAQUE) and type(value) is not object


def without_content(value: Any) -> str:
    """The name of a value that is not looked into."""
    kind = type(value)
    name = getattr(value, "__name__", None)
    own = f" {name}" if isinstance(name, str) else ""
    module = "" if origin_of_module(kind.__module__).kind == "user" else f"{kind.__module__}."
    return f"{module}{kind.__qualname__}{own}{NOT_LOOKED_INTO}"


def _composite(reach: Reach, value: Any, name: str, what: str, parts: Mapping[str, Any]) -> Unit | str:
    known = reach.known(id(value))
    if known is not None:
        return known
    unit = reach.unit(id(value), "helper", f"{name} ({what})", value, what)
    unit.own = blake3(what.encode()).digest()
    unit.text = f"{what} of {', '.join(parts)}"

    def fill() -> None:
        for label, part in parts.items():
            unit.edges[label] = reach.target(part, "value", f"{name}.{label}")

    reach.soon(fill)
    return unit


def _function(reach: Reach, value: Any, name: str) -> Unit | str:
    return reach.function(value)


def _class(reach: Reach, value: Any, name: str) -> Unit | str:
    from .klass import class_unit

    return class_unit(reach, value)


def _module(reach: Reach, value: Any, name: str) -> Unit | str:
    from .imports import module_unit

    return module_unit(reach, value)


def _method(reach: Reach, value: types.MethodType, name: str) -> Unit | str:
    own = getattr(value.__func__, "__qualname__", name)
    return _composite(reach, value, own, "method", {"function": value.__func__, "self": value.__self__})


def _builtin(reach: Reach, value: Any, name: str) -> Unit | str:
    owner = getattr(value, "__self__", None)
    module = getattr(value, "__module__", None)
    if not isinstance(module, str):
        home = getattr(value, "__objclass__", None) or (owner if isinstance(owner, type) else type(owner))
        module = str(getattr(home, "__module__", "builtins"))
    text = f"{module}.{getattr(value, '__qualname__', name)}"
    if owner is None or isinstance(owner, (types.ModuleType, type)):
        return reach.leaf(origin_of_module(module), text)
    return _composite(reach, value, name, text, {"self": owner})


def _partial(reach: Reach, value: Any, name: str) -> Unit | str:
    parts = {"function": value.func, "arguments": value.args, "keywords": value.keywords}
    return _composite(reach, value, name, type(value).__name__, parts)


def _attributes(*names: str) -> Handler:
    def follow(reach: Reach, value: Any, name: str) -> Unit | str:
        parts = {one: getattr(value, one, None) for one in names}
        given = {one: part for one, part in parts.items() if part is not None}
        return _composite(reach, value, name, type(value).__name__, given)

    return follow


def _wrapper(reach: Reach, value: Any, name: str) -> Unit | str:
    parts = {"class": type(value), "wrapped": value.__wrapped__}
    return _composite(reach, value, name, type(value).__name__, parts)


def _weft(reach: Reach, value: Any, name: str) -> Unit | str:
    wrapped = getattr(value, "__wrapped__", None)
    if wrapped is None:
        return f"{type(value).__module__}.{type(value).__qualname__}"
    if reach.root is value:
        reach.root = wrapped
    return reach.target(wrapped, "value", name)


def _typing(reach: Reach, value: Any, name: str) -> Unit | str:
    return annotation_text(value)


_HANDLERS: dict[type, Handler] = {
    types.FunctionType: _function,
    types.MethodType: _method,
    types.BuiltinFunctionType: _builtin,
    types.MethodDescriptorType: _builtin,
    types.ClassMethodDescriptorType: _builtin,
    types.WrapperDescriptorType: _builtin,
    types.MethodWrapperType: _builtin,
    types.GetSetDescriptorType: _builtin,
    types.MemberDescriptorType: _builtin,
    functools._lru_cache_wrapper: _attributes("__wrapped__"),
    types.GenericAlias: _typing,
    types.UnionType: _typing,
    type(typing.Optional[int]): _typing,  # noqa: UP045  this is the class of such objects
    type(typing.List[int]): _typing,  # noqa: UP006
    typing.TypeVar: _typing,
    type(typing.Any): _typing,
}
_BASES: tuple[tuple[Any, Handler], ...] = (
    (types.ModuleType, _module),
    (functools.partial, _partial),
    (functools.partialmethod, _partial),
    ((staticmethod, classmethod), _attributes("__func__")),
    (property, _attributes("fget", "fset", "fdel")),
    (functools.cached_property, _attributes("func")),
    (functools.singledispatchmethod, _attributes("func", "dispatcher")),
)
# What has no content, only an identity.
_OPAQUE = (
    logging.Logger,
    logging.LoggerAdapter,
    io.IOBase,
    Future,
    threading.Thread,
    threading.local,
    type(threading.Lock()),
    type(threading.RLock()),
    threading.Condition,
    threading.Event,
    threading.Semaphore,
    types.GeneratorType,
    types.CoroutineType,
)
