"""A channel whose far side is this machine: sessions are processes of a shell, started as by sshd."""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
from collections.abc import Mapping, Sequence

from weft_channel_ssh.session import Session
from weft_channel_ssh.shell import ShellChannel
from weft_interfaces import ChannelError


class PipeSession:
    """As sshd gives it: a session of its own, which is left alone when it is closed."""

    def __init__(self, argv: Sequence[str], home: str, environment: Mapping[str, str]) -> None:
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            argv,
            bufsize=0,
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            cwd=home,
            env={**environment, "HOME": home},
            start_new_session=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._streams = [self._process.stdin, self._process.stdout, self._process.stderr]

    def read(self, size: int) -> bytes:
        with contextlib.suppress(OSError, ValueError):
            return self._streams[1].read(size) or b""
        return b""

    def read_stderr(self, size: int) -> bytes:
        with contextlib.suppress(OSError, ValueError):
            return self._streams[2].read(size) or b""
        return b""

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view:
                view = view[self._streams[0].write(view) :]
        except (OSError, ValueError) as error:
            raise ChannelError("nobody reads") from error

    def close_stdin(self) -> None:
        with contextlib.suppress(OSError):
            self._streams[0].close()

    def wait(self, timeout: float | None = None) -> int:
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise TimeoutError from None

    def close(self) -> None:
        for stream in self._streams:
            with contextlib.suppress(OSError):
                stream.close()
        threading.Thread(target=self._process.wait, daemon=True).start()  # as sshd does: no zombie is left


class CountedSession(PipeSession):
    def __init__(
        self, argv: Sequence[str], home: str, environment: Mapping[str, str], channel: LocalShellChannel
    ) -> None:
        super().__init__(argv, home, environment)
        self._channel = channel

    def read(self, size: int) -> bytes:
        data = super().read(size)
        self._channel.received += len(data)
        return data

    def write(self, data: bytes) -> None:
        self._channel.sent += len(data)
        super().write(data)


class LocalShellChannel(ShellChannel):
    """login: the words before the command line, as sshd has them: the login shell and ``-c``. surroundings:
    variables that sshd gives. ``sent`` and ``received`` count bytes.
    """

    def __init__(
        self,
        home: str,
        login: Sequence[str] = ("sh", "-c"),
        environment: Mapping[str, str] | None = None,
        surroundings: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(environment=environment)
        self.home, self.login, self.surroundings = home, login, {**os.environ, **(surroundings or {})}
        self.sent = self.received = 0

    @property
    def host(self) -> str:
        return "here"

    def _start(self, command: str, end: float | None = None) -> Session:
        return CountedSession([*self.login, command], self.home, self.surroundings, self)

    def _disconnect(self) -> None:
        pass
