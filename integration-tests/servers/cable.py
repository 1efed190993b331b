"""A cable with a delay and losses, where the kernel has no netem: two TAP devices and a relay between them.

Run as a program, it is the relay: ``cable.py NEAR FAR``. A line on stdin sets the delay of each direction, in
seconds, and the share of frames that get lost.
"""

from __future__ import annotations

import contextlib
import fcntl
import heapq
import os
import random
import selectors
import struct
import subprocess
import sys
import time

_TUNSETIFF = 0x400454CA
_TAP_WITHOUT_HEADER = 0x0002 | 0x1000


class Cable:
    """A relay that runs. near, far: the names of its ends, both in this network namespace at first."""

    def __init__(self, near: str, far: str) -> None:
        self._relay = subprocess.Popen(
            [sys.executable, "-I", __file__, near, far],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._expect("up")

    def set(self, rtt: float, loss: float = 0.0) -> None:
        """The delay there and back, in seconds, and the share of frames that get lost in each direction, for
        what is sent from now on.
        """
        assert self._relay.stdin is not None
        self._relay.stdin.write(f"{rtt / 2} {loss}\n")
        self._relay.stdin.flush()
        self._expect("set")

    def _expect(self, word: str) -> None:
        assert self._relay.stdout is not None
        if self._relay.stdout.readline() != f"{word}\n":
            raise AssertionError("the relay of the cable has ended: see stderr")

    def remove(self) -> None:
        """Both ends are gone then."""
        self._relay.kill()
        self._relay.communicate(timeout=10)


def _tap(name: str) -> int:
    end = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(end, _TUNSETIFF, struct.pack("16sH", name.encode(), _TAP_WITHOUT_HEADER))
    return end


class _Relay:
    """Frames on their way, and how long that takes."""

    def __init__(self, near: int, far: int) -> None:
        self.other = {near: far, far: near}
        self.delay = self.loss = 0.0
        self.frames: list[tuple[float, int, int, bytes]] = []
        self.number = 0

    def run(self) -> None:
        """Until stdin is closed."""
        # select, not epoll: it waits for less than a millisecond, too.
        selector = selectors.SelectSelector()
        for end in (*self.other, 0):
            selector.register(end, selectors.EVENT_READ)
        while True:
            wait = max(self.frames[0][0] - time.monotonic(), 0.0) if self.frames else None
            for key, _ in selector.select(wait):
                if key.fd:
                    # Some at a time, so that the other direction has its turn.
                    self.take(key.fd, 64)
                    continue
                line = sys.stdin.readline()
                if not line:
                    return
                # What was sent before the change is treated as it was then.
                for end in self.other:
                    self.take(end, 10_000)
                self.delay, self.loss = map(float, line.split())
                print("set", flush=True)
            self.deliver()

    def take(self, end: int, most: int) -> None:
        with contextlib.suppress(OSError):
            for _ in range(most):
                frame = os.read(end, 65536)
                if random.random() >= self.loss:
                    self.number += 1
                    due = time.monotonic() + self.delay
                    heapq.heappush(self.frames, (due, self.number, self.other[end], frame))

    def deliver(self) -> None:
        while self.frames and self.frames[0][0] <= time.monotonic():
            _, _, end, frame = heapq.heappop(self.frames)
            with contextlib.suppress(OSError):
                os.write(end, frame)


if __name__ == "__main__":
    ends = [_tap(name) for name in sys.argv[1:3]]
    print("up", flush=True)
    _Relay(*ends).run()
