"""Reads what a client has said to its agent, from the file in which it was kept."""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from pathlib import Path

from weft_interfaces.processes import Entry, FunctionRecord, OptionsRecord

from ..client_blobs import ClientBlob, ClientBlobs
from ..messages import Cancel, Frame, MalformedError, Regained, Scale, Tasks, decode
from ..stream import MOST_BYTES, MOST_FRAMES

__all__ = ["Messages", "Sent", "read_sent"]

_NUMBER = struct.calcsize("<Q")


class Messages:
    """The messages in a file, as views of it that are to be read only. ``end``: where the last whole one
    ends.

    Iterating raises :class:`MalformedError` for bytes that no client or agent has written.
    """

    def __init__(self, path: Path) -> None:
        self.end = 0
        self._data = memoryview(b"")
        with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size:
                self._data = memoryview(mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ))

    def __iter__(self) -> Iterator[list[Frame]]:
        while True:
            message = self._next(self.end)
            if message is None:
                return
            yield message

    @property
    def rest(self) -> bytes:
        """What has come of the next one."""
        return bytes(self._data[self.end :])

    def _next(self, start: int) -> list[Frame] | None:
        data = self._data
        if len(data) - start < _NUMBER:
            return None
        (count,) = struct.unpack_from("<Q", data, start)
        if count > MOST_FRAMES:
            raise MalformedError(f"a message of {count} frames")
        begin = start + (count + 1) * _NUMBER
        if len(data) < begin:
            return None
        lengths = struct.unpack_from(f"<{count}Q", data, start + _NUMBER)
        if sum(lengths) > MOST_BYTES:
            raise MalformedError(f"a message of {sum(lengths)} bytes")
        if len(data) - begin < sum(lengths):
            return None
        frames: list[Frame] = []
        for length in lengths:
            frames.append(data[begin : begin + length])
            begin += length
        self.end = begin
        return frames


class Sent:
    """The calls that were sent, by id, and how often each was. scaled: the agent gets its blocks itself."""

    def __init__(self) -> None:
        self.scaled = False
        self.entries: dict[int, Entry] = {}
        self.times: Counter[int] = Counter()


def read_sent(messages: Messages, blobs: ClientBlobs, earlier: Mapping[int, Entry]) -> Sent:
    """All calls in them; those that were cancelled have that as their verdict. What they need is in ``blobs``
    as long as they are there. earlier: calls that other agents were sent before. Raises
    :class:`MalformedError`.
    """
    sent = Sent()
    functions: dict[int, FunctionRecord] = {}
    options: dict[int, OptionsRecord] = {}
    known: dict[bytes, ClientBlob] = {}
    for frames in messages:
        message = decode(frames)
        if type(message) is Tasks:
            payloads = iter(frames[1:])
            for number in message.functions:
                functions[number] = FunctionRecord(number, bytes(next(payloads)))
            for number, header in message.options:
                options[number] = OptionsRecord(number, header.call_options())
            arguments = [next(payloads) for _ in message.groups]
            for header_of_blob, data in zip(message.blobs, payloads, strict=True):
                digest = header_of_blob.digest
                known[digest] = blobs.restore(digest, memoryview(data))
            _add(sent, message, arguments, functions, options, known)
        elif type(message) is Scale:
            sent.scaled = True
        elif type(message) is Regained:
            for call_id in message.ids:
                sent.entries[call_id] = earlier[call_id]
                sent.times[call_id] += 1
        elif type(message) is Cancel:
            for call_id in message.ids:
                if call_id in sent.entries:
                    sent.entries[call_id].verdict = CancelledError()
    return sent


def _add(
    sent: Sent,
    tasks: Tasks,
    arguments: Sequence[Frame],
    functions: dict[int, FunctionRecord],
    options: dict[int, OptionsRecord],
    known: dict[bytes, ClientBlob],
) -> None:
    for group, payload in zip(tasks.groups, arguments, strict=True):
        function, wishes = functions[group.function], options[group.options]
        needs = tuple(known[digest] for digest in group.blobs)
        start = 0
        for call_id, size in zip(group.ids, group.sizes, strict=True):
            part = payload[start : start + size]
            start += size
            # A view will do: it is never anything but joined with others, and sent.
            sent.entries[call_id] = Entry(call_id, function, wishes, part, needs)  # type: ignore[arg-type]
            sent.times[call_id] += 1
