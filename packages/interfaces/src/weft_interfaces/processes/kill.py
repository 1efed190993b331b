"""Kills a worker with all that it has started."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterable, Iterator

__all__ = ["kill_group", "kill_tree", "processes"]


def kill_group(pid: int) -> None:
    """Kill the process group that this process leads."""
    if pid <= 0:
        raise ValueError(f"pid: {pid} is no process, but stands for groups of others")
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def kill_tree(pid: int) -> bool:
    """Kill the process's group, and its descendants that have left it for one of their own; but not what is
    to see the end of a process, and then ends what that has started on other hosts: the child of ``srun``.
    Whether there is such a one.
    """
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGSTOP)  # so that the group starts nothing between the look and the kill
    seen = list(processes())
    family = {*_descendants(pid, seen), *(member for member, _, group in seen if group == pid)}
    sruns = {member for member in family if _name(member) == "srun"}
    shepherds = {member for member, parent, _ in seen if member in sruns and parent in sruns}
    if not shepherds:
        kill_group(pid)
    for member in family:
        _send(member, signal.SIGCONT if member in shepherds else signal.SIGKILL)
    return bool(shepherds)


def _send(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def _name(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/comm", "rb") as file:
            return file.read().decode(errors="replace").strip()
    except OSError:
        return ""


def _descendants(pid: int, seen: Iterable[tuple[int, int, int]]) -> Iterator[int]:
    children: dict[int, list[int]] = {}
    for child, parent, _ in seen:
        children.setdefault(parent, []).append(child)
    waiting = [pid]
    while waiting:
        found = children.get(waiting.pop(), [])
        yield from found
        waiting.extend(found)


def processes() -> Iterator[tuple[int, int, int]]:
    """Process ids, those of their parents, and of their groups; nothing where there is no /proc."""
    try:
        names = os.listdir("/proc")
    except OSError:
        return
    for name in names:
        if name.isdigit():
            with (
                contextlib.suppress(OSError, ValueError, IndexError),
                open(f"/proc/{name}/stat", "rb") as file,
            ):
                # The command, in brackets, may hold anything.
                _, parent, group, *_ = file.read().rpartition(b")")[2].split(maxsplit=3)
                yield int(name), int(parent), int(group)
