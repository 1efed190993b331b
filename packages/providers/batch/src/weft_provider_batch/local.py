"""The channel of those who name none: this machine."""

from __future__ import annotations

import functools

from weft_interfaces import Channel, MissingPluginError

__all__ = ["local_channel"]


@functools.cache
def local_channel() -> Channel:
    """One for the whole process, so that its providers share their queries.

    Whatever is installed as the channel called ``local``: providers depend on no channel themselves.
    """
    from importlib.metadata import entry_points

    for entry_point in entry_points(group="weft.channels", name="local"):
        channel: Channel = entry_point.load()()
        return channel
    raise MissingPluginError(
        "without `channel`, commands run on this machine through weft-channel-local, which is not installed: "
        "pip install weft-channel-local"
    )
