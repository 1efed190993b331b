"""Encoding a value that holds others: quickly where it is a tree, and in any case."""

from __future__ import annotations

from typing import Any, Final

from .encoding import LEAVES, Encoding, compress
from .node import SPLITS, Split, combine

__all__ = ["Walk"]

DEEPEST: Final = 60  # calls; what is deeper, or has no end, is left to graph.py


class Deep(Exception):
    """Nested too deeply for calls, perhaps without end."""


class Walk:
    """One call of ``digest``. known: encodings of parts, by id, with the parts, so that the ids stay theirs.
    seen: the classes of instances that are not built in.
    """

    __slots__ = ("known", "seen")

    def __init__(self) -> None:
        self.known: dict[int, tuple[Any, Encoding]] = {}
        self.seen: set[type] = set()

    def body(self, value: Any) -> bytes:
        """What the digest of the value is the digest of; other words for it raise what ``resolve`` raises."""
        try:
            encoding = self.encode(value, 0)
        except (Deep, RecursionError):
            from .graph import encode

            encoding = encode(value, self)
        return encoding

    def encode(self, value: Any, depth: int) -> Encoding:
        """The encoding; raises :class:`Deep` where calls do not suffice."""
        kind = type(value)
        leaf = LEAVES.get(kind)
        if leaf is not None:
            return leaf(value)
        known = self.known.get(id(value))
        if known is not None:
            return known[1]
        node = (SPLITS.get(kind) or self.resolve(kind))(value)
        if isinstance(node, bytes):
            self.known[id(value)] = value, node
            return node
        if depth > DEEPEST:
            raise Deep
        encodings = self.encode_all(node[1], depth + 1)
        encoding = compress(combine(node[0], encodings, node[2]))
        if encoding[:1] == b"#":
            self.known[id(value)] = value, encoding
        return encoding

    def encode_all(self, parts: Any, depth: int) -> list[Encoding]:
        """Their encodings."""
        leaves, encode = LEAVES, self.encode
        return [
            encode(part, depth) if (leaf := leaves.get(type(part))) is None else leaf(part) for part in parts
        ]

    def resolve(self, kind: type) -> Split:
        """How instances of a class that is not built in are split."""
        from .kinds import resolve

        self.seen.add(kind)
        return resolve(kind)
