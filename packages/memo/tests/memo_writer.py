"""Forks processes that write to a store until they are killed, each for a line that it reads.

What they acknowledged, and who has ended, it says in lines on stdout.
"""

from __future__ import annotations

import hashlib
import os
import random
import sys
from pathlib import Path

from weft_interfaces import MemoEntry
from weft_memo import FileStore

COUNT = 8  # entries of a batch


def key(number: int, batch: int, i: int) -> bytes:
    return hashlib.sha256(f"{number} {batch} {i}".encode()).digest()


def value(number: int, batch: int, i: int) -> object:
    if i == 0:  # large, and its own
        return random.Random(hash((number, batch))).randbytes(60_000)
    if i == 1:  # large, and the same as that of others
        return random.Random(batch % 5).randbytes(40_000)
    return {"number": number, "batch": batch, "i": i}


def text(number: int, batch: int) -> str:
    return f"what batch {batch} of {number} was about " * (1 + batch % 20)


def write(path: Path, number: int) -> None:
    store = FileStore(path)
    batch = 0
    while True:
        for i in range(COUNT):
            components = {"function": b"f" * 32, "argument batch": key(number, batch, -1)}
            store.put(
                MemoEntry(key=key(number, batch, i), task="t", value=value(number, batch, i), time=1e9,
                          components=components)
            )  # fmt: skip
        store.describe({key(number, batch, -1): text(number, batch)})
        store.flush()
        say(f"acknowledged {number} {batch}")
        batch += 1
        if number % 4 == 0 and batch % 3 == 0:
            store.gc(max_size="1GB")


def say(line: str) -> None:
    os.write(1, f"{line}\n".encode())


def main() -> None:
    path = Path(sys.argv[1])
    for line in sys.stdin:
        number = int(line)
        child = os.fork()
        if child == 0:
            try:
                write(path, number)
            finally:
                os._exit(1)
        say(f"started {number} {child}")
        _, status = os.waitpid(child, 0)
        say(f"ended {number} {status}")


if __name__ == "__main__":
    main()
