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
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from servers.process import children, wait_until
from servers.remoterun import SENSITIVE, Run, Seen
from servers.site import Site, remote_site
from servers.siteconfig import site_config
from servers.slowagent import slow_agent
from servers.sshclient import agent

pytestmark = [pytest.mark.once, pytest.mark.timeout(200)]


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


def ssh_of(client: int) -> list[int]:
    """The user's own ssh that holds the connection of this process."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if f"weft-ssh-{client}-".encode() in path.read_bytes():
                found.append(int(path.parent.name))
    return found


def sent(site: Site) -> int:
    """Bytes that the processes of the connection have written."""
    written = 0
    for session in site.sshd.sessions():
        for pid in (session, *children(session)):
            with contextlib.suppress(OSError):
                lines = Path(f"/proc/{pid}/io").read_text().splitlines()
                written += int(next(line.split()[1] for line in lines if line.startswith("wchar")))
    return written


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


# -- its ends -----------------------------------------------------------------------------------------------

IMPATIENT = '{{patience = "4s", on_client_loss = "{loss}"}}'


def test_a_client_that_is_killed_leaves_nothing_at_the_site(start: Start, site: Site) -> None:
    run = start("ssh", agent=IMPATIENT.format(loss="cancel"), seconds=0.4)
    run.wait_for_marks(4)
    run.kill()
    run.check("client killed, cancel", "nobody is there to see it", lost=56)
    assert len(run.marks()) < 60


def test_a_client_that_is_killed_has_its_calls_run_first_if_it_said_so(start: Start, site: Site) -> None:
    run = start("openssh", agent=IMPATIENT.format(loss="drain"), seconds=0.4)
    run.wait_for_marks(4)
    run.kill()
    run.check("client killed, drain", "nobody is there to see it")


@pytest.mark.parametrize("blocks", ["agent", "client"])
def test_an_agent_that_is_killed_is_replaced(start: Start, site: Site, blocks: str) -> None:
    """Twice; the blocks and all that runs in them are the next one's."""
    run = start("ssh", agent=f'{{patience = "60s", blocks = "{blocks}"}}', seconds=0.4)
    said = []
    for marks in (4, 20):
        run.wait_for_marks(marks)
        [record] = site.home.glob(".cache/weft/runs/*")
        begun = time.time()
        site.run(["kill", "-KILL", str(json.loads(record.read_text())["pid"])])
        lost = run.event("interchange.lost", begun)
        gone = run.event("agent.lost", begun)
        assert gone.data["words"] in run.stderr
        assert gone.data["reason"] in lost.data["reason"]
        said.append(shown(gone, begun))
    assert run.finish() == "1770"
    assert len(run.events("block.requested")) == 2
    run.check(f"agent killed, blocks of the {blocks}", said[0])


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
    config.write_text(site_config(site.channel(kind), executor=SENSITIVE))
    begun = time.monotonic()
    site.delay(rtt, loss)
    try:
        assert take_census(root, tmp_path, config) == census
    finally:
        site.delay(0.0)
    took = time.monotonic() - begun
    print(f"measured: census with {rtt * 1e3:.0f} ms, {loss:.0%} loss, {kind}: the same, after {took:.1f} s")
