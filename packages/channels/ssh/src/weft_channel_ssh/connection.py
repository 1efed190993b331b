"""One authenticated connection, which is made when it is needed, and again when it was lost.

::

    none -> connecting -> up -> lost -> connecting ...        lost: tried again, with pauses that grow
                     +-> needs a person ----------------^     until authenticate() is called
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, cast

import paramiko
from paramiko import Message
from paramiko.common import OPEN_FAILED_ADMINISTRATIVELY_PROHIBITED, cMSG_GLOBAL_REQUEST
from weft_interfaces import AuthenticationNeededError, ChannelError

from .authentication import Credentials, authenticate
from .configuration import Destination
from .dialogue import Dialogue
from .errors import ConnectError
from .host_keys import check_host_key, known_types
from .prompts import answerer
from .transport import Transport, Tunnel
from .wire import Wire, connect

__all__ = ["WINDOW", "Connection"]

# Bytes on their way to us, of each stream: 80 MB/s over a round trip of 50 ms. Where the network is slower
# than that, sshd has as many in its memory, and copies them again and again: with 16 MB, each MB took it
# 30 ms of a processor, and it had 40 MB; with 4 MB, 3.5 ms and 14 MB, and it is the faster for it.
WINDOW = 4 << 20
_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 30.0  # seconds between attempts
_PATIENCE = 10.0  # seconds during which one call tries again
_HANDSHAKE = 30.0  # seconds for key exchange; login nodes are busy

# GCM first: it is checked and decrypted in one pass. Nothing that OpenSSH has given up.
_CIPHERS = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "aes128-ctr", "aes192-ctr", "aes256-ctr")
_MACS = ("hmac-sha2-256-etm@openssh.com", "hmac-sha2-512-etm@openssh.com", "hmac-sha2-256", "hmac-sha2-512")


class Connection:
    """A connection to one host, through ``above`` if that is not None. Methods may be called from any thread.

    owns_above: close that with this. made: called when there is another connection than before.
    Nothing happens before :meth:`transport` is called. After a fork the child has none, and makes its own.
    """

    def __init__(
        self,
        destination: Destination,
        credentials: Credentials,
        above: Connection | None = None,
        *,
        owns_above: bool = True,
        made: Callable[[], None] = lambda: None,
    ) -> None:
        self.destination, self.above = destination, above
        self._credentials, self._owns_above, self._made = credentials, owns_above, made
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._changed = threading.Condition()
        self._opening = threading.Lock()
        self.last_session = float("-inf")  # when one was closed, by time.monotonic()
        self._transport: Transport | None = None
        self._wire: Wire | None = None
        self._busy = self._closed = False
        self._was_made = False  # once
        self._refusal: AuthenticationNeededError | None = None
        self._lost: ChannelError | None = None
        self._failures, self._not_before = 0, 0.0

    @property
    def path(self) -> tuple[tuple[str, str, int], ...]:
        """Users, hosts and ports on the way; what makes two connections equal."""
        here = (self.destination.user, self.destination.hostname, self.destination.port)
        return (*(self.above.path if self.above else ()), here)

    @property
    def is_alive(self) -> bool:
        """Whether nothing is known to the contrary."""
        return (
            self._transport is not None
            and self._transport.is_active()
            and (not self.above or self.above.is_alive)
        )

    @property
    def needs_authentication(self) -> bool:
        """Whether it waits for somebody to authenticate."""
        return self._refusal is not None

    def transport(self, end: float | None = None) -> Transport:
        """The connection, made if there is none.

        Waits while another thread makes it, also when that asks a person, but not longer than to ``end`` (on
        the clock of :func:`time.monotonic`): then raises :class:`TimeoutError`. Raises :class:`HostKeyError`,
        :class:`~weft_interfaces.AuthenticationNeededError` (at once, until somebody authenticates) or
        :class:`ConnectError`, after attempts for some seconds, or at once where nobody listens and nobody was
        there before.
        """
        self._after_fork()
        deadline = time.monotonic() + _PATIENCE
        while True:
            with self._turn(deadline, end) as transport:
                if transport is not None:
                    return transport
                try:
                    return self._attempt()
                except ConnectError as error:
                    in_vain = not self._was_made and _nobody_listens(error)
                    if in_vain or time.monotonic() >= deadline:
                        raise

    def authenticate(self) -> None:
        """Connect now, also where the last attempt was refused; those who wait for the connection go on."""
        self._after_fork()
        if self.above is not None:
            self.above.authenticate()
        with self._changed:
            self._refusal, self._not_before = None, 0.0
        self.transport()

    def close(self) -> None:
        """End it; who waits for it gets an error. May be called twice."""
        self._after_fork()
        with self._changed:
            self._closed = True
            transport, wire = self._transport, self._wire
            self._changed.notify_all()
        _end(transport, wire)
        if self.above is not None and self._owns_above:
            self.above.close()

    def drop(self, transport: Transport, error: BaseException) -> ChannelError:
        """Give up a connection that does not do what it should; what to say of it."""
        lost = self.why_lost() if not transport.is_active() else None
        if lost is None and self._wire is not None and transport is self._transport:
            self._wire.blame(_words(error))
        transport.close()
        return lost or ConnectError(f"{self.destination}: the connection was lost: {_words(error)}")

    def why_lost(self) -> ChannelError:
        """What to say to who finds a stream of this connection broken."""
        if self._closed:
            return ChannelError(f"the channel to {self.destination} is closed")
        why = _why(self._transport, self._wire) or "the other side closed it"
        return ConnectError(f"{self.destination}: the connection was lost: {why}")

    # -- whose turn it is -----------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _turn(self, deadline: float, end: float | None) -> Iterator[Transport | None]:
        """Wait until there is a connection, or it is this thread's turn to make it: then None."""
        transport: Transport | None = None
        with self._changed:
            while True:
                if self._closed:
                    raise ChannelError(f"the channel to {self.destination} is closed")
                if self._busy:
                    left = None if end is None else end - time.monotonic()
                    if left is not None and left <= 0:
                        raise TimeoutError(
                            f"{self.destination}: the timeout has passed while another thread was connecting"
                        )
                    self._changed.wait(left)
                    continue
                if self.is_alive and self._transport is not None:
                    transport = self._transport
                    break
                if self._refusal is not None:
                    raise type(self._refusal)(*self._refusal.args)
                pause = self._not_before - time.monotonic()
                if pause <= 0:
                    self._busy = True
                    break
                if self._lost is not None and self._not_before > deadline:
                    raise type(self._lost)(*self._lost.args)
                self._changed.wait(pause)
        try:
            yield transport
        finally:
            if transport is None:
                with self._changed:
                    self._busy = False
                    self._changed.notify_all()

    def _attempt(self) -> Transport:
        _end(self._transport, self._wire)
        try:
            transport = self._connect()
        except AuthenticationNeededError as error:
            self._refusal = error
            raise
        except ChannelError as error:
            pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** min(self._failures, 10)) * random.uniform(
                0.75, 1.25
            )
            self._failures += 1
            self._lost, self._not_before = error, time.monotonic() + pause
            raise
        self._failures, self._was_made = 0, True
        self._made()
        return transport

    def _after_fork(self) -> None:
        if self._pid != os.getpid():
            wire = self._wire
            self._reset()
            if wire is not None:
                wire.abandon()

    # -- one attempt ----------------------------------------------------------------------------------------

    def _connect(self) -> Transport:
        destination = self.destination
        wire = Wire(self._below())
        transport = Transport(wire)
        cast(Any, transport).logger = _Quiet(logging.getLogger("paramiko.transport"), {})
        try:
            with self._changed:
                if self._closed:
                    raise ChannelError(f"the channel to {destination} is closed")
                self._transport, self._wire = transport, wire
            self._exchange_keys(transport)
            dialogue = Dialogue(transport, destination.user, str(destination))
            transport.auth_handler = dialogue
            ask = answerer(self._credentials.prompts, dialogue.stands)
            algorithms = cast(Any, transport).server_extensions.get("server-sig-algs", b"")
            authenticate(destination, dialogue, self._credentials, ask, algorithms)
        except BaseException:
            _end(transport, wire)
            raise
        wire.watch(lambda: _probe(transport), destination.keepalive, destination.keepalive_count)
        return transport

    def _below(self) -> Any:
        destination = self.destination
        if self.above is not None:
            return self._through(self.above)
        try:
            return connect(destination.hostname, destination.port, destination.connect_timeout)
        except OSError as error:
            where = f"{destination.hostname} port {destination.port}"
            raise ConnectError(
                f"{destination}: {where} cannot be reached: {_words(error)}{_advice(error)}"
            ) from error

    def _through(self, above: Connection) -> Any:
        destination, jump = self.destination, above.destination
        try:
            transport = above.transport()
        except ConnectError as error:
            raise ConnectError(f"{error} (this is the jump host on the way to {destination})") from error
        target = (destination.hostname, destination.port)
        try:
            channel = transport.open_channel(
                "direct-tcpip",
                target,
                ("127.0.0.1", 0),
                window_size=WINDOW,
                timeout=destination.connect_timeout,
            )
            return Tunnel(transport, channel)
        except paramiko.ChannelException as error:
            if error.code == OPEN_FAILED_ADMINISTRATIVELY_PROHIBITED:
                raise ChannelError(
                    f"{destination}: the jump host {jump} forbids to go on from it (AllowTcpForwarding no, "
                    "or PermitOpen without this host): ask its site, or take another jump host"
                ) from error
            where = f"{destination.hostname} port {destination.port}"
            raise ConnectError(
                f"{destination}: the jump host {jump} could not connect to {where}: {error.text or error}"
            ) from error
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise ConnectError(
                f"{destination}: the jump host {jump} did not go on: {_words(error)}"
            ) from error

    def _exchange_keys(self, transport: Transport) -> None:
        destination = self.destination
        options = transport.get_security_options()
        options.ciphers = _those(_CIPHERS, options.ciphers)
        options.digests = _those(_MACS, options.digests)
        # Ask for a key that is known, so that a host with keys of several types is recognised.
        known = set(known_types(destination)) & {*options.key_types, "ssh-rsa"}
        if known:
            preferred = [kind for kind in options.key_types if _type(kind) in known]
            options.key_types = (*preferred, *(kind for kind in options.key_types if kind not in preferred))
        transport.banner_timeout = transport.handshake_timeout = _HANDSHAKE
        try:
            transport.start_client(timeout=_HANDSHAKE)
            key = transport.get_remote_server_key()
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise ConnectError(
                f"{destination}: the connection was cut before any key was exchanged, or no SSH server is "
                f"there: {_words(error)}"
            ) from error
        check_host_key(destination, key.get_name(), key.asbytes())


