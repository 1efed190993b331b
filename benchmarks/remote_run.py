"""One run on a remote site, as its user has it: ``remote.py`` starts it in a fresh interpreter.

``python remote_run.py BEGUN ORDER`` prints what it has measured as JSON. BEGUN: when its process was started,
in seconds since the epoch; ORDER: an :class:`Order`, as JSON.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from dataclasses import dataclass
from typing import Any

import weft

IMPORTED = time.time()
PATIENCE = 120.0


@dataclass(frozen=True)
class Order:
    """What is to be measured. kind: of the channel; config: of ssh. environment: the nodes' Python. home: the
    user's directory on the site, as this machine sees it. hosts, marks: see ``processes.py``.

    Nothing beyond the first result is measured where ``rounds`` is 0.
    """

    kind: str
    config: str
    environment: str
    directory: str
    home: str
    hosts: dict[str, int]
    marks: dict[str, str]
    rounds: int = 0
    noops: int = 20_000
    trips: int = 100
    large: int = 100_000_000
    transfers: int = 3
    idle: float = 60.0


@weft.task
def noop() -> None:
    """Nothing."""


@weft.task
def fill(value: int, size: int) -> bytes:
    """So many bytes, which no other value gives."""
    return value.to_bytes(8, "little") + bytes(size - 8)


class Sink:
    """Keeps when something happened first."""

    def __init__(self) -> None:
        self._first: dict[str, float] = {}
        self._changed = threading.Condition()

    def write(self, events: Any) -> None:
        """Take events."""
        with self._changed:
            for event in events:
                self._first.setdefault(event.kind, event.time)
            self._changed.notify_all()

    def first(self, kind: str) -> float:
        """When; it is known a moment later."""
        with self._changed:
            self._changed.wait_for(lambda: kind in self._first, PATIENCE)
            return self._first[kind]

    def close(self) -> None:
        """Nothing is left to be written."""


class Commands:
    """Counts the commands of a channel, and keeps when they ended."""

    def __init__(self, channel: Any) -> None:
        self.ended: list[float] = []
        self.opened_at = 0.0
        self._channel = channel
        self._run, self._open = channel.run, channel.open
        channel.run, channel.open = self.run, self.open

    def run(self, *arguments: Any, **settings: Any) -> Any:
        """As the channel's."""
        try:
            return self._run(*arguments, **settings)
        finally:
            self.ended.append(time.time())

    def open(self, *arguments: Any, **settings: Any) -> Any:
        """As the channel's."""
        opened = self._open(*arguments, **settings)
        self.ended.append(time.time())
        self.opened_at = time.time()
        return opened

    def between(self, begin: float, end: float) -> int:
        """How many ended then."""
        return sum(begin < at <= end for at in self.ended)


def make_channel(order: Order) -> Any:
    """The channel to the login node."""
    if order.kind == "ssh":
        return weft.SSHChannel("login", config=order.config)
    return weft.OpenSSHChannel("login", ["-F", order.config])


def make_run(order: Order, channel: Any, sink: Sink) -> Any:
    """Two managers, with one worker each."""
    provider = weft.SlurmProvider(cores_per_node=1, channel=channel)
    blocks = weft.Blocks(
        provider=provider,
        launcher=weft.SrunLauncher(),
        init=2,
        min=2,
        max=2,
        walltime="00:30:00",
    )
    executor = weft.HighThroughputExecutor(workers_per_node=1, blocks=blocks, environment=order.environment)
    return weft.run(executors=[executor], sinks=[sink], run_dir=order.directory, progress=False)


def main() -> None:
    """Measure, and say what."""
    begun, order = float(sys.argv[1]), Order(**json.loads(sys.argv[2]))
    found: dict[str, Any] = {}
    channel = make_channel(order)
    commands, sink = Commands(channel), Sink()
    with channel:
        connected = time.time()
        run = make_run(order, channel, sink)
        with run:
            started = time.time()
            noop().result(PATIENCE)
            answered = time.time()
            found |= parts(order, run.id, commands, sink, begun, connected, started, answered)
            if order.rounds:
                from remote_figures import measure

                found |= measure(order, channel, noop, fill)
            closing = time.time()
        found["end of the run, s"] = time.time() - closing
    json.dump(found, sys.stdout)


def parts(
    order: Order,
    run_id: str,
    commands: Commands,
    sink: Sink,
    begun: float,
    connected: float,
    started: float,
    answered: float,
) -> dict[str, float]:
    """Where the time until the first result went."""
    from pathlib import Path

    # The script's first act; the other block may be later.
    jobs = Path(order.home).glob(f".weft/runs/{run_id}/**/*.job")
    job = min(path.stat().st_mtime for path in jobs)
    requested, up = sink.first("block.requested"), sink.first("manager.up")
    return {
        "python to first result, s": answered - begun,
        "python, imports, s": IMPORTED - begun,
        "connection, s": connected - IMPORTED,
        "agent, s": commands.opened_at - connected,
        "agent, commands": commands.between(connected, commands.opened_at),
        "environment, s": started - commands.opened_at,
        "environment, commands": commands.between(commands.opened_at, started),
        "submission, s": requested - started,
        "submission, commands": commands.between(started, requested),
        "queue, s": job - requested,
        "job to manager, s": up - job,
        "manager to first result, s": answered - up,
        "block runs to first result, s": answered - job,
    }


if __name__ == "__main__":
    main()
