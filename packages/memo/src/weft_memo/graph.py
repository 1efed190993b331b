"""Encoding what is nested too deeply for calls, or contains itself.

Tarjan's algorithm, without calls, finds the groups of parts that reach each other. A part that does not reach
itself is encoded as everywhere. In a group each part gets the digest of what one sees from it, one step
further in each round, until more steps tell no more parts apart: parts are equal if nothing that can be
reached from them differs, however they are shared. That digest, with all those of the last two rounds, stands
for the part.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from .encoding import LEAVES, Encoding, compress, fingerprint
from .errors import UnknownTypeError
from .naming import qualified_name
from .node import Node, combine
from .walk import Known, failed, split_any

__all__ = ["encode"]

LONGEST: Final = 250_000  # nesting; only a method that returns ever new values gets there

EMPTY: Final = Node(b"", ())


@dataclass(slots=True)
class Part:
    """A part that is being looked into. low: the earliest part that it reaches, by number. found: encodings
    of its own parts so far, with numbers in place of those that are not known yet.
    """

    value: Any
    node: Node
    number: int
    low: int
    found: list[Encoding | int] = field(default_factory=list)


class Search:
    """Tarjan's algorithm, over the parts of one value."""

    def __init__(self, known: Known, seen: set[type]) -> None:
        self.known = known
        self.seen = seen
        self.parts: list[Part] = []  # by number
        self.numbers: dict[int, int] = {}  # by id
        self.done: dict[int, Encoding] = {}  # by number
        self.path: list[Part] = []
        self.open: list[Part] = []  # whose group is not complete

    def encode(self, value: Any) -> Encoding:
        """The encoding of a value."""
        first = self.enter(value)
        if isinstance(first, bytes):
            return first
        while self.path:
            part = self.path[-1]
            if len(part.found) == len(part.node.parts):
                self.leave(part)
            else:
                found = self.enter(part.node.parts[len(part.found)])
                if found is not None:
                    part.found.append(found)
                    if isinstance(found, int):
                        part.low = min(part.low, found)
        return self.done[0]

    def enter(self, value: Any) -> Encoding | int | None:
        """Its encoding, or its number if that is not known yet; None if it must be looked into first."""
        kind = type(value)
        leaf = LEAVES.get(kind)
        if leaf is not None:
            return leaf(value)
        known = self.known.get(id(value))
        if known is not None:
            return known[1]
        number = self.numbers.get(id(value))
        if number is not None:
            return self.done.get(number, number)
        if len(self.path) > LONGEST:
            raise UnknownTypeError(qualified_name(kind), "...", f"nested more than {LONGEST:,} times")
        try:
            node = split_any(value, self.seen)
        except RecursionError as error:
            raise failed(kind, error) from error
        if isinstance(node, bytes):
            self.known[id(value)] = value, node
            return node
        part = Part(value, node, len(self.parts), len(self.parts))
        self.numbers[id(value)] = part.number
        self.parts.append(part)
        self.path.append(part)
        self.open.append(part)
        return None

    def leave(self, part: Part) -> None:
        """All its parts were looked into."""
        self.path.pop()
        if part.low == part.number:
            at = len(self.open) - 1
            while self.open[at] is not part:
                at -= 1
            self.complete(self.open[at:])
            del self.open[at:]
        if self.path:
            above = self.path[-1]
            above.found.append(self.done.get(part.number, part.number))
            above.low = min(above.low, part.low)

    def complete(self, group: list[Part]) -> None:
        """The parts of the group do not reach any other that is open."""
        if len(group) == 1 and not any(isinstance(one, int) for one in group[0].found):
            part = group[0]
            self.done[part.number] = compress(combine(part.node.head, part.found, part.node.order))
        else:
            self.done.update(refine(group))
        for part in group:
            part.found = []
            part.node = EMPTY


def refine(group: list[Part]) -> dict[int, Encoding]:
    """Encodings of parts that reach each other, by number."""
    colours = {part.number: b"" for part in group}
    classes = 1
    while True:
        before = colours
        colours = {part.number: fingerprint(seen(part, before)) for part in group}
        if len(set(colours.values())) == classes:
            break
        classes = len(set(colours.values()))
    steps = sorted({before[number] + colour for number, colour in colours.items()})
    whole = fingerprint(b"".join(steps))
    return {number: b"@" + fingerprint(colour + whole) for number, colour in colours.items()}


def seen(part: Part, colours: dict[int, bytes]) -> bytes:
    encodings = [one if isinstance(one, bytes) else b"&" + colours[one] for one in part.found]
    return combine(part.node.head, encodings, part.node.order)


def encode(value: Any, known: Known, seen: set[type]) -> Encoding:
    """The encoding of any value, as :func:`walk.encode` gives it where it can."""
    return Search(known, seen).encode(value)
