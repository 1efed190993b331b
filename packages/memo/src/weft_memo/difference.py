"""Says in words where two descriptions differ."""

from __future__ import annotations

import ast
import difflib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from .leaf import BEGINNING

__all__ = ["differences"]

_LIMIT = 20
_SHOWN = 80  # characters of a value
_ALIGNED = 300  # items that are matched with each other
_FEW = 3

Node = Any


def differences(old: str, new: str, name: str = "value", limit: int = _LIMIT) -> list[str]:
    """Where two descriptions (see :func:`describe`) differ: ``config["seed"]: 3 -> 4``, each a line.

    Empty if they show no difference. At most ``limit`` lines; one more then says how many there are besides.
    Never raises: a text that is no description is compared as it is.
    """
    if old == new:
        return []
    found = list(_compare(_parsed(old), _parsed(new), name))
    if len(found) > limit:
        return [*found[:limit], f"and {len(found) - limit} more"]
    return found


def _parsed(text: str) -> Node:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _compare(old: Node, new: Node, path: str) -> Iterator[str]:
    if old == new:
        return
    if not isinstance(old, dict) or not isinstance(new, dict):
        yield f"{path}: {_shown(old)} -> {_shown(new)}{_types(old, new)}"
        return
    if _kind(old) != _kind(new):
        yield f"{path}: {_shown(old)} -> {_shown(new)}{_types(old, new)}"
        return
    if old.get("secret") or new.get("secret"):
        yield f"{path} differs (it is not shown, because of its name)"
        return
    lines = list(_compare_parts(old, new, path))
    yield from lines
    if not lines:
        yield _closed_difference(old, new, path)
    elif _parts(old) and None not in (rests := (old.get("d"), new.get("d"))) and rests[0] != rests[1]:
        yield f"{path} differs further on, where it is not shown"


def _compare_parts(old: Mapping[str, Any], new: Mapping[str, Any], path: str) -> Iterator[str]:
    if isinstance(old.get("i"), list) and isinstance(new.get("i"), list):
        yield from _compare_items(old, new, path)
    for form in ("k", "f"):
        if isinstance(old.get(form), dict) and isinstance(new.get(form), dict):
            # Only what has room is there: what was cut off in one of both is not missing in it.
            whole = "d" not in old and "d" not in new
            yield from _compare_named(old[form], new[form], path, form, whole)
    if isinstance(old.get("m"), list) and isinstance(new.get("m"), list):
        yield from _compare_members(old, new, path)
    if old.get("o") != new.get("o") and set(old.get("k") or ()) == set(new.get("k") or ()):
        yield f"{path}: the order of its keys differs"


def _compare_named(
    old: Mapping[str, Node], new: Mapping[str, Node], path: str, form: str, whole: bool
) -> Iterator[str]:
    for name in dict.fromkeys((*old, *new)):
        place = f"{path}[{name}]" if form == "k" else f"{path}.{name}"
        if name in old and name in new:
            yield from _compare(old[name], new[name], place)
        elif whole:
            what, node = ("removed", old[name]) if name in old else ("added", new[name])
            yield f"{place}: {what}, {_shown(node)}"


def _compare_items(old: Mapping[str, Any], new: Mapping[str, Any], path: str) -> Iterator[str]:
    before, after = old["i"], new["i"]
    codes = None
    if old.get("n") == new.get("n"):
        unequal = sum(one != other for one, other in zip(before, after, strict=False))
        codes = list(_aligned(before, after)) if unequal > _FEW else []
        if not codes or unequal <= sum(max(i_end - i, j_end - j) for _, i, i_end, j, j_end in codes):
            for index, (one, other) in enumerate(zip(before, after, strict=False)):
                yield from _compare(one, other, f"{path}[{index}]")
            return
    changes: list[str] = []
    replaced: list[tuple[int, int]] = []
    for kind, i, i_end, j, j_end in codes or _aligned(before, after):
        common = min(i_end - i, j_end - j) if kind == "replace" else 0
        replaced += [(i + k, j + k) for k in range(common)]
        changes += [f"removed [{k}]: {_shown(before[k])}" for k in range(i + common, i_end)]
        changes += [f"added [{k}]: {_shown(after[k])}" for k in range(j + common, j_end)]
    told = "; ".join(changes[:3]) + (f"; and {len(changes) - 3} more" if len(changes) > 3 else "")
    unit = _unit(old)
    lengths = f"{_counted(old.get('n'), unit)} -> {_counted(new.get('n'), unit)}"
    if codes is None:
        yield f"{path}: {lengths}" + (f" ({told})" if told else "")
    else:
        yield f"{path}: {told}"
    for i, j in replaced:
        yield from _compare(before[i], after[j], f"{path}[{j}]")


def _aligned(before: list[Node], after: list[Node]) -> Iterator[tuple[str, int, int, int, int]]:
    """What of two lists is not the same, as :class:`difflib.SequenceMatcher` says it."""
    old, new = ([json.dumps(node, sort_keys=True) for node in nodes[:_ALIGNED]] for nodes in (before, after))
    for code in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if code[0] != "equal":
            yield code


