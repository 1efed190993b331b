"""Several blocks in one submission: an array of jobs, whose elements each run the script of one block.

The array carries the ids of all in the place of one, and an element's number is its place among them.
"""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Sequence

__all__ = ["array_id", "element_of", "is_array", "render_array"]

# What no id of a job may hold.
_SEPARATOR = "/"


def array_id(ids: Sequence[str]) -> str:
    """One text for all these ids, for the label of the array."""
    # Of the characters of both, as the smallest and the greatest have no less in common than the others.
    pairs = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(min(ids), max(ids), strict=False))
    common = "".join(char for char, _ in pairs)
    return _SEPARATOR.join(["", common, *(each.removeprefix(common) for each in ids)])


def element_of(spec_id: str, number: int) -> str:
    """The id of an element that is called so, counted from 0; empty if it has none."""
    _, common, *rest = spec_id.split(_SEPARATOR)
    return common + rest[number] if number < len(rest) else ""


def is_array(spec_id: str) -> bool:
    """Whether it is that of an array."""
    return spec_id.startswith(_SEPARATOR)


def render_array(scripts: Sequence[str], *, directives: Sequence[str], number: str) -> str:
    """The script of an array.

    scripts: those of its elements, in order. directives: whole lines. number: the expression of the shell for
    an element's number, from 0.
    """
    cases = [f"  {place}) exec /bin/bash {shlex.quote(script)} ;;" for place, script in enumerate(scripts)]
    lines = [
        "#!/bin/bash",
        "# Blocks of Weft, each of which has a script of its own.",
        *directives,
        "",
        f"case {number} in",
        *cases,
        "esac",
        f'echo "weft: this array has no element {number}" >&2',
        "exit 2",
    ]
    return "".join(f"{line}\n" for line in lines)
