"""Where in a value something is that cannot be hashed."""

from __future__ import annotations

from typing import Any

from .encoding import LEAVES
from .errors import UnknownTypeError
from .node import ATTRIBUTES, ITEMS, ORDERED, PAIRS, SET, Node
from .walk import failed, split_any

__all__ = ["locate"]

LONGEST = 200


def locate(root: Any, name: str, problem: UnknownTypeError) -> UnknownTypeError:
    """The error again, with the path to its cause."""
    todo: list[tuple[Any, tuple[Any, ...]]] = [(root, ())]
    met: dict[int, Any] = {}
    while todo:
        value, path = todo.pop()
        if type(value) in LEAVES or id(value) in met:
            continue
        met[id(value)] = value
        try:
            node = split_any(value, set())
        except UnknownTypeError as error:
            return UnknownTypeError(error.type_name, shown(path, name), error.reason)
        except RecursionError as error:
            found = failed(type(value), error)
            return UnknownTypeError(found.type_name, shown(path, name), found.reason)
        if isinstance(node, Node):
            todo += [(part, (path, label(node, at))) for at, part in enumerate(node.parts)][::-1]
    return problem if not name else UnknownTypeError(problem.type_name, name, problem.reason)


def label(node: Node, at: int) -> str:
    """What the path to a part is shown with."""
    if node.labels not in (ITEMS, ATTRIBUTES):
        return node.labels[at]
    if node.order == SET:
        return "{...}"
    if node.order not in (PAIRS, ORDERED):
        return f"[{at}]"
    key = node.parts[at - at % 2]
    if at % 2 == 0:
        return f"{{key {readable(key)}}}"
    return f".{key}" if node.labels is ATTRIBUTES and isinstance(key, str) else f"[{readable(key)}]"


def readable(key: Any) -> str:
    """A key, shortened; only built-in types are asked for it: others' ``__repr__`` may do anything."""
    if type(key) not in LEAVES:
        return f"<{type(key).__qualname__}>"
    words = repr(key)
    return words if len(words) <= 50 else f"{words[:48]}..."


def shown(path: tuple[Any, ...], name: str) -> str:
    labels: list[str] = []
    while path:
        path, last = path
        labels.append(last)
    words = name + "".join(reversed(labels))
    return words if len(words) <= LONGEST else f"{words[:80]}...{words[-80:]}"
