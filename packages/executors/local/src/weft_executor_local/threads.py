"""Runs calls in threads of this process."""

from __future__ import annotations

import threading
from collections.abc import Collection, Sequence

from weft_interfaces import (
    BaseExecutor,
    Call,
    ConfigError,
    ExecutorContext,
    Load,
    Resources,
    RunClosedError,
    parse_count,
)
from weft_interfaces.processes import available_cpus

from .crew import Crew

__all__ = ["ThreadExecutor"]


class ThreadExecutor(BaseExecutor):
    """Runs calls in threads of this process: nothing is pickled, and calls may submit others.

    workers: threads, and so slots: a call with ``cpus=2`` takes two. As many as this process may use
    processors unless
        said. They are started when they are first needed, and are daemons.
    max_waiting: how many calls at once may wait for other tasks. Each has a substitute thread meanwhile; one
    more gets
        a :class:`DeadlockError`.

    A thread cannot be stopped. A call that is interruptible (``WorkerContext.interruptible``), as those that
    run commands are, is interrupted when it is cancelled or reaches its timeout. Any other refuses to be
    cancelled once it has begun, and gets its :class:`TaskTimeoutError` on time while its thread, replaced at
    once, goes on for nothing.
    """

    in_process = True

    def __init__(self, label: str = "threads", workers: int | None = None, *, max_waiting: int = 256) -> None:
        super().__init__(label)
        if workers is None:
            workers = available_cpus()
        self._slots = int(parse_count(workers, f"workers of executor {label!r}", least=1, whole=True))
        self._max_waiting = int(parse_count(max_waiting, f"max_waiting of executor {label!r}", whole=True))
        self._crew: Crew | None = None
        self._lifecycle = threading.Lock()

    def start(self, context: ExecutorContext) -> None:
        with self._lifecycle:
            if self._crew is not None:
                raise ConfigError(
                    f"executor {self.label!r} is running already; shut it down before starting it again"
                )
            self._crew = Crew(self.label, self._slots, self._max_waiting, context)

    def submit(self, calls: Sequence[Call]) -> None:
        crew = self._crew
        if crew is None:
            raise RunClosedError(
                f"executor {self.label!r} is not running: it was not started, or was shut down"
            )
        crew.submit(calls)

    def cancel(self, ids: Collection[int]) -> Collection[int]:
        crew = self._crew
        return () if crew is None else crew.cancel(ids)

    def running(self) -> Collection[int]:
        crew = self._crew
        return () if crew is None else crew.running()

    def load(self) -> Load:
        crew = self._crew
        return Load(0, 0, 0, self._slots) if crew is None else crew.load()

    def refusal(self, resources: Resources) -> str | None:
        refusal = super().refusal(resources)
        if refusal is None and resources.slots > self._slots:
            refusal = f"executor {self.label!r} has {self._slots} workers, the task asks for {resources}"
        return refusal

    def shutdown(self, *, cancel: bool = False, timeout: float = 10.0) -> list[str]:
        crew = self._crew
        if crew is None:
            return []
        leftovers = crew.finish(cancel, timeout)
        with self._lifecycle:
            if self._crew is crew:
                self._crew = None
        return leftovers
