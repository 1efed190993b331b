"""The serializer that executors use: pickle protocol 5, with functions by value where they cannot be
imported.

The standard pickler sends functions and classes by name, so those of ``__main__`` and of notebooks do not
arrive. A pickler that sends them by value (cloudpickle's) is passed in by the executor that depends on it:
this package depends on nothing.
"""

from __future__ import annotations

import hashlib
import importlib
import io
import pickle
import sys
import threading
import types
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from .errors import SerializationError
from .serializer import FunctionPayload

__all__ = ["PickleSerializer", "in_band", "is_plain", "make_serializer"]

_PROTOCOL = 5
# Values of these types hold no function or class, so that the standard pickler is right for them, and it is
# fastest.
_PLAIN = frozenset({int, float, str, bytes, bool, type(None), complex})


class PickleSerializer:
    """Pickles with ``pickler``, a subclass of :class:`pickle.Pickler`; cloudpickle's also takes what is in
    ``__main__``.
    """

    def __init__(self, pickler: type[pickle.Pickler] = pickle.Pickler) -> None:
        self._pickler = _with_wrapped_functions(pickler)
        self._functions: weakref.WeakKeyDictionary[Any, _KnownFunction] = weakref.WeakKeyDictionary()
        self._lock = threading.Lock()

    def dumps(
        self, value: Any, what: str, buffer_callback: Callable[[pickle.PickleBuffer], object] | None = None
    ) -> bytes:
        """See :meth:`Serializer.dumps`."""
        try:
            if is_plain(value):
                return pickle.dumps(value, _PROTOCOL)
            return self._dumps(value, buffer_callback)
        except Exception as error:
            raise self._explain(value, what, error) from error

    def dump(
        self, value: Any, file: Any, buffer_callback: Callable[[pickle.PickleBuffer], object] | None = None
    ) -> None:
        """Write the value to ``file``: its ``write`` gets what is large inside in pieces, uncopied.

        Raises what the value, or ``file``, raises.
        """
        self._pickler(file, _PROTOCOL, buffer_callback=buffer_callback).dump(value)

    def loads(self, data: bytes | memoryview, what: str, buffers: Iterable[Any] = ()) -> Any:
        """See :meth:`Serializer.loads`."""
        try:
            return _load(data, buffers)
        except Exception as error:
            message = f"{what} cannot be unpickled: {type(error).__name__}: {error}"
            raise SerializationError(message, what) from error

    def dumps_function(self, function: Callable[..., Any]) -> FunctionPayload:
        """See :meth:`Serializer.dumps_function`.

        A function that travels by value is sent again when a global that it reads has been bound to another
        object since; a global that was changed in place is not noticed.
        """
        if not isinstance(function, types.FunctionType) and not _is_of_module(function):
            return self._function_payload(function)
        with self._lock:
            known = self._functions.get(function)
        if known is None or known.is_stale():
            reads = _globals_read(function) if isinstance(function, types.FunctionType) else ()
            known = _KnownFunction(self._function_payload(function), tuple(reads))
            with self._lock:
                self._functions[function] = known
        return known.payload

    def _function_payload(self, function: Callable[..., Any]) -> FunctionPayload:
        data = self.dumps(function, f"the function {getattr(function, '__qualname__', function)!r}", in_band)
        return FunctionPayload(hashlib.blake2b(data, digest_size=16).digest(), data)

    def _dumps(
        self, value: Any, buffer_callback: Callable[[pickle.PickleBuffer], object] | None = None
    ) -> bytes:
        file = io.BytesIO()
        self.dump(value, file, buffer_callback)
        return file.getvalue()

    def _explain(self, value: Any, what: str, error: Exception) -> SerializationError:
        steps, culprit = "", value
        for _ in range(20):
            for step, part in _parts(culprit):
                if not self._can_dump(part):
                    steps, culprit = steps + step, part
                    break
            else:
                break
        kind = f"{type(culprit).__module__}.{type(culprit).__qualname__}".removeprefix("builtins.")
        where = f"its part {steps.strip()}" if steps else "it"
        message = f"{what} cannot be pickled: {where} is of type {kind} ({type(error).__name__}: {error})"
        return SerializationError(message, what + steps)

    def _can_dump(self, value: Any) -> bool:
        try:
            self._dumps(value)
        except Exception:  # noqa: BLE001  pickling runs code of the user's
            return False
        return True


def make_serializer(pickler: str = "pickle:Pickler") -> PickleSerializer:
    """The serializer whose pickler has this name, ``module:class``: for processes that are told by name."""
    module, _, name = pickler.partition(":")
    return PickleSerializer(getattr(importlib.import_module(module), name))


class _KnownFunction:
    """A function's payload, and the bindings that it depends on."""

    __slots__ = ("_bindings", "payload")

    def __init__(
        self, payload: FunctionPayload, bindings: tuple[tuple[Mapping[str, Any], str, Any], ...]
    ) -> None:
        self.payload = payload
        self._bindings = bindings

    def is_stale(self) -> bool:
        return any(namespace.get(name, _MISSING) is not value for namespace, name, value in self._bindings)


_MISSING = object()


