"""The file store beside diskcache and joblib.Memory: lookups, acknowledged writes, sizes on disk.

Contenders take turns, each with a new folder on the same disk. What each
promises: Weft's ``flush`` waits for the disk (so a loss of power costs nothing), diskcache commits each write
to a log without waiting, joblib writes files without waiting. joblib has no store to call: it is asked
through a cached function, so that its figures include the hashing of the key.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import shutil
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from record import Figure, Target, summarize
from weft_interfaces import MemoEntry
from weft_memo import FileStore

SECTION = "memo store"
PROCESSES = 8


@dataclass(frozen=True)
class Sizes:
    """How much is measured. joblib: calls, of which it can do few. each: operations of each process."""

    rounds: int = 5
    entries: int = 20_000
    joblib: int = 1_000
    each: int = 2_000
    large: int = 50
    size: int = 1_000_000


QUICK = Sizes(rounds=1, entries=500, joblib=50, each=50, large=5)


def keys(count: int) -> list[bytes]:
    """Digests, in no order."""
    return [hashlib.sha256(str(number).encode()).digest() for number in range(count)]


def entry(key: bytes, value: Any) -> MemoEntry:
    """One as the memoizer puts it."""
    components = {"function": b"f" * 32, "argument x": key}
    return MemoEntry(
        key=key, task="app.f", value=value, components=components, run="runs/1", time=time.time()
    )


class Weft:
    """The file store."""

    name = "weft"

    def __init__(self, folder: Path) -> None:
        self.store = FileStore(folder / "weft")

    def write(self, items: list[tuple[bytes, Any]]) -> None:
        for key, value in items:
            self.store.put(entry(key, value))
        self.store.flush()

    def read(self, items: list[bytes]) -> None:
        for key in items:
            found = self.store.get(key)
            assert found is not None, self.store.problem(key)

    def close(self) -> None:
        self.store.close()


class DiskCache:
    """As its users use it."""

    name = "diskcache"

    def __init__(self, folder: Path) -> None:
        from diskcache import Cache

        self.cache = Cache(str(folder / "diskcache"), eviction_policy="none", timeout=60)

    def write(self, items: list[tuple[bytes, Any]]) -> None:
        for key, value in items:
            self.cache[key] = value

    def read(self, items: list[bytes]) -> None:
        for key in items:
            assert self.cache.get(key) is not None

    def close(self) -> None:
        self.cache.close()


class Joblib:
    """A cached function of the key."""

    name = "joblib.Memory"

    def __init__(self, folder: Path) -> None:
        from joblib import Memory

        warnings.simplefilter("ignore")
        self.values: dict[bytes, Any] = {}
        self.call = Memory(folder / "joblib", verbose=0).cache(self.value_of, ignore=["self"])
        self.calls = 0

    def value_of(self, key: bytes) -> Any:
        self.calls += 1
        return self.values[key]

    def write(self, items: list[tuple[bytes, Any]]) -> None:
        self.values.update(items)
        self.read([key for key, _ in items])
        self.calls = 0

    def read(self, items: list[bytes]) -> None:
        for key in items:
            self.call(key)

    def close(self) -> None:
        assert not self.calls, "what was written was computed again"


Contestant = type[Weft] | type[DiskCache] | type[Joblib]
CONTESTANTS: tuple[Contestant, ...] = (Weft, DiskCache, Joblib)
TOGETHER: tuple[Contestant, ...] = (Weft, DiskCache)


@contextmanager
def folder() -> Iterator[Path]:
    """A new one, on a disk rather than in memory where that can be had."""
    path = Path(tempfile.mkdtemp(prefix="memo-store-", dir=os.environ.get("WEFT_BENCH_DIR")))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def on_disk(path: Path) -> int:
    """Bytes of all blocks in use below it."""
    return sum(file.lstat().st_blocks * 512 for file in path.rglob("*"))


def rates(kind: Contestant, sizes: Sizes) -> dict[str, float]:
    """Of one contestant: small results, large ones, sizes."""
    count = sizes.joblib if kind is Joblib else sizes.entries
    names, found = keys(count), {}
    with folder() as path:
        one = kind(path)
        found["write"] = count / seconds(lambda: one.write([(key, 1.5) for key in names]))
        found["read"] = count / seconds(lambda: one.read(names))
        one.close()
        found["small on disk"] = on_disk(path) / count
    with folder() as path:
        one = kind(path)
        values = [(key, key * (sizes.size // 32)) for key in names[: sizes.large]]
        total = sizes.large * sizes.size / 1e6
        found["write large"] = total / seconds(lambda: one.write(values))
        found["read large"] = total / seconds(lambda: one.read([key for key, _ in values]))
        one.close()
    with folder() as path:
        one = kind(path)
        same = b"same" * (sizes.size // 4)
        one.write([(key, same) for key in names[: sizes.large]])
        one.close()
        found["equal on disk"] = on_disk(path) / sizes.large
    return found


def seconds(action: Callable[[], object]) -> float:
    """Seconds that it takes."""
    before = time.perf_counter()
    action()
    return time.perf_counter() - before


def together(kind: Contestant, sizes: Sizes) -> tuple[float, int]:
    """Writes and lookups per second of all processes, each on entries of its own; errors."""
    context = multiprocessing.get_context("spawn")
    with folder() as path:
        barrier, results = context.Barrier(PROCESSES), context.Queue()
        arguments = (kind, path, sizes.each, barrier, results)
        workers = [context.Process(target=work, args=(*arguments, number)) for number in range(PROCESSES)]
        for worker in workers:
            worker.start()
        spans = [results.get() for _ in workers]
        for worker in workers:
            worker.join()
    took = max(end for _, end, _ in spans) - min(begin for begin, _, _ in spans)
    return 2 * sizes.each * PROCESSES / took, sum(errors for _, _, errors in spans)


def work(kind: Contestant, path: Path, each: int, barrier: Any, results: Any, number: int) -> None:
    """What each of the processes does."""
    one, errors = kind(path), 0
    mine = keys(each * PROCESSES)[number * each : (number + 1) * each]
    barrier.wait()
    begin = time.time()
    for start in range(0, each, 100):
        portion = mine[start : start + 100]
        try:
            one.write([(key, 1.5) for key in portion])
            one.read(portion)
        except Exception:
            traceback.print_exc()
            errors += 1
    end = time.time()
    one.close()
    results.put((begin, end, errors))


def in_stores(sizes: Sizes) -> list[Figure]:
    """All figures of stores."""
    samples: dict[str, dict[str, list[float]]] = {}
    failed = dict.fromkeys((kind.name for kind in TOGETHER), 0)
    for _ in range(sizes.rounds):
        for kind in CONTESTANTS:
            for what, number in rates(kind, sizes).items():
                samples.setdefault(what, {}).setdefault(kind.name, []).append(number)
        for kind in TOGETHER:
            number, errors = together(kind, sizes)
            samples.setdefault("together", {}).setdefault(kind.name, []).append(number)
            failed[kind.name] += errors
    errors_of = {name: [float(count)] for name, count in failed.items()}
    mega = f"{sizes.size / 1e6:g} MB"
    lines = [
        ("lookups, small results", "1/s", samples["read"], Target(">=", 20_000)),
        ("acknowledged writes, small results", "1/s", samples["write"], Target(">=", 5_000)),
        (f"lookups of {mega}", "MB/s", samples["read large"], None),
        (f"acknowledged writes of {mega}", "MB/s", samples["write large"], None),
        (f"{PROCESSES} processes at once: writes and lookups", "1/s", samples["together"], None),
        (f"{PROCESSES} processes at once: errors", "", errors_of, Target("<=", 0)),
        ("on disk, small results", "bytes each", samples["small on disk"], None),
        (f"on disk, equal results of {mega}", "bytes each", samples["equal on disk"], None),
    ]
    return [summarize(SECTION, name, unit, them, target, beside="") for name, unit, them, target in lines]
