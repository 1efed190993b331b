"""The ssh process that holds the one connection to a host."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from weft_interfaces import ChannelError

from .askpass import Askpass
from .cause import explain
from .errors import ConnectError, SessionEndedError
from .mux import Mux, MuxSession
from .prompts import answerer, notebook

__all__ = ["Master"]

_CONNECT = 30  # seconds for the host to answer, unless the user's options say otherwise
_WITHOUT_QUESTIONS = 120.0  # seconds for all of it, where nobody is asked anything
_PERSIST = 5  # seconds that the connection outlives the process that has asked for it
_ALIVE_INTERVAL, _ALIVE_COUNT = 15, 3
_LOG = 1 << 20  # bytes of ssh's log that are kept at most
_LONGEST_PATH = 60  # the system allows about 104, and ssh adds some of its own


class Master:
    """One connection, from when it has been made until it is closed or lost.

    Making it may ask the user for passwords and codes: by the program that ``SSH_ASKPASS`` names, on the
    terminal, or in the cell of a notebook that this thread runs; where there is none of them, nothing is
    asked, and what would be is an error. The process ends by itself seconds after this one has, however this
    one ends. Raises what :func:`~.cause.explain` makes of ssh's words.
    """

    def __init__(self, host: str, options: Sequence[str]) -> None:
        self._host = host
        _sweep()
        self._folder = Path(tempfile.mkdtemp(prefix=f"weft-ssh-{os.getpid()}-", dir=_place()))
        self._socket, self._log = str(self._folder / "s"), self._folder / "log"
        self._words = ""
        try:
            self._connect(options)
            # As long as this is open, the process on its other end stays.
            self._hold = Mux(self._socket)
            self._process = self._hold.process()
            os.truncate(self._log, 0)
        except BaseException:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise

    def session(self, command: str, end: float | None = None) -> MuxSession:
        """Start a command line. Raises :class:`ConnectError` if the connection is gone, and
        :class:`TimeoutError` if the server has not agreed at ``end``.
        """
        with contextlib.suppress(OSError):
            if self._log.stat().st_size > _LOG:
                os.truncate(self._log, 0)
        return MuxSession(self._socket, command, self.lost, end)

    @property
    def lives(self) -> bool:
        """Whether the process is there, which notices a dead connection some time after its death."""
        try:
            Mux(self._socket).close()
        except ChannelError:
            return False
        return True

    def lost(self) -> ChannelError:
        """The error of a session without an end: of a connection that is gone, with ssh's last words."""
        if self.lives:
            return SessionEndedError(f"{self._host}: the server has ended a session without an exit status")
        self._listen()
        why = self._words or "the other side closed it"  # of which ssh says nothing, once it is a daemon
        return ConnectError(f"the connection to {self._host} is lost: {why}")

    def close(self) -> None:
        """End the connection, its process and its files. May be called twice."""
        with contextlib.suppress(ChannelError), contextlib.closing(Mux(self._socket)) as mux:
            try:
                mux.terminate()
            except TimeoutError:
                os.kill(self._process, signal.SIGKILL)
        self._hold.close()
        self._listen()  # somebody else may not have asked yet why it is lost
        shutil.rmtree(self._folder, ignore_errors=True)

    def _listen(self) -> None:
        for line in _lines(self._log):
            if re.search(r"Timeout, server|closed by|reset|Broken", line):
                self._words = line

    def _connect(self, options: Sequence[str]) -> None:
        cell = _in_cell()
        asks = cell or _can_ask()
        ours = _ours(self._socket, asks)
        status, lines = self._start(ours, options, asks, cell)
        if status and any(
            re.search("bad configuration option: remotecommand", line, re.IGNORECASE) for line in lines
        ):
            # OpenSSH before 7.6, which cannot be told by a file to run something else either.
            del ours["RemoteCommand"]
            status, lines = self._start(ours, options, asks, cell)
        if status:
            raise explain(self._host, options, lines, asks)

    def _start(
        self, ours: Mapping[str, object], options: Sequence[str], asks: bool, cell: bool
    ) -> tuple[int, list[str]]:
        """Have ssh connect, and go on in the background. Its exit status, and what it said."""
        command = ["ssh", "-f", "-N", "-v", "-E", str(self._log)]
        command += [*(f"-o{name}={value}" for name, value in ours.items()), *options]
        command += [f"-oConnectTimeout={_CONNECT}", f"-oServerAliveInterval={_ALIVE_INTERVAL}"]
        command += [f"-oServerAliveCountMax={_ALIVE_COUNT}", "--", self._host]
        with open(self._folder / "stderr", "wb") as stderr, contextlib.ExitStack() as stack:
            askpass = stack.enter_context(self._askpass()) if cell else None
            variables = {**os.environ, **(askpass.variables if askpass else {})}
            null = subprocess.DEVNULL
            try:
                ssh = subprocess.Popen(
                    command,
                    stdin=null,
                    stdout=null,
                    stderr=stderr,
                    env=variables,
                    start_new_session=cell or not asks,
                )
                stack.enter_context(ssh)
                stack.callback(ssh.kill)
                if askpass:
                    askpass.answer(ssh)
                status = ssh.wait(None if asks else _WITHOUT_QUESTIONS)
            except FileNotFoundError as error:
                raise ChannelError(
                    f"{self._host} cannot be reached: there is no ssh on PATH; install OpenSSH's client"
                ) from error
            except subprocess.TimeoutExpired as error:
                raise ConnectError(f"{self._host} was not reached within {_WITHOUT_QUESTIONS:g} s") from error
        return status, [*_lines(self._folder / "stderr"), *_lines(self._log)]

    @contextlib.contextmanager
    def _askpass(self) -> Iterator[Askpass]:
        with tempfile.TemporaryDirectory(prefix="", dir=self._folder) as folder:
            ask = answerer(None, lambda: True)
            with contextlib.closing(Askpass(Path(folder), self._host, ask)) as askpass:
                yield askpass


