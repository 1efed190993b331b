"""Carries what became of calls from a worker to the client."""

from __future__ import annotations

import pickle
import traceback
from typing import NamedTuple

from ..call import Outcome
from ..errors import RemoteError, SerializationError
from ..pickling import in_band
from ..serializer import Serializer
from .exits import exit_error
from .frames import ERROR, NOTHING

__all__ = ["PackedError", "RemoteTraceback", "pack_error", "unpack_result"]


class RemoteTraceback(Exception):
    """Stands at the end of an exception's chain of causes: it shows the traceback of the worker."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f"in the worker:\n\n{self.text.rstrip()}"


class PackedError(NamedTuple):
    """An exception as plain data: itself, pickled, if that could be done, and what can be said of it
    otherwise.
    """

    pickled: bytes
    type_name: str
    message: str
    traceback: str
    unpicklable: str = ""


def pack_error(error: BaseException, serializer: Serializer, task: str) -> bytes:
    """The exception as bytes, whatever it is.

    ``SystemExit`` and ``KeyboardInterrupt`` become a TaskExitError.
    """
    text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    error = exit_error(error, task)
    pickled, unpicklable = b"", ""
    try:
        pickled = serializer.dumps(error, f"the exception of task {task!r}", in_band)
    except SerializationError as problem:
        unpicklable = str(problem)
    kind = type(error)
    name = f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins.")
    return pickle.dumps(tuple(PackedError(pickled, name, _message(error), text, unpicklable)), 5)


def unpack_result(
    call_id: int, kind: int, payload: bytes | memoryview, serializer: Serializer, task: str
) -> Outcome:
    """The outcome that a worker reported, given the kind of its report, the payload and the task's name."""
    if kind == NOTHING:
        return Outcome(call_id)
    if kind == ERROR:
        return Outcome(call_id, None, _unpack_error(payload, serializer, task))
    try:
        return Outcome(call_id, serializer.loads(payload, f"the result of task {task!r}"))
    except SerializationError as unreadable:
        return Outcome(call_id, None, unreadable)


def _unpack_error(data: bytes | memoryview, serializer: Serializer, task: str) -> BaseException:
    """The exception again, with the worker's traceback at the end of its causes; a RemoteError if it cannot
    be rebuilt.
    """
    packed = PackedError(*pickle.loads(data))
    problem: BaseException | None = None
    try:
        if not packed.unpicklable:
            error = serializer.loads(packed.pickled, f"the exception of task {task!r}")
            if isinstance(error, BaseException):
                _append_cause(error, RemoteTraceback(packed.traceback))
                return error
        problem = SerializationError(packed.unpicklable or "it is no exception any more")
    except SerializationError as unreadable:
        problem = unreadable
    remote = RemoteError(packed.type_name, packed.message, packed.traceback)
    remote.__cause__ = problem
    return remote


def _append_cause(error: BaseException, last: BaseException) -> None:
    seen = set()
    while error.__cause__ is not None and id(error) not in seen:
        seen.add(id(error))
        error = error.__cause__
    error.__cause__ = last


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001  a __str__ of the user's may raise anything
        return "(its message cannot be shown)"
