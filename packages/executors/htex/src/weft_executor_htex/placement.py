"""Where the interchange lives, as the client's process sees it.

``InterchangeThread`` is a thread of the client's process: what is said passes as objects. To one that lives
elsewhere (``remote.py``) it passes as messages over a stream of bytes.
"""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Protocol

from .client import Client
from .interchange import Interchange
from .interrupt import Uninterrupted
from .messages import Frame, InterchangeState, Message
from .selector import Selector
from .server import Server
from .setup import InterchangeSetup, ManagerAccess

__all__ = ["InterchangeThread", "Placement"]


class Placement(Protocol):
    """What the executor asks of it. ``access``: how managers reach the interchange. ``inside``: whether the
    calling thread is the one that passes on what the interchange says. ``follows``: whether managers of an
    earlier interchange, which was lost, find this one.
    """

    @property
    def access(self) -> ManagerAccess: ...

    @property
    def inside(self) -> bool: ...

    @property
    def follows(self) -> bool: ...

    def start(self) -> None:
        """Begin to serve. Raises :class:`OSError` or :class:`WeftError` with nothing left running."""

    def wake(self) -> None:
        """The client has something to send: have it pulled soon."""

    def flush(self) -> None:
        """The client has something to send: returns when the interchange has heard it, or does not answer."""

    def state(self) -> InterchangeState:
        """What the interchange last said of itself."""

    def stop(self, timeout: float) -> bool:
        """End. Returns whether all has ended."""


class InterchangeThread:
    """A thread of the client's process.

    ::

        submitting thread ─┐
                       ├─ alone: pull from Client ──> Interchange ──> managers
    its own thread ────┘                                  │
                       <── inbox, delivered afterwards ───┘

    Whoever is *alone* may touch the interchange and the server: this thread whenever it does not sleep, and
    between whiles a thread that has something urgent to send, which saves it a change of threads.
    """

    def __init__(self, label: str, client: Client, setup: InterchangeSetup, selector: Selector) -> None:
        self._client = client
        self._inbox: list[tuple[Message, Sequence[Frame]]] = []
        self._alone = threading.Lock()
        self._who: int | None = None  # has it
        self._asleep = False
        self._stopping = False
        self._wakeup, self._waker = socket.socketpair()
        for end in (self._wakeup, self._waker):
            end.setblocking(False)
        try:
            self._server = Server(setup, selector, self._hear)
        except BaseException:
            self._close_waker()
            raise
        self._server.watch(self._wakeup.fileno(), self._woken)
        self._interchange: Interchange = self._server.interchange
        self._thread = threading.Thread(target=self._run, name=f"{label}-interchange", daemon=True)

    # -- from any thread ------------------------------------------------------------------------------------

    @property
    def access(self) -> ManagerAccess:
        return self._server.access

    @property
    def inside(self) -> bool:
        return threading.current_thread() is self._thread

    @property
    def follows(self) -> bool:
        return False  # it lives as long as the client

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        if self._client.urgent and self._do_alone(self._pull, wait=False):
            return
        self._rouse()

    def flush(self) -> None:
        self._do_alone(self._pull, wait=True)

    def state(self) -> InterchangeState:
        states: list[InterchangeState] = []
        self._do_alone(lambda: states.append(self._server.state()), wait=True)
        return states[0] if states else InterchangeState([], {}, {})

    def stop(self, timeout: float) -> bool:
        self._stopping = True
        with contextlib.suppress(OSError):
            self._waker.send(b"\0")
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _rouse(self) -> None:
        if self._asleep:
            with Uninterrupted(), contextlib.suppress(OSError):
                self._asleep = False
                self._waker.send(b"\0")

    def _do_alone(self, action: Callable[[], object], *, wait: bool) -> bool:
        """Do it when nobody else is at the interchange; without ``wait`` only if that is now. Whether it was
        done.

        No by a finaliser that runs in the middle of it.
        """
        me = threading.get_ident()
        if self._who == me:
            return False
        with Uninterrupted():
            if not self._alone.acquire(wait):
                return False
            self._who = me
            try:
                action()
            except Exception:  # noqa: BLE001  a bug: the submission has worked all the same
                sys.excepthook(*sys.exc_info())
            finally:
                self._who = None
                self._alone.release()
        if self._inbox:
            self._rouse()
        return True

    # -- alone ----------------------------------------------------------------------------------------------

    def _pull(self) -> None:
        if self._client.has_news:
            self._interchange.listen(self._client.pull)

    def _hear(self, message: Message, payloads: Sequence[Frame]) -> None:
        self._inbox.append((message, payloads))

    # -- the thread -----------------------------------------------------------------------------------------

    def _run(self) -> None:
        me = threading.get_ident()
        try:
            while not self._stopping:
                try:
                    self._round(me)
                except Exception:  # noqa: BLE001  the other messages must go on
                    sys.excepthook(*sys.exc_info())
        finally:
            self._server.close()
            self._close_waker()

    def _round(self, me: int) -> None:
        server = self._server
        self._asleep = True
        with self._alone:
            self._who = me
            try:
                self._pull()
                patience = server.prepare()
                heard = self._take_inbox()
            finally:
                self._who = None
        if not heard:
            ready = server.wait(patience)
            self._asleep = False
            with self._alone:
                self._who = me
                try:
                    server.serve(ready)
                    heard = self._take_inbox()
                finally:
                    self._who = None
        # The last thing before the next look at what comes: who waits for it needs the interpreter.
        for message, payloads in heard:
            try:
                self._client.receive(message, payloads)
            except Exception:  # noqa: BLE001  the other messages must go on
                sys.excepthook(*sys.exc_info())

    def _take_inbox(self) -> list[tuple[Message, Sequence[Frame]]]:
        if not self._inbox:
            return self._inbox
        heard, self._inbox = self._inbox, []
        return heard

    def _woken(self, mask: int) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._wakeup.recv(4096):
                pass

    def _close_waker(self) -> None:
        self._wakeup.close()
        self._waker.close()
