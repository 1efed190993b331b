"""A place where commands run and files live: this machine, or one behind a connection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["BaseChannel", "Channel", "CommandResult", "RemoteProcess"]


class CommandResult(NamedTuple):
    """A command that ended: its exit status (negative: the signal that killed it) and all that it wrote."""

    exit_status: int
    stdout: bytes
    stderr: bytes


class RemoteProcess(Protocol):
    """A process and the duplex stream of bytes to its stdin and from its stdout. One reader, one writer, any
    threads.
    """

    def read(self, size: int) -> bytes:
        """Up to ``size`` bytes, at least one; ``b""`` once the process has closed its stdout. Waits."""

    def write(self, data: bytes) -> None:
        """Send all of it. Raises :class:`ChannelError` if the process or the connection is gone."""

    def close_stdin(self) -> None:
        """Say that no more is to come."""

    def wait(self, timeout: float | None = None) -> int:
        """The exit status, once it has ended. Raises :class:`TimeoutError` when it has not within ``timeout``
        seconds.
        """

    def stderr_tail(self) -> str:
        """The last lines that it wrote to stderr."""

    def close(self) -> None:
        """End the process if it runs, and free the stream. May be called twice."""


@runtime_checkable
class Channel(Protocol):
    """A place. Methods may be called from several threads, and raise :class:`ChannelError` if the place is
    out of reach.

    Arguments are passed as they are: there is no shell in between. ``environment`` adds to what the place
    gives each command, and does not leak into the next. Remote paths belong to the place; relative ones start
    at its home.
    """

    @property
    def host(self) -> str:
        """The place's name, for messages."""

    @property
    def remote(self) -> bool:
        """Whether it is elsewhere: paths of this machine then mean nothing there, nor are its processes and
        sockets there.
        """

    def run(
        self,
        argv: Sequence[str],
        *,
        input: bytes = b"",
        timeout: float | None = None,
        environment: Mapping[str, str] | None = None,
        cwd: str | None = None,
    ) -> CommandResult:
        """Run a command to its end; its exit status is the caller's business. Output may be of any size.

        After ``timeout`` seconds the command and its children are killed there, and :class:`TimeoutError` is
        raised.
        """

    def open(
        self, argv: Sequence[str], *, environment: Mapping[str, str] | None = None, cwd: str | None = None
    ) -> RemoteProcess:
        """Start a command and talk to it."""

    def put(self, local: Path, remote: str) -> None:
        """Copy a file there; permissions are kept, the final name never shows a part of it. Parents must
        exist. What is copied takes the place of a file.

        A directory is copied with all that is in it: permissions, symbolic links as links, empty directories.
        It takes the place of an empty directory at most: raises :class:`FileExistsError` where one with
        something in it is, so nothing is lost or mixed. What else the place refuses is an :class:`OSError`
        with its own words: a full disk, missing permissions.
        """

    def get(self, remote: str, local: Path) -> None:
        """Copy a file or a directory here, with the same promises. Raises :class:`FileNotFoundError` if there
        is none.
        """

    def makedirs(self, path: str, mode: int = 0o700) -> None:
        """Make a directory and its parents; one that exists is left as it is."""

    def close(self) -> None:
        """End the connection and what was opened through it. May be called twice."""


class BaseChannel:
    """A channel to somewhere else with nothing to close, which calls itself by its class's name.

    It is closed by ``with``.
    """

    remote = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def host(self) -> str:
        return type(self).__name__

    def close(self) -> None:
        """Nothing is held."""
