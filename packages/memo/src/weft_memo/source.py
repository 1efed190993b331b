"""The syntax behind code objects, as it was written, and proof that it is theirs.

A file may have been edited since it was imported, and code may have been rewritten on its way in: a node counts
as the source of a code object only if compiling its statement gives that very code. Where nothing does, the
bytecode stands in.
"""

from __future__ import annotations
import __future__

import ast
import dis
import functools
import linecache
import operator
import sys
import textwrap
import threading
import types
import warnings
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from blake3 import blake3

from .syntax import Syntax
from .weak import WeakTable

__all__ = [
    "MUTATORS",
    "PYTHON",
    "Code",
    "File",
    "Fragment",
    "Import",
    "assignments",
    "class_text",
    "code_of",
    "file_of",
    "module_code",
]

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
_FUTURES = (
    functools.reduce(
        operator.or_, (getattr(__future__, name).compiler_flag for name in __future__.all_feature_names)
    )
    & ~0xFF
)
_AWAIT = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
_WARNINGS = threading.Lock()


class Import(NamedTuple):
    """One name of an import inside a function. name: the member of the module; None for the module itself.

    uses: the dotted names behind it that the code reads; empty for a use that is not known to be of parts.
    """

    module: str
    level: int
    name: str | None
    uses: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Code:
    """What a code object says.

    digest: of its normal form. loads: the globals that it reads, as dotted names. imports: what it imports
    when it runs. written: the globals that it changes in place, as dotted names. stored: globals and variables of enclosing functions that it binds. decorators: dotted
    name (or None) and digest of each. text: its source, or what is known in its place. python: whether
    bytecode had to be used.
    """

    digest: bytes
    loads: tuple[tuple[str, ...], ...]
    imports: tuple[Import, ...]
    written: frozenset[tuple[str, ...]]
    stored: frozenset[str]
    assigned: frozenset[tuple[str, ...]]
    filled: frozenset[tuple[str, ...]]
    decorators: tuple[tuple[tuple[str, ...] | None, bytes], ...]
    text: str
    python: bool


class File:
    """A source text with its syntax tree."""

    def __init__(self, name: str, lines: list[str]) -> None:
        self.name = name
        self.lines = lines
        with _WARNINGS, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = compile("".join(lines), name, "exec", ast.PyCF_ONLY_AST | _AWAIT, dont_inherit=True)
        assert isinstance(tree, ast.Module)
        self.statements = tree.body
        self._starts = [_first_line(statement) for statement in tree.body]
        self._imports = _import_statement(tree.body)
        self._codes: dict[tuple[int, int], list[types.CodeType]] = {}

    def find(self, code: types.CodeType) -> ast.AST | None:
        """The node that gives this code when it is compiled; None if none does."""
        index = bisect_right(self._starts, code.co_firstlineno) - 1
        order = [index] if index >= 0 else []
        # Also code that an edit moved since it was imported.
        for position in [*order, *(i for i in range(len(self.statements)) if i != index)]:
            near = position == index
            if not near and not self._mentions(position, code.co_name):
                continue
            node = self._find_in(position, code)
            if node is not None:
                return node
        return None

    def text(self, node: Any) -> str:
        """The node as it was written, without the margin."""
        lines = self.lines[_first_line(node) - 1 : node.end_lineno]
        return textwrap.dedent("".join(lines)).rstrip("\n")

    def _mentions(self, position: int, name: str) -> bool:
        if name.startswith("<"):
            return True
        statement = self.statements[position]
        lines = self.lines[_first_line(statement) - 1 : statement.end_lineno]
        return any(name in line for line in lines)

    def _find_in(self, position: int, code: types.CodeType) -> ast.AST | None:
        compiled = [
            one
            for one in self._compiled(position, code.co_flags & _FUTURES)
            if one.co_name == code.co_name and _same(one, code)
        ]
        if not compiled:
            return None
        exact = [one for one in compiled if one.co_firstlineno == code.co_firstlineno]
        twin = (exact or compiled)[0]
        nodes = [
            node
            for node in ast.walk(self.statements[position])
            if isinstance(node, _NAMED.get(code.co_name, _DEFINITIONS))
            and _first_line(node) == twin.co_firstlineno
            and getattr(node, "name", code.co_name) == code.co_name
        ]
        if len(nodes) > 1:
            nodes = _narrowed(nodes, exact or [twin], code)
        return nodes[0] if len(nodes) == 1 else None

    def _compiled(self, position: int, flags: int) -> list[types.CodeType]:
        known = self._codes.get((position, flags))
        if known is None:
            module = ast.Module([*self._imports, self.statements[position]], [])
            with _WARNINGS, warnings.catch_warnings():
                warnings.simplefilter("ignore")
                code = compile(module, self.name, "exec", flags | _AWAIT, dont_inherit=True)
            known = self._codes[position, flags] = list(_nested(code))
        return known


