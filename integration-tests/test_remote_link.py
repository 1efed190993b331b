"""Runs on a remote site whose one connection, client or agent comes to harm: what the user sees of it, and
what it costs: calls that are lost or run twice, and what is left at the site.

Keep-alives have three to eight seconds here, where users have 30 to 60: there is a table with those in the
README of ``weft-channel-ssh``.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from servers.process import children, wait_until
from servers.site import Site, remote_site
from servers.sshclient import USER, agent

pytestmark = [pytest.mark.once, pytest.mark.timeout(200)]

CONFIGURATION = """
progress = true

[[executors]]
type = "htex"
workers_per_node = 1
environment = "{environment}"
heartbeat_period = 1
heartbeat_threshold = 8
agent = {agent}

[executors.blocks]
init = 2
max = 2
walltime = "00:20:00"
launcher = "srun"

[executors.blocks.provider]
type = "slurm"
poll_interval = 1
cores_per_node = 1
channel = {channel}
"""

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
def work(number):
    leave_mark(number)
    time.sleep(0.1)
    return number

@weft.task
def large(size):
    leave_mark("large")
    return random.Random(7).randbytes(size)

if __name__ == "__main__":
    with weft.run("site.toml", sinks=[Events()]):
        if len(sys.argv) > 1:
            print(hashlib.sha256(large(int(sys.argv[1])).result()).hexdigest())
        else:
            print(sum(weft.gather([work(number) for number in range(60)]).result()))
"""

# What ends a silent connection after three to four seconds, and an attempt to connect after three.
QUICK: dict[str, Callable[[Site], dict[str, Any]]] = {
    "ssh": lambda site: {"keepalive": 1, "connect_timeout": 3},
    "openssh": lambda site: {
        "ssh_options": [
            *("-F", str(site.config), "-oServerAliveInterval=1"),
            *("-oServerAliveCountMax=3", "-oConnectTimeout=3"),
        ]
    },
}


class Seen(NamedTuple):
    time: float
    kind: str
    data: dict[str, Any]


