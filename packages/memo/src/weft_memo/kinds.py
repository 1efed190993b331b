"""Which class is hashed how: the decision, made once for each class.

A function of the user's comes first (``id_for_memo.register``, ``__weft_memo__``), then what a module of
``types/`` says of its library's classes, then ``standard.py``, then what the class is made of, in
``instance.py``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from enum import Enum
from importlib import import_module
from typing import Any, Final
from weakref import WeakKeyDictionary

from .encoding import text
from .errors import UnknownTypeError
from .naming import is_users_module, qualified_name, top_package
from .node import Node, Split

__all__ = ["forget", "is_users", "resolve"]

LIBRARIES: Final = ("numpy", "pandas", "polars", "pyarrow", "scipy", "torch")

_splits: WeakKeyDictionary[type, Split] = WeakKeyDictionary()


def resolve(kind: type) -> Split:
    """How instances of this class are split.

    Raises :class:`UnknownTypeError` for a class whose instances have no content that could be hashed; what it
    returns does so for single instances.
    """
    split = _splits.get(kind)
    if split is None:
        split = _splits[kind] = _decide(kind)
    return split


def forget() -> None:
    """Decide again: something was registered."""
    _splits.clear()


def is_users(kind: type) -> bool:
    """Whether a class is of the user's own code."""
    return is_users_module(getattr(kind, "__module__", None))


def _decide(kind: type) -> Split:
    simpler = _users_word(kind)
    if simpler is not None:
        return simpler
    for library in _libraries(kind):
        split = import_module(f".types.{library}", __package__).split_for(kind)
        if split is not None:
            return split  # type: ignore[no-any-return]
    if issubclass(kind, Enum):
        return _enum(kind)
    from .instance import instance_split
    from .named import named_split
    from .standard import standard_split

    split = standard_split(kind) or named_split(kind)
    if split is not None:
        return split

    return instance_split(kind)


def _libraries(kind: type) -> list[str]:
    tops = [top_package(getattr(cls, "__module__", None)) for cls in kind.__mro__]
    return list(dict.fromkeys(top for top in tops if top in LIBRARIES and top in sys.modules))


# -- what users say ------------------------------------------------------------------------------------------


def _users_word(kind: type) -> Split | None:
    """What was registered for the class, or its method, whichever is of the nearer class."""
    from .registry import registered

    found = registered(kind)
    for cls in kind.__mro__:
        if found is not None and cls is found[0]:
            break
        if "__weft_memo__" in cls.__dict__:
            if kind.__weft_memo__ is None:  # type: ignore[attr-defined]
                raise UnknownTypeError(qualified_name(kind), "", "its __weft_memo__ is None")
            return _ask(kind, lambda value: type(value).__weft_memo__(value), "its __weft_memo__")
    if found is None or issubclass(kind, type):
        return None
    return _ask(kind, found[1], "the function that id_for_memo.register was given")


def _ask(kind: type, function: Callable[[Any], Any], source: str) -> Split:
    name = qualified_name(kind)
    head = b"M" + text(name)

    def split(value: Any) -> Node:
        try:
            simpler = function(value)
        except Exception as error:
            raise UnknownTypeError(name, "", f"{source} raised {type(error).__name__}: {error}") from error
        if simpler is value:
            raise UnknownTypeError(name, "", f"{source} returned the value itself")
        return Node(head, (simpler,), labels=("",))

    return split


def _enum(kind: type[Enum]) -> Split:
    from enum import Flag

    head = b"E" + text(qualified_name(kind))
    if issubclass(kind, Flag):
        # Combinations have names from Python 3.11 on, and other names in each version.
        return lambda value: Node(head, (value._value_,), labels=(".value",))

    def split(value: Any) -> Node:
        parts = (value._name_,) if type(value._value_) is object else (value._name_, value._value_)
        return Node(head, parts, labels=(".name", ".value")[: len(parts)])

    return split
