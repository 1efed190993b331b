"""The processes that a process has started, and those that these have."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

__all__ = ["alive", "descendants", "role"]


def descendants(pid: int) -> Iterator[int]:
    """All processes below this one, without those that have ended."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        fields = _stat(int(name)) if name.isdecimal() else None
        if fields is not None and fields[0] not in "ZX":
            children.setdefault(int(fields[1]), []).append(int(name))
    waiting = [pid]
    while waiting:
        found = children.get(waiting.pop(), [])
        yield from found
        waiting += found


def role(pid: int) -> str:
    """What a process of the pilot executor is: manager, interchange, template, worker, or something else."""
    if "weft_executor_htex.interchange" in _command(pid):
        return "interchange"
    for kind in ("manager", "template", "worker"):  # each is a child of the one before
        if "weft_executor_htex.manager" in _command(pid):
            return kind
        fields = _stat(pid)
        if fields is None:
            return ""
        pid = int(fields[1])
    return ""


def alive(pid: int) -> bool:
    """Whether a process runs."""
    fields = _stat(pid)
    return fields is not None and fields[0] not in "ZX"


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def _stat(pid: int) -> list[str] | None:
    """The fields of a process's status from the third on, which is its state."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (OSError, UnicodeDecodeError):
        return None
