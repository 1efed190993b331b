"""What code says: of a function, of a module, of the statements that make a global."""

from __future__ import annotations

import ast
import sys
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from blake3 import blake3

from . import bytecode
from .source import File, file_of, find_node
from .syntax import Syntax
from .weak import WeakTable

__all__ = [
    "MUTATORS",
    "PYTHON",
    "Chain",
    "Code",
    "Fragment",
    "Import",
    "assignments",
    "class_text",
    "code_of",
    "module_code",
]

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
# Methods that change a container.
MUTATORS = frozenset(
    {"add", "append", "appendleft", "clear", "discard", "extend", "extendleft", "insert", "pop"}
    | {"popitem", "popleft", "remove", "setdefault", "update", "__setitem__"}
)
Chain = tuple[str, ...]  # a dotted name


class Import(NamedTuple):
    """One name of an import inside code. name: the member of the module; None for the module itself.

    uses: the dotted names behind it that the code reads; empty for a use that is not known to be of parts.
    """

    module: str
    level: int
    name: str | None
    uses: tuple[Chain, ...] = ()


@dataclass(frozen=True, slots=True)
class Code:
    """What the code of a function says.

    digest: of its normal form. loads: the globals that it reads. imports: what it imports when it runs.
    written: the globals that it changes in place. stored: globals and variables of enclosing functions that
    it binds. assigned, filled: dotted names of any scope that it binds, and whose content it changes.
    decorators: name, or None, and digest of each. text: its source, or what is said in its place.
    compiled: whether bytecode had to be used.
    """

    digest: bytes
    text: str
    loads: tuple[Chain, ...]
    imports: tuple[Import, ...]
    stored: frozenset[str]
    written: frozenset[Chain] = frozenset()
    assigned: frozenset[Chain] = frozenset()
    filled: frozenset[Chain] = frozenset()
    decorators: tuple[tuple[Chain | None, bytes], ...] = ()
    compiled: bool = False


class Fragment(NamedTuple):
    """Code that belongs to no function: of a whole module, or what assigns one of its globals."""

    digest: bytes
    text: str
    loads: tuple[Chain, ...]
    imports: tuple[Import, ...]


_CODES: WeakTable[Code] = WeakTable()


def code_of(function: types.FunctionType) -> Code:
    """What the code of a function says. Computed once for each code object."""
    code = function.__code__
    known = _CODES.get(code)
    if known is None:
        found = find_node(code, function.__globals__)
        try:
            known = _from_bytecode(code) if found is None else _from_node(*found, code)
        except RecursionError:  # an expression of hundreds of levels
            known = _from_bytecode(code)
        _CODES[code] = known
    return known


def module_code(name: str, namespace: Mapping[str, Any]) -> Fragment | None:
    """A whole source file; None if there is none."""
    file = file_of(name, namespace)
    return None if file is None else _fragment(file.statements, "".join(file.lines))


def assignments(namespace: Mapping[str, Any], name: str) -> Fragment | None:
    """The statements of a module that bind this global; None if they are not known."""
    path = namespace.get("__file__")
    file = file_of(path, namespace) if isinstance(path, str) else None
    found = file.binding(name) if file is not None else []
    return _fragment(found, "\n".join(map(file.text, found))) if file is not None and found else None


def class_text(cls: type, namespace: Mapping[str, Any]) -> str | None:
    """A class as it was written, as far as that is known."""
    functions = [value for value in vars(cls).values() if isinstance(value, types.FunctionType)]
    paths = [namespace.get("__file__"), *(function.__code__.co_filename for function in functions)]
    for path in dict.fromkeys(paths):
        file = file_of(path, namespace) if isinstance(path, str) else None
        found = file.classes(cls.__qualname__) if file is not None else []
        if file is not None and found:
            return file.text(found[-1])
    return None


def _from_node(file: File, node: Any, code: types.CodeType) -> Code:
    syntax = Syntax()
    syntax.write_function(node)
    reads, stores = bytecode.global_names(code)
    return Code(
        digest=blake3(b"syntax" + syntax.text()).digest(),
        text=file.text(node),
        loads=tuple(sorted(chain for chain in syntax.loads if chain[0] in reads)),
        imports=_imports(syntax),
        stored=frozenset(stores | (syntax.stored & set(code.co_freevars))),
        written=frozenset(chain for chain in syntax.written if chain[0] in reads),
        assigned=frozenset(syntax.assigned),
        filled=frozenset(_filled(syntax)),
        decorators=tuple(_decorator(one) for one in getattr(node, "decorator_list", ())),
    )


def _from_bytecode(code: types.CodeType) -> Code:
    _, stores = bytecode.global_names(code)
    imports = {Import(module, level, name) for module, level, name in bytecode.imported(code)}
    form = f"bytecode {PYTHON} {bytecode.canonical(code)}"
    return Code(
        digest=blake3(form.encode("utf-8", "surrogatepass")).digest(),
        text=f"bytecode of {code.co_name} on Python {PYTHON}: its source is not known",
        loads=tuple(sorted(bytecode.chains(code))),
        imports=tuple(sorted(imports, key=repr)),
        stored=frozenset(stores),
        compiled=True,
    )


def _decorator(node: Any) -> tuple[Chain | None, bytes]:
    syntax = Syntax()
    syntax.write(node)
    target = node.func if isinstance(node, ast.Call) else node
    parts: list[str] = []
    while isinstance(target, ast.Attribute):
        parts.append(target.attr)
        target = target.value
    name = (target.id, *reversed(parts)) if isinstance(target, ast.Name) else None
    return name, blake3(syntax.text()).digest()


def _filled(syntax: Syntax) -> Iterator[Chain]:
    owners = {chain[:-1] for chain in syntax.assigned}
    yield from (chain for chain in syntax.written if chain not in owners)
    yield from (chain[:-1] for chain in syntax.loads if chain[-1] in MUTATORS and len(chain) > 1)


def _imports(syntax: Syntax) -> tuple[Import, ...]:
    imports = set()
    for module, level, name, bound in syntax.imports:
        first = bound or module.partition(".")[0]
        chains = {chain[1:] for chain in syntax.loads if chain[0] == first}
        if not bound:  # `import a.b` binds a
            inner = tuple(module.split(".")[1:])
            chains = {chain[len(inner) :] if chain[: len(inner)] == inner else () for chain in chains}
        imports.add(Import(module, level, name, () if () in chains else tuple(sorted(chains))))
    return tuple(sorted(imports, key=repr))


def _fragment(statements: list[Any], text: str) -> Fragment:
    syntax = Syntax()
    for statement in statements:
        if not isinstance(statement, ast.Expr) or not isinstance(statement.value, ast.Constant):
            syntax.write(statement)
    digest = blake3(b"statements" + syntax.text()).digest()
    return Fragment(digest, text.rstrip("\n"), tuple(sorted(syntax.loads)), _imports(syntax))
