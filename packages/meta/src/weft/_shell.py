"""Tasks that are commands.

The function says which command, in the worker that is to run it; a :class:`ShellCall` then runs it::

    Popen in a session of its own ──> waitid: ended, not yet reaped ──> reap, read what it wrote
                                        ▲
          interrupt(), other thread: SIGTERM to the group, SIGKILL 0.5 s later or when the command has ended

In a worker process there is no session of its own: the command belongs to the worker's process group, which
the executor kills as a whole, also when the worker is lost. A group is signalled only while the command is
not reaped, so that its number cannot belong to others. Output goes to files (anonymous ones in memory unless
paths are given): no pipe that could fill up, no thread that would have to read it.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Sequence
from functools import update_wrapper
from typing import TYPE_CHECKING, Any, NamedTuple, ParamSpec, Protocol, overload

from weft_interfaces import CallOptions, InputError, ShellError, current_worker

from ._task import TaskFunction, decorate

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ._option import TaskOptions

__all__ = ["ShellCall", "ShellResult", "shell"]

P = ParamSpec("P")

_GRACE = 0.5
_TAIL_BYTES = 8192
_TAIL_LINES = 20
_CANNOT_RUN, _NOT_FOUND = 126, 127  # what a shell says of commands that it cannot run


class ShellResult(NamedTuple):
    """What a command that succeeded wrote.

    Text that went to a file is not here too; bytes that are not UTF-8 are replaced.
    """

    exit_status: int
    stdout: str
    stderr: str


class ShellDecorator(Protocol):
    """Makes a function that returns a command line a task."""

    def __call__(
        self, function: Callable[P, str | Sequence[str | os.PathLike[str]]], /
    ) -> TaskFunction[P, ShellResult]: ...


@overload
def shell(
    function: Callable[P, str | Sequence[str | os.PathLike[str]]], /
) -> TaskFunction[P, ShellResult]: ...
@overload
def shell(**options: Unpack[TaskOptions]) -> ShellDecorator: ...
def shell(function: Any = None, /, **options: Any) -> Any:
    """Make a function that returns a command line a task, whose value is a :class:`ShellResult`.

    A text is run by ``/bin/sh -c``; a list of arguments is run as it is, with no shell in between. The
    function runs where the command does. Any exit status but 0 is a :class:`ShellError` with the end of what
    the command wrote to stderr. On timeout and cancel its whole process group gets SIGTERM, and what is left
    half a second later SIGKILL.

    Options are those of :func:`weft.task`. ``cwd`` is the directory of the command alone: ``stdout`` and
    ``stderr`` start where the worker is.
    """
    return decorate("shell", function, options)


class ShellCall:
    """Runs the command that ``function`` returns.

    Executors leave ``stdout``, ``stderr`` and ``cwd`` to it.
    """

    handles_streams = True

    def __init__(self, function: Callable[..., Any]) -> None:
        update_wrapper(self, function)
        self.function = function

    def __call__(self, /, *args: Any, **kwargs: Any) -> ShellResult:
        worker = current_worker()
        options = worker.call.options if worker and worker.call else CallOptions()
        command = _Command(options, own_group=worker is None or worker.in_process)
        if worker is None:
            return command.run(_arguments(self.function(*args, **kwargs), options.name))
        with worker.signalling(command.notify):
            argv = _arguments(self.function(*args, **kwargs), options.name)
            with worker.interruptible(command.interrupt):
                return command.run(argv)

    def __reduce__(self) -> Any:
        return ShellCall, (self.function,)


class _Command:
    """One command, from its start to its end."""

    def __init__(self, options: CallOptions, *, own_group: bool = True) -> None:
        self._argv: Sequence[str] = ()
        self._options = options
        self._own_group = own_group
        self._interrupted = False
        self._lock = threading.Lock()
        self._pid: int | None = None  # while its process group may be signalled
        self._early: list[int] = []  # signals that came before it had begun

    def run(self, argv: Sequence[str]) -> ShellResult:
        """Run it to its end. Raises :class:`ShellError`."""
        self._argv = argv
        cwd = self._options.cwd
        if cwd is not None:
            os.makedirs(cwd, exist_ok=True)
        with _Output(self._options.stdout) as stdout, _Output(self._options.stderr) as stderr:
            status = self._spawn_and_wait(stdout.fd, stderr.fd, cwd)
            if status != 0:
                raise ShellError(self._shown(), status, stderr.tail(), stderr.path)
            return ShellResult(0, stdout.text(), stderr.text())

    def interrupt(self) -> None:
        """End its process group: ask, then kill. From any thread."""
        # run() does these two in the opposite order, so that one of both sees the other.
        self._interrupted = True
        if self._pid is None:
            return
        self._signal(signal.SIGTERM)
        try:
            timer = threading.Timer(_GRACE, self._signal, (signal.SIGKILL,))
            timer.daemon = True
            timer.start()
        except RuntimeError:  # no more threads, or the interpreter is ending
            self._signal(signal.SIGKILL)

    def notify(self, number: int) -> None:
        """Send its process a signal; one that comes too early is sent when it has begun. From any thread."""
        with self._lock:
            if self._pid is None:
                self._early.append(number)
            else:
                os.kill(self._pid, number)

    def _spawn_and_wait(self, stdout: int, stderr: int, cwd: str | None) -> int:
        try:
            process = subprocess.Popen(
                self._argv,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                cwd=cwd,
                start_new_session=self._own_group,
            )
        except (FileNotFoundError, PermissionError) as error:
            status = _NOT_FOUND if isinstance(error, FileNotFoundError) else _CANNOT_RUN
            raise ShellError(self._shown(), status, str(error)) from None
        except ValueError as error:
            raise InputError(f"task {self._options.name!r}: the command {self._shown()!r}: {error}") from None
        with self._lock:
            self._pid = process.pid
            for number in self._early:
                os.kill(process.pid, number)
        try:
            if self._interrupted:
                self.interrupt()
            _wait_unreaped(process.pid)
        except BaseException:
            self._interrupted = True
            raise
        finally:
            if self._interrupted:
                self._signal(signal.SIGKILL)
            with self._lock:
                self._pid = None
            status = process.wait()
        return status

    def _signal(self, number: signal.Signals) -> None:
        with self._lock:
            if self._pid is not None:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    (os.killpg if self._own_group else os.kill)(self._pid, number)

    def _shown(self) -> str:
        return self._argv[2] if self._argv[:2] == _SHELL else shlex.join(self._argv)


class _Output:
    """A file that a command writes to: the one of this path, which is appended to, or one without a name."""

    def __init__(self, path: str | None) -> None:
        self.path = path
        self._start = 0

    def __enter__(self) -> _Output:
        if self.path is None:
            self.fd = _anonymous_file()
            return self
        parent = os.path.dirname(self.path)
        if parent:
            os.makedirs(parent, exist_ok=True)
        self.fd = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        self._start = os.fstat(self.fd).st_size
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)

    def text(self) -> str:
        """All that was written, unless it went to a path."""
        return "" if self.path is not None else self._read(0)

    def tail(self) -> str:
        """The last lines of what this command wrote."""
        end = os.fstat(self.fd).st_size
        lines = self._read(max(self._start, end - _TAIL_BYTES)).splitlines()
        return "\n".join(lines[-_TAIL_LINES:])

    def _read(self, start: int) -> str:
        parts = []
        while part := os.pread(self.fd, 1 << 24, start):
            parts.append(part)
            start += len(part)
        return b"".join(parts).decode("utf-8", "replace")


_SHELL = ["/bin/sh", "-c"]


def _arguments(command: Any, name: str) -> list[str]:
    if isinstance(command, str):
        if not command.strip():
            raise InputError(f"shell task {name!r} returned an empty command line")
        return [*_SHELL, command]
    if not isinstance(command, (list, tuple)) or not command:
        raise InputError(
            f"shell task {name!r} returned {command!r}: it must return the command line as a text, "
            "or a list of arguments"
        )
    return [_argument(part, index, name) for index, part in enumerate(command)]


def _argument(part: Any, index: int, name: str) -> str:
    path = part.__fspath__() if hasattr(type(part), "__fspath__") else part
    if not isinstance(path, str):
        raise InputError(
            f"shell task {name!r} returned a list whose argument {index} is {part!r}: "
            "arguments are texts and paths"
        )
    return path


def _wait_unreaped(pid: int) -> None:
    """Wait until the process has ended, and leave it to be reaped."""
    if hasattr(os, "waitid"):
        with contextlib.suppress(ChildProcessError):  # where SIGCHLD is ignored, nobody can wait
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


def _anonymous_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("weft")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
