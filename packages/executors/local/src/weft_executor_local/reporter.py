"""What the worker processes of an executor report to."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from weft_interfaces import Event, ExecutorContext, Outcome, Serializer
from weft_interfaces.processes import Ending, unpack_result

__all__ = ["Reporter"]


class Reporter:
    """Turns endings into outcomes. It knows nothing of the executor, which is collected when it is
    forgotten.
    """

    serializer: Serializer

    def __init__(self, label: str, context: ExecutorContext) -> None:
        self._label = label
        self._context = context

    def report(self, endings: Sequence[Ending]) -> None:
        """Pass them on as outcomes."""
        self._context.completed([self._outcome(ending) for ending in endings])

    def _outcome(self, ending: Ending) -> Outcome:
        entry, kind, payload, error = ending
        if error is not None:
            return Outcome(entry.id, None, error)
        return unpack_result(entry.id, kind, payload, self.serializer, entry.options.options.name)

    def emit(self, kind: str, data: dict[str, Any]) -> None:
        """Pass an event on."""
        self._context.emit([Event(time.time(), kind, self._label, data)])
