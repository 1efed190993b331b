"""A run: one kernel with its executors, from ``with`` to the end of the block."""

from __future__ import annotations

import atexit
import os
import secrets
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weft_core import DEEP, SHALLOW, Kernel
from weft_executor_local import ThreadExecutor
from weft_interfaces import ConfigError
from weft_memo import Memo

from ._client import DETACHED, forget_client, record_client
from ._config import Config, read_config
from ._current import close_run, open_run, opened_runs, variable
from ._progress import Progress, summary
from ._settings import default_config, detaches, planner, shows_progress

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self
    from weft_core import Counts
    from weft_interfaces import DependencyResolver, Executor

    from ._planned import PlanKernel

__all__ = ["Run", "close_default_run", "run", "start_default_run"]

_HELPERS = 4
_SAY_AFTER, _SAY_EVERY = 1.0, 10.0
RESOLVERS: dict[str, DependencyResolver] = {"deep": DEEP, "shallow": SHALLOW}


class Run:
    """Where tasks go: executors, and the kernel that knows what waits for what. Made by :func:`weft.run`;
    used once.

    Entering its ``with`` block starts it and makes it the current run of the block. Leaving it

    - at the end of the block waits for what was submitted, as long as it takes;
    - by an exception cancels everything, and waits up to ``shutdown_timeout`` for what cannot be cancelled;
    - by Ctrl-C, in the block or in the wait at its end, cancels what has not begun, says what it waits for,
      and waits up to ``shutdown_timeout`` for what has; Ctrl-C once more ends that too.

    In every case all futures are done afterwards, and nothing is left but what stderr, and ``leftovers``,
    name.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.id = _unique_id(config.name)
        self.directory = Path(config.run_dir).absolute() / self.id
        self.parent: Run | None = None
        self.is_default = False
        self.leftovers: list[str] = []
        self._recorded = False
        self._timeout = float(config.shutdown_timeout)
        self._kernel = self._make_kernel(config)
        self.submit = self._kernel.submit  # what task functions call
        self.gather = self._kernel.gather
        self._progress: Progress | None = None

    def _make_kernel(self, config: Config) -> Kernel | PlanKernel:
        make_plan = planner()
        if make_plan is not None:
            return make_plan(config, self.id)
        resolver = config.resolver
        executors = config.make_executors()
        if config.detach:
            _check_detach(executors)
        return Kernel(
            executors,
            directory=self.directory,
            run_id=self.id,
            helper=ThreadExecutor("weft-helpers", workers=_HELPERS),
            retries=config.retries,
            retry_policy=config.retry_policy,
            resolver=RESOLVERS[resolver] if isinstance(resolver, str) else resolver,
            scaling_policy=config.scaling_policy,
            sinks=config.sinks,
            memoizer=config.memo.open(self.id, self.directory) if isinstance(config.memo, Memo) else None,
            detached=self.directory / DETACHED if config.detach else None,
        )

    # -- what it does ---------------------------------------------------------------------------------------

    @property
    def executors(self) -> Mapping[str, Executor]:
        """Its executors, by label."""
        return self._kernel.executors

    @property
    def closed(self) -> bool:
        """Whether it has ended."""
        return self._kernel.closed

    def counts(self) -> Counts:
        """How many tasks are where, now."""
        return self._kernel.counts()

    def unfinished(self, limit: int = 10) -> list[str]:
        """What is waited for, in words: at most ``limit`` lines."""
        return self._kernel.unfinished(limit)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until all that was submitted is done; False if it is not after ``timeout`` seconds."""
        return self._kernel.wait_idle(timeout)

    def cancel(self, *, begun: bool = True) -> None:
        """Cancel every task, or with ``begun=False`` only those that no worker has begun. The run goes on."""
        self._kernel.cancel_all(begun=begun)

    @contextmanager
    def use(self) -> Iterator[Run]:
        """Make it the current run of this thread, or asyncio task, for a block; it is neither started nor
        ended.
        """
        token = variable.set(self)
        try:
            yield self
        finally:
            variable.reset(token)

    def __repr__(self) -> str:
        state = "closed" if self.closed else summary(self.counts())
        return f"<weft.Run {self.id} on {', '.join(self.executors)}: {state}>"

    # -- its life -------------------------------------------------------------------------------------------

    def start(self) -> Self:
        """Start it outside of a ``with`` block, as in a notebook; ``close`` it afterwards. Raising: nothing
        was left running.
        """
        before = self.parent = variable.get()
        variable.set(self)  # now, because the threads of executors work in copies of this context
        try:
            self._start_kernel()
        except BaseException:
            variable.set(before)
            raise
        if self.is_default:
            variable.set(before)
        open_run(self)
        if shows_progress(self.config.progress):
            self._progress = Progress(self.counts)
            self._progress.start()
        return self

    def _start_kernel(self) -> None:
        """With a record of this process beforehand, should there be jobs that outlive it."""
        in_blocks = any(executor.in_blocks for executor in self.executors.values())
        if not in_blocks or not isinstance(self._kernel, Kernel):
            self._kernel.start()
            return
        record_client(self.directory, self.id)
        try:
            self._kernel.start()
        except BaseException:
            forget_client(self.directory)
            raise
        self._recorded = True

    def close(self, *, cancel: bool = False) -> None:
        """End it: wait for what was submitted, or cancel that. Ctrl-C meanwhile does what it does in a
        ``with`` block.
        """
        if cancel:
            self._ended(self._cancel)
        else:
            self._ended(self._drain)

    def detach(self) -> None:
        """Leave the run now: what executors have that can detach goes on without this process, and ``weft
        attach`` gets what it gives. All else ends.

        Waits up to ``shutdown_timeout`` until calls are handed over. Returning: all futures are done, those
        of unfinished tasks with a :class:`DetachedError`, and the run is closed here. Raises
        :class:`ConfigError` for a run that was not started with ``detach=True``, :class:`RunClosedError` for
        one that is not open, and :class:`DeadlockError` in a task or a done callback of the run.
        """
        if not isinstance(self._kernel, Kernel):
            return
        unfinished = self.counts().active
        self.leftovers += self._kernel.detach(self._timeout)
        _say(f"run {self.id} was left with {unfinished} unfinished tasks: `weft attach {self.directory}`")
        self._recorded = False  # what it wrote down stays: its jobs go on
        self._ended(lambda: None)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.end(error)

    def end(self, error: BaseException | None) -> None:
        """What leaving the ``with`` block does, given the exception that leaves it."""
        if error is None:
            self._ended(self._drain)
        elif isinstance(error, KeyboardInterrupt):
            self._ended(self._wind_down)
        else:
            self._ended(self._cancel)

    def _ended(self, how: Any) -> None:
        try:
            how()
        finally:
            close_run(self)
            if self._recorded and self.closed and not self.leftovers:
                forget_client(self.directory)
            if variable.get() is self:
                variable.set(None if self.parent is None or self.parent.closed else self.parent)
            if self._progress is not None:
                self._progress.stop()
            for leftover in self.leftovers:
                _say(f"run {self.id} left over: {leftover}")

    def _drain(self) -> None:
        try:
            self.leftovers += self._kernel.close(timeout=self._timeout)
        except KeyboardInterrupt:
            self._wind_down()
            raise

    def _cancel(self) -> None:
        with self._said_after(_SAY_AFTER):
            try:
                self.leftovers += self._kernel.close(cancel=True, timeout=self._timeout)
            except KeyboardInterrupt:
                self._stop_at_once()

    def _wind_down(self) -> None:
        """Ctrl-C was pressed: cancel what has not begun, wait for what has, until Ctrl-C is pressed again."""
        now = say_at = time.monotonic()
        deadline = now + self._timeout
        try:
            self._kernel.cancel_all(begun=False)
            while not self._kernel.wait_idle(0.0) and now < deadline:
                if now >= say_at:
                    self._say_what_is_waited_for(deadline - now)
                    say_at = now + _SAY_EVERY
                self._kernel.wait_idle(min(0.5, deadline - now))
                self._kernel.cancel_all(begun=False)  # what the running ones have submitted meanwhile
                now = time.monotonic()
            self.leftovers += self._kernel.close(cancel=True, timeout=max(1.0, deadline - now))
        except KeyboardInterrupt:
            self._stop_at_once()

    def _stop_at_once(self) -> None:
        _say("interrupted again: stopping at once")
        for _ in range(3):  # a user may go on pressing Ctrl-C
            try:
                self.leftovers += self._kernel.close(cancel=True, timeout=1.0)
                return
            except KeyboardInterrupt:
                continue

    def _say_what_is_waited_for(self, seconds: float) -> None:
        lines = self.unfinished(5)
        if lines:
            _say(f"run {self.id} waits up to {seconds:.0f}s for these; Ctrl-C stops at once:")
        for line in lines:
            _say(f"  {line}")

    @contextmanager
    def _said_after(self, seconds: float) -> Iterator[None]:
        """Say what is waited for if the block takes longer than this."""
        over = threading.Event()

        def say() -> None:
            if not over.wait(seconds):
                self._say_what_is_waited_for(self._timeout - seconds)

        thread = threading.Thread(target=say, name="weft-closing", daemon=True)
        with suppress(RuntimeError):  # the interpreter is ending and starts no threads
            thread.start()
        try:
            yield
        finally:
            over.set()
            if thread.ident is not None:
                thread.join()


