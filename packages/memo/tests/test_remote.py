"""The store behind an fsspec URL: in memory, in a folder, and on a real FTP server."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from weft_interfaces import ConfigError, MemoEntry, MemoStore, MemoStoreError, MissingPluginError
from weft_interfaces.testing import MemoStoreSuite
from weft_memo import FileStore, RemoteStore

pytestmark = pytest.mark.once
LARGE = os.urandom(100_000)

SERVER = """
import sys
from pyftpdlib.authorizers import DummyAuthorizer
from pyftpdlib.handlers import FTPHandler
from pyftpdlib.servers import ThreadedFTPServer
authorizer = DummyAuthorizer()
authorizer.add_user("weft", "secret", sys.argv[1], perm="elradfmwMT")
class Handler(FTPHandler): pass
Handler.authorizer = authorizer
server = ThreadedFTPServer(("127.0.0.1", 0), Handler)
print(server.address[1], flush=True)
server.serve_forever()
"""


@pytest.fixture(scope="session")
def ftp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("ftp")
    argv = [sys.executable, "-c", SERVER, str(folder)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        yield f"ftp://weft:secret@127.0.0.1:{int(process.stdout.readline())}"
        process.terminate()


class TestInMemory(MemoStoreSuite):
    @pytest.fixture(autouse=True)
    def _place(self) -> None:
        self.url = f"memory://{uuid.uuid4().hex}/store"

    def make_store(self) -> MemoStore:
        return RemoteStore(self.url)

    def reopen(self, store: MemoStore) -> MemoStore:
        return RemoteStore(self.url)


class TestInAFolder(TestInMemory):
    @pytest.fixture(autouse=True)
    def _place(self, tmp_path: Path) -> None:
        self.url = f"file://{tmp_path}/store"


class TestOnAServer(TestInMemory):
    @pytest.fixture(autouse=True)
    def _place(self, ftp: str) -> None:
        self.url = f"{ftp}/{uuid.uuid4().hex}"


def entry(
    key: bytes, value: object = None, task: str = "app.f", time: float = 1.0, **components: bytes
) -> MemoEntry:
    return MemoEntry(key=key, task=task, value=value, time=time, run="run", components=components)


@pytest.fixture(params=["memory", "file", "ftp"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "ftp":
        return f"{request.getfixturevalue('ftp')}/{uuid.uuid4().hex}"
    return f"file://{tmp_path}/store" if request.param == "file" else f"memory://{uuid.uuid4().hex}"


def test_all_that_a_file_store_can_do(url: str, tmp_path: Path) -> None:
    store, target = RemoteStore(url), FileStore(tmp_path / "target")
    assert list(store.records()) == []
    store.describe({b"d" * 32: "text " * 100})
    store.put(entry(b"1", LARGE, x=b"d" * 32))
    store.put(entry(b"2", LARGE, time=2.0))
    store.put(entry(b"3", "small", "app/g ..", time=3.0))
    assert store.size()[0] == 3
    assert len(LARGE) < store.size()[1] < 1.5 * len(LARGE)
    assert [r.task for r in store.records("app/g*")] == ["app/g .."]
    assert store.export(target, store.records()) == (3, 0)
    assert target.get(b"2").value == LARGE
    assert target.description(b"d" * 32) == "text " * 100
    other = RemoteStore(url)
    assert target.export(other, target.records("app.f")) == (2, 0)
    assert other.verify() == []
    assert other.remove([b"3", b"none"]) == 1
    assert store.get(b"3") is None
    assert store.nearest("app/g ..", {}) is None
    removed = store.gc(max_size=120_000)
    assert removed.entries == 0
    assert store.gc(max_age=0).entries == 2
    assert store.size()[0] == 0
    for one in (store, target, other):
        one.close()


def test_damage_is_a_miss_with_a_reason(tmp_path: Path) -> None:
    url = f"file://{tmp_path}/store"
    store = RemoteStore(url)
    store.put(entry(b"large", LARGE))
    for name in (b"cut", b"flipped", b"alien", b"newer", b"fine"):
        store.put(entry(name, "a value"))
    store.flush()

    def change(path: str, change: object) -> None:
        file = tmp_path / "store" / path
        file.write_bytes(change(file.read_bytes()))

    def path(key: bytes) -> str:
        return f"entries/{key.hex()[:2]}/{key.hex()[2:]}"

    (value,) = (tmp_path / "store" / "values").glob("*/*")
    value.write_bytes(LARGE)
    change(path(b"cut"), lambda data: data[:100])
    change(path(b"flipped"), lambda data: data.replace(b"a value", b"a valve"))
    change(path(b"alien"), lambda data: b"<html>")
    change(path(b"newer"), lambda data: data.replace(b"weft-memo 1", b"weft-memo 2"))
    said = dict(store.verify())
    reasons = {
        b"large": "digest",
        b"cut": "damaged",
        b"flipped": "checksum",
        b"alien": "begin",
        b"newer": "newer",
    }
    assert said.keys() == reasons.keys()
    for key, reason in reasons.items():
        assert store.get(key) is None
        assert reason in said[key]
        assert store.problem(key) == said[key]
    assert {r.key for r in store.records()} == {b"fine", b"flipped", b"large"}, "it is values that are broken"
    store.close()


def test_values_that_nothing_refers_to_go_after_a_day(tmp_path: Path) -> None:
    store = RemoteStore(f"file://{tmp_path}/store")
    store.put(entry(b"1", LARGE))
    store.put(entry(b"2", LARGE[::-1]))
    store.flush()
    assert store.remove([b"1"]) == 1
    assert store.gc().files == 0, "it may be on its way"
    for path in (tmp_path / "store" / "values").glob("*/*"):
        os.utime(path, (1.0, 1.0))
    assert store.gc().files == 1
    assert store.get(b"2").value == LARGE[::-1]
    store.close()


def test_a_pickled_store_opens_the_same_url(tmp_path: Path) -> None:
    store = RemoteStore(f"file://{tmp_path}/store", auto_mkdir=True)
    store.put(entry(b"1", 1))
    store.flush()
    copy = pickle.loads(pickle.dumps(store))
    assert copy.get(b"1").value == 1
    assert copy.storage_options == {"auto_mkdir": True}
    store.close()
    copy.close()
    with pytest.raises(MemoStoreError, match="is closed"):
        store.get(b"1")


def test_what_cannot_be_opened_is_named() -> None:
    with pytest.raises(ConfigError, match="nothing://x"):
        RemoteStore("nothing://x")
    with pytest.raises(MemoStoreError, match=r"ftp://.* cannot be reached"):
        RemoteStore("ftp://127.0.0.1:1/x")


@pytest.mark.parametrize(
    ("blocked", "said"), [("fsspec", r"pip install weft-memo\[remote\]"), ("paramiko", "sftp://")]
)
def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch, blocked: str, said: str) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == blocked]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, blocked, None)
    with pytest.raises(MissingPluginError, match=said):
        RemoteStore("sftp://nowhere/x")


def test_a_server_that_goes_away_is_said_and_what_waits_is_kept(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", SERVER, str(tmp_path)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        store = RemoteStore(f"ftp://weft:secret@127.0.0.1:{int(process.stdout.readline())}/store")
        store.put(entry(b"1", 1))
        store.flush()
        process.terminate()
    store.put(entry(b"2", 2))
    with pytest.raises(MemoStoreError, match="1 results could not be written"):
        store.flush()
    assert store.get(b"2").value == 2
    with pytest.raises(MemoStoreError):
        store.close()
