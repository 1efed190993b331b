"""What is measured in fresh interpreters: memory for each task, large graphs, and how long imports take.

``python benchmarks/probes.py graph 10000`` prints what one of them found, as JSON.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from cases import Contender, echo, noop

__all__ = ["probe", "queued", "resident", "start_seconds"]

WIDTH = 1_000  # chains side by side in a graph

Submit = Callable[..., "Future[Any]"]


def probe(name: str, tasks: int, *options: str) -> dict[str, float]:
    """What the probe of this name finds in an interpreter of its own."""
    command = [sys.executable, str(Path(__file__)), name, str(tasks), *options]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    found: dict[str, float] = json.loads(output)
    return found


def start_seconds(code: str) -> float:
    """How long a fresh interpreter takes to run this code, and to end."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - began


# -- in the fresh interpreter --------------------------------------------------------------------------------


def queued(tasks: int, contender: Contender, gauge: Callable[[], int]) -> dict[str, float]:
    """Tasks that wait for a worker."""
    with _blocked_workers(contender):
        return _bytes_each(tasks, contender.bind(noop), (), gauge)


def dependent(tasks: int, contender: Contender, gauge: Callable[[], int]) -> dict[str, float]:
    """Tasks that wait for another task."""
    with _blocked_workers(contender) as blocked:
        return _bytes_each(tasks, contender.bind(echo), (blocked,), gauge)


def graph(tasks: int, contender: Contender, gauge: Callable[[], int]) -> dict[str, float]:
    """Chains side by side: every task is pending before the first begins, then all of them run."""
    link = contender.bind(echo)
    with _blocked_workers(contender) as blocked:
        before = gauge()
        began = time.perf_counter()
        layer = [blocked] * min(WIDTH, tasks)
        futures = []
        for _ in range(tasks // len(layer)):
            layer = [link(future) for future in layer]
            futures += layer
        submitted = time.perf_counter()
        held = gauge() - before
    released = time.perf_counter()
    for future in futures:
        future.result()
    ended = time.perf_counter()
    each = len(futures)
    return {
        "submit": (submitted - began) / each,
        "run": (ended - released) / each,
        "time": (submitted - began + ended - released) / each,
        "bytes": held / each,
    }


@contextmanager
def _blocked_workers(contender: Contender) -> Iterator[Future[Any]]:
    """While inside, both workers are busy with one task each; this is the future of one of them."""
    contender.result(contender.bind(noop)())  # what is made once, at the first call, belongs to no task
    with tempfile.TemporaryDirectory() as directory:
        begun, gate = os.path.join(directory, "begun"), os.path.join(directory, "gate")
        os.mkfifo(begun)
        os.mkfifo(gate)
        # Opened for both, so that nobody waits for the other end when opening it.
        with open(begun, "r+b", buffering=0) as signs, open(gate, "r+b", buffering=0) as way:
            call = contender.bind(hold)
            blocked = [call(begun, gate), call(begun, gate)]
            for _ in blocked:
                signs.read(1)
            try:
                yield blocked[0]
            finally:
                way.write(b"..")
                for future in blocked:
                    contender.result(future)


def hold(begun: str, gate: str) -> None:
    """Say that it has begun, and wait for a byte; through named pipes, wherever on this machine it runs."""
    with open(gate, "rb", buffering=0) as way:
        with open(begun, "wb", buffering=0) as sign:
            sign.write(b".")
        way.read(1)


def _bytes_each(
    tasks: int, call: Submit, arguments: tuple[Any, ...], gauge: Callable[[], int]
) -> dict[str, float]:
    futures: list[Any] = [None] * tasks
    before = gauge()
    for index in range(tasks):
        futures[index] = call(*arguments)
    return {"bytes": (gauge() - before) / tasks}


def resident() -> int:
    """Bytes of this process that are in memory."""
    gc.collect()
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * 4096


def traced() -> int:
    """Bytes that Python has allocated since ``tracemalloc`` was started."""
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


@contextmanager
def bare() -> Iterator[Contender]:
    """The standard library's threads."""
    with ThreadPoolExecutor(2) as pool:
        yield Contender("bare", lambda function: partial(pool.submit, function), False)


@contextmanager
def face() -> Iterator[Contender]:
    """``@weft.task`` on threads."""
    import weft

    with weft.run(executors=[weft.ThreadExecutor(workers=2)], progress=False):
        yield Contender("weft", weft.task)


def main(name: str, tasks: str, contender: str = "face", gauge: str = "resident") -> None:
    """Run one probe and print what it found."""
    if gauge == "traced":
        tracemalloc.start()
    probes = {"queued": queued, "dependent": dependent, "graph": graph}
    contenders = {"face": face, "bare": bare}
    gauges = {"resident": resident, "traced": traced}
    with contenders[contender]() as opened:
        found = probes[name](int(tasks), opened, gauges[gauge])
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
