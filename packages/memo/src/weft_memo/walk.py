"""Encoding a value that holds others: quickly where it is a tree, and in any case."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from operator import add
from typing import Any, Final

from .encoding import COUNTS, LEAVES, LONGEST, SMALL, WORDS, Encoding, compress, count, double, word
from .errors import UnknownTypeError
from .naming import qualified_name
from .node import SPLITS, Node, combine

__all__ = ["Walk", "failed"]

DEEPEST: Final = 60  # calls; what is deeper, or has no end, is left to graph.py
_HEADS: Final = {
    kind: tuple(tag + one for one in COUNTS) for kind, tag in ((tuple, b"("), (list, b"["), (dict, b"{"))
}


def _head(kind: type, size: int) -> bytes:
    heads = _HEADS[kind]
    return heads[size] if size < 255 else heads[0][:1] + count(size)


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
        known = self.known
        if known and (found := known.get(id(value))) is not None:
            return found[1]
        kind = type(value)
        if kind is tuple or kind is list:
            body = _head(kind, len(value)) + b"".join(self.encode_all(value, depth + 1))
        elif kind is dict:
            pairs = self.encode_all(chain.from_iterable(value.items()), depth + 1)
            if len(pairs) > 2:
                pairs = sorted(map(add, pairs[::2], pairs[1::2]))
            body = _head(kind, len(value)) + b"".join(pairs)
        else:
            split = SPLITS.get(kind)
            node = self.split(kind, value) if split is None else split(value)
            if isinstance(node, bytes):
                known[id(value)] = value, node
                return node
            body = combine(node[0], self.encode_all(node[1], depth + 1), node[2])
        if len(body) <= LONGEST:
            return body
        encoding = compress(body)
        known[id(value)] = value, encoding
        return encoding

    def encode_all(self, parts: Iterable[Any], depth: int) -> list[Encoding]:
        """Their encodings."""
        if depth > DEEPEST:
            raise Deep
        found: list[Encoding] = []
        append = found.append
        for part in parts:
            kind = type(part)
            if kind is str:
                append(WORDS.get(part) or word(part))
            elif kind is float:
                append(double(b"f", part))
            elif kind is int and part in SMALL:
                append(SMALL[part])
            elif kind in LEAVES:
                append(LEAVES[kind](part))
            else:
                append(self.encode(part, depth))
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