class _Quiet(logging.LoggerAdapter):  # type: ignore[type-arg]  # generic from 3.11 on
    """For who debugs: paramiko logs each lost connection as an error, with tracebacks."""

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        super().log(logging.DEBUG, msg, *args, **kwargs)


def _type(kind: str) -> str:
    return "ssh-rsa" if kind.startswith("rsa-sha2-") else kind


def _those(wanted: tuple[str, ...], there: Any) -> tuple[str, ...]:
    return tuple(name for name in wanted if name in there)


def _probe(transport: Any) -> None:
    """Say something that is answered. Not while keys are exchanged: then the other side speaks anyway."""
    if transport.clear_to_send.is_set():
        message = Message()
        message.add_byte(cMSG_GLOBAL_REQUEST)
        message.add_string("keepalive@openssh.com")
        message.add_boolean(True)
        transport._send_message(message)


def _end(transport: Transport | None, wire: Wire | None) -> None:
    """Close it, and wait until its thread has ended."""
    if transport is None or wire is None:
        return
    handler = transport.auth_handler
    cast(Any, transport).packetizer.complete_handshake()  # or its timer outlives a handshake that failed
    transport.close()
    wire.close()
    if isinstance(handler, Dialogue):
        handler.abort()
    if transport.ident is not None and transport is not threading.current_thread():
        transport.join(5.0)


def _why(transport: Transport | None, wire: Wire | None) -> str | None:
    """What ended a connection, if it was not simply closed."""
    error: BaseException | None = wire.trouble if wire is not None else None
    if error is None and transport is not None:
        error = transport.saved_exception
    return None if error is None or isinstance(error, EOFError) else _words(error)


def _nobody_listens(error: BaseException | None) -> bool:
    """Whether the name, or the port, leads nowhere, on whatever host of the way."""
    while error is not None:
        if isinstance(error, ConnectionRefusedError | socket.gaierror):
            return True
        error = error.__cause__
    return False


def _advice(error: OSError) -> str:
    """What to look at, where the host could not be reached."""
    if isinstance(error, ConnectionRefusedError):
        return ": does its sshd run there?"
    if isinstance(error, socket.gaierror):
        return ": is its name spelled right, is the network up?"
    if isinstance(error, TimeoutError) or error.errno in (errno.EHOSTUNREACH, errno.ENETUNREACH):
        return ": is it up, does a firewall or a missing VPN stand between?"
    return ""


def _words(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
