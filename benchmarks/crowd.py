"""Many managers in one process, without workers: they speak the protocol of real ones, and do nothing else.

``python benchmarks/crowd.py`` reads an :class:`Order` from the first line of its standard input, and then
commands, one a line; it writes one line of JSON to its standard output for each, and one when all managers
are up. It ends when the interchange has ended all of them, or when its standard input does.

::

    silence N     N managers say nothing any more, though they still listen
    close N       the connections of N managers end
    delay S       calls take S seconds from now on
    count         how much was said and heard so far
"""

from __future__ import annotations

import heapq
import itertools
import math
import os
import resource
import selectors
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from weft_executor_htex import messages
from weft_executor_htex.link import Link, connect
from weft_executor_htex.messages import (
    Accepted,
    Begun,
    Cancel,
    Drain,
    Heartbeat,
    Leave,
    Message,
    Refused,
    Register,
    ResultGroup,
    Results,
    Returned,
    Stop,
    Tasks,
)
from weft_executor_htex.setup import ManagerSetup
from weft_executor_htex.tls import TlsEnd
from weft_executor_htex.tls_link import make_end
from weft_interfaces.processes.frames import NOTHING

__all__ = ["Crowd", "Order"]

BEGUN_AFTER = 0.02  # seconds: as real managers have it
MEMORY = 64 << 30
LOOK = 1.0  # seconds between two looks whether anybody is left


class Order(msgspec.Struct):
    """What a crowd is to be. ``first``: the number of its first manager. ``delay``: seconds that each call
    takes. ``per_second``: how many managers connect each second, 0 for all at once.
    """

    setup: ManagerSetup
    count: int
    first: int
    slots: int
    delay: float = 0.0
    per_second: float = 0.0


class FakeManager:
    """One manager, as the interchange sees it. ``later`` calls something after some seconds."""

    def __init__(self, number: int, order: Order, link: Link, crowd: Crowd) -> None:
        self.link = link
        self.accepted = False
        self.silent = False
        self.ended = False
        self._due = 0.0
        self._crowd = crowd
        self._running: dict[int, None] = {}
        self._threshold = order.setup.heartbeat_threshold
        self._period = self._threshold / 3
        self._heard_at = time.monotonic()
        block = f"{order.setup.block}-{number}"
        self._registration = Register(
            messages.PROTOCOL,
            messages.PYTHON,
            f"node-{number}",
            os.getpid(),
            block,
            order.slots,
            MEMORY,
            0,
            None,
        )
        self._say(self._registration)
        crowd.later(self._period, self._beat)
        crowd.later(0.0, self.hear)

    def _say(self, message: Message, payloads: Sequence[messages.Frame] = ()) -> None:
        self._crowd.counts[f"sent {type(message).__name__}"] += 1
        self.link.send(messages.encode(message, payloads))

    def _beat(self) -> None:
        if self.silent or self.ended:
            return
        if time.monotonic() - self._heard_at > self._threshold:
            self._crowd.counts["interchange missed"] += 1
            self._crowd.end(self)
            return
        self._say(Heartbeat() if self.accepted else self._registration)
        self._crowd.later(self._period, self._beat)
        self.hear()  # sending may hide from the descriptor that something has come

    def hear(self) -> None:
        """Take what has come."""
        self._hear()
        due = self.link.due()
        if due < math.inf and not self.ended and due != self._due:
            self._due = due
            self._crowd.later(max(0.0, due - time.monotonic()), self.hear)

    def _hear(self) -> None:
        while not self.ended:
            heard = self.link.receive()
            if heard is None:
                self._crowd.end(self)
            elif heard:
                for frames in heard:
                    self._take(messages.decode(frames))
            else:
                return

    def _take(self, message: Message) -> None:
        self._crowd.counts[f"heard {type(message).__name__}"] += 1
        self._heard_at = time.monotonic()
        if type(message) in (Stop, Refused):
            self._say(Leave("it was told to end"))
            self._crowd.end(self)
        elif self.silent:
            return
        elif type(message) is Tasks:
            self._run([call_id for group in message.groups for call_id in group.ids])
        elif type(message) is Accepted:
            self.accepted = True
            self._period = message.period
            self._crowd.up()
        elif type(message) is Cancel:
            self._finish([call_id for call_id in message.ids if call_id in self._running])
        elif type(message) is Drain:
            self._say(Returned([]))

    def _run(self, ids: list[int]) -> None:
        delay = self._crowd.delay
        self._running.update(dict.fromkeys(ids))
        if not delay:
            self._finish(ids)
            return
        if delay > BEGUN_AFTER:
            self._crowd.later(BEGUN_AFTER, lambda: self._tell_begun(ids))
        self._crowd.later(delay, lambda: self._finish([each for each in ids if each in self._running]))

    def _tell_begun(self, ids: list[int]) -> None:
        if not self.silent and not self.ended:
            self._say(Begun(ids))
            self.hear()

    def _finish(self, ids: list[int]) -> None:
        if self.silent or self.ended or not ids:
            return
        for call_id in ids:
            del self._running[call_id]
        self._crowd.counts["calls"] += len(ids)
        self._say(Results([ResultGroup(ids, [NOTHING] * len(ids), [0] * len(ids))]), [b""])
        self.hear()


