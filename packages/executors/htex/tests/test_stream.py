"""Large frames that an agent has in files, as its memory is not for them."""

from __future__ import annotations

import mmap
import random
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from weft_executor_htex import stream
from weft_executor_htex.stream import StreamReader, pack

pytestmark = pytest.mark.once

MB = 1 << 20


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: Any) -> Iterator[Path]:
    """Where the files are."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(stream, "_in_files", False)
    stream.keep_in_files()
    yield tmp_path
    assert list(tmp_path.iterdir()) == [], "its files have no name"


def fed(frames: list[bytes], dice: random.Random) -> list[Any]:
    """What a reader makes of a message that comes in parts."""
    reader = StreamReader()
    data = b"".join(map(bytes, pack(frames)))
    messages: list[Any] = []
    while data:
        size = dice.randrange(1, MB)
        messages += reader.feed(data[:size])
        data = data[size:]
    assert len(messages) == 1
    return list(messages[0])


def in_file(frame: Any) -> bool:
    return isinstance(frame, memoryview) and isinstance(frame.obj, mmap.mmap)


def test_large_frames_are_in_files(folder: Path) -> None:
    for seed in range(10):
        dice = random.Random(seed)
        sizes = [dice.choice([0, 10, 300_000, MB, 3 * MB + 1]) for _ in range(5)]
        frames = [dice.randbytes(size) for size in sizes]
        found = fed(frames, dice)
        assert list(map(bytes, found)) == frames
        total = sum(sizes)
        assert [in_file(frame) for frame in found] == [total > 300_000 and size >= MB for size in sizes]


def test_frames_are_in_memory_elsewhere() -> None:
    dice = random.Random(0)
    assert not in_file(fed([dice.randbytes(3 * MB)], dice)[0])


def test_frames_are_in_memory_where_files_cannot_be_made(folder: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(folder / "missing"))
    dice = random.Random(0)
    frames = [dice.randbytes(3 * MB)]
    found = fed(frames, dice)
    assert found == frames
    assert not in_file(found[0])


def test_a_frame_that_gets_no_more_room_is_whole(folder: Path) -> None:
    """As on a disk that is full: here, files may not be larger."""
    dice = random.Random(0)
    frames = [dice.randbytes(5 * MB), dice.randbytes(2 * MB)]
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3 * MB + 5, before[1]))
    try:
        found = fed(frames, dice)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert found == frames
    assert [in_file(frame) for frame in found] == [False, True]


PASSES = """
import os, sys, tempfile
from pathlib import Path
from weft_executor_htex.agent.outbox import Outbox
from weft_executor_htex.stream import StreamReader, keep_in_files

def memory():
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["VmHWM"].split()[0]) // 1024

tempfile.tempdir = sys.argv[1]
keep_in_files()
reader, outbox = StreamReader(), Outbox(1 << 20, sys.argv[1])
part, count = os.urandom(1 << 20), 200
begin = memory()
messages = reader.feed((1).to_bytes(8, "little") + (count << 20).to_bytes(8, "little"))
for _ in range(count):
    assert not messages
    messages = reader.feed(part)
((frame,),) = messages
outbox.append(frame)
print(memory() - begin)
"""


def test_what_passes_through_takes_little_memory(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PASSES, str(tmp_path)], capture_output=True, text=True, check=True, timeout=60
    )
    assert int(done.stdout) < 20, "MB, of 200"
