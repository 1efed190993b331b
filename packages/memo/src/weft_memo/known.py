"""Whether an identity that was found earlier is still right."""

from __future__ import annotations

import operator
import types
import weakref
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from .reach import MISSING

if TYPE_CHECKING:
    from .identity import FunctionIdentity
    from .reach import Reach

__all__ = ["Known"]

_Getter = Callable[[Mapping[str, Any]], tuple[Any, ...]]
_STEADY = (types.FunctionType, types.BuiltinFunctionType, types.ModuleType, type)
_code = operator.attrgetter("__code__")


class Known:
    """An identity, and the bindings under which it is right.

    Checked at each call, so every step is one that runs in C. Data is known by its address, so that nothing
    large is kept alive: a weak reference tells when it is gone, and only what cannot be referenced weakly is
    kept.
    """

    __slots__ = (
        "_absent",
        "_cells",
        "_code",
        "_codes",
        "_data",
        "_functions",
        "_gone",
        "_kept",
        "_steady",
        "identity",
    )

    def __init__(self, identity: FunctionIdentity, reach: Reach, root: Any) -> None:
        self.identity = identity
        self._gone: list[Any] = []
        self._kept: list[Any] = []
        self._steady: list[tuple[Mapping[str, Any], _Getter, tuple[Any, ...]]] = []
        self._data: list[tuple[Mapping[str, Any], _Getter, list[int]]] = []
        self._absent: list[tuple[Mapping[str, Any], tuple[str, ...]]] = []
        for namespace, bindings in reach.namespaces.values():
            self._watch(namespace, bindings, root)
        self._cells = [(cell, self._address(value)) for cell, value in reach.cells]
        self._functions = [function for function in reach.functions if function is not root]
        self._codes = [*map(_code, self._functions)]
        self._code = getattr(root, "__code__", None)

    def holds(self, root: Any) -> bool:
        """Whether all that was bound then is bound now."""
        if self._gone or (self._code is not None and root.__code__ is not self._code):
            return False
        try:
            for namespace, values, steady in self._steady:
                if values(namespace) != steady:
                    return False
            for namespace, values, addresses in self._data:
                if [*map(id, values(namespace))] != addresses:
                    return False
            for namespace, names in self._absent:
                if not namespace.keys().isdisjoint(names):
                    return False
            for cell, address in self._cells:
                if id(cell.cell_contents) != address:
                    return False
        except (KeyError, ValueError):  # a name, or the content of a cell, is gone
            return False
        return [*map(_code, self._functions)] == self._codes

    def _watch(self, namespace: Mapping[str, Any], bindings: Mapping[str, Any], root: Any) -> None:
        steady, data, absent = {}, {}, []
        for name, value in bindings.items():
            if value is MISSING:
                absent.append(name)
            elif type(value) in _STEADY and value is not root:  # these are equal only to themselves
                steady[name] = value
            else:
                data[name] = value
        if steady:
            getter, values = _getter(steady)
            self._steady.append((namespace, getter, values))
        if data:
            getter, values = _getter(data)
            self._data.append((namespace, getter, [*map(self._address, values)]))
        if absent:
            self._absent.append((namespace, tuple(absent)))

    def _address(self, value: Any) -> int:
        try:
            self._kept.append(weakref.ref(value, self._gone.append))
        except TypeError:
            self._kept.append(value)
        return id(value)


def _getter(bindings: Mapping[str, Any]) -> tuple[_Getter, tuple[Any, ...]]:
    # With one name twice, so that the getter returns a tuple in any case.
    names = (*bindings, next(iter(bindings)))
    return operator.itemgetter(*names), tuple(bindings[name] for name in names)
