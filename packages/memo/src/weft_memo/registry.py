"""What users say of types of their own, and of others'."""

from __future__ import annotations

from collections.abc import Callable
from functools import singledispatch
from typing import Any, TypeVar, overload

from .encoding import LEAVES
from .node import SPLITS

__all__ = ["id_for_memo", "registered"]

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])
FIXED = (*LEAVES, *SPLITS)


@singledispatch
def _simpler(value: Any) -> Any:
    raise NotImplementedError


class IdForMemo:
    """``id_for_memo(value)`` is the digest of a value; ``id_for_memo.register`` says what counts of a type's.

    ::

        @id_for_memo.register(Model)
        def _(model):
            return model.name, model.weights

    The function returns bytes, or a simpler value, which is hashed in its place with the name of the class.
    It holds for subclasses, too, unless one has a function, or a method ``__weft_memo__``, of its own. The
    type may be left to the annotation of the parameter, as :func:`functools.singledispatch` has it. Threads
    may call it.
    """

    def __call__(self, value: Any) -> bytes:
        from .hasher import digest

        return digest(value)

    @overload
    def register(self, cls: type[T]) -> Callable[[F], F]: ...
    @overload
    def register(self, cls: F) -> F: ...
    @overload
    def register(self, cls: type[T], func: F) -> F: ...
    def register(self, cls: Any, func: Any = None) -> Any:
        """Raises ``TypeError`` for a type whose values are hashed by what they are: int, list, ..."""
        if func is None and isinstance(cls, type):
            self._check(cls)
            return lambda function: self.register(cls, function)
        if func is None:
            before = set(_simpler.registry)
            _simpler.register(cls)
            for kind in set(_simpler.registry) - before:
                self._check(kind)
            function = cls
        else:
            self._check(cls)
            function = _simpler.register(cls, func)
        from .kinds import forget

        forget()
        return function

    def _check(self, cls: Any) -> None:
        if cls in FIXED:
            raise TypeError(
                f"id_for_memo.register: values of {cls.__name__} are hashed by what they are; register a "
                "class of your own"
            )


id_for_memo = IdForMemo()


def registered(kind: type) -> tuple[type, Callable[[Any], Any]] | None:
    """The class that a function was registered for, the nearest to the given one, and that function."""
    function = _simpler.dispatch(kind)
    if function is _simpler.registry[object] and function.__module__ == __name__:
        return None
    found = [cls for cls, one in _simpler.registry.items() if one is function]
    return next((cls for cls in kind.__mro__ if cls in found), found[0]), function
