"""Which keys a host is known by: ``known_hosts`` files, and what is said when a key is not in them."""

from __future__ import annotations

import base64
import binascii
import fnmatch
import hashlib
import hmac
import os
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .configuration import Destination
from .errors import HostKeyError

__all__ = ["HostKey", "check_host_key", "fingerprint", "known_types"]

_REMEDY = "compare the fingerprint with the one that the site publishes"


@dataclass(frozen=True, slots=True)
class HostKey:
    """One line of a ``known_hosts`` file. marker: ``@revoked``, ``@cert-authority`` or nothing."""

    path: str
    line: int
    marker: str
    names: str
    type: str
    blob: bytes

    def __str__(self) -> str:
        return f"{self.path}:{self.line}"

    def names_host(self, name: str) -> bool:
        """Whether it speaks of a host, which is written in lower case, with its port where that is not 22."""
        found = False
        for pattern in self.names.split(","):
            if pattern.startswith("|"):
                found = found or _hashed(name, pattern)
            elif pattern.startswith("!"):
                if _matches(name, pattern[1:]):
                    return False
            else:
                found = found or _matches(name, pattern)
        return found


def fingerprint(blob: bytes) -> str:
    """As OpenSSH prints it: ``SHA256:`` and base64 without padding."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")


def known_types(destination: Destination) -> list[str]:
    """The types of the keys that a host is known by: those to ask it for."""
    return [
        key.type
        for key in _read(destination.known_hosts)
        if key.marker == "" and key.names_host(destination.key_name)
    ]


def check_host_key(destination: Destination, key_type: str, blob: bytes) -> None:
    """Return if this key of the host is known.

    Raises :class:`HostKeyError` if it is not known, is another than the one known, or is revoked: then
    nothing may be sent to that host.
    """
    name = destination.key_name
    ours = [key for key in _read(destination.known_hosts) if key.names_host(name)]
    shown = f"its {key_type} key is {fingerprint(blob)}"
    for key in ours:
        if key.marker == "@revoked" and key.blob == blob:
            raise HostKeyError(
                f"{destination}: {shown}, and {key} says that this key is revoked: whoever has it may "
                "pretend to be this host. Nothing was sent. Ask the site for its new key"
            )
    trusted = [key for key in ours if key.marker == ""]
    if any(key.blob == blob for key in trusted):
        return
    if not trusted and destination.port != 22 and not destination.host_key_alias:
        # As OpenSSH: a host has the same key on all of its ports.
        plain = destination.hostname.lower()
        if any(
            key.blob == blob and key.marker == "" and key.names_host(plain)
            for key in _read(destination.known_hosts)
        ):
            return
    accept = _accept(destination, key_type, blob)
    if trusted:
        raise HostKeyError(_changed(destination, trusted, key_type, shown, accept))
    authority = next((key for key in ours if key.marker == "@cert-authority"), None)
    if authority is not None:
        raise HostKeyError(
            f"{destination}: {shown}, and {authority} trusts this host by a certificate authority, which "
            f"SSHChannel cannot check. Nothing was sent. Use OpenSSHChannel, or {_REMEDY} and accept the key "
            f"itself: {accept}"
        )
    raise HostKeyError(
        f"{destination}: this host is not known: {shown}. Nothing was sent to it. To accept it, {_REMEDY}, "
        f"then run: {accept}"
    )


def _changed(destination: Destination, old: Sequence[HostKey], key_type: str, shown: str, accept: str) -> str:
    same = next((key for key in old if key.type == key_type), None)
    key = same or old[0]
    was = (
        f"another: {fingerprint(key.blob)}"
        if same
        else f"a key of another type: {key.type} {fingerprint(key.blob)}"
    )
    remove = shlex.join(["ssh-keygen", "-R", destination.key_name, "-f", key.path])
    return (
        f"{destination}: the host's key has changed: {shown}, but {key} knows it by {was}. Somebody may be "
        "listening in between, or the host was set up anew. Nothing was sent to it, no password either. If "
        f"the site confirms the new key, forget the old one and accept the new: {remove} && {accept}"
    )


def _accept(destination: Destination, key_type: str, blob: bytes) -> str:
    line = f"{destination.key_name} {_line_type(key_type)} {base64.b64encode(blob).decode()}"
    path = destination.known_hosts[0] if destination.known_hosts else os.path.expanduser("~/.ssh/known_hosts")
    return f"echo {shlex.quote(line)} >> {shlex.quote(path)}"


def _line_type(key_type: str) -> str:
    """The type as it stands in files: RSA keys have one, and several kinds of signatures."""
    return "ssh-rsa" if key_type.startswith("rsa-sha2-") else key_type


def _read(paths: Sequence[str]) -> Iterator[HostKey]:
    for path in paths:
        try:
            text = Path(path).read_text(encoding="utf-8", errors="replace")
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise HostKeyError(f"{path}: the keys of known hosts cannot be read: {error.strerror}") from error
        for number, line in enumerate(text.splitlines(), 1):
            words = line.split()
            if not words or words[0].startswith("#"):
                continue
            marker = words.pop(0) if words[0].startswith("@") else ""
            if len(words) < 3:
                continue
            try:
                blob = base64.b64decode(words[2], validate=True)
            except (binascii.Error, ValueError):
                continue
            yield HostKey(path, number, marker, words[0], words[1], blob)


def _hashed(name: str, pattern: str) -> bool:
    parts = pattern.split("|")
    if len(parts) != 4 or parts[1] != "1":
        return False
    try:
        salt, digest = base64.b64decode(parts[2]), base64.b64decode(parts[3])
    except (binascii.Error, ValueError):
        return False
    return hmac.compare_digest(hmac.new(salt, name.encode(), hashlib.sha1).digest(), digest)


def _matches(name: str, pattern: str) -> bool:
    # Brackets are part of a name with a port, and no set of characters.
    return fnmatch.fnmatchcase(name, pattern.lower().replace("[", "[[]"))
