"""How the worker processes of one executor, or of one node, are made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["WorkerSettings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """How worker processes are made. It is sent to the template as JSON.

    count: workers. serializer: what makes the serializer of arguments and results, as ``module:name``, given
    ``serializer_settings``, which are as plain as JSON.
    preload: modules that are imported before workers are forked, so that these need not.
    environments: variables of each worker's environment, by its seat; a call that changes them changes them
    for itself. affinities: processors that each worker may use, by its seat; an empty one is not bound. A
    replacement takes the seat of the worker that died, from 0 to ``count`` - 1.
    ends_at: when all of them end, in seconds since the epoch, for :meth:`WorkerContext.remaining`; None if it
    is not known. end_file: a file that holds that once it was moved, see :func:`write_end`.
    scratch: directories that are removed, with all that is in them, when the client is gone and its workers
    are dead.
    """

    count: int
    serializer: str = "weft_interfaces.pickling:make_serializer"
    serializer_settings: Mapping[str, Any] = field(default_factory=dict)
    preload: Sequence[str] = ()
    environments: Sequence[Mapping[str, str]] = field(default=())
    affinities: Sequence[Sequence[int]] = field(default=())
    ends_at: float | None = None
    end_file: str = ""
    scratch: Sequence[str] = ()
