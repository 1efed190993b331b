"""Finds futures inside arguments, and puts their values in their place."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import itertools
import logging
import sys
from collections.abc import Callable, Collection
from concurrent.futures._base import FINISHED
from operator import is_
from typing import Any

from ._interfaces import FutureMisuseError, Shared
from .future import Future

__all__ = [
    "ATOMS",
    "DEEP",
    "SHALLOW",
    "DeepResolver",
    "ShallowResolver",
    "cancel_foreign",
    "error_of",
    "is_future",
    "unshare",
    "value_of",
    "watch_foreign",
]

_log = logging.getLogger("weft")

# No instance of these can be or hold a future: what most arguments are is passed over with one look-up.
ATOMS = frozenset(
    {int, float, complex, str, bytes, bytearray, bool, type(None), range, slice, type, memoryview}
)
_CONTAINERS = (list, tuple, set, frozenset)
_FUTURE_METHODS = ("add_done_callback", "done", "result", "exception")


def is_future(value: Any) -> bool:
    """Whether a value is a future: the standard library's, asyncio's, or an awaitable that looks like these.

    By its type alone: what a proxy says of itself may be untrue, or raise.
    """
    kind = type(value)
    if issubclass(kind, concurrent.futures.Future):
        return True
    return hasattr(kind, "__await__") and all(hasattr(kind, name) for name in _FUTURE_METHODS)


def error_of(future: Any) -> BaseException | None:
    """The error of a future that is done, cancellation being one."""
    if type(future) is Future:
        return future._exception
    try:
        error: BaseException | None = future.exception()
    except (concurrent.futures.CancelledError, asyncio_cancelled()) as cancelled:
        return concurrent.futures.CancelledError(*cancelled.args)
    except Exception as broken:  # noqa: BLE001  a future that cannot say has failed
        return broken
    return error


def value_of(future: Any) -> Any:
    """The value of a future that is done, and has one."""
    if type(future) is Future and future._state is FINISHED and future._exception is None:
        return future._result
    if not future.done():  # or this would wait for it, perhaps for ever
        raise FutureMisuseError(
            f"{future!r} was put into an argument after the call, which does not wait for it: "
            "pass a copy of a container that changes later"
        )
    return future.result()


def unshare(value: Any) -> Any:
    """An argument with values in the place of what stands for shared ones, for a call in this process."""
    kind = type(value)
    if kind in ATOMS:
        return value
    return value.value if kind is Shared else _Rebuilder(_shared_value, Shared).rebuild(value)


def _shared_value(shared: Any) -> Any:
    return shared.value


def watch_foreign(future: Any, callback: Callable[[Any], object]) -> bool:
    """Call ``callback(future)`` once a future that is not the kernel's is done; False if it already is."""
    if future.done():
        return False
    loop = getattr(future, "get_loop", None)
    try:
        if loop is None:
            future.add_done_callback(callback)
        else:
            # asyncio's futures may be touched by their loop's thread alone.
            loop().call_soon_threadsafe(future.add_done_callback, callback)
    except Exception as error:  # noqa: BLE001  its loop is closed, for one: nobody will ever complete it
        failed: concurrent.futures.Future[Any] = concurrent.futures.Future()
        failed.set_exception(error)
        callback(failed)
    return True


def cancel_foreign(future: Any) -> None:
    """Cancel a future that is not the kernel's, if it can be."""
    loop = getattr(future, "get_loop", None)
    try:
        if loop is None:
            future.cancel()
        else:
            loop().call_soon_threadsafe(future.cancel)
    except Exception:  # noqa: BLE001  its loop is closed, for one: it does not run any more
        _log.debug("%r could not be cancelled", future, exc_info=True)


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


def _inside(value: Any) -> Collection[Any] | None:
    """What a container holds; None if it is none."""
    kind = type(value)
    if issubclass(kind, dict):
        return [*value.keys(), *value.values()]
    if issubclass(kind, _CONTAINERS):
        return value  # type: ignore[no-any-return]
    if hasattr(kind, "__dataclass_fields__"):
        return [getattr(value, field.name, None) for field in dataclasses.fields(kind)]
    return None


class _Rebuilder:
    """Copies the parts of a value that lead to a future, each once.

    A part that leads back to itself is kept there. Nothing recurses: values may be deeper than the stack.
    ``stand_in``: the type of what is replaced, if not futures.
    """

    def __init__(self, result: Callable[[Any], Any], stand_in: type | None = None) -> None:
        self._result = result
        self._stand_in = stand_in
        self._plain = Future if stand_in is None else stand_in
        # By id, each part and what replaces it. The part is held so that no other gets its id.
        self._done: dict[int, tuple[Any, Any]] = {}

    def rebuild(self, value: Any) -> Any:
        waiting = [value]
        while waiting:
            part = waiting.pop()
            if type(part) is _Assemble:
                container = part.container
                self._done[id(container)] = (container, self._assemble(container))
            else:
                self._look_into(part, waiting)
        return self._new(value)

    def _look_into(self, value: Any, waiting: list[Any]) -> None:
        done = self._done
        if type(value) in ATOMS or id(value) in done:
            return
        if is_future(value) if self._stand_in is None else type(value) is self._stand_in:
            done[id(value)] = (value, self._result(value))
            return
        inside = _inside(value)
        if inside is None:
            return
        done[id(value)] = (value, value)
        if ATOMS.issuperset(map(type, inside)):
            return
        waiting.append(_Assemble(value))
        for part in inside:
            kind = type(part)
            if kind is self._plain:
                if id(part) not in done:
                    done[id(part)] = (part, self._result(part))
            elif kind not in ATOMS:
                waiting.append(part)

    def _new(self, part: Any) -> Any:
        done = self._done.get(id(part))
        return part if done is None else done[1]

    def _assemble(self, value: Any) -> Any:
        """A container with new parts, when they are there; itself if none is new."""
        kind = type(value)
        if issubclass(kind, dict):
            return self._assemble_dict(value)
        if issubclass(kind, _CONTAINERS):
            done = self._done
            parts = [done[id(part)][1] if id(part) in done else part for part in value]
            if all(map(is_, parts, value)):
                return value
            return kind(*parts) if hasattr(kind, "_fields") else kind(parts)
        changes = {}
        for field in dataclasses.fields(kind):
            old = getattr(value, field.name, None)
            new = self._new(old)
            if new is not old:
                changes[field.name] = new
        return _replace(value, changes) if changes else value

    def _assemble_dict(self, value: dict[Any, Any]) -> Any:
        pairs = [(self._new(key), self._new(part)) for key, part in value.items()]
        if all(map(is_, itertools.chain.from_iterable(pairs), itertools.chain.from_iterable(value.items()))):
            return value
        if type(value) is dict:
            return dict(pairs)
        copied = value.copy()
        copied.clear()
        for key, part in pairs:  # not update(): a Counter counts what it is given
            copied[key] = part
        return copied


class _Assemble:
    """Stands for a container in the list of what is to be done, after its parts."""

    __slots__ = ("container",)

    def __init__(self, container: Any) -> None:
        self.container = container


def _replace(value: Any, changes: dict[str, Any]) -> Any:
    """A copy of a dataclass with other field values, made without running its ``__init__`` again."""
    import copy

    copied = copy.copy(value)
    for name, new in changes.items():
        object.__setattr__(copied, name, new)
    return copied