def in_band(buffer: pickle.PickleBuffer) -> bool:
    """Keeps a buffer in the bytes, as a callback of :meth:`PickleSerializer.dumps`: they are to be all."""
    return True


def is_plain(value: Any, depth: int = 3) -> bool:
    """Whether a value is made of a few numbers, texts and the like: the standard pickler is right for it."""
    kind = type(value)
    if kind in _PLAIN:
        return True
    if depth and (kind is tuple or kind is list):
        return len(value) <= 64 and all(is_plain(part, depth - 1) for part in value)
    if depth and kind is dict:
        return len(value) <= 64 and all(
            type(key) is str and is_plain(part, depth - 1) for key, part in value.items()
        )
    return False


_SMALL = 1 << 20  # bytes that are searched sooner than an unpickler of our own is made
_SET_STATE = b"_class_setstate"  # cloudpickle's, which sets the attributes of a class that came by value


def _load(data: bytes | memoryview, buffers: Iterable[Any]) -> Any:
    if len(data) < _SMALL and _SET_STATE not in bytes(data):
        return pickle.loads(data, buffers=buffers)
    return _Unpickler(io.BytesIO(data), buffers=buffers).load()


class _Unpickler(pickle.Unpickler):
    """Leaves the classes of this process as they are.

    A class of ``__main__`` that travelled to a worker by value comes back so with the results. cloudpickle
    finds the original, and would put copies in the place of its methods, which read copies of its globals.
    """

    def find_class(self, module: str, name: str) -> Any:
        found = super().find_class(module, name)
        return _unless_native(found) if name == _SET_STATE.decode() else found


def _unless_native(set_state: Callable[[type, Any], Any]) -> Callable[[type, Any], Any]:
    def set_state_of_foreign(kind: type, state: Any) -> Any:
        module = sys.modules.get(kind.__module__)
        native = _attribute(module, kind.__qualname__) is kind
        return kind if native else set_state(kind, state)

    return set_state_of_foreign


def _is_of_module(function: Callable[..., Any]) -> bool:
    """Whether it is a built-in function, and no method of an object that may change."""
    return isinstance(function, types.BuiltinFunctionType) and isinstance(function.__self__, types.ModuleType)


def _globals_read(function: types.FunctionType) -> Iterator[tuple[Mapping[str, Any], str, Any]]:
    """The bindings that a function sent by value depends on: its globals, and those of helpers in the same
    module.
    """
    waiting, seen = [function], {function}
    while waiting:
        current = waiting.pop()
        if current.__module__ in sys.modules and current.__module__ != "__main__":
            continue
        namespace = current.__globals__
        for name in _names(current.__code__):
            value = namespace.get(name, _MISSING)
            yield namespace, name, value
            if type(value) is types.FunctionType and value not in seen:
                seen.add(value)
                waiting.append(value)


def _names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    """What a value is made of, with the step in a path that leads there."""
    if isinstance(value, Mapping):
        yield from ((f"[{key!r}]", part) for key, part in value.items())
    elif isinstance(value, (list, tuple, set, frozenset)):
        yield from ((f"[{index}]", part) for index, part in enumerate(value))
    elif isinstance(value, types.FunctionType):
        for name, cell in zip(value.__code__.co_freevars, value.__closure__ or (), strict=False):
            yield f" (variable {name!r} of an enclosing function)", cell.cell_contents
        for name in _names(value.__code__):
            if name in value.__globals__:
                yield f" (global {name!r})", value.__globals__[name]
    elif isinstance(value, BaseException):
        yield from ((f".args[{index}]", part) for index, part in enumerate(value.args))
        yield from ((f".{name}", part) for name, part in vars(value).items())
    elif is_dataclass(value) and not isinstance(value, type):
        yield from ((f".{field.name}", getattr(value, field.name)) for field in fields(value))
    elif hasattr(value, "__dict__") and not isinstance(value, (type, types.ModuleType)):
        yield from ((f".{name}", part) for name, part in vars(value).items())


def _with_wrapped_functions(pickler: type[pickle.Pickler]) -> type[pickle.Pickler]:
    """A pickler that also sends, by name, the function behind a decorator: ``module.name.__wrapped__``.

    Without it such a function would be sent by value, with all the module's globals that it reads.
    """
    inherited = getattr(pickler, "reducer_override", None)

    class Pickler(pickler):  # type: ignore[misc, valid-type]
        def reducer_override(self, value: Any) -> Any:
            if type(value) is types.FunctionType and _is_wrapped_in_its_module(value):
                return _unwrapped, (value.__module__, value.__qualname__)
            return inherited(self, value) if inherited else NotImplemented

    return Pickler


def _is_wrapped_in_its_module(function: types.FunctionType) -> bool:
    if function.__module__ == "__main__" or "<" in function.__qualname__:
        return False
    module = sys.modules.get(function.__module__)
    found = _attribute(module, function.__qualname__) if module else None
    return found is not function and getattr(found, "__wrapped__", None) is function


def _attribute(module: Any, qualname: str) -> Any:
    found = module
    for name in qualname.split("."):
        found = getattr(found, name, None)
    return found


def _unwrapped(module: str, qualname: str) -> Any:
    return _attribute(importlib.import_module(module), qualname).__wrapped__
