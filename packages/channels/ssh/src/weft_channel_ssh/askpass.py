"""Questions of ssh, passed on to the cell of a notebook that connects.

::

    cell: Askpass.answer ── unix socket ── the program that SSH_ASKPASS names ── ssh
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import shlex
import socket
import subprocess
import sys
from pathlib import Path

from .prompts import Answerer, Question

__all__ = ["Askpass"]

_LOOK = 0.05  # seconds between looks at whether ssh still runs
_LONGEST = 1 << 16  # bytes of a question
_PROGRAM = """
import os, socket, sys
end = socket.socket(socket.AF_UNIX)
end.connect(sys.argv[1])
kind = os.environ.get("SSH_ASKPASS_PROMPT", "")
end.sendall("\\n".join([kind, *sys.argv[2:]]).encode(errors="surrogateescape"))
end.shutdown(socket.SHUT_WR)
answer = b"".join(iter(lambda: end.recv(4096), b""))
sys.stdout.buffer.write(answer[1:])
sys.exit(not answer)
"""


class Askpass:
    """The program, and what answers it. folder: a private directory with a short path. host: for whom."""

    def __init__(self, folder: Path, host: str, ask: Answerer) -> None:
        self._host, self._ask = host, ask
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.bind(str(folder / "ask"))
        self._socket.listen()
        words = [sys.executable, "-I", "-S", "-c", _PROGRAM, str(folder / "ask")]
        program = folder / "askpass"
        program.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
        program.chmod(0o700)
        # OpenSSH before 8.4 asks this way where there is no terminal, and a display.
        display = os.environ.get("DISPLAY") or ":0"
        self.variables = {"SSH_ASKPASS": str(program), "SSH_ASKPASS_REQUIRE": "force", "DISPLAY": display}

    def answer(self, ssh: subprocess.Popen[bytes]) -> None:
        """Ask what ssh wants to know, in this thread, until it has ended. Raises what asking raises."""
        while ssh.poll() is None:
            if select.select([self._socket], [], [], _LOOK)[0]:
                end, _ = self._socket.accept()
                with end, contextlib.suppress(BrokenPipeError):  # ssh has ended meanwhile
                    end.sendall(self._reply(_receive(end)))

    def close(self) -> None:
        """Its folder is the caller's."""
        self._socket.close()

    def _reply(self, asked: str) -> bytes:
        kind, _, text = asked.partition("\n")
        if kind == "none":  # such as that a token is to be touched
            print(text)
            return b"+"
        choice = kind == "confirm" or re.search(r"\(yes/no", text) is not None
        said = self._ask(Question(self._host, text, choice, "choice" if choice else "challenge"))
        if kind == "confirm" and said.strip().lower() not in ("y", "yes"):
            return b""
        return b"+" + said.encode(errors="surrogateescape") + b"\n"


def _receive(end: socket.socket) -> str:
    data = b""
    while len(data) < _LONGEST and (part := end.recv(_LONGEST)):
        data += part
    return data.decode(errors="replace")
