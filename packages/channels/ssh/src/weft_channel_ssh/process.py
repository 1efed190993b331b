"""A command behind a session: what is its own, apart from what came before and around it."""

from __future__ import annotations

import contextlib
import re
import signal
import threading
from collections.abc import Callable

from weft_interfaces import ChannelError

from .errors import ConnectError
from .marks import Sieve
from .session import Session
from .wrapper import Wrapper, group_killer, killer

__all__ = ["ShellProcess"]

_TAIL = 8192  # bytes that are kept of the stderr of an open process, and of what came before the mark
_REST = 5.0  # seconds for stderr to come to its end after stdout has
_CHUNK = 65536


class ShellProcess:
    """A :class:`~weft_interfaces.RemoteProcess`. Its stderr is read as it comes, by a thread of its own.

    name: the command and the host, for messages. kill: runs a command line that kills, over another session.
    ended: called when it has ended or was closed, at least once. whole_stderr: all of it is kept, not only
    its end.
    """

    def __init__(
        self,
        session: Session,
        wrapper: Wrapper,
        name: str,
        *,
        kill: Callable[[str], None],
        ended: Callable[[ShellProcess], None],
        whole_stderr: bool,
    ) -> None:
        self._session, self._mark, self.name = session, wrapper.mark, name
        self._kill, self._tell, self._whole = kill, ended, whole_stderr
        self._main: int | None = None
        self._group = 0
        self._status: int | None = None
        self._trouble: ChannelError | None = None
        self._began, self._ended = threading.Event(), threading.Event()
        self._closing, self._closed = threading.Lock(), False
        self._stderr = bytearray()
        self._junk = b""  # what came before the marks: of login files, or of what ran instead
        self._out: bytes | None = None  # read already; None: the mark has not come yet
        self._sieve = Sieve(self._mark)
        self._stdin_closed = False
        self._reader = threading.Thread(target=self._read_stderr, name=f"stderr of {name}", daemon=True)
        self._reader.start()
        with contextlib.suppress(ChannelError):  # the reader finds out why
            session.write(wrapper.line)

    # -- the contract --------------------------------------------------------------------------------------

    def read(self, size: int) -> bytes:
        if self._out is None:
            self._out = self._skip_junk()
        while not self._out and not self._closed:
            data = self._session.read(max(size, 1))
            if not data:
                self._out = self._sieve.rest()
                if not self._out:
                    self._check_end()
                    return b""
            # Once stdin is closed the relay's marks may come.
            self._out += self._sieve.data(data) if self._stdin_closed else data
        data, self._out = self._out[:size], self._out[size:]
        return data

    def write(self, data: bytes) -> None:
        if self._closed or self._status is not None:
            raise ChannelError(f"{self.name} reads no more: it has ended or was closed")
        try:
            self._session.write(data)
        except ChannelError as error:
            self._ended.wait(_REST)
            if (trouble := self._trouble) is not None:
                raise trouble from error
            raise ChannelError(f"{self.name} reads no more: it has ended or was closed") from error

    def close_stdin(self) -> None:
        self._stdin_closed = True
        self._session.close_stdin()

    def wait(self, timeout: float | None = None) -> int:
        if not self._ended.wait(timeout):
            raise TimeoutError(f"{self.name} has not ended within {timeout} s")
        if self._status is not None:
            return self._status
        assert self._trouble is not None, "it ended with a status or in trouble"
        raise self._trouble

    def stderr_tail(self) -> str:
        if self._ended.is_set():
            self._reader.join(_REST)
        return bytes(self._stderr[-_TAIL:]).decode(errors="replace")

    def close(self) -> None:
        with self._closing:
            if self._closed:
                return
            self._closed = True
            runs = self._status is None and self._trouble is None
            self._session.close()
            if runs and self._main is not None:
                self._kill(killer(self._main))
        self._reader.join(_REST)
        self._end_as_killed()
        self._tell(self)

    # -- for the channel -----------------------------------------------------------------------------------

    @property
    def has_ended(self) -> bool:
        return self._ended.is_set()

    @property
    def is_closed(self) -> bool:
        return self._closed

    @property
    def stderr(self) -> bytes:
        """All of it, once stdout has come to its end."""
        self._reader.join(_REST)
        return bytes(self._stderr)

    @property
    def so_far(self) -> str:
        """What the far side has said before the command began, for messages."""
        return self._junk.decode(errors="replace").strip()

    def begin(self, timeout: float | None) -> bool:
        """Wait until it runs; whether it does. Raises what has kept it from that."""
        if not self._began.wait(timeout):
            return False
        if self._main is None:
            raise self._trouble or ChannelError(f"{self.name} was closed before it began")
        return True

    def expire(self, grace: float) -> None:
        """Have the far side kill it, and close it; ``grace`` seconds for that to be known."""
        if self._group:  # it has ended, and something in its background holds its output open
            self._kill(group_killer(self._group))
        self._session.close_stdin()
        self._ended.wait(grace)
        self.close()

    # -- the streams ---------------------------------------------------------------------------------------

    def _skip_junk(self) -> bytes:
        """Read up to the mark; what has come after it."""
        data, mark = b"", self._mark + b"\n"
        while (at := data.find(mark)) < 0:
            part = self._session.read(_CHUNK)
            if not part:
                self._check_end()
                return b""
            data = data[-max(_TAIL, len(mark)) :] + part
        data = data[at + len(mark) :]
        return self._sieve.data(data) if self._stdin_closed else data

    def _check_end(self) -> None:
        """After the end of stdout: raises unless the command's end is known, or this side has closed it."""
        self._ended.wait(_REST)
        if self._trouble is not None and not self._closed:
            raise self._trouble

    def _read_stderr(self) -> None:
        sieve = Sieve(self._mark)
        try:
            while data := self._session.read_stderr(_CHUNK):
                for part, words in sieve.sift(data):
                    self._keep(part)
                    if words is not None:
                        self._hear(words)
            self._keep(sieve.rest())
            if self._status is None and not self._closed:
                self._trouble = self._why()
        except ChannelError as error:
            self._trouble = error
        finally:
            if self._closed:
                self._end_as_killed()
            self._began.set()
            self._ended.set()
            self._tell(self)

    def _hear(self, words: bytes) -> None:
        if said := re.fullmatch(rb" begins (\d+)", words):
            # What came before is junk of login files.
            self._junk, self._stderr = bytes(self._stderr[-_TAIL:]), bytearray()
            self._main = int(said[1])
            self._began.set()
        elif said := re.fullmatch(rb" ended (\d+) (\d+)", words):
            status, self._group = int(said[1]), int(said[2])
            # As a shell says it: a signal's number above 128.
            self._status = 128 - status if 128 < status < 128 + 65 else status
            self._ended.set()

    def _keep(self, data: bytes) -> None:
        self._stderr += data
        if not self._whole or self._main is None:
            del self._stderr[:-_TAIL]
        if self._main is None:
            self._junk = bytes(self._stderr)

    def _end_as_killed(self) -> None:
        """Closed by this side: that is the end of it, whatever its session may still say."""
        if self._status is None:
            self._status, self._trouble = -signal.SIGKILL, None
        self._ended.set()

    def _why(self) -> ChannelError:
        """Why there is no exit status though the session has ended."""
        try:
            status = self._session.wait(_REST)
        except ChannelError as error:
            return error
        except TimeoutError:
            return ConnectError(
                f"{self.name}: its output ended without an exit status; the connection is lost"
            )
        if self._main is not None:
            return ConnectError(
                f"{self.name}: it ended without an exit status: the connection was lost, or what looks after "
                "commands there was killed"
            )
        with contextlib.suppress(ChannelError):  # nobody reads before it has begun
            while len(self._junk) < _TAIL and (data := self._session.read(_CHUNK)):
                self._junk += data
        said = f", and said: {self.so_far}" if self.so_far else ""
        return ChannelError(
            f"{self.name} was not run: the far side ended with exit status {status} before that{said}. "
            "Either the server runs a command of its own (a forced command, a restricted or disabled login "
            "shell), or a login file (such as .bashrc) ends the shell"
        )
