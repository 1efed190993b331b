"""The record that a run keeps of what was looked up: one line of JSON for each hit and each miss.

::

    {"format":1,"run":"20261125-210000-ab12","store":"/home/me/weft-memo.db","time":1795640400.0}
    {"task":0,"name":"app.simulate","key":"93..","outcome":"miss","time":..,"components":{..},"problem":null}
    {"task":1,"name":"app.simulate","key":"93..","outcome":"shared","time":..,"leader":0}
    {"task":2,"name":"app.simulate","key":"5f..","outcome":"hit","time":..,"run":"..","made":..}
"""

from __future__ import annotations

import functools
import json
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from weft_interfaces import InputError

__all__ = ["FORMAT", "LOG_NAME", "Lookup", "LookupLog", "RunRecord", "read_record"]

FORMAT = 1
LOG_NAME = "memo.jsonl"
_OUTCOMES = ("hit", "miss", "shared")

_log = logging.getLogger("weft")
_encode = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode


class LookupLog:
    """Writes the record of one run, in batches, from a thread of its own.

    The file, and the directory that it is in, are made when the first batch is written: within ``interval``
    seconds of the first lookup. From then on a batch survives the end of this process, however that comes. At
    most ``capacity`` lookups wait to be written; beyond that whoever notes one writes them. A file that
    cannot be written is said once, and costs nothing else. All methods may be called from any thread.

    store: says where the store is, so that a reader can open it.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        run: str,
        store: str = "",
        *,
        interval: float = 0.2,
        capacity: int = 100_000,
    ) -> None:
        self.path = os.fspath(path)
        self._header = {"format": FORMAT, "run": run, "store": store, "time": time.time()}
        self._interval = interval
        self._capacity = capacity
        self._waiting: deque[tuple[Any, ...]] = deque()
        self._begun = False
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._lock = threading.Lock()  # starting, and writing
        self._thread: threading.Thread | None = None
        self._fd: int | None = None
        self._broken = False  # or closed

    # -- on the path of tasks -------------------------------------------------------------------------------

    def hit(self, task: int, name: str, key: bytes, run: str, made: float) -> None:
        """Note that a task was not run: run ``run`` has made its outcome, at ``made``."""
        self._note(("hit", task, name, key, time.time(), run, made))

    def miss(
        self, task: int, name: str, key: bytes, components: Mapping[str, bytes], problem: str | None = None
    ) -> None:
        """Note that a task has to run; ``problem``: why what was remembered of it is of no use."""
        self._note(("miss", task, name, key, time.time(), components, problem))

    def shared(self, task: int, name: str, key: bytes, leader: int) -> None:
        """Note that a task got the outcome of task ``leader``, which was in flight."""
        self._note(("shared", task, name, key, time.time(), leader))

    def _note(self, record: tuple[Any, ...]) -> None:
        self._waiting.append(record)
        if not self._begun:
            self._begin()
        if len(self._waiting) >= self._capacity:
            self.flush()

    def _begin(self) -> None:
        self._begun = True
        with self._lock:
            if self._thread is None and not self._closing.is_set():
                self._thread = threading.Thread(target=self._run, name="weft-memo-log", daemon=True)
                try:
                    self._thread.start()
                except RuntimeError:  # no more threads, or the interpreter is ending: close() writes it all
                    self._thread = None
        self._wake.set()

    # -- off it ---------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Write what was noted; returning says that it survives the end of this process."""
        with self._lock:
            self._write()

    def close(self) -> None:
        """Write what was noted, and end. May be called twice."""
        self._closing.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join()
        with self._lock:
            self._write()
            if self._fd is not None:
                os.close(self._fd)
            self._fd, self._broken = None, True

    def _run(self) -> None:
        while not self._closing.is_set():
            self._wake.wait()
            self._closing.wait(self._interval)  # what comes meanwhile goes with the same batch
            self._wake.clear()
            self._begun = False
            self.flush()

    def _write(self) -> None:
        records = [self._waiting.popleft() for _ in range(len(self._waiting))]
        if not records or self._broken:
            return
        try:
            lines = [_line(record) for record in records]
            if self._fd is None:
                lines.insert(0, f"{_encode(self._header)}\n")
                os.makedirs(os.path.dirname(self.path) or ".", exist_ok=True)
                self._fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
            data = memoryview("".join(lines).encode())
            while data:
                data = data[os.write(self._fd, data) :]
        except OSError as error:
            self._broken = True
            _log.warning("%s cannot be written, so `weft why` will not know this run: %s", self.path, error)


