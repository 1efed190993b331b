"""What can go wrong on the way to a host, by what the caller can do about it.

::

    ChannelError                 (of weft_interfaces) the place is out of reach
    ├── ConnectError             not reached, or lost: it may come back, and the channel tries again
    │   └── CutError             reached, and cut before the user was let in
    ├── AuthenticationNeededError  (of weft_interfaces) nothing is tried before somebody authenticates
    │   └── AuthenticationError  the host was reached and refused the user
    ├── HostKeyError             the host could not prove who it is: nothing was sent to it
    ├── SessionEndedError        the connection is good, but the server has ended a command's session early
    └── SessionRefusedError      the connection is good, but takes no further command now (MaxSessions)
"""

from __future__ import annotations

from weft_interfaces import AuthenticationNeededError, ChannelError

__all__ = [
    "AuthenticationError",
    "ConnectError",
    "CutError",
    "HostKeyError",
    "SessionEndedError",
    "SessionRefusedError",
]


class ConnectError(ChannelError):
    """The host was not reached, or the connection to it is lost; trying again later may help."""


class CutError(ConnectError):
    """The host was reached, and the connection was cut before the user was let in; it may be by chance."""


class AuthenticationError(AuthenticationNeededError):
    """The host does not let this user in; a key, a password or a second factor is missing or wrong."""


class HostKeyError(ChannelError):
    """The host's key is unknown, or is not the one that is known. No password or other data was sent."""


class SessionEndedError(ChannelError):
    """The server has ended a session and said neither that a command was run nor how it ended."""


class SessionRefusedError(ChannelError):
    """The server opens no further session on this connection: as many as it allows are open."""
