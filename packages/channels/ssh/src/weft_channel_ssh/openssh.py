"""The user's own ``ssh`` as a channel."""

from __future__ import annotations

import contextlib
import threading
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from weft_interfaces import AuthenticationNeededError, ChannelError

from .errors import ConnectError, CutError, HostKeyError
from .master import Master
from .session import Session
from .shell import ShellChannel

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["OpenSSHChannel"]

_LASTING = (AuthenticationNeededError, HostKeyError)  # what trying again does not help
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0  # seconds between attempts to connect


class OpenSSHChannel(ShellChannel):
    """Commands and files of a host that ``ssh HOST`` reaches, over one connection.

    host: as for ``ssh``: a name, ``user@name``, or an alias of ``~/.ssh/config``; keys, agents, FIDO keys,
    Kerberos, jump hosts and known hosts are as configured there. ssh_options: further arguments of ssh
    (``["-p", "2222"]``, ``["-oProxyJump=gate"]``), which win over those files. environment: variables that
    every command gets.

    Nothing is done before the first command; that one connects. Passwords and codes are asked for once per
    connection, by ssh: through ``SSH_ASKPASS``, on the terminal, or in the cell of a notebook that connects.
    A connection that is lost is made again by the next command. Failed attempts are followed by a pause, 1 s
    at first and 60 s at last, in which commands fail at once; after one that the host refused, or for which
    nobody could be asked (:class:`~weft_interfaces.AuthenticationNeededError`, :class:`HostKeyError`) nothing
    is tried until ``authenticate`` is called.

    Channels with equal arguments are equal, and share what is asked of a batch system. Pickling keeps the
    arguments, and no connection. Methods may be called from any thread. Raises :class:`ChannelError`, with
    the cause and the remedy, from every method.
    """

    def __init__(
        self, host: str, ssh_options: Sequence[str] = (), *, environment: Mapping[str, str] | None = None
    ) -> None:
        if not host or host.startswith("-"):
            raise ChannelError(f"host: {host!r} names no host")
        super().__init__(environment=environment)
        self._host, self._options = host, tuple(ssh_options)
        self._connecting = threading.Lock()
        self._master: Master | None = None
        self._end: weakref.finalize[..., OpenSSHChannel] | None = None
        self._trouble: ChannelError | None = None
        self._failures, self._next = 0, 0.0

    def __repr__(self) -> str:
        options = f", ssh_options={list(self._options)}" if self._options else ""
        return f"{type(self).__name__}({self._host!r}{options})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _make, (type(self), self._host, self._options, self._environment)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, OpenSSHChannel):
            return NotImplemented
        return self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[object, ...]:
        return self._host, self._options, frozenset(self._environment.items())

    @property
    def host(self) -> str:
        return self._host

    def __enter__(self) -> Self:
        """Connect, so that whoever has to be asked is asked here."""
        self.authenticate()
        return self

    @property
    def needs_authentication(self) -> bool:
        """Whether the host has refused, or could not prove who it is, and waits for :meth:`authenticate`."""
        return isinstance(self._trouble, _LASTING)

    def authenticate(self) -> None:
        """Connect now, if there is no connection, also after the host has refused the user."""
        with self._connecting:
            self._trouble, self._next = None, 0.0
        self._connected()

    def _start(self, command: str, end: float | None = None) -> Session:
        master = self._connected(end)
        try:
            return master.session(command, end)
        except ConnectError:
            self._forget(master)
        return self._connected(end).session(command, end)

    def _is_connected(self) -> bool:
        master = self._master
        return master is not None and master.lives

    def _connected(self, end: float | None = None) -> Master:
        with self._turn(end):
            if self._master is not None and self._master.lives:
                return self._master
            self._check()
            if self._master is not None:
                self._drop()
            self._may_connect()
            try:
                self._master = self._make()
            except ChannelError as error:
                self._failures += 1
                pause = min(_FIRST_PAUSE * 2.0 ** min(self._failures - 1, 10), _LONGEST_PAUSE)
                self._trouble, self._next = error, time.monotonic() + pause
                raise
            self._end = weakref.finalize(self, self._master.close)
            self._trouble, self._failures = None, 0
            self._reconnected()
            return self._master

    @contextlib.contextmanager
    def _turn(self, end: float | None) -> Iterator[None]:
        """Wait for another thread that connects."""
        left = -1.0 if end is None else max(end - time.monotonic(), 0.0)
        if not self._connecting.acquire(timeout=left):
            raise TimeoutError(f"{self._host}: the timeout has passed while another thread was connecting")
        try:
            yield
        finally:
            self._connecting.release()

    def _make(self) -> Master:
        """Once more where it was cut on the way, as busy hosts do when many come at once."""
        try:
            return Master(self._host, self._options)
        except CutError:
            time.sleep(_FIRST_PAUSE)
            return Master(self._host, self._options)

    def _may_connect(self) -> None:
        """Raises the last trouble while it is too early to try again."""
        trouble = self._trouble
        if trouble is None:
            return
        if isinstance(trouble, _LASTING):
            raise type(trouble)(
                f"{trouble}. Nothing is tried again before authenticate() is called"
            ) from trouble
        if (left := self._next - time.monotonic()) > 0:
            raise type(trouble)(f"{trouble} (not tried again for {left:.0f} s)") from trouble

    def _forget(self, master: Master) -> None:
        with self._connecting:
            if self._master is master:
                self._drop()

    def _drop(self) -> None:
        self._master = None
        if self._end is not None:
            self._end()

    def _disconnect(self) -> None:
        with self._connecting:
            self._drop()


def _make(
    cls: type[OpenSSHChannel], host: str, options: Sequence[str], environment: Mapping[str, str]
) -> OpenSSHChannel:
    return cls(host, options, environment=environment)
