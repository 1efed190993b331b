"""What a run with blocks writes down about its process, so that the jobs of one that was killed are found."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import time
from dataclasses import asdict, dataclass, replace
from enum import Enum
from pathlib import Path

from weft_interfaces import ConfigError, InputError

from ._hint import did_you_mean

__all__ = ["DETACHED", "RECORD", "Client", "Life", "forget_client", "read_clients", "record_client"]

RECORD = "client.json"
DETACHED = "detached"  # in the run's directory: what it takes to go on without its process


class Life(Enum):
    """What is known of the process of a run."""

    ALIVE = "alive"
    DEAD = "dead"
    UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True)
class Client:
    """The process of a run: who it is, in words that no later process shares.

    run: names the run, and is the tag of its jobs. user: a number. host, machine, boot: where it ran: the
    host's name, what tells it from others of that name, and what changes when it is restarted.
    space: whose numbers ``pid`` belongs to; a container has its own. started: the kernel's clock when it
    began. time: seconds since the epoch, for people. What a system does not tell is empty. detached: whether
    the run goes on without it.
    """

    run: str
    user: int = -1
    host: str = ""
    machine: str = ""
    boot: str = ""
    space: str = ""
    pid: int = 0
    started: str = ""
    time: float = 0.0
    detached: bool = False

    @classmethod
    def this(cls, run: str) -> Client:
        """This process."""
        return cls(
            run=run,
            user=_user(),
            host=platform.node(),
            machine=hashlib.sha256(_text("/etc/machine-id").encode()).hexdigest()[:16],
            boot=_text("/proc/sys/kernel/random/boot_id"),
            space=_link("/proc/self/ns/pid"),
            pid=os.getpid(),
            started=_started(os.getpid()) or "",
            time=time.time(),
        )

    def life(self) -> tuple[Life, str]:
        """Whether it lives, and why that is so in words. Never ``DEAD`` when that is not certain."""
        life, why = self._life()
        if self.detached and life is Life.DEAD:
            return Life.UNKNOWN, f"{why}, and its run goes on without it: see `weft attach {self.run}`"
        return life, why

    def _life(self) -> tuple[Life, str]:
        here = Client.this(self.run)
        if not self.host:
            return Life.UNKNOWN, "no record says where its process ran"
        if self.host != here.host:
            return Life.UNKNOWN, f"its process ran on {self.host}, which is not this host ({here.host})"
        if self.machine != here.machine:
            return Life.UNKNOWN, f"its process ran on another machine that is called {self.host}, too"
        if self.boot != here.boot:
            return Life.DEAD, "this host was restarted since"
        if self.space != here.space:
            return Life.UNKNOWN, "its process ran in another container of this host"
        started = _started(self.pid)
        if started is None:
            return Life.DEAD, f"its process {self.pid} has ended"
        if started != self.started:
            return Life.DEAD, f"its process {self.pid} has ended, and another has its number now"
        return Life.ALIVE, f"its process {self.pid} runs"


_BLANK = Client(run="")


def record_client(directory: Path, run: str) -> None:
    """Write the record of this process into a run's directory: whole, or not at all.

    Raises :class:`ConfigError` where that is not possible: blocks would be lost with this process.
    """
    path = directory / RECORD
    try:
        directory.mkdir(parents=True, exist_ok=True)
        new = path.with_suffix(".new")
        new.write_text(json.dumps(asdict(Client.this(run)), indent=1) + "\n", encoding="utf-8")
        new.replace(path)
    except OSError as error:
        raise ConfigError(
            f"run_dir: {path} cannot be written ({error.strerror}); without it `weft reap` could not find "
            "the blocks of a run that was killed: set run_dir to where there is room",
            "run_dir",
        ) from error


def forget_client(directory: Path) -> None:
    """The run has ended and nothing is left of it: remove its record, and the directory if it is empty."""
    with contextlib.suppress(OSError):
        (directory / RECORD).unlink()
        directory.rmdir()


def read_clients(run_dir: Path, run: str | None = None, *, any_run: bool = False) -> list[Client]:
    """The records of this user's runs in this directory, the oldest first: those of runs that go on, and of
    those that did not end as they should.

    run: only this one: its id, the beginning of that, or the path of its directory. any_run: also one that
    has left nothing here. Raises :class:`InputError` for a run that is not there.
    """
    if run is None:
        clients = [_read(path) for path in sorted(run_dir.glob(f"*/{RECORD}"))]
        return [client for client in clients if client.user in (_user(), -1)]
    for directory in (Path(run), run_dir / run):
        if (directory / RECORD).is_file():
            return [_read(directory / RECORD)]
        if directory.is_dir():  # it has ended as it should, for all that is known
            return [Client(run=directory.resolve().name)]
    clients = read_clients(run_dir)
    found = [client for client in clients if client.run.startswith(run)]
    if len(found) > 1:
        names = ", ".join(client.run for client in found)
        raise InputError(f"{len(found)} runs begin with {run!r}: {names}")
    if not found and not any_run:
        hint = did_you_mean(run, [client.run for client in clients])
        raise InputError(
            f"{run_dir}: there is no run {run!r}{hint} (--run-dir says where runs are; if its directory was "
            "removed, give its whole id, and --force)"
        )
    return found or [Client(run=run)]


def _read(path: Path) -> Client:
    """A record that is damaged is one of a run of which nothing is known."""
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        client = Client(**table)
        whole = all(type(value) is type(getattr(_BLANK, key)) for key, value in asdict(client).items())
        goes_on = any(not (each / "ended").exists() for each in path.parent.glob(f"{DETACHED}/*"))
        return replace(client, detached=goes_on) if whole and client.run else Client(run=path.parent.name)
    except (OSError, ValueError, TypeError):
        return Client(run=path.parent.name)


def _user() -> int:
    return os.getuid() if hasattr(os, "getuid") else -1


def _started(pid: int) -> str | None:
    """When a process began, in ticks since the host did; None if there is no such process, or just its
    remains. Empty where the system does not tell.
    """
    if not os.path.exists("/proc/self/stat"):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return None
        except PermissionError:  # another user's, so not the one that was meant
            return None
        return ""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, *rest = stat.rpartition(b")")[2].split()
    return None if state in (b"Z", b"X") else rest[18].decode()


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""
