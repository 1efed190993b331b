"""A run on a remote site, what is seen of it, and what it leaves."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from .process import wait_until
from .site import Site
from .siteconfig import site_config
from .sshclient import USER

__all__ = ["SENSITIVE", "Run", "Seen", "leftovers"]

SENSITIVE = "heartbeat_period = 1\nheartbeat_threshold = 8\n"

SCRIPT = """
import hashlib, json, os, pathlib, random, sys, time
import weft

class Events:
    def write(self, events):
        with open("events", "a") as file:
            for event in events:
                print(json.dumps([event.time, event.kind, dict(event.data)], default=str), file=file)

    def close(self):
        pass

def leave_mark(name):
    path = pathlib.Path.home() / "marks" / str(name)
    path.parent.mkdir(exist_ok=True)
    with open(path, "a") as file:
        file.write("x")

@weft.task
def work(number, seconds):
    leave_mark(number)
    time.sleep(seconds)
    return number

@weft.task
def large(size):
    leave_mark("large")
    return random.Random(7).randbytes(size)

if __name__ == "__main__":
    with weft.run("site.toml", sinks=[Events()]):
        size, seconds = int(sys.argv[1]), float(sys.argv[2])
        if size:
            print(hashlib.sha256(large(size).result()).hexdigest())
        else:
            print(sum(weft.gather([work(number, seconds) for number in range(60)]).result()))
"""


class Seen(NamedTuple):
    time: float
    kind: str
    data: dict[str, Any]


class Run:
    """A run of sixty calls of so many ``seconds``, or of one with a result of ``size`` bytes, on two nodes of
    one worker each. Each call leaves a mark at the site.
    """

    def __init__(
        self,
        site: Site,
        folder: Path,
        channel: str,
        agent: str = '{patience = "60s"}',
        size: int = 0,
        seconds: float = 0.1,
    ) -> None:
        self.site = site
        self.folder = folder
        environment = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache")}
        self._before = set(leftovers(site))
        (folder / "script.py").write_text(SCRIPT)
        (folder / "site.toml").write_text(
            site_config(channel, run="progress = true", executor=f"{SENSITIVE}agent = {agent}")
        )
        with open(folder / "stderr", "wb") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "script.py", str(size), str(seconds)],
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                start_new_session=True,
            )

    # -- what is seen ---------------------------------------------------------------------------------------

    @property
    def stderr(self) -> str:
        return (self.folder / "stderr").read_text()

    def events(self, kind: str) -> list[Seen]:
        with contextlib.suppress(FileNotFoundError):
            lines = (self.folder / "events").read_text().splitlines(keepends=True)
            seen = [Seen(*json.loads(line)) for line in lines if line.endswith("\n")]
            return [each for each in seen if each.kind == kind]
        return []

    def event(self, kind: str, since: float, timeout: float = 60.0) -> Seen:
        """The first one of this kind after that, which may have to be waited for."""

        def found() -> list[Seen]:
            return [each for each in self.events(kind) if each.time >= since]

        self.wait_until(f"the event {kind}", found, timeout)
        return found()[0]

    # -- what it costs --------------------------------------------------------------------------------------

    def marks(self) -> Counter[str]:
        """How often each call has begun."""
        return Counter({path.name: len(path.read_text()) for path in self.site.home.glob("marks/*")})

    def wait_for_marks(self, number: int) -> None:
        self.wait_until(f"{number} calls have run", lambda: len(self.marks()) >= number)

    def wait_until(self, what: str, condition: Callable[[], object], timeout: float = 60.0) -> None:
        """As the function does; one that has ended is not waited for."""
        try:
            wait_until(what, lambda: condition() or self.process.poll() is not None, timeout)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.stderr}") from None
        assert condition(), f"it has ended before {what}:\n{self.stderr}"

    def finish(self) -> str:
        """What it has printed."""
        try:
            stdout, _ = self.process.communicate(timeout=120)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it does not end:\n{self.stderr}") from None
        assert self.process.returncode == 0, self.stderr
        return stdout.strip()

    def check(self, fault: str, seen: str, *, lost: int = 0) -> None:
        """Tell what it has cost, once nothing is left; so many calls may be lost, and none has run twice."""
        begun = time.monotonic()
        try:
            wait_until("nothing is left", lambda: not self.left(), 40)
        except AssertionError:
            raise AssertionError(f"{fault}: this is left: {self.left()}") from None
        marks = self.marks()
        wanted = {"large"} if "large" in marks else {str(number) for number in range(60)}
        # A call may have been killed between opening its mark and writing to it.
        missing, again = len(wanted - set(marks)), sum(max(0, times - 1) for times in marks.values())
        took = time.monotonic() - begun
        print(f"measured: {fault}: {seen}, lost {missing}, twice {again}, left 0 after {took:.1f} s")
        assert missing <= lost
        assert again == 0

    def left(self) -> list[str]:
        """Jobs, processes and files at the site that were not there before."""
        return [each for each in leftovers(self.site) if each not in self._before]

    def kill(self) -> None:
        """At once, with what it has started here."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(10)

    def remove(self) -> None:
        """End it, whatever it does."""
        if self.process.poll() is None:
            self.kill()
        assert self.process.stdout is not None
        self.process.stdout.close()
        if jobs := [line.split()[0] for line in self.site.cluster.jobs()]:
            self.site.cluster.run("scancel", *jobs)
        self.site.run(["sh", "-c", "rm -rf /home/*/marks"])


# What is there to be used again, and what the provider keeps of its jobs.
_KEPT = (
    "*/.cache/weft/weft-agent-*.pyz",
    "*/.cache/weft/environments/*",
    "/tmp/weft-[0-9]*",
    "*/.weft/runs/*",
)
_LEFT = f"""
ps -u {USER} -o args= | sed 's/^/process /'
find /tmp /var/tmp /dev/shm "$@" -user {USER} ! -type d {" ".join(f"! -path '{path}'" for path in _KEPT)} |
sed 's/^/file /'
"""


def leftovers(site: Site) -> list[str]:
    """The user's jobs, processes and files, on all hosts."""
    found = [f"job {line}" for line in site.cluster.jobs()]
    for host in site.hosts:
        homes = [f"/home/{USER}"] if host == "login" else []
        lines = site.run(["sh", "-c", _LEFT, "sh", *homes], host).splitlines()
        found += [f"{line} on {host}" for line in lines if "/marks/" not in line]
    return found
