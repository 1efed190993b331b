"""Encoding a value that holds others: quickly where it is a tree, and in any case."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from typing import Any, Final

from .encoding import COUNTS, LEAVES, SMALL, WORDS, Encoding, compress, count, double, word
from .errors import UnknownTypeError
from .naming import qualified_name
from .node import SPLITS, Node, combine

__all__ = ["Walk", "failed"]

DEEPEST: Final = 60  # calls; what is deeper, or has no end, is left to graph.py
_HEADS: Final = {
    kind: tuple(tag + one for one in COUNTS) for kind, tag in ((tuple, b"("), (list, b"["), (dict, b"{"))
}


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
            return self.encode(value, 0)
        except (Deep, RecursionError):
            from .graph import encode

            return encode(value, self)

    def encode(self, value: Any, depth: int) -> Encoding:
        """The encoding of what is no leaf; raises :class:`Deep` where calls do not suffice."""
        known = self.known.get(id(value))
        if known is not None:
            return known[1]
        kind = type(value)
        if kind in _HEADS:
            if depth > DEEPEST:
                raise Deep
            size = len(value)
            if kind is dict:
                encodings = self.encode_all(chain.from_iterable(value.items()), depth + 1)
                if size > 1:
                    pairs = [a + b for a, b in zip(encodings[::2], encodings[1::2], strict=True)]
                    pairs.sort()
                    encodings = pairs
            else:
                encodings = self.encode_all(value, depth + 1)
            head = _HEADS[kind][size] if size < 255 else _HEADS[kind][0][:1] + count(size)
            body = head + b"".join(encodings)
        else:
            split = SPLITS.get(kind)
            node = self.split(kind, value) if split is None else split(value)
            if isinstance(node, bytes):
                self.known[id(value)] = value, node
                return node
            if depth > DEEPEST:
                raise Deep
            body = combine(node[0], self.encode_all(node[1], depth + 1), node[2])
        if len(body) <= 128:
            return body
        encoding = compress(body)
        self.known[id(value)] = value, encoding
        return encoding

    def encode_all(self, parts: Iterable[Any], depth: int) -> list[Encoding]:
        """Their encodings."""
        found: list[Encoding] = []
        add = found.append
        for part in parts:
            kind = type(part)
            if kind is str:
                add(WORDS.get(part) or word(part))
            elif kind is float:
                add(double(b"f", part))
            elif kind is int and part in SMALL:
                add(SMALL[part])
            elif kind in LEAVES:
                add(LEAVES[kind](part))
            else:
                add(self.encode(part, depth))
        return found

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
