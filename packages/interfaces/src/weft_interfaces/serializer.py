"""Turns values into bytes and back."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from pickle import PickleBuffer

__all__ = ["FunctionPayload", "Serializer"]


class FunctionPayload(NamedTuple):
    """A function as bytes, and the digest of these: equal digests mean the same function."""

    digest: bytes
    data: bytes


class Serializer(Protocol):
    """Turns values into bytes and back. Threads may use it at once.

    Both directions raise :class:`SerializationError`, which names the value (``what``) and where in it the
    culprit sits, with the original error as its cause.
    """

    def dumps(
        self, value: Any, what: str, buffer_callback: Callable[[PickleBuffer], object] | None = None
    ) -> bytes:
        """The value as bytes. Large buffers go to ``buffer_callback``, if there is one, and are not in the
        bytes unless it returns something true. With a callback, the bytes and these buffers are all of it.
        """

    def loads(self, data: bytes | memoryview, what: str, buffers: Iterable[Any] = ()) -> Any:
        """The value again, given its bytes, and its buffers in the order in which they came."""

    def dumps_function(self, function: Callable[..., Any]) -> FunctionPayload:
        """A function as bytes, to be sent once per place. Cheap when it was asked before and nothing has
        changed.
        """