def _import_statement(statements: list[Any]) -> list[ast.stmt]:
    """One that binds what the module imports: how an attribute of such a name is loaded depends on it."""
    names: dict[str, None] = {}
    waiting = list(statements)
    while waiting:
        node = waiting.pop()
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names.update((one.asname or one.name.partition(".")[0], None) for one in node.names)
        elif isinstance(node, (ast.stmt, ast.excepthandler, ast.match_case)) and not isinstance(
            node, _SCOPES
        ):
            waiting += [part for part in ast.iter_child_nodes(node) if not isinstance(part, ast.expr)]
    names.pop("*", None)
    aliases = [
        ast.alias(name, None, lineno=1, col_offset=0, end_lineno=1, end_col_offset=0) for name in names
    ]
    return [ast.Import(aliases, lineno=1, col_offset=0, end_lineno=1, end_col_offset=0)] if aliases else []


_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_DEFINITIONS: tuple[type, ...] = (ast.FunctionDef, ast.AsyncFunctionDef)
_NAMED: dict[str, tuple[type, ...]] = {"<lambda>": (ast.Lambda,)}
_FILES: dict[str, File] = {}
_CODES: WeakTable[Code] = WeakTable()


def file_of(name: str, namespace: Mapping[str, Any]) -> File | None:
    """The source file of this name, parsed once for each content; None if there is none that can be parsed."""
    lines = linecache.getlines(name, dict(namespace) if "__loader__" in namespace else None)
    if not lines:
        return None
    known = _FILES.get(name)
    if known is None or known.lines is not lines:
        try:
            known = File(name, lines)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return None
        _FILES[name] = known
    return known


def code_of(function: types.FunctionType) -> Code:
    """What the code of a function says. Computed once for each code object."""
    code = function.__code__
    known = _CODES.get(code)
    if known is None:
        known = _CODES[code] = _from_source(code, function.__globals__) or _from_bytecode(code)
    return known


def _from_source(code: types.CodeType, namespace: Mapping[str, Any]) -> Code | None:
    names = [code.co_filename]
    if isinstance(namespace.get("__file__"), str):
        names.append(namespace["__file__"])  # a script may have changed its directory
    for name in dict.fromkeys(names):
        for fresh in (False, True):
            if fresh:
                linecache.checkcache(name)
            file = file_of(name, namespace)
            try:
                node = file.find(code) if file is not None else None
                if file is not None and node is not None:
                    return _from_node(file, node, code)
            except (SyntaxError, ValueError, RecursionError, MemoryError):
                pass
    return None


def _from_node(file: File, node: Any, code: types.CodeType) -> Code:
    syntax = Syntax()
    syntax.write_function(node)
    reads, stores = global_reads(code)
    free = set(code.co_freevars)
    decorators = []
    for decorator in getattr(node, "decorator_list", ()):
        one = Syntax()
        one.write(decorator)
        target = decorator.func if isinstance(decorator, ast.Call) else decorator
        decorators.append((_dotted(target), blake3(one.text()).digest()))
    return Code(
        digest=blake3(b"syntax" + syntax.text()).digest(),
        loads=tuple(sorted(chain for chain in syntax.loads if chain[0] in reads)),
        imports=_imports(syntax),
        written=frozenset(chain for chain in syntax.written if chain[0] in reads),
        stored=frozenset(stores | (syntax.stored & free)),
        assigned=frozenset(syntax.assigned),
        filled=frozenset(_filled(syntax)),
        decorators=tuple(decorators),
        text=file.text(node),
        python=False,
    )


