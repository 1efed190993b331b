"""Which manager gets the next calls: the executor's parameter ``selector``."""

from __future__ import annotations

import math
import sys
from typing import Protocol

from weft_interfaces import ConfigError

from .messages import Register

__all__ = ["SELECTORS", "Candidate", "LeastLoaded", "Packed", "Selector", "find_selector", "guarded"]


class Candidate(Protocol):
    """A manager, as a selector sees it; it is not to be changed.

    info: what it said when it registered: ``host``, ``block``, ``slots``, ``memory``, ``gpus``, ``ends_at``.
    """

    @property
    def info(self) -> Register: ...

    @property
    def busy(self) -> float:
        """How many calls it has for each of its slots; above 1 when short ones were sent ahead."""


class Selector(Protocol):
    """Says which of the managers that have room gets the next calls.

    A name in :data:`SELECTORS` can always be given; an object must be picklable, and importable where the
    interchange runs, which may be another process.
    """

    def rank(self, manager: Candidate) -> float:
        """The manager with the lowest rank is next; among equal ones the one that registered first.

        Called in the interchange's thread each time that a manager has got calls or completed some: it must
        depend on the candidate alone, and take microseconds. Where it raises, or returns no number, the
        first error is reported and :class:`LeastLoaded` ranks in its place.
        """


class LeastLoaded:
    """The manager with the least to do for each slot: calls spread over all of them."""

    def rank(self, manager: Candidate) -> float:
        return manager.busy


class Packed:
    """The busiest manager that has room: others fall idle, so that their blocks can be given back."""

    def rank(self, manager: Candidate) -> float:
        return -manager.busy


SELECTORS: dict[str, type[LeastLoaded] | type[Packed]] = {"least-loaded": LeastLoaded, "packed": Packed}


def find_selector(selector: str | Selector, field: str) -> Selector:
    """The one with this name, or the object itself. Raises :class:`ConfigError` for anything else."""
    if isinstance(selector, str) and selector in SELECTORS:
        return SELECTORS[selector]()
    if not isinstance(selector, str | type) and callable(getattr(selector, "rank", None)):
        return selector
    names = ", ".join(repr(name) for name in SELECTORS)
    raise ConfigError(
        f"{field} must be one of {names}, or an object with a method rank(manager), not {selector!r}",
        "selector",
    )


class _Guarded:
    def __init__(self, selector: Selector) -> None:
        self._selector = selector
        self._reported = False

    def rank(self, manager: Candidate) -> float:
        try:
            rank = float(self._selector.rank(manager))
            if math.isnan(rank):
                raise ValueError(f"the rank of a manager must be a number, not nan: {self._selector!r}")
        except Exception:  # noqa: BLE001  calls must go on
            if not self._reported:
                self._reported = True
                sys.excepthook(*sys.exc_info())
            return manager.busy
        return rank


def guarded(selector: Selector) -> Selector:
    """The selector, of which nothing bad can come."""
    return selector if type(selector) in SELECTORS.values() else _Guarded(selector)
