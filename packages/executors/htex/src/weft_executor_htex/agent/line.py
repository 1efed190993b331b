"""The client's end of the stream to its agent: it is made again when it breaks, and nothing is missing then.

::

    write ──> outbox ── sender thread ──> the channel's process      cut: the reader makes a new connection
    read  <── bytes that come in order ── who reads <──┘             silent: the watcher cuts it
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from weft_interfaces import ChannelError, ConfigError, RemoteProcess

from ..messages import Frame, MalformedError
from ..stream import StreamReader, pack
from .durable import Streams
from .install import AgentHost
from .outbox import BLOCK, Outbox
from .wire import (
    AGENT_PROTOCOL,
    AWAY,
    BEAT,
    DATA,
    END,
    GONE,
    HELLO,
    MAGIC,
    REFUSED,
    WELCOME,
    Piece,
    read_json,
    read_piece,
    write_json,
    write_piece,
)

__all__ = ["AgentGoneError", "Line", "Report"]

Report = Callable[..., None]  # takes the kind of an event, and its data by name

_RECEIVE = 1 << 18
_WINDOW = 8 << 20  # bytes on their way at most ...
_PIECE = BLOCK  # ... in pieces of so many: what a connection has to carry whole
_KEPT = 64 << 20  # bytes that were not confirmed, before who writes has to wait
_AT_ONCE = 4  # pieces in one write
_OWED = 1 << 18  # bytes that have come after which the agent is told at once ...
_TELL = 0.25  # ... and seconds
_FIRST_DELAY, _LAST_DELAY = 0.2, 15.0  # seconds between two attempts
_MUTE = 2  # attempts that only the agent's host has answered, before the agent is given up
_START = 60.0  # seconds in which a command begins to run on the agent's host
_SKEW = 2.0  # seconds that two clocks may differ, one being read when the word of the other has come
_JUNK = 1 << 20  # bytes that login scripts may print
_ROOM = 1.0  # seconds until a file that took no more is tried again
_MOMENT = 0.1  # seconds in which what had come while this process was not running is read


class _MuteError(ChannelError):
    """The agent's host answers, the agent does not."""


class AgentGoneError(ChannelError):
    """There is no such agent any more, or none that would be of use."""


