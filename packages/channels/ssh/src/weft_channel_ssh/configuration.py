"""What ``~/.ssh/config`` and the caller say about a host, as one value."""

from __future__ import annotations

import getpass
import glob
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import paramiko
from weft_interfaces import ConfigError

__all__ = ["Address", "Configuration", "Destination", "parse_address"]

_USER_FILE, _SYSTEM_FILE = "~/.ssh/config", "/etc/ssh/ssh_config"
_KEY_FILES = ("~/.ssh/id_ed25519", "~/.ssh/id_ecdsa", "~/.ssh/id_rsa")
_USER_HOSTS = "~/.ssh/known_hosts ~/.ssh/known_hosts2"
_GLOBAL_HOSTS = "/etc/ssh/ssh_known_hosts /etc/ssh/ssh_known_hosts2"
_CONNECT_TIMEOUT = 15.0  # seconds
_KEEPALIVE = 15.0  # seconds
_KEEPALIVE_COUNT = 3
_DEEPEST_INCLUDE = 16  # as OpenSSH

_METHOD_SWITCHES = {
    "pubkeyauthentication": "publickey",
    "passwordauthentication": "password",
    "kbdinteractiveauthentication": "keyboard-interactive",
    "challengeresponseauthentication": "keyboard-interactive",
}
_FACTORS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


class Address(NamedTuple):
    """``user@host:port``; None is what was not said."""

    host: str
    user: str | None = None
    port: int | None = None


def parse_address(text: str, place: str) -> Address:
    """Read ``[user@]host[:port]``, also as an ``ssh://`` URL; an IPv6 address stands in brackets.

    Raises :class:`~weft_interfaces.ConfigError`, which names ``place``.
    """
    rest = text.strip().removeprefix("ssh://").removesuffix("/")
    user, at, rest = rest.rpartition("@")
    found = re.fullmatch(
        r"\[([^\[\]]+)\](?::(\d+))?|([^:\s\[\]]+)(?::(\d+))?|([0-9a-fA-F:]*::?[0-9a-fA-F:.]+)", rest
    )
    if found is None or (at and not user):
        raise ConfigError(f"{place}: {text!r} is not of the form user@host:port", place)
    host = found[1] or found[3] or found[5]
    port = found[2] or found[4]
    if host.startswith("-"):
        raise ConfigError(f"{place}: {text!r} begins with a dash, which no host does", place)
    return Address(host, user or None, None if port is None else check_port(port, place))


def check_port(value: object, place: str) -> int:
    """A port's number. Raises :class:`~weft_interfaces.ConfigError`, which names ``place``."""
    try:
        port = int(str(value))
    except ValueError:
        port = 0
    if not 0 < port < 65536:
        raise ConfigError(f"{place}: a port is a number from 1 to 65535, not {value!r}", place)
    return port


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """A host and how it is to be reached; times are in seconds.

    name: as the user calls it. keepalive: 0 is never; so many times ``keepalive_count`` without a word and
    the connection is taken for dead. refused: methods of authentication that are not to be used. jumps: the
    hosts between, the nearest first.
    """

    name: str
    hostname: str
    user: str
    port: int = 22
    key_files: tuple[str, ...] = ()
    key_files_named: bool = False  # by the user: one that is missing is worth a word
    certificates: tuple[str, ...] = ()
    only_these_keys: bool = False
    agent: str | None = None
    known_hosts: tuple[str, ...] = ()
    host_key_alias: str | None = None
    connect_timeout: float = _CONNECT_TIMEOUT
    keepalive: float = _KEEPALIVE
    keepalive_count: int = _KEEPALIVE_COUNT
    refused: frozenset[str] = frozenset()
    jumps: tuple[str, ...] = ()

    def __str__(self) -> str:
        host = self.hostname if self.hostname == self.name else f"{self.name} ({self.hostname})"
        return f"{self.user}@{host}" + (f" port {self.port}" if self.port != 22 else "")

    @property
    def key_name(self) -> str:
        """What the host is called in ``known_hosts``."""
        if self.host_key_alias:
            return self.host_key_alias.lower()
        name = self.hostname.lower()
        return name if self.port == 22 else f"[{name}]:{self.port}"


