"""Nodes that have neither Weft nor this Python run tasks with packages and modules that were sent to them."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest
import weft_executor_htex
from servers.process import unavailable
from servers.site import remote_site
from weft_channel_ssh import OpenSSHChannel
from weft_executor_htex.environment import find_environment
from weft_executor_htex.environment.archive import Entry, write
from weft_executor_htex.environment.conda import pack_conda

_NEEDED = ("numpy", "numpy.libs", "cloudpickle", "msgspec", "blake3")
_METADATA = ("numpy", "cloudpickle", "msgspec", "blake3")

# The node: whatever Python and packages this machine has for the tests, there are not there.
_CLIENT = """
import json, os, sys
import helpers, numpy
import weft
from weft_channel_local import LocalChannel

hidden, home, scratch, environment = json.loads(sys.argv[1])
HIDE = 'while [ "$1" != -- ]; do mount -t tmpfs none "$1" || exit 99; shift; done; shift; exec "$@"'
WORDS = ["unshare", "--mount", "--propagation", "private", "sh", "-c", HIDE, "sh", *hidden, "--"]

class Node:
    def wrap(self, command, shape):
        return [*WORDS, *command]

class Place(LocalChannel):
    def run(self, argv, **options):
        return super().run([*WORDS, *argv], **options)

def task(n):
    import pathlib, subprocess, sys
    words = ["python", "-c", "import numpy; print(numpy.__file__)"]
    return {
        "sum": int(numpy.arange(n).sum()),
        "value": helpers.VALUE,
        "data": helpers.DATA.read_text(),
        "numpy": numpy.__file__,
        "helpers": helpers.__file__,
        "child": subprocess.run(words, capture_output=True, text=True).stdout.strip(),
        "visible": [path for path in hidden if os.listdir(path)],
    }

if __name__ == "__main__":
    channel = Place(home=home, environment={"XDG_CACHE_HOME": home + "/cache"})
    blocks = weft.Blocks(provider=weft.LocalProvider(channel=channel), launcher=Node())
    executor = weft.HighThroughputExecutor(
        workers_per_node=1, environment=environment, scratch=scratch, blocks=blocks
    )
    with weft.run(weft.Config(executors=[executor])):
        print(json.dumps(weft.task(task)(10).result(timeout=60)))
"""


@pytest.fixture(scope="session")
def small(tmp_path_factory: Any) -> Path:
    """A virtual environment with numpy and what Weft needs, and nothing else."""
    folder: Path = tmp_path_factory.mktemp("small") / "small"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True, timeout=60)
    there = Path(sysconfig.get_path("purelib"))
    here = next(folder.glob("lib/python*/site-packages"))
    names = [name for name in _NEEDED if (there / name).exists()]
    names += [path.name for name in _METADATA for path in there.glob(f"{name}-*.dist-info")]
    names += [path.name for path in there.glob("*weft*.pth")]
    for name in names:
        (here / name).symlink_to(there / name)
    return folder


class Site:
    """A client's directories, and those of a place that shares its network and nothing that matters."""

    def __init__(self, folder: Path, small: Path, root: Path) -> None:
        self.small = small
        self.script, self.home, self.disk = folder / "script", folder / "home", folder / "disk"
        self.cache = self.home / "cache" / "weft" / "environments"
        self._own_cache = folder / "own cache"
        (self.script / "package").mkdir(parents=True)
        self.home.mkdir()
        (self.script / "main.py").write_text(_CLIENT)
        (self.script / "package" / "__init__.py").write_text("")
        (self.script / "package" / "data.txt").write_text("some data")
        self.edit(41)
        hidden = [sys.prefix, str(root), str(small), str(self.script)]
        self.hidden = hidden + [sys.base_prefix] * (sys.base_prefix != "/usr")

    def edit(self, value: int) -> None:
        data = "DATA = pathlib.Path(__file__).with_name('package') / 'data.txt'"
        (self.script / "helpers.py").write_text(f"import pathlib\nVALUE = {value}\n{data}\n")

    def run(self, environment: str | None) -> subprocess.CompletedProcess[str]:
        says = json.dumps([self.hidden, str(self.home), str(self.disk), environment])
        path = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
        return subprocess.run(
            [self.small / "bin" / "python", self.script / "main.py", says],
            cwd=self.home,
            env={**os.environ, "PATH": path, "XDG_CACHE_HOME": str(self._own_cache)},
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )

    def result(self, environment: str | None) -> dict[str, Any]:
        done = self.run(environment)
        assert done.returncode == 0, done.stderr
        return dict(json.loads(done.stdout))

    def sent(self, kind: str) -> list[str]:
        return sorted(path.name for path in self.cache.glob(f"{kind}-*"))

    def unpacked(self, kind: str) -> list[Path]:
        return sorted(self.disk.glob(f"weft-*/{kind}-*"))


