"""Lets one process at a time change a store."""

from __future__ import annotations

import errno
import fcntl
import os
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from weft_interfaces import MemoStoreError

__all__ = ["Gate"]

_PAUSES = (0.0005, 0.02)  # seconds between tries: the first, and the longest


class Gate:
    """A lock on a file: processes, threads and stores of one process exclude each other.

    Each holder opens the file anew: a descriptor that a forked child inherited would keep the lock of a
    parent that was killed.
    """

    def __init__(self, path: Path, timeout: float = 120.0) -> None:
        self._path = path
        self._timeout = timeout
        self.reset()

    def reset(self) -> None:
        """Begin anew, in a forked child."""
        descriptor = getattr(self, "_descriptor", None)
        if descriptor is not None:
            with suppress(OSError):
                os.close(descriptor)
        self._lock = threading.RLock()
        self._depth = 0
        self._descriptor: int | None = None

    def __enter__(self) -> None:
        """Raises :class:`MemoStoreError` when others hold it for too long, or the file cannot be locked."""
        self._lock.acquire()
        try:
            if self._depth == 0:
                self._descriptor = self._take()
            self._depth += 1
        except BaseException:
            self._lock.release()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._depth -= 1
        if self._depth == 0 and self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            # Not close alone: a child that is being forked holds a copy of the descriptor for a moment.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)
        self._lock.release()

    def _take(self) -> int:
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            self._wait(descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def _wait(self, descriptor: int) -> None:
        pause, longest = _PAUSES
        end = time.monotonic() + self._timeout
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in (errno.EAGAIN, errno.EACCES, errno.EINTR):
                    raise MemoStoreError(
                        f"{self._path} cannot be locked ({error.strerror}): its file system must be able to"
                    ) from error
            else:
                return
            if time.monotonic() > end:
                message = f"another process has held {self._path} for more than {self._timeout:g} s"
                raise MemoStoreError(message)
            time.sleep(pause)
            pause = min(2 * pause, longest)
