"""What the interchange needs of ``weft_interfaces``: names. Inside the agent's file it is called so.

The interchange reads options of calls from messages, and makes none of the client's.
"""

from __future__ import annotations

__all__ = ["CallOptions", "ConfigError", "Resources"]


class ConfigError(ValueError):
    """A setting that cannot be."""


class CallOptions:
    """The client's."""


class Resources:
    """The client's."""
