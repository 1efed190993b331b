"""What is left of runs behind a channel, on the site's hosts: after a clean end the caches that the README
names and nothing else; of a run that was killed, what ``weft reap`` finds and removes.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from servers.process import wait_until
from servers.site import Site
from servers.siteconfig import site_config
from servers.sshclient import USER

pytestmark = [pytest.mark.once, pytest.mark.timeout(300)]


# Each run has a name, and its task goes on until it is told to end.
APP = """
import pathlib, sys, time, weft

@weft.task
def wait(name):
    home = pathlib.Path.home()
    (home / f"begun-{name}").touch()
    while not (home / f"end-{name}").exists():
        time.sleep(0.1)
    (home / f"begun-{name}").unlink()
    return name

with weft.run(sys.argv[1], progress=False) as run:
    print(run.id, flush=True)
    print(wait(sys.argv[2]).result())
"""

# What the README says is kept on the hosts of a site.
CACHES = {
    "login": {
        r"\.cache/weft": "d",
        r"\.cache/weft/weft-agent-[0-9a-f]{24}\.pyz": "f",
        r"\.cache/weft/environments": "d",
        r"\.cache/weft/environments/node-\w+\.sh": "f",
        r"\.cache/weft/environments/modules-\w+\.tar\.gz": "f",
    },
    "node": {
        r"/tmp/weft-\d+": "d",
        r"/tmp/weft-\d+/modules-\w+": "d",
    },
}


def found(site: Site, host: str) -> dict[str, str]:
    """The paths of the user's files on a host, and of which kind each is; those below home from there on."""
    places = ["/home", "/tmp", "/var/tmp", "/dev/shm", "/run"]
    # What is unpacked is one thing. Processes may end meanwhile, and with them their files.
    command = f"find {' '.join(places)} -user {USER} -printf '%y %p\\n' -path '/tmp/weft-*/*' -prune"
    lines = site.run(["sh", "-c", f"{command} 2>/dev/null || :"], host).splitlines()
    return {
        path.removeprefix(f"/home/{USER}/"): kind for kind, path in (line.split(" ", 1) for line in lines)
    }


def processes(site: Site) -> list[str]:
    """The user's processes on all hosts, but for those that speak with a client."""
    listed = [
        line
        for host in site.hosts
        for line in site.run(["sh", "-c", f"ps -ww -u {USER} -o args= || :"], host).splitlines()
    ]
    return [line for line in listed if line and not line.startswith("sshd")]


@pytest.fixture
def clean(site: Site) -> Iterator[Callable[[], None]]:
    """A site where nobody has used Weft before; called, it asserts that only caches are left."""
    for host, path in [
        ("login", f"/home/{USER}/.cache"),
        *((node.name, "/tmp/weft-1500") for node in site.nodes),
    ]:
        site.run(["rm", "-rf", path], host)
    before = {host: found(site, host) for host in site.hosts}

    def check() -> None:
        wait_until("the user's processes have ended", lambda: not processes(site))
        assert site.cluster.run("squeue", "--noheader") == ""
        for host in site.hosts:
            caches = CACHES["login"] if host == "login" else {**CACHES["login"], **CACHES["node"]}
            after = found(site, host)
            new = {
                path: kind for path, kind in after.items() if path not in before[host] and path != ".cache"
            }
            strange = {
                path
                for path, kind in new.items()
                if not any(re.fullmatch(known, path) and kind == of for known, of in caches.items())
            }
            assert strange == set(), host

    yield check
    for name in site.home.glob("begun-*"):
        name.unlink()


