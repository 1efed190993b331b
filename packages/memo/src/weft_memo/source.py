"""Source files, and the syntax behind code objects with the proof that it is theirs.

A file may have been edited since it was imported, and code may have been rewritten on its way in: a node
counts as the source of a code object only if compiling its statement gives that very code.
"""

from __future__ import annotations
import __future__

import ast
import functools
import linecache
import operator
import textwrap
import threading
import types
import warnings
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from typing import Any

from . import bytecode

__all__ = ["DYNAMIC", "File", "file_of", "find_node"]

_FLAGS = [getattr(__future__, name).compiler_flag for name in __future__.all_feature_names]
_FUTURES = functools.reduce(operator.or_, _FLAGS) & ~0xFF  # lower ones mean other things in code objects
_AWAIT = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT  # notebooks have such
_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_FAILURES = (SyntaxError, ValueError, RecursionError, MemoryError)
_WARNINGS = threading.Lock()


class File:
    """A source text with its syntax tree. Raises ``SyntaxError`` and the like."""

    def __init__(self, name: str, lines: list[str]) -> None:
        self.name = name
        self.lines = lines
        with _WARNINGS, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree: Any = compile("".join(lines), name, "exec", ast.PyCF_ONLY_AST | _AWAIT, dont_inherit=True)
        self.statements: list[Any] = tree.body
        self._starts = [_first_line(statement) for statement in tree.body]
        self._imports = _import_statement(tree.body)
        self._codes: dict[tuple[int, int], list[types.CodeType]] = {}

    def find(self, code: types.CodeType) -> Any:
        """The node that gives this code when it is compiled; None if none does."""
        index = bisect_right(self._starts, code.co_firstlineno) - 1
        node = self._find_in(index, code) if index >= 0 else None
        if node is not None:
            return node
        word = "lambda" if code.co_name == "<lambda>" else code.co_name
        for position in range(len(self.statements)):  # an edit may have moved it
            if position != index and self._mentions(position, word):
                node = self._find_in(position, code)
                if node is not None:
                    return node
        return None

    def text(self, node: Any) -> str:
        """The node as it was written, without the margin."""
        lines = self.lines[_first_line(node) - 1 : node.end_lineno]
        return textwrap.dedent("".join(lines)).rstrip("\n")

    def binding(self, name: str) -> list[Any]:
        """The statements that bind a name of the module."""
        return [one for one in self.statements if name in _targets(one)]

    def classes(self, qualname: str) -> list[Any]:
        """The definitions of a class."""
        nodes = self.statements
        for name in qualname.split("."):
            if name != "<locals>":
                inside = [part for node in nodes for part in ast.walk(node)]
                nodes = [node for node in inside if isinstance(node, _SCOPES) and node.name == name]
        return [node for node in nodes if isinstance(node, ast.ClassDef)]

    def _mentions(self, position: int, word: str) -> bool:
        node = self.statements[position]
        return any(word in line for line in self.lines[_first_line(node) - 1 : node.end_lineno])

    def _find_in(self, position: int, code: types.CodeType) -> Any:
        compiled = [
            one
            for one in self._compiled(position, code.co_flags & _FUTURES)
            if one.co_name == code.co_name and bytecode.same(one, code)
        ]
        if not compiled:
            return None
        exact = [one for one in compiled if one.co_firstlineno == code.co_firstlineno] or compiled[:1]
        nodes = [
            node
            for node in _functions(self.statements[position], code.co_name)
            if _first_line(node) == exact[0].co_firstlineno
        ]
        if len(nodes) > 1:
            nodes = _narrowed(nodes, exact, code)
        return nodes[0] if len(nodes) == 1 else None

    def _compiled(self, position: int, flags: int) -> list[types.CodeType]:
        known = self._codes.get((position, flags))
        if known is None:
            module = ast.Module([*self._imports, self.statements[position]], [])
            with _WARNINGS, warnings.catch_warnings():
                warnings.simplefilter("ignore")
                code = compile(module, self.name, "exec", flags | _AWAIT, dont_inherit=True)
            known = self._codes[position, flags] = list(bytecode.nested(code))
        return known


# What cloudpickle calls the file of code that came by value, as methods of a script's classes do when an
# instance comes back from a worker process: they replace those that are there.
DYNAMIC = "<dynamic-code>"
_FILES: dict[str, File] = {}


