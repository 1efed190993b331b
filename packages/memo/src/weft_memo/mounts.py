"""Tells network file systems from local ones."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["is_local"]

_LOCAL = frozenset(
    [
        "ext2",
        "ext3",
        "ext4",
        "xfs",
        "btrfs",
        "zfs",
        "f2fs",
        "tmpfs",
        "ramfs",
        "overlay",
        "overlayfs",
        "aufs",
        "jfs",
        "reiserfs",
        "bcachefs",
        "apfs",
        "hfs",
        "ntfs3",
        "vfat",
        "exfat",
        "squashfs",
        "rootfs",
        "fuseblk",
    ]
)
_ESCAPE = re.compile(r"\\(\d{3})")


def is_local(path: Path, table: Path = Path("/proc/self/mounts")) -> bool:
    """Whether the file system of ``path`` is known to be one of this machine alone.

    False where the system does not say, or the kind is not known.
    """
    path = path.resolve()
    try:
        lines = table.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return False
    best, kind = -1, ""
    for line in lines:
        _, point, this, *_ = line.split(" ")
        point = _ESCAPE.sub(lambda match: chr(int(match[1], 8)), point)
        if len(point) >= best and path.is_relative_to(point):
            best, kind = len(point), this
    return kind in _LOCAL
