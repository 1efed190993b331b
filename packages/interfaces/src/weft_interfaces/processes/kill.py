"""Kills a worker with all that it has started."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator

__all__ = ["kill_group", "kill_tree", "processes"]


def kill_group(pid: int) -> None:
    """Kill the process group that this process leads."""
    if pid <= 0:
        raise ValueError(f"pid: {pid} is no process, but stands for groups of others")
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def kill_tree(pid: int) -> None:
    """Kill the process's group, and its descendants that have left it for one of their own."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGSTOP)  # so that the group starts nothing between the look and the kill
    descendants = list(_descendants(pid))
    kill_group(pid)
    for descendant in descendants:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(descendant, signal.SIGKILL)


def _descendants(pid: int) -> Iterator[int]:
    children: dict[int, list[int]] = {}
    for child, parent, _ in processes():
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
