"""Runs on a remote site of which something is wrong: what they show, how soon, and what they leave there."""

from __future__ import annotations

import contextlib
import itertools
import re
import secrets
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import weft
from weft_interfaces import Channel, Event

from .process import ServerError, wait_until
from .site import Site
from .sshclient import USER

__all__ = ["BOUND", "Events", "Visit"]

BOUND = 60.0  # seconds for anything
_SETTLE = 15.0  # seconds in which what was told to end ends
_REPEATED = 7  # words that a message must not say twice

# What USER has on a host, but for what is kept from run to run: what was sent, and the files of jobs. $1 is
# not the site's, and what sets clocks has files of its own.
_FILES = f"""
kept="-path $1 -o -path /home/{USER}/.ssh -o -path /home/{USER}/.bashrc -o -path /home/{USER}/.weft"
kept="$kept -o -path */weft/environments -o -name weft-agent-*.pyz -o -path /tmp/weft-1500"
kept="$kept -o -name *faketime_*"
shift
set -f
ours="-type f -o -type s -o -name weft-*"
find "$@" '(' $kept ')' -prune -o -user {USER} '(' $ours ')' -print 2>/dev/null || true
"""


class Events:
    """A sink that remembers when each event came, by the monotonic clock."""

    def __init__(self) -> None:
        self.all: list[tuple[float, Event]] = []
        self._changed = threading.Condition()

    def write(self, events: Sequence[Event]) -> None:
        now = time.monotonic()
        with self._changed:
            self.all += [(now, event) for event in events]
            self._changed.notify_all()

    def close(self) -> None:
        """Nothing is left to be written."""

    def kinds(self) -> list[str]:
        return [event.kind for _, event in self.all]

    def wait(self, kind: str, words: str = "", count: int = 1) -> tuple[float, Event]:
        """The first event of this kind that has these words, or a later one, and when it came."""

        def found() -> list[tuple[float, Event]]:
            return [each for each in self.all if each[1].kind == kind and words in str(each[1].data)]

        with self._changed:
            if not self._changed.wait_for(lambda: len(found()) >= count, BOUND):
                raise AssertionError(f"no {kind} with {words!r} among {self.all}")
            return found()[count - 1]


