"""Runs a script as ``python script.py`` does, inside a process that is running already."""

from __future__ import annotations

import os
import signal
import sys
import types
from collections.abc import Callable, Sequence
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import TracebackType

from weft_interfaces import ConfigError, TransientError, WeftError

__all__ = ["run_script"]


def run_script(path: Path, arguments: Sequence[str], ended: Callable[[BaseException | None], object]) -> int:
    """Run it as ``__main__`` and return the exit status that Python itself would have given.

    ``ended`` is called with the exception that ended it, or None, before a traceback is shown; the traceback
    begins with the script's own frame. Raises :class:`OSError` when the script cannot be read; it was not
    begun then.
    """
    code_of = SourceFileLoader("__main__", str(path))
    source = path.read_bytes()
    module = types.ModuleType("__main__")
    module.__file__ = str(path)
    module.__loader__ = code_of
    module.__dict__["__builtins__"] = __builtins__
    sys.modules["__main__"] = module
    sys.argv = [str(path), *arguments]
    if not getattr(sys.flags, "safe_path", False):
        sys.path[0] = os.path.dirname(os.path.realpath(path))
    error = _executed(source, path, module)
    try:
        ended(error if not isinstance(error, SystemExit) else None)
    except KeyboardInterrupt as interrupt:
        error = error or interrupt.with_traceback(None)
    return _status(error)


def _executed(source: bytes, path: Path, module: types.ModuleType) -> BaseException | None:
    try:
        exec(compile(source, str(path), "exec", dont_inherit=True), module.__dict__)
    except BaseException as error:  # noqa: BLE001  whatever the script raises is its business
        return error.with_traceback(_below_this_file(error.__traceback__))
    return None


def _below_this_file(traceback: TracebackType | None) -> TracebackType | None:
    while traceback is not None and traceback.tb_frame.f_code.co_filename == __file__:
        traceback = traceback.tb_next
    return traceback


def _status(error: BaseException | None) -> int:
    if error is None:
        return 0
    if isinstance(error, SystemExit):
        if error.code is None or isinstance(error.code, int):
            return error.code or 0
        print(error.code, file=sys.stderr)
        return 1
    if isinstance(error, ConfigError | TransientError):
        _shorten(error)
    sys.excepthook(type(error), error, error.__traceback__)
    if isinstance(error, KeyboardInterrupt):
        return 128 + signal.SIGINT
    return 1


def _shorten(error: WeftError) -> None:
    """Where we have raised it, such an error says all in its own words: what it comes from would say it
    again, and no line of our code has to do with it.
    """
    last, following = None, error.__traceback__
    while following is not None and not _is_ours(following):
        last, following = following, following.tb_next
    if last is None or following is None:
        return
    last.tb_next = None
    error.__cause__, error.__suppress_context__ = None, True


def _is_ours(traceback: TracebackType) -> bool:
    return str(traceback.tb_frame.f_globals.get("__name__")).partition(".")[0].startswith("weft")
