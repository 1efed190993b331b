"""A process that writes is killed at random instants, two hundred times on one store."""

from __future__ import annotations

import os
import random
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from weft_memo import FileStore

sys.path.append(str(Path(__file__).parent))
import memo_writer

KILLS = 200
pytestmark = [pytest.mark.once, pytest.mark.timeout(300)]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    argv = [sys.executable, memo_writer.__file__, str(tmp_path / "store")]
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
    yield process
    process.stdin.close()
    process.wait(30)
    process.stdout.close()


def lines_until(process: subprocess.Popen[bytes], word: str) -> list[list[str]]:
    """The lines up to one that begins with this word."""
    lines: list[list[str]] = []
    while not lines or lines[-1][0] != word:
        line = process.stdout.readline().decode().split()
        assert line, "the server has ended"
        lines.append(line)
    return lines


def killed_once(
    server: subprocess.Popen[bytes], number: int, batches: int, instant: float
) -> set[tuple[int, int]]:
    """Let one process write, kill it so many seconds after so many batches were acknowledged, and return all
    that it had acknowledged.
    """
    server.stdin.write(f"{number}\n".encode())
    lines = lines_until(server, "started")
    child = int(lines[-1][2])
    for _ in range(batches):
        lines += lines_until(server, "acknowledged")
    select.select([], [], [], instant)
    os.kill(child, signal.SIGKILL)
    lines += lines_until(server, "ended")
    assert lines[-1][2] == str(signal.SIGKILL.value), f"it was not the kill that ended it: {lines[-1]}"
    return {(int(line[1]), int(line[2])) for line in lines if line[0] == "acknowledged"}


def check(store: FileStore, acknowledged: set[tuple[int, int]]) -> None:
    for number, batch in acknowledged:
        for i in range(memo_writer.COUNT):
            key = memo_writer.key(number, batch, i)
            entry = store.get(key)
            assert entry is not None, f"{number}, {batch}, {i} is lost: {store.problem(key)}"
            assert entry.value == memo_writer.value(number, batch, i)
        assert store.description(memo_writer.key(number, batch, -1)) == memo_writer.text(number, batch)


@pytest.mark.parametrize("watched", [False, True], ids=["alone", "while another has it open"])
def test_what_was_acknowledged_survives_each_kill(
    server: subprocess.Popen[bytes], tmp_path: Path, watched: bool, caplog: pytest.LogCaptureFixture
) -> None:
    chance, everything, least = random.Random(watched), set(), 0
    watcher = FileStore(tmp_path / "store") if watched else None
    for number in range(KILLS // 2):
        batches = chance.choice((0, 0, 1, 2, 3, 8))
        acknowledged = killed_once(server, number, batches, chance.random() ** 2 * 0.05)
        everything |= acknowledged
        least += batches
        store = FileStore(tmp_path / "store")
        check(store, acknowledged)
        store.close()
    assert len(everything) >= least > KILLS, "the processes lived too short to show anything"
    store = watcher or FileStore(tmp_path / "store")
    check(store, everything)
    assert store.verify() == []
    store.close()
    assert not caplog.records, "no kill damages the index"
    assert not list((tmp_path / "store" / "values" / "tmp").iterdir()), "nothing temporary is left"
