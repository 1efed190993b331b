"""What the client of a detached run keeps in files, so that another process can go on where it was killed.

::

    LABEL/  lock      who is the client now
            tries     which calls are further tries of which tasks
            1/        of the first agent: sent, received, and record, which says how to reach it
            2/        of the next one, had that been lost

A byte is in ``sent`` before it is sent, and in ``received`` before the agent hears that it has come. Bytes
that the system has are safe from the end of this process, however that comes; nothing waits for a disk.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pickle
import shutil
import socket
import weakref
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from weft_interfaces import Channel, ConfigError, InputError

from ..messages import Frame

__all__ = ["FORMAT", "Folder", "Record", "SentFile", "Streams"]

FORMAT = 1
_RECORD = "record"
_IN_WORDS = (
    "its channel cannot be kept for `weft attach`: {}: its functions for passwords and prompts, if it has "
    "such, must be what cloudpickle takes"
)


@dataclass(frozen=True, kw_only=True)
class Record:
    """How an agent is reached, and spoken with. ``run``, ``token``: its own. Times are in seconds."""

    run: str
    token: str
    channel: Channel
    label: str
    python: str | None = None
    directory: str | None = None
    reconnect: float = 3600.0
    period: float = 5.0
    threshold: float = 30.0
    large: int = 100_000
    options: Mapping[str, Any] = field(default_factory=dict)

    def write(self, directory: Path) -> None:
        """Raises :class:`ConfigError` for a channel that cannot be pickled, and :class:`OSError`."""
        import cloudpickle  # type: ignore[import-untyped]

        try:
            data = cloudpickle.dumps((FORMAT, self.__dict__))
            pickle.loads(data)
        except Exception as error:
            raise ConfigError(f"executor {self.label!r}: {_IN_WORDS.format(error)}", "detach") from error
        partial = directory / f"{_RECORD}.part"
        descriptor = _open(partial)
        try:
            _write(descriptor, data, 0)
        finally:
            os.close(descriptor)
        partial.replace(directory / _RECORD)

    @classmethod
    def read(cls, directory: Path) -> Record:
        """Raises :class:`InputError` for what is none."""
        path = directory / _RECORD
        try:
            version, found = pickle.loads(path.read_bytes())
            if version != FORMAT:
                raise ValueError(f"it has format {version}, and this version of weft reads {FORMAT}")
            return cls(**found)
        except Exception as error:
            raise InputError(f"{path} cannot be read: {error}") from error


class SentFile:
    """An :class:`~.outbox.Outbox` all of whose bytes stay in a file."""

    def __init__(self, path: Path) -> None:
        self._fd = _open(path)
        self.end = os.fstat(self._fd).st_size
        self.confirmed = self.sent = 0

    def __len__(self) -> int:
        """Bytes that have not been confirmed."""
        return self.end - self.confirmed

    def append(self, data: Frame) -> None:
        """Put it at the end. Raises :class:`OSError`; then it is as it was."""
        _write(self._fd, data, self.end)
        self.end += len(data)

    def next(self, most: int, window: int) -> tuple[int, bytes] | None:
        """See :meth:`Outbox.next`."""
        size = min(most, self.end - self.sent, self.confirmed + window - self.sent)
        if size <= 0:
            return None
        position = self.sent
        data = os.pread(self._fd, size, position)
        self.sent += len(data)
        return position, data

    def confirm(self, received: int) -> None:
        """See :meth:`Outbox.confirm`."""
        if received > self.end:
            raise ValueError(f"{received} bytes were received of {self.end}")
        self.confirmed = max(self.confirmed, received)
        self.sent = max(self.sent, self.confirmed)

    def rewind(self, received: int) -> None:
        """See :meth:`Outbox.rewind`."""
        if received < self.confirmed:
            raise ValueError(f"{received} bytes were received, {self.confirmed} had been confirmed")
        self.confirm(received)
        self.sent = self.confirmed

    def cut(self, end: int) -> None:
        """Drop what stands behind that: the begin of a message whose end was never written."""
        os.ftruncate(self._fd, end)
        self.end = end

    def close(self) -> None:
        """The file stays."""
        os.close(self._fd)


class Streams:
    """Both streams of one agent. ``received``: bytes of the other one that have come."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.sent = SentFile(directory / "sent")
        self._fd = _open(directory / "received")
        self.received = os.fstat(self._fd).st_size

    def take(self, data: Frame) -> None:
        """Keep what has come. Raises :class:`OSError`; then it is as it was."""
        _write(self._fd, data, self.received)
        self.received += len(data)

    def close(self) -> None:
        """The files stay."""
        self.sent.close()
        os.close(self._fd)


class Folder:
    """The directory of an executor of a detached run, which belongs to one process at a time.

    Raises :class:`InputError` when it belongs to another one, :class:`OSError` when it cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(0o700, parents=True, exist_ok=True)
        self._lock = _open(path / "lock")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = os.pread(self._lock, 1000, 0).decode(errors="replace").strip() or "not known"
            os.close(self._lock)
            raise InputError(
                f"{path} belongs to another process ({owner}): the run's own, or one that is attached to it; "
                "end that first"
            ) from error
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        _locks.add(self)

    @property
    def agents(self) -> list[Path]:
        """A directory for each agent so far that has a record, the latest last."""
        found = (path for path in self.path.iterdir() if path.name.isdecimal() and (path / _RECORD).exists())
        return sorted(found, key=lambda path: int(path.name))

    def begin(self, record: Record) -> Streams:
        """There is to be another agent. Raises as :meth:`Record.write` does."""
        number = max((int(path.name) for path in self.path.iterdir() if path.name.isdecimal()), default=0) + 1
        directory = self.path / str(number)
        directory.mkdir(0o700)
        record.write(directory)
        return Streams(directory)

    def note_tries(self, tries: Iterable[tuple[int, int]]) -> None:
        """These calls are further tries of these tasks. Raises :class:`OSError`."""
        with open(_open(self.path / "tries", os.O_APPEND), "a", encoding="utf-8") as file:
            file.write("".join(f"\n{json.dumps(each)}" for each in tries))  # the last line may be torn

    def tries(self) -> dict[int, int]:
        """The tasks of calls that are further tries, in the order of the tries."""
        found: dict[int, int] = {}
        with contextlib.suppress(FileNotFoundError), open(self.path / "tries", encoding="utf-8") as file:
            for line in file:
                with contextlib.suppress(ValueError, TypeError):
                    call, task = json.loads(line)
                    found[call] = task
        return found

    def remove(self) -> None:
        """The run has ended, and its client has heard all: nothing is to be kept."""
        for path in self.path.iterdir():
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
        shutil.rmtree(self.path, ignore_errors=True)
        with contextlib.suppress(OSError):  # those of other executors are there
            self.path.parent.rmdir()

    def close(self) -> None:
        """Let go of it. May be called twice."""
        if self in _locks:
            _locks.discard(self)
            os.close(self._lock)

    def _forget(self) -> None:
        with contextlib.suppress(OSError):
            os.close(self._lock)


_locks: weakref.WeakSet[Folder] = weakref.WeakSet()


def _after_fork() -> None:
    """A child would keep the lock when this process is gone."""
    for folder in list(_locks):
        folder._forget()
    _locks.clear()


os.register_at_fork(after_in_child=_after_fork)


def _open(path: Path, flags: int = 0) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | flags, 0o600)


def _write(fd: int, data: Frame, position: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, position)
        view, position = view[written:], position + written
