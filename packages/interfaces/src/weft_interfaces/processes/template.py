"""The process that the workers are forked from: small, with one thread, and with nothing of the user's in it.

It forks a worker whenever the client asks for one, which takes a millisecond, and reports how each one ended.
It and each worker have a process group of their own, so that the terminal's Ctrl-C does not reach them. They
stay in the client's session: the scheduler may share out processors by session, and then takes much longer to
pass from one to another. It ends with its client: when the control socket is closed, however that came about,
it kills all that is left and exits.
"""

from __future__ import annotations

import contextlib
import faulthandler
import fcntl
import gc
import os
import select
import shutil
import signal
import socket
import sys
import time
from importlib import import_module
from types import FrameType
from typing import Any, NoReturn

from ..serializer import Serializer
from .kill import kill_group, kill_tree
from .notices import ENDED, FAILED, KILL, NOTICE, REQUEST, STARTED
from .settings import WorkerSettings
from .worker import Worker

__all__ = ["Template", "main"]


def main(control: int, lifeline: int, settings: dict[str, Any]) -> None:
    """Serve the client at the other end of the socket ``control``.

    ``lifeline`` is the reading end of a pipe of which only the client has the other; ``settings`` are those
    of :class:`WorkerSettings`.
    """
    Template(socket.socket(fileno=control), lifeline, WorkerSettings(**settings)).run()


class Template:
    """Forks workers and buries them."""

    def __init__(self, control: socket.socket, lifeline: int, settings: WorkerSettings) -> None:
        self._control = control
        self._lifeline = lifeline
        self._workers: dict[int, int] = {}  # pid: number
        self._spared: set[int] = set()  # killed, but for what is to go on for a moment
        self._settings = settings
        self._serializer: Serializer = _find(settings.serializer)(**settings.serializer_settings)
        self._wakeup, self._waker = socket.socketpair()

    def run(self) -> None:
        """Serve requests until the client is gone."""
        for end in (self._wakeup, self._waker):
            end.setblocking(False)
        signal.signal(signal.SIGCHLD, _do_nothing)
        for number in (
            signal.SIGTTIN,
            signal.SIGTTOU,
        ):  # who asks the terminal gets an error, and does not stop
            signal.signal(number, signal.SIG_IGN)
        signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        for module in self._settings.preload:
            try:
                import_module(module)
            except BaseException:  # noqa: BLE001  the calls that need it will say so too
                sys.excepthook(*sys.exc_info())
        gc.collect()
        gc.freeze()  # so that collections in the workers do not copy pages that they could share
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(self._wakeup, select.POLLIN)
        try:
            self._serve_all(poll)
        finally:
            signal.set_wakeup_fd(-1)
            for pid in self._workers:
                kill_group(pid)
        self._clean_up()

    def _serve_all(self, poll: select.poll) -> None:
        """Serve until the client is gone."""
        with contextlib.suppress(ConnectionError):
            while True:
                ready = {descriptor for descriptor, _ in poll.poll()}
                if self._wakeup.fileno() in ready:
                    self._bury()
                if self._control.fileno() in ready and not self._serve():
                    return

    def _clean_up(self) -> None:
        """Remove what the client left, as soon as the workers are dead, which may still be writing."""
        if not self._settings.scratch:
            return
        deadline = time.monotonic() + 1.0  # long enough, unless the machine is very ill
        while self._workers and time.monotonic() < deadline:
            self._workers = {pid: n for pid, n in self._workers.items() if not _has_ended(pid)}
            time.sleep(0.001)
        for folder in self._settings.scratch:
            shutil.rmtree(folder, ignore_errors=True)

    def _serve(self) -> bool:
        """Do what the client asks for; false when it is gone."""
        data, descriptors, _, _ = socket.recv_fds(self._control, REQUEST.size, 3)
        if len(data) < REQUEST.size:
            return False
        wish, number, seat = REQUEST.unpack(data)
        if wish == KILL:
            self._kill(number)
        else:
            self._fork(number, seat, descriptors)
        return True

    def _kill(self, number: int) -> None:
        for pid, its_number in self._workers.items():
            if its_number != number or pid in self._spared:
                continue
            if kill_tree(pid):  # it has not been reaped, so the process with this number is the worker
                self._spared.add(pid)

    def _fork(self, number: int, seat: int, descriptors: list[int]) -> None:
        try:
            pid = os.fork()
        except OSError as error:
            self._notify(FAILED, number, 0, error.errno or 0)
        else:
            if not pid:
                self._become_worker(seat, descriptors)
            self._workers[pid] = number
            self._notify(STARTED, number, pid, 0)
        for descriptor in descriptors:
            os.close(descriptor)

    def _bury(self) -> None:
        """Report the workers that have ended, and kill what they left in their groups."""
        with contextlib.suppress(BlockingIOError):
            while self._wakeup.recv(4096):
                pass
        for pid, number in list(self._workers.items()):
            if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                continue
            if pid not in self._spared:
                kill_group(pid)  # before it is reaped: until then no other process can have its number
            self._spared.discard(pid)
            _, status = os.waitpid(pid, 0)
            del self._workers[pid]
            self._notify(ENDED, number, pid, status)

    def _notify(self, kind: int, number: int, pid: int, status: int) -> None:
        self._control.sendall(NOTICE.pack(kind, number, pid, status))

    def _become_worker(self, seat: int, descriptors: list[int]) -> NoReturn:
        code = 1
        try:
            os.setpgid(0, 0)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for end in (self._control, self._wakeup, self._waker):
                end.close()
            connection, tokens, crash = descriptors
            _die_with_client(self._lifeline)
            faulthandler.enable(os.fdopen(crash, "w"), all_threads=True)
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(Exception):
                    # Whole lines, also with PYTHONUNBUFFERED: pieces of lines would mix with other workers'.
                    stream.reconfigure(line_buffering=True, write_through=False)  # type: ignore[union-attr]
            self._take_seat(seat)
            own = socket.socket(fileno=connection)
            settings = self._settings
            Worker(own, tokens, self._serializer, settings.ends_at, settings.end_file).run()
            code = 0
        except KeyboardInterrupt:
            code = 130
        except ConnectionError:  # who it was to work for is gone
            pass
        except BaseException:  # noqa: BLE001  a forked process must not go on where its parent would
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(code)

    def _take_seat(self, seat: int) -> None:
        settings = self._settings
        if settings.environments:
            os.environ.update(settings.environments[seat])
        if settings.affinities and settings.affinities[seat] and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, settings.affinities[seat])


