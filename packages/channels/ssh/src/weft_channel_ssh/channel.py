"""A host behind SSH, in pure Python."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from weft_interfaces import ConfigError

from .authentication import Credentials
from .configuration import Configuration, Destination, check_port, parse_address
from .connection import Connection
from .keys import KeyFile
from .prompts import Answerer
from .remote import RemoteSession
from .session import Session
from .shell import ShellChannel

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["SSHChannel"]


class SSHChannel(ShellChannel):
    """Commands and files on a host behind SSH, over one connection, which is made when it is first needed.

    What is not said here comes from ``config``, the user's ``~/.ssh/config``, and the system's file, as for
    ``ssh``.

    host: its name there or in the network, also as ``user@host:port``. key_filename: a private key, or
    several. jump: hosts on the way, the nearest first, each ``user@host:port``; the first may be another
    channel, whose connection is shared. known_hosts: a file, or several, with the keys of hosts; keys that
    are not in them are refused. password: a function that returns it. prompts: a function that answers a
    :class:`~weft_channel_ssh.Question`; without one the person at the terminal or the notebook is asked.
    keepalive, connect_timeout: seconds. environment: variables for every command.

    Methods may be called from any thread. Two channels are equal if they lead to the same user, host and
    port on the same way, with the same ``environment``. Pickling keeps the settings, and no connection:
    ``password`` and ``prompts`` go along as the functions that they are, so a pickle holds no secret that
    they do not. Raises :class:`~weft_interfaces.ConfigError` for settings that cannot be.
    """

    def __init__(
        self,
        host: str,
        *,
        username: str | None = None,
        port: int | None = None,
        key_filename: str | Sequence[str] | None = None,
        jump: Sequence[str | SSHChannel] | None = None,
        known_hosts: str | Sequence[str] | None = None,
        password: Callable[[], str] | None = None,
        prompts: Answerer | None = None,
        keepalive: float | None = None,
        connect_timeout: float | None = None,
        config: str | None = "~/.ssh/config",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(environment=environment)
        self._settings: dict[str, Any] = {
            "host": host,
            "username": username,
            "port": port,
            "key_filename": _paths(key_filename),
            "jump": None if jump is None else list(jump),
            "known_hosts": _paths(known_hosts),
            "password": password,
            "prompts": prompts,
            "keepalive": keepalive,
            "connect_timeout": connect_timeout,
            "config": config if config is None or config.startswith("~") else _path(config),
            "environment": self._environment,
        }
        _check_callable("password", password)
        _check_callable("prompts", prompts)
        configuration = Configuration(config)
        for_all: dict[str, Any] = {
            "known_hosts": _paths(known_hosts),
            "keepalive": _seconds("keepalive", keepalive, zero=True),
            "connect_timeout": _seconds("connect_timeout", connect_timeout),
        }
        if (files := _paths(key_filename)) is not None:
            for_all |= {"key_files": files, "key_files_named": True}
        explicit = {**for_all, "user": username, "jumps": None if jump is None else ()}
        explicit["port"] = None if port is None else check_port(port, "port")
        destination = configuration.resolve(parse_address(host, "host"), explicit)
        hops = destination.jumps if jump is None else _hops(jump)
        above, shared = _chain(hops, configuration, for_all, prompts, {_where(destination)})
        self._name = destination.name
        self._connection = Connection(
            destination,
            _credentials(destination, password, prompts),
            above,
            owns_above=not shared,
            made=self._reconnected,
        )

    def __repr__(self) -> str:
        *jumps, _ = self._connection.path
        way = f" through {', '.join(f'{user}@{host}:{port}' for user, host, port in jumps)}" if jumps else ""
        return f"<{type(self).__name__} {self._connection.destination}{way}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return _make, (type(self), self._settings)

    def __eq__(self, other: object) -> bool:
        return self._key() == other._key() if isinstance(other, SSHChannel) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[object, ...]:
        return self._connection.path, frozenset(self._environment.items())

    def __enter__(self) -> Self:
        """Connect, so that whoever has to be asked is asked here."""
        self.authenticate()
        return self

    @property
    def host(self) -> str:
        return self._name

    @property
    def needs_authentication(self) -> bool:
        """Whether it was refused, or lacks somebody to ask, and waits for :meth:`authenticate`."""
        return self._connection.needs_authentication

    def authenticate(self) -> None:
        """Connect now, in this thread, and ask here what has to be asked; nothing is done if it is connected.

        Returning means that commands can run: those that failed with
        :class:`~weft_interfaces.AuthenticationNeededError` can be tried again. Raises what kept it from that.
        """
        self._connection.authenticate()

    def _start(self, command: str, end: float | None = None) -> Session:
        return RemoteSession.start(self._connection, command, end)

    def _is_connected(self) -> bool:
        return self._connection.is_alive

    def _disconnect(self) -> None:
        self._connection.close()


def _make(cls: type[SSHChannel], settings: dict[str, Any]) -> SSHChannel:
    return cls(**settings)


def _chain(
    hops: Sequence[str | SSHChannel],
    configuration: Configuration,
    explicit: Mapping[str, Any],
    prompts: Answerer | None,
    seen: set[tuple[str, str, int]],
) -> tuple[Connection | None, bool]:
    """The connection to the last of these hosts, and whether it is somebody else's."""
    above: Connection | None = None
    shared = False
    for number, hop in enumerate(hops):
        if isinstance(hop, SSHChannel):
            if number:
                raise ConfigError(
                    f"jump[{number}]: only the first can be a channel: give that one the others", "jump"
                )
            above, shared = hop._connection, True
            continue
        place = f"jump[{number}]"
        given = {**explicit, "jumps": None if number == 0 else ()}
        destination = configuration.resolve(parse_address(hop, place), given)
        if (where := _where(destination)) in seen:
            raise ConfigError(f"{place}: the way to {destination.name} leads through itself", "jump")
        if destination.jumps:
            above, _ = _chain(destination.jumps, configuration, explicit, prompts, seen | {where})
        credentials = _credentials(destination, None, prompts)
        above, shared = Connection(destination, credentials, above, owns_above=not shared), False
    return above, shared


