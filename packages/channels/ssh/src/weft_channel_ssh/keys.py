"""Private keys in files, and certificates for them."""

from __future__ import annotations

import base64
import binascii
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import paramiko
from paramiko import Message

__all__ = ["KeyFile", "KeyFileError", "Public", "expiry", "read_public"]

_MAGIC = b"openssh-key-v1\0"
_FOREVER = 2**64 - 1
_CERTIFICATE = "-cert-v01@openssh.com"
# Fields of a certificate between its nonce and its serial number.
_KEY_FIELDS = {"ssh-rsa": 2, "ssh-ed25519": 1}
_ECDSA_FIELDS = 2


class KeyFileError(Exception):
    """A file that holds no key that can be used; says why."""


class Public(NamedTuple):
    """The public part of a key, or a certificate."""

    type: str
    blob: bytes


def read_public(path: Path) -> Public | None:
    """What a ``.pub`` file holds; None if it is not there, or is none."""
    try:
        words = path.read_text(encoding="utf-8", errors="replace").split()
        blob = base64.b64decode(words[1], validate=True)
        return Public(Message(blob).get_text(), blob)
    except (OSError, IndexError, ValueError, binascii.Error):
        return None


def expiry(public: Public) -> str | None:
    """Why a certificate does not hold now, in words; None if it does, or is none."""
    if not public.type.endswith(_CERTIFICATE):
        return None
    message = Message(public.blob)
    kind = message.get_text().removesuffix(_CERTIFICATE)
    for _ in range(1 + _KEY_FIELDS.get(kind, _ECDSA_FIELDS)):  # the nonce comes first
        message.get_binary()
    message.get_int64()
    message.get_int()
    message.get_binary()
    message.get_binary()
    after, before = message.get_int64(), message.get_int64()
    now = time.time()
    if before != _FOREVER and now >= before:
        return f"it expired on {_day(before)}"
    if now < after:
        return f"it holds from {_day(after)} on, or this machine's clock is wrong"
    return None


def _day(seconds: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


class KeyFile:
    """A private key in a file. What is unlocked once stays so, as in an agent, for as long as this lives."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self._key: paramiko.PKey | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r})"

    def public(self) -> Public | None:
        """Its public part, as far as it can be known without a passphrase.

        Raises :class:`KeyFileError` if the file cannot be read.
        """
        if self._key is None and (beside := read_public(self.path.with_name(self.path.name + ".pub"))):
            return beside
        try:
            text = self.path.read_text(encoding="ascii", errors="replace")
        except OSError as error:
            raise KeyFileError(f"it cannot be read: {error.strerror}") from error
        if self._key is None and "BEGIN OPENSSH PRIVATE KEY" in text:
            body = "".join(line for line in text.splitlines() if not line.startswith("-----"))
            try:
                data = base64.b64decode(body)
                if data.startswith(_MAGIC):
                    message = Message(data[len(_MAGIC) :])
                    for _ in range(3):  # cipher, derivation, its options
                        message.get_binary()
                    message.get_int()
                    blob = message.get_binary()
                    return Public(Message(blob).get_text(), blob)
            except (ValueError, binascii.Error):
                raise KeyFileError("it is damaged") from None
        try:
            key = self._load(None)
        except paramiko.PasswordRequiredException:
            return None
        return Public(key.get_name(), key.asbytes())

    def unlocked(self, passphrase: Callable[[], str]) -> paramiko.PKey:
        """The key; asks for a passphrase if it needs one. Raises :class:`KeyFileError`."""
        try:
            return self._load(None)
        except paramiko.PasswordRequiredException:
            return self._load(passphrase())

    def _load(self, passphrase: str | None) -> paramiko.PKey:
        if self._key is None:
            self._key = _read_key(self.path, passphrase)
        return self._key


def _read_key(path: Path, passphrase: str | None) -> paramiko.PKey:
    problem = "its kind of key is not supported: Ed25519, ECDSA and RSA are; OpenSSHChannel knows more"
    for kind in (paramiko.Ed25519Key, paramiko.ECDSAKey, paramiko.RSAKey):
        try:
            return kind.from_private_key_file(str(path), passphrase)
        except paramiko.PasswordRequiredException:
            raise
        except OSError as error:
            raise KeyFileError(f"it cannot be read: {error.strerror}") from error
        except (paramiko.SSHException, ValueError, IndexError, TypeError):
            # What the wrong kinds complain of is not worth a word.
            if passphrase is not None:
                problem = "the passphrase is wrong, or the file is damaged"
    raise KeyFileError(problem) from None