def _find(name: str) -> Any:
    module, _, attribute = name.partition(":")
    return getattr(import_module(module), attribute)


def _has_ended(pid: int) -> bool:
    with contextlib.suppress(ChildProcessError):
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG) is not None
    return True


def _do_nothing(number: int, frame: FrameType | None) -> None:
    """A handler, so that the signal wakes the loop up."""


def _die_with_client(lifeline: int) -> None:
    """Have the kernel kill this process's group as soon as nobody holds the other end of the lifeline.

    No thread is needed for it, so a call that hangs in C code does not prevent it.
    """
    if not hasattr(fcntl, "F_SETSIG"):
        _watch(lifeline)
        return
    # The owner belongs to the open file, which the workers share: open the pipe once more.
    own = os.open(f"/proc/self/fd/{lifeline}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    fcntl.fcntl(own, fcntl.F_SETOWN, -os.getpgrp())
    fcntl.fcntl(own, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(own, fcntl.F_SETFL, fcntl.fcntl(own, fcntl.F_GETFL) | os.O_ASYNC)
    poll = select.poll()
    poll.register(own, select.POLLIN)
    if poll.poll(0):  # it happened before
        kill_group(os.getpgrp())


def _watch(lifeline: int) -> None:
    """The same with a thread, where the kernel cannot do it."""
    import threading

    def wait() -> None:
        os.read(lifeline, 1)
        kill_group(os.getpgrp())

    threading.Thread(target=wait, name="weft-lifeline", daemon=True).start()