def _from_bytecode(code: types.CodeType) -> Code:
    loads: set[tuple[str, ...]] = set()
    imports: set[Import] = set()
    stores: set[str] = set()
    for one in _nested(code):
        chain: tuple[str, ...] = ()
        for instruction in dis.get_instructions(one):
            name, value = instruction.opname, instruction.argval
            if name in ("LOAD_GLOBAL", "LOAD_NAME"):
                chain = (value,)
                loads.add(chain)
            elif chain and name in ("LOAD_ATTR", "LOAD_METHOD"):
                loads.discard(chain)
                chain = (*chain, value)
                loads.add(chain)
            elif name != "CACHE":
                chain = ()
            if name == "IMPORT_NAME":
                imports.add(Import(value, 0, None, ()))
            elif name == "STORE_GLOBAL":
                stores.add(value)
    text = f"bytecode of {code.co_name}, whose source is not known, on Python {PYTHON}"
    return Code(
        digest=blake3(b"bytecode" + PYTHON.encode() + repr(_canonical(code)).encode()).digest(),
        loads=tuple(sorted(loads)),
        imports=tuple(sorted(imports, key=repr)),
        written=frozenset(),
        stored=frozenset(stores),
        assigned=frozenset(),
        filled=frozenset(),
        decorators=(),
        text=text,
        python=True,
    )


MUTATORS = frozenset(
    [
        "add",
        "append",
        "appendleft",
        "clear",
        "discard",
        "extend",
        "extendleft",
        "insert",
        "pop",
        "popitem",
        "popleft",
        "remove",
        "setdefault",
        "update",
        "__setitem__",
    ]
)


def _filled(syntax: Syntax) -> Iterator[tuple[str, ...]]:
    yield from (chain for chain in syntax.written if chain not in {one[:-1] for one in syntax.assigned})
    yield from (chain[:-1] for chain in syntax.loads if chain[-1] in MUTATORS and len(chain) > 1)


class Fragment(NamedTuple):
    """Code that belongs to no function: of a whole module, or what assigns one of its globals."""

    digest: bytes
    text: str
    loads: tuple[tuple[str, ...], ...]
    imports: tuple[Import, ...]


def module_code(name: str, namespace: Mapping[str, Any]) -> Fragment | None:
    """A whole source file; None if there is none."""
    file = file_of(name, namespace)
    return None if file is None else _fragment(file, file.statements, "".join(file.lines))


def assignments(namespace: Mapping[str, Any], name: str) -> Fragment | None:
    """The statements of a module that bind this global; None if they are not known."""
    path = namespace.get("__file__")
    file = file_of(path, namespace) if isinstance(path, str) else None
    if file is None:
        return None
    found = [one for one in file.statements if name in _targets(one)]
    return _fragment(file, found, "\n".join(map(file.text, found))) if found else None


def class_text(cls: type, namespace: Mapping[str, Any]) -> str | None:
    """A class as it was written, as far as that is known."""
    paths = [namespace.get("__file__")]
    functions = [value for value in vars(cls).values() if isinstance(value, types.FunctionType)]
    paths += [function.__code__.co_filename for function in functions]
    for path in dict.fromkeys(paths):
        file = file_of(path, namespace) if isinstance(path, str) else None
        nodes: list[Any] = list(file.statements) if file is not None else []
        for name in cls.__qualname__.split("."):
            inside = [part for node in nodes for part in ast.walk(node)]
            nodes = [node for node in inside if getattr(node, "name", None) == name or name == "<locals>"]
        classes = [node for node in nodes if isinstance(node, ast.ClassDef)]
        if classes and file is not None:
            return file.text(classes[-1])
    return None


def _fragment(file: File, statements: list[Any], text: str) -> Fragment:
    syntax = Syntax()
    for statement in statements:
        if not _is_docstring(statement):
            syntax.write(statement)
    digest = blake3(b"statements" + syntax.text()).digest()
    return Fragment(digest, text.rstrip("\n"), tuple(sorted(syntax.loads)), _imports(syntax))


def _is_docstring(node: Any) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _targets(node: Any) -> set[str]:
    if not isinstance(node, (ast.Assign, ast.AnnAssign, ast.AugAssign)):
        return set()
    return {
        one.id for one in ast.walk(node) if isinstance(one, ast.Name) and not isinstance(one.ctx, ast.Load)
    }


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


