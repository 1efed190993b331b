"""A channel over anything that can start one command line at a time on the far side."""

from __future__ import annotations

import contextlib
import threading
import time
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path

from weft_interfaces import BaseChannel, ChannelError, CommandResult

from .errors import SessionEndedError
from .files import Files
from .process import ShellProcess
from .session import Session
from .slots import Slot, Slots
from .wrapper import COMMAND, Wrapper, check

__all__ = ["ShellChannel"]

_BEGIN = 60.0  # seconds for a command to begin, and for the login files of the far side to get there
_GRACE = 5.0  # seconds for a command to be killed there by the end of its stdin
_KILL = 5.0  # seconds for the session that kills what another one has left
_AGAIN = 0.2
_ATTEMPTS = 4
_INLINE = 32768  # bytes that fit into any pipe: nobody has to wait for them to be taken
_CHUNK = 1 << 16


class ShellChannel(BaseChannel):
    """Everything of a channel but the connection: subclasses write ``host``, ``_start`` and ``_disconnect``.

    environment: variables that every command gets beside those that the far side gives. Commands are killed,
    with all that they have started, when they time out, when they or the channel are closed, and when the
    connection is lost; what they have put into the background for good (in a session of its own, with its
    parent ended) lives on. Where the server allows few sessions at a time, they wait for each other.
    """

    def __init__(self, *, environment: Mapping[str, str] | None = None) -> None:
        self._environment = dict(environment or {})
        self._slots = Slots()
        self._lock = threading.Lock()
        self._processes: set[ShellProcess] = set()
        self._is_closed = False
        self._files = Files(self)

    # -- what a connection gives ---------------------------------------------------------------------------

    @abstractmethod
    def _start(self, command: str, end: float | None = None) -> Session:
        """Have the far side's login shell run ``command``, connecting first if need be; any threads.

        end: on the clock of :func:`time.monotonic`, until when to wait for another thread that connects, and
        may be asking a person; raises :class:`TimeoutError` then. Returning means that the far side was asked
        to; what keeps it from that may be raised by the session later. Raises :class:`SessionRefusedError`
        (or the session does, before the command begins) when the connection is good but has as many sessions
        as the server allows: the call is made again when one of this channel's sessions has ended. Raises
        another :class:`ChannelError` when there is no connection and none can be made.
        """

    @abstractmethod
    def _disconnect(self) -> None:
        """End the connection; sessions are closed already. Called once."""

    def _is_connected(self) -> bool:
        """Whether ``_start`` finds a connection, as far as this side knows."""
        return True

    def _reconnected(self) -> None:
        """To be called by a subclass that has made another connection."""
        self._slots.reset()

    # -- the contract --------------------------------------------------------------------------------------

    def run(
        self,
        argv: Sequence[str],
        *,
        input: bytes = b"",
        timeout: float | None = None,
        environment: Mapping[str, str] | None = None,
        cwd: str | None = None,
    ) -> CommandResult:
        end = None if timeout is None else time.monotonic() + timeout
        process = self._begin(argv, environment, cwd, len(input), end)
        with _Input(process, input), contextlib.closing(process), _Watch(process, end) as watch:
            try:
                stdout = _read_all(process)
                result = CommandResult(process.wait(_GRACE), stdout, process.stderr)
                if not watch.expired:
                    return result
            except ChannelError:
                if not watch.expired:
                    raise
        raise TimeoutError(f"{process.name} has not ended after {timeout:g} s, and was killed")

    def open(
        self, argv: Sequence[str], *, environment: Mapping[str, str] | None = None, cwd: str | None = None
    ) -> ShellProcess:
        return self._begin(argv, environment, cwd, None, None)

    def put(self, local: Path, remote: str) -> None:
        self._files.put(Path(local), remote)

    def get(self, remote: str, local: Path) -> None:
        self._files.get(remote, Path(local))

    def makedirs(self, path: str, mode: int = 0o700) -> None:
        self._files.makedirs(path, mode)

    def close(self) -> None:
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            processes = list(self._processes)
        for process in processes:
            process.close()
        self._disconnect()

    # -- commands ------------------------------------------------------------------------------------------

    def _check(self) -> None:
        if self._is_closed:
            raise ChannelError(f"the channel to {self.host} is closed")

    def _begin(
        self,
        argv: Sequence[str],
        environment: Mapping[str, str] | None,
        cwd: str | None,
        size: int | None,
        end: float | None,
    ) -> ShellProcess:
        """A command that runs there. Raises :class:`TimeoutError` after ``end``."""
        variables = {**self._environment, **(environment or {})}
        check(argv, variables, self.host)
        latest = time.monotonic() + _BEGIN if end is None else min(end, time.monotonic() + _BEGIN)
        name = f"{argv[0]!r} on {self.host}"

        def start(slot: Slot) -> ShellProcess:
            self._check()
            session = self._start(COMMAND, end)
            wrapper = Wrapper(argv, variables, cwd, size)

            def ended(process: ShellProcess) -> None:
                slot.free()
                if process.is_closed:
                    with self._lock:
                        self._processes.discard(process)

            process = ShellProcess(
                session, wrapper, name, kill=self._kill, ended=ended, whole_stderr=size is not None
            )
            try:
                if not process.begin(latest - time.monotonic()):
                    raise self._late(name, end, process)
                with self._lock:
                    self._check()
                    self._processes.add(process)
                return process
            except BaseException:
                process.close()
                raise

        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return self._slots.take(start, latest, lambda why: self._no_slot(name, end, why))
            except SessionEndedError:
                # Before the command began. Dropbear does so now and then when another session ends.
                if attempt == _ATTEMPTS or time.monotonic() >= latest:
                    raise
        raise AssertionError("the last attempt returns or raises")

    def _kill(self, command: str) -> None:
        """Run a command line that kills; in a thread, as a connection that has died takes long to say so."""

        def kill() -> None:
            end = time.monotonic() + _KILL
            while self._is_connected() and time.monotonic() < end:
                with (
                    contextlib.suppress(ChannelError, TimeoutError),
                    contextlib.closing(self._start(command, end)) as session,
                ):
                    session.close_stdin()
                    while session.read(_CHUNK):
                        pass
                    session.wait(_GRACE)
                    return
                time.sleep(_AGAIN)  # as many sessions as the server allows: the killed one's is free soon

        killing = threading.Thread(target=kill, name=f"kill on {self.host}", daemon=True)
        killing.start()
        killing.join(_KILL)

    def _late(self, name: str, end: float | None, process: ShellProcess) -> Exception:
        said = f"; so far it said: {process.so_far}" if process.so_far else ""
        if end is not None and time.monotonic() >= end:
            return TimeoutError(f"{name} did not begin before its timeout had passed{said}")
        return ChannelError(
            f"{name} did not begin within {_BEGIN:g} s{said}. Either the server runs a command of its own (a "
            "forced command), or a login file (such as .bashrc) waits for something, or the host is busy"
        )

    def _no_slot(self, name: str, end: float | None, why: str) -> Exception:
        with self._lock:
            names = sorted({process.name for process in self._processes if not process.has_ended})
        words = f"{why}; open are: {', '.join(names) or 'none'}"
        if end is not None and time.monotonic() >= end:
            return TimeoutError(f"{name} had no session before its timeout had passed: {words}")
        return ChannelError(f"{name} had to wait too long for a session: {words}")