def _line(record: tuple[Any, ...]) -> str:
    # Written by hand: this shares the interpreter with those who submit tasks, and is 4 times as fast.
    outcome, task, name, key, when, *more = record
    line = (
        f'{{"task":{task},"name":{_quoted(name)},"key":"{key.hex()}","outcome":"{outcome}","time":{when:.6f}'
    )
    if outcome == "hit":
        return f'{line},"run":{_quoted(more[0])},"made":{more[1]:.6f}}}\n'
    if outcome == "shared":
        return f'{line},"leader":{more[0]}}}\n'
    components = ",".join([f'{_quoted(part)}:"{digest.hex()}"' for part, digest in more[0].items()])
    return f'{line},"components":{{{components}}},"problem":{_encode(more[1])}}}\n'


@functools.lru_cache(maxsize=4096)
def _quoted(text: str) -> str:
    return _encode(text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lookup:
    """One line of a record.

    outcome: ``"hit"``, ``"miss"`` or ``"shared"``. run, made: of a hit, which run made the outcome, and when.
    components, problem: of a miss. leader: of a shared outcome, the task whose it is.
    """

    task: int
    name: str
    key: bytes
    outcome: str
    time: float
    components: Mapping[str, bytes] = field(default_factory=dict)
    problem: str | None = None
    leader: int | None = None
    run: str = ""
    made: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """The record of a run, whose lines are read each time that it is iterated."""

    path: str
    run: str
    store: str
    time: float

    def __iter__(self) -> Iterator[Lookup]:
        """Its lookups. Lines that are torn, or say what this version does not know, are left out."""
        with open(self.path, encoding="utf-8", errors="replace") as file:
            next(file, None)
            for line in file:
                lookup = _lookup(line)
                if lookup is not None:
                    yield lookup


def read_record(path: str | os.PathLike[str]) -> RunRecord:
    """The record in a file. Raises :class:`OSError` when that cannot be read, and :class:`InputError` when it
    is no record, or one of a newer version.
    """
    path = os.fspath(path)
    with open(path, encoding="utf-8", errors="replace") as file:
        header = _parsed(file.readline())
    version = header.get("format")
    if type(version) is not int:
        raise InputError(f"{path} is no record of what a run looked up: its first line says no format")
    if version > FORMAT:
        raise InputError(
            f"{path} has format {version}, and this version of weft-memo reads up to {FORMAT}: "
            "install a newer one"
        )
    when = header.get("time")
    return RunRecord(
        path=path,
        run=str(header.get("run", "")),
        store=str(header.get("store", "")),
        time=float(when) if isinstance(when, (int, float)) else 0.0,
    )


def _lookup(line: str) -> Lookup | None:
    table = _parsed(line)
    if table.get("outcome") not in _OUTCOMES:
        return None
    try:
        components = table.get("components") or {}
        leader, problem = table.get("leader"), table.get("problem")
        return Lookup(
            task=int(table["task"]),
            name=str(table["name"]),
            key=bytes.fromhex(table["key"]),
            outcome=table["outcome"],
            time=float(table.get("time", 0.0)),
            components={str(name): bytes.fromhex(digest) for name, digest in components.items()},
            problem=None if problem is None else str(problem),
            leader=None if leader is None else int(leader),
            run=str(table.get("run", "")),
            made=float(table.get("made", 0.0)),
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def _parsed(line: str) -> dict[str, Any]:
    try:
        table = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return table if isinstance(table, dict) else {}
