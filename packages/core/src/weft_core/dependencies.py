"""Finds futures inside arguments, and puts their values in their place."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import sys
from collections.abc import Callable, Iterable
from typing import Any

from .future import Future

__all__ = [
    "ATOMS",
    "DEEP",
    "SHALLOW",
    "DeepResolver",
    "ShallowResolver",
    "error_of",
    "is_future",
    "value_of",
    "watch_foreign",
]

# No instance of these can be or hold a future: what most arguments are is passed over with one look-up.
ATOMS = frozenset(
    {int, float, complex, str, bytes, bytearray, bool, type(None), range, slice, type, memoryview}
)
_CONTAINERS = (list, tuple, dict, set, frozenset)


def is_future(value: Any) -> bool:
    """Whether a value is a future: the standard library's, asyncio's, or one that looks like these and can be
    awaited.
    """
    if isinstance(value, concurrent.futures.Future):
        return True
    kind = type(value)
    return hasattr(kind, "__await__") and hasattr(kind, "add_done_callback") and hasattr(kind, "result")


def error_of(future: Any) -> BaseException | None:
    """The error of a future that is done, cancellation being one."""
    if type(future) is Future:
        return future._exception
    try:
        error: BaseException | None = future.exception()
    except (concurrent.futures.CancelledError, asyncio_cancelled()) as cancelled:
        return concurrent.futures.CancelledError(*cancelled.args)
    return error


def value_of(future: Any) -> Any:
    """The value of a future that is done, and has one."""
    return future._result if type(future) is Future else future.result()


def watch_foreign(future: Any, callback: Callable[[Any], object]) -> bool:
    """Call ``callback(future)`` once a future that is not the kernel's is done, at once if it is."""
    loop = getattr(future, "get_loop", None)
    if loop is None:
        future.add_done_callback(callback)
    else:
        # asyncio's futures may be touched by their loop's thread alone.
        loop().call_soon_threadsafe(future.add_done_callback, callback)
    return True


def asyncio_cancelled() -> type[BaseException]:
    """asyncio's CancelledError, if asyncio was imported: another class than that of concurrent.futures."""
    asyncio = sys.modules.get("asyncio")
    return asyncio.CancelledError if asyncio else concurrent.futures.CancelledError


class ShallowResolver:
    """Sees futures that are arguments themselves, or items of a list that is one."""

    def futures(self, value: Any) -> list[Any]:
        """See :meth:`DependencyResolver.futures`."""
        if is_future(value):
            return [value]
        return [item for item in value if is_future(item)] if type(value) is list else []

    def resolve(self, value: Any, result: Callable[[Any], Any]) -> Any:
        """See :meth:`DependencyResolver.resolve`."""
        if is_future(value):
            return result(value)
        if type(value) is list:
            return [result(item) if is_future(item) else item for item in value]
        return value


class DeepResolver:
    """Sees futures at any depth in lists, tuples, dicts (values and keys), sets, their subclasses and
    dataclasses.
    """

    def futures(self, value: Any) -> list[Any]:
        """See :meth:`DependencyResolver.futures`."""
        if type(value) in ATOMS:
            return []
        found: dict[int, Any] = {}
        containers: dict[int, Any] = {}
        waiting = [value]
        while waiting:
            part = waiting.pop()
            if type(part) in ATOMS:
                continue
            if is_future(part):
                found[id(part)] = part
                continue
            inside = _inside(part)
            if inside is None or id(part) in containers:
                continue
            containers[id(part)] = part
            # One pass in C: a list of a million numbers must not cost a million steps here.
            if not ATOMS.issuperset(map(type, inside)):
                waiting.extend(inside)
        return list(found.values())[::-1]

    def resolve(self, value: Any, result: Callable[[Any], Any]) -> Any:
        """See :meth:`DependencyResolver.resolve`. What holds no future is passed on itself, not a copy."""
        if type(value) in ATOMS:
            return value
        return _Rebuilder(result).rebuild(value)


DEEP = DeepResolver()
SHALLOW = ShallowResolver()


def _inside(value: Any) -> Iterable[Any] | None:
    if isinstance(value, dict):
        return [*value.keys(), *value.values()]
    if isinstance(value, _CONTAINERS):
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [getattr(value, field.name, None) for field in dataclasses.fields(value)]
    return None


class _Rebuilder:
    """Copies the parts of a value that lead to a future, each once; parts that lead back to themselves are
    kept.
    """

    def __init__(self, result: Callable[[Any], Any]) -> None:
        self._result = result
        self._done: dict[int, tuple[Any, Any]] = {}

    def rebuild(self, value: Any) -> Any:
        if type(value) in ATOMS:
            return value
        if is_future(value):
            return self._result(value)
        if id(value) in self._done:
            return self._done[id(value)][1]
        if _inside(value) is None:
            return value
        self._done[id(value)] = (value, value)
        rebuilt = self._rebuild_container(value)
        self._done[id(value)] = (value, rebuilt)
        return rebuilt

    def _rebuild_container(self, value: Any) -> Any:
        if isinstance(value, dict):
            return self._rebuild_dict(value)
        if isinstance(value, _CONTAINERS):
            return self._rebuild_sequence(value)
        changes = {}
        for field in dataclasses.fields(value):
            old = getattr(value, field.name, None)
            new = self.rebuild(old)
            if new is not old:
                changes[field.name] = new
        return _replace(value, changes) if changes else value

    def _rebuild_dict(self, value: dict[Any, Any]) -> Any:
        pairs = [(self.rebuild(key), self.rebuild(part)) for key, part in value.items()]
        if all(
            new[0] is key and new[1] is part for new, (key, part) in zip(pairs, value.items(), strict=True)
        ):
            return value
        if type(value) is dict:
            return dict(pairs)
        copied = value.copy()
        copied.clear()
        copied.update(pairs)
        return copied

    def _rebuild_sequence(self, value: Any) -> Any:
        parts = [self.rebuild(part) for part in value]
        if all(new is old for new, old in zip(parts, value, strict=True)):
            return value
        kind = type(value)
        return kind(*parts) if hasattr(kind, "_fields") else kind(parts)


def _replace(value: Any, changes: dict[str, Any]) -> Any:
    """A copy of a dataclass with other field values; its ``__init__`` and ``__post_init__`` are not run
    again.
    """
    import copy

    copied = copy.copy(value)
    for name, new in changes.items():
        object.__setattr__(copied, name, new)
    return copied
