"""A machine behind SSH, as a place where commands run and files live."""

from __future__ import annotations

from .__about__ import __version__
from .errors import AuthenticationError, ConnectError, HostKeyError, SessionRefusedError
from .openssh import OpenSSHChannel

__all__ = [
    "AuthenticationError",
    "ConnectError",
    "HostKeyError",
    "OpenSSHChannel",
    "SessionRefusedError",
    "__version__",
]