class Visit:
    """One test's runs: ``channel`` and ``run`` make them, ``tell`` prints what was measured.

    events: those of all runs. ``left``: what is there now that was not before.
    """

    def __init__(self, site: Site, folder: Path, stack: contextlib.ExitStack) -> None:
        self.site = site
        self.folder = folder
        self.events = Events()
        self._stack = stack
        self._channels: list[Channel] = []
        self._ledger = f"/scratch/{secrets.token_hex(4)}"
        self._numbers = itertools.count()
        self._given: list[int] = []
        self._results: list[int] = []
        self._before = self._there()
        stack.callback(self._close)

    # -- runs -----------------------------------------------------------------------------------------------

    def channel(
        self, kind: str, name: str = "login", *, key: str = "id", options: Sequence[str] = (), **settings: Any
    ) -> Channel:
        """One of a kind, ``ssh`` or ``openssh``. options: of the latter's ``ssh``."""
        config = str(self.site.config_with(key))
        channel: Channel = (
            weft.SSHChannel(name, config=config, **settings)
            if kind == "ssh"
            else weft.OpenSSHChannel(name, ["-F", config, *options], **settings)
        )
        self._channels.append(channel)
        return channel

    def run(
        self, channel: Channel, *, agent: weft.AgentSettings | None = None, blocks: int = 1, **settings: Any
    ) -> weft.Run:
        """A run on the site's Slurm, by this way."""
        provider = weft.SlurmProvider(channel=channel, cores_per_node=1, poll_interval=1)
        executor = weft.HighThroughputExecutor(
            workers_per_node=1,
            blocks=weft.Blocks(provider=provider, init=blocks, max=blocks, walltime="00:20:00"),
            environment=sys.executable,
            agent=agent,
            **settings,
        )
        return weft.run(
            weft.Config(executors=[executor], sinks=[self.events], run_dir=self.folder / "runs", retries=0)
        )

    def submit(self, count: int, seconds: float = 0.0, size: int = 0) -> list[weft.Future[Any]]:
        """Tasks of the current run that note that they began, and take so many seconds for so many bytes."""
        path = self._ledger

        def work(number: int) -> tuple[int, bytes]:
            import random
            import time

            with open(path, "a") as file:
                file.write(f"{number}\n")
            if seconds:
                time.sleep(seconds)
            return number, random.randbytes(size)

        numbers = list(itertools.islice(self._numbers, count))
        self._given += numbers
        return [weft.task(work)(number) for number in numbers]

    def collect(self, futures: Sequence[weft.Future[Any]]) -> None:
        """Wait for them."""
        for future in futures:
            self._results.append(future.result(BOUND)[0])

    def begun(self) -> list[int]:
        """The numbers of the tasks that began, in that order."""
        path = self.site.path(self._ledger)
        return [int(word) for word in path.read_text().split()] if path.exists() else []

    def refused(self, channel: Channel, *words: str, **settings: Any) -> tuple[str, float]:
        """What a run says that runs nothing, and after how many seconds. It has these words."""
        begun = time.monotonic()
        with pytest.raises(weft.WeftError) as caught, self.run(channel, **settings):
            self.collect(self.submit(1))
        seconds = time.monotonic() - begun
        said = str(caught.value)
        for each in words:
            assert each in said, f"{each!r} is not in: {said}"
        assert self.begun() == []
        self._given.clear()
        return said, seconds

    # -- what became of it ----------------------------------------------------------------------------------

    def left(self) -> list[str]:
        """Jobs, processes and files that are there and were not before."""
        return sorted((Counter(self._there()) - Counter(self._before)).elements())

    def tell(self, fault: str, said: str, seconds: float) -> None:
        """Close the channels, and print what was seen: no task was lost or run again, and nothing is left."""
        for channel in self._channels:
            channel.close()
        with contextlib.suppress(ServerError):
            wait_until("nothing is left", lambda: not self.left(), _SETTLE)
        left, again = self.left(), len(self.begun()) - len(set(self.begun()))
        lost = len(set(self._given) - set(self._results))
        words = " / ".join(said.split("\n"))
        print(
            f"measured: {fault}: seen as {words}, after {seconds:.1f} s, lost {lost}, twice {again}, "
            f"left {len(left)}"
        )
        assert not left, left
        assert (lost, again) == (0, 0), f"lost {lost}, twice {again}"
        assert sorted(self._results) == sorted(self._given)
        assert not repeated(said), repeated(said)

    def _there(self) -> list[str]:
        found = [f"job {line.split()[0]}" for line in self.site.cluster.jobs()]
        for name in self.site.hosts:
            found += [f"on {name}: {command}" for command in self.site.user_processes(name).values()]
            places = ["/tmp", "/var/tmp", "/dev/shm", *(["/home", "/scratch"] if name == "login" else [])]
            lines = self.site.run(
                ["sh", "-c", _FILES, "find", str(self.site.folder), *places], name
            ).splitlines()
            found += [f"{name}:{line}" for line in lines if line != self._ledger]
        return found

    def _close(self) -> None:
        for channel in self._channels:
            channel.close()
        self.site.path(self._ledger).unlink(missing_ok=True)


def repeated(said: str) -> list[str]:
    """What a message says more than once, in runs of several words; commands and paths apart."""
    words = re.findall(r"[\w'-]+", re.sub(r"\S*[/=]\S*", " . ", said))
    runs = Counter(" ".join(words[at : at + _REPEATED]) for at in range(len(words) - _REPEATED + 1))
    return [run for run, count in runs.items() if count > 1]
