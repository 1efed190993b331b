"""Daemons in the foreground, and what they leave running."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

import pytest

__all__ = [
    "ServerError",
    "Servers",
    "children",
    "free_ports",
    "processes_with",
    "program",
    "unavailable",
    "until_we_die",
    "wait_until",
]

PACKAGES = Path(__file__).with_name("packages.txt")


class ServerError(AssertionError):
    """A server cannot be started, or does not do what it should."""


def unavailable(problem: str) -> NoReturn:
    """End a test whose server this machine cannot run: skipped on a user's machine, failed in CI, which
    installs what is needed.
    """
    if os.environ.get("CI"):
        raise ServerError(problem)
    pytest.skip(problem)


def program(name: str) -> str:
    """The path of a server's program; without one, what to install is said: see :func:`unavailable`."""
    found = shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"]))
    if found is None:
        lines = PACKAGES.read_text(encoding="utf-8").splitlines()
        packages = " ".join(line for line in lines if line and not line.startswith("#"))
        unavailable(f"{name} is not installed: apt-get install -y --no-install-recommends {packages}")
    return found


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now, all different.

    They are below those that the kernel gives to whoever asks for any: tests beside this one do all the time.
    """
    ports: set[int] = set()
    while len(ports) < count:
        port = 10_000 + secrets.randbelow(22_768)  # random numbers are the same in every test
        with contextlib.suppress(OSError), socket.socket() as each:
            each.bind(("", port))
            ports.add(port)
    return list(ports)


def until_we_die(name: str = "TERM") -> list[str]:
    """What gives a command this signal when the thread that started it ends: should the tests be killed."""
    return [program("setpriv"), "--pdeathsig", name]


def wait_until(what: str, condition: Callable[[], object], timeout: float = 30.0) -> None:
    """Ask until it is so."""
    deadline = time.monotonic() + timeout
    pause = 0.005
    while not condition():
        if time.monotonic() > deadline:
            raise ServerError(f"not within {timeout:g} s: {what}")
        time.sleep(pause)
        pause = min(2 * pause, 0.05)


def processes_with(setting: str) -> Iterator[int]:
    """The other processes of this machine that have this, such as ``HOME=/root``, in their environment."""
    for name in os.listdir("/proc"):
        if name.isdecimal() and int(name) != os.getpid():
            with contextlib.suppress(OSError):
                variables = Path("/proc", name, "environ").read_bytes().split(b"\0")
                if setting.encode() in variables:
                    yield int(name)


def children(pid: int) -> list[int]:
    """The processes that this one has started and that are its own still; none if it is gone."""
    with contextlib.suppress(OSError):
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


class Servers:
    """Daemons that run in the foreground, each with a log in the folder; ended in the reverse order.

    mark: a variable's setting, such as ``SLURM_CONF=/...``: whatever has it in its environment belongs to
    these servers, and is killed in the end.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str], mark: str) -> None:
        self.folder = folder
        self.environment = {**os.environ, **environment}
        self.mark = mark
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, argv: Sequence[str]) -> None:
        """Start a daemon; its output goes to ``<name>.log``."""
        with open(self.folder / f"{name}.log", "ab") as log:
            self._running[name] = subprocess.Popen(
                [*until_we_die(), program(argv[0]), *argv[1:]],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environment,
                cwd=self.folder,
                start_new_session=True,
            )

    def runs(self, name: str) -> bool:
        """Whether it has not ended."""
        return name in self._running and self._running[name].poll() is None

    def resume(self, name: str) -> None:
        """Have the daemon go on after it was stopped, with what has entered another host for it: that stops,
        too, and could not be ended.
        """
        self._running[name].send_signal(signal.SIGCONT)

    def pid(self, name: str) -> int | None:
        """The daemon's process; where it was started in another host's namespaces, the one in there."""
        if not self.runs(name):
            return None
        pid = self._running[name].pid
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/comm").read_text() == "nsenter\n":
                return next(iter(children(pid)), pid)
        return pid

    def stop(self, name: str, number: int = signal.SIGTERM, timeout: float = 15.0) -> None:
        """End a daemon, which has so many seconds for it."""
        pid = self.pid(name)
        process = self._running.pop(name, None)
        if process is None:
            return
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
                os.kill(pid, signal.SIGCONT)
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def stop_all(self) -> None:
        """End them all, and whatever they have started."""
        for name in reversed(list(self._running)):
            self.stop(name)
        for _ in range(5):
            left = list(self.leftovers())
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if not left:
                return
            time.sleep(0.05)

    def leftovers(self) -> Iterator[int]:
        """The processes that belong to these servers, the jobs that they run too."""
        return processes_with(self.mark)

    def log(self, name: str, most: int = 3000) -> str:
        """The end of a daemon's log."""
        with contextlib.suppress(FileNotFoundError):
            return (self.folder / f"{name}.log").read_text(errors="replace")[-most:]
        return ""
