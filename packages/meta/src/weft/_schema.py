"""Turns tables of a configuration into objects, by the type hints of what makes these.

The constructor of a plug-in is its schema: its parameters are the keys of the plug-in's table. A parameter
whose type is a contract (a :class:`Provider`, say) takes a table with a ``type`` of its own, or just the
name. All that is wrong is collected, each problem with the path of its key.
"""

from __future__ import annotations

import dataclasses
import inspect
import sys
import types
import typing
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, Union, get_args, get_origin

from weft_interfaces import (
    Channel,
    ConfigError,
    EventSink,
    Executor,
    Launcher,
    MemoHasher,
    MemoStore,
    Provider,
    RetryPolicy,
    Staging,
    WeftError,
)

from ._hint import did_you_mean
from ._plugin import find_plugin, load, plugin_names

__all__ = ["Problems", "build", "build_plugin", "convert", "parameters"]

_CONTRACTS: dict[Any, str] = {
    Executor: "weft.executors",
    Provider: "weft.providers",
    Launcher: "weft.launchers",
    Channel: "weft.channels",
    Staging: "weft.staging",
    MemoStore: "weft.memo",
    MemoHasher: "weft.memo",
    EventSink: "weft.monitoring",
}
# Contracts with one implementation, which needs no `type`.
_ONLY: dict[Any, str] = {RetryPolicy: "weft_core:BackoffRetryPolicy"}
_UNIONS = (Union, types.UnionType)
_WORDS = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    type(None): "nothing",
    dict: "a table",
    list: "a list",
}


class Problems:
    """What is wrong, each with the path of its key."""

    def __init__(self) -> None:
        self.found: list[tuple[str, str]] = []

    def add(self, path: str, message: str) -> None:
        """One more."""
        self.found.append((path, message))

    @contextmanager
    def caught(self, path: str) -> Iterator[None]:
        """Add what constructors raise about wrong values."""
        try:
            yield
        except (WeftError, ValueError, TypeError, ImportError) as error:
            self.add(path, str(error).removeprefix(f"{path}: "))

    def raise_any(self) -> None:
        """Raises one :class:`ConfigError` that names them all, if there are any."""
        if not self.found:
            return
        lines = [f"{path}: {message}" if path else message for path, message in self.found]
        if len(lines) > 1:
            lines = [f"{len(lines)} problems:", *(f"  {line}" for line in lines)]
        raise ConfigError("\n".join(lines), self.found[0][0])


def build(make: Callable[..., Any], table: Mapping[str, Any], path: str, problems: Problems) -> Any:
    """Call ``make`` with the table's values as keyword arguments.

    None, with problems added, when that cannot be.
    """
    before = len(problems.found)
    hints = parameters(make)
    arguments = {}
    for key, value in table.items():
        where = f"{path}.{key}" if path else str(key)
        if key in hints:
            arguments[key] = convert(hints[key].annotation, value, where, problems)
        else:
            problems.add(where, f"unknown key{did_you_mean(key, hints)}{_listed(hints)}")
    for key, parameter in hints.items():
        if parameter.default is parameter.empty and key not in table:
            problems.add(f"{path}.{key}" if path else key, f"is missing: {describe(parameter.annotation)}")
    if len(problems.found) > before:
        return None
    try:
        return make(**arguments)
    except (WeftError, ValueError, TypeError) as error:
        problems.add(*_located(path, error, arguments))
        return None


def build_plugin(group: str, value: Any, path: str, problems: Problems) -> Any:
    """The plug-in that a name, or a table with a ``type``, describes.

    None, with problems added, when that cannot be.
    """
    table = {"type": value} if isinstance(value, str) else dict(value)
    name = table.pop("type", None)
    where = path if isinstance(value, str) else f"{path}.type"
    if not isinstance(name, str):
        names = ", ".join(plugin_names(group))
        said = "is missing" if name is None else f"{_shown(name)} is not a text"
        problems.add(where, f"{said}: the name of a plug-in, one of {names}")
        return None
    try:
        make = find_plugin(group, name)
    except (ConfigError, ImportError) as error:
        problems.add(where, str(error))
        return None
    return build(make, table, path, problems)


def convert(hint: Any, value: Any, path: str, problems: Problems) -> Any:
    """The value as ``hint`` wants it; problems are added when it is not, and cannot be made, one of these."""
    arms = _arms(hint)
    if Any in arms or any(_is_a(value, arm) for arm in arms):
        return value
    for arm in arms:
        if isinstance(value, str) and str in arms:
            break  # a text of its own, not the name of a plug-in
        converted = _convert_table(arm, value, path, problems)
        if converted is not _NOT_THIS:
            return converted
    for arm in arms:
        converted = _convert_plain(arm, value)
        if converted is not _NOT_THIS:
            return converted
    problems.add(path, f"{_shown(value)} is not {describe(hint)}")
    return None


