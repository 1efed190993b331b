"""Runs one call here and now, and makes an outcome of whatever comes of it."""

from __future__ import annotations

import threading
import time
import traceback
from typing import Any

from ..call import Call, Outcome
from ..errors import RemoteError, SerializationError, TaskExitError, TaskTimeoutError
from ..serializer import Serializer
from ..worker import WorkerContext, adopt_worker, current_worker

__all__ = ["run_call"]


def run_call(
    call: Call, worker: WorkerContext | None = None, serializer: Serializer | None = None
) -> Outcome:
    """Run it in this thread, as ``worker``. Never raises: also ``SystemExit`` and ``KeyboardInterrupt``
    become outcomes.

    With a ``serializer`` all that goes in and comes out crosses it, as if the worker were another process. At
    its timeout a call is interrupted, by a thread for this, if it is interruptible; one that took longer has
    failed with :class:`TaskTimeoutError` in any case.
    """
    if serializer is None:
        return _run(call, worker or WorkerContext(in_process=True))
    try:
        outcome = _run(_crossed(call, serializer), worker or WorkerContext(in_process=False))
        if outcome.error is not None:
            return Outcome(call.id, error=_crossed_error(outcome.error, serializer))
        return Outcome(call.id, _cross(outcome.value, f"the result of {call.options.name!r}", serializer))
    except SerializationError as error:
        return Outcome(call.id, error=error)


def _run(call: Call, worker: WorkerContext) -> Outcome:
    timeout = call.options.timeout
    if timeout is None:
        return _run_to_its_end(call, worker)
    timer = threading.Timer(timeout, worker.interrupt, (call.id,))
    begun = time.monotonic()
    worker.deadline = begun + timeout
    timer.start()
    try:
        outcome = _run_to_its_end(call, worker)
    finally:
        timer.cancel()
        timer.join()
        worker.deadline = None
    if time.monotonic() - begun < timeout:
        return outcome
    message = f"the task {call.options.name!r} took longer than its timeout of {timeout:g} s"
    return Outcome(call.id, error=TaskTimeoutError(message, timeout))


def _run_to_its_end(call: Call, worker: WorkerContext) -> Outcome:
    previous, worker.call = current_worker(), call
    adopt_worker(worker)
    try:
        return Outcome(call.id, call.function(*call.args, **call.kwargs))
    except (SystemExit, KeyboardInterrupt) as end:
        return Outcome(call.id, error=_exit_error(call, end))
    except BaseException as error:  # noqa: BLE001 - the outcome of a call is whatever it raises
        return Outcome(call.id, error=error)
    finally:
        worker.end_notices()
        adopt_worker(previous)
        worker.call = None


def _cross(value: Any, what: str, serializer: Serializer) -> Any:
    return serializer.loads(serializer.dumps(value, what), what)


def _crossed(call: Call, serializer: Serializer) -> Call:
    name = call.options.name
    function = serializer.loads(serializer.dumps_function(call.function).data, f"the function of {name!r}")
    args = tuple(_cross(value, f"argument {i} of {name!r}", serializer) for i, value in enumerate(call.args))
    kwargs = {
        key: _cross(value, f"argument {key!r} of {name!r}", serializer) for key, value in call.kwargs.items()
    }
    return call._replace(function=function, args=args, kwargs=kwargs)


def _crossed_error(error: BaseException, serializer: Serializer) -> BaseException:
    try:
        crossed = _cross(error, "the exception", serializer)
    except SerializationError:
        crossed = None
    if isinstance(crossed, BaseException):
        return crossed
    return RemoteError(type(error).__qualname__, str(error), "".join(traceback.format_exception(error)))


def _exit_error(call: Call, end: BaseException) -> TaskExitError:
    error = TaskExitError(f"the task {call.options.name!r} ended with {type(end).__name__}: {end}")
    error.__cause__ = end
    return error
