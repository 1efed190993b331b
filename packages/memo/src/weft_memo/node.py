"""What a value that holds others consists of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from operator import add
from typing import Any, Final, NamedTuple, TypeAlias

from .encoding import Encoding, count

__all__ = [
    "ATTRIBUTES",
    "ITEMS",
    "ORDERED",
    "PAIRS",
    "SEQUENCE",
    "SET",
    "SPLITS",
    "Node",
    "Split",
    "View",
    "combine",
]

SEQUENCE: Final = 0  # parts in their order
SET: Final = 1  # parts in any order
PAIRS: Final = 2  # keys and values in turn, the pairs in any order
ORDERED: Final = 3  # keys and values in turn, in their order

ITEMS: Final = ("[]",)  # parts are shown as [index] or [key]
ATTRIBUTES: Final = (".",)  # parts are PAIRS, shown as .key


class Node(NamedTuple):
    """A head that says what it is, and its parts.

    labels: what a path to each part is shown with; or ITEMS, or ATTRIBUTES.
    """

    head: bytes
    parts: Sequence[Any]
    order: int = SEQUENCE
    labels: tuple[str, ...] = ITEMS


Split: TypeAlias = Callable[[Any], "Node | Encoding"]


class View:
    """A value seen as one of a base class of its own: its items, without what its class adds."""

    __slots__ = ("split", "value")

    def __init__(self, split: Split, value: Any) -> None:
        self.split = split
        self.value = value


def combine(head: bytes, encodings: list[Any], order: int) -> bytes:
    """The body of a node, from the encodings of its parts."""
    if order == PAIRS:
        pairs = encodings if len(encodings) == 2 else sorted(map(add, encodings[::2], encodings[1::2]))
        return b"".join((head, count(len(encodings) // 2), *pairs))
    if order == SET:
        encodings.sort()
    return b"".join((head, count(len(encodings)), *encodings))


def _pairs(value: dict[Any, Any]) -> list[Any]:
    return list(chain.from_iterable(dict.items(value)))


# Bases are asked, not the methods of the class: what those do to the items is the code of the class.
SPLITS: dict[type, Split] = {
    tuple: lambda value: Node(b"(", list(tuple.__iter__(value))),
    list: lambda value: Node(b"[", list(list.__iter__(value))),
    dict: lambda value: Node(b"{", _pairs(value), PAIRS),
    set: lambda value: Node(b"<", list(set.__iter__(value)), SET),
    frozenset: lambda value: Node(b">", list(frozenset.__iter__(value)), SET),
    View: lambda value: value.split(value.value),
}
