"""What can be told from compiled code alone."""

from __future__ import annotations

import ast
import dis
import marshal
import sys
import types
from collections.abc import Iterator
from typing import Any

__all__ = ["canonical", "chains", "global_names", "imported", "nested", "same", "words", "words_of_node"]

_GLOBAL_OPS = {dis.opmap["LOAD_GLOBAL"]: sys.version_info >= (3, 11), dis.opmap["LOAD_NAME"]: False}
if "LOAD_FROM_DICT_OR_GLOBALS" in dis.opmap:
    _GLOBAL_OPS[dis.opmap["LOAD_FROM_DICT_OR_GLOBALS"]] = False
_STORES = (dis.opmap["STORE_GLOBAL"], dis.opmap["DELETE_GLOBAL"])


def nested(code: types.CodeType) -> Iterator[types.CodeType]:
    """The code, and all that is defined inside."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from nested(constant)


def global_names(code: types.CodeType) -> tuple[set[str], set[str]]:
    """The names of globals that code, with what is nested in it, reads, and those that it binds."""
    reads: set[str] = set()
    stores: set[str] = set()
    for one in nested(code):
        for operation, shifted in _GLOBAL_OPS.items():
            reads.update(one.co_names[argument >> shifted] for argument in _arguments(one, operation))
        for operation in _STORES:
            stores.update(one.co_names[argument] for argument in _arguments(one, operation))
    return reads, stores


def _arguments(code: types.CodeType, operation: int) -> Iterator[int]:
    """Of each instruction of a kind; faster than :mod:`dis`, which looks at all."""
    raw = code.co_code
    operations = raw[::2]
    position = operations.find(operation)
    while position >= 0:
        argument, shift, before = raw[2 * position + 1], 8, position - 1
        while before >= 0 and operations[before] == dis.EXTENDED_ARG:
            argument |= raw[2 * before + 1] << shift
            shift, before = shift + 8, before - 1
        yield argument
        position = operations.find(operation, position + 1)


def chains(code: types.CodeType) -> set[tuple[str, ...]]:
    """The dotted names of globals that it reads."""
    found: set[tuple[str, ...]] = set()
    for one in nested(code):
        chain: tuple[str, ...] = ()
        for instruction in dis.get_instructions(one):
            if chain and instruction.opname in ("LOAD_ATTR", "LOAD_METHOD"):
                chain = (*chain, instruction.argval)
                continue
            if chain and instruction.opname != "CACHE":
                found.add(chain)
                chain = ()
            if instruction.opcode in _GLOBAL_OPS:
                chain = (instruction.argval,)
    return found


def imported(code: types.CodeType) -> set[tuple[str, int, str | None]]:
    """What it imports: module, level, and the name of a member or None."""
    found: set[tuple[str, int, str | None]] = set()
    for one in nested(code):
        level: Any = 0
        names: Any = None
        for instruction in dis.get_instructions(one):
            if instruction.opname == "IMPORT_NAME":
                members: tuple[str | None, ...] = names or (None,)
                found.update((instruction.argval, level or 0, name) for name in members)
            elif instruction.opname != "CACHE":
                level, names = names, instruction.argval
    return found


def same(one: types.CodeType, other: types.CodeType) -> bool:
    """Whether two code objects do the same, wherever they were written."""
    return _head(one) == _head(other) and _same_constants(one.co_consts, other.co_consts)


def canonical(code: types.CodeType) -> str:
    """A text that is the same for code that does the same, on one minor version of Python."""
    return repr(_without_docstrings(code))


def _same_constants(one: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    if len(one) != len(other):
        return False
    plain, others = [], []
    for constant, counterpart in zip(one, other, strict=True):
        if isinstance(constant, types.CodeType) and isinstance(counterpart, types.CodeType):
            if not same(constant, counterpart):
                return False
        else:
            plain.append(constant)
            others.append(counterpart)
    if any(isinstance(constant, types.CodeType) for constant in (*plain, *others)):
        return False
    # This form, without references, tells 1 from True and 0.0 from -0.0; sets may be in any order.
    if marshal.dumps(plain, 2) == marshal.dumps(others, 2):
        return True
    return [*map(_constant, plain)] == [*map(_constant, others)]


def _head(code: types.CodeType) -> tuple[Any, ...]:
    return (
        code.co_name,
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
    )


def _constant(value: Any) -> Any:
    if type(value) is tuple:
        return ("tuple", tuple(_constant(part) for part in value))
    if type(value) is frozenset:
        return ("frozenset", tuple(sorted(repr(_constant(part)) for part in value)))
    return (type(value).__name__, repr(value))


def _without_docstrings(code: types.CodeType) -> tuple[Any, ...]:
    constants = list(code.co_consts)
    if constants and isinstance(constants[0], str) and not _uses_first_constant(code):
        constants[0] = None
    parts = (
        _without_docstrings(one) if isinstance(one, types.CodeType) else _constant(one) for one in constants
    )
    return (*_head(code), *parts)


def _uses_first_constant(code: types.CodeType) -> bool:
    return any(one.arg == 0 and one.opcode in dis.hasconst for one in dis.get_instructions(code))


def words(code: types.CodeType) -> set[Any]:
    """Names and constants that occur in it."""
    found: set[Any] = set()
    for one in nested(code):
        found.update(one.co_names, one.co_varnames, one.co_freevars, one.co_cellvars)
        found.update(
            repr(constant)
            for constant in one.co_consts
            if constant is not None and not isinstance(constant, types.CodeType)
        )
    return {word for word in found if not word.startswith((".", "'<"))}


def words_of_node(node: ast.AST) -> set[Any]:
    """The same of its syntax, where it holds no constant expression."""
    found: set[Any] = set()
    for one in ast.walk(node):
        for field in ("id", "attr", "arg", "name"):
            if isinstance(getattr(one, field, None), str):
                found.add(getattr(one, field))
        if isinstance(one, ast.Constant) and one.value is not None:
            found.add(repr(one.value))
    return found
