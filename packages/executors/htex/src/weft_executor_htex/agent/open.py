"""Starts agents for one executor, and finds the one of a run that was left."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence

from weft_interfaces import Channel

from ..setup import InterchangeSetup
from .durable import Folder, Record, Streams
from .install import AgentHost
from .line import Line, Report
from .news import News
from .settings import AgentSettings

__all__ = ["agent_opener", "attach_to_agent"]


def agent_opener(
    channel: Channel,
    settings: AgentSettings,
    setup: InterchangeSetup,
    report: Report,
    modules: Sequence[str] = (),
    *,
    owner: str,
    label: str,
    large: int,
    folder: Folder | None = None,
) -> Callable[[bytes], Line]:
    """What starts an agent on the channel's host, with this setup; ``report`` is told of its connection.

    modules: what its file holds besides. owner: by which ``remains.py`` finds it. label, large: the
    executor's. folder: of a detached run.
    """
    host = AgentHost(channel, settings.python, settings.directory, modules)
    options: dict[str, float | int | str] = {
        # A client that lives is heard of once in each period.
        "patience": max(float(settings.patience), 2 * setup.heartbeat_period),
        "on_client_loss": settings.on_client_loss,
        "disk": settings.disk,
        "owner": owner,
    }
    reconnect = float(settings.reconnect)
    if folder is not None:
        options["keep"] = settings.keep
        reconnect = max(reconnect, float(settings.keep))  # as long as the agent waits

    def start(data: bytes) -> Line:
        host.forget()  # to begin with, or because the last one is gone
        record = Record(
            run=uuid.uuid4().hex,
            token=uuid.uuid4().hex,
            channel=channel,
            label=label,
            python=settings.python,
            directory=settings.directory,
            reconnect=reconnect,
            period=setup.heartbeat_period,
            threshold=setup.heartbeat_threshold,
            large=large,
            options=options,
        )
        streams = None if folder is None else folder.begin(record)
        try:
            return _open(host, record, data, report, streams)
        except BaseException:
            if streams is not None:
                streams.close()
            raise

    return start


def attach_to_agent(record: Record, streams: Streams, report: Report) -> Line:
    """A connection with an agent that is there. Raises as :class:`Line` does."""
    host = AgentHost(record.channel, record.python, record.directory)
    return _open(host, record, b"", report, streams, there=True)


def _open(
    host: AgentHost,
    record: Record,
    setup: bytes,
    report: Report,
    streams: Streams | None,
    *,
    there: bool = False,
) -> Line:
    return Line(
        host,
        setup,
        record.options,
        patience=record.reconnect,
        period=record.period,
        threshold=record.threshold,
        report=News(report, record.reconnect),
        run=record.run,
        token=record.token,
        there=there,
        streams=streams,
    )
