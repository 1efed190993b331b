"""The client's end of an interchange that lives elsewhere: in a process of its own, or behind a channel.

::

    Client ── pull ── writer thread ──> stdin   ┐
                                                ├ serve.py: Interchange ──> managers
    Client <── receive ── reader thread ── stdout ┘

When the stream ends the next interchange is started, a few times, on the same port as the last one if it had
one: there managers look for it, with the calls that they have. Where it cannot be there, all that was sent is
lost. One of which nothing is heard is ended, by a thread that neither of the others, waiting for it, can hold
up.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import pickle
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from typing import IO

import msgspec
from weft_interfaces import ChannelError, ConfigError, DeathCertificate, RemoteProcess

from .agent.line import Line
from .client import Client
from .link import clear_away
from .messages import (
    Frame,
    Heartbeat,
    InterchangeState,
    Listening,
    MalformedError,
    Message,
    Stop,
    Sync,
    decode,
    encode,
)
from .selector import Selector
from .setup import InterchangeSetup, ManagerAccess
from .stream import StreamReader, pack

__all__ = ["InterchangeStream", "open_process", "serve_in_process"]

_END = 2.0  # seconds that an interchange may take to end by itself
_MOMENT = 0.1  # seconds in which what had come while this process was not running is read
_START = 30.0  # seconds that it may take to say where it listens
_HEARD = 2.0  # seconds that ``flush`` waits for an answer
_RECEIVE = 1 << 18
_IN_A_ROW = 3  # interchanges that may end before they have lived so many seconds ...
_SOON = 10.0
_NOTHING = InterchangeState([], {}, {})


class InterchangeStream:
    """See the module, and :class:`~.placement.Placement`. ``open`` starts an interchange, wherever it is to
    live, with this setup.

    watched: whether one of which nothing is heard is ended here; else ``open`` sees to that. whole: whether
    each message is written in one piece, and before ``wake`` returns.
    """

    def __init__(
        self,
        label: str,
        client: Client,
        setup: InterchangeSetup,
        selector: Selector,
        open: Callable[[bytes], RemoteProcess],
        *,
        watched: bool = True,
        whole: bool = False,
    ) -> None:
        self._label = label
        self._client = client
        self._setup: InterchangeSetup = msgspec.structs.replace(setup, selector=_pickled(selector, label))
        self._open = open
        self._whole = whole
        self._pulling = threading.Lock()
        self._leaving = False
        self._state = _NOTHING
        self._changed = threading.Condition()
        self._news = threading.Event()
        self._numbers = itertools.count(1)
        self._answered = 0
        self._stopping = False
        self._over = threading.Event()
        self._given_up = False
        self._early_deaths = 0
        self._process: RemoteProcess | None = None
        self._access: ManagerAccess | None = None
        self._follows = False
        self._last: ManagerAccess | None = None
        self._threshold = setup.heartbeat_threshold if watched else math.inf
        self._heard_at = math.inf  # it is not waited for now, or is not there
        self._writer = threading.Thread(target=self._write, name=f"{label}-to-interchange", daemon=True)
        self._reader = threading.Thread(target=self._read, name=f"{label}-from-interchange", daemon=True)
        self._watcher = threading.Thread(target=self._watch, name=f"{label}-interchange-watch", daemon=True)

    # -- from any thread ------------------------------------------------------------------------------------

    @property
    def access(self) -> ManagerAccess:
        access = self._access
        if access is None:
            raise ChannelError(f"the interchange of executor {self._label!r} is not there (any more)")
        return access

    @property
    def inside(self) -> bool:
        return threading.current_thread() is self._reader

    @property
    def follows(self) -> bool:
        return self._follows

    def start(self) -> None:
        self._connect()
        self._writer.start()
        self._reader.start()
        self._watcher.start()

    def wake(self) -> None:
        process = self._process
        if self._whole and process is not None and not self._stopping:
            self._pull(process)  # before whoever submits goes on: only then another process can do so
        self._news.set()

    def flush(self) -> None:
        number = next(self._numbers)
        self._client.tell(Sync(number))
        self._news.set()
        if not self.inside:
            with self._changed:
                self._changed.wait_for(lambda: self._answered >= number or self._given_up, _HEARD)

    def state(self) -> InterchangeState:
        return self._state

    def stop(self, timeout: float) -> bool:
        self._stopping = True
        self._news.set()
        deadline = time.monotonic() + timeout
        for thread in (self._writer, self._reader):
            thread.join(max(0.0, deadline - time.monotonic()))
        ended = not self._reader.is_alive()
        process = self._process
        if process is not None:
            with contextlib.suppress(TimeoutError, ChannelError):
                process.wait(_END)
            process.close()
        self._over.set()
        self._watcher.join()
        return ended

    def leave(self, timeout: float) -> list[str]:
        """Go, and let an agent go on. Waits up to ``timeout`` seconds until it has got all that there is to
        say. Returns what it has not got, in words.
        """
        deadline = time.monotonic() + timeout
        self._leaving = self._stopping = True
        self._news.set()
        self._writer.join(timeout)
        process = self._process
        left = process.leave(max(0.0, deadline - time.monotonic())) if isinstance(process, Line) else 0
        self._reader.join()
        self._over.set()
        self._watcher.join()
        if not left:
            return []
        return [f"{left} bytes of what executor {self._label!r} was given: `weft attach` sends them"]

    # -- the stream -----------------------------------------------------------------------------------------

    def _connect(self) -> None:
        """Start an interchange, and wait until it says where it listens."""
        process = self._open(self._setup.dump())
        timer = threading.Timer(_START, process.close)
        timer.start()
        try:
            reader, messages = StreamReader(), list[list[Frame]]()
            while not messages:
                data = process.read(_RECEIVE)
                if not data:
                    raise ChannelError("it ended before it said where it listens")
                messages = reader.feed(data)
            message = decode(messages[0])
            if type(message) is not Listening:
                words = message.reason if type(message) is Stop else type(message).__name__
                raise ChannelError(f"it said: {words}")
        except (ChannelError, MalformedError) as error:
            tail = process.stderr_tail().strip()
            process.close()
            said = f"; the end of its stderr:\n{tail}" if tail else ""
            raise ChannelError(
                f"the interchange of executor {self._label!r} did not start: {error}{said}"
            ) from error
        finally:
            timer.cancel()
        self._streams = reader, messages[1:]
        self._began = time.monotonic()
        self._access = message.access
        self._follows = self._last is not None and self._last.leads_to(message.access)
        self._last = message.access
        self._setup = msgspec.structs.replace(self._setup, port=message.access.port)
        self._client.skew = process.skew if isinstance(process, Line) else 0.0
        self._process = process  # now it can be written to

    def _write(self) -> None:
        while not self._given_up:
            self._news.wait()
            self._news.clear()
            process = self._process
            if process is not None:
                self._write_to(process)
            if self._stopping:
                return

    def _write_to(self, process: RemoteProcess) -> None:
        self._pull(process)
        if self._stopping and not self._leaving:
            process.close_stdin()

    def _pull(self, process: RemoteProcess) -> None:
        def send(message: Message, payloads: Sequence[Frame]) -> None:
            with contextlib.suppress(ChannelError):  # its end will be read, and all that it was sent is lost
                parts = pack(encode(message, payloads))
                if self._whole:
                    parts = [b"".join(parts)]
                for part in parts:
                    process.write(bytes(part))

        with self._pulling:
            if process is self._process:  # else nobody would notice that what it is sent is lost
                self._client.pull(send)

    def _watch(self) -> None:
        """End one of which nothing is heard: it may be that it has been stopped."""
        suspected_at: float | None = None
        patience = self._threshold
        while not self._over.wait(patience if patience < math.inf else None):
            process, heard_at = self._process, self._heard_at
            left = heard_at + self._threshold - time.monotonic()
            if left <= 0 and heard_at == suspected_at and process is not None and not self._stopping:
                process.close()
            suspected_at = heard_at if left <= 0 else None
            patience = max(_MOMENT, min(left, self._threshold))

    def _read(self) -> None:
        while True:
            self._read_to_the_end()
            if self._stopping:
                return
            self._lose()
            if not self._begin_again():
                return

    def _read_to_the_end(self) -> None:
        process = self._process
        assert process is not None
        reader, messages = self._streams
        while True:
            for frames in messages:
                try:
                    self._receive(decode(frames), frames[1:])
                except Exception:  # noqa: BLE001  the other messages must go on
                    sys.excepthook(*sys.exc_info())
            self._heard_at = time.monotonic()
            try:
                data = process.read(_RECEIVE)
                messages = reader.feed(data)
            except (ChannelError, MalformedError):
                return
            if not data:
                return
            self._heard_at = math.inf  # taking what has come may be long

    def _receive(self, message: Message, payloads: Sequence[Frame]) -> None:
        if type(message) is InterchangeState:
            self._state = message
        elif type(message) is Sync:
            with self._changed:
                self._answered = max(self._answered, message.number)
                self._changed.notify_all()
        elif type(message) is not Heartbeat:
            self._client.receive(message, payloads)
            self._news.set()  # there is room for calls now

    # -- its end --------------------------------------------------------------------------------------------

    def _lose(self) -> None:
        """It has ended, and nobody has asked it to."""
        process = self._process
        assert process is not None
        status, said, tail = None, "", ""
        if isinstance(process, Line):  # nobody knows how a process of another host has ended
            said = process.reason
        else:
            with contextlib.suppress(TimeoutError, ChannelError):
                status = process.wait(1.0)
            tail = process.stderr_tail()
        silent = time.monotonic() - self._heard_at
        endpoints = self._access.endpoints if self._access is not None else []
        process.close()  # whoever writes to it need not wait any more
        with self._pulling:
            self._process, self._access, self._heard_at = None, None, math.inf
        self._state = _NOTHING
        for endpoint in endpoints:
            clear_away(endpoint.url)
        certificate = DeathCertificate(
            kind="interchange",
            exit_code=status if status is not None and status >= 0 else None,
            signal=-status if status is not None and status < 0 else None,
            reason=f"nothing was heard of it for {silent:.1f} s" if silent > self._threshold else said,
            stderr_tail=tail,
            time=time.time(),
        )
        self._client.lose_interchange(certificate)
        if self._setup.port is None:  # managers could not find another one
            self._client.settle()

    def _begin_again(self) -> bool:
        """Start the next one. Whether there is one."""
        self._early_deaths = self._early_deaths + 1 if time.monotonic() - self._began < _SOON else 0
        reason = f"{self._early_deaths} interchanges in a row ended within {_SOON:g} s"
        if self._early_deaths < _IN_A_ROW:
            try:
                self._connect()
                if self._follows:
                    self._client.look_around()
                else:
                    self._client.settle()
                self._news.set()
                if self._stopping and self._process is not None:  # the writer may have ended without it
                    self._process.close()
                return not self._stopping
            except (ChannelError, OSError) as error:
                reason = str(error)
        with self._changed:
            self._given_up = True
            self._changed.notify_all()
        self._client.settle()
        self._client.give_up(reason)
        self._news.set()
        return False


def _pickled(selector: Selector, label: str) -> bytes:
    try:
        return pickle.dumps(selector)
    except Exception as error:
        raise ConfigError(
            f"selector of executor {label!r} cannot be pickled, as it must be when the interchange is no "
            f"thread of this process: {error}",
            "selector",
        ) from error


# -- on this machine ----------------------------------------------------------------------------------------


def serve_in_process(setup: bytes) -> RemoteProcess:
    """An interchange that is a child of this process. Raises :class:`OSError`."""
    process = open_process()
    with contextlib.suppress(ChannelError):  # it has ended, and why will be read
        process.write(b"".join(pack([setup])))
    return process


def open_process() -> RemoteProcess:
    """What serves who says on its standard input how. Raises :class:`OSError`."""
    return _Child([sys.executable, "-m", f"{__package__}.interchange"])


class _Child:
    """A child process as a :class:`RemoteProcess`."""

    def __init__(self, argv: Sequence[str]) -> None:
        self._reading = threading.Lock()
        self._saying = threading.Lock()
        self._tail = b""
        self._stderr: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  closed by close()
        path = os.pathsep.join(entry for entry in sys.path if entry)
        try:
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                bufsize=0,
                env={**os.environ, "PYTHONPATH": path},
            )
        except BaseException:
            self._stderr.close()
            raise

    def read(self, size: int) -> bytes:
        stdout = self._process.stdout
        assert stdout is not None
        try:
            with self._reading:
                return stdout.read(size) or b""
        except (OSError, ValueError) as error:
            raise ChannelError(f"its output cannot be read: {error}") from error

    def write(self, data: bytes) -> None:
        stdin = self._process.stdin
        assert stdin is not None
        view = memoryview(data)
        try:
            while view:
                view = view[stdin.write(view) or 0 :]
        except (OSError, ValueError) as error:
            raise ChannelError(f"it does not take what it is sent: {error}") from error

    def close_stdin(self) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()

    def wait(self, timeout: float | None = None) -> int:
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired as error:
            raise TimeoutError(str(error)) from error

    def stderr_tail(self) -> str:
        with self._saying:
            if not self._stderr.closed:
                size = os.fstat(self._stderr.fileno()).st_size
                self._tail = os.pread(self._stderr.fileno(), 8192, max(0, size - 8192))
            return self._tail.decode(errors="replace")

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self.close_stdin()
        assert self._process.stdout is not None
        with self._reading:  # whoever reads gets to the end now
            self._process.stdout.close()
        self.stderr_tail()  # for who asks when it is closed
        with self._saying:
            self._stderr.close()
