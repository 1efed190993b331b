"""An ssh-agent that answers when it may."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

__all__ = ["SlowAgent", "slow_agent"]


class SlowAgent:
    """Passes requests on to an ssh-agent once it may ``go``. asked: somebody has connected."""

    def __init__(self, path: Path, real: Path) -> None:
        self.path, self.real = path, real
        self.asked, self.go = threading.Event(), threading.Event()
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen()

    def serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                self.asked.set()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        self.go.wait(60)
        with client, socket.socket(socket.AF_UNIX) as real, contextlib.suppress(OSError):
            real.connect(str(self.real))
            while request := _receive(client):
                real.sendall(request)
                client.sendall(_receive(real))


def _receive(stream: socket.socket) -> bytes:
    """A message of the agent's protocol: its length, and so many bytes; nothing at the end."""
    data = b""
    while len(data) < 4 or len(data) < 4 + int.from_bytes(data[:4], "big"):
        part = stream.recv(1 << 16)
        if not part:
            return b""
        data += part
    return data


@contextlib.contextmanager
def slow_agent(path: Path, real: Path) -> Iterator[SlowAgent]:
    slow = SlowAgent(path, real)
    thread = threading.Thread(target=slow.serve)
    thread.start()
    try:
        yield slow
    finally:
        slow.go.set()
        slow.listener.shutdown(socket.SHUT_RDWR)
        slow.listener.close()
        thread.join(10)
