"""Where an agent has its things on the login node: for each run a directory of temporary files, with its
socket, and beside the agent's file a record that says where that is.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import stat
import sys
import tempfile
import time
from typing import Any

__all__ = ["RunPlace", "places_of"]

_TAIL = 4096
_ATTEMPTS = 20


class RunPlace:
    """The place of one run, which need not be there. ``directory``: of its socket; empty when not known.

    Raises :class:`ValueError` for what is no id, and :class:`OSError` when nobody can say now where it is.
    """

    def __init__(self, run: str) -> None:
        if not run.isalnum():
            raise ValueError(f"{run!r} is no id of a run")
        self.run = run
        self._records = _records()
        self._record = os.path.join(self._records, run)
        self.about: dict[str, Any] = {}
        with contextlib.suppress(FileNotFoundError, ValueError), open(self._record, encoding="utf-8") as file:
            self.about = json.load(file)
        self.directory = str(self.about.get("directory", ""))

    def make(self) -> socket.socket:
        """Make it. Returns the socket on which the agent listens. Raises :class:`OSError` with the remedy."""
        try:
            self.directory = tempfile.mkdtemp(prefix=f"weft-agent-{self.run[:8]}-")
        except OSError as error:
            raise OSError(
                f"there is no directory for its temporary files ({error.strerror or error}): set TMPDIR "
                "there to one that is writable and has room, for all commands of this user"
            ) from error
        try:
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(self._socket)
            listener.listen(16)
            return listener
        except BaseException:
            shutil.rmtree(self.directory, ignore_errors=True)
            raise

    def note(self, owner: str = "") -> None:
        """Write where it is, and whose; the calling process is the agent. Raises :class:`OSError`, with the
        remedy.
        """
        self.about = {
            "directory": self.directory,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "owner": owner,
        }
        try:
            self._write(f"{self._record}.part")
        except OSError as error:
            raise OSError(
                f"its record cannot be written to {self._records}: {error.strerror}; it must be writable and "
                "have room, or name another directory with AgentSettings(directory=...)"
            ) from error

    def _write(self, partial: str) -> None:
        for attempt in range(_ATTEMPTS):
            try:
                os.makedirs(self._records, 0o700, exist_ok=True)
                with open(partial, "w", encoding="utf-8") as file:
                    json.dump(self.about, file)
                os.replace(partial, self._record)
                return
            except (FileNotFoundError, FileExistsError):
                # The last of the other runs has ended, and removed the directory.
                if attempt == _ATTEMPTS - 1:
                    raise

    def connect(self) -> socket.socket | None:
        """A connection with the agent, None if there is none."""
        if not self._is_mine():
            return None
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(self._socket)
        except OSError:
            connection.close()
            return None
        return connection

    def why_gone(self) -> str:
        """Why there is no agent, in words."""
        here = socket.gethostname()
        host = self.about.get("host", here)
        if host != here:
            return (
                f"it runs on {host}, and this connection leads to {here}: name {host} instead of the address "
                "that stands for several login nodes"
            )
        log = self.log_tail()
        if log:
            return f"it has ended; the end of its log:\n{log}"
        if not self.about:
            return "it has ended, as it does when nobody comes back for as long as agent.patience says"
        return "it has ended without a word: it was killed, as what runs long on login nodes is by some sites"

    @property
    def elsewhere(self) -> bool:
        """Whether the agent is on another host."""
        here = socket.gethostname()
        return bool(self.about.get("host", here) != here)

    def log_tail(self) -> str:
        """The last lines that the agent wrote."""
        try:
            with open(self.log, "rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL))
                return file.read().decode(errors="replace").strip()
        except OSError:
            return ""

    @property
    def log(self) -> str:
        """The file of what the agent writes to its stderr."""
        return os.path.join(self.directory, "log")

    @property
    def _socket(self) -> str:
        return os.path.join(self.directory, "agent")

    def _is_mine(self) -> bool:
        try:
            found = os.lstat(self.directory)
        except OSError:
            return False
        return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()

    @property
    def runs(self) -> bool:
        """Whether the agent runs on this host."""
        pid = self.about.get("pid")
        return isinstance(pid, int) and not self.elsewhere and self.run in _command(pid)

    def end(self, timeout: float) -> None:
        """Have the agent end what it has, and kill it after so many seconds; then nothing is left."""
        if self.runs:
            with contextlib.suppress(OSError):
                os.kill(self.about["pid"], signal.SIGTERM)
        deadline = time.monotonic() + timeout
        while self.runs and time.monotonic() < deadline:
            time.sleep(0.05)
        self.kill()

    def kill(self) -> None:
        """End the agent, if it runs here, and remove what is left."""
        if self.runs:
            with contextlib.suppress(OSError):
                os.kill(self.about["pid"], signal.SIGKILL)
        if not self.elsewhere:
            self.remove()

    def remove(self) -> None:
        """Remove all of it."""
        if self._is_mine():
            shutil.rmtree(self.directory, ignore_errors=True)
        for path in (self._record, f"{self._record}.part"):
            with contextlib.suppress(OSError):
                os.unlink(path)
        with contextlib.suppress(OSError):  # others are there
            os.rmdir(self._records)


def places_of(owner: str) -> list[RunPlace]:
    """Those whose agents were started for this owner. Raises :class:`OSError`."""
    names = os.listdir(_records()) if os.path.isdir(_records()) else []
    places = [RunPlace(name) for name in sorted(names) if name.isalnum()]
    return [place for place in places if place.about.get("owner") == owner]


def _records() -> str:
    return os.path.join(os.path.dirname(os.path.abspath(sys.argv[0])), "runs")


def _command(pid: int) -> str:
    """The command of a process, where that can be seen."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read().decode(errors="replace")
    except OSError:
        return ""
