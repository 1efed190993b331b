"""What a call may change around itself in a worker process, and how the next one finds it as it was."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..call import CallOptions

__all__ = ["Surroundings", "flush", "redirected"]


class Surroundings:
    """The working directory and the environment as they are when this is made."""

    def __init__(self) -> None:
        self._directory = os.getcwd()
        # The public view decodes every entry, which takes thirty times as long.
        self._live: dict[Any, Any] = getattr(os.environ, "_data", None) or os.environ  # type: ignore[assignment]
        self._environment = dict(self._live)

    def restore(self) -> None:
        """Make them so again. Costs two microseconds when nothing has changed."""
        if self._live != self._environment:
            self._restore_environment()
        try:
            moved = os.getcwd() != self._directory
        except OSError:  # it was deleted
            moved = True
        if moved:
            with contextlib.suppress(OSError):  # the first one may be gone, too
                os.chdir(self._directory)

    def _restore_environment(self) -> None:
        wanted = {os.fsdecode(key): os.fsdecode(value) for key, value in self._environment.items()}
        for key in set(os.environ) - set(wanted):
            del os.environ[key]
        for key, value in wanted.items():
            if os.environ.get(key) != value:
                os.environ[key] = value


@contextlib.contextmanager
def redirected(options: CallOptions) -> Iterator[None]:
    """While inside, file descriptors 1 and 2 append to the call's files, and the working directory is the
    call's.

    So also for what child processes and C libraries write. Directories are made. Raises :class:`OSError` when
    a file or directory cannot be opened; nothing has changed then.
    """
    with contextlib.ExitStack() as stack:
        if options.cwd is not None:
            os.makedirs(options.cwd, exist_ok=True)
        files: dict[str, int] = {}
        for path in (options.stdout, options.stderr):
            if path is not None and path not in files:
                Path(path).parent.mkdir(parents=True, exist_ok=True)
                files[path] = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
                stack.callback(os.close, files[path])
        if options.cwd is not None:
            stack.callback(os.chdir, os.getcwd())
            os.chdir(options.cwd)
        for target, path in ((1, options.stdout), (2, options.stderr)):
            if path is not None:
                stack.enter_context(_pointed_at(target, files[path]))
        yield


@contextlib.contextmanager
def _pointed_at(target: int, source: int) -> Iterator[None]:
    flush()
    saved = os.dup(target)
    try:
        os.dup2(source, target)
        yield
    finally:
        flush()
        os.dup2(saved, target)
        os.close(saved)


def flush() -> None:
    """Write out what was printed: it must be there when the call is done, though its worker dies."""
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except Exception:  # noqa: BLE001, S110  closed, replaced, or a full disk: no concern of the next call
        pass