def _ours(path: str, asks: bool) -> dict[str, object]:
    """What the channel needs, whatever the user's files say: ssh keeps the first value of an option."""
    return {
        "ControlMaster": "yes",
        "ControlPath": path,
        "ControlPersist": _PERSIST,
        "BatchMode": "no" if asks else "yes",
        "ClearAllForwardings": "yes",
        "ForwardX11": "no",
        "PermitLocalCommand": "no",
        "RemoteCommand": "none",
        "RequestTTY": "no",
    }


def _in_cell() -> bool:
    """Whether this thread runs a cell of a notebook, which can be asked, and no other program is to ask."""
    main = threading.current_thread() is threading.main_thread()
    return main and notebook() and not os.environ.get("SSH_ASKPASS")


def _can_ask() -> bool:
    """Whether there is somebody to ask: ssh opens the terminal by itself."""
    if os.environ.get("SSH_ASKPASS"):
        return True
    with contextlib.suppress(OSError, ValueError):
        return sys.stdin.isatty() and os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()
    return False


def _place() -> str:
    """A directory with a short path."""
    for place in (os.environ.get("XDG_RUNTIME_DIR"), tempfile.gettempdir()):
        if place and len(place) <= _LONGEST_PATH and os.access(place, os.W_OK | os.X_OK):
            return place
    return "/tmp"


def _sweep() -> None:
    """Remove what processes of this user have left that were killed."""
    with contextlib.suppress(OSError):
        for entry in os.scandir(_place()):
            said = re.fullmatch(r"weft-ssh-(\d+)-\w+", entry.name)
            ours = said and entry.stat(follow_symlinks=False).st_uid == os.getuid()
            if said and ours and not _runs(int(said[1])):
                shutil.rmtree(entry.path, ignore_errors=True)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_bytes().decode(errors="replace")
    except FileNotFoundError:
        return []
    return [line for line in map(str.strip, text.splitlines()) if line]
