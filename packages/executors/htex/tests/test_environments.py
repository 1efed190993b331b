"""What is sent to nodes, and how they start with it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from weft_executor_htex import HighThroughputExecutor
from weft_executor_htex.environment import archive, bundle, find_environment
from weft_executor_htex.environment.archive import Entry
from weft_executor_htex.environment.depot import Depot
from weft_executor_htex.environment.glibc import needed
from weft_executor_htex.environment.prefix import Prefix, key, probe
from weft_executor_htex.versions import describe, remedy, unloadable
from weft_interfaces import Blocks, ChannelError, ConfigError, Event
from weft_interfaces.memory import InMemoryProvider
from weft_interfaces.testing import RootedChannel

pytestmark = pytest.mark.once

_NODE = Path(bundle.__file__).with_name("node.sh")
_HERE = "{}.{}".format(*sys.version_info)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: Any) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "weft" / "environments"


@pytest.fixture
def script(tmp_path: Path, monkeypatch: Any) -> Path:
    """The directory of a user's script, first on the path."""
    folder = tmp_path / "script"
    (folder / "package" / "inner").mkdir(parents=True)
    (folder / "package" / "__init__.py").write_text("NUMBER = 1\n")
    (folder / "package" / "table.csv").write_text("1,2\n")
    (folder / "package" / "inner" / "deep.py").write_text("")
    (folder / "helper.py").write_text("import package\n")
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
    return folder


