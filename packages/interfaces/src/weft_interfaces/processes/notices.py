"""What the client asks of its template process, and what that tells it, over one stream socket."""

from __future__ import annotations

import struct
from typing import NamedTuple

__all__ = ["ENDED", "FAILED", "FORK", "KILL", "NOTICE", "REQUEST", "STARTED", "Notice"]

REQUEST = struct.Struct("<BQI")  # what to do, the number of the worker, and its seat
FORK = 1  # start it; with the request come its socket, its tokens and its crash file
KILL = 2  # kill it with all its descendants
NOTICE = struct.Struct("<BQqq")
STARTED, ENDED, FAILED = 1, 2, 3


class Notice(NamedTuple):
    """A worker has STARTED, has ENDED (with its wait status), or has FAILED to start (with the errno)."""

    kind: int
    number: int
    pid: int
    status: int
