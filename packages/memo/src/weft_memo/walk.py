"""Encoding a value that holds others: quickly where it is a tree, and in any case."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, TypeAlias
from weakref import WeakKeyDictionary

from weft_interfaces import Shared

from .encoding import COUNTS, LEAVES, LONGEST, SMALL, WORDS, Encoding, compress, count, double, integer, word
from .errors import UnknownTypeError
from .naming import qualified_name
from .node import SEQUENCE, SPLITS, Node, combine

__all__ = ["Deep", "Known", "encode", "encode_any", "failed", "split_any"]

DEEPEST: Final = 60  # calls; what is deeper, or has no end, is left to graph.py
_TUPLES: Final = tuple(b"(" + one for one in COUNTS)
_ONE_PAIR: Final = b"{" + COUNTS[1]
_LISTS: Final = tuple(b"[" + one for one in COUNTS)


class Deep(Exception):
    """Nested too deeply for calls, perhaps without end."""


Known: TypeAlias = "dict[int, tuple[Any, Encoding]]"


def encode_any(value: Any, known: Known, seen: set[type]) -> Encoding:
    """The encoding of a value, however deep it is.

    known: encodings of parts, by id, with the parts, so that the ids stay theirs; it is added to. seen: the
    classes of instances that are not built in are added to it. Raises :class:`UnknownTypeError`.
    """
    try:
        return encode(value, known, seen, 0)
    except (Deep, RecursionError):
        from .graph import encode as encode_graph

        return encode_graph(value, known, seen)


def encode(value: Any, known: Known, seen: set[type], depth: int) -> Encoding:
    """The encoding of what is no leaf; raises :class:`Deep` where calls do not suffice."""
    if known and (met := known.get(id(value))) is not None:
        return met[1]
    if depth > DEEPEST:
        raise Deep
    kind, order, head = type(value), SEQUENCE, b""
    parts: Iterable[Any]
    if (kind is tuple or kind is list) and len(value) < 255:
        parts, found = value, [_TUPLES[len(value)] if kind is tuple else _LISTS[len(value)]]
    elif kind is dict and len(value) == 1:
        parts, found = next(iter(value.items())), [_ONE_PAIR]
    else:
        node = split_any(value, seen)
        if isinstance(node, bytes):
            known[id(value)] = value, node
            return node
        head, parts, order, _ = node
        found = [head + count(len(parts))] if order == SEQUENCE else []
    for part in parts:
        kind = type(part)
        if kind is str:
            found.append(WORDS.get(part) or word(part))
        elif kind is float:
            found.append(double(b"f", part))
        elif kind is int:
            found.append(SMALL.get(part) or integer(part))
        elif kind in LEAVES:
            found.append(LEAVES[kind](part))
        else:
            found.append(encode(part, known, seen, depth + 1))
    body = b"".join(found) if order == SEQUENCE else combine(head, found, order)
    if len(body) <= LONGEST:
        return body
    encoding = compress(body)
    known[id(value)] = value, encoding
    return encoding


def split_any(value: Any, seen: set[type]) -> Node | Encoding:
    """A value that is no leaf, as its parts.

    Raises :class:`UnknownTypeError` for one that has none, or whose methods fail.
    """
    kind = type(value)
    builtin = SPLITS.get(kind)
    if builtin is not None:
        return builtin(value)
    if kind is Shared:
        return _encode_shared(value, seen)
    from .kinds import resolve

    seen.add(kind)
    try:
        return resolve(kind)(value)
    except (UnknownTypeError, RecursionError, MemoryError):
        raise
    except Exception as error:
        raise failed(kind, error) from error


_shared: WeakKeyDictionary[Shared[Any], tuple[Encoding, set[type]]] = WeakKeyDictionary()


def _encode_shared(shared: Shared[Any], seen: set[type]) -> Encoding:
    """The encoding of the value, which is taken once: many calls get it, and it may be large."""
    known = _shared.get(shared)
    if known is None:
        value, types = shared.value, set[type]()
        leaf = LEAVES.get(type(value))
        known = leaf(value) if leaf is not None else encode_any(value, {}, types), types
        _shared[shared] = known
    seen.update(known[1])
    return known[0]


def failed(kind: type, error: Exception) -> UnknownTypeError:
    """What to raise for an instance whose methods raised this error."""
    return UnknownTypeError(qualified_name(kind), "", f"it raised {type(error).__name__}: {error}"[:300])
