"""What a function is, for memoization: a digest that changes when what it does may have changed."""

from __future__ import annotations

import contextlib
import functools
import json
import sys
import threading
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from blake3 import blake3
from weft_interfaces import InputError

from .code import PYTHON
from .known import Known
from .origin import module_name, origin_of_namespace
from .reach import Reach, graph_digest, part_digests
from .weak import WeakTable

__all__ = ["POLICIES", "FunctionIdentity", "full_name", "identify_class", "identify_function"]

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
    table = _KNOWN.get(function)
    if table is not None and not _walks.reaches:
        known = table.get((policy, version))
        if known is not None and known.holds(function):
            identity: FunctionIdentity = known.identity
            return identity
    return _identify(function, policy, version)


def identify_class(cls: type) -> FunctionIdentity:
    """What a class is: its methods, attributes and bases, with all that they reach. See
    :func:`identify_function`.
    """
    return identify_function(cls)


class _Walks(threading.local):
    """The walks of this thread that are under way: hashing a value may need the identity of a function."""

    def __init__(self) -> None:
        self.reaches: list[Reach] = []

    @contextlib.contextmanager
    def of(self, reach: Reach) -> Iterator[None]:
        self.reaches.append(reach)
        try:
            yield
        finally:
            self.reaches.pop()


_walks = _Walks()
_KNOWN: WeakTable[dict[tuple[str, str | None], Known]] = WeakTable(10_000)


def _identify(function: Callable[..., Any], policy: str, version: str | None) -> FunctionIdentity:
    if policy not in POLICIES:
        raise InputError(f"memo policy: {policy!r} is not one of {', '.join(map(repr, POLICIES))}")
    reach = Reach(deep=policy == "deep")
    outer = _walks.reaches
    if policy == "name" or any(one.root is function for one in outer):
        identity = _by_name(function, version)
    else:
        with _walks.of(reach):
            reach.walk(function)
        identity = _by_code(reach, policy, version)
    if outer:
        # Inside a value that another walk hashes: a cycle may have been cut here, so that this is no
        # identity to be known by elsewhere.
        outer[-1].absorb(reach)
        return identity
    known = Known(identity, reach, function)
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
        namespace = getattr(inner, "__globals__", None) or vars(sys.modules["__main__"])
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