# -- the setting --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"environment": " "}, "environment of executor 'htex' must be \"pack\""),
        ({"environment": "pack:/no/such/place"}, "there is no /no/such/place"),
        ({"scratch": "/tmp/$(reboot)"}, "scratch of executor 'htex'"),
        ({"scratch": ""}, "scratch of executor 'htex'"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        HighThroughputExecutor(blocks=Blocks(provider=InMemoryProvider()), **settings)
    assert words in str(caught.value)


def test_what_is_no_python_cannot_be_packed(tmp_path: Path, cache: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho not today >&2; exit 1\n")
    python.chmod(0o755)
    with pytest.raises(ConfigError, match="is no Python that works: not today"):
        find_environment(f"pack:{python}", None, "htex").prepare(None, lambda kind, **data: None)


def test_another_minor_version_is_not_packed(tmp_path: Path, cache: Path) -> None:
    python = tmp_path / "python"
    patch = "import sys, platform; platform.python_version = lambda: '3.6.1'\n"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{patch}$2"\n')
    python.chmod(0o755)
    with pytest.raises(ConfigError, match=rf"is Python 3\.6, that of the client {_HERE}"):
        find_environment(f"pack:{python}", None, "htex").prepare(None, lambda kind, **data: None)


# -- the user's modules -------------------------------------------------------------------------------------


def test_modules_and_packages_travel_but_no_data_and_no_environments(script: Path) -> None:
    for name in (
        "data/big.csv",
        ".git/hooks.py",
        "venv/pyvenv.cfg",
        "venv/thing.py",
        "notes.txt",
        "a-b/c.py",
    ):
        (script / name).parent.mkdir(exist_ok=True)
        (script / name).write_text("x")
    names = [entry.name for entry in bundle.collect([str(script)], "of it")]
    inside = ["package/__init__.py", "package/inner/deep.py", "package/table.csv"]
    assert names == ["000/helper.py", *(f"000/{name}" for name in inside)]


def test_the_users_part_of_the_path(script: Path) -> None:
    entries = bundle.user_entries()
    assert entries[0] == str(script)
    assert not any("site-packages" in entry or entry == os.path.dirname(os.__file__) for entry in entries)


def test_packages_that_setuptools_has_made_editable_travel(tmp_path: Path, monkeypatch: Any) -> None:
    source, site = tmp_path / "project" / "src" / "thing", tmp_path / "site-packages"
    source.mkdir(parents=True)
    site.mkdir()
    (source / "__init__.py").write_text("")
    finder = f"MAPPING: dict[str, str] = {{'thing': {str(source)!r}}}\nNAMESPACES: dict = {{}}\n"
    (site / "__editable___thing_1_0_finder.py").write_text(finder)
    monkeypatch.setattr(sys, "path", [*sys.path, str(site)])
    assert [entry.name for entry in bundle.collect([], "of it")] == ["000/thing/__init__.py"]


def test_what_is_too_large_for_modules_is_named(script: Path) -> None:
    with open(script / "package" / "weights.bin", "wb") as file:
        file.truncate(200 << 20)
    with pytest.raises(ConfigError, match=r"environment of executor 'a'.*weights\.bin \(209\.7 MB\)"):
        bundle.collect([str(script)], "of executor 'a'")


def test_only_the_content_of_modules_counts(script: Path) -> None:
    first = archive.digest(bundle.collect([str(script)], ""))
    os.utime(script / "helper.py", (1, 1))
    assert archive.digest(bundle.collect([str(script)], "")) == first
    (script / "package" / "table.csv").write_text("1,3\n")
    assert archive.digest(bundle.collect([str(script)], "")) != first


# -- archives -----------------------------------------------------------------------------------------------


def test_an_archive_holds_files_links_and_permissions(tmp_path: Path) -> None:
    large = tmp_path / "large"
    large.write_bytes(os.urandom(9 << 20))
    entries = [
        Entry("large", str(large)),
        Entry("program", data=b"#!/bin/sh\necho works\n", executable=True),
        Entry("link", link="program"),
    ]
    made = archive.write(entries, tmp_path / "a.tar.gz")
    assert made.size == (tmp_path / "a.tar.gz").stat().st_size
    assert made.unpacked >= 9 << 20
    (tmp_path / "out").mkdir()
    subprocess.run(["tar", "-xzf", made.path, "-C", tmp_path / "out"], check=True)
    assert (tmp_path / "out" / "large").read_bytes() == large.read_bytes()
    assert subprocess.check_output([tmp_path / "out" / "link"]) == b"works\n"
    again = archive.write(entries, tmp_path / "b.tar.gz")
    assert again.path.read_bytes() == made.path.read_bytes()


def test_nothing_is_left_of_an_archive_that_could_not_be_written(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        archive.write([Entry("gone", str(tmp_path / "gone"))], tmp_path / "a.tar.gz")
    assert list(tmp_path.iterdir()) == []


# -- where they are kept ------------------------------------------------------------------------------------


class Told(list[tuple[str, str]]):
    """The events that a depot tells."""

    def __call__(self, kind: str, **data: object) -> None:
        self.append((kind, str(data["name"])))


@pytest.fixture
def far(tmp_path: Path, cache: Path, monkeypatch: Any) -> RootedChannel:
    far = RootedChannel(tmp_path / "far")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    return far


def test_what_is_there_is_not_sent_again_but_for_what_is_broken(far: RootedChannel) -> None:
    told = Told()
    depot = Depot(far, told)
    path = depot.keep("node-1.sh", b"exit\n")
    there = depot.deliver(path)
    assert there == f"{far.home}/.cache/weft/environments/node-1.sh"
    assert far.here(there).read_bytes() == b"exit\n"
    assert Depot(far, told).deliver(path) == there
    assert told == [("environment.sent", "node-1.sh")]
    far.here(there).write_bytes(b"")
    depot.deliver(path)
    assert far.here(there).read_bytes() == b"exit\n"


def test_what_nobody_has_used_for_a_month_goes_there(far: RootedChannel) -> None:
    depot = Depot(far, Told())
    old, new = (depot.deliver(depot.keep(name, b"")) for name in ("node-1.sh", "node-2.sh"))
    os.utime(far.here(old), (1, 1))
    Depot(far, Told())
    assert [far.here(path).exists() for path in (old, new)] == [False, True]


def test_a_place_that_takes_no_files_is_named(far: RootedChannel) -> None:
    (far.here(far.home) / ".cache").write_text("no directory")
    depot = Depot(far, Told())
    with pytest.raises(
        ChannelError, match=r"node-1.sh of 0 B cannot be put into .*/\.cache/weft/environments on far-"
    ):
        depot.deliver(depot.keep("node-1.sh", b""))


def test_it_is_made_once_for_each_key(cache: Path) -> None:
    told = Told()
    depot = Depot(None, told)
    made: list[Path] = []

    def make(path: Path) -> archive.Archive:
        made.append(path)
        return archive.write([Entry("file", data=b"content")], path)

    first = depot.pack("a", make)
    assert depot.pack("a", make) == first
    assert depot.pack("b", make) == first  # its content has the same name
    assert len(made) == len(told) == 2
    first.path.unlink()
    assert depot.pack("a", make) == first
    assert sorted(path.suffix for path in cache.iterdir()) == [".gz", ".json", ".json"]


# -- environments -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def prefix() -> Prefix:
    return probe(sys.executable)


def test_an_environment_is_its_python_and_packages(prefix: Prefix) -> None:
    names = {entry.name for entry in prefix.entries()}
    assert {f"base/bin/python{_HERE}", "env/bin/python", "env/pyvenv.cfg"} <= names
    assert f"env/lib/python{_HERE}/site-packages/cloudpickle/__init__.py" in names
    assert any(name.endswith("/os.py") for name in names)
    assert not any("/test/" in name for name in names if name.startswith("base/"))


def test_its_key_changes_with_its_files(prefix: Prefix, tmp_path: Path) -> None:
    module, compiled = tmp_path / "module.py", tmp_path / "module.pyc"
    module.write_text("a = 1\n")
    compiled.write_text("a")
    entries = [Entry("module.py", str(module)), Entry("module.pyc", str(compiled))]
    first = key(entries)
    compiled.write_text("another")
    assert key(entries) == first
    module.write_text("a = 2, 3\n")
    assert key(entries) != first


def _compiled(path: Path, *versions: str) -> None:
    """A file that says what a linker says of compiled code."""
    path.parent.mkdir(exist_ok=True)
    names = b"".join(b"\0GLIBC_" + version.encode() for version in versions)
    path.write_bytes(b"\x7fELF" + bytes(60) + names + b"\0")


def test_the_c_library_that_compiled_code_needs_is_read_from_it(tmp_path: Path) -> None:
    site = "env/lib/python3.11/site-packages"
    files = {
        "base/lib/libpython3.11.so": ("2.2.5", "2.9", "2.17"),
        f"{site}/numpy/core.so": ("2.4",),
        f"{site}/numpy.libs/libblas.so": ("2.28", "2.3.4"),
        f"{site}/_cffi.cpython-311.so": ("2.14",),
        f"{site}/pure.py": (),
        "000/own/fast.so": ("2.40",),
    }
    entries = []
    for number, (name, versions) in enumerate(files.items()):
        path = tmp_path / str(number)
        _compiled(path, *versions)
        entries.append(Entry(name, str(path)))
    (tmp_path / "4").write_text("GLIBC_2.99 is a text here")
    assert needed(entries) == {"Python": "2.17", "_cffi": "2.14", "numpy": "2.28", "own": "2.40"}


def test_what_a_node_cannot_load_is_said_in_words() -> None:
    here = os.confstr("CS_GNU_LIBC_VERSION")
    assert here is not None
    found = unloadable({"old": "2.2.5", "new": "2.99"})
    assert found == {"new": f"needs glibc 2.99, and there is {here.partition(' ')[2]}"}
    assert describe(found).startswith("new needs glibc 2.99, and there is 2.")
    assert remedy(found).startswith("take a Python that suits any glibc")
    assert 'environment="pack"' in remedy(found | {"other": "1.0"})
    assert unloadable({}) == {}


def test_what_would_start_is_known_without_packing_anything(cache: Path, script: Path) -> None:
    provider = InMemoryProvider()
    for environment, words in (
        ("pack", "-e CACHE/weft/environments/env-CONTENT.tar.gz"),
        ("python3", "-p python3"),
    ):
        executor = HighThroughputExecutor(blocks=Blocks(provider=provider), environment=environment)
        command = " ".join(executor.outline("RUN-1").argv)
        assert words in command
        assert "-u CACHE/weft/environments/modules-CONTENT.tar.gz" in command
    assert not cache.exists()


_PIPES: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}

# -- on the node --------------------------------------------------------------------------------------------

_PRINT = """
def main():
    import helper, os, sys, pathlib
    table = pathlib.Path(helper.package.__file__).with_name("table.csv")
    print(helper.package.NUMBER, table.read_text().strip())
    print(sys.path[0], sys.stdin.read())
"""


class Node:
    """Runs ``node.sh`` with the modules of a script."""

    def __init__(self, folder: Path, script: Path) -> None:
        (script / "program.py").write_text(_PRINT)
        self.disk = folder / "disk"
        entries = bundle.collect([str(script)], "")
        self.modules = archive.write(entries, folder / f"modules-{archive.digest(entries)}.tar.gz").path

    def words(self, **options: object) -> list[str]:
        said = {"l": "htex", "v": _HERE, "i": "it", "p": sys.executable, "u": self.modules, "k": 100}
        said |= {"s": self.disk} | options
        words = ["/bin/sh", str(_NODE)]
        for name, value in said.items():
            words += [f"-{name}", str(value)] if value is not None else []
        return [*words, "program"]

    def start(self, **options: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.words(**options), input="keys", capture_output=True, text=True, timeout=60, check=False
        )


@pytest.fixture
def node(tmp_path: Path, script: Path) -> Node:
    return Node(tmp_path, script)


def test_modules_are_unpacked_once_and_first_on_the_path(node: Node, monkeypatch: Any) -> None:
    first, second = node.start(), node.start()
    folder = f"{node.disk}/weft-{os.getuid()}/{node.modules.name.removesuffix('.tar.gz')}"
    assert first.stdout.splitlines() == ["1 1,2", f"{folder}/000 keys"]
    assert f"{folder} unpacked on" in first.stderr
    assert (second.stdout, second.stderr) == (first.stdout, "")
    assert os.stat(os.path.dirname(folder)).st_mode & 0o777 == 0o700


def test_managers_of_one_node_unpack_once(node: Node) -> None:
    started = [
        subprocess.Popen(
            node.words(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(6)
    ]
    said = [process.communicate(timeout=60)[1] for process in started]
    assert [process.returncode for process in started] == [0] * 6, said
    assert sum("unpacked on" in words for words in said) == 1


def test_what_a_killed_manager_left_half_unpacked_is_unpacked_again(node: Node) -> None:
    folder = node.disk / f"weft-{os.getuid()}" / node.modules.name.removesuffix(".tar.gz")
    (folder / "000").mkdir(parents=True)
    (folder / "000" / "program.py").write_text("broken")
    assert "unpacked on" in node.start().stderr
    assert node.start().stdout.startswith("1 1,2")


def test_what_nobody_has_used_for_long_goes_unless_it_is_in_use(node: Node) -> None:
    root = node.disk / f"weft-{os.getuid()}"
    for name in ("env-old", "env-new", "env-used"):
        (root / name).mkdir(parents=True)
    for name in ("env-old", "env-used"):
        os.utime(root / name, (1, 1))
    with subprocess.Popen(["flock", "-s", root / "env-used", "sh", "-c", "echo; cat"], **_PIPES) as user:
        assert user.stdout is not None
        user.stdout.readline()
        node.start()
        assert user.stdin is not None
        user.stdin.close()
    assert sorted(path.name for path in root.glob("env-*")) == ["env-new", "env-used"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"u": "/shared/modules-1.tar.gz"},
            "must share the file system of the host that jobs are submitted on",
        ),
        ({"p": "/no/python"}, "there is no /no/python: set environment"),
        ({"v": "3.1"}, f"is Python {_HERE}, that of the client 3.1"),
        ({"k": 1 << 50}, "has no room for"),
        ({"s": "/proc"}, "scratch: /proc is not writable"),
    ],
)
def test_what_is_wrong_on_a_node_is_said_in_words(node: Node, options: dict[str, Any], words: str) -> None:
    done = node.start(**options)
    assert done.returncode == 3
    assert words in done.stderr
    assert done.stderr.splitlines()[-1].startswith("weft: environment of executor 'htex', on ")


def test_a_python_that_lacks_weft_is_named_with_the_remedy(node: Node, tmp_path: Path) -> None:
    entries = [Entry("000/program.py", data=b"import nothing_of_the_kind\n")]
    broken = archive.write(entries, tmp_path / "modules-broken.tar.gz").path
    done = node.start(u=broken)
    assert "lacks what managers need: No module named 'nothing_of_the_kind'" in done.stderr
    assert f"{sys.executable} -m pip install it" in done.stderr


def test_an_archive_that_is_cut_off_is_not_used(node: Node) -> None:
    node.modules.write_bytes(node.modules.read_bytes()[:-40])
    assert "cannot be unpacked" in node.start().stderr
    assert node.start().returncode == 3


def test_a_directory_of_somebody_else_is_not_used(node: Node, tmp_path: Path) -> None:
    node.disk.mkdir()
    (tmp_path / "elsewhere").mkdir()
    (node.disk / f"weft-{os.getuid()}").symlink_to(tmp_path / "elsewhere")
    assert "not writable" in node.start().stderr
    assert list((tmp_path / "elsewhere").iterdir()) == []


# -- managers -----------------------------------------------------------------------------------------------


def test_other_versions_are_one_event_and_one_warning(
    site: Callable[..., Any], recorder: Any, eventually: Callable[..., None], caplog: Any, monkeypatch: Any
) -> None:
    place = site()
    versions = {"cloudpickle": "0.1", "no-such-thing": "2.0"}
    prepared = place.executor._session.prepared
    object.__setattr__(prepared, "versions", versions)
    for block in ("a", "b"):
        place.start(block)
    eventually(lambda: len(place.executor.status()["managers"]) == 2, "both register")
    found: list[Event] = [event for event in recorder.events if event.kind == "environment.differs"]
    assert len(found) == 1
    words = found[0].data["words"]
    assert "cloudpickle" in words
    assert "no-such-thing missing there" in words
    assert [record.levelname for record in caplog.records if "cloudpickle" in record.message] == ["WARNING"]


def test_modules_of_the_user_run_on_nodes_from_what_was_sent(
    site: Callable[..., Any], recorder: Any, cache: Path, script: Path, tmp_path: Path
) -> None:
    place = site(environment=sys.executable, scratch=str(tmp_path / "disk"))
    place.start()
    (script / "helper.py").unlink()  # on the node it is still there

    def where() -> str:
        import helper  # type: ignore[import-not-found]

        return str(helper.__file__)

    assert recorder.value(place.executor, where).startswith(str(tmp_path / "disk"))
