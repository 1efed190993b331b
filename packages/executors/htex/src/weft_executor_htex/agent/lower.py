"""Python 3.10 made 3.8: what modules that go to a login node use, and the Python there may not know.

Lines stay where they are, so that tracebacks are right. What else is newer than 3.8 in the standard library
is found by the tests, which run the agent there.
"""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Iterator

__all__ = ["LATER", "UnfitError", "lower", "parse"]

OLDEST = (3, 8)
# What stands there for what is newer, under these names: see ``standin/``.
LATER = {"dataclasses": "weft_dataclasses", "text": "weft_text"}

_GENERIC = {
    "list",
    "dict",
    "set",
    "frozenset",
    "tuple",
    "type",
    "deque",
    "Counter",
    "OrderedDict",
    "defaultdict",
}
_NEW_IN_TYPING = {"TypeAlias"}  # which are for annotations alone, and these are not evaluated
_NEW_IN_TEXT = {"removeprefix", "removesuffix"}
_END_OF_WITH = re.compile(rb"(?:\s|,|#[^\n]*)*\)(?:\s|#[^\n]*)*(?=:)")


class UnfitError(Exception):
    """A module that cannot go to a login node, in words."""


class _Edits:
    """Pieces of a source that are replaced, by line and byte. Where one lies within another, that counts."""

    def __init__(self, source: str) -> None:
        self._source = source.encode()
        self._starts = [0]
        for line in self._source.splitlines(keepends=True):
            self._starts.append(self._starts[-1] + len(line))
        self._edits: list[tuple[int, int, bytes]] = []

    def replace(self, start: tuple[int, int], end: tuple[int, int], text: str) -> None:
        first, last = self._at(start), self._at(end)
        lines = self._source[first:last].count(b"\n") - text.count("\n")
        self._edits.append((first, last, text.encode() + b"\\\n" * lines))

    def between(self, start: tuple[int, int], end: tuple[int, int]) -> bytes:
        """What stands there."""
        return self._source[self._at(start) : self._at(end)]

    def close_with(self, end: tuple[int, int]) -> bool:
        """Drop the parenthesis behind which a block begins. Returns whether there is one."""
        first = self._at(end)
        found = _END_OF_WITH.match(self._source, first)
        if found is not None:
            self._edits.append((first, found.end(), b" " + b"\\\n" * found[0].count(b"\n")))
        return found is not None

    def check(self, start: tuple[int, int], expected: str) -> None:
        """Older Pythons misplace what stands in f-strings."""
        first = self._at(start)
        if not self._source.startswith(expected.encode(), first):
            raise UnfitError(f"line {start[0]}: {expected!r} stands where it cannot be replaced")

    def apply(self) -> str:
        parts: list[bytes] = []
        position = 0
        for start, end, text in sorted(self._edits, key=lambda edit: (edit[0], -edit[1])):
            if start >= position:
                parts += [self._source[position:start], text]
                position = end
        return b"".join([*parts, self._source[position:]]).decode()

    def _at(self, place: tuple[int, int]) -> int:
        return self._starts[place[0] - 1] + place[1]