def _check_detach(executors: Sequence[Executor]) -> None:
    if not any(executor.can_detach for executor in executors):
        names = ", ".join(f"{each.label!r} ({type(each).__name__})" for each in executors)
        raise ConfigError(
            f"detach: tasks of {names} end with this process: give the run an executor with "
            'interchange="agent", or one whose provider has a channel to another host',
            "detach",
        )


def run(config: Config | str | os.PathLike[str] | None = None, **overrides: Any) -> Run:
    """A run, to be used as ``with weft.run(...):``. Nothing is started before the block is entered.

    config: a :class:`Config`, the path of a TOML file, or None for what holds by default: the configuration
    of ``weft run --config``, else of the file that ``WEFT_CONFIG`` names, else threads of this process.
    overrides: settings of the configuration, instead of what it says.

    Raises :class:`ConfigError` for a configuration that is wrong.
    """
    if config is None:
        config = default_config()
    elif isinstance(config, (str, os.PathLike)):
        config = read_config(config)
    elif not isinstance(config, Config):
        raise ConfigError(f"config: {config!r} is neither a weft.Config nor the path of a TOML file")
    if detaches():
        overrides = {"detach": True, **overrides}
    return Run(config.replace(**overrides) if overrides else config)


# -- the default run ----------------------------------------------------------------------------------------

