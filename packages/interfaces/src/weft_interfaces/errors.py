"""Every error of Weft, split by what the caller can do about it.

::

    WeftError
    ├── InputError               wrong input: fix it; never retried
    │   ├── ConfigError          a configuration: names the key path
    │   ├── CallError            a call with arguments that its function does not take (also a TypeError)
    │   ├── UnitError            a quantity such as "4GB" that cannot be read (also a ValueError)
    │   ├── SerializationError   a value that cannot cross to a worker or back: names it
    │   ├── ResourcesError       no executor can ever run the task
    │   ├── FutureMisuseError    a future used as if it were its value (also a TypeError)
    │   ├── RunClosedError       a call to a run that is closing or closed
    │   ├── CycleError           a task that waits for itself
    │   ├── DeadlockError        tasks that wait for tasks that cannot start
    │   └── MissingPluginError   a plug-in that is not installed: names the distribution
    ├── TaskError                what happened to one task
    │   ├── TaskTimeoutError     it ran longer than its timeout and was stopped (also a TimeoutError)
    │   ├── TaskExitError        it called sys.exit() or was interrupted
    │   ├── ShellError           its command ended with a non-zero status
    │   ├── RemoteError          stands for an exception that could not cross from the worker
    │   ├── DetachedError        its run was left while it was not done
    │   └── DependencyError      one of the tasks that it needed failed
    ├── TransientError           may succeed when tried again
    │   ├── ProviderError        a batch system refused or did not answer
    │   │   └── NoBlocksError    an executor gets no blocks any more: the task has not begun
    │   ├── ChannelError         a place could not be reached
    │   │   └── AuthenticationNeededError  it asks who is there again, and somebody must answer
    │   ├── StagingError         a file could not be moved
    │   └── MemoStoreError       a store of results could not be read or written
    ├── LostError                the outcome is unknown: carries a death certificate
    │   ├── WorkerLostError
    │   ├── ManagerLostError
    │   ├── BlockLostError
    │   └── InterchangeLostError
    └── InternalError            a bug in Weft: please report it

A cancelled task raises :class:`concurrent.futures.CancelledError`, as everywhere in Python.
Every error survives :mod:`pickle`, with its cause, its notes and its attributes.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

__all__ = [
    "AuthenticationNeededError",
    "BlockLostError",
    "CallError",
    "ChannelError",
    "ConfigError",
    "CycleError",
    "DeadlockError",
    "DeathCertificate",
    "DependencyError",
    "DetachedError",
    "FutureMisuseError",
    "InputError",
    "InterchangeLostError",
    "InternalError",
    "LostError",
    "ManagerLostError",
    "MemoStoreError",
    "MissingPluginError",
    "NoBlocksError",
    "ProviderError",
    "RemoteError",
    "ResourcesError",
    "RunClosedError",
    "SerializationError",
    "ShellError",
    "StagingError",
    "TaskError",
    "TaskExitError",
    "TaskTimeoutError",
    "TransientError",
    "UnitError",
    "WeftError",
    "WorkerLostError",
]


class WeftError(Exception):
    """The root of all errors that Weft raises."""

    def __reduce__(self) -> tuple[Any, ...]:
        # Exception's own __reduce__ calls the constructor again, which fails for any signature but (*args),
        # and forgets the cause.
        return _restore, (type(self), self.args, dict(self.__dict__), _portable(self.__cause__))


def _restore(
    cls: type[WeftError], args: tuple[Any, ...], state: dict[str, Any], cause: BaseException | None
) -> WeftError:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    error.__cause__ = cause
    return error


def _portable(cause: BaseException | None) -> BaseException | None:
    if cause is None:
        return None
    try:
        pickle.loads(pickle.dumps(cause))
    except Exception:  # noqa: BLE001  a foreign exception's pickling may raise anything
        return RemoteError(type(cause).__qualname__, str(cause))
    return cause


# -- wrong input --------------------------------------------------------------------------------------------


class InputError(WeftError):
    """What was passed is wrong; trying again cannot help."""


class ConfigError(InputError):
    """A configuration is wrong. ``key`` is the path of the key, such as ``executors[1].workers``."""

    def __init__(self, message: str, key: str = "") -> None:
        super().__init__(message)
        self.key = key


class CallError(InputError, TypeError):
    """A call whose arguments its function does not take; nothing was submitted."""


class UnitError(InputError, ValueError):
    """A quantity that cannot be read; the message names the field and lists the units."""


class SerializationError(InputError):
    """A value cannot be pickled or unpickled. ``path`` says where it sits, such as ``argument
    'x'[3].lock``.
    """

    def __init__(self, message: str, path: str = "") -> None:
        super().__init__(message)
        self.path = path


class ResourcesError(InputError):
    """No executor that the task may use can ever give it what it asks for."""


class FutureMisuseError(InputError, TypeError):
    """A future was used as if it were the value that it will have."""


class RunClosedError(InputError, RuntimeError):
    """The run is closing or closed and takes no more tasks; this one was not submitted."""


class CycleError(InputError):
    """A task waits, through the futures it returned, for itself."""


class DeadlockError(InputError, RuntimeError):
    """All workers wait for tasks that cannot start before a worker is free."""


class MissingPluginError(InputError, ImportError):
    """A plug-in was named that is not installed; the message says which distribution has it."""


# -- what happened to a task --------------------------------------------------------------------------------


class TaskError(WeftError):
    """Something happened to one task."""


class TaskTimeoutError(TaskError, TimeoutError):
    """The task ran longer than its ``timeout`` (seconds) and was stopped."""

    def __init__(self, message: str, timeout: float | None = None) -> None:
        super().__init__(message)
        self.timeout = timeout


class TaskExitError(TaskError):
    """The task raised ``SystemExit`` or ``KeyboardInterrupt``; the original is the cause."""


class ShellError(TaskError):
    """A shell task's command ended with a non-zero status (negative: killed by that signal)."""

    def __init__(
        self, command: str, exit_status: int, stderr_tail: str = "", stderr_path: str | None = None
    ) -> None:
        super().__init__(command, exit_status, stderr_tail, stderr_path)
        self.command = command
        self.exit_status = exit_status
        self.stderr_tail = stderr_tail
        self.stderr_path = stderr_path

    def __str__(self) -> str:
        ended = (
            f"was killed by {signal_name(-self.exit_status)}"
            if self.exit_status < 0
            else (f"ended with exit status {self.exit_status}")
        )
        where = f" (all of it in {self.stderr_path})" if self.stderr_path else ""
        tail = self.stderr_tail.strip()
        said = f"; the end of its stderr{where}:\n{tail}" if tail else f"; it wrote nothing to stderr{where}"
        return f"the command {self.command!r} {ended}{said}"