class _Watch:
    """Ends a process at a time, if it has not ended by then."""

    def __init__(self, process: ShellProcess, end: float | None) -> None:
        self.expired = False
        self._process = process
        self._timer = None if end is None else threading.Timer(max(end - time.monotonic(), 0.0), self._expire)

    def __enter__(self) -> _Watch:
        if self._timer is not None:
            self._timer.daemon = True
            self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer.join(_GRACE + _KILL)

    def _expire(self) -> None:
        self.expired = True
        self._process.expire(_GRACE)


class _Input:
    """Sends the input of a command, which need not read it, while its output comes. To be left when the
    command is closed.
    """

    def __init__(self, process: ShellProcess, input: bytes) -> None:
        self._process, self._input = process, input
        self._writer: threading.Thread | None = None

    def __enter__(self) -> None:
        if len(self._input) > _INLINE:
            name = f"input of {self._process.name}"
            self._writer = threading.Thread(target=self._write, name=name, daemon=True)
            self._writer.start()
        elif self._input:
            self._write()

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.join(_GRACE)

    def _write(self) -> None:
        with contextlib.suppress(ChannelError):
            self._process.write(self._input)


def _read_all(process: ShellProcess) -> bytes:
    output = []
    while data := process.read(_CHUNK):
        output.append(data)
    return b"".join(output)
