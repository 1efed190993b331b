"""What a function is, for memoization: a digest that changes when what it does may have changed."""

from __future__ import annotations

import functools
import json
import operator
import types
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from blake3 import blake3
from weft_interfaces import InputError

from .origin import module_name, origin_of_namespace
from .reach import MISSING, Reach, graph_digest, part_digests
from .source import PYTHON
from .weak import WeakTable

__all__ = ["POLICIES", "FunctionIdentity", "identify_class", "identify_function"]

POLICIES = ("deep", "body", "name")


@dataclass(frozen=True, slots=True)
class FunctionIdentity:
    """What a function is.

    digest: of everything that counts. parts: the digest of each part by its readable name, such as ``"helper
    app.norm"``, ``"global app.SCALE"``, ``"package numpy"``. descriptions: by digest, what a part says: the
    source of code, the content of values.
    """

    digest: bytes
    parts: Mapping[str, bytes] = field(repr=False)
    descriptions: Mapping[bytes, str] = field(repr=False)


def identify_function(
    function: Callable[..., Any], policy: str | None = None, version: str | None = None
) -> FunctionIdentity:
    """What a function is, under a policy.

    ``"deep"``: its code, and all code and values of the user's that it reaches; installed packages count by
    their version. ``"body"``: its own code and closure. ``"name"``: its module and name. A version counts
    besides; without a policy, which is ``"deep"`` otherwise, it counts with the name.

    Computed once for each function object, and again when a global that it reaches is bound to another
    object, or when a function that it reaches has got other code; a value that is changed in place is not
    noticed. Threads may call it at once. Raises :class:`InputError` for an unknown policy.
    """
    if policy is None:
        policy = "deep" if version is None else "name"
    key = (policy, version)
    table = _KNOWN.get(function)
    if table is not None:
        known = table.get(key)
        if known is not None and known.holds():
            return known.identity
    return _identify(function, policy, version)


def identify_class(cls: type) -> FunctionIdentity:
    """What a class is: its methods, attributes and bases, with all that they reach. See
    :func:`identify_function`.
    """
    return identify_function(cls)


_KNOWN: WeakTable[dict[tuple[str, str | None], Any]] = WeakTable()


def _identify(function: Callable[..., Any], policy: str, version: str | None) -> FunctionIdentity:
    if policy not in POLICIES:
        raise InputError(f"memo policy: {policy!r} is not one of {', '.join(map(repr, POLICIES))}")
    reach = Reach(deep=policy == "deep")
    if policy == "name":
        identity = _by_name(function, version)
    else:
        reach.walk(function)
        identity = _by_code(reach, policy, version)
    known = _Known(identity, reach)
    table = _KNOWN.get(function)
    if table is None:
        _KNOWN[function] = table = {}
    table[policy, version] = known
    return identity


def _by_code(reach: Reach, policy: str, version: str | None) -> FunctionIdentity:
    parts = part_digests(reach.units)
    descriptions = {parts[unit.name]: unit.text for unit in reach.units}
    digest = graph_digest(reach, policy)
    for name, number in sorted(reach.packages.items()):
        text = f"{name} {number}"
        parts[f"package {name}"] = one = _digest("package", name, number)
        descriptions[one] = text
    if reach.python:
        parts["python"] = one = _digest("python", PYTHON)
        descriptions[one] = f"Python {PYTHON}: bytecode is compared where a source is not known"
    return _finish(digest, parts, descriptions, policy, version)


def _by_name(function: Any, version: str | None) -> FunctionIdentity:
    while origin_of_type(function) == "weft" and hasattr(function, "__wrapped__"):
        function = function.__wrapped__
    inner = function
    while isinstance(inner, functools.partial):
        inner = inner.func
    name = full_name(inner)
    digest = _digest("name", name)
    return _finish(digest, {f"name {name}": digest}, {digest: name}, "name", version)


