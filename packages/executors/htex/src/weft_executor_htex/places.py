"""Where calls are, for those few that are looked for: known only once somebody has asked."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

__all__ = ["Places"]

T = TypeVar("T")

_SPARE = 10_000  # entries that may be out of date before all are dropped


class Places(Generic[T]):
    """Remembers the last place of each call. As long as nobody asks, it costs nothing.

    ``survey``: which calls are where now. A place that :meth:`find` tells may be out of date, as nobody says
    when a call has left it: the caller looks there.
    """

    def __init__(self, survey: Callable[[], Iterable[tuple[Iterable[int], T]]]) -> None:
        self._survey = survey
        self._places: dict[int, T] | None = None
        self._most = 0

    def note(self, ids: Iterable[int], place: T) -> None:
        """These calls are there now."""
        if self._places is not None:
            self._places.update(dict.fromkeys(ids, place))
            if len(self._places) > self._most:
                self._places = None

    def find(self, call_id: int) -> T | None:
        """Where the call was seen last."""
        if self._places is None:
            self._places = {}
            for ids, place in self._survey():
                self._places.update(dict.fromkeys(ids, place))
            self._most = 2 * len(self._places) + _SPARE
        return self._places.get(call_id)

    def forget(self) -> None:
        """Everything may be elsewhere now."""
        self._places = None
