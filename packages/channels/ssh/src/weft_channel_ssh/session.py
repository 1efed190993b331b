"""One command line on the far side of a connection, and its streams."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Session"]


class Session(Protocol):
    """A command line that was started there. One reader of each stream, one writer, any threads.

    Every method but ``close`` raises :class:`~weft_interfaces.ChannelError` when the connection is gone, with
    its cause in words, and waits no longer once ``close`` was called: what was waiting ends or raises.
    """

    def read(self, size: int) -> bytes:
        """Up to ``size`` bytes of its stdout, at least one; ``b""`` at the end. Waits."""

    def read_stderr(self, size: int) -> bytes:
        """The same of its stderr. Both are read all the time, so neither may hold up the other."""

    def write(self, data: bytes) -> None:
        """Send all of it to its stdin. Waits while the far side takes no more."""

    def close_stdin(self) -> None:
        """Say that no more is to come. May be called twice, and when it has ended."""

    def wait(self, timeout: float | None = None) -> int:
        """The exit status of the command line, which is not yet that of the user's command: see
        :mod:`.wrapper`. Raises :class:`TimeoutError` after ``timeout`` seconds.
        """

    def close(self) -> None:
        """Let go of it at once: the far side sees the end of its stdin, and that nobody reads its output.
        May be called twice, and from any thread. Raises nothing.
        """