def full_name(function: Any) -> str:
    """``app.simulate``: the module, under the name that it can be imported by, and the qualified name."""
    if not hasattr(function, "__qualname__"):
        function = type(function)
    name = getattr(function, "__module__", None)
    namespace: Mapping[str, Any] = {"__name__": name}
    if name == "__main__":
        inner = getattr(function, "__func__", function)
        namespace = getattr(inner, "__globals__", None) or vars(__import__("__main__"))
    return f"{module_name(namespace)}.{function.__qualname__}"


def origin_of_type(value: Any) -> str:
    """Whose the class of a value is."""
    return origin_of_namespace({"__name__": type(value).__module__}).kind


def _finish(
    digest: bytes,
    parts: dict[str, bytes],
    descriptions: dict[bytes, str],
    policy: str,
    version: str | None,
) -> FunctionIdentity:
    if version is not None:
        digest = _digest("version", version, digest.hex())
        parts["version"] = one = _digest("version", version)
        descriptions[one] = version
    said = {
        "policy": policy,
        "version": version,
        "parts": {name: part.hex() for name, part in sorted(parts.items())},
    }
    if digest in parts.values():
        digest = _digest("identity", digest.hex())
    descriptions[digest] = json.dumps(said)
    return FunctionIdentity(digest, types.MappingProxyType(parts), types.MappingProxyType(descriptions))


def _digest(*parts: str) -> bytes:
    return blake3("\0".join(parts).encode("utf-8", "surrogatepass")).digest()


_code = operator.attrgetter("__code__")
_alive: Any = weakref.ref.__call__


class _Known:
    """An identity, and the bindings under which it is right.

    Bound objects are known by their address alone, so that nothing large is kept alive: a weak reference
    tells when one is gone, and only what cannot be referenced weakly is kept.
    """

    __slots__ = ("_absent", "_cells", "_codes", "_functions", "_gone", "_kept", "_namespaces", "identity")

    def __init__(self, identity: FunctionIdentity, reach: Reach) -> None:
        self.identity = identity
        self._gone: list[Any] = []
        self._kept: list[Any] = []
        self._namespaces: list[tuple[Mapping[str, Any], Any, Any]] = []
        self._absent: list[tuple[Mapping[str, Any], tuple[str, ...]]] = []
        for namespace, bindings in reach.namespaces.values():
            self._watch(namespace, bindings)
        self._cells = [(cell, self._address(value)) for cell, value in reach.cells]
        self._functions = [weakref.ref(function) for function in reach.functions]
        self._codes = [id(function.__code__) for function in reach.functions]
        self._kept += [function.__code__ for function in reach.functions]

    def holds(self) -> bool:
        """Whether all that was bound then is bound now."""
        if self._gone:
            return False
        try:
            for namespace, values, addresses in self._namespaces:
                if [*map(id, values(namespace))] != addresses:
                    return False
            for namespace, names in self._absent:
                if not namespace.keys().isdisjoint(names):
                    return False
            for cell, address in self._cells:
                if id(cell.cell_contents) != address:
                    return False
            return [*map(id, map(_code, map(_alive, self._functions)))] == self._codes
        except (KeyError, ValueError, AttributeError):  # a name, the content of a cell or a function is gone
            return False

    def _watch(self, namespace: Mapping[str, Any], bindings: Mapping[str, Any]) -> None:
        there = {name: value for name, value in bindings.items() if value is not MISSING}
        absent = tuple(name for name in bindings if name not in there)
        if there:
            # One name more than needed makes the getter return a tuple in any case.
            names = (*there, next(iter(there)))
            addresses = [self._address(there[name]) for name in names]
            self._namespaces.append((namespace, operator.itemgetter(*names), addresses))
        if absent:
            self._absent.append((namespace, absent))

    def _address(self, value: Any) -> int:
        try:
            self._kept.append(weakref.ref(value, self._gone.append))
        except TypeError:
            self._kept.append(value)
        return id(value)
