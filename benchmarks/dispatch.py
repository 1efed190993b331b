"""What one call costs in the interchange, without I/O, by the number of managers.

``hatch run bench:dispatch``. Managers are made up; only the processor's time inside of the interchange is
counted, not that of what stands for them.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Sequence

from weft_executor_htex import messages
from weft_executor_htex.interchange import Interchange

_SLOTS = 32
_SECONDS = 0.5


class _Bench:
    def __init__(self, managers: int, slots: int) -> None:
        self.spent = 0.0  # in what stands for others
        self.done = 0
        self.held: dict[bytes, list[int]] = {}
        self.busy: deque[bytes] = deque()
        self.waiting = 0
        self.numbers = itertools.count()
        self.interchange = Interchange(
            self._to_client,
            self._to_manager,
            self._to_manager,
            heartbeat_period=5.0,
            heartbeat_threshold=1e6,
        )
        options = messages.Options("task", 1, None, 0, 1, 1, None, None, 0, None, None, None)
        self.interchange.from_client(messages.Tasks([1], [(2, options)], []), [b"function"])
        begun = time.thread_time()
        for number in range(managers):
            address = b"%d" % number
            self.held[address] = []
            register = messages.Register(
                messages.PROTOCOL, messages.PYTHON, "host", 1, f"b{number // 64}", slots, None, 0, None
            )
            self.interchange.from_manager(address, messages.encode(register))
        self.registering = (time.thread_time() - begun) / managers

    def _to_client(self, message: messages.Message, payloads: Sequence[messages.Frame]) -> None:
        if type(message) is messages.Results:
            self.done += sum(len(group.ids) for group in message.groups)

    def _to_manager(self, address: bytes, frames: list[messages.Frame]) -> None:
        begun = time.thread_time()
        message = messages.decode(frames)
        if type(message) is messages.Tasks:
            if not self.held[address]:
                self.busy.append(address)
            for group in message.groups:
                self.held[address] += group.ids
                self.waiting -= len(group.ids)
        self.spent += time.thread_time() - begun

    def refill(self, most: int) -> None:
        while self.waiting < most:
            ids = list(itertools.islice(self.numbers, 1024))
            self.waiting += len(ids)
            group = messages.Group(1, 2, ids, [8] * len(ids))
            self.interchange.from_client(messages.Tasks([], [], [group]), [bytes(8 * len(ids))])

    def run(self, at_once: int | None) -> float:
        """Microseconds a call, when managers report so many at once; None: all that they have."""
        most = 2048
        self.refill(most)
        self.spent = inside = 0.0
        self.done = 0
        ends = time.thread_time() + _SECONDS
        while time.thread_time() < ends:
            address = self.busy.popleft()
            held = self.held[address]
            ids = held[:at_once]
            held[:at_once] = []
            if held:
                self.busy.append(address)
            group = messages.ResultGroup(ids, [1] * len(ids), [0] * len(ids))
            frames = messages.encode(messages.Results([group]), [b""])
            begun = time.thread_time()
            self.interchange.from_manager(address, frames)
            self.refill(most)
            self.interchange.tick()
            inside += time.thread_time() - begun
        return 1e6 * (inside - self.spent) / self.done


def main() -> None:
    print(f"{'managers':>9} {'slots':>6} {'register':>10} {'one at once':>12} {'all at once':>12}   us")
    for managers, slots in ((1, 2), (2, 2), (2, _SLOTS), (100, _SLOTS), (1000, _SLOTS), (8192, _SLOTS)):
        single, whole = _Bench(managers, slots), _Bench(managers, slots)
        one, everything = single.run(1), whole.run(None)
        print(f"{managers:>9} {slots:>6} {1e6 * single.registering:>10.2f} {one:>12.2f} {everything:>12.2f}")


if __name__ == "__main__":
    main()
