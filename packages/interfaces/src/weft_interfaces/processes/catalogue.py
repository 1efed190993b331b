"""Turns calls into what is sent of them, in the thread that submits."""

from __future__ import annotations

import inspect
import itertools
import threading
from collections.abc import Callable, Mapping
from typing import Any

from ..call import Call, CallOptions
from ..errors import InputError, SerializationError
from ..serializer import Serializer

__all__ = ["Catalogue", "Entry", "FunctionRecord", "OptionsRecord"]

# Functions come and go (lambdas, partials): what is known of them is bounded in number and in bytes.
_MOST = 1000
_MOST_BYTES = 32 << 20


class FunctionRecord:
    """A function as bytes, under a number.

    ``mean``: seconds that its recent calls took, None before the first one.
    """

    __slots__ = ("data", "mean", "number")

    def __init__(self, number: int, data: bytes) -> None:
        self.number = number
        self.data = data
        self.mean: float | None = None


class OptionsRecord:
    """Options of calls, under a number, and what is read of them for every call.

    environment: variables that calls with them find in their worker. demand: the slots that each takes in
    all, where a node has ``node_slots``.
    """

    __slots__ = (
        "arguments",
        "demand",
        "environment",
        "memory",
        "number",
        "options",
        "priority",
        "slots",
        "timeout",
    )

    def __init__(
        self,
        number: int,
        options: CallOptions,
        environment: Mapping[str, str] | None = None,
        node_slots: int = 1,
    ) -> None:
        self.number = number
        self.options = options
        self.environment = environment
        wants = options.resources
        self.demand = wants.slots if wants.nodes == 1 else wants.nodes * max(wants.slots, node_slots)
        self.priority = options.priority
        self.slots = options.resources.slots
        self.timeout = options.timeout
        self.memory = None if options.resources.memory is None else int(options.resources.memory)
        self.arguments = f"the arguments of task {options.name!r}"


class Entry:
    """A call, ready to be sent.

    worker: the number of the worker that it was sent to, None while it is queued. done: its outcome was
    decided.
    verdict: what it gets instead of its own outcome, because its worker was killed for it. blobs: what its
    arguments need besides, held for its sake.
    """

    __slots__ = ("arguments", "blobs", "done", "function", "id", "options", "verdict", "worker")

    def __init__(
        self,
        id: int,
        function: FunctionRecord,
        options: OptionsRecord,
        arguments: bytes,
        blobs: tuple[Any, ...] = (),
    ) -> None:
        self.id = id
        self.function = function
        self.options = options
        self.arguments = arguments
        self.worker: int | None = None
        self.done = False
        self.verdict: BaseException | None = None
        self.blobs = blobs


class Catalogue:
    """Functions by digest and options by value, each known under a number that is never used again.

    ``node_slots``: those of a whole node, of which a call may take several. ``pack`` makes bytes of arguments
    as ``serializer.dumps`` does, and what these need besides.
    """

    def __init__(
        self,
        serializer: Serializer,
        refusal: Callable[[CallOptions], InputError | None],
        node_slots: int = 1,
        pack: Callable[[Any, str], tuple[bytes, tuple[Any, ...]]] | None = None,
    ) -> None:
        self._node_slots = node_slots
        self._serializer = serializer
        self._pack = pack
        self._refusal = refusal
        self._functions: dict[bytes, FunctionRecord] = {}
        self._bytes = 0
        self._options: dict[CallOptions, OptionsRecord] = {}
        self._latest: OptionsRecord | None = None
        self._numbers = itertools.count()
        self._lock = threading.Lock()

    def entry(self, call: Call) -> Entry:
        """The call, ready to be sent. Raises :class:`InputError` if it cannot be, or can never run."""
        options = self._latest
        if options is None or options.options is not call.options:
            options = self._record_options(call.options)
        function = self._record_function(call.function)
        arguments, blobs = b"", ()
        if call.args or call.kwargs:
            value = (call.args, dict(call.kwargs))
            try:
                if self._pack is None:
                    arguments = self._serializer.dumps(value, options.arguments)
                else:
                    arguments, blobs = self._pack(value, options.arguments)
            except SerializationError:
                self._explain(call)
                raise
        return Entry(call.id, function, options, arguments, blobs)

    def _record_function(self, function: Callable[..., Any]) -> FunctionRecord:
        digest, data = self._serializer.dumps_function(function)
        record = self._functions.get(digest)
        if record is None:
            with self._lock:
                if len(self._functions) >= _MOST or self._bytes > _MOST_BYTES:
                    self._functions.clear()
                    self._bytes = 0
                record = self._functions.setdefault(digest, FunctionRecord(next(self._numbers), data))
                self._bytes += len(data)
        return record

    def _record_options(self, options: CallOptions) -> OptionsRecord:
        record = self._options.get(options)
        if record is None:
            error = self._refusal(options)
            if error is not None:
                raise error
            with self._lock:
                if len(self._options) >= _MOST:
                    self._options.clear()
                fresh = OptionsRecord(next(self._numbers), options, None, self._node_slots)
                record = self._options.setdefault(options, fresh)
        if record.options is options:
            self._latest = record
        return record

    def _explain(self, call: Call) -> None:
        """Raise an error that names the argument, if one of them alone cannot be pickled."""
        try:
            names = list(inspect.signature(call.function).parameters)
        except (TypeError, ValueError):
            names = []
        for position, value in enumerate(call.args):
            name = repr(names[position]) if position < len(names) else position + 1
            self._serializer.dumps(value, f"argument {name} of task {call.options.name!r}")
        for name, value in call.kwargs.items():
            self._serializer.dumps(value, f"argument {name!r} of task {call.options.name!r}")
