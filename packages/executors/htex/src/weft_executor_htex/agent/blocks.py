"""The blocks of a run whose interchange is an agent: it asks for them itself, follows them and gives them
back, also while there is no connection with the client.

::

    client ── Scale, Held, CloseBlocks ──> AgentBlocks ── Fleet ── Scaler ── Provider ── commands of this host
           <── Notes, NoMoreBlocks ──────      the loop's thread │ a thread of its own

The scaler is the kernel's, and waits for the batch system; the loop never waits for it.
"""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..messages import BlocksClosed, CloseBlocks, Held, Message, NoMoreBlocks, Scale, Stop, Tasks
from ..server import Server

if TYPE_CHECKING:
    from weft_interfaces import BlockScaler

__all__ = ["AgentBlocks", "Mailbox"]

_ANSWER = 30.0  # seconds that the loop may take to answer the scaler
_ROUND = 0.25


class Mailbox:
    """Has the server's thread do something. Its methods may be called from any other."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._actions: deque[Callable[[], object]] = deque()
        self._wakeup, self._waker = socket.socketpair()
        for end in (self._wakeup, self._waker):
            end.setblocking(False)
        server.watch(self._wakeup.fileno(), self._woken)

    def post(self, action: Callable[[], object]) -> None:
        """Have it done soon."""
        self._actions.append(action)
        with contextlib.suppress(OSError):  # it has been woken often enough, or has ended
            self._waker.send(b"\0")

    def ask(self, action: Callable[[], Any]) -> Any:
        """What it returns, once it is done. Raises :class:`TimeoutError` when that takes too long."""
        answers: list[Any] = []
        answered = threading.Event()

        def answer() -> None:
            try:
                answers.append(action())
            finally:
                answered.set()

        self.post(answer)
        if not answered.wait(_ANSWER) or not answers:
            raise TimeoutError(f"the interchange has not answered within {_ANSWER:g} s")
        return answers[0]

    def close(self) -> None:
        """Nothing is done any more."""
        self._server.unwatch(self._wakeup.fileno())
        self._wakeup.close()
        self._waker.close()

    def _woken(self, mask: int) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._wakeup.recv(4096):
                pass
        while self._actions:
            action = self._actions.popleft()
            try:
                action()
            except Exception:  # noqa: BLE001  the others must go on
                traceback.print_exc()


class AgentBlocks:
    """See the module. ``say`` takes what the client is to hear. For the thread of the server's loop.

    resting: see :meth:`rest`. closing: set once no more blocks are wanted.
    """

    def __init__(self, server: Server, say: Callable[[Message], object]) -> None:
        self._server = server
        self._say = say
        self._held = 0  # worker slots that calls ask for which the client has not sent
        self.resting = False
        self._abandoned = False
        self._hopeless = False
        self._frozen = ""
        self._lock = threading.Lock()  # guards what the scaler is told before it is there
        self._scaler: BlockScaler | None = None
        self._mailbox: Mailbox | None = None
        self._begins: threading.Thread | None = None
        self._ends: threading.Thread | None = None
        self.closing = threading.Event()
        self._closed = threading.Event()
        self._given_up = False  # the scaler was to be closed, and was not there

    def overhear(self, message: Message) -> bool:
        """Take what the client says. Returns whether that was for nobody else."""
        self._abandoned = self.resting = False
        if isinstance(message, Tasks):
            self._wake()
        elif isinstance(message, Stop):
            self.freeze("the run is closing")
        elif isinstance(message, Scale):
            self._begin(message.plan)
            return True
        elif isinstance(message, Held):
            self._held = message.slots
            self._wake()
            return True
        elif isinstance(message, CloseBlocks):
            self._close(message.timeout, tidy=True)
            return True
        return False

    @property
    def awaited(self) -> bool:
        """Whether calls wait for a block, and one may come."""
        return self._begins is not None and not self._hopeless and self._server.interchange.awaited

    def abandon(self) -> None:
        """The client is gone: what it holds is not counted, unless it comes back."""
        if not self._abandoned:
            self._abandoned = True
            self._wake()

    def rest(self) -> bool:
        """Until the client is heard of again, give idle blocks back at once, whatever the settings say.
        Returns False where the client asks for blocks.
        """
        if self._begins is not None and not self.resting:
            self.resting = True
            self._wake()
        return self._begins is not None

    def freeze(self, reason: str) -> None:
        """Ask for no more blocks."""
        self.closing.set()
        with self._lock:
            self._frozen = self._frozen or reason
            scaler = self._scaler
        if scaler is not None:
            scaler.freeze(reason)

    def end(self, timeout: float) -> None:
        """Have all jobs cancelled; managers are served meanwhile. Takes a second more than ``timeout`` at
        most.
        """
        if self._begins is None:
            return
        # What failed blocks wrote would be lost, with nobody to take it: `weft reap` removes it.
        self._close(timeout, tidy=False)
        deadline = time.monotonic() + timeout + 1.0
        while not self._closed.is_set() and time.monotonic() < deadline:
            self._server.serve(self._server.wait(min(_ROUND, self._server.prepare())))

    def close(self) -> None:
        """Free what is held; after ``end``."""
        if self._mailbox is not None:
            self._mailbox.close()

    # -- beginning and ending, in threads of their own ------------------------------------------------------

    def _begin(self, plan: bytes) -> None:
        if self._begins is None:
            mailbox = Mailbox(self._server)
            self._begins = threading.Thread(
                target=self._make, args=(plan, mailbox), name="weft-blocks-begin", daemon=True
            )
            self._mailbox = mailbox
            self._begins.start()

    def _make(self, plan: bytes, mailbox: Mailbox) -> None:
        try:
            from .fleet import make_scaler  # with much else, for which nobody has to wait

            scaler = make_scaler(plan, self, mailbox)
        except Exception as error:  # noqa: BLE001  whatever it is, the client must hear of it
            traceback.print_exc()
            reason = (
                f"the agent cannot get blocks itself: {type(error).__name__}: {error}; "
                'AgentSettings(blocks="client") has the client do it'
            )
            mailbox.post(lambda: self.give_up(reason))
            return
        with self._lock:
            self._scaler = scaler
            if self._frozen:
                scaler.freeze(self._frozen)
            given_up = self._given_up
        if given_up:
            scaler.close()
        else:
            scaler.start()

    def _close(self, timeout: float, *, tidy: bool) -> None:
        self.closing.set()
        if self._ends is None:
            self._ends = threading.Thread(
                target=self._cancel, args=(timeout, tidy), name="weft-blocks-end", daemon=True
            )
            self._ends.start()

    def _cancel(self, timeout: float, tidy: bool) -> None:
        deadline = time.monotonic() + timeout
        leftovers: list[str] = []
        try:
            if self._begins is not None:
                self._begins.join(timeout)
            with self._lock:
                scaler = self._scaler
                self._given_up = scaler is None
            if scaler is not None:
                leftovers = scaler.close(max(1.0, deadline - time.monotonic()), tidy=tidy)
            elif self._begins is not None and self._begins.is_alive():
                trouble = f"the batch system has not answered for {timeout:.1f} s"
                leftovers = [f"{trouble} when it was asked for jobs of an agent before this one"]
        except Exception as error:  # noqa: BLE001  the client waits for the answer
            traceback.print_exc()
            leftovers = [f"the blocks were not cancelled: {type(error).__name__}: {error}"]
        for words in leftovers:
            sys.stderr.write(f"{words}\n")
        if self._mailbox is not None:
            self._mailbox.post(lambda: self._say(BlocksClosed(leftovers)))
            self._mailbox.post(self._closed.set)

    # -- for the scaler, in the loop's thread ---------------------------------------------------------------

    def say(self, message: Message) -> None:
        """Tell the client."""
        self._say(message)

    def give_up(self, reason: str) -> None:
        """No block will come."""
        self._hopeless = True
        self._say(NoMoreBlocks(reason))

    def tell(self, message: Message) -> None:
        """Tell the interchange."""
        self._server.interchange.from_client(message, ())

    def slots(self, node_slots: int) -> tuple[int, int]:
        """Worker slots that all calls of the run ask for that wait, and those that begun ones take."""
        waiting, taken = self._server.interchange.slots(node_slots)
        return waiting + (0 if self._abandoned else self._held), taken

    def states(self) -> Any:
        """The blocks that have registered."""
        return self._server.interchange.blocks()

    def _wake(self) -> None:
        scaler = self._scaler
        if scaler is not None:
            scaler.wake()
