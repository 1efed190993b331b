"""A canonical form of code: the same for every Python, whatever its comments, layout and docstrings."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from typing import Any

__all__ = ["Syntax"]

# What makes no difference to what the code does, or follows from the rest.
_IGNORED = frozenset({"ctx", "kind", "type_comment", "type_ignores", "simple"})
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_SCOPES = (*_FUNCTIONS, ast.ClassDef, ast.Module)
_PLANS: dict[type, tuple[str, tuple[tuple[str, str], ...]]] = {}


class Syntax:
    """Writes nodes in their canonical form, and notes which names they load, store and import.

    loads: dotted names, as tuples. assigned: those that are bound. written: those that are changed in place
    (``name[0] = 1``, ``name.x = 1``). stored: names that are declared global or nonlocal, and bound.
    imports: (module, level, name or None, bound as); an empty text for what an import binds by itself.
    """

    def __init__(self) -> None:
        self._out: list[str] = []
        self.loads: set[tuple[str, ...]] = set()
        self.written: set[tuple[str, ...]] = set()
        self.assigned: set[tuple[str, ...]] = set()
        self.declared: set[str] = set()
        self._bound: set[str] = set()
        self.imports: set[tuple[str, int, str | None, str]] = set()
        self._in_class = False

    @property
    def stored(self) -> set[str]:
        return self.declared & self._bound

    def text(self) -> bytes:
        """What has been written."""
        return "".join(self._out).encode("utf-8", "surrogatepass")

    def write_function(self, node: Any) -> None:
        """A function itself: its decorators and the expressions of its defaults, which have been evaluated
        already, are left out.
        """
        annotated = bool(getattr(node, "decorator_list", ()))
        self._out.append(f"({type(node).__name__} ")
        if not isinstance(node, ast.Lambda):
            self._string(node.name)
        self._arguments(node.args, annotated=annotated, defaults=False)
        if annotated and getattr(node, "returns", None) is not None:
            self._annotation(node.returns)
        self._scope(node.body if isinstance(node.body, list) else [node.body], in_class=False)
        self._out.append(")")

    def write(self, node: ast.AST) -> None:
        """Any node."""
        kind = type(node)
        special = _SPECIAL.get(kind)
        if special is not None:
            special(self, node)
            return
        plan = _PLANS.get(kind)
        if plan is None:
            fields = tuple((name, f" {name}=") for name in kind._fields if name not in _IGNORED)
            plan = _PLANS[kind] = "(" + kind.__name__, fields
        out = self._out
        out.append(plan[0])
        for name, label in plan[1]:
            value = getattr(node, name, None)
            if value is None or value == []:
                continue
            out.append(label)
            if isinstance(value, ast.AST):
                self.write(value)
            elif isinstance(value, list):
                self._list(value)
            else:
                self._value(value)
        out.append(")")

    def _value(self, value: Any) -> None:
        if isinstance(value, ast.AST):
            self.write(value)
        elif isinstance(value, list):
            self._list(value)
        elif isinstance(value, str):
            self._string(value)
        elif value is None:
            self._out.append("-")
        else:
            self._out.append(f"#{value}")

    def _list(self, values: Iterable[Any]) -> None:
        self._out.append("[")
        for value in values:
            if type(value) is ast.Pass or (type(value) is ast.Expr and type(value.value) is ast.Constant):
                continue  # does nothing; docstrings are such
            self._value(value)
        self._out.append("]")

    def _string(self, value: str) -> None:
        self._out.append(f"{len(value)}'{value}'")

    def _name(self, node: ast.Name) -> None:
        self._out.append(f"(N {node.id})")
        if type(node.ctx) is ast.Load:
            self.loads.add((node.id,))
        else:
            self._bound.add(node.id)

    def _attribute(self, node: ast.Attribute) -> None:
        chain = _chain(node)
        if chain is None:
            self._out.append(f"(A {node.attr} ")
            self.write(node.value)
            self._out.append(")")
            return
        self._out.append(f"(A* {'.'.join(chain)})")
        if type(node.ctx) is ast.Load:
            self.loads.add(chain)
        else:
            self.loads.add(chain[:-1])
            self.written.add(chain[:-1])
            self.assigned.add(chain)

    def _subscript(self, node: ast.Subscript) -> None:
        if type(node.ctx) is not ast.Load and (chain := _chain(node.value)) is not None:
            self.written.add(chain)
        self._out.append("(S ")
        self.write(node.value)
        self.write(node.slice)
        self._out.append(")")

    def _constant(self, node: ast.Constant) -> None:
        value: Any = node.value
        kind = type(value)
        if kind is str:
            self._string(value)
        elif kind is bytes:
            self._out.append(f"b'{value.hex()}'")
        elif kind is int:
            self._out.append(f"i{value:x};")
        elif kind is float:
            self._out.append(f"f{value.hex()};")
        elif kind is complex:
            self._out.append(f"j{value.imag.hex()};")
        else:
            self._out.append(f"c{value};")

    def _joined(self, node: ast.JoinedStr) -> None:
        # Versions of Python cut the constant parts of such strings differently.
        self._out.append("(F ")
        constant = ""
        for part in node.values:
            if isinstance(part, ast.Constant) and isinstance(part.value, str):
                constant += part.value
                continue
            if constant:
                self._string(constant)
                constant = ""
            self.write(part)
        if constant:
            self._string(constant)
        self._out.append(")")

    def _nested_function(self, node: Any) -> None:
        self._bound.add(node.name)
        self._out.append(f"({type(node).__name__} ")
        self._string(node.name)
        self._list(node.decorator_list)
        self._arguments(node.args, annotated=bool(node.decorator_list))
        if node.decorator_list and node.returns is not None:
            self._annotation(node.returns)
        self._scope(node.body, in_class=False)
        self._out.append(")")

    def _lambda(self, node: ast.Lambda) -> None:
        self._out.append("(Lambda ")
        self._arguments(node.args, annotated=False)
        self._scope([node.body], in_class=False)
        self._out.append(")")

    def _class(self, node: ast.ClassDef) -> None:
        self._bound.add(node.name)
        self._out.append("(ClassDef ")
        self._string(node.name)
        for part in (node.decorator_list, node.bases, node.keywords, getattr(node, "type_params", ())):
            self._list(part)
        self._scope(node.body, in_class=True)
        self._out.append(")")

    def _scope(self, body: list[Any], *, in_class: bool) -> None:
        before, self._in_class = self._in_class, in_class
        self._list(body)
        self._in_class = before

    def _arguments(self, node: ast.arguments, *, annotated: bool, defaults: bool = True) -> None:
        self._out.append("(args ")
        groups: tuple[tuple[str, Iterable[ast.arg | None]], ...] = (
            ("p", node.posonlyargs),
            ("a", node.args),
            ("v", (node.vararg,)),
            ("k", node.kwonlyargs),
            ("w", (node.kwarg,)),
        )
        for letter, parameters in groups:
            for parameter in parameters:
                if parameter is None:
                    continue
                self._out.append(f"{letter} {parameter.arg};")
                if annotated and parameter.annotation is not None:
                    self._annotation(parameter.annotation)
        if defaults:
            self._list(node.defaults)
            self._list(node.kw_defaults)
        self._out.append(")")

    def _annotation(self, node: ast.AST) -> None:
        """One that a decorator may read; what it names is not reached by the code."""
        loads, self.loads = self.loads, set()
        self._out.append(":")
        self.write(node)
        self.loads = loads

    def _annotated(self, node: ast.AnnAssign) -> None:
        self._out.append("(AnnAssign ")
        self.write(node.target)
        if self._in_class:
            self._annotation(node.annotation)
        if node.value is not None:
            self.write(node.value)
        self._out.append(")")

    def _declaration(self, node: ast.Global | ast.Nonlocal) -> None:
        self.declared.update(node.names)
        self._out.append(f"({type(node).__name__} {' '.join(node.names)})")

    def _import(self, node: ast.Import) -> None:
        for alias in node.names:
            bound = alias.asname or alias.name.partition(".")[0]
            self._bound.add(bound)
            self.imports.add((alias.name, 0, None, alias.asname or ""))
        self._generic_import(node)

    def _import_from(self, node: ast.ImportFrom) -> None:
        for alias in node.names:
            self._bound.add(alias.asname or alias.name)
            self.imports.add((node.module or "", node.level, alias.name, alias.asname or alias.name))
        self._generic_import(node)

    def _generic_import(self, node: ast.Import | ast.ImportFrom) -> None:
        module = f"{'.' * node.level}{node.module or ''}" if isinstance(node, ast.ImportFrom) else ""
        names = ",".join(f"{alias.name} {alias.asname or ''}" for alias in node.names)
        self._out.append(f"(Import {module}:{names})")


def _chain(node: ast.AST) -> tuple[str, ...] | None:
    """``a.b.c`` as ("a", "b", "c"); None for what does not begin with a name."""
    parts: list[str] = []
    while type(node) is ast.Attribute:
        parts.append(node.attr)
        node = node.value
    if type(node) is not ast.Name:
        return None
    parts.append(node.id)
    return tuple(reversed(parts))


_SPECIAL: dict[type, Any] = {
    ast.Name: Syntax._name,
    ast.Attribute: Syntax._attribute,
    ast.Subscript: Syntax._subscript,
    ast.Constant: Syntax._constant,
    ast.JoinedStr: Syntax._joined,
    ast.FunctionDef: Syntax._nested_function,
    ast.AsyncFunctionDef: Syntax._nested_function,
    ast.Lambda: Syntax._lambda,
    ast.ClassDef: Syntax._class,
    ast.AnnAssign: Syntax._annotated,
    ast.Global: Syntax._declaration,
    ast.Nonlocal: Syntax._declaration,
    ast.Import: Syntax._import,
    ast.ImportFrom: Syntax._import_from,
}
