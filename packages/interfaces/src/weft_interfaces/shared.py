"""A value that is pickled once for many calls."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

if TYPE_CHECKING:
    from pickle import PickleBuffer

__all__ = ["Shared"]

_T_co = TypeVar("_T_co", covariant=True)

_BUFFERS = 5  # the pickle protocol from which on buffers may travel beside the bytes


class Shared(Generic[_T_co]):
    """Stands for a value in the arguments of calls, at any depth: the calls get the value itself.

    The value is pickled when it is first needed, once, and its buffers are referred to, not copied: it must
    not change as long as this object, or a call that got it, is there. An executor that keeps large data on
    its nodes sends it there once; any other that pickles arguments sends it with each call. One whose calls
    run in this process is given the value by the kernel.

    ``dumps`` is the method of a :class:`Serializer`. Threads may use it at once. used: whether there ever was
    one in this process.
    """

    used: ClassVar[bool] = False

    __slots__ = ("__weakref__", "_dumps", "_lock", "_packed", "_value")

    def __init__(self, value: _T_co, dumps: Callable[..., bytes]) -> None:
        Shared.used = True
        self._value = value
        self._dumps = dumps
        self._packed: tuple[PickleBuffer, ...] | None = None
        self._lock = threading.Lock()

    @property
    def value(self) -> _T_co:
        """The value."""
        return self._value

    def packed(self) -> tuple[PickleBuffer, ...]:
        """The value's pickle, and the buffers that belong to it: the same ones each time.

        Raises :class:`SerializationError`.
        """
        from pickle import PickleBuffer

        with self._lock:
            if self._packed is None:
                buffers: list[PickleBuffer] = []
                data = self._dumps(self._value, "the shared value", buffers.append)
                self._packed = (PickleBuffer(data), *buffers)
            return self._packed

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        if protocol < _BUFFERS:
            return _itself, (self._value,)
        return _unpack, self.packed()

    def __copy__(self) -> Shared[_T_co]:
        return self

    def __deepcopy__(self, memo: object) -> Shared[_T_co]:
        return self

    def __repr__(self) -> str:
        return f"<shared {type(self._value).__qualname__}>"


def _itself(value: Any) -> Any:
    return value


def _unpack(data: Any, *buffers: Any) -> Any:
    import pickle

    return pickle.loads(data, buffers=buffers)