class RemoteError(TaskError):
    """An exception that could not be rebuilt here: its type's name, its message, its traceback as text."""

    def __init__(self, type_name: str, message: str, traceback: str = "") -> None:
        super().__init__(type_name, message, traceback)
        self.type_name = type_name
        self.message = message
        self.traceback = traceback

    def __str__(self) -> str:
        text = f"{self.type_name}: {self.message}" if self.message else self.type_name
        return f"{text}\n\n{self.traceback.rstrip()}" if self.traceback else text


class DependencyError(TaskError):
    """A task was not run because one that it needed failed.

    ``chain`` names the tasks from the one that was not run to the one that failed; ``__cause__`` is the root
    cause.
    """

    def __init__(self, message: str, chain: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.chain = tuple(chain)


class DetachedError(TaskError):
    """The run was left, by ``run.detach()``, while the task was not done: the message says whether it goes on
    without it.
    """


# -- transient ----------------------------------------------------------------------------------------------


class TransientError(WeftError):
    """May succeed when tried again."""


class ProviderError(TransientError):
    """A batch system refused a request or did not answer."""


class NoBlocksError(ProviderError):
    """An executor has no block, and none will come: the message says why. The task has not begun, so another
    executor may have it.
    """


class ChannelError(TransientError):
    """A place could not be reached, or the connection broke."""


class AuthenticationNeededError(ChannelError):
    """A place refused what it was offered, or asks for what only a person can give, and nobody can be asked
    here. The message says what it takes, what was tried and what to do.

    The place is left alone until somebody authenticates again (``channel.authenticate()`` where a channel has
    it): each call raises this at once, so nothing is locked by attempts that cannot succeed.
    """


class StagingError(TransientError):
    """A file could not be moved; no partial file bears the final name."""


class MemoStoreError(TransientError):
    """A store of results could not be opened, read or written; what it acknowledged before is not touched."""


# -- lost ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class DeathCertificate:
    """What is known of the end of a worker, manager, block or interchange.

    ``time`` is in seconds since the epoch; ``exit_code`` and ``signal`` exclude each other; None is "not
    known".
    """

    kind: str
    host: str | None = None
    pid: int | None = None
    exit_code: int | None = None
    signal: int | None = None
    out_of_memory: bool = False
    block_id: str | None = None
    job_id: str | None = None
    reason: str = ""
    stderr_tail: str = ""
    time: float | None = None

    def __str__(self) -> str:
        places = {"process": self.pid, "host": self.host, "block": self.block_id, "job": self.job_id}
        where = ", ".join(f"{name} {value}" for name, value in places.items() if value is not None)
        lines = [f"the {self.kind}{f' ({where})' if where else ''} {self._ending()}"]
        if self.reason:
            lines.append(f"reason given: {self.reason}")
        if self.stderr_tail.strip():
            lines.append(f"the end of its stderr:\n{self.stderr_tail.rstrip()}")
        return "\n".join(lines)

    def _ending(self) -> str:
        if self.out_of_memory:
            return "was killed because memory ran out"
        if self.signal is not None:
            return f"was killed by {signal_name(self.signal)}"
        if self.exit_code is not None:
            return f"exited with code {self.exit_code}"
        return "is gone; how it ended is not known"


def signal_name(number: int) -> str:
    """``9`` as ``"signal 9 (SIGKILL)"``."""
    import signal

    try:
        return f"signal {number} ({signal.Signals(number).name})"
    except ValueError:
        return f"signal {number}"


class LostError(WeftError):
    """What ran the task is gone, so its outcome is unknown: it may have run in part, or in whole.

    ``certificates`` holds one death certificate for each time that the task was lost, the latest last.
    """

    def __init__(self, message: str, certificates: Sequence[DeathCertificate] = ()) -> None:
        super().__init__(message, tuple(certificates))
        self.certificates = tuple(certificates)

    @property
    def certificate(self) -> DeathCertificate | None:
        """The latest death certificate."""
        return self.certificates[-1] if self.certificates else None

    def __str__(self) -> str:
        return "\n".join([str(self.args[0]), *(str(certificate) for certificate in self.certificates)])


class WorkerLostError(LostError):
    """The worker process that ran the task died."""


class ManagerLostError(LostError):
    """The manager of the task's node died or fell silent."""


class BlockLostError(LostError):
    """The block (batch job) that the task ran in ended."""


class InterchangeLostError(LostError):
    """The interchange that held the task died or fell silent."""


class InternalError(WeftError):
    """A promise inside Weft was broken; this is a bug."""