_default_lock = threading.Lock()
_registered = False


def start_default_run() -> Run:
    """The run of calls that are made in no other: started by the first of them, ended with the
    interpreter.
    """
    global _registered
    with _default_lock:
        for opened in opened_runs():
            if opened.is_default:
                return opened
        default = run()
        default.is_default = True
        if not _registered:
            # Plain atexit functions run when no thread can be started any more, so too late for work that
            # waits.
            getattr(threading, "_register_atexit", atexit.register)(_end_with_interpreter)
            _registered = True
        return default.start()


def close_default_run(error: BaseException | None) -> None:
    """End it as the ``with`` block of any run ends, if there is one."""
    for opened in opened_runs():
        if opened.is_default:
            opened.end(error)


def _end_with_interpreter() -> None:
    interactive = hasattr(sys, "ps1")
    error = None if interactive else getattr(sys, "last_value", None)
    try:
        close_default_run(error)
    except KeyboardInterrupt:
        # Too late to raise it: what started this program learns of it as of any program that was interrupted.
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)


def _unique_id(name: str) -> str:
    """Sorts by time; nobody else has it."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    return f"{name}-{stamp}-{secrets.token_hex(4)}".lstrip("-")


def _say(line: str) -> None:
    if sys.stderr is not None:
        print(f"weft: {line}", file=sys.stderr, flush=True)