@dataclass(frozen=True, slots=True)
class Configuration:
    """``ssh_config`` files, which are read once. path: None reads none; the user's own brings the system's
    along.
    """

    path: str | None = _USER_FILE
    _files: list[tuple[str, Any]] = field(default_factory=list, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.path is None:
            return
        if self.path == _USER_FILE:
            candidates = [Path(_USER_FILE).expanduser(), Path(_SYSTEM_FILE)]
            paths = [path for path in candidates if path.is_file()]
        else:
            paths = [Path(self.path).expanduser()]
        for path in paths:
            self._files.append((str(path), _parse(path)))

    def resolve(self, address: Address, explicit: Mapping[str, Any]) -> Destination:
        """What the files say about a host; what is in ``explicit``, by the names of :class:`Destination`,
        wins.
        """
        options = self._lookup(address.host)
        where = f"{self.path}, host {address.host}"
        known = _known_hosts(options, address)
        values: dict[str, Any] = {
            "name": address.host,
            "hostname": options.get("hostname", address.host),
            "user": address.user or options.get("user") or getpass.getuser(),
            "port": address.port or check_port(options.get("port", 22), f"{where}: Port"),
            "only_these_keys": options.get("identitiesonly", "no").lower() == "yes",
            "agent": _agent(options.get("identityagent", "SSH_AUTH_SOCK")),
            "known_hosts": known,
            "host_key_alias": options.get("hostkeyalias"),
            "connect_timeout": _seconds(options, "connecttimeout", where, _CONNECT_TIMEOUT)
            or _CONNECT_TIMEOUT,
            "keepalive": _seconds(options, "serveraliveinterval", where, _KEEPALIVE),
            "keepalive_count": int(_seconds(options, "serveralivecountmax", where, _KEEPALIVE_COUNT)),
            "refused": frozenset(
                method
                for switch, method in _METHOD_SWITCHES.items()
                if options.get(switch, "yes").lower() == "no"
            ),
        }
        values |= _keys(options)
        values |= {name: value for name, value in explicit.items() if value is not None}
        if "jumps" not in values:
            values["jumps"] = _jumps(options, where)
        return Destination(**values)

    def _lookup(self, host: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for path, parsed in self._files:
            try:
                options = parsed.lookup(host)
            except (paramiko.SSHException, ValueError, KeyError, ImportError) as error:
                raise ConfigError(f"{path}: cannot be applied to host {host}: {error}", path) from error
            for key, value in options.items():
                # A host that the file does not rename is there as its own name: the next file may rename it.
                if key != "hostname" or value != host:
                    found.setdefault(key, value)
        return found


def _keys(options: Mapping[str, Any]) -> dict[str, Any]:
    named = [path for path in options.get("identityfile", []) if path.lower() != "none"]
    certificates = options.get("certificatefile")
    return {
        "key_files": tuple(os.path.expanduser(path) for path in named or _KEY_FILES),
        "key_files_named": bool(named),
        "certificates": () if certificates is None else (os.path.expanduser(certificates),),
    }


def _agent(value: str) -> str | None:
    if value.lower() == "none":
        return None
    if value == "SSH_AUTH_SOCK":
        return os.environ.get(value) or None
    return os.path.expanduser(os.environ.get(value[1:], "") if value.startswith("$") else value) or None


def _known_hosts(options: Mapping[str, Any], address: Address) -> tuple[str, ...]:
    tokens = {
        "%%": "%",
        "%d": str(Path.home()),
        "%h": options.get("hostname", address.host),
        "%k": options.get("hostkeyalias", address.host),
        "%n": address.host,
        "%p": str(address.port or options.get("port", 22)),
        "%r": address.user or options.get("user") or getpass.getuser(),
        "%u": getpass.getuser(),
    }
    paths: list[str] = []
    for keyword, default in (("userknownhostsfile", _USER_HOSTS), ("globalknownhostsfile", _GLOBAL_HOSTS)):
        for word in shlex.split(options.get(keyword, default)):
            if word.lower() != "none":
                path = re.sub(r"%.", lambda found: tokens.get(found[0], found[0]), word)
                paths.append(os.path.expanduser(path))
    return tuple(paths)


def _jumps(options: Mapping[str, Any], where: str) -> tuple[str, ...]:
    jumps = options.get("proxyjump")
    if jumps is not None:
        return () if jumps.lower() == "none" else tuple(part.strip() for part in jumps.split(","))
    if options.get("proxycommand"):
        raise ConfigError(
            f"{where}: ProxyCommand is run by OpenSSHChannel only; use that, or ProxyJump, or jump=", "jump"
        )
    return ()


def _seconds(options: Mapping[str, Any], keyword: str, where: str, default: float) -> float:
    """A time as OpenSSH writes it, such as ``90`` or ``1m30s``."""
    text = str(options.get(keyword, "none")).lower()
    if text == "none":
        return default
    if not re.fullmatch(r"(\d+[smhdw]?)+", text):
        raise ConfigError(f"{where}: {keyword}: {text!r} is no time such as 90 or 1m30s", keyword)
    return float(sum(int(count) * _FACTORS[unit] for count, unit in re.findall(r"(\d+)([smhdw]?)", text)))


def _parse(path: Path) -> Any:
    try:
        return paramiko.SSHConfig.from_text("\n".join(_read(path, path.parent, 0)))
    except (paramiko.SSHException, ValueError) as error:
        raise ConfigError(f"{path}: {error}", str(path)) from error


def _read(path: Path, folder: Path, depth: int) -> list[str]:
    """The lines of a file, with those that it includes: paramiko knows no ``Include``."""
    if depth > _DEEPEST_INCLUDE:
        raise ConfigError(f"{path}: Include goes round in circles", str(path))
    try:
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise ConfigError(f"config: {path} cannot be read: {error.strerror}", "config") from error
    lines: list[str] = []
    block = "Host *"
    for line in text.splitlines():
        words = re.fullmatch(r"\s*(\w+)(?:\s*=\s*|\s+)(.*)", line)
        keyword = words[1].lower() if words else ""
        if words and keyword == "include":
            for name in _included(words[2], folder):
                lines += _guarded(_read(name, folder, depth + 1), block, path)
            # What was included may have opened a block of its own.
            lines.append(block)
        else:
            if keyword in ("host", "match"):
                block = line
            lines.append(line if '"' in line else re.sub(r"\s#.*", "", line))
    return lines


def _included(words: str, folder: Path) -> list[Path]:
    return [
        Path(name)
        for pattern in shlex.split(words)
        for name in sorted(glob.glob(os.path.join(folder, os.path.expanduser(pattern))))
        if os.path.isfile(name)
    ]


def _guarded(lines: Sequence[str], block: str, path: Path) -> list[str]:
    opens = any(re.match(r"\s*(host|match)\b", line, re.IGNORECASE) for line in lines if line != "Host *")
    if opens and block != "Host *":
        raise ConfigError(
            f"{path}: an Include within {block.strip()!r} has Host or Match lines of its own, which only "
            "OpenSSHChannel understands: move it to the top of the file",
            str(path),
        )
    return list(lines)