class Run:
    """A run of sixty calls of 0.1 s, or of one with a result of ``size`` bytes, on two nodes of one worker
    each. Each call leaves a mark at the site.
    """

    def __init__(
        self, site: Site, folder: Path, channel: str, agent: str = '{patience = "60s"}', size: int = 0
    ) -> None:
        self.site = site
        self.folder = folder
        environment = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache")}
        self._before = set(leftovers(site))
        (folder / "script.py").write_text(SCRIPT)
        (folder / "site.toml").write_text(
            CONFIGURATION.format(environment=sys.executable, agent=agent, channel=channel)
        )
        with open(folder / "stderr", "wb") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "script.py", *([str(size)] if size else [])],
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

    def check(self, fault: str, seen: str, *, lost: int = 0, twice: int = 0) -> None:
        """Tell what it has cost, once nothing is left; so many calls may be lost, and run twice."""
        begun = time.monotonic()
        try:
            wait_until("nothing is left", lambda: not self.left(), 40)
        except AssertionError:
            raise AssertionError(f"{fault}: this is left: {self.left()}") from None
        marks = self.marks()
        wanted = {"large"} if "large" in marks else {str(number) for number in range(60)}
        missing, again = len(wanted - set(marks)), sum(marks.values()) - len(marks)
        took = time.monotonic() - begun
        print(f"measured: {fault}: {seen}, lost {missing}, twice {again}, left 0 after {took:.1f} s")
        assert missing <= lost
        assert again <= twice

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


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One of its own: what these tests do to it is not for others."""
    with remote_site(tmp_path_factory.mktemp("site") / "s", compute_python=Path(sys.executable)) as site:
        yield site


Start = Callable[..., Run]


@pytest.fixture
def start(site: Site, tmp_path: Path) -> Iterator[Start]:
    """Start a run over a channel of this kind."""
    runs: list[Run] = []

    def start(kind: str, channel: str = "", **settings: Any) -> Run:
        run = Run(site, tmp_path, channel or site.channel(kind, **QUICK[kind](site)), **settings)
        runs.append(run)
        return run

    yield start
    for run in runs:
        run.remove()


over_both = pytest.mark.parametrize("kind", ["ssh", "openssh"])


@contextlib.contextmanager
def cut(site: Site) -> Iterator[float]:
    """The connection is cut, without anybody being told. Since when."""
    # Nothing moves meanwhile, so that what it happens in is not over before.
    site.sshd.freeze()
    begun = time.time()
    try:
        site.cut()
    finally:
        site.sshd.thaw()
    try:
        yield begun
    finally:
        site.mend()


def shown(event: Seen, since: float) -> str:
    words = event.data.get("words") or event.data.get("reason")
    return f'seen as {event.kind} "{words}", after {event.time - since:.1f} s'


# -- the connection -----------------------------------------------------------------------------------------


@over_both
def test_a_connection_that_is_cut_and_restored_costs_nothing(start: Start, site: Site, kind: str) -> None:
    run = start(kind)
    run.wait_for_marks(4)
    with cut(site) as begun:
        lost = run.event("connection.lost", begun)
        run.wait_for_marks(60)  # they go on meanwhile
    mended = time.time()
    assert run.finish() == "1770"
    restored = run.event("connection.restored", begun)
    assert "login" in lost.data["words"]
    for event in (lost, restored):
        assert event.data["words"] in run.stderr
    print(f"measured: it was there again {restored.time - mended:.1f} s after the cable was")
    run.check(f"cut and restored, {kind}", shown(lost, begun))


@over_both
def test_an_ssh_server_that_is_restarted_costs_nothing(start: Start, site: Site, kind: str) -> None:
    """First as one that drops its sessions; then as most are, which leave them."""
    run = start(kind)
    run.wait_for_marks(4)
    begun = time.time()
    assert site.sshd.cut() == 1
    site.sshd.restart()
    lost = run.event("connection.lost", begun)
    restored = run.event("connection.restored", begun)
    site.sshd.restart()
    assert run.finish() == "1770"
    assert len(run.events("connection.lost")) == 1
    assert restored.data["words"] in run.stderr
    back = restored.data["seconds"]
    run.check(f"sshd restarted, {kind}", f"{shown(lost, begun)}, restored {back:.1f} s later")


@over_both
def test_a_laptop_that_sleeps_costs_nothing(start: Start, site: Site, kind: str) -> None:
    """For longer than its keep-alives have patience. Its ssh sleeps, too, and its network."""
    run = start(kind)
    run.wait_for_marks(4)
    asleep = [run.process.pid, *ssh_of(run.process.pid)]
    assert len(asleep) == (2 if kind == "openssh" else 1)
    until = time.monotonic() + 9
    for pid in asleep:
        os.kill(pid, signal.SIGSTOP)
    with cut(site):
        run.wait_for_marks(60)
        wait_until("it has slept for long enough", lambda: time.monotonic() > until)
    for pid in asleep:
        os.kill(pid, signal.SIGCONT)
    woken = time.time()
    assert run.finish() == "1770"
    ended = time.time() - woken
    lost = [each for each in run.events("connection.lost") if each.time >= woken]
    seen = shown(lost[0], woken) if lost else "nothing is seen, the connection lives on"
    run.check(f"laptop asleep, {kind}", f"{seen}, all results {ended:.1f} s after it woke")


def ssh_of(client: int) -> list[int]:
    """The user's own ssh that holds the connection of this process."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = path.read_bytes().split(b"\0")
            if words[0].startswith(b"ssh:") or any(f"weft-ssh-{client}-".encode() in word for word in words):
                found.append(int(path.parent.name))
    return found


@over_both
def test_a_connection_that_is_cut_during_authentication_is_made_again(
    start: Start, site: Site, tmp_path: Path, kind: str
) -> None:
    with agent(tmp_path, site.keys / "id") as real, slow_agent(tmp_path / "slow", real) as slow:
        config = tmp_path / "config"
        by_agent = f"IdentityAgent {slow.path}"
        words = site.config_with("none").read_text().replace("IdentitiesOnly yes", by_agent)
        config.write_text(words)
        run = start(kind, site.channel(kind, **with_config(QUICK[kind](site), config)))
        run.wait_until("it signs in", slow.asked.is_set)
        begun = time.time()
        assert site.sshd.cut() == 1
        slow.go.set()
        run.wait_for_marks(1)
        took = time.time() - begun
        assert run.finish() == "1770"
    run.check(f"cut during authentication, {kind}", f"nothing is seen, tried again; began {took:.1f} s later")


def with_config(options: dict[str, Any], config: Path) -> dict[str, Any]:
    if "ssh_options" in options:
        return {"ssh_options": ["-F", str(config), *options["ssh_options"][2:]]}
    return {**options, "config": str(config)}


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
            while request := receive(client):
                real.sendall(request)
                client.sendall(receive(real))


def receive(stream: socket.socket) -> bytes:
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


