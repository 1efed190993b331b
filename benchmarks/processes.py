"""What the processes of a remote site, and of its client, take of this machine."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from family import role

__all__ = ["Processes", "memory_of", "nanoseconds_of"]


class Processes:
    """The processes of a site's hosts, by what they are.

    hosts: the first process of each host, by its name. marks: words in the command of what runs elsewhere on
    this machine for the site, and what that is.
    """

    def __init__(self, hosts: Mapping[str, int], marks: Mapping[str, str]) -> None:
        self._login = hosts["login"]
        self._hosts = {_namespace(pid): name for name, pid in hosts.items()}
        self._marks = marks

    def __iter__(self) -> Iterator[tuple[int, str]]:
        """Each process, and what it is."""
        for name in filter(str.isdecimal, os.listdir("/proc")):
            pid = int(name)
            with contextlib.suppress(OSError):
                if pid != os.getpid() and (kind := self._kind(pid)):
                    yield pid, kind

    def _kind(self, pid: int) -> str:
        host = self._hosts.get(_namespace(pid))
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        if host is None:
            return next((kind for mark, kind in self._marks.items() if mark in command), "")
        if host != "login":
            return role(pid)
        if command.startswith("sshd: "):
            return "sshd"
        if ".pyz " in command and "python" in command.partition(" ")[0]:
            # The agent is nobody's child.
            return "agent" if _parent(pid) == self._login else "relay"
        return ""

    def find(self, kind: str) -> int:
        """The one process of this kind."""
        [found] = [pid for pid, each in self if each == kind]
        return found

    def nanoseconds(self) -> Counter[str]:
        """The processor's time that they have taken so far, by kind."""
        found: Counter[str] = Counter()
        for pid, kind in self:
            with contextlib.suppress(OSError):
                found[kind] += nanoseconds_of(pid)
        return found


def nanoseconds_of(pid: int) -> int:
    """The processor's time of all threads of a process. Clock ticks miss who is short."""
    total = 0
    for thread in os.listdir(f"/proc/{pid}/task"):
        with contextlib.suppress(FileNotFoundError):
            total += int(Path(f"/proc/{pid}/task/{thread}/schedstat").read_text().split()[0])
    return total


def memory_of(pid: int) -> tuple[float, float]:
    """Megabytes of a process that are in memory: now, and at the most so far."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    now, most = (int(fields[name].split()[0]) * 1024 / 1e6 for name in ("VmRSS", "VmHWM"))
    return now, most


def _namespace(pid: int) -> str:
    return os.readlink(f"/proc/{pid}/ns/pid")


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
