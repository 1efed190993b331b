"""When the workers of a node end, where all of them can read it: the end may be moved while calls run."""

from __future__ import annotations

import contextlib
import os
import struct

__all__ = ["read_end", "write_end"]

_FORMAT = struct.Struct("=d")


def write_end(path: str, ends_at: float) -> None:
    """Write it, in seconds since the epoch. Who reads it meanwhile finds the one or the other."""
    fresh = f"{path}.new"
    with open(fresh, "wb") as file:
        file.write(_FORMAT.pack(ends_at))
    os.replace(fresh, path)


def read_end(path: str) -> float | None:
    """What was written there last; None if nothing was."""
    with contextlib.suppress(OSError, struct.error), open(path, "rb") as file:
        return float(_FORMAT.unpack(file.read())[0])
    return None
