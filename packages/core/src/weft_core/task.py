"""What the kernel knows of one task."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ._interfaces import CallOptions, DeathCertificate, Executor, MemoOptions
from .future import Future, Owner
from .state import TaskState, check

if TYPE_CHECKING:
    from .memo import Lookup

__all__ = ["Task", "TaskSpec", "Tries"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TaskSpec:
    """A function, and how to run it: one object, shared by all calls of a task with the same options.

    executors: labels of the executors that may run it; None for all of the run.
    retries: failed tries that are forgiven; None for what the run says.
    join: the function runs in this process and its value may hold futures, at any depth; the task is done
    when they are. In ``options``, ``{id}`` and ``{name}`` in stdout, stderr and cwd stand for the task's.
    memo: how its calls are remembered, where the run has a memoizer; False: never; None: as that says.
    """

    function: Callable[..., Any]
    options: CallOptions = CallOptions()
    executors: tuple[str, ...] | None = None
    retries: int | None = None
    join: bool = False
    memo: MemoOptions | Literal[False] | None = None


class Tries:
    """What went wrong before: kept only for tasks that had a failed or lost try."""

    __slots__ = ("certificates", "failures", "losses")

    def __init__(self) -> None:
        self.failures = 0
        self.losses = 0
        self.certificates: list[DeathCertificate] = []


class Task:
    """One task, from submission to its future's completion.

    ``call_id`` names its present try and is the task's id in the first. ``missing`` counts the futures that
    it waits for. ``memo`` is there once its call was identified, until it is finished.
    """

    __slots__ = (
        "args",
        "call_id",
        "cancelling",
        "executor",
        "future",
        "id",
        "kwargs",
        "memo",
        "missing",
        "owner",
        "spec",
        "state",
        "tries",
        "waits_for",
    )

    def __init__(
        self, owner: Owner, task_id: int, spec: TaskSpec, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> None:
        self.owner = owner
        self.id = self.call_id = task_id
        self.spec = spec
        self.args = args
        self.kwargs = kwargs
        self.state = TaskState.PENDING
        self.missing = 0
        self.waits_for: Any = None
        self.executor: Executor | None = None
        self.cancelling = False
        self.tries: Tries | None = None
        self.memo: Lookup | None = None
        self.future: Future[Any] = Future(task_id, spec.options.name)
        self.future._task = self

    def move(self, new: TaskState) -> None:
        """Change the state, along the table. The kernel's lock is held."""
        if not check(self.state, new):
            raise AssertionError(f"task {self.id}: no transition from {self.state.name} to {new.name}")
        self.state = new

    def __str__(self) -> str:
        return f"task {self.id} ({self.spec.options.name})"