class Crowd:
    """All managers of this process, in one thread. ``reply`` takes what is to be written."""

    def __init__(self, order: Order, commands: int, reply: Callable[[dict[str, Any]], None]) -> None:
        self.counts: Counter[str] = Counter()
        self.delay = order.delay
        self._order = order
        self._reply = reply
        self._commands = commands
        self._unread = b""
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._selector = selectors.DefaultSelector()
        self._end: TlsEnd | None = None
        self._managers: dict[FakeManager, None] = {}
        self._up = 0
        self._began = time.monotonic()

    def later(self, seconds: float, what: Callable[[], None]) -> None:
        """Have something called."""
        heapq.heappush(self._due, (time.monotonic() + seconds, next(self._numbers), what))

    def up(self) -> None:
        """One more was accepted."""
        self._up += 1
        if self._up == self._order.count:
            self._reply({"up": self._up, "seconds": time.monotonic() - self._began})

    def end(self, manager: FakeManager) -> None:
        """One manager ends."""
        manager.ended = True
        self._managers.pop(manager, None)
        self._selector.unregister(manager.link.fileno())
        manager.link.close()

    def run(self) -> None:
        """Until nobody is left, or the commands end."""
        self._selector.register(self._commands, selectors.EVENT_READ, self._obey)
        for number in range(self._order.count):
            wait = number / self._order.per_second if self._order.per_second else 0.0
            self.later(wait, lambda number=number: self._connect(number))  # type: ignore[misc]
        self.later(LOOK, self._look)
        try:
            while self._due:
                self._turn()
        finally:
            for manager in list(self._managers):
                self.end(manager)

    def _turn(self) -> None:
        now = time.monotonic()
        for _ in range(64):  # then it is the others' turn
            if not self._due or self._due[0][0] > now:
                break
            heapq.heappop(self._due)[2]()
        wait = max(0.0, self._due[0][0] - time.monotonic()) if self._due else 0.0
        for key, _ in self._selector.select(wait):
            key.data()

    def _connect(self, number: int) -> None:
        order = self._order
        [endpoint] = order.setup.access.endpoints
        if self._end is None and endpoint.certificate is not None:
            self._end = make_end(endpoint, order.setup.access)
        link = connect(endpoint, order.setup, self._end)
        manager = FakeManager(order.first + number, order, link, self)
        self._managers[manager] = None
        self._selector.register(link.fileno(), selectors.EVENT_READ, manager.hear)

    def _look(self) -> None:
        """Where everybody has ended, nothing is left to wait for."""
        if self._managers or not self._up:
            self.later(LOOK, self._look)
        else:
            self._due.clear()

    def _obey(self) -> None:
        read = os.read(self._commands, 4096)
        if not read:
            self._due.clear()
            self._selector.unregister(self._commands)
            return
        *lines, self._unread = (self._unread + read).split(b"\n")
        for line in lines:
            self._command(*line.decode().split())

    def _command(self, verb: str, *arguments: str) -> None:
        if verb == "delay":
            self.delay = float(arguments[0])
        elif verb in ("silence", "close"):
            chosen = [each for each in self._managers if not each.silent][: int(arguments[0])]
            for manager in chosen:
                if verb == "close":
                    self.end(manager)
                else:
                    manager.silent = True
        usage = resource.getrusage(resource.RUSAGE_SELF)
        answer = {"verb": verb, "left": len(self._managers), "counts": dict(self.counts)}
        self._reply(answer | {"cpu": usage.ru_utime + usage.ru_stime})


def main() -> None:
    """Be a crowd."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    line = b""
    while not line.endswith(b"\n"):  # not through a buffer, which would take commands, too
        byte = os.read(0, 1)
        if not byte:
            return
        line += byte
    order = msgspec.json.decode(line, type=Order)

    def reply(what: dict[str, Any]) -> None:
        sys.stdout.write(msgspec.json.encode(what).decode() + "\n")
        sys.stdout.flush()

    Crowd(order, 0, reply).run()


if __name__ == "__main__":
    main()