def parameters(make: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """What may be given by keyword, with types in place of their texts."""
    found = {}
    function = make.__init__ if isinstance(make, type) else make  # type: ignore[misc]
    names = _namespace(make, function)
    for name, parameter in inspect.signature(make).parameters.items():
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            found[name] = parameter.replace(annotation=_resolved(parameter.annotation, names))
    return found


def describe(hint: Any) -> str:
    """A type in words."""
    arms = [arm for arm in _arms(hint) if arm is not type(None)]
    return " or ".join(dict.fromkeys(_describe_arm(arm) for arm in arms)) or "nothing"


_NOT_THIS = object()


def _convert_table(arm: Any, value: Any, path: str, problems: Problems) -> Any:
    """Plug-ins, dataclasses and lists of these."""
    if arm in _CONTRACTS and isinstance(value, (str, Mapping)):
        return build_plugin(_CONTRACTS[arm], value, path, problems)
    if isinstance(value, Mapping) and (
        arm in _ONLY or (isinstance(arm, type) and dataclasses.is_dataclass(arm))
    ):
        return build(load(_ONLY[arm]) if arm in _ONLY else arm, value, path, problems)
    item = _item_of(arm)
    if item is not None and isinstance(value, (list, tuple)):
        return [convert(item, part, f"{path}[{index}]", problems) for index, part in enumerate(value)]
    return _NOT_THIS


def _convert_plain(arm: Any, value: Any) -> Any:
    import msgspec

    try:
        return msgspec.convert(value, arm, strict=True)
    except (msgspec.ValidationError, TypeError):  # TypeError: a type that no plain value can be
        return _NOT_THIS


def _item_of(hint: Any) -> Any:
    """The type of the items, where these are plug-ins or dataclasses."""
    if get_origin(hint) not in (list, tuple, Sequence, Collection):
        return None
    item = get_args(hint)[0]
    arms = _arms(item)
    structured = any(arm in _CONTRACTS or dataclasses.is_dataclass(arm) for arm in arms)
    return item if structured else None


def _arms(hint: Any) -> tuple[Any, ...]:
    if get_origin(hint) is typing.Annotated:
        return _arms(get_args(hint)[0])
    return get_args(hint) if get_origin(hint) in _UNIONS else (hint,)


def _is_a(value: Any, arm: Any) -> bool:
    """Whether the value is an object of this class or contract, of a kind that no file can hold."""
    if arm in _WORDS or get_origin(arm) is not None or not isinstance(arm, type):
        return False
    try:
        return isinstance(value, arm)
    except TypeError:  # a protocol that cannot be asked
        methods = [name for name in vars(arm) if not name.startswith("_")]
        return bool(methods) and all(callable(getattr(value, name, None)) for name in methods)


def _describe_arm(arm: Any) -> str:
    if get_origin(arm) is Literal:
        return "one of " + ", ".join(repr(choice) for choice in get_args(arm))
    if arm in _CONTRACTS:
        kind = _CONTRACTS[arm].removeprefix("weft.").rstrip("s")
        return f"a table with the type of {'an' if kind[0] in 'aeiou' else 'a'} {kind}"
    origin = get_origin(arm) or arm
    if isinstance(origin, type) and issubclass(origin, Mapping):
        inside = get_args(arm)[1:]
        return f"a table of {_plural(inside[0])}" if inside and inside[0] is not Any else "a table"
    if origin in (list, tuple, Sequence, Collection):
        items = get_args(arm)
        return f"a list of {_plural(items[0])}" if items else "a list"
    if origin in _WORDS:
        return _WORDS[origin]
    if dataclasses.is_dataclass(arm):
        return "a table"
    return (
        "a text"
        if getattr(origin, "__name__", "") in ("Path", "PathLike")
        else f"a {getattr(arm, '__name__', arm)}"
    )


def _plural(hint: Any) -> str:
    return " or ".join(f"{part.removeprefix('a ')}s" for part in describe(hint).split(" or "))


def _shown(value: Any) -> str:
    """A value as it stands in a file."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f"the text {value!r}"
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:56]} ..."


def _listed(hints: Mapping[str, Any]) -> str:
    return f" (known here: {', '.join(hints)})" if hints else " (nothing is known here)"


def _located(path: str, error: Exception, arguments: Mapping[str, Any]) -> tuple[str, str]:
    """The path and the message of an error of a constructor, which may begin with the name of the
    argument.
    """
    message = str(error)
    word = message.split(":")[0].split(" ")[0].rsplit(".", 1)[-1]
    if word in arguments:
        rest = message.partition(": ")[2] or message
        return (f"{path}.{word}" if path else word), rest
    return path, message


def _namespace(make: Any, function: Any) -> dict[str, Any]:
    module = sys.modules.get(getattr(make, "__module__", ""), None)
    return {**vars(typing), **vars(module or types), **getattr(function, "__globals__", {})}


def _resolved(annotation: Any, names: dict[str, Any]) -> Any:
    if annotation is inspect.Parameter.empty:
        return Any
    if not isinstance(annotation, str):
        return annotation
    try:
        return eval(annotation, names)
    except Exception:  # noqa: BLE001  a name that is imported for type checkers alone: then it is not checked here
        return Any
