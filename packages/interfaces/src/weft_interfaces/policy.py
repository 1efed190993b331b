"""Small decisions that users may want to take themselves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from .block import Blocks, ExecutorDemand
    from .provider import JobStatus

__all__ = [
    "BlockView",
    "DependencyResolver",
    "Failure",
    "RetryDecision",
    "RetryPolicy",
    "ScalingDecision",
    "ScalingPolicy",
    "ScalingState",
]


class DependencyResolver(Protocol):
    """Finds the futures in an argument, and puts their values in their place. Threads may call it at once."""

    def futures(self, value: Any) -> list[Future[Any]]:
        """The futures in a value, each once. The value is not changed. Linear in the size of the value."""

    def resolve(self, value: Any, result: Callable[[Future[Any]], Any]) -> Any:
        """The value with each future replaced by ``result(future)``. The value itself is not changed: parts
        are copied.
        """


class Failure(NamedTuple):
    """A try that failed: the task, the error, and how often it has been tried, failed on its own, and been
    lost.
    """

    task_id: int
    task_name: str
    error: BaseException
    retries: int
    failures: int
    losses: int


class RetryDecision(NamedTuple):
    """Whether to try again, after how many seconds, and why, in words."""

    retry: bool
    delay: float = 0.0
    reason: str = ""


class RetryPolicy(Protocol):
    """Decides whether a task that failed or was lost is tried again."""

    def decide(self, failure: Failure) -> RetryDecision:
        """Called once for each failed try, from any thread; what it raises fails the task, as the cause."""


class BlockView(NamedTuple):
    """A block as the scaler sees it: its job's status, when it was asked for, and what the executor says of
    it.
    """

    status: JobStatus
    requested_at: float
    managers: int
    running: int
    idle_for: float
    draining: bool


class ScalingState(NamedTuple):
    """What a scaling decision can rest on. Times are seconds; ``blocks`` holds those that have not ended."""

    label: str
    settings: Blocks
    demand: ExecutorDemand
    blocks: Mapping[str, BlockView]
    now: float


class ScalingDecision(NamedTuple):
    """How many blocks to ask for, which to give back, and why, in words."""

    add: int = 0
    drain: tuple[str, ...] = ()
    reason: str = ""


class ScalingPolicy(Protocol):
    """Decides how many blocks an executor gets. A pure function of the state, so that it can be simulated."""

    def decide(self, state: ScalingState) -> ScalingDecision:
        """Called whenever the state may have changed."""