def lower(source: str, tree: ast.Module | None = None) -> str:
    """The same module for Python 3.8; ``tree``: its syntax, if that is known.

    ``zip(..., strict=True)`` is plain there: where it would raise, the lengths have been checked before.
    Raises :class:`UnfitError` for syntax that is newer.
    """
    edits = _Edits(source)
    tree = tree or parse(source)
    generic = _GENERIC | _imported(tree, "collections.abc")
    text = newer = False
    for node in _evaluated(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "typing":
            _lower_typing(node, edits)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            _lower_import(node, edits)
        elif isinstance(node, ast.Call):
            text = _lower_call(node, edits) or text
        elif isinstance(node, ast.Attribute):
            _lower_cache(node, edits)
        elif isinstance(node, ast.AugAssign):
            _lower_union(node, edits)
        elif isinstance(node, (ast.With, ast.AsyncWith)):
            newer = _lower_with(node, edits) or newer
        elif (
            isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id in generic
        ):
            edits.check((node.lineno, node.col_offset), node.value.id)
            edits.replace(_end(node.value), _end(node), "")
    if text:
        place = _after_future(tree)
        edits.replace(place, place, f"; import {LATER['text']}")
    lowered = edits.apply()
    if newer:
        _check(lowered)
    return lowered


def parse(source: str) -> ast.Module:
    """Its syntax. Raises :class:`UnfitError` if that is newer than Python 3.8, and cannot be lowered."""
    try:
        return ast.parse(source, feature_version=OLDEST)
    except SyntaxError:
        tree = ast.parse(source)
        _check(lower(source, tree))
        return tree


def _check(source: str) -> None:
    try:
        ast.parse(source, feature_version=OLDEST)
    except SyntaxError as error:
        raise UnfitError(f"line {error.lineno}: {error.msg}") from error


def _evaluated(tree: ast.AST) -> Iterator[ast.AST]:
    """All but annotations."""
    for field, value in ast.iter_fields(tree):
        if field in ("annotation", "returns"):
            continue
        for node in value if isinstance(value, list) else [value]:
            if isinstance(node, ast.AST):
                yield node
                yield from _evaluated(node)


def _imported(tree: ast.Module, module: str) -> set[str]:
    """The names that are imported from a module."""
    return {
        alias.asname or alias.name
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and node.module == module
        for alias in node.names
    }


def _lower_typing(node: ast.ImportFrom, edits: _Edits) -> None:
    kept = [
        alias.name if alias.asname is None else f"{alias.name} as {alias.asname}"
        for alias in node.names
        if alias.name not in _NEW_IN_TYPING
    ]
    if len(kept) < len(node.names):
        text = f"from typing import {', '.join(kept)}" if kept else "pass"
        edits.replace((node.lineno, node.col_offset), _end(node), text)


def _lower_import(node: ast.Import | ast.ImportFrom, edits: _Edits) -> None:
    """Dataclasses have slots, and fields that are given by name alone, as of Python 3.10."""
    start = node.lineno, node.col_offset
    if isinstance(node, ast.ImportFrom) and node.module == "dataclasses" and not node.level:
        place = node.lineno, node.col_offset + len("from ")
        edits.check(place, "dataclasses ")
        edits.replace(place, (place[0], place[1] + len("dataclasses")), LATER["dataclasses"])
    elif isinstance(node, ast.ImportFrom) and node.module == "functools":
        if any(alias.name == "cache" for alias in node.names):
            raise UnfitError(f"line {node.lineno}: functools.cache is imported by its name")
    elif isinstance(node, ast.Import) and any(alias.name == "dataclasses" for alias in node.names):
        names = [
            f"{LATER['dataclasses']} as {alias.asname or alias.name}"
            if alias.name == "dataclasses"
            else f"{alias.name} as {alias.asname}"
            if alias.asname
            else alias.name
            for alias in node.names
        ]
        edits.replace(start, _end(node), f"import {', '.join(names)}")


def _lower_call(node: ast.Call, edits: _Edits) -> bool:
    """Returns whether it needs functions for texts."""
    function = node.func
    if isinstance(function, ast.Name) and function.id == "zip":
        for keyword in node.keywords:
            edits.replace(_end(node.args[-1]), _end(keyword.value), "")
    elif isinstance(function, ast.Attribute) and function.attr in _NEW_IN_TEXT and len(node.args) == 1:
        start, (line, column) = (node.lineno, node.col_offset), _end(function)
        column -= len(function.attr) + 1
        edits.check((line, column), f".{function.attr}(")
        edits.replace(start, start, f"{LATER['text']}.{function.attr}(")
        edits.replace((line, column), (line, column + len(function.attr) + 2), ", ")
        return True
    return False


def _lower_cache(node: ast.Attribute, edits: _Edits) -> None:
    if node.attr == "cache" and isinstance(node.value, ast.Name) and node.value.id == "functools":
        edits.replace((node.lineno, node.col_offset), _end(node), "functools.lru_cache(maxsize=None)")


def _lower_union(node: ast.AugAssign, edits: _Edits) -> None:
    """``table |= {...}``, of dictionaries as of Python 3.9."""
    if isinstance(node.op, ast.BitOr) and isinstance(node.value, ast.Dict):
        edits.replace(_end(node.target), (node.value.lineno, node.value.col_offset), ".update(")
        edits.replace(_end(node.value), _end(node.value), ")")


def _lower_with(node: ast.With | ast.AsyncWith, edits: _Edits) -> bool:
    """``with (a as b, c as d):``, and what is in parentheses alone. Returns whether it is so."""
    first, last = node.items[0], node.items[-1]
    start = first.context_expr.lineno, first.context_expr.col_offset
    before = edits.between((node.lineno, node.col_offset), start)
    if b"(" not in before:
        return False
    if edits.close_with(_end(last.optional_vars or last.context_expr)):
        word = "async with" if isinstance(node, ast.AsyncWith) else "with"
        edits.replace((node.lineno, node.col_offset), start, f"{word} ")
        for one, other in itertools.pairwise(node.items):
            place = other.context_expr.lineno, other.context_expr.col_offset
            edits.replace(_end(one.optional_vars or one.context_expr), place, ", ")
    return True


def _after_future(tree: ast.Module) -> tuple[int, int]:
    """The end of the statement behind which something can be imported."""
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module == "__future__":
            return _end(node)
    raise UnfitError("it does not import annotations from __future__: they would be evaluated")


def _end(node: ast.expr | ast.stmt) -> tuple[int, int]:
    assert node.end_lineno is not None
    assert node.end_col_offset is not None
    return node.end_lineno, node.end_col_offset
