"""Python 3.10 made 3.8: the few things that the interchange's modules use and a login node may not know.

Lines stay where they are, so that tracebacks are right. What else is newer than 3.8 is found by the tests,
which run
the agent there.
"""

from __future__ import annotations

import ast

__all__ = ["lower"]

_GENERIC = {"list", "dict", "set", "tuple", "deque", "Counter", "OrderedDict", "defaultdict"}
_NEW_IN_TYPING = {"TypeAlias"}  # which are for annotations alone, and these are not evaluated


class _Edits:
    """Pieces of a source that are replaced, by line and byte."""

    def __init__(self, source: str) -> None:
        self._source = source.encode()
        self._starts = [0]
        for line in self._source.splitlines(keepends=True):
            self._starts.append(self._starts[-1] + len(line))
        self._edits: list[tuple[int, int, bytes]] = []

    def replace(self, start: tuple[int, int], end: tuple[int, int], text: str) -> None:
        first, last = (self._starts[line - 1] + column for line, column in (start, end))
        lines = self._source[first:last].count(b"\n") - text.count("\n")
        self._edits.append((first, last, text.encode() + b"\\\n" * lines))

    def apply(self) -> str:
        result = self._source
        for start, end, text in sorted(self._edits, reverse=True):
            result = result[:start] + text + result[end:]
        return result.decode()


def lower(source: str) -> str:
    """The same module for Python 3.8.

    ``zip(..., strict=True)`` is plain there: where it would raise, the lengths have been checked before.
    """
    edits = _Edits(source)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module == "typing":
            _lower_import(node, edits)
        elif isinstance(node, ast.Call):
            _lower_call(node, edits)
    return edits.apply()


def _lower_import(node: ast.ImportFrom, edits: _Edits) -> None:
    kept = [alias.name for alias in node.names if alias.name not in _NEW_IN_TYPING]
    if len(kept) < len(node.names):
        text = f"from typing import {', '.join(kept)}" if kept else "pass"
        edits.replace((node.lineno, node.col_offset), _end(node), text)


def _lower_call(node: ast.Call, edits: _Edits) -> None:
    function = node.func
    if isinstance(function, ast.Name) and function.id == "zip":
        for keyword in node.keywords:
            edits.replace(_end(node.args[-1]), _end(keyword.value), "")
    elif isinstance(function, ast.Subscript):
        generic = function.value
        if isinstance(generic, ast.Name) and generic.id in _GENERIC:
            edits.replace(_end(generic), _end(function), "")


def _end(node: ast.expr | ast.stmt) -> tuple[int, int]:
    assert node.end_lineno is not None
    assert node.end_col_offset is not None
    return node.end_lineno, node.end_col_offset
