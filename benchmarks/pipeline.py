"""The bare pipeline: sockets, pickles and futures, and nothing else.

What a pool of processes can do in pure Python over ZeroMQ. It has no retries and no cancel, and notices no
death: what the pilot executor takes longer is the price of that. Calls leave in batches: one that finds a
free worker goes at once, a backlog in messages of up to 256. A worker has up to two batches, so that it does
not wait for the next; a batch is no more than a quarter of the backlog, so that both end at about the same
time.

``python benchmarks/pipeline.py DIRECTORY NUMBER`` is a worker.
"""

from __future__ import annotations

import pickle
import shutil
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import zmq

__all__ = ["Pipeline"]

BATCH = 256
BATCHES = 2  # that a worker has at most: one that it works on, and the next
LARGE = 1 << 16  # bytes from which a message is better not copied

Task = tuple[int, Callable[..., Any], tuple[Any, ...]]


class Pipeline:
    """Runs functions in worker processes. ``submit`` may be called from any thread."""

    def __init__(self, workers: int = 2) -> None:
        self._directory = tempfile.mkdtemp(prefix="pipeline-")
        self._context = zmq.Context()
        self._results = self._context.socket(zmq.PULL)
        self._results.bind(f"ipc://{self._directory}/results")
        self._sockets = [self._context.socket(zmq.PUSH) for _ in range(workers)]
        for number, socket in enumerate(self._sockets):
            socket.bind(f"ipc://{self._directory}/{number}")
        self._lock = threading.Lock()  # of the sockets that send, and of all that follows
        self._room = [BATCHES] * workers  # batches that each may get
        self._waiting: deque[Task] = deque()
        self._futures: dict[int, Future[Any]] = {}
        self._number = 0
        self._processes = [
            subprocess.Popen([sys.executable, __file__, self._directory, str(number)])
            for number in range(workers)
        ]
        self._receiver = threading.Thread(target=self._receive, daemon=True)
        self._receiver.start()

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """As that of an executor of the standard library."""
        future: Future[Any] = Future()
        with self._lock:
            self._number += 1
            self._futures[self._number] = future
            self._waiting.append((self._number, function, arguments))
            self._send()
        return future

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._waiting.clear()
            for socket in self._sockets:
                socket.send(b"")
        for process in self._processes:
            process.wait()
        self._receiver.join()
        self._context.destroy(linger=0)
        shutil.rmtree(self._directory, ignore_errors=True)

    def _send(self) -> None:
        """Give what waits to who has room."""
        waiting = self._waiting
        room = self._room
        while waiting and (most := max(room)):
            worker = room.index(most)  # the one with the least to do: another call may never end
            room[worker] -= 1
            size = min(BATCH, -(-len(waiting) // (BATCHES * len(self._sockets))))
            data = pickle.dumps([waiting.popleft() for _ in range(size)], pickle.HIGHEST_PROTOCOL)
            self._sockets[worker].send(data, 0, len(data) < LARGE)

    def _receive(self) -> None:
        """Complete futures, until every worker has ended."""
        working = len(self._sockets)
        while working:
            worker, outcomes = pickle.loads(self._results.recv(copy=False).buffer)
            if outcomes is None:
                working -= 1
                continue
            with self._lock:
                self._room[worker] += 1
                self._send()
            for number, succeeded, value in outcomes:
                future = self._futures.pop(number)
                if succeeded:
                    future.set_result(value)
                else:
                    future.set_exception(value)


def work(directory: str, worker: int) -> None:
    """Run batches until an empty message comes."""
    context = zmq.Context()
    tasks, results = context.socket(zmq.PULL), context.socket(zmq.PUSH)
    tasks.connect(f"ipc://{directory}/{worker}")
    results.connect(f"ipc://{directory}/results")

    def send(outcomes: list[tuple[int, bool, Any]] | None) -> None:
        data = pickle.dumps((worker, outcomes), pickle.HIGHEST_PROTOCOL)
        results.send(data, 0, len(data) < LARGE)

    while data := tasks.recv(copy=False).buffer:
        send([run(task) for task in pickle.loads(data)])
    send(None)
    context.destroy(linger=-1)


def run(task: Task) -> tuple[int, bool, Any]:
    """Whether it succeeded, and its value or its error."""
    number, function, arguments = task
    try:
        return number, True, function(*arguments)
    except Exception as error:
        return number, False, error


if __name__ == "__main__":
    work(sys.argv[1], int(sys.argv[2]))
