"""Runs that go on at a remote site when their process is gone, and whose results another process gets."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from servers.process import wait_until
from servers.site import Site
from servers.siteconfig import site_config

pytestmark = [pytest.mark.once, pytest.mark.timeout(300)]

CALLS = 60
PATIENCE = 90.0

# Calls leave marks at the site. What has come is printed.
SCRIPT = """
import pathlib, time
import weft

@weft.task
def work(number):
    with open(pathlib.Path.home() / f"ran-{number}", "a") as file:
        file.write("x")
    time.sleep(0.25)
    return number * number

if __name__ == "__main__":
    with weft.run() as run:
        futures = [work(number) for number in range(CALLS)]
        print("submitted", flush=True)
        for future in weft.as_completed(futures):
            print(future.result(), flush=True)
""".replace("CALLS", str(CALLS))


class Client:
    """The process of a run, which is to be killed."""

    def __init__(self, site: Site, folder: Path, kind: str) -> None:
        self.site = site
        self.folder = folder
        (folder / "script.py").write_text(SCRIPT)
        config = folder / "site.toml"
        config.write_text(site_config(site.channel(kind), run="detach = true", executor='label = "site"'))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "weft", "run", "--quiet", "--config", str(config), "script.py"],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def read(self, lines: int) -> list[str]:
        """So many more of the lines that it prints."""
        assert self.process.stdout is not None
        found = [self.process.stdout.readline().strip() for _ in range(lines)]
        if "" in found:
            _, stderr = self.process.communicate(timeout=20)
            pytest.fail(stderr)
        return found

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=20)

    def marks(self) -> dict[str, str]:
        """How often each call has run so far."""
        return {path.name: path.read_text() for path in self.site.home.glob("ran-*")}

    def attach(self, *arguments: str, run: str = "last") -> subprocess.CompletedProcess[str]:
        """From another directory, by the run's directory alone."""
        command = [
            sys.executable,
            "-m",
            "weft",
            "attach",
            run,
            "--run-dir",
            str(self.folder / "runs"),
            *arguments,
        ]
        return subprocess.run(
            command,
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )

    def is_all_over(self) -> None:
        """Every call has run once, and nothing of the run is left at the site."""
        assert self.marks() == {f"ran-{number}": "x" for number in range(CALLS)}
        wait_until("no job is left", lambda: not self.site.cluster.jobs(), PATIENCE)
        wait_until(
            "no agent is left", lambda: "weft-agent" not in self.site.run(["ps", "-eo", "args"]), PATIENCE
        )
        assert not list(self.site.home.glob(".cache/weft/runs/*"))
        assert not list(self.site.path("/tmp").glob("weft-agent-*"))


@pytest.fixture(params=["ssh", "openssh"])
def client(site: Site, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Callable[[], Client]]:
    clients: list[Client] = []

    def start() -> Client:
        clients.append(Client(site, tmp_path, request.param))
        return clients[-1]

    yield start
    for each in clients:
        each.kill()
    for path in site.home.glob("ran-*"):
        path.unlink()


def outcomes(attached: subprocess.CompletedProcess[str]) -> list[str]:
    """The lines of an attachment that went well."""
    assert attached.returncode == 0, f"{attached.stdout}\n{attached.stderr}"
    *lines, last = attached.stdout.splitlines()
    assert last == f"{CALLS} tasks: {CALLS} done"
    return sorted(lines)


EXPECTED = sorted(f"task {number} work: done {number * number}" for number in range(CALLS))


def test_another_process_gets_all_results_of_a_client_that_was_killed(client: Callable[[], Client]) -> None:
    """While they were half delivered; each call has run once, and a second look finds the same."""
    run = client()
    run.read(1 + CALLS // 3)
    run.kill()
    begun = time.monotonic()
    attached = run.attach()
    print(f"measured: attach had all results after {time.monotonic() - begun:.1f} s")
    assert outcomes(attached) == EXPECTED
    run.is_all_over()
    assert outcomes(run.attach()) == EXPECTED
    again = [json.loads(line) for line in run.attach("--json").stdout.splitlines()]
    assert again[-1] == {"tasks": CALLS, "done": CALLS, "failed": 0, "cancelled": 0}
    assert {each["task"]: each["value"] for each in again[:-1]} == {n: n * n for n in range(CALLS)}


def test_calls_run_without_their_client_and_the_nodes_are_given_back(client: Callable[[], Client]) -> None:
    """Also of one that was killed before its blocks ran."""
    run = client()
    cluster = run.site.cluster
    for node in cluster.nodes:
        cluster.set_node(node, "drain")
    try:
        run.read(1)
        wait_until("its jobs wait", lambda: len(cluster.jobs()) == 2, PATIENCE)
        refused = run.attach()
        assert refused.returncode == 2
        assert f"process {run.process.pid} on " in refused.stderr
        run.kill()
    finally:
        for node in cluster.nodes:
            cluster.set_node(node, "resume")
    wait_until("all have run", lambda: len(run.marks()) == CALLS, PATIENCE)
    wait_until("the nodes are free", lambda: not cluster.jobs(), PATIENCE)
    assert outcomes(run.attach()) == EXPECTED
    run.is_all_over()
