"""The client's end of one worker process."""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
import socket
import struct
import termios
from collections import deque
from collections.abc import Sequence

from . import frames
from .catalogue import Entry
from .certificate import tail_of
from .kill import kill_tree
from .template_process import TemplateProcess, client_path

__all__ = ["WorkerLink"]

# Calls are sent ahead, so that the worker need not wait for the next one, as long as they add up to this many
# ...
_AHEAD_SECONDS = 0.002
_AHEAD_CALLS = 256
_AHEAD_BYTES = 1 << 20
_ONE_AHEAD_SECONDS = 0.05  # ... and one of up to this length, whatever it adds up to
_MOST_KNOWN = 1000  # functions and options that a worker remembers
_MOST_KNOWN_BYTES = 64 << 20


class WorkerLink:
    """Sends calls to one worker and has back those that have not begun. Guarded by the lock of its staff, but
    ``reader``.

    in_flight: the calls sent, whose report has not come, in their order: only the first can have begun.
    stale: calls taken back that the worker has not dropped yet; it is sent nothing before it has.
    slots: what its calls take. since: when the first call in flight became so. killed: it is being killed for
    its call.
    """

    def __init__(self, number: int, seat: int, template: TemplateProcess) -> None:
        """Ask the template for the worker. Raises :class:`OSError`, holding nothing."""
        self.number = number
        self.seat = seat
        self.template = template
        self.pid: int | None = None
        self.ready = False
        self.killed = False
        self.mourned_at = math.inf
        with contextlib.ExitStack() as stack:
            self.connection, theirs = socket.socketpair()
            stack.enter_context(self.connection)
            stack.enter_context(theirs)
            self._tokens, self._tokens_end = _token_pipe(stack)
            self._crash = _nameless_file(stack)
            template.spawn(number, seat, [theirs.fileno(), self._tokens, self._crash])
            stack.pop_all()
        theirs.close()
        self.connection.setblocking(False)
        self.reader = frames.ReportReader(self.connection)
        self.in_flight: deque[Entry] = deque()
        self.stale = 0
        self.slots = 0
        self.since = 0.0
        self._ahead = 0.0
        self._bytes = 0
        self._outgoing: deque[memoryview] = deque()
        self._known: set[int] = set()
        self._known_bytes = 0
        self._path: list[str] | None = None

    # -- sending ------------------------------------------------------------------------------------------

    @property
    def sendable(self) -> bool:
        """Whether the worker may be sent calls."""
        return self.pid is not None and not self.stale and not self.killed

    def wants_more(self) -> bool:
        """Whether less than half of what may be sent ahead is in flight: so that what is sent, is sent in
        large batches.
        """
        count = len(self.in_flight)
        return (
            self.sendable and count * 2 <= _AHEAD_CALLS and (count <= 1 or self._ahead * 2 <= _AHEAD_SECONDS)
        )

    def takes(self, entry: Entry, batched: int) -> bool:
        """Whether this call may be sent behind those in flight and the ``batched`` ones chosen before it."""
        count = len(self.in_flight) + batched
        if not count:
            return True
        mean = entry.function.mean
        if mean is None or entry.options.slots > 1 or self.slots > 1 or count >= _AHEAD_CALLS:
            return False
        if self._bytes + len(entry.arguments) > _AHEAD_BYTES:
            return False
        ahead = self._ahead + mean
        return ahead <= _AHEAD_SECONDS or (count == 1 and ahead <= 2 * _ONE_AHEAD_SECONDS)

    def choose(self, entry: Entry) -> None:
        """Count a call that is about to be sent."""
        mean = entry.function.mean
        self._ahead += math.inf if mean is None else mean
        self._bytes += len(entry.arguments)
        if not self.slots:
            self.slots = entry.options.slots

    def send(self, entries: Sequence[Entry]) -> bool:
        """Send calls, which :meth:`choose` has counted, with a token for each.

        Whether the socket took all of it.
        """
        for entry in entries:
            entry.worker = self.number
        self.in_flight.extend(entries)
        # The tokens first: a worker that found a call without one would drop it.
        os.write(self._tokens_end, bytes(len(entries)))
        small: list[Entry] = []
        for entry in entries:
            if len(entry.arguments) > frames.LARGE:
                self._queue(small)
                small = []
                self._queue([entry])
            else:
                small.append(entry)
        self._queue(small)
        return self.flush()

    def _queue(self, entries: Sequence[Entry]) -> None:
        if not entries:
            return
        forget = len(self._known) > _MOST_KNOWN or self._known_bytes > _MOST_KNOWN_BYTES
        if forget:
            self._known.clear()
            self._known_bytes = 0
        functions, options = {}, {}
        environments: dict[int, dict[str, str]] = {}
        calls = []
        for entry in entries:
            function, wishes = entry.function, entry.options
            if function.number not in self._known:
                self._known.add(function.number)
                self._known_bytes += len(function.data)
                functions[function.number] = function.data
            if wishes.number not in self._known:
                self._known.add(wishes.number)
                options[wishes.number] = wishes.options
                if wishes.environment:
                    environments[wishes.number] = dict(wishes.environment)
            calls.append((entry.id, function.number, wishes.number, entry.arguments))
        new_path = None
        if functions and (path := client_path()) != self._path:
            new_path = self._path = path
        large = b""
        if len(entries[0].arguments) > frames.LARGE:
            large, calls[0] = entries[0].arguments, (*calls[0][:3], b"")
        batch = frames.Batch(calls, functions, options, forget, new_path, environments or None)
        self._outgoing.extend(memoryview(part) for part in frames.pack_batch(batch, large))

    def flush(self) -> bool:
        """Send what the socket takes; whether that was all."""
        outgoing = self._outgoing
        while outgoing:
            try:
                sent = self.connection.send(outgoing[0])
            except BlockingIOError:
                return False
            except ConnectionError:  # it is gone, and what it had will be taken back
                outgoing.clear()
                break
            if sent == len(outgoing[0]):
                outgoing.popleft()
            else:
                outgoing[0] = outgoing[0][sent:]
        return True

    def kill(self) -> None:
        """Kill the worker with all its descendants."""
        self.killed = True
        try:
            self.template.kill(self.number)
        except OSError:  # the template is dead
            if self.pid is not None:
                kill_tree(self.pid)

    def hang_up(self) -> None:
        """Let the worker end when it has read all that was sent."""
        try:
            self.connection.shutdown(socket.SHUT_WR)
        except OSError:  # it has ended
            return

    # -- what became of them ------------------------------------------------------------------------------

    def complete(self, now: float) -> Entry:
        """The first call in flight is done: take it out."""
        entry = self.in_flight.popleft()
        self.since = now
        if self.in_flight:
            self._discount(entry)
        else:
            self._ahead, self._bytes = 0.0, 0
        return entry

    def take_back(self, count: int) -> list[Entry]:
        """Have back up to this many of the last calls sent, in their order.

        What comes back does not run; the rest does.
        """
        try:
            count = len(os.read(self._tokens, count)) if count else 0
        except BlockingIOError:
            count = 0
        entries = [self.in_flight.pop() for _ in range(count)]
        entries.reverse()
        for entry in entries:
            self._discount(entry)
        if not self.in_flight:
            self._ahead, self._bytes = 0.0, 0
        self.stale += count
        return entries

    def begun(self) -> bool:
        """Whether a call has begun: the first of those in flight."""
        (unread,) = struct.unpack("i", fcntl.ioctl(self._tokens, termios.FIONREAD, b"\0\0\0\0"))
        return bool(len(self.in_flight) > unread)

    def crash_report(self) -> str:
        """The stacks that Python wrote when the worker crashed."""
        return tail_of(self._crash)

    def close(self) -> None:
        """Free what it holds."""
        self.connection.close()
        os.close(self._crash)
        self._outgoing.clear()
        os.close(self._tokens)
        os.close(self._tokens_end)

    def _discount(self, entry: Entry) -> None:
        self._bytes -= len(entry.arguments)
        mean = entry.function.mean
        # An estimate that may have changed since it was added: too much or too little by a call or two does
        # no harm.
        if mean is not None and self._ahead < math.inf:
            self._ahead = max(0.0, self._ahead - mean)
        elif len(self.in_flight) == 0:
            self._ahead = 0.0


def _token_pipe(stack: contextlib.ExitStack) -> tuple[int, int]:
    ends = os.pipe()
    for end in ends:
        stack.callback(os.close, end)
        os.set_blocking(end, False)
    return ends


def _nameless_file(stack: contextlib.ExitStack) -> int:
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("weft-crash")
    else:
        import tempfile

        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    stack.callback(os.close, descriptor)
    return descriptor
