"""What a function reaches: a graph of code and values, walked from the function outwards.

::

    function ──> helpers, classes, modules of the user's     each a unit, with its edges in order
            └──> globals, closures, defaults                 by their digest
            └──> the standard library, Weft                  by name
            └──> installed packages                          by distribution and version

A unit's own digest says nothing of its neighbours, so that an explanation names just what has changed.
Numbering units in the order of the walk makes cycles harmless: equal graphs give equal lists.
"""

from __future__ import annotations

import builtins
import functools
import sys
import types
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from blake3 import blake3

from . import dispatch, imports
from .code import MUTATORS, PYTHON, Code, code_of
from .naming import qualified_name
from .origin import USER, Origin, module_name, origin_of_module, origin_of_namespace
from .source import DYNAMIC
from .state import State

__all__ = ["MISSING", "Reach", "Unit"]

MISSING: Any = object()
_OWN_NAMES = frozenset(
    [
        "__name__",
        "__file__",
        "__doc__",
        "__package__",
        "__spec__",
        "__loader__",
        "__path__",
        "__builtins__",
        "__debug__",
    ]
)
_MUTABLE = ("dict", "list", "set", "deque", "defaultdict", "OrderedDict", "Counter", "bytearray")
_FOREIGN_PLAIN = (int, float, complex, str, bytes, bool, type(None))


class Unit:
    """One thing that is reached: code, a class, a module, or a value.

    name: for people, ``"helper app.norm"``. own: the digest of the thing itself. edges: label and target, a
    unit or the name of what is not looked into.
    """

    __slots__ = ("edges", "kind", "name", "own", "short", "text")

    def __init__(self, kind: str, name: str, short: str) -> None:
        self.kind = kind
        self.name = f"{kind} {name}"
        self.short = short
        self.own = b""
        self.text = ""
        self.edges: dict[str, Unit | str] = {}

    def digest(self) -> bytes:
        """Of the thing and of the names of its neighbours."""
        parts = [self.kind, self.own.hex()]
        for label in sorted(self.edges):
            target = self.edges[label]
            parts += [label, target if isinstance(target, str) else f"{target.kind} {target.short}"]
        return blake3("\0".join(parts).encode("utf-8", "surrogatepass")).digest()