class Line:
    """A :class:`RemoteProcess`: a new agent on this host, or the one of ``run``, which is ``there``.

    options: how the agent is to work, see ``daemon.py``; setup: its interchange. patience: seconds in which a
    connection that was lost may be made again. period, threshold: seconds between signs of life, and without
    one.
    report: is told what becomes of the connection. reason: why there is no agent any more. skew: seconds that
    the agent's clock is ahead of ours; 0 if it may be right.
    streams: where both streams are kept, so that another process can go on with them; nothing that is written
    waits then for what was written before. Each ``write`` must be a whole message.

    Raises :class:`AgentGoneError` when it is not there (any more), :class:`ChannelError`, and
    :class:`ConfigError`, when it cannot be reached in the first place.
    """

    def __init__(
        self,
        host: AgentHost,
        setup: bytes,
        options: Mapping[str, Any],
        *,
        patience: float,
        period: float,
        threshold: float,
        report: Report,
        token: str | None = None,
        run: str | None = None,
        there: bool = False,
        streams: Streams | None = None,
    ) -> None:
        self.reason = ""
        self.skew = 0.0
        self.run = run or uuid.uuid4().hex
        self.token = token or uuid.uuid4().hex
        self._host = host
        self._setup = setup
        self._options = dict(options)
        self._patience = patience
        self._period = period
        self._threshold = threshold
        self._report = report
        self._met = there  # the agent has answered once
        self._changed = threading.Condition()
        self._streams = streams
        self._outbox = Outbox(0) if streams is None else streams.sent
        self._received = self._told = 0 if streams is None else streams.received
        self._process: RemoteProcess | None = None
        self._reader = StreamReader()
        self._pieces: list[list[Frame]] = []
        self._heard_at = math.inf
        self._ending = self._end_sent = self._ended = self._over = self._left = False
        self._closed = threading.Event()
        self._tail = self._silence = ""
        try:
            self._connect()
        except AgentGoneError as error:
            what = "is gone" if there else "did not start"
            raise AgentGoneError(f"the agent on {host.host} {what}: {error}") from error
        except ChannelError:
            if not there:
                with contextlib.suppress(ChannelError, OSError):  # it may be about to start
                    host.end(self.run)
            raise
        name = f"agent-{self.run[:8]}"
        self._sender = threading.Thread(target=self._send, name=f"{name}-sender", daemon=True)
        self._watcher = threading.Thread(target=self._watch, name=f"{name}-watcher", daemon=True)
        self._sender.start()
        self._watcher.start()

    # -- RemoteProcess --------------------------------------------------------------------------------------

    def read(self, size: int) -> bytes:
        """See :class:`RemoteProcess`; ``size`` is about what comes at once."""
        while not self._closed.is_set():
            lost: str | None
            try:
                arrived = self._take_pieces()
            except ValueError as error:  # MalformedError, too
                lost = f"it cannot be understood: {error}"
            else:
                if arrived:
                    self._heard_at = math.inf  # who has called may take long
                    return arrived
                self._heard_at = time.monotonic()
                lost = self._receive()
            if lost is not None and not self._recover(lost):
                break
        self._finish()
        return b""

    def write(self, data: bytes) -> None:
        with self._changed:
            if self._streams is None:
                self._changed.wait_for(lambda: len(self._outbox) < _KEPT or self._over)
            told = False
            while not self._over:
                try:
                    self._outbox.append(data)
                    break
                except OSError as error:
                    self._report_full(error, told)
                    told = True
                    self._changed.wait(_ROOM)
            if self._over:
                raise ChannelError(f"the agent on {self._host.host} is gone: {self.reason}")
            self._changed.notify_all()

    def close_stdin(self) -> None:
        with self._changed:
            self._ending = True
            self._changed.notify_all()

    def leave(self, timeout: float) -> int:
        """Close this end alone, once the agent has got all that was written, or after so many seconds.
        Returns how many bytes it has not got.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._over or not len(self._outbox), timeout)
            self._left = True
            left = len(self._outbox)
        self.close()
        return left

    def wait(self, timeout: float | None = None) -> int:
        with self._changed:
            if not self._changed.wait_for(lambda: self._over, timeout):
                raise TimeoutError(f"the agent on {self._host.host} has not ended within {timeout} s")
        return 0

    def stderr_tail(self) -> str:
        return self._tail

    def close(self) -> None:
        if self._closed.is_set():
            return
        alive = not (self._ended or self._left)
        self._closed.set()
        self._finish()
        process = self._process
        if process is not None:
            process.close()
        for thread in (self._sender, self._watcher):
            if thread is not threading.current_thread():
                thread.join()
        if alive:
            with contextlib.suppress(ChannelError, TimeoutError, OSError):
                self._host.end(self.run)
        with self._changed:
            (self._streams or self._outbox).close()

    def _finish(self) -> None:
        with self._changed:
            self._over = True
            self._changed.notify_all()

    # -- connections ----------------------------------------------------------------------------------------

    def _connect(self) -> None:
        """Connect with the agent. Raises :class:`ChannelError` where that may be otherwise next time."""
        process = self._host.open("attach" if self._met else "start", self.run)
        begun = math.inf
        try:
            process.write(self._hello())
            with _closing_after(_START, process):
                reader, pieces = _skip_to_magic(process)
            begun = time.monotonic()
            with _closing_after(self._threshold, process):
                while not pieces:
                    pieces = reader.feed(_read_some(process))
            piece = read_piece(pieces[0])
            self._check(piece)
            self.skew = _skew(piece)
        except AgentGoneError:
            process.close()
            raise
        except (ChannelError, MalformedError) as error:
            process.close()
            if time.monotonic() - begun >= self._threshold:
                raise _MuteError(f"it says nothing for {self._threshold:g} s") from error
            tail = process.stderr_tail().strip()
            raise ChannelError(f"{error}; {tail}" if tail else str(error)) from error
        except BaseException:
            process.close()
            raise
        with self._changed:
            try:
                self._outbox.rewind(piece.received)
            except ValueError as error:
                process.close()
                raise AgentGoneError(f"it is not as it was: {error}") from error
            self._met = True
            self._end_sent = False
            self._reader, self._pieces = reader, pieces[1:]
            self._heard_at = time.monotonic()
            self._process = process
            self._changed.notify_all()

    def _hello(self) -> bytes:
        said = write_json(protocol=AGENT_PROTOCOL, token=self.token, **self._options)
        setup = b"" if self._met else self._setup
        return b"".join(pack(write_piece(Piece(HELLO, 0, self._received, [said, setup]))))

    def _check(self, piece: Piece) -> None:
        words = bytes(piece.frames[0]).decode(errors="replace") if piece.frames else ""
        if piece.kind == WELCOME:
            return
        if piece.kind == GONE or (piece.kind == REFUSED and self._met):
            raise AgentGoneError(words)
        if piece.kind == REFUSED:
            raise ConfigError(f"the agent on {self._host.host} refuses: {words}", "interchange")
        raise ChannelError(words if piece.kind == AWAY else "no answer of an agent")

    def _recover(self, lost: str) -> bool:
        """Connect again, for as long as the patience lasts. Whether there is a connection."""
        process, self._process = self._process, None
        self._heard_at = math.inf
        if process is not None:
            process.close()
        if self._ended or self._closed.is_set():
            return False
        since = time.monotonic()
        self._report("connection.lost", host=self._host.host, reason=lost)
        delay = _FIRST_DELAY
        mute = 0
        while not self._closed.is_set():
            try:
                self._connect()
            except AgentGoneError as error:
                self.reason = str(error)
                self._ended = True
                break
            except (ChannelError, ConfigError, OSError) as error:  # TimeoutError, too
                said = str(error)
                mute = mute + 1 if isinstance(error, _MuteError) else 0
                if mute == _MUTE:
                    self.reason = f"the agent does not answer: {said}"
                    break
                self._host.forget()
                if said != lost:
                    self._report("connection.failed", host=self._host.host, reason=said, again_in=delay)
                    lost = said
            else:
                seconds = time.monotonic() - since
                self._report("connection.restored", host=self._host.host, seconds=seconds)
                return True
            left = since + self._patience - time.monotonic()
            if left <= 0:
                self.reason = f"no connection could be made within {self._patience:g} s: {lost}"
                break
            self._closed.wait(min(delay, left))
            delay = min(_LAST_DELAY, 2 * delay)
        self._tail = self.reason
        if self.reason:
            self._report("agent.lost", host=self._host.host, reason=self.reason)
        return False

    def _watch(self) -> None:
        """Cut a connection through which nothing comes: it may have broken without anybody being told."""
        suspected_at: float | None = None
        patience = self._threshold / 4
        while not self._closed.wait(patience):
            process, heard_at = self._process, self._heard_at
            silent = time.monotonic() - heard_at > self._threshold
            if silent and heard_at == suspected_at and process is not None:
                self._silence = f"nothing was heard for {time.monotonic() - heard_at:.0f} s"
                process.close()
            suspected_at = heard_at if silent else None
            patience = _MOMENT if silent else self._threshold / 4

    # -- what comes -----------------------------------------------------------------------------------------

    def _receive(self) -> str | None:
        """Wait for pieces. Returns why none will come."""
        process = self._process
        if process is None:
            return "there is no connection"
        self._silence = ""
        try:
            data = process.read(_RECEIVE)
            if not data and self._silence:
                return self._silence
            if not data:
                tail = process.stderr_tail().strip()
                return f"the connection has ended{f': {tail}' if tail else ''}"
            self._pieces = self._reader.feed(data)
        except (ChannelError, MalformedError, OSError) as error:
            return str(error)
        return None

    def _take_pieces(self) -> bytes:
        arrived: list[Frame] = []
        pieces, self._pieces = self._pieces, []
        for frames in pieces:
            piece = read_piece(frames)
            if piece.kind == END:
                self._ended = True
            if piece.kind not in (DATA, BEAT):
                continue
            data: Frame = b""
            if piece.kind == DATA:
                if piece.position > self._received:
                    raise MalformedError(f"bytes from {piece.position} on, {self._received} have come")
                data = piece.frames[0][max(0, self._received - piece.position) :]
                if not self._keep(data):
                    break
                arrived.append(data)
            with self._changed:
                self._outbox.confirm(piece.received)
                self._received += len(data)
                self._changed.notify_all()
        return b"".join(arrived)

    def _keep(self, data: Frame) -> bool:
        """Have it in the file before the agent hears that it has come. Waits as long as there is no room;
        false if this end was closed meanwhile.
        """
        if self._streams is None:
            return True
        told = False
        while not self._closed.is_set():
            try:
                with self._changed:
                    if self._closed.is_set():  # and so may be the file
                        return False
                    self._streams.take(data)
                return True
            except OSError as error:
                self._heard_at = math.inf  # it is not the agent who is waited for
                self._report_full(error, told)
                told = True
                self._closed.wait(_ROOM)
        return False

    def _report_full(self, error: OSError, told: bool) -> None:
        if not told and self._streams is not None:
            where = self._streams.directory
            self._report("run_dir.full", reason=f"{where} takes no more: {error}; the run waits for room")

    # -- what goes ------------------------------------------------------------------------------------------

    def _send(self) -> None:
        while not self._closed.is_set():
            with self._changed:
                owed = self._received != self._told
                self._changed.wait_for(self._is_due, _TELL if owed else self._period)
                process = self._process
                if self._over:
                    return
                if process is None:
                    continue
                data = self._next()
            try:
                process.write(data)
            except (ChannelError, OSError):
                process.close()  # which its reader will notice

    def _is_due(self) -> bool:
        if self._over:
            return True
        outbox = self._outbox
        return self._process is not None and (
            (outbox.sent < outbox.end and outbox.sent < outbox.confirmed + _WINDOW)
            or self._received - self._told > _OWED
            or (self._ending and not self._end_sent)
        )

    def _next(self) -> bytes:
        """The next pieces, as bytes; a sign of life if there is nothing else."""
        pieces: list[Piece] = []
        while len(pieces) < _AT_ONCE and (part := self._outbox.next(_PIECE, _WINDOW)) is not None:
            pieces.append(Piece(DATA, part[0], self._received, [part[1]]))
        if self._ending and self._outbox.sent == self._outbox.end and not self._end_sent:
            pieces.append(Piece(END, self._outbox.end, self._received))
            self._end_sent = True
        self._told = self._received
        return b"".join(
            b"".join(pack(write_piece(piece))) for piece in pieces or [Piece(BEAT, 0, self._received)]
        )


def _skew(welcome: Piece) -> float:
    now = time.time()
    ahead = float(read_json(welcome.frames[0]).get("time", now)) - now
    return ahead if abs(ahead) > _SKEW else 0.0


@contextlib.contextmanager
def _closing_after(seconds: float, process: RemoteProcess) -> Iterator[None]:
    """So long may the block wait for it."""
    timer = threading.Timer(seconds, process.close)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _read_some(process: RemoteProcess) -> bytes:
    data = process.read(_RECEIVE)
    if not data:
        raise ChannelError("the connection ended before the agent answered")
    return data


def _skip_to_magic(process: RemoteProcess) -> tuple[StreamReader, list[list[Frame]]]:
    """Read up to where the relay's words begin."""
    seen = b"\n"
    while MAGIC not in seen:
        if len(seen) > _JUNK:
            raise ChannelError(f"no agent answers, but something else: {seen[:200]!r}")
        seen += _read_some(process)
    reader = StreamReader()
    return reader, reader.feed(seen.partition(MAGIC)[2])