@pytest.fixture
def place(tmp_path: Path, small: Path, root: Path) -> Site:
    if os.geteuid() != 0:
        unavailable("nodes without this Python need root, to hide it")
    return Site(tmp_path, small, root)


@pytest.mark.timeout(300)
def test_a_node_with_nothing_runs_numpy_from_the_packed_environment(place: Site) -> None:
    first = place.result("pack")
    [environment], [modules] = place.unpacked("env"), place.unpacked("modules")
    assert (first["sum"], first["value"], first["data"]) == (45, 41, "some data")
    assert first["numpy"].startswith(f"{environment}/env/lib/")
    assert first["child"] == first["numpy"]
    assert first["helpers"] == f"{modules}/000/helpers.py"
    assert first["visible"] == []
    sent, at = place.sent("env"), (environment / ".complete").stat().st_mtime_ns

    # Nothing is said, and the place has not this Python. What was sent is used again, if it has not changed.
    place.edit(42)
    again = place.result(None)
    assert (again["value"], again["numpy"]) == (42, first["numpy"])
    assert place.sent("env") == sent
    assert place.unpacked("env") == [environment]
    assert (environment / ".complete").stat().st_mtime_ns == at
    assert len(place.sent("modules")) == len(place.unpacked("modules")) == 2


def test_a_manager_starts_on_compute_nodes_without_python_that_ssh_leads_to(
    small: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    told: list[str] = []
    environment = find_environment(f"pack:{small}", None, "htex")
    with contextlib.ExitStack() as stack:
        site = stack.enter_context(remote_site(tmp_path / "s", login_python=None))
        channel = stack.enter_context(OpenSSHChannel("login", ["-F", str(site.config)]))
        prepared = environment.prepare(channel, lambda kind, **_: told.append(kind))
        words = ["srun", "--nodes=2", "--label", *prepared.command("weft_executor_htex.manager")]
        first, second = (channel.run(words, timeout=60).stderr.decode() for _ in range(2))
    for node in ("0", "1"):
        for said in (first, second):
            assert f"{node}: weft manager: no setup on the standard input" in said
        lines = [line for line in first.splitlines() if line.startswith(f"{node}: ")]
        assert len([line for line in lines if "unpacked on" in line]) == 2  # the environment and the modules
    assert "unpacked on" not in second
    assert told.count("environment.sent") == 3


def test_an_environment_of_conda_is_moved_by_conda_pack(tmp_path: Path) -> None:
    """One in conda's form, with a Python that is this one."""
    placeholder = "/opt/a-placeholder-of-some-length"
    prefix, package = tmp_path / "conda env", tmp_path / "pkgs" / "python-1.0-0"
    files = {
        "bin/python": f'#!/bin/sh\nexec {sys.executable} "$@"\n',
        "bin/tool": f"#!{placeholder}/bin/python\n",
        "etc/where": f"{placeholder}/data\n",
    }
    for folder, where in ((prefix, str(prefix)), (package, placeholder)):
        for name, text in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text.replace(placeholder, where))
            (folder / name).chmod(0o755)
    paths = [
        {"_path": name, "path_type": "hardlink", "prefix_placeholder": placeholder, "file_mode": "text"}
        for name in files
    ]
    (package / "info").mkdir()
    (package / "info" / "paths.json").write_text(json.dumps({"paths": paths}))
    (prefix / "conda-meta").mkdir()
    source = {"source": str(package)}
    info = {"name": "python", "version": "1.0", "url": "", "files": list(files), "link": source}
    (prefix / "conda-meta" / "python-1.0-0.json").write_text(json.dumps(info))

    archive = pack_conda(str(prefix), tmp_path / "env-conda.tar.gz")
    print_where = "def main():\n    import os\n    print(os.environ['PATH'].split(':')[0])\n"
    modules = write([Entry("000/program.py", data=print_where.encode())], tmp_path / "modules-1.tar.gz")
    version = "{}.{}".format(*sys.version_info)
    words = [
        "-l",
        "htex",
        "-v",
        version,
        "-e",
        str(archive.path),
        "-u",
        str(modules.path),
        "-s",
        str(tmp_path),
    ]
    script = Path(weft_executor_htex.__file__).parent / "environment" / "node.sh"
    started = ["/bin/sh", str(script), *words, "-s", str(tmp_path), "program"]
    said = subprocess.run(started, check=True, stdout=subprocess.PIPE, text=True, timeout=60).stdout.strip()
    assert said.endswith("/env-conda/env/bin")
    assert Path(said, "../etc/where").read_text() == f"{os.path.dirname(said)}/data\n"


def test_a_python_of_the_node_without_packages_is_named_with_the_remedy(place: Site, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", bare], check=True, timeout=60)
    place.hidden = place.hidden[1:4]
    done = place.run(str(bare))
    assert "NoBlocksError" in done.stderr
    assert f"{bare}/bin/python (Python " in done.stderr
    assert "lacks what managers need: No module named" in done.stderr
    assert 'Set environment="pack" to send the client\'s own, or run there:' in done.stderr
