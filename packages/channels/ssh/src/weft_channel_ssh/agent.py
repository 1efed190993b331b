"""The user's SSH agent: which keys it has, and signatures by them (draft-miller-ssh-agent)."""

from __future__ import annotations

import contextlib
import socket
import struct
from typing import NamedTuple

from paramiko import Message

__all__ = ["Agent", "AgentError", "AgentKey"]

_REQUEST_IDENTITIES, _IDENTITIES, _SIGN_REQUEST, _SIGNATURE = 11, 12, 13, 14
_FLAGS = {"rsa-sha2-256": 2, "rsa-sha2-512": 4}
_TIMEOUT = 10.0  # seconds for its list
_PERSON = 120.0  # seconds to sign: it may ask its user, or want a token touched
_LARGEST = 1 << 20  # bytes of an answer


class AgentError(Exception):
    """There is no agent, or it did not do what it was asked."""


class AgentKey(NamedTuple):
    """A key, or a certificate, that the agent can sign with."""

    type: str
    blob: bytes
    comment: str


class Agent:
    """One conversation with the agent behind a socket. Raises :class:`AgentError`."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.settimeout(_TIMEOUT)
            self._socket.connect(path)
        except OSError as error:
            self._socket.close()
            raise AgentError(f"no agent answers at {path}: {error.strerror or error}") from error

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.close()

    def keys(self) -> list[AgentKey]:
        """What it has, in its order."""
        answer = self._ask(bytes([_REQUEST_IDENTITIES]), _IDENTITIES, _TIMEOUT, "its keys")
        keys = []
        for _ in range(answer.get_int()):
            blob, comment = answer.get_binary(), answer.get_binary().decode(errors="replace")
            keys.append(AgentKey(Message(blob).get_text(), blob, comment))
        return keys

    def sign(self, key: AgentKey, data: bytes, algorithm: str) -> bytes:
        """An SSH signature of ``data``."""
        message = Message()
        message.add_byte(bytes([_SIGN_REQUEST]))
        message.add_string(key.blob)
        message.add_string(data)
        message.add_int(_FLAGS.get(algorithm, 0))
        return self._ask(message.asbytes(), _SIGNATURE, _PERSON, "a signature").get_binary()

    def _ask(self, request: bytes, expected: int, timeout: float, what: str) -> Message:
        try:
            self._socket.settimeout(timeout)
            self._socket.sendall(struct.pack(">I", len(request)) + request)
            (size,) = struct.unpack(">I", self._read(4))
            if not 0 < size <= _LARGEST:
                raise AgentError(f"the agent at {self._path} answered with {size} bytes")
            answer = self._read(size)
        except OSError as error:
            raise AgentError(f"the agent at {self._path} gave no answer: {error}") from error
        if answer[0] != expected:
            raise AgentError(f"the agent at {self._path} refused {what}")
        return Message(answer[1:])

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            part = self._socket.recv(size - len(data))
            if not part:
                raise AgentError(f"the agent at {self._path} closed the conversation")
            data += part
        return data