def _compare_members(old: Mapping[str, Any], new: Mapping[str, Any], path: str) -> Iterator[str]:
    before, after = map(str, old["m"]), map(str, new["m"])
    gone, come = dict.fromkeys(before), dict.fromkeys(after)
    if "d" in old or "d" in new:  # what is cut off in one may be shown in the other
        if old.get("n") != new.get("n"):
            yield f"{path}: {_counted(old.get('n'), 'member')} -> {_counted(new.get('n'), 'member')}"
        return
    yield from (f"{path}: removed {_short(text)}" for text in gone if text not in come)
    yield from (f"{path}: added {_short(text)}" for text in come if text not in gone)


def _closed_difference(old: Mapping[str, Any], new: Mapping[str, Any], path: str) -> str:
    """Both are of one type, and what is shown of them does not say where they differ."""
    if not _parts(old):
        if _kind(old) == "str" and old.get("n") == new.get("n") and old.get("s") != new.get("s"):
            return (
                f"{path}: {_short(str(old.get('s')))} -> {_short(str(new.get('s')))}, and perhaps further on"
            )
        for key in ("s", "v"):
            if old.get(key) != new.get(key) and None not in (old.get(key), new.get(key)):
                return f"{path}: {_shown(old)} -> {_shown(new)}"
        if old.get("n") != new.get("n"):
            return f"{path}: {_shown(old)} -> {_shown(new)}"
    if _parts(old):
        return f"{path} differs further on, where it is not shown"
    if _kind(old) == "str":
        return f"{path} differs after its first {BEGINNING} characters"
    if old.get("s") and _kind(old) != "int":
        return f"{path}: {old['s']} content differs"
    return f"{path} differs"


# -- how values are shown -----------------------------------------------------------------------------------


def _shown(node: Node) -> str:
    """A value in a few words."""
    if not isinstance(node, dict):
        return _short(str(node))
    if node.get("secret"):
        return f"a {_kind(node)} that is not shown"
    text = _as_python(node)
    if text is not None and len(text) <= _SHOWN:
        return text
    if node.get("v") is not None:
        return f"{_summary(node)} {_short(str(node['v']))}".strip()
    return _summary(node)


def _summary(node: Mapping[str, Any]) -> str:
    kind, length, summary = _kind(node), node.get("n"), node.get("s")
    if kind == "str":
        return f"a text of {length} characters"
    if kind in ("bytes", "bytearray"):
        return f"{kind} of length {length}"
    if summary:
        return str(summary) if kind != "int" else f"an int {summary}"
    if length is not None:
        return f"{kind} of {_counted(length, _unit(node))}"
    return kind


def _as_python(node: Node) -> str | None:
    """What would be written for it, if all of it is known."""
    if not isinstance(node, dict):
        return str(node)
    if "d" in node or node.get("secret"):
        return None
    if isinstance(node.get("i"), list):
        return _bracketed(node["i"], _kind(node))
    if isinstance(node.get("m"), list) and node["m"]:
        return f"{{{', '.join(map(str, node['m']))}}}"
    form = "k" if "k" in node else "f"
    if not isinstance(node.get(form), dict):
        return str(node["s"]) if "s" in node else None
    parts = {name: _as_python(part) for name, part in node[form].items()}
    if None in parts.values():
        return None
    if form == "f":
        name = _kind(node).rpartition(".")[2]
        return f"{name}({', '.join(f'{key}={part}' for key, part in parts.items())})"
    return f"{{{', '.join(f'{key}: {part}' for key, part in parts.items())}}}"


def _bracketed(nodes: list[Node], kind: str) -> str | None:
    parts = [_as_python(node) for node in nodes[:_SHOWN]]
    if None in parts or len(nodes) > _SHOWN:
        return None
    inside = ", ".join(map(str, parts))
    if kind == "tuple":
        return f"({inside}{',' if len(nodes) == 1 else ''})"
    return f"[{inside}]" if kind == "list" else f"{kind.rpartition('.')[2]}([{inside}])"


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 10]}...{text[-7:]}"


def _counted(number: Any, unit: str) -> str:
    return f"{number} {unit}{'' if number == 1 else 's'}"


def _unit(node: Mapping[str, Any]) -> str:
    if "k" in node or _kind(node) == "dict":
        return "key"
    return "member" if "m" in node or _kind(node) in ("set", "frozenset") else "item"


def _parts(node: Mapping[str, Any]) -> bool:
    return any(form in node for form in "ikfm")


def _types(old: Node, new: Node) -> str:
    """``" (bool -> int)"``, where what is shown does not make that plain."""
    before, after = _kind(old), _kind(new)
    return f" ({before} -> {after})" if before != after and "NoneType" not in (before, after) else ""


def _kind(node: Node) -> str:
    """The name of a value's type."""
    if isinstance(node, dict):
        return str(node.get("t", "?"))
    text = str(node)
    try:
        return type(ast.literal_eval(text)).__name__
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        pass
    try:
        float(text)  # nan, inf
    except ValueError:
        return text.partition("(")[0]
    return "float"
