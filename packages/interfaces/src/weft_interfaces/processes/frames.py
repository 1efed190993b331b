"""What the client and its workers say to each other, over one stream socket for each worker.

::

    client to worker    batch:  header (length, length of large), pickled Batch, large payload
    worker to client    report: header (kind, length, seconds), payload

A batch holds calls in the order in which they run. Arguments, values and functions inside are bytes that were
pickled on their own, so that one which cannot be unpickled harms nobody else. A payload above ``LARGE`` bytes
travels in a batch of its own, behind it, without being copied into it. Reports come in the order of the
calls.

Both ends run as the same user on the same machine, and the socket has no name: what comes through it is
trusted.
"""

from __future__ import annotations

import pickle
import socket
import struct
from typing import NamedTuple

from ..call import CallOptions

__all__ = [
    "DROPPED",
    "ERROR",
    "LARGE",
    "NOTHING",
    "READY",
    "VALUE",
    "Batch",
    "BatchReader",
    "Report",
    "ReportReader",
    "pack_batch",
    "pack_header",
]

LARGE = 1 << 16
_RECEIVE = 1 << 18
_BATCH = struct.Struct("<QQ")
_REPORT = struct.Struct("<BQd")

READY = 0  # the worker is up
NOTHING = 1  # the call returned None
VALUE = 2  # its value, pickled
ERROR = 3  # a pickled results.PackedError
DROPPED = 4  # so many calls of the last batches found no token


class Batch(NamedTuple):
    """Calls, and what the worker needs to know for them and was not told before.

    calls: for each its id, the numbers of its function and its options, and its pickled ``(args, kwargs)``,
    b"" for none.
    forget: forget all functions and options known so far. path: what ``sys.path`` is now, if that has
    changed.
    environments: variables for the calls with some of these options, by their numbers; None for no variables.
    """

    calls: list[tuple[int, int, int, bytes]]
    functions: dict[int, bytes]
    options: dict[int, CallOptions]
    forget: bool
    path: list[str] | None
    environments: dict[int, dict[str, str]] | None = None


class Report(NamedTuple):
    """One report of a worker. ``seconds``: how long the call ran."""

    kind: int
    seconds: float
    payload: bytes | memoryview


def pack_batch(batch: Batch, large: bytes = b"") -> list[bytes]:
    """The batch as buffers to be sent one after the other.

    ``large`` replaces the arguments of its only call.
    """
    body = pickle.dumps(tuple(batch), 5)  # a named tuple would be pickled with its class
    header = _BATCH.pack(len(body), len(large))
    return [header + body, large] if large else [header + body]


def pack_header(kind: int, length: int, seconds: float = 0.0) -> bytes:
    """What stands before a report's payload."""
    return _REPORT.pack(kind, length, seconds)


class BatchReader:
    """The worker's end: waits for batches."""

    def __init__(self, connection: socket.socket) -> None:
        self._stream = connection.makefile("rb", buffering=_RECEIVE)

    def read(self) -> Batch | None:
        """The next batch; None when the client is gone."""
        header = self._stream.read(_BATCH.size)
        if len(header) < _BATCH.size:
            return None
        body_length, large_length = _BATCH.unpack(header)
        body = self._stream.read(body_length)
        large = self._stream.read(large_length) if large_length else b""
        if len(body) < body_length or len(large) < large_length:
            return None
        batch = Batch(*pickle.loads(body))
        if large:
            batch.calls[0] = (*batch.calls[0][:3], large)
        return batch


class ReportReader:
    """The client's end: takes what has arrived, without waiting.

    Large payloads go straight to where they stay.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._rest = b""
        self._large: bytearray | None = None
        self._filled = 0
        self._kind = 0
        self._seconds = 0.0
        self.ended = False

    def read(self) -> list[Report] | None:
        """The reports that this completes; None when nothing has arrived, or ``ended``: the worker closed its
        end.
        """
        try:
            if self._large is not None:
                return self._read_large(self._large)
            data = self._connection.recv(_RECEIVE)
        except BlockingIOError:
            return None
        except ConnectionError:
            data = b""
        if not data:
            self.ended = True
            return None
        return self._split(self._rest + data if self._rest else data)

    def _split(self, data: bytes) -> list[Report]:
        reports, start, end, size = [], 0, len(data), _REPORT.size
        unpack = _REPORT.unpack_from
        while end - start >= size:
            kind, length, seconds = unpack(data, start)
            stop = start + size + length
            if stop > end:
                if length > LARGE:
                    self._begin_large(kind, length, seconds, data[start + size :])
                    start = end
                break
            reports.append(Report(kind, seconds, data[start + size : stop]))
            start = stop
        self._rest = data[start:]
        return reports

    def _begin_large(self, kind: int, length: int, seconds: float, begun: bytes) -> None:
        self._large = bytearray(length)
        self._large[: len(begun)] = begun
        self._filled, self._kind, self._seconds = len(begun), kind, seconds

    def _read_large(self, large: bytearray) -> list[Report] | None:
        received = self._connection.recv_into(memoryview(large)[self._filled :])
        if not received:
            self.ended = True
            return None
        self._filled += received
        if self._filled < len(large):
            return []
        self._large = None
        return [Report(self._kind, self._seconds, memoryview(large))]
