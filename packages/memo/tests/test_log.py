"""The record of a run: what is written is read again, whatever happens meanwhile."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from weft_interfaces import InputError
from weft_memo.log import LookupLog, read_record

KEY = b"k" * 32
COMPONENTS = {"function": b"f" * 32, 'argument "odd"\n': b"a" * 32}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run-1" / "memo.jsonl"


def test_what_was_noted_is_read(path: Path) -> None:
    log = LookupLog(path, "run-1", "store.db")
    log.miss(0, "app.f", KEY, COMPONENTS)
    log.shared(1, "app.f", KEY, 0)
    log.hit(2, 'app."g"', KEY, "run-0", 123.25)
    log.miss(3, "app.f", KEY, {}, 'it "broke"\n')
    log.close()
    record = read_record(path)
    assert (record.run, record.store) == ("run-1", "store.db")
    assert record.time == pytest.approx(time.time(), abs=60)
    miss, shared, hit, broken = record
    assert (miss.task, miss.name, miss.key, miss.outcome) == (0, "app.f", KEY, "miss")
    assert miss.components == COMPONENTS
    assert miss.problem is None
    assert miss.time == pytest.approx(time.time(), abs=60)
    assert (shared.outcome, shared.leader) == ("shared", 0)
    assert (hit.outcome, hit.name, hit.run, hit.made) == ("hit", 'app."g"', "run-0", 123.25)
    assert broken.problem == 'it "broke"\n'
    assert list(record) == list(record)


def test_a_run_without_lookups_makes_no_file(path: Path) -> None:
    log = LookupLog(path, "run-1")
    log.close()
    log.close()
    assert not path.parent.exists()
    log.miss(0, "late", KEY, {})
    log.flush()
    assert not path.exists()


def test_what_was_flushed_is_there_before_the_end(path: Path) -> None:
    log = LookupLog(path, "run-1", interval=1000)
    log.hit(1, "f", KEY, "", 0.0)
    log.flush()
    assert [lookup.task for lookup in read_record(path)] == [1]
    log.hit(2, "f", KEY, "", 0.0)
    assert [lookup.task for lookup in read_record(path)] == [1]
    log.close()
    assert [lookup.task for lookup in read_record(path)] == [1, 2]


def test_the_thread_writes_by_itself(path: Path) -> None:
    others = set(threading.enumerate())
    log = LookupLog(path, "run-1", interval=0.01)
    for number in range(3):
        log.hit(number, "f", KEY, "", 0.0)
        until = time.monotonic() + 30
        while not path.exists() or not path.stat().st_size or len(list(read_record(path))) <= number:
            assert time.monotonic() < until
    log.close()
    assert not {thread for thread in threading.enumerate() if thread.name == "weft-memo-log"} - others


def test_memory_is_bounded(path: Path) -> None:
    log = LookupLog(path, "run-1", interval=1000, capacity=100)
    for number in range(250):
        log.hit(number, "f", KEY, "", 0.0)
    assert len(list(read_record(path))) == 200
    log.close()
    assert [lookup.task for lookup in read_record(path)] == list(range(250))


def test_threads_note_at_once(path: Path) -> None:
    log = LookupLog(path, "run-1", interval=0.001, capacity=50)

    def work(start: int) -> None:
        for number in range(start, start + 500):
            log.miss(number, "f", KEY, COMPONENTS)

    threads = [threading.Thread(target=work, args=(i * 500,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.close()
    assert sorted(lookup.task for lookup in read_record(path)) == list(range(2000))


def test_a_file_that_cannot_be_written_is_said_once(tmp_path: Path, caplog: Any) -> None:
    (tmp_path / "file").write_text("")
    log = LookupLog(tmp_path / "file" / "memo.jsonl", "run-1", interval=1000)
    with caplog.at_level(logging.WARNING, "weft"):
        for number in range(3):
            log.hit(number, "f", KEY, "", 0.0)
            log.flush()
        log.close()
    assert len(caplog.records) == 1
    assert "cannot be written" in caplog.text


KILLED = """
import os, signal, sys
from weft_memo.log import LookupLog
log = LookupLog(sys.argv[1], "run-1", interval=0.001)
for number in range(1000):
    log.miss(number, "f", b"k" * 32, {"function": b"f" * 32})
log.flush()
print("flushed", flush=True)
while True:
    number += 1
    log.miss(number, "f", b"k" * 32, {"function": b"f" * 32})
"""


def test_what_was_flushed_survives_sigkill(path: Path) -> None:
    for _ in range(5):
        path.unlink(missing_ok=True)
        process = subprocess.Popen([sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline() == b"flushed\n"
        while path.stat().st_size < 1_000_000:
            assert process.poll() is None
        process.kill()
        process.wait()
        process.stdout.close()
        tasks = [lookup.task for lookup in read_record(path)]
        assert len(tasks) >= 1000
        assert tasks == list(range(len(tasks)))


@pytest.mark.parametrize("cut", [0, 1, 60, -2])
def test_a_torn_line_is_left_out(path: Path, cut: int) -> None:
    log = LookupLog(path, "run-1")
    log.hit(1, "f", KEY, "", 0.0)
    log.hit(2, "f", KEY, "", 0.0)
    log.close()
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:2]) + lines[2][:cut])
    assert [lookup.task for lookup in read_record(path)] == [1]


def test_what_later_versions_add_is_ignored(path: Path) -> None:
    path.parent.mkdir()
    lines: list[Any] = [
        {"format": 1, "run": "r", "store": "s", "time": 1.0, "new": {}},
        {"task": 1, "name": "f", "key": "ab", "outcome": "hit", "time": 1.0, "new": [1]},
        {"task": 2, "name": "f", "key": "ab", "outcome": "guessed", "time": 1.0},
        {"event": "something else"},
        [1],
        {"task": "x", "name": "f", "key": "zz", "outcome": "miss"},
        {"task": 4, "name": "f", "key": "ab", "outcome": "miss"},
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert [lookup.task for lookup in read_record(path)] == [1, 4]


def test_wrong_files_are_named(path: Path) -> None:
    path.parent.mkdir()
    for text, said in [
        ('{"format": 2}\n', "has format 2, and this version of weft-memo reads up to 1"),
        ("", "is no record"),
        ("[1]\n", "is no record"),
        ("\x00\xff", "is no record"),
    ]:
        path.write_text(text)
        with pytest.raises(InputError, match=said):
            read_record(path)
    with pytest.raises(OSError, match="No such file"):
        read_record(path.parent / "other")


def test_noting_costs_little(path: Path) -> None:
    """Of the 3 microseconds that are promised, on a quiet machine; the limit here is for busy ones."""
    log = LookupLog(path, "run-1", interval=1000)
    begun = time.perf_counter()
    for number in range(50_000):
        log.hit(number, "f", KEY, "run-0", 1.0)
    took = (time.perf_counter() - begun) / 50_000
    log.close()
    assert took < 15e-6
    assert sum(1 for _ in read_record(path)) == 50_000
