"""Tells what becomes of the connection with an agent: whoever reads events, and the user on stderr."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from typing import Any

from weft_interfaces import format_seconds

__all__ = ["News"]

_log = logging.getLogger("weft")

_OFTEN = 60.0  # seconds between two warnings that it is still out of reach


class News:
    """Passes events of a :class:`~.line.Line` on to ``report``, with ``words`` that name the cause and what
    is done about it. They are logged as warnings, too.

    patience: seconds for which a connection that was lost is made again.
    """

    def __init__(self, report: Callable[..., object], patience: float) -> None:
        self._report = report
        self._patience = patience
        self._failed_at = -math.inf

    def __call__(self, kind: str, **data: Any) -> None:
        words = self._words(kind, **data)
        now = time.monotonic()
        if kind != "connection.failed":
            self._failed_at = -math.inf
            _log.warning("%s", words)
        elif now - self._failed_at > _OFTEN:
            self._failed_at = now
            _log.warning("%s", words)
        self._report(kind, **data, words=words)

    def _words(self, kind: str, host: str, reason: str = "", seconds: float = 0.0, **_: object) -> str:
        if kind == "connection.lost":
            return (
                f"the connection with the agent on {host} is lost ({reason}). Calls go on there and their "
                f"results wait; it is made again for up to {format_seconds(self._patience)} (agent.reconnect)"
            )
        if kind == "connection.failed":
            return f"the agent on {host} is still out of reach: {reason}"
        if kind == "connection.restored":
            return f"the agent on {host} is reached again after {format_seconds(seconds)}; nothing is lost"
        return f"the agent on {host} is lost: {reason}. Another one takes over"
