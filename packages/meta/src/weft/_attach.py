"""``weft.attach``: the results of a run whose process is gone, and that went on without it."""

from __future__ import annotations

import concurrent.futures
import logging
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weft_executor_htex.agent.attachment import Attachment
from weft_interfaces import InputError, MemoEntry, MemoStore, Outcome, WeftError
from weft_memo import Lookup, open_store, read_record
from weft_memo.log import LOG_NAME

from ._client import DETACHED, forget_client
from ._hint import did_you_mean
from ._settings import default_config

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

__all__ = ["AttachedRun", "attach", "find_detached"]

_log = logging.getLogger("weft")
_LISTED = 8


def attach(run: str | os.PathLike[str], run_dir: str | os.PathLike[str] | None = None) -> AttachedRun:
    """Take the place of a process that is gone, or has left its run with ``run.detach()``.

    run: the run's id, the beginning of it, the path of its directory, or ``"last"``. run_dir: where the
    directories of runs are; as the configuration says, unless said.

    Returning: the results so far are there, and the others come. Raises :class:`InputError` when there is no
    such run, or when its process, or another one that is attached to it, lives; :class:`ChannelError` when
    the host where it runs is out of reach. Then the run is as it was.
    """
    attached = AttachedRun(find_detached(run, Path(run_dir or default_config().run_dir)))
    attached.start()
    return attached


def find_detached(run: str | os.PathLike[str], run_dir: Path) -> Path:
    """The directory of a run that was started with ``detach=True``. Raises :class:`InputError`."""
    runs = sorted(path.parent for path in run_dir.glob(f"*/{DETACHED}"))
    name = os.fspath(run)
    if name == "last" and runs:
        return max(runs, key=lambda path: (path / DETACHED).stat().st_ctime)
    for directory in (Path(name), run_dir / name):
        if (directory / DETACHED).is_dir():
            return directory.resolve()
        if directory.is_dir() and name not in ("", "."):
            raise InputError(
                f"{directory}: there is nothing to attach to: the run was not started with detach=True, or "
                "ended with its own process"
            )
    names = [path.name for path in runs]
    found = [each for each in names if each.startswith(name)]
    if len(found) == 1:
        return run_dir / found[0]
    if found:
        raise InputError(f"{len(found)} runs begin with {name!r}: {', '.join(found[:_LISTED])}")
    known = f"; there are {', '.join(names[: -_LISTED - 1 : -1])}" if names else "; there are none"
    raise InputError(f"{run_dir}: there is no detached run {name!r}{did_you_mean(name, names)}{known}")