def _nested(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _nested(constant)


_GLOBAL_OPS = {dis.opmap["LOAD_GLOBAL"]: sys.version_info >= (3, 11), dis.opmap["LOAD_NAME"]: False}
if "LOAD_FROM_DICT_OR_GLOBALS" in dis.opmap:
    _GLOBAL_OPS[dis.opmap["LOAD_FROM_DICT_OR_GLOBALS"]] = False
_STORES = (dis.opmap["STORE_GLOBAL"], dis.opmap["DELETE_GLOBAL"])


def global_reads(code: types.CodeType) -> tuple[set[str], set[str]]:
    """The names of globals that code, with what is nested in it, reads, and those that it binds."""
    reads: set[str] = set()
    stores: set[str] = set()
    for one in _nested(code):
        names, raw, extended = one.co_names, one.co_code, 0
        for position in range(0, len(raw), 2):
            operation, argument = raw[position], raw[position + 1] | extended
            extended = argument << 8 if operation == dis.EXTENDED_ARG else 0
            shifted = _GLOBAL_OPS.get(operation)
            if shifted is not None:
                reads.add(names[argument >> shifted])
            elif operation in _STORES:
                stores.add(names[argument])
    return reads, stores


def _same(one: types.CodeType, other: types.CodeType) -> bool:
    return _comparable(one) == _comparable(other)


def _comparable(code: types.CodeType) -> tuple[Any, ...]:
    return (
        code.co_code,
        code.co_names,
        code.co_varnames,
        code.co_freevars,
        code.co_cellvars,
        code.co_argcount,
        code.co_posonlyargcount,
        code.co_kwonlyargcount,
        code.co_flags,
        getattr(code, "co_exceptiontable", b""),
        code.co_name,
        tuple(_constant(constant) for constant in code.co_consts),
    )


def _constant(value: Any) -> Any:
    if isinstance(value, types.CodeType):
        return _comparable(value)
    if type(value) is tuple:
        return ("tuple", tuple(_constant(part) for part in value))
    if type(value) is frozenset:
        return ("frozenset", tuple(sorted(repr(_constant(part)) for part in value)))
    return (type(value).__name__, repr(value))


def _canonical(code: types.CodeType) -> tuple[Any, ...]:
    constants = list(code.co_consts)
    if constants and isinstance(constants[0], str) and not _uses_first_constant(code):
        constants[0] = None  # the docstring
    return (
        *_comparable(code)[:11],
        tuple(_canonical(one) if isinstance(one, types.CodeType) else _constant(one) for one in constants),
    )


def _uses_first_constant(code: types.CodeType) -> bool:
    return any(
        instruction.arg == 0 and instruction.opcode in dis.hasconst
        for instruction in dis.get_instructions(code)
    )


def _first_line(node: Any) -> int:
    decorators = getattr(node, "decorator_list", None)
    line: int = decorators[0].lineno if decorators else node.lineno
    return line


def _dotted(node: ast.AST) -> tuple[str, ...] | None:
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return (node.id, *reversed(parts)) if isinstance(node, ast.Name) else None


def _narrowed(nodes: list[Any], twins: list[types.CodeType], code: types.CodeType) -> list[Any]:
    """Of several functions that begin in one line, those that are this code's."""
    if hasattr(code, "co_positions") and len(twins) > 1:
        place = _extent(code)
        twins = [twin for twin in twins if _extent(twin) == place] or twins
    if hasattr(code, "co_positions") and (place := _extent(twins[0])) is not None:
        around = [node for node in nodes if _holds(node, place)]
        if around:  # the innermost
            return [max(around, key=lambda node: (node.lineno, node.col_offset))]
    words = _words_of_code(code)
    return [node for node in nodes if _words_of_node(node) == words]


def _extent(code: Any) -> tuple[tuple[int, int], tuple[int, int]] | None:
    places = [place for place in code.co_positions() if None not in place and place[2:] != (0, 0)]
    if not places:
        return None
    return min((p[0], p[2]) for p in places), max((p[1], p[3]) for p in places)


def _holds(node: Any, place: tuple[tuple[int, int], tuple[int, int]]) -> bool:
    start, end = (node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset)
    return start <= place[0] and place[1] <= end


def _words_of_code(code: types.CodeType) -> set[Any]:
    words: set[Any] = set()
    for one in _nested(code):
        words.update(one.co_names, one.co_varnames, one.co_freevars, one.co_cellvars)
        words.update(
            repr(constant)
            for constant in one.co_consts
            if constant is not None and not isinstance(constant, types.CodeType)
        )
    return {word for word in words if not (isinstance(word, str) and word.startswith((".", "'<")))}


def _words_of_node(node: Any) -> set[Any]:
    words: set[Any] = set()
    for one in ast.walk(node):
        for field in ("id", "attr", "arg", "name"):
            if isinstance(getattr(one, field, None), str):
                words.add(getattr(one, field))
        if isinstance(one, ast.Constant) and one.value is not None:
            words.add(repr(one.value))
    return words