class Reach:
    """One walk. deep: whether it goes beyond the function's own code and closure."""

    def __init__(self, *, deep: bool = True) -> None:
        self.deep = deep
        self.units: list[Unit] = []
        self.packages: dict[str, str] = {}
        self.python = False
        self.namespaces: dict[int, tuple[Mapping[str, Any], dict[str, Any]]] = {}
        self.functions: list[types.FunctionType] = []
        self.cells: list[tuple[types.CellType, Any]] = []
        self.written: set[tuple[int, str]] = set()
        self.root: Any = None
        self.inner = 0  # walks of functions inside values
        self._known: dict[Any, Unit] = {}
        self._alive: list[Any] = []
        self._names: dict[str, int] = {}
        self._waiting: deque[Callable[[], None]] = deque()
        self._values: deque[Callable[[], None]] = deque()
        self.state = State(self)

    def walk(self, root: Any) -> None:
        """Follow everything from here."""
        self.root = root
        target = self.target(root, "value", "the function")
        if isinstance(target, str):  # what has no code of the user's
            unit = self.unit(("root",), "function", target, root)
            unit.own = blake3(target.encode()).digest()
            unit.text = target
        while self._waiting or self._values:
            # Values last: by then it is known which of them the code changes.
            (self._waiting or self._values).popleft()()

    def unit(self, key: Any, kind: str, name: str, value: Any, short: str = "") -> Unit:
        """A new unit, under a name of its own."""
        if kind == "helper" and not self.units:
            kind = "function"
        full = f"{kind} {name}"
        count = self._names[full] = self._names.get(full, 0) + 1
        unit = Unit(kind, name if count == 1 else f"{name} #{count}", short or name.rpartition(".")[2])
        self.units.append(unit)
        self._known[key] = unit
        self._alive.append(value)
        return unit

    def known(self, key: Any) -> Unit | None:
        """The unit with this key, if it was reached before."""
        return self._known.get(key)

    def later(self, work: Callable[[], None]) -> None:
        """Do this when all code known so far has been walked."""
        self._values.append(work)

    def soon(self, work: Callable[[], None]) -> None:
        """Do this after what is being done."""
        self._waiting.append(work)

    def absorb(self, other: Reach) -> None:
        """Depend on what a walk of a function inside a value depends on."""
        self.inner += 1
        self.python |= other.python
        self.packages.update(other.packages)
        self.functions += other.functions
        self.cells += other.cells
        for key, (namespace, bindings) in other.namespaces.items():
            self.namespaces.setdefault(key, (namespace, {}))[1].update(bindings)

    def bind(self, namespace: Mapping[str, Any], name: str) -> Any:
        """The value of a global, noted as one that the identity depends on."""
        value = namespace.get(name, MISSING)
        self.namespaces.setdefault(id(namespace), (namespace, {}))[1][name] = value
        return value

    def leaf(self, origin: Origin, text: str) -> str:
        """The name of something that is not looked into."""
        if origin.kind == "package":
            self.packages[origin.name] = origin.version
        return text

    def target(self, value: Any, kind: str, name: str, key: Any = None) -> Unit | str:
        """What an edge to this value leads to. kind, name: what the value is called if it is data."""
        handler = dispatch.handler(value)
        if handler is not None:
            found: Unit | str = handler(self, value, name)
            return found
        return self.state.value(value, kind, name, key)

    def function(self, function: types.FunctionType) -> Unit | str:
        """A Python function: by its code if it is the user's."""
        known = self._known.get(id(function))
        if known is not None:
            return known
        origin = origin_of_namespace(function.__globals__)
        if origin.kind == "weft":
            return _qualified(function)
        if origin is USER:
            unit = self.unit(id(function), "helper", _readable(function), function, function.__name__)
            self.functions.append(function)
            self.soon(functools.partial(self._fill, unit, function, is_root=function is self.root))
            return unit
        text = self.leaf(origin, _qualified(function))
        if not function.__closure__ and not hasattr(function, "__wrapped__"):
            return qualified_name(function)
        unit = self.unit(id(function), "helper", text, function, text)
        unit.own, unit.text = blake3(text.encode()).digest(), text
        self.soon(functools.partial(self._fill_foreign, unit, function))
        return unit

    def chain(
        self, namespace: Mapping[str, Any], chain: tuple[str, ...], edges: dict[str, Unit | str]
    ) -> None:
        """Follow a dotted name that is read from a module's globals."""
        name = chain[0]
        if name in _OWN_NAMES:
            return
        value = self.bind(namespace, name)
        if value is MISSING:
            known = hasattr(builtins, name)
            edges[name] = f"builtins.{name}" if known else f"the undefined name {name}"
            return
        self.member(namespace, value, chain, edges)

    def member(
        self, namespace: Mapping[str, Any], value: Any, chain: tuple[str, ...], edges: dict[str, Unit | str]
    ) -> None:
        """Follow the rest of a dotted name, through the modules of the user's."""
        used = 1
        while isinstance(value, types.ModuleType):
            origin = origin_of_namespace(vars(value))
            if origin is not USER:
                text = ".".join((value.__name__, *chain[used:]))
                edges[".".join(chain)] = self.leaf(origin, text)
                return
            if used == len(chain) or chain[used] in _OWN_NAMES:
                break
            inner = self.bind(vars(value), chain[used])
            if inner is MISSING:
                inner = sys.modules.get(f"{value.__name__}.{chain[used]}", MISSING)
                if inner is MISSING:
                    break
            namespace, value, used = vars(value), inner, used + 1
        label, name = ".".join(chain[:used]), chain[used - 1]
        edges[label] = self.global_value(namespace, name, value, chain[used:])

    def global_value(
        self, namespace: Mapping[str, Any], name: str, value: Any, rest: tuple[str, ...] = ()
    ) -> Unit | str:
        """The unit of a global; ``rest`` is what the code does with it."""
        if rest and rest[-1] in MUTATORS and type(value).__name__ in _MUTABLE:
            self.written.add((id(namespace), name))
        return self.target(value, "global", f"{module_name(namespace)}.{name}", (namespace, name))

    def _fill(self, unit: Unit, function: types.FunctionType, *, is_root: bool) -> None:
        code = code_of(function)
        self.python |= code.compiled
        unit.text = code.text
        namespace = _namespace(function)
        decorators = [digest for chain, digest in code.decorators if not self._is_weft(namespace, chain)]
        unit.own = blake3(b"".join([code.digest, *decorators])).digest()
        edges = unit.edges
        self._closure(edges, function, code)
        if not is_root:
            self._defaults(edges, function)
        if not self.deep:
            return
        for name in code.stored:
            self.written.add((id(namespace), name))
        for chain in code.written:
            self._note_written(namespace, chain)
        for chain in code.loads:
            self.chain(namespace, chain, edges)
        for one in code.imports:
            imports.follow(self, one, namespace, edges)
        if hasattr(function, "__wrapped__"):
            edges["wrapped"] = self.target(
                function.__wrapped__, "value", f"{_readable(function)}.__wrapped__"
            )

    def _fill_foreign(self, unit: Unit, function: types.FunctionType) -> None:
        """A function of a library that was made for the user: what of the user's it holds."""
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            value = _contents(cell)
            self.cells.append((cell, value))
            if type(value) in _FOREIGN_PLAIN or dispatch.is_code(value):
                label = f"closure {_readable(function)}"
                unit.edges[f"closure {name}"] = self.target(value, label, name)
        registry = getattr(function, "registry", None)
        if isinstance(registry, types.MappingProxyType):  # functools.singledispatch
            for cls, one in registry.items():
                unit.edges[f"for {cls.__qualname__}"] = self.target(one, "value", cls.__qualname__)
        if hasattr(function, "__wrapped__"):
            unit.edges["wrapped"] = self.target(function.__wrapped__, "value", "__wrapped__")

    def _closure(self, edges: dict[str, Unit | str], function: types.FunctionType, code: Code) -> None:
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            label = f"closure {name}"
            value = _contents(cell)
            if name in code.stored:
                edges[label] = "a variable that the code itself changes: not looked into"
            elif value is MISSING:
                edges[label] = "not yet set"
            else:
                self.cells.append((cell, value))
                edges[label] = self.target(value, "closure", f"{_readable(function)}.{name}")

    def _defaults(self, edges: dict[str, Unit | str], function: types.FunctionType) -> None:
        names = function.__code__.co_varnames[: function.__code__.co_argcount]
        defaults = function.__defaults__ or ()
        given = dict(zip(names[len(names) - len(defaults) :], defaults, strict=True))
        for name, value in {**given, **(function.__kwdefaults__ or {})}.items():
            edges[f"default {name}"] = self.target(value, "default", f"{_readable(function)}.{name}")

    def _note_written(self, namespace: Mapping[str, Any], chain: tuple[str, ...]) -> None:
        value = namespace.get(chain[0], MISSING)
        for position, name in enumerate(chain[1:], 1):
            if not isinstance(value, types.ModuleType):
                self.written.add((id(namespace), chain[position - 1]))
                return
            namespace, value = vars(value), vars(value).get(name, MISSING)
        self.written.add((id(namespace), chain[-1]))

    def _is_weft(self, namespace: Mapping[str, Any], chain: tuple[str, ...] | None) -> bool:
        if chain is None:
            return False
        value = namespace.get(chain[0])
        for name in chain[1:]:
            value = getattr(value, name, None)
        module = getattr(value, "__module__", None)
        return isinstance(module, str) and origin_of_module(module).kind == "weft"