def _where(destination: Destination) -> tuple[str, str, int]:
    return destination.user, destination.hostname, destination.port


def _hops(jump: Sequence[str | SSHChannel]) -> Sequence[str | SSHChannel]:
    if isinstance(jump, str) or not all(isinstance(hop, str | SSHChannel) for hop in jump):
        raise ConfigError("jump: it is a list of hosts, such as ['user@gateway:2222']", "jump")
    return jump


def _credentials(
    destination: Destination, password: Callable[[], str] | None, prompts: Answerer | None
) -> Credentials:
    return Credentials([KeyFile(path) for path in destination.key_files], password, prompts)


def _check_callable(name: str, value: object) -> None:
    """What came instead is not shown: it may be the secret itself."""
    if value is not None and not callable(value):
        raise ConfigError(
            f"{name}: a function that is called when it is needed, such as one that asks a keyring, and not "
            f"a {type(value).__name__}: what is written in a configuration is no secret",
            name,
        )


def _paths(value: str | Sequence[str] | None) -> tuple[str, ...] | None:
    if value is None:
        return None
    return tuple(_path(path) for path in ([value] if isinstance(value, str | os.PathLike) else value))


def _path(path: str) -> str:
    """The same file, wherever this process, or another one, goes."""
    return os.path.abspath(os.path.expanduser(os.fspath(path)))


def _seconds(name: str, value: float | None, *, zero: bool = False) -> float | None:
    if value is not None and (isinstance(value, bool) or value < 0 or not (value or zero)):
        raise ConfigError(f"{name}: seconds, more than 0, and not {value!r}", name)
    return value