class AttachedRun:
    """A run whose process is gone. Made by :func:`attach`.

    id, directory: the run's. futures: one for each task that had been handed over when its process was gone,
    by the task's id; names: of these tasks. Tasks that were waiting for others are not among them.

    Used as a context manager, or closed by :meth:`close`: once all is done, that ends the run where it runs,
    and nothing is left there; before, the run goes on, and can be attached to again.
    """

    def __init__(self, directory: Path, told: Callable[[Outcome], object] = lambda outcome: None) -> None:
        self.id = directory.name
        self.directory = directory
        self.leftovers: list[str] = []
        self._told = told
        self._attachments: list[Attachment] = []
        self._memory = _Memory(directory)
        self._closed = False
        try:
            for path in sorted((directory / DETACHED).iterdir()):
                if path.is_dir():
                    self._attachments.append(Attachment(path, self._complete))
        except BaseException:
            self.close()
            raise
        self._divide()
        self.names = {task: name for each in self._attachments for task, name in sorted(each.names.items())}
        self.futures: dict[int, concurrent.futures.Future[Any]] = {
            task: concurrent.futures.Future() for task in sorted(self.names)
        }

    def _divide(self) -> None:
        """A task that was tried by several executors belongs to that of its last try."""
        last: dict[int, tuple[int, int]] = {}
        for number, each in enumerate(self._attachments):
            for task, call in each.calls.items():
                last[task] = max(last.get(task, (-1, 0)), (call, number))
        for number, each in enumerate(self._attachments):
            each.leave_out([task for task in each.calls if last[task][1] != number])

    def start(self) -> None:
        """Read what has come, and begin to get the rest. Raises as :func:`attach` does, and lets go of it."""
        try:
            for each in self._attachments:
                each.replay()
            for each in self._attachments:
                if each.unfinished:
                    each.connect()
        except BaseException:
            self.close()
            raise

    # -- what comes -----------------------------------------------------------------------------------------

    @property
    def done(self) -> bool:
        """Whether every task has its outcome."""
        return all(future.done() for future in self.futures.values())

    @property
    def without_nodes(self) -> bool:
        """Whether tasks wait, and nothing is there that could run them."""
        return any(each.without_nodes for each in self._attachments)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until every task has its outcome; False if some have not after ``timeout`` seconds."""
        return not concurrent.futures.wait(self.futures.values(), timeout).not_done

    def results(self, timeout: float | None = None) -> dict[int, Any]:
        """The values of all tasks, by id. Waits for them; raises the first error that there is, in the order
        of the tasks, and :class:`TimeoutError` after ``timeout`` seconds.
        """
        if not self.wait(timeout):
            left = sum(not future.done() for future in self.futures.values())
            raise TimeoutError(
                f"{left} of {len(self.futures)} tasks of run {self.id} are not done after {timeout} s"
            )
        return {task: future.result() for task, future in self.futures.items()}

    def _complete(self, outcomes: Sequence[Outcome]) -> None:
        for outcome in outcomes:
            future = self.futures[outcome.id]
            if isinstance(outcome.error, CancelledError):
                future.cancel()
                future.set_running_or_notify_cancel()
            elif outcome.error is not None:
                future.set_exception(outcome.error)
            else:
                self._memory.remember(outcome.id, outcome.value)
                future.set_result(outcome.value)
            self._told(outcome)

    # -- its end --------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Let go of the run. What could not be done is in ``leftovers``, in words. May be called twice."""
        if self._closed:
            return
        self._closed = True
        for each in self._attachments:
            self.leftovers += each.leave() if each.unfinished else self._finish(each)
        self._memory.close()
        if self._attachments and all(each.finished for each in self._attachments):
            forget_client(self.directory)

    def _finish(self, attachment: Attachment) -> list[str]:
        """End the agent, to which there is no connection if all results had come before."""
        try:
            attachment.connect()
        except (WeftError, OSError) as error:
            attachment.leave()
            return [f"the agent on {attachment.host} was not told to end, and does so later: {error}"]
        return attachment.finish()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        done = sum(future.done() for future in self.futures.values())
        return f"<weft.AttachedRun {self.id}: {done} of {len(self.futures)} tasks done>"


class _Memory:
    """Has the run's memo store remember what its tasks gave, so that the script goes on from there.

    What the run had looked up says which calls they are.
    """

    def __init__(self, directory: Path) -> None:
        self._calls: dict[int, Lookup] = {}
        self._run = directory.name
        self._where = ""
        self._store: MemoStore | None = None
        path = directory / LOG_NAME
        if path.exists():
            try:
                record = read_record(path)
                self._where = record.store
                self._calls = {lookup.task: lookup for lookup in record if lookup.outcome == "miss"}
            except (InputError, OSError) as error:
                self._say(error)

    def remember(self, task: int, value: Any) -> None:
        """Once; stores that do not work cost no result."""
        call = self._calls.pop(task, None)
        if call is None:
            return
        try:
            if self._store is None:
                self._store = open_store(self._where)
            if self._store.get(call.key) is None:
                entry = MemoEntry(
                    key=call.key,
                    task=call.name,
                    value=value,
                    error=None,
                    components=call.components,
                    run=self._run,
                    time=time.time(),
                )
                self._store.put(entry)
        except Exception as error:  # noqa: BLE001  whatever a store raises
            self._calls.clear()
            self._say(error)

    def _say(self, error: Exception) -> None:
        _log.warning("what run %s gives is not remembered: %s", self._run, error)

    def close(self) -> None:
        """Have it all written."""
        if self._store is not None:
            self._store.close()
