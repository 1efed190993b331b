"""Values that are reached: by their content, with the code that they hold."""

from __future__ import annotations

import enum
import itertools
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from blake3 import blake3

from . import content, dispatch
from .code import assignments
from .origin import USER, origin_of_module
from .weak import WeakTable

if TYPE_CHECKING:
    from .reach import Reach, Unit

__all__ = ["State"]

_SCALARS = frozenset({int, float, complex, str, bytes, bool, type(None)})
_CONTAINERS = frozenset({list, tuple, dict, set, frozenset})
_OBJECT: Any = object
_BUILT_IN = (int, float, complex, str, bytes, bytearray, list, tuple, dict, set, frozenset, BaseException)


class State:
    """The values of one walk."""

    def __init__(self, reach: Reach) -> None:
        self._reach = reach

    def value(self, value: Any, kind: str, name: str, home: Any = None) -> Unit | str:
        """The unit of a value. home: the globals that it is one of, and its name there."""
        reach = self._reach
        key = ("value", kind, name, id(value)) if home is None else ("value", id(home[0]), home[1])
        known = reach.known(key)
        if known is None:
            known = reach.unit(key, kind, name, value)
            reach.later(lambda unit=known: self._fill(unit, value, home))  # type: ignore[misc]
        return known

    def _fill(self, unit: Unit, value: Any, home: Any) -> None:
        reach = self._reach
        if home is not None and (id(home[0]), home[1]) in reach.written:
            self._fill_written(unit, value, *home)
            return
        said = self._shape(unit, value, "", ())
        unit.own = blake3(said.encode("utf-8", "surrogatepass")).digest()
        name = unit.name.partition(" ")[2]
        unit.text = said if said.endswith(dispatch.NOT_LOOKED_INTO) else content.describe(value, name)

    def _fill_written(self, unit: Unit, value: Any, namespace: Mapping[str, Any], name: str) -> None:
        """What the code changes counts by how it is made, not by what it is just now."""
        found = assignments(namespace, name)
        if found is None:
            unit.text = f"{dispatch.without_content(value)}: the code changes it"
            unit.own = blake3(type(value).__qualname__.encode()).digest()
            return
        unit.text, unit.own = found.text, found.digest
        for chain in found.loads:
            if chain[0] != name:
                self._reach.chain(namespace, chain, unit.edges)

    def _shape(self, unit: Unit, value: Any, path: str, above: tuple[int, ...]) -> str:
        """A text that stands for the value; code that it holds is left to edges of the unit."""
        kind = type(value)
        if kind in _SCALARS:
            return content.digest(value, set()).hex()
        if id(value) in above:
            return f"again {above.index(id(value))}"
        if dispatch.handler(value) is not None:
            target = self._reach.target(value, "value", f"{unit.name.partition(' ')[2]}{path}")
            unit.edges[path or "value"] = target
            return "code" if not isinstance(target, str) else target
        if not dispatch.has_content(value):
            return dispatch.without_content(value)
        inner = (*above, id(value))
        if kind in _CONTAINERS and not _is_plain(value):
            return self._container(unit, value, path, inner)
        if _is_instance_of_user(value):
            return self._instance(unit, value, path, inner)
        return self._opaque(unit, value, path)

    def _container(self, unit: Unit, value: Any, path: str, above: tuple[int, ...]) -> str:
        if isinstance(value, dict):
            items = [
                (self._shape(unit, key, f"{path} key {number}", above), key, part)
                for number, (key, part) in enumerate(value.items())
            ]
            if all(type(key) in _SCALARS for _, key, _ in items):
                items.sort(key=lambda item: item[0])
            parts = [
                f"{said}:{self._shape(unit, part, f'{path}[{key!r}]', above)}" for said, key, part in items
            ]
        else:
            parts = [self._shape(unit, part, f"{path}[{i}]", above) for i, part in enumerate(value)]
            if isinstance(value, (set, frozenset)):
                parts.sort()
        return f"{type(value).__name__}[{','.join(parts)}]"

    def _instance(self, unit: Unit, value: Any, path: str, above: tuple[int, ...]) -> str:
        cls = type(value)
        unit.edges[f"class of {path or 'it'}"] = self._reach.target(cls, "value", cls.__qualname__)
        if isinstance(value, enum.Enum):
            return f"member {value._name_}"
        parts = [
            f"{name}={self._shape(unit, part, f'{path}.{name}', above)}" for name, part in _attributes(value)
        ]
        return f"instance[{','.join(parts)}]"

    def _opaque(self, unit: Unit, value: Any, path: str) -> str:
        cls = type(value)
        origin = origin_of_module(cls.__module__)
        if origin.kind == "package":
            self._reach.leaf(origin, cls.__qualname__)
        said, types = self._digest(value)
        if origin is USER:
            types = types | {cls}
        for one in sorted(types, key=lambda one: one.__qualname__):
            label = f"class {one.__qualname__} in {path or 'it'}"
            unit.edges[label] = self._reach.target(one, "value", one.__qualname__)
        return said

    def _digest(self, value: Any) -> tuple[str, frozenset[type]]:
        known = _DIGESTS.get(value)
        if known is not None:
            return known
        types, before = set[type](), self._reach.inner
        try:
            said = content.digest(value, types).hex()
        except Exception:  # noqa: BLE001  hashing may run code of the user's, which may raise anything
            said = dispatch.without_content(value)
        found = said, frozenset(types)
        if self._reach.inner == before:  # else it holds code, which must be walked each time
            _DIGESTS[value] = found
        return found


# Of what can be referenced weakly: arrays and frames may be large, and several functions read them.
_DIGESTS: WeakTable[tuple[str, frozenset[type]]] = WeakTable()


def _is_plain(value: Any, depth: int = 8) -> bool:
    """Whether a container holds nothing but data of basic types."""
    parts = itertools.chain(value, value.values()) if type(value) is dict else value
    inner = []
    for kind in set(map(type, parts)) - _SCALARS:
        if kind not in _CONTAINERS or not depth:
            return False
        inner.append(kind)
    if not inner:
        return True
    parts = itertools.chain(value, value.values()) if type(value) is dict else value
    return all(_is_plain(part, depth - 1) for part in parts if type(part) in _CONTAINERS)


def _is_instance_of_user(value: Any) -> bool:
    """Whether a value is an instance of a class of the user's that says nothing of how to copy it."""
    cls: Any = type(value)
    if origin_of_module(cls.__module__) is not USER:
        return False
    if isinstance(value, enum.Enum):
        return True
    return (
        not isinstance(value, _BUILT_IN)
        and not hasattr(cls, "__weft_memo__")
        and not content.is_registered(cls)
        and cls.__reduce_ex__ is _OBJECT.__reduce_ex__
        and cls.__reduce__ is _OBJECT.__reduce__
        and getattr(cls, "__getstate__", None) is getattr(object, "__getstate__", None)
    )


def _attributes(value: Any) -> Iterator[tuple[str, Any]]:
    found = dict(getattr(value, "__dict__", {}))
    for cls in type(value).__mro__:
        slots = vars(cls).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name.startswith("__") and not name.endswith("__"):
                name = f"_{cls.__name__.lstrip('_')}{name}"
            if name not in ("__dict__", "__weakref__") and hasattr(value, name):
                found.setdefault(name, getattr(value, name))
    yield from sorted(found.items())
