"""paramiko's transport without two of its faults, each of which costs the whole connection.

- Its thread, which reads, also answers the end of channels; while keys are exchanged again it would wait
  there for an exchange that goes on only when it reads. What it has to say then goes out afterwards.
- A thread may write to a channel that the other side closes in this moment: its data would come after our
  answer, for a channel that is no more, and servers hang up then. Such data is dropped.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import paramiko
from paramiko import Message
from paramiko.common import cMSG_CHANNEL_CLOSE

__all__ = ["Transport", "Tunnel"]

if TYPE_CHECKING:

    class _Base(paramiko.Transport):
        clear_to_send_lock: threading.Lock

        def _send_user_message(self, data: Message) -> None: ...

        def _send_message(self, data: Message) -> None: ...

        def _activate_inbound(self) -> None: ...

else:
    _Base = paramiko.Transport


class Transport(_Base):
    """See the module. ``below`` is what it reads and writes."""

    def __init__(self, below: Any) -> None:
        super().__init__(below)
        self._later: deque[Message] = deque()
        self._at_work = threading.local()

    @contextlib.contextmanager
    def using(self, channel: paramiko.Channel) -> Iterator[None]:
        """What this thread sends meanwhile is this channel's, and nothing once that is closed."""
        self._at_work.channel = channel
        try:
            yield
        finally:
            self._at_work.channel = None

    def _send_user_message(self, data: Message) -> None:
        if threading.current_thread() is not self:
            super()._send_user_message(data)
            return
        with self.clear_to_send_lock:
            if self.clear_to_send.is_set():
                self._send_message(data)
            else:
                self._later.append(data)

    def _send_message(self, data: Message) -> None:
        # A channel is marked as closed before its end is sent, which takes the lock that is held here.
        channel = getattr(self._at_work, "channel", None)
        if channel is None or not channel.closed or data.asbytes()[:1] == cMSG_CHANNEL_CLOSE:
            super()._send_message(data)

    def _activate_inbound(self) -> None:
        """The other side has new keys, as this one has already."""
        super()._activate_inbound()
        with self.clear_to_send_lock:
            while self._later:
                self._send_message(self._later.popleft())


class Tunnel:
    """A channel through a host, as a socket to what is behind it."""

    def __init__(self, transport: Transport, channel: paramiko.Channel) -> None:
        self._transport, self._channel = transport, channel

    def settimeout(self, timeout: float | None) -> None:
        self._channel.settimeout(timeout)

    def getpeername(self) -> Any:
        return self._channel.getpeername()

    def recv(self, size: int) -> bytes:
        with self._transport.using(self._channel):
            return self._channel.recv(size)

    def send(self, data: bytes) -> int:
        with self._transport.using(self._channel):
            return self._channel.send(data)

    def close(self) -> None:
        self._channel.close()
