"""What a worker process does: it runs the calls that its client sends, one after the other.

Before each call it takes one byte, a token, from a pipe into which the client has put one for each call that
it sent. The client takes tokens out of the same pipe to have calls back that have not begun. A pipe gives
each byte to one reader only, so a call either runs here or is the client's again, never both, and the number
of tokens left in the pipe of a dead worker tells which call it was running. A worker that finds no token
drops the call, and says how many it dropped; until it has said so for all calls taken back the client sends
it no new ones, or one of their tokens would let it run an old call.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

from ..call import Call, CallOptions
from ..errors import SerializationError
from ..serializer import Serializer
from ..worker import WorkerContext, adopt_worker
from . import frames
from .end_file import read_end
from .results import pack_error
from .surroundings import Surroundings, flush, redirected

__all__ = ["Worker", "handles_streams"]


class Worker:
    """One worker process. ``tokens`` is the reading end of the pipe, and does not block.

    ends_at: when it ends, in seconds since the epoch, if that is known; end_file: where that is written, see
    :class:`WorkerSettings`.
    """

    def __init__(
        self,
        connection: socket.socket,
        tokens: int,
        serializer: Serializer,
        ends_at: float | None = None,
        end_file: str = "",
    ) -> None:
        self._connection = connection
        self._tokens = tokens
        self._serializer = serializer
        self._reader = frames.BatchReader(connection)
        self._context = _ProcessContext(ends_at, end_file)
        self._functions: dict[int, bytes | Callable[..., Any]] = {}
        self._options: dict[int, CallOptions] = {}
        self._environments: dict[int, dict[str, str]] = {}
        self._surroundings = Surroundings()
        self._pid = os.getpid()

    def run(self) -> None:
        """Run calls until the client has closed the connection."""
        adopt_worker(self._context)
        self._report(frames.READY, b"")
        while True:
            batch = self._reader.read()
            if batch is None:
                return
            self._learn(batch)
            for position, (call_id, function, options, arguments) in enumerate(batch.calls):
                if not self._begin():
                    self._report(frames.DROPPED, str(len(batch.calls) - position).encode())
                    break
                if options in self._environments:
                    os.environ.update(self._environments[options])
                self._run(call_id, function, self._options[options], arguments)

    def _learn(self, batch: frames.Batch) -> None:
        if batch.forget:
            self._functions.clear()
            self._options.clear()
            self._environments.clear()
        self._functions.update(batch.functions)
        self._options.update(batch.options)
        if batch.environments:
            self._environments.update(batch.environments)
        if batch.path is not None:
            sys.path[:] = batch.path

    def _begin(self) -> bool:
        """Whether there was a token, and so whether the next call is this worker's."""
        try:
            return bool(os.read(self._tokens, 1))
        except BlockingIOError:
            return False

    def _run(self, call_id: int, function: int, options: CallOptions, arguments: bytes) -> None:
        begun = time.perf_counter()
        try:
            call = self._unpack(call_id, function, options, arguments)
            self._context.call = call
            if options.timeout is not None:
                self._context.deadline = time.monotonic() + options.timeout
            value = self._call(call)
            self._leave_if_forked()
            kind, payload = (
                (frames.NOTHING, b"") if value is None else (frames.VALUE, self._pack(value, options))
            )
        except BaseException as error:  # noqa: BLE001  whatever the call raises is its outcome
            self._leave_if_forked()
            error.__traceback__ = _without_own_frames(error)
            kind, payload = frames.ERROR, pack_error(error, self._serializer, options.name)
        self._context.end_notices()
        self._context.call = self._context.deadline = None
        call = value = None  # type: ignore[assignment]  # free before the next one comes
        flush()
        self._report(kind, payload, time.perf_counter() - begun)
        self._surroundings.restore()  # nobody waits for that

    def _call(self, call: Call) -> Any:
        options = call.options
        if (options.stdout or options.stderr or options.cwd) and not handles_streams(call.function):
            with redirected(options):
                return call.function(*call.args, **call.kwargs)
        return call.function(*call.args, **call.kwargs)

    def _unpack(self, call_id: int, number: int, options: CallOptions, arguments: bytes) -> Call:
        function = self._functions[number]
        if isinstance(function, bytes):
            function = self._serializer.loads(function, f"the function of task {options.name!r}")
            self._functions[number] = function
        args: tuple[Any, ...] = ()
        kwargs: dict[str, Any] = {}
        if arguments:
            args, kwargs = self._serializer.loads(arguments, f"the arguments of task {options.name!r}")
        return Call(call_id, function, args, kwargs, options)

    def _pack(self, value: Any, options: CallOptions) -> bytes:
        return self._serializer.dumps(value, f"the result of task {options.name!r}")

    def _report(self, kind: int, payload: bytes, seconds: float = 0.0) -> None:
        header = frames.pack_header(kind, len(payload), seconds)
        if len(payload) <= frames.LARGE:
            self._connection.sendall(header + payload)
        else:
            self._connection.sendall(header)
            self._connection.sendall(payload)

    def _leave_if_forked(self) -> None:
        """A function that forks must not come back twice."""
        if os.getpid() != self._pid:
            flush()
            os._exit(70)


class _ProcessContext(WorkerContext):
    """The end of all workers of a node may be moved: then it is written into a file."""

    def __init__(self, ends_at: float | None, end_file: str) -> None:
        super().__init__(in_process=False)
        self._ends_at = ends_at
        self._end_file = end_file

    def ends_at(self) -> float | None:
        return (read_end(self._end_file) if self._end_file else None) or self._ends_at


def handles_streams(function: Callable[..., Any]) -> bool:
    """Whether the function itself sees to its streams and its directory: one that runs a command does."""
    return bool(getattr(function, "handles_streams", False))


def _without_own_frames(error: BaseException) -> Any:
    """The traceback from the user's function on; all of it for an error that comes from here."""
    traceback = error.__traceback__
    if isinstance(error, SerializationError):
        return traceback
    while traceback is not None and traceback.tb_frame.f_globals.get("__name__") == __name__:
        traceback = traceback.tb_next
    return traceback