def file_of(name: str, namespace: Mapping[str, Any]) -> File | None:
    """The source file of this name, parsed once for each content; None if none can be parsed.

    namespace: the globals of the module, whose loader may have the source.
    """
    hints = {key: namespace[key] for key in ("__name__", "__loader__", "__spec__") if key in namespace}
    lines = linecache.getlines(name, hints)
    if not lines:
        return None
    known = _FILES.get(name)
    if known is None or known.lines is not lines:
        try:
            known = File(name, lines)
        except _FAILURES:
            return None
        _FILES[name] = known
    return known


def find_node(code: types.CodeType, namespace: Mapping[str, Any]) -> tuple[File, Any] | None:
    """The file and the node of a code object; None if its source is not known any more."""
    names = [code.co_filename]
    if isinstance(namespace.get("__file__"), str):
        names.append(namespace["__file__"])  # a script may have changed its directory
    elif code.co_filename == DYNAMIC:
        names += [name for name, entry in list(linecache.cache.items()) if _is_cell(entry)]
    for file in _versions(dict.fromkeys(names), namespace):
        try:
            node = file.find(code)
        except _FAILURES:
            continue
        if node is not None:
            return file, node
    return None


def _versions(names: Mapping[str, None], namespace: Mapping[str, Any]) -> Iterator[File]:
    """As they were when they were last looked at, and as they are now."""
    for name in names:
        before = file_of(name, namespace)
        if before is not None:
            yield before
        linecache.checkcache(name)
        after = file_of(name, namespace)
        if after is not None and after is not before:
            yield after


def _functions(statement: Any, name: str) -> Iterator[Any]:
    """Those of this name, in a statement."""
    if name == "<lambda>":
        yield from (node for node in ast.walk(statement) if isinstance(node, ast.Lambda))
        return
    waiting = [statement]
    while waiting:
        node = waiting.pop()
        if isinstance(node, _SCOPES[:2]) and node.name == name:
            yield node
        for field in ("body", "orelse", "finalbody", "handlers", "cases"):
            inner = getattr(node, field, None)
            if isinstance(inner, list):
                waiting += inner


def _is_cell(entry: tuple[Any, ...]) -> bool:
    """Whether a source was given to linecache and read from no file, as a notebook's cells are."""
    return len(entry) == 4 and entry[1] is None


def _first_line(node: Any) -> int:
    decorators = getattr(node, "decorator_list", None)
    line: int = decorators[0].lineno if decorators else node.lineno
    return line


def _import_statement(statements: list[Any]) -> list[ast.stmt]:
    """One that binds what the module imports: how an attribute of such a name is loaded depends on it."""
    names: dict[str, None] = {}
    waiting = list(statements)
    while waiting:
        node = waiting.pop()
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names.update((one.asname or one.name.partition(".")[0], None) for one in node.names)
        elif not isinstance(node, (*_SCOPES, ast.expr)):
            waiting += ast.iter_child_nodes(node)
    names.pop("*", None)
    place = {"lineno": 1, "col_offset": 0, "end_lineno": 1, "end_col_offset": 0}
    aliases = [ast.alias(name=name, asname=None, **place) for name in names]
    return [ast.Import(names=aliases, **place)] if aliases else []


def _targets(node: Any) -> set[str]:
    if not isinstance(node, (ast.Assign, ast.AnnAssign, ast.AugAssign)):
        return set()
    names = (one for one in ast.walk(node) if isinstance(one, ast.Name))
    return {one.id for one in names if not isinstance(one.ctx, ast.Load)}


def _narrowed(nodes: list[Any], twins: list[types.CodeType], code: types.CodeType) -> list[Any]:
    """Of several functions that begin in one line, those that are this code's."""
    if len(twins) > 1:
        place = _extent(code)
        twins = [twin for twin in twins if _extent(twin) == place] or twins
    place = _extent(twins[0])
    if place is not None:
        around = [node for node in nodes if _holds(node, place)]
        if around:  # the innermost
            return [max(around, key=lambda node: (node.lineno, node.col_offset))]
    words = bytecode.words(code)
    alike = [node for node in nodes if bytecode.words_of_node(node) == words]
    return alike[:1] if len({ast.dump(node) for node in alike}) == 1 else []


def _extent(code: Any) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """Where it begins and ends; None before Python 3.11, and where places are left out."""
    positions = code.co_positions() if hasattr(code, "co_positions") else ()
    places = [place for place in positions if None not in place and place[2:] != (0, 0)]
    if not places:
        return None
    return min((p[0], p[2]) for p in places), max((p[1], p[3]) for p in places)


def _holds(node: Any, place: tuple[tuple[int, int], tuple[int, int]]) -> bool:
    start, end = (node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset)
    return start <= place[0] and place[1] <= end
