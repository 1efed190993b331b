"""Encoding a value that holds others: quickly where it is a tree, and in any case."""

from __future__ import annotations

from typing import Any, Final

from .encoding import LEAVES, Encoding, compress
from .errors import UnknownTypeError
from .naming import qualified_name
from .node import SPLITS, Node, combine

__all__ = ["Walk", "failed"]

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

    def encode_any(self, value: Any) -> bytes:
        """The encoding of a value, however deep it is."""
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
        split = SPLITS.get(kind)
        node = self.split(kind, value) if split is None else split(value)
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

    def split(self, kind: type, value: Any) -> Node | Encoding:
        """An instance of a class that is not built in, as its parts.

        Raises :class:`UnknownTypeError` for one that has none, or whose methods fail.
        """
        from .kinds import resolve

        self.seen.add(kind)
        try:
            return resolve(kind)(value)
        except (UnknownTypeError, RecursionError, MemoryError):
            raise
        except Exception as error:
            raise failed(kind, error) from error


def failed(kind: type, error: Exception) -> UnknownTypeError:
    """What to raise for an instance whose methods raised this error."""
    return UnknownTypeError(qualified_name(kind), "", f"it raised {type(error).__name__}: {error}"[:300])
