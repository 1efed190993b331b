"""Lists of hosts in short, as Slurm writes them: ``n[1-3,7],gpu01``."""

from __future__ import annotations

import re
from collections.abc import Iterator

__all__ = ["expand_hosts"]

_MOST = 100_000  # hosts: nothing that a batch system writes has more


def expand_hosts(text: str) -> tuple[str, ...]:
    """Each host of the list, in its order. What is no list comes back as it is."""
    if not re.fullmatch(r"(?:[^\[\]]|\[[^\[\]]*\])*", text):
        return (text,)
    hosts: list[str] = []
    for part in re.findall(r"(?:[^,\[\]]|\[[^\]]*\])+", text):
        for host in _expand(part.strip()):
            if len(hosts) >= _MOST:
                return (text,)
            hosts.append(host)
    return tuple(host for host in hosts if host)


def _expand(part: str) -> Iterator[str]:
    found = re.search(r"\[([^\]]*)\]", part)
    if found is None:
        yield part
        return
    for piece in found[1].split(","):
        for number in _range(piece):
            yield from _expand(f"{part[: found.start()]}{number}{part[found.end() :]}")


def _range(piece: str) -> Iterator[str]:
    first, dash, last = piece.partition("-")
    if not (dash and first.isdecimal() and last.isdecimal()):
        yield piece
        return
    for number in range(int(first), int(last) + 1):
        yield str(number).zfill(len(first))
