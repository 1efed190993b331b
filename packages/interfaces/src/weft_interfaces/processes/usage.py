"""How much memory workers use, with all that they have started."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from .kill import processes

__all__ = ["memory_of", "process_trees"]


def process_trees(roots: Collection[int]) -> dict[int, list[int]]:
    """The processes that are, or descend from, or are in the group of, each of these; one look at all there
    are.
    """
    children: dict[int, list[int]] = {}
    groups: dict[int, list[int]] = {}
    for pid, parent, group in processes():
        children.setdefault(parent, []).append(pid)
        if group in roots:
            groups.setdefault(group, []).append(pid)
    return {root: _tree(root, children, groups.get(root, [])) for root in roots}


def _tree(root: int, children: Mapping[int, list[int]], group: list[int]) -> list[int]:
    found: set[int] = set()
    waiting = [root, *group]
    while waiting:
        pid = waiting.pop()
        if pid not in found:
            found.add(pid)
            waiting += children.get(pid, ())
    return list(found)


def memory_of(pids: Collection[int], limit: int) -> int:
    """Bytes that these processes hold in memory and in swap, if it is more than ``limit``; else 0.

    What is mapped from files, or shared on purpose, does not count; pages that processes share because one
    was forked from the other count once among all who have them.
    """
    # What is quickly read counts shared pages for each process: a closer look is for sums above the limit.
    if sum(_kilobytes(f"/proc/{pid}/status", b"RssAnon:", b"VmSwap:") for pid in pids) * 1024 <= limit:
        return 0
    exact = sum(_kilobytes(f"/proc/{pid}/smaps_rollup", b"Pss_Anon:", b"SwapPss:") for pid in pids) * 1024
    return exact if exact > limit else 0


def _kilobytes(path: str, *names: bytes) -> int:
    return sum(_values(path, names))


def _values(path: str, names: tuple[bytes, ...]) -> Iterator[int]:
    try:
        with open(path, "rb") as file:
            for line in file:
                if line.startswith(names):
                    yield int(line.split()[1])
    except OSError:  # it has ended
        return
