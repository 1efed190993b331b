"""Starts agents for one executor."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from weft_interfaces import Channel

from ..setup import InterchangeSetup
from .install import AgentHost
from .line import Line, Report
from .settings import AgentSettings

__all__ = ["agent_opener"]


def agent_opener(
    channel: Channel,
    settings: AgentSettings,
    setup: InterchangeSetup,
    report: Report,
    modules: Sequence[str] = (),
) -> Callable[[bytes], Line]:
    """What starts an agent on the channel's host, with this setup; ``report`` is told of its connection.
    ``modules``: what its file holds besides.
    """
    host = AgentHost(channel, settings.python, settings.directory, modules)
    options = {
        "patience": settings.patience,
        "on_client_loss": settings.on_client_loss,
        "disk": settings.disk,
    }

    def start(data: bytes) -> Line:
        host.forget()  # to begin with, or because the last one is gone
        return Line(
            host,
            data,
            options,
            patience=float(settings.reconnect),
            period=setup.heartbeat_period,
            threshold=setup.heartbeat_threshold,
            report=report,
        )

    return start
