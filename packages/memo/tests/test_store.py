"""The folder of a file store, and what befalls it."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import pickle
import queue
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from weft_interfaces import ConfigError, MemoEntry, MemoStoreError, SerializationError, UnitError
from weft_memo import FileStore

sys.path.append(str(Path(__file__).parent))
from memo_crowd import LARGE, entry, key, large, work

pytestmark = pytest.mark.once


def files(folder: Path) -> list[Path]:
    return sorted(path for path in (folder / "values").glob("??/*"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store"


def filled(path: Path, count: int = 200) -> None:
    store = FileStore(path)
    for number in range(count):
        store.put(entry(number, {"number": number}, x=key(number)))
        store.describe({key(number): f"text {number}"})
    store.close()


def held(path: Path, count: int = 200) -> int:
    """How many of the entries can be read; the others are missing, not wrong."""
    store = FileStore(path)
    found = [store.get(key(number)) for number in range(count)]
    for number, one in enumerate(found):
        assert one is None or one.value == {"number": number}
    store.put(entry(count + 1, "after"))
    store.flush()
    assert store.get(key(count + 1)).value == "after", "the store takes new entries"
    store.remove([key(count + 1)])
    store.close()
    return sum(one is not None for one in found)


# -- what is kept -------------------------------------------------------------------------------------------


def test_equal_large_results_are_kept_once(path: Path) -> None:
    store = FileStore(path)
    for number in range(20):
        store.put(entry(number, large(number % 2)))
    store.flush()
    assert len(files(path)) == 2
    assert store.get(key(7)).value == large(1)
    store.close()


def test_small_results_are_in_the_index(path: Path) -> None:
    filled(path)
    assert files(path) == []


def test_an_error_comes_back_with_its_cause(path: Path) -> None:
    error = ValueError("bad", 3)
    error.__cause__ = KeyError("root")
    error.__cause__.__cause__ = OSError(2, "gone")
    store = FileStore(path)
    store.put(MemoEntry(key=b"k", task="t", value=None, error=error))
    for _ in range(2):
        found = store.get(b"k").error
        assert (type(found), found.args) == (ValueError, ("bad", 3))
        assert repr(found.__cause__) == "KeyError('root')"
        assert isinstance(found.__cause__.__cause__, FileNotFoundError)
        store.flush()
    store.close()


class Picky(Exception):
    def __init__(self, one: object, *, two: object) -> None:
        super().__init__(one)


def test_an_error_that_cannot_be_pickled_is_refused(path: Path) -> None:
    store = FileStore(path)
    with pytest.raises(SerializationError, match=r"'t'.*Picky"):
        store.put(MemoEntry(key=b"k", task="t", value=None, error=Picky(1, two=2)))
    error = ValueError()
    error.__cause__ = Picky("the cause", two=2)
    store.put(MemoEntry(key=b"k", task="t", value=None, error=error))
    assert "the cause" in str(store.get(b"k").error.__cause__), "a cause that cannot be is told as text"
    store.close()


def test_what_cannot_be_pickled_is_named(path: Path) -> None:
    store = FileStore(path)
    with pytest.raises(SerializationError, match=r"'app\.f'.*'lock'.*lock"):
        store.put(entry(1, {"lock": threading.Lock()}))
    store.close()


def test_names_may_hold_any_text(path: Path) -> None:
    store = FileStore(path)
    components = {"argument \udcff": b"", "argument ä": b"x" * 300}
    odd = MemoEntry(key=b"", task="app.ä\udcff", value=1, components=components, run="run\n\0")
    store.put(odd)
    store.describe({b"": "\udcff ä", b"d": ""})
    store.flush()
    found = store.get(b"")
    assert (found.components, found.run, found.task) == (components, "run\n\0", "app.ä\\udcff")
    assert (store.description(b""), store.description(b"d")) == ("\udcff ä", "")
    store.close()


def test_long_descriptions_are_kept_whole_and_the_first_stays(path: Path) -> None:
    filled(path, 1)
    store = FileStore(path)
    store.describe({b"d": "def f():\n" * 10_000})
    store.flush()
    store.describe({b"d": "other"})
    store.flush()
    assert store.description(b"d") == "def f():\n" * 10_000
    assert store.description(b"none") is None
    store.close()


def test_nearest_reads_no_value(path: Path) -> None:
    store = FileStore(path)
    store.put(entry(1, large(1), x=b"1"))
    store.flush()
    files(path)[0].unlink()
    found = store.nearest("app.f", {"x": b"1"})
    assert (found.key, found.value) == (key(1), None)
    store.close()


def test_a_pickled_store_opens_the_same_path(path: Path) -> None:
    store = FileStore(path, max_size="1GB", max_age="1d")
    store.put(entry(1, "one"))
    store.flush()
    copy = pickle.loads(pickle.dumps(store))
    assert (copy.path, copy.max_size, copy.max_age) == (store.path, 10**9, 86400.0)
    assert copy.get(key(1)).value == "one"
    copy.close()
    store.close()


def test_a_closed_store_says_so(path: Path) -> None:
    store = FileStore(path)
    store.close()
    for action in (lambda: store.get(b"k"), lambda: store.put(entry(1))):
        with pytest.raises(MemoStoreError, match=r"store.* is closed"):
            action()


def test_quantities_are_checked(path: Path) -> None:
    with pytest.raises(UnitError, match="max_size"):
        FileStore(path, max_size="a lot")
    assert not path.exists()


def test_the_store_needs_nothing_but_blake3_and_the_contracts(path: Path) -> None:
    program = (
        "import sys; before = set(sys.modules); from weft_memo import FileStore, digest\n"
        "from weft_interfaces import MemoEntry\n"
        "store = FileStore(sys.argv[1]); store.put(MemoEntry(key=digest((1, 'x')), task='t', value=[1]))\n"
        "store.flush(); assert store.get(digest((1, 'x'))).value == [1]; store.gc(); store.close()\n"
        "print(*{name.partition('.')[0] for name in set(sys.modules) - before} - sys.stdlib_module_names)"
    )
    argv = [sys.executable, "-c", program, str(path)]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == {"blake3", "weft_interfaces", "weft_memo"}


def test_limits_hold_when_it_is_closed(path: Path) -> None:
    store = FileStore(path, max_age="1h")
    store.put(entry(1, time=1.0))
    store.put(entry(2, time=1e11))
    store.close()
    store = FileStore(path)
    assert [store.get(key(n)) is not None for n in (1, 2)] == [False, True]
    store.close()


# -- damage -------------------------------------------------------------------------------------------------


def test_a_newer_format_is_left_alone(path: Path) -> None:
    filled(path)
    with sqlite3.connect(path / "index.sqlite") as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    before = (path / "index.sqlite").read_bytes()
    with pytest.raises(ConfigError, match=r"format 99.*pip install"):
        FileStore(path)
    assert (path / "index.sqlite").read_bytes() == before


@pytest.mark.parametrize(
    ("damage", "least"),
    [
        (lambda data: b"garbage!" * 512 + data[4096:], 200),
        (lambda data: b"\0" * 100 + data[100:], 200),
        (lambda data: data[: len(data) // 2], 50),
        (lambda data: data[:4096], 0),
        (lambda data: data[:10], 0),
        (lambda data: b"", 0),
        (lambda data: b"this is a text\n" * 1000, 0),
    ],
    ids=["first page", "header", "half", "one page", "ten bytes", "empty", "text"],
)
def test_a_damaged_index_is_replaced_by_what_can_be_read(
    path: Path, damage: Callable[[bytes], bytes], least: int, caplog: pytest.LogCaptureFixture
) -> None:
    filled(path)
    index = path / "index.sqlite"
    data = damage(index.read_bytes())
    index.write_bytes(data)
    kept = held(path)
    assert kept >= least
    store = FileStore(path)
    assert store.verify() == []
    store.close()
    if data:
        (said,) = caplog.records
        assert said.levelno == logging.WARNING
        assert f"{kept} entries" in said.getMessage()


@pytest.mark.parametrize("suffix", ["", "-wal"])
def test_cut_anywhere_it_opens(path: Path, tmp_path: Path, suffix: str) -> None:
    path.mkdir()
    program = (
        "import os, test_store as t; from pathlib import Path; s = t.FileStore(Path(os.environ['STORE']))\n"
        "for n in range(40): s.put(t.entry(n, {'number': n})); n % 10 or s.flush()\n"
        "s.flush(); os._exit(0)"
    )
    environment = {**os.environ, "STORE": str(path), "PYTHONPATH": str(Path(__file__).parent)}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True)
    contents = {name: (path / name).read_bytes() for name in ("index.sqlite", "index.sqlite-wal")}
    cut = contents["index.sqlite" + suffix]
    for size in range(0, len(cut), max(1, len(cut) // 60)):
        other = tmp_path / f"cut-{size}"
        other.mkdir()
        for name, data in contents.items():
            (other / name).write_bytes(data[:size] if name == "index.sqlite" + suffix else data)
        held(other, 40)


def test_a_flipped_byte_is_never_a_wrong_value(path: Path, tmp_path: Path) -> None:
    filled(path)
    data = (path / "index.sqlite").read_bytes()
    for at in range(0, len(data), len(data) // 97):
        other = tmp_path / f"flipped-{at}"
        other.mkdir()
        flipped = bytearray(data)
        flipped[at] ^= 0x41
        (other / "index.sqlite").write_bytes(flipped)
        assert held(other) >= 100


def test_a_damaged_entry_is_a_miss_with_a_reason(path: Path) -> None:
    filled(path)
    with sqlite3.connect(path / "index.sqlite") as connection:
        connection.execute("UPDATE entries SET data = ? WHERE key = ?", (pickle.dumps((7, None)), key(3)))
    connection.close()
    store = FileStore(path)
    assert store.get(key(3)) is None
    assert "checksum" in store.problem(key(3))
    assert [found for found, _ in store.verify()] == [key(3)]
    store.put(entry(3, "again"))
    assert store.get(key(3)).value == "again"
    assert store.problem(key(3)) is None
    store.close()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda file: file.unlink(), "cannot be read: No such file"),
        (lambda file: file.write_bytes(file.read_bytes()[:-1]), "is damaged"),
        (lambda file: file.write_bytes(b"x" + file.read_bytes()[1:]), "is damaged"),
    ],
    ids=["gone", "cut", "changed"],
)
def test_a_damaged_value_file_is_a_miss_with_a_reason(
    path: Path, damage: Callable[[Path], object], reason: str
) -> None:
    store = FileStore(path)
    store.put(entry(1, large(1)))
    store.flush()
    damage(files(path)[0])
    assert store.get(key(1)) is None
    assert reason in store.problem(key(1))
    ((found, said),) = store.verify()
    assert found == key(1)
    assert reason in said
    store.close()


def test_a_value_whose_class_is_gone_is_a_miss_with_a_reason(path: Path) -> None:
    module = sys.modules["vanishing"] = type(sys)("vanishing")
    module.Thing = type("Thing", (), {"__module__": "vanishing"})
    store = FileStore(path)
    store.put(entry(1, module.Thing()))
    assert type(store.get(key(1)).value) is module.Thing
    store.flush()
    del sys.modules["vanishing"]
    assert store.get(key(1)) is None
    assert "pickled by Python 3." in store.problem(key(1))
    assert "vanishing" in store.problem(key(1))
    assert store.verify() == [], "what this process cannot unpickle is not damaged"
    store.close()


def test_leftovers_of_dead_writers_are_removed(path: Path) -> None:
    filled(path, 1)
    program = (
        "import sys; from pathlib import Path; from weft_memo.values import Values\n"
        "print(Values(Path(sys.argv[1]))._prepare(b'half'))"
    )
    argv = [sys.executable, "-c", program, str(path / "values")]
    left = Path(subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip())
    ours = left.with_name(left.name.replace(left.name.split("-")[1], str(os.getpid())))
    other = left.with_name("othermachine-1-0")
    old = left.with_name("othermachine-2-0")
    for file in (ours, other, old):
        file.write_bytes(b"half")
    os.utime(old, (1.0, 1.0))
    assert left.exists()
    FileStore(path).close()
    assert sorted(left.parent.iterdir()) == sorted([ours, other])


# -- what cannot be written ---------------------------------------------------------------------------------


def test_a_file_in_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("no folder")
    with pytest.raises(MemoStoreError, match=r"store cannot be opened"):
        FileStore(tmp_path / "store")


DISK_FULL = """
import resource, sys, test_store as t
from weft_interfaces import MemoStoreError
store = t.FileStore(sys.argv[1])
store.put(t.entry(1, "before")); store.flush()
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
store.put(t.entry(2, t.large(2)))
def refused(action):
    try: action()
    except MemoStoreError as error: return str(error)
    raise AssertionError("nothing was raised")
