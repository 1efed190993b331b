"""Runs calls in processes of this machine."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING

from weft_interfaces import (
    BaseExecutor,
    Call,
    CallOptions,
    ConfigError,
    ExecutorContext,
    InputError,
    Load,
    Outcome,
    Resources,
    ResourcesError,
    RunClosedError,
    Serializer,
    parse_count,
)
from weft_interfaces.processes import available_cpus

if TYPE_CHECKING:
    from weft_interfaces.processes import Catalogue, Staff

__all__ = ["ProcessExecutor"]


class ProcessExecutor(BaseExecutor):
    """Runs calls in processes of this machine, which can be killed: by a cancel, by a timeout, or by
    themselves.

    workers: processes, and so slots: a call with ``cpus=2`` takes two. As many as this process may use
    processors unless
        said. They are forked from a clean template process, so nothing of this process's state is in them.

    Functions, arguments and results are pickled, functions and classes that cannot be imported (of
    ``__main__``, of notebooks, lambdas) by value. What is submitted is a snapshot: changing an argument
    afterwards does not reach the call. A worker that dies costs the call that it had begun, which gets a
    :class:`WorkerLostError` with the death certificate, and no other. Workers end with this process, however
    it ends.
    """

    def __init__(self, label: str = "processes", workers: int | None = None) -> None:
        super().__init__(label)
        if workers is None:
            workers = available_cpus()
        self._slots = int(parse_count(workers, f"workers of executor {label!r}", least=1, whole=True))
        self._staff: Staff | None = None
        self._catalogue: Catalogue | None = None
        self._completed: Callable[[Sequence[Outcome]], None] | None = None
        self._finalizer: weakref.finalize[[bool, float], ProcessExecutor] | None = None
        self._lifecycle = threading.Lock()

    def start(self, context: ExecutorContext) -> None:
        # Imported when they are needed: the import of the package is on every program's way.
        from weft_interfaces.processes import Catalogue, Staff, WorkerSettings

        from .reporter import Reporter

        with self._lifecycle:
            if self._staff is not None:
                raise ConfigError(
                    f"executor {self.label!r} is running already; shut it down before starting it again"
                )
            settings = WorkerSettings(
                count=self._slots, serializer_settings={"pickler": "cloudpickle:Pickler"}
            )
            reporter = Reporter(self.label, context)
            self._staff = Staff(self.label, settings, reporter.report, reporter.emit)
            reporter.serializer = _make_serializer()  # which takes as long as the template takes to come up
            self._catalogue = Catalogue(reporter.serializer, self._refuse)
            self._completed = context.completed
            # For those who forget to shut it down; it also runs when the interpreter exits.
            self._finalizer = weakref.finalize(self, self._staff.finish, True, 0.5)

    def submit(self, calls: Sequence[Call]) -> None:
        staff, catalogue, completed = self._staff, self._catalogue, self._completed
        if staff is None or catalogue is None or completed is None:
            raise RunClosedError(
                f"executor {self.label!r} is not running: it was not started, or was shut down"
            )
        entries, refused = [], []
        for call in calls:
            try:
                entries.append(catalogue.entry(call))
            except InputError as error:
                refused.append(Outcome(call.id, None, error))
        staff.submit(entries)
        if refused:
            completed(refused)

    def cancel(self, ids: Collection[int]) -> Collection[int]:
        staff = self._staff
        return () if staff is None else staff.cancel(ids)

    def running(self) -> Collection[int]:
        staff = self._staff
        return () if staff is None else staff.running()

    def load(self) -> Load:
        staff = self._staff
        return Load(0, 0, 0, self._slots) if staff is None else staff.load()

    def refusal(self, resources: Resources) -> str | None:
        refusal = super().refusal(resources)
        if refusal is None and resources.slots > self._slots:
            refusal = f"executor {self.label!r} has {self._slots} workers, the task asks for {resources}"
        return refusal

    def _refuse(self, options: CallOptions) -> InputError | None:
        refusal = self.refusal(options.resources)
        return None if refusal is None else ResourcesError(refusal)

    def shutdown(self, *, cancel: bool = False, timeout: float = 10.0) -> list[str]:
        staff = self._staff
        if staff is None:
            return []
        leftovers = staff.finish(cancel, timeout)
        with self._lifecycle:
            if self._staff is staff:
                self._staff = None
                if self._finalizer is not None:
                    self._finalizer.detach()
        return leftovers


def _make_serializer() -> Serializer:
    import cloudpickle  # type: ignore[import-untyped]
    from weft_interfaces import PickleSerializer

    return PickleSerializer(cloudpickle.Pickler)
