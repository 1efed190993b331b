"""Values that many tasks get, pickled once."""

from __future__ import annotations

import concurrent.futures
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

from weft_interfaces import FutureMisuseError, Shared

if TYPE_CHECKING:
    from weft_interfaces import PickleSerializer

__all__ = ["share"]

T = TypeVar("T")


def share(value: T) -> Shared[T]:
    """Stands for ``value`` in the arguments of tasks, at any depth; the tasks get the value itself.

    ::

        table = weft.share(load())
        results = [work(table, n) for n in range(1000)]

    The value is pickled once, when it is first needed, and what is large inside goes once to each node of the
    pilot executor, for all tasks. It is not copied: do not change it before tasks that got it are done. It
    is freed with the last of these and what this returns. Tasks that run in this process get the value as it
    is; those in other processes get arrays that are read-only.

    Raises :class:`FutureMisuseError` for a future: its value is not there yet, and is shared in any case when
    it came from the pilot executor.
    """
    if isinstance(value, concurrent.futures.Future):
        raise FutureMisuseError(
            f"weft.share: {value!r} is no value yet; pass the future itself, or its .result()"
        )
    return value if isinstance(value, Shared) else Shared(value, _dumps)


def _dumps(value: Any, what: str, buffer_callback: Any = None) -> bytes:
    return _serializer().dumps(value, what, buffer_callback)


@lru_cache(maxsize=1)
def _serializer() -> PickleSerializer:
    import cloudpickle  # type: ignore[import-untyped]
    from weft_interfaces import PickleSerializer

    return PickleSerializer(cloudpickle.Pickler)