def _namespace(function: types.FunctionType) -> Mapping[str, Any]:
    """The globals of a function; of one that came by value those of the module that it is from, so that it
    reaches what its original does.
    """
    own = function.__globals__
    if function.__code__.co_filename == DYNAMIC:
        module = sys.modules.get(own.get("__name__", ""))
        if isinstance(module, types.ModuleType):
            return vars(module)
    return own


def _contents(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return MISSING


def _qualified(function: types.FunctionType) -> str:
    return f"{function.__globals__.get('__name__')}.{function.__qualname__}"


def _readable(function: types.FunctionType) -> str:
    """``app.norm``; a wrapper is called after its own code too."""
    name, own = function.__qualname__, function.__code__.co_name
    text = f"{module_name(function.__globals__)}.{name}"
    return text if own in (function.__name__, "<lambda>") else f"{text} ({own})"


def part_digests(units: Iterable[Unit]) -> dict[str, bytes]:
    """The parts of an identity, by readable name."""
    return {unit.name: unit.digest() for unit in units}


def graph_digest(reach: Reach, policy: str) -> bytes:
    """Of everything, with the shape of the graph."""
    numbers = {id(unit): str(number) for number, unit in enumerate(reach.units)}
    out = [policy, PYTHON if reach.python else ""]
    for unit in reach.units:
        out += ["unit", unit.kind, unit.own.hex()]
        for label in sorted(unit.edges):
            target = unit.edges[label]
            out += [label, "=" + target if isinstance(target, str) else numbers[id(target)]]
    for name, version in sorted(reach.packages.items()):
        out += ["package", name, version]
    return blake3("\0".join(out).encode("utf-8", "surrogatepass")).digest()