class Run:
    """A process that runs APP, or another script, with a configuration."""

    def __init__(self, folder: Path, config: Path, name: str) -> None:
        script = folder / "app.py"
        script.write_text(APP)
        self.process = subprocess.Popen(
            [sys.executable, str(script), str(config), name],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self.process.stdout is not None
        self.name = name
        self.id = self.process.stdout.readline().strip()

    def kill(self) -> None:
        """With the programs that it uses, such as ssh."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate(timeout=30)

    def end(self) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=100)
        return self.process.returncode, out, err


@pytest.fixture
def start(site: Site, tmp_path: Path) -> Iterator[Callable[..., Run]]:
    """Start a run; ``options`` and ``worker_init`` are those of its provider."""
    runs: list[Run] = []

    def start(name: str, kind: str, *, options: str = "", worker_init: str = "") -> Run:
        config = tmp_path / f"{name}.toml"
        config.write_text(
            site_config(
                site.channel(kind),
                run='run_dir = "runs"\nshutdown_timeout = "1 min"',
                blocks="",
                provider=f"worker_init = '''{worker_init}'''\nscheduler_options = \"{options}\"",
            )
        )
        runs.append(Run(tmp_path, config, name))
        return runs[-1]

    yield start
    for run in runs:
        if run.process.poll() is None:
            run.kill()


def reap(folder: Path, config: str, *arguments: str, status: int = 0) -> str:
    command = [sys.executable, "-m", "weft", "reap", "--config", config, *arguments]
    done = subprocess.run(
        command,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("kind", ["ssh", "openssh"])
def test_a_run_leaves_the_caches_that_the_readme_names_and_nothing_else(
    site: Site, tmp_path: Path, start: Callable[..., Run], clean: Callable[[], None], kind: str
) -> None:
    (site.home / "end-it").touch()
    os.chown(site.home / "end-it", 1500, 1500)
    run = start("it", kind)
    status, out, err = run.end()
    assert (status, out) == (0, "it\n"), err
    assert not (tmp_path / "runs" / run.id).exists(), "nothing failed, so nothing is kept"
    (site.home / "end-it").unlink()
    clean()
    for known in CACHES["login"]:
        assert any(re.fullmatch(known, path) for path in found(site, "login")), known


def test_what_failed_blocks_wrote_is_here_afterwards(
    site: Site, tmp_path: Path, start: Callable[..., Run], clean: Callable[[], None]
) -> None:
    run = start("it", "ssh", worker_init="seq 20000 >&2; echo out of luck >&2; exit 7")
    status, _, err = run.end()
    assert status == 1
    assert "out of luck" in err
    written = sorted((tmp_path / "runs" / run.id).glob("**/blocks/*.err"))
    assert len(written) == 3
    for path in written:
        assert "out of luck" in path.read_text()
        assert path.stat().st_size == 65536
    clean()


@pytest.mark.parametrize("kind", ["ssh", "openssh"])
def test_what_killed_runs_left_is_found_and_removed_and_what_a_living_one_has_is_not(
    site: Site, tmp_path: Path, start: Callable[..., Run], clean: Callable[[], None], kind: str
) -> None:
    alive, works, waits = start("alive", kind), start("works", kind), start("waits", kind, options="--hold")
    wait_until(
        "two tasks run, and a job waits",
        lambda: len(list(site.home.glob("begun-*"))) == 2 and waits.id in jobs(site),
        timeout=90,
    )
    for run in (works, waits):
        run.kill()
    agents = {about["owner"]: about["pid"] for about in map(json.loads, records(site))}
    assert len(agents) == 3
    site.run(["kill", "-KILL", str(agents[json.dumps([waits.id, "htex"])])])

    listed = {
        each["run"]: each for each in json.loads(reap(tmp_path, "works.toml", "--json", status=1))["runs"]
    }
    assert {run.id: listed[run.id]["process"] for run in (alive, works, waits)} == {
        alive.id: "alive",
        works.id: "dead",
        waits.id: "dead",
    }
    for run, state in ((works, "running"), (waits, "held")):
        assert [job["state"] for job in listed[run.id]["jobs"]] == [state]
        assert sorted(each["kind"] for each in listed[run.id]["remains"]) == ["agent", "files"]

    said = reap(tmp_path, "works.toml", "--yes")
    assert "removed 2 of 2 jobs" in said
    assert said.count(", removed") == 4, said
    assert (site.home / ".weft/runs" / alive.id).is_dir()
    assert [path.name for path in (site.home / ".weft/runs").iterdir()] == [alive.id]
    assert works.id not in jobs(site)
    assert waits.id not in jobs(site)
    assert len(records(site)) == 1

    (site.home / "end-alive").touch()
    assert alive.end()[0] == 0
    (site.home / "end-alive").unlink()
    for path in site.home.glob("begun-*"):
        path.unlink()
    clean()


def records(site: Site) -> list[str]:
    """What agents say of themselves."""
    return [path.read_text() for path in (site.home / ".cache/weft/runs").glob("*") if path.suffix != ".part"]


def jobs(site: Site) -> str:
    return site.cluster.run("squeue", "--noheader", "--format=%k")