said = refused(store.flush); assert "1 results could not be written" in said, said
assert store.get(t.key(2)).value == t.large(2)
for n in range(3, 60): store.put(t.entry(n, "x" * 1000))
said = refused(store.flush); assert "58 results" in said, said
resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
store.flush()
assert store.verify() == []
assert not list((store.path / "values" / "tmp").iterdir())
store.close()
print("done")
"""


def test_a_full_disk_is_said_and_what_waits_is_written_later(path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    argv = [sys.executable, "-W", "error", "-c", DISK_FULL, str(path)]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout == "done\n", done.stderr
    store = FileStore(path)
    assert [store.get(key(n)).value for n in (1, 2, 59)] == ["before", large(2), "x" * 1000]
    store.close()


# -- many at once -------------------------------------------------------------------------------------------


def test_eight_processes_and_a_collector_at_once(path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    processes = [context.Process(target=work, args=(path, number, results)) for number in range(1, 9)]
    for process in processes:
        process.start()
    store, said, until = FileStore(path), [], time.monotonic() + 100
    while len(said) < 8:
        assert time.monotonic() < until
        store.gc()
        with contextlib.suppress(queue.Empty):
            said.append(results.get(timeout=0.02))
    for process in processes:
        process.join(30)
    assert [problem for _, problem in said] == [None] * 8
    for number in range(1, 9):
        for i in range(150):
            found = store.get(key(1000 * number + i))
            assert found.value == (large(i % 7) if i % 10 == 0 else {"number": i}), store.problem(found.key)
    assert store.verify() == []
    assert len(files(path)) == 7
    store.close()


def test_a_forked_child_has_connections_of_its_own(path: Path) -> None:
    store = FileStore(path)
    store.put(entry(1, "parent's"))
    store.flush()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            assert store.get(key(1)).value == "parent's"
            store.put(entry(2, "child's"))
            store.close()
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    store.put(entry(3, "after"))
    store.flush()
    assert [store.get(key(n)).value for n in (1, 2, 3)] == ["parent's", "child's", "after"]
    store.close()


def test_whoever_has_it_open_follows_a_replaced_index(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    filled(path)
    first = FileStore(path)
    assert first.get(key(1)) is not None
    index = path / "index.sqlite"
    index.write_bytes(b"garbage!" * 512 + index.read_bytes()[4096:])
    second = FileStore(path)
    second.put(entry(500, "second"))
    second.flush()
    first.put(entry(501, "first"))
    first.flush()
    for store in (first, second):
        assert [store.get(key(n)).value for n in (500, 501)] == ["second", "first"]
        assert store.get(key(1)).value == {"number": 1}
    first.close()
    second.close()
    assert len(caplog.records) == 1, "it is mended once"


def test_what_was_not_closed_is_written_at_exit(path: Path) -> None:
    program = "import sys, test_store as t; s = t.FileStore(sys.argv[1]); s.put(t.entry(1, 'kept'))"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    subprocess.run([sys.executable, "-W", "error", "-c", program, str(path)], env=environment, check=True)
    store = FileStore(path)
    assert store.get(key(1)).value == "kept"
    store.close()


# -- bounds -------------------------------------------------------------------------------------------------


def test_gc_by_age(path: Path) -> None:
    store = FileStore(path)
    import time

    now = time.time()
    for number in range(10):
        store.put(entry(number, large(number), time=now - 100 * number))
    removed = store.gc(max_age="450s")
    assert (removed.entries, removed.files) == (5, 5)
    assert removed.bytes > 4 * LARGE
    assert [store.get(key(n)) is not None for n in range(10)] == [True] * 5 + [False] * 5
    assert len(files(path)) == 5
    store.close()


def test_gc_by_size_keeps_the_newest(path: Path) -> None:
    store = FileStore(path)
    for number in range(20):
        store.put(entry(number, large(number // 2), time=float(number)))
    removed = store.gc(max_size=3.5 * LARGE)
    assert removed.files == 7
    assert [n for n in range(20) if store.get(key(n))] == [14, 15, 16, 17, 18, 19]
    entries, size = store.size()
    assert entries == 6
    assert size < 4.5 * LARGE
    store.close()


def test_a_bounded_store_stays_bounded(path: Path) -> None:
    store = FileStore(path, max_size="1MB")
    for number in range(100):
        store.put(entry(number, large(number), time=float(number)))
        store.flush()
        assert len(files(path)) <= 12
    assert store.get(key(99)).value == large(99)
    store.close()


def test_gc_drops_descriptions_that_nothing_refers_to(path: Path) -> None:
    import json

    from weft_memo.sweep import Sweep

    store = FileStore(path)
    identity = json.dumps({"policy": "deep", "parts": {"helper app.g": key(10).hex()}})
    store.describe({key(11): identity, key(10): "def g(): ...", key(12): "unused"})
    store.put(entry(1, x=key(11)))
    store.gc()
    assert store.description(key(12)) == "unused", "its call may still be running"
    removed = Sweep(store._gate, store._current, store._values).collect(None, None, grace=-10.0)
    assert removed.descriptions == 1
    assert [store.description(key(n)) for n in (10, 11, 12)] == ["def g(): ...", identity, None]
    store.close()


def test_removed_entries_are_gone(path: Path) -> None:
    filled(path)
    store = FileStore(path)
    store.put(entry(1000, large(1)))
    assert store.remove([key(1), key(1000), key(7777)]) == 2
    assert store.get(key(1)) is None
    assert store.get(key(2)) is not None
    assert store.gc().files == 1
    store.close()


def test_records_by_task_run_and_time(path: Path) -> None:
    store = FileStore(path)
    for number, task in enumerate(["app.f", "app.g", "other.f"]):
        store.put(entry(number, task=task, time=float(number)))
    assert [r.task for r in store.records()] == ["app.f", "app.g", "other.f"]
    assert [r.task for r in store.records("app.*")] == ["app.f", "app.g"]
    assert [r.task for r in store.records(since=1.0)] == ["app.g", "other.f"]
    assert list(store.records(run="none")) == []
    store.close()


def test_export_copies_entries_and_their_descriptions(path: Path, tmp_path: Path) -> None:
    store, target = FileStore(path), FileStore(tmp_path / "target")
    store.put(entry(1, large(1), x=key(10)))
    store.put(entry(2, "small", x=key(11)))
    store.put(entry(3, large(3)))
    store.describe({key(10): "ten", key(12): "unused"})
    store.flush()
    store._values.remove(store.record(key(3)).digest)
    assert store.export(target, store.records()) == (2, 1)
    store.close()
    assert [target.get(key(n)).value for n in (1, 2)] == [large(1), "small"]
    assert target.get(key(1)).run == "run"
    assert (target.description(key(10)), target.description(key(12))) == ("ten", None)
    assert target.verify() == []
    target.close()