@over_both
def test_a_connection_that_is_cut_during_a_put_costs_nothing(
    start: Start, site: Site, tmp_path: Path, kind: str
) -> None:
    """Of the user's own modules, of which one has much data."""
    (tmp_path / "module").mkdir()
    (tmp_path / "module/__init__.py").write_text("")
    (tmp_path / "module/data").write_bytes(random.randbytes(30_000_000))
    run = start(kind)
    run.wait_until("some of it is there", lambda: part_of_the_modules(site) > 1_000_000)
    with cut(site) as begun:
        assert 0 < part_of_the_modules(site) < 30_000_000
        run.wait_until("it is seen", lambda: "is lost" in run.stderr)  # events come when it has begun
    run.wait_for_marks(1)
    lost = run.event("connection.lost", begun)
    assert run.finish() == "1770"
    run.check(f"cut during a put, {kind}", shown(lost, begun))


def part_of_the_modules(site: Site) -> int:
    with contextlib.suppress(FileNotFoundError):
        return sum(path.stat().st_size for path in site.home.glob(".cache/weft/environments/**/.weft-*.part"))
    return 0


@over_both
def test_a_large_result_arrives_whole_though_the_connection_is_cut(
    start: Start, site: Site, kind: str
) -> None:
    size = 100_000_000
    run = start(kind, size=size)
    run.wait_for_marks(1)
    run.wait_until("some of it is here", lambda: sent(site) > size // 10)
    with cut(site) as begun:
        assert sent(site) < size
        lost = run.event("connection.lost", begun)
    assert run.finish() == hashlib.sha256(random.Random(7).randbytes(size)).hexdigest()
    run.check(f"cut during a result of 100 MB, {kind}", shown(lost, begun))


def sent(site: Site) -> int:
    """Bytes that the processes of the connection have written."""
    written = 0
    for session in site.sshd.sessions():
        for pid in (session, *children(session)):
            with contextlib.suppress(OSError):
                lines = Path(f"/proc/{pid}/io").read_text().splitlines()
                written += int(next(line.split()[1] for line in lines if line.startswith("wchar")))
    return written


# -- its ends -----------------------------------------------------------------------------------------------

IMPATIENT = '{{patience = "4s", on_client_loss = "{loss}"}}'


def test_a_client_that_is_killed_leaves_nothing_at_the_site(start: Start, site: Site) -> None:
    run = start("ssh", agent=IMPATIENT.format(loss="cancel"))
    run.wait_for_marks(4)
    run.kill()
    run.check("client killed, cancel", "nobody is there to see it", lost=50)


def test_a_client_that_is_killed_has_its_calls_run_first_if_it_said_so(start: Start, site: Site) -> None:
    run = start("openssh", agent=IMPATIENT.format(loss="drain"))
    run.wait_for_marks(4)
    run.kill()
    run.check("client killed, drain", "nobody is there to see it")


def test_an_agent_that_is_killed_is_replaced(start: Start, site: Site) -> None:
    """Calls that it had begun may run twice: nobody can say of these what has become of them."""
    run = start("ssh")
    run.wait_for_marks(4)
    [record] = site.home.glob(".cache/weft/runs/*")
    begun = time.time()
    site.run(["kill", "-KILL", str(json.loads(record.read_text())["pid"])])
    lost = run.event("interchange.lost", begun)
    assert run.finish() == "1770"
    gone = run.event("agent.lost", begun)
    assert gone.data["words"] in run.stderr
    assert gone.data["reason"] in lost.data["reason"]
    run.check("agent killed", shown(gone, begun), twice=4)


# -- slow and lossy ones ------------------------------------------------------------------------------------

SMALL = ("wsgiref", "abc.py")


@pytest.fixture(scope="module")
def census(root: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """What the example says of a part of the library on this machine."""
    return take_census(root, tmp_path_factory.mktemp("census"), root / "examples/processes.toml")


def take_census(root: Path, folder: Path, config: Path) -> str:
    command = [sys.executable, "-m", "weft", "run", "--config", str(config)]
    done = subprocess.run(
        [*command, str(root / "examples/census/census.py"), "--", *SMALL],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return (folder / "census-output/census.csv").read_text()


@pytest.mark.parametrize(
    ("kind", "rtt", "loss"),
    [("ssh", 0.05, 0.0), ("openssh", 0.2, 0.01)],
)
def test_the_census_is_the_same_over_slow_and_lossy_connections(
    site: Site, root: Path, tmp_path: Path, census: str, kind: str, rtt: float, loss: float
) -> None:
    config = tmp_path / "site.toml"
    channel = site.channel(kind)
    config.write_text(CONFIGURATION.format(environment=sys.executable, agent="{}", channel=channel))
    begun = time.monotonic()
    site.delay(rtt, loss)
    try:
        assert take_census(root, tmp_path, config) == census
    finally:
        site.delay(0.0)
    took = time.monotonic() - begun
    print(f"measured: census with {rtt * 1e3:.0f} ms, {loss:.0%} loss, {kind}: the same, after {took:.1f} s")
