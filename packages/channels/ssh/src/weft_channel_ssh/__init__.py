"""A machine behind SSH, as a place where commands run and files live."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .__about__ import __version__
from .errors import AuthenticationError, ConnectError, HostKeyError, SessionRefusedError
from .openssh import OpenSSHChannel

if TYPE_CHECKING:
    from .channel import SSHChannel
    from .prompts import Question

__all__ = [
    "AuthenticationError",
    "ConnectError",
    "HostKeyError",
    "OpenSSHChannel",
    "Question",
    "SSHChannel",
    "SessionRefusedError",
    "__version__",
]

_LATER = {"SSHChannel": "channel", "Question": "prompts"}  # paramiko takes a while to import


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name)
    from importlib import import_module

    value = getattr(import_module(f".{_LATER[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
