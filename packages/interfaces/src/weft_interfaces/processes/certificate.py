"""Writes death certificates of worker processes."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

from ..errors import DeathCertificate
from ..units import format_bytes

__all__ = ["OomCounter", "certify", "certify_excess", "tail_of", "tail_of_file"]

_TAIL = 8192


class OomCounter:
    """Notices that the kernel has killed a process of this one's cgroup because memory ran out.

    Both versions of cgroups count such kills (``oom_kill`` in ``memory.events`` and in
    ``memory.oom_control``), so a change between a worker's start and its death by SIGKILL tells why it was
    killed.
    """

    def __init__(self) -> None:
        self._files = [path for path in _candidates() if _oom_kills(path) is not None]
        self._seen = self._read()

    def changed(self) -> bool:
        """Whether there was a kill since this was asked last."""
        before, self._seen = self._seen, self._read()
        return self._seen > before

    def _read(self) -> int:
        return sum(_oom_kills(path) or 0 for path in self._files)


def certify(
    pid: int | None, status: int | None, oom: OomCounter, stderr_tail: str, reason: str = ""
) -> DeathCertificate:
    """The certificate of a worker with this wait status; None when it is not known."""
    exit_code = signal = None
    if status is not None:
        code = os.waitstatus_to_exitcode(status)
        exit_code, signal = (code, None) if code >= 0 else (None, -code)
    return DeathCertificate(
        kind="worker",
        host=socket.gethostname(),
        pid=pid,
        exit_code=exit_code,
        signal=signal,
        out_of_memory=signal == 9 and oom.changed(),
        reason=reason,
        stderr_tail=stderr_tail,
        time=time.time(),
    )


def certify_excess(pid: int, used: int, limit: int, stderr_tail: str) -> DeathCertificate:
    """The certificate of a worker that is killed because its call uses more bytes than it asked for."""
    return DeathCertificate(
        kind="worker",
        host=socket.gethostname(),
        pid=pid,
        signal=9,
        out_of_memory=True,
        reason=f"it used {format_bytes(used)}, its task asked for memory={format_bytes(limit)}",
        stderr_tail=stderr_tail,
        time=time.time(),
    )


def tail_of(descriptor: int) -> str:
    """The last lines of an open file."""
    try:
        size = os.fstat(descriptor).st_size
        return os.pread(descriptor, _TAIL, max(0, size - _TAIL)).decode(errors="replace")
    except OSError:
        return ""


def tail_of_file(path: str) -> str:
    """The last lines of a file, if it can be read."""
    try:
        with open(path, "rb") as file:
            return tail_of(file.fileno())
    except OSError:
        return ""


def _candidates() -> list[Path]:
    """Where the kernel may count kills, given the cgroups that this process is in."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            roots, name = [Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified")], "memory.events"
        elif "memory" in controllers.split(","):
            roots, name = [Path("/sys/fs/cgroup/memory")], "memory.oom_control"
        else:
            continue
        for root in roots:
            # Inside a container the path may be that of the host, and what is mounted here is the group
            # itself.
            inner = root / path.lstrip("/") / name
            found.append(inner if inner.exists() else root / name)
    return list(dict.fromkeys(found))


def _oom_kills(path: Path) -> int | None:
    try:
        for line in path.read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    except (OSError, ValueError):
        pass
    return None
