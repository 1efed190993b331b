"""Random tasks for a while, while workers and managers are killed and tasks are cancelled at random.

``hatch run bench:soak``. A run with the pilot executor and several blocks of this machine. Every future must
end once, with the right value or an error that was to be expected; the memory of client, interchange and
managers must be flat; nothing may be left of it all: no process, no file, no open descriptor. It prints how
things were over time, keeps that as JSON, and draws it.
"""

from __future__ import annotations

import argparse
import gc
import os
import queue
import random
import signal
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

import weft
from family import alive, descendants, role
from findings import keep_report, show_rows

RESULTS = Path(__file__).parent / "results"
MB = 1_000_000
PERIOD, THRESHOLD = 1.0, 5.0
EARLY, LATE = (0.15, 0.35), (0.8, 1.0)  # of the time: the windows that are compared
MAY_GROW = 0.1  # of what there was in the early window ...
MAY_GROW_MB = 16.0  # ... and so much more: what allocators keep for later
PATIENCE = 120.0
RETRIES = 5  # what a worker's death costs


@dataclass(frozen=True)
class Plan:
    """How it goes. Times are in seconds; faults and cancels come at random, so long apart on average."""

    minutes: float = 10.0
    blocks: int = 3
    workers: int = 2
    in_flight: int = 48
    most_bytes: int = 1_000_000
    longest: float = 0.1
    worker_killed: float = 1.0
    manager_killed: float = 12.0
    manager_stopped: float = 30.0
    cancelled: float = 0.1
    failing: float = 0.02  # of the tasks
    look: float = 2.0
    seed: int = 1


QUICK = Plan(minutes=0.25, worker_killed=0.7, manager_killed=4.0, manager_stopped=5.0, look=0.5)


class ExpectedError(Exception):
    """What some tasks raise, on purpose."""


@weft.task
def work(number: int, payload: bytes, size: int, seconds: float, fails: bool) -> tuple[int, int, bytes]:
    """Return what tells that it was this task, and that it got this payload."""
    time.sleep(seconds)
    if fails:
        raise ExpectedError(number)
    return number, zlib.crc32(payload), bytes([number % 251]) * size


@dataclass
class Expected:
    """What is to become of a task. ``endings``: how often its future said that it is done."""

    number: int
    crc: int
    size: int
    fails: bool
    cancelled: bool | None = None  # what cancel() said, if it was asked
    endings: int = 0


@dataclass
class Sample:
    """How things were at one time: memory in bytes; of the managers the median."""

    seconds: float
    done: int
    client: int
    manager: int
    interchange: int
    processes: int
    descriptors: int


@dataclass
class Soak:
    """The run, as seen by its client."""

    plan: Plan
    counts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    woken_at: dict[int, float] = field(default_factory=dict)
    pending: dict[weft.Future[Any], Expected] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._dice = random.Random(self.plan.seed)
        self._done: queue.SimpleQueue[weft.Future[Any]] = queue.SimpleQueue()
        self._payload = self._dice.randbytes(self.plan.most_bytes)
        self._number = 0
        self._began = time.monotonic()
        self._due: dict[str, float] = {}

    # -- tasks ----------------------------------------------------------------------------------------------

    def submit(self) -> None:
        """One more task."""
        dice = self._dice
        self._number += 1
        payload = self._payload[: self._some_bytes()]
        expected = Expected(
            self._number, zlib.crc32(payload), self._some_bytes(), dice.random() < self.plan.failing
        )
        seconds = dice.random() * self.plan.longest
        future = work(expected.number, payload, expected.size, seconds, expected.fails)
        self.pending[future] = expected

        def ended(future: weft.Future[Any]) -> None:
            expected.endings += 1
            self._done.put(future)

        future.add_done_callback(ended)

    def _some_bytes(self) -> int:
        """Small ones and large ones are as likely."""
        return int(self.plan.most_bytes ** self._dice.random()) if self._dice.random() < 0.9 else 0

    def collect(self, timeout: float) -> bool:
        """Judge a future that is done; whether there was one in time."""
        try:
            future = self._done.get(timeout=timeout)
        except queue.Empty:
            return False
        expected = self.pending.pop(future, None)
        if expected is None:
            self.wrong.append("a future ended twice")
            return True
        self.counts["done"] += 1
        self._judge(future, expected)
        return True

    def _judge(self, future: weft.Future[Any], expected: Expected) -> None:
        name = f"task {expected.number} (cancel() said {expected.cancelled})"
        if expected.endings != 1:
            self.wrong.append(f"{name} ended {expected.endings} times")
        try:
            value = future.result(0)
        except CancelledError:
            self.counts["cancelled"] += 1
            if not expected.cancelled:
                self.wrong.append(f"{name} was cancelled, but not by us")
        except ExpectedError as error:
            self.counts["failed as expected"] += 1
            if not expected.fails or error.args != (expected.number,):
                self.wrong.append(f"{name} failed with {error!r}")
        except weft.WorkerLostError as error:
            self.counts["failed, the last try with its worker"] += 1
            if not expected.fails:  # those have used up their retries before
                self.wrong.append(f"{name} was lost: {error}")
        except Exception as error:
            self.wrong.append(f"{name} failed: {type(error).__name__}: {error}")
        else:
            self.counts["values"] += 1
            right = (expected.number, expected.crc, bytes([expected.number % 251]) * expected.size)
            if value != right or expected.fails:
                self.wrong.append(f"{name} has a wrong value")
            if expected.cancelled:
                self.wrong.append(f"{name} has a value, though cancel() said that it has none")

    # -- faults ---------------------------------------------------------------------------------------------

    def strike(self) -> None:
        """Do what is due."""
        acts = {
            "worker_killed": self._kill_worker,
            "manager_killed": self._kill_manager,
            "manager_stopped": self._stop_manager,
            "cancelled": self._cancel,
        }
        now = time.monotonic()
        for name, act in acts.items():
            due = self._due.setdefault(name, now + self._pause(name))
            if now >= due:
                self._due[name] = now + self._pause(name)
                act()
        for pid, at in list(self.woken_at.items()):
            if now >= at:
                del self.woken_at[pid]
                _signal(pid, signal.SIGCONT)

    def _pause(self, name: str) -> float:
        return self._dice.expovariate(1 / float(getattr(self.plan, name)))

    def _kill_worker(self) -> None:
        self._hit("worker", signal.SIGKILL)

    def _kill_manager(self) -> None:
        self._hit("manager", signal.SIGKILL)

    def _stop_manager(self) -> None:
        """For a moment, or until it is given up."""
        pid = self._hit("manager", signal.SIGSTOP)
        if pid is not None:
            self.woken_at[pid] = time.monotonic() + self._dice.choice([THRESHOLD / 5, THRESHOLD * 2])

    def _hit(self, whom: str, how: signal.Signals) -> int | None:
        found = [pid for pid in descendants(os.getpid()) if role(pid) == whom and pid not in self.woken_at]
        if not found:
            return None
        pid = self._dice.choice(found)
        _signal(pid, how)
        self.counts[f"{whom}: {how.name}"] += 1
        return pid

    def _cancel(self) -> None:
        future = self._dice.choice(list(self.pending))
        expected = self.pending[future]
        expected.cancelled = future.cancel() or expected.cancelled or False

    # -- time -----------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Until the time is over, and then until everything is done."""
        end = self._began + 60 * self.plan.minutes
        look = 0.0
        while (now := time.monotonic()) < end:
            while len(self.pending) < self.plan.in_flight:
                self.submit()
            self.strike()
            self.collect(0.01)
            if now >= look:
                look = now + self.plan.look
                self.samples.append(self.sample())
        for pid in self.woken_at:
            _signal(pid, signal.SIGCONT)
        deadline = time.monotonic() + PATIENCE
        while self.pending and time.monotonic() < deadline:
            self.collect(0.1)
        self.wrong += [f"task {each.number} never ended" for each in self.pending.values()]

    def sample(self) -> Sample:
        """How things are now."""
        sizes: dict[str, list[int]] = {"manager": [], "interchange": []}
        family = list(descendants(os.getpid()))
        for pid in family:
            kind = role(pid)
            if kind in sizes:
                with suppress(OSError):
                    sizes[kind].append(proportional(pid))
        return Sample(
            time.monotonic() - self._began,
            self.counts["done"],
            proportional(os.getpid()),
            int(median(sizes["manager"] or [0])),
            sum(sizes["interchange"]),
            len(family),
            len(os.listdir("/proc/self/fd")),
        )


def _signal(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def proportional(pid: int) -> int:
    """Bytes of memory that a process has for itself, and its share of what it shares."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"process {pid} has no memory")


# -- judgement -----------------------------------------------------------------------------------------------


def growth(samples: list[Sample]) -> Iterator[tuple[str, float, float, bool]]:
    """For each kind of process: memory in the early and the late window in MB, and whether it is flat."""
    whole = samples[-1].seconds
    for name in ("client", "manager", "interchange"):
        early, late = (
            median(
                [getattr(each, name) for each in samples if first * whole <= each.seconds <= last * whole]
                or [0]
            )
            / MB
            for first, last in (EARLY, LATE)
        )
        if early:
            yield name, early, late, late <= early * (1 + MAY_GROW) + MAY_GROW_MB


def left_over(family: set[int], places: list[Path], before: set[Path], descriptors: int) -> list[str]:
    """What is there after the run that should not be."""
    deadline = time.monotonic() + 10.0
    while (left := [pid for pid in family if alive(pid)]) and time.monotonic() < deadline:
        time.sleep(0.05)
    gc.collect()
    while (paths := set(listed(places)) - before) and time.monotonic() < deadline:
        time.sleep(0.05)
    found = [f"process {pid} still runs" for pid in left]
    found += [f"{path} is left" for path in paths]
    more = len(os.listdir("/proc/self/fd")) - descriptors
    if more > 0:
        found.append(f"{more} descriptors of the client are still open")
    return found


def listed(places: list[Path]) -> Iterator[Path]:
    """What is in these directories; in the last one, which others use too, only what is called after us."""
    for place in places:
        pattern = "*" if place is places[0] else "*weft*"
        yield from place.glob(pattern)


def draw(samples: list[Sample], path: Path) -> None:
    """Memory and progress over time, as a picture."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, (upper, lower) = pyplot.subplots(2, 1, sharex=True, figsize=(9, 6))
    seconds = [each.seconds for each in samples]
    for name in ("client", "manager", "interchange"):
        sizes = [getattr(each, name) / MB for each in samples]
        if any(sizes):
            upper.plot(seconds, sizes, label=f"{name}{' (median)' if name == 'manager' else ''}")
    upper.set_ylabel("memory (PSS), MB")
    upper.set_ylim(bottom=0)
    upper.legend()
    lower.plot(seconds, [each.done for each in samples])
    lower.set_ylabel("tasks done")
    lower.set_xlabel("seconds")
    figure.savefig(path, dpi=110)


def soak(plan: Plan, directory: Path, run_dir: Path) -> tuple[Soak, list[str]]:
    """The whole run. What it found, and what it left over."""
    places = [directory, Path("/dev/shm")]
    before = set(listed(places))
    descriptors = len(os.listdir("/proc/self/fd"))
    blocks = weft.Blocks(provider=weft.LocalProvider(), init=plan.blocks, min=plan.blocks, max=plan.blocks)
    htex = weft.HighThroughputExecutor(
        workers_per_node=plan.workers,
        blocks=blocks,
        heartbeat_period=PERIOD,
        heartbeat_threshold=THRESHOLD,
    )
    family: set[int] = set()
    with weft.run(executors=[htex], run_dir=run_dir, progress=False, retries=RETRIES):
        it = Soak(plan)
        it.run()
        family.update(descendants(os.getpid()))
    return it, left_over(family, places, before, descriptors)


def main() -> int:
    """Run, show, keep."""
    parser = argparse.ArgumentParser(prog="bench:soak", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a quarter of a minute: to see whether it works")
    parser.add_argument("--minutes", type=float, help="how long it takes")
    parser.add_argument("--seed", type=int, help="of all that is random")
    default = RESULTS / f"soak-{date.today():%Y-%m-%d}.json"
    parser.add_argument("--output", type=Path, default=default, help="JSON file; the picture is beside it")
    arguments = parser.parse_args()
    settings = asdict(QUICK if arguments.quick else Plan())
    settings |= {
        name: value for name in ("minutes", "seed") if (value := getattr(arguments, name)) is not None
    }
    plan = Plan(**settings)
    with tempfile.TemporaryDirectory() as temporary, tempfile.TemporaryDirectory() as run_dir:
        tempfile.tempdir = os.environ["TMPDIR"] = temporary
        try:
            it, left = soak(plan, Path(temporary), Path(run_dir))
        finally:
            tempfile.tempdir = None
            del os.environ["TMPDIR"]
    step = max(1, len(it.samples) // 20)
    show_rows(
        "over time, memory (PSS) in MB",
        ["seconds", "done", "client", "manager", "interchange", "processes", "descriptors"],
        [
            [
                each.seconds,
                each.done,
                *(size / MB for size in (each.client, each.manager, each.interchange)),
                each.processes,
                each.descriptors,
            ]
            for each in it.samples[::step]
        ],
    )
    grown = list(growth(it.samples))
    show_rows("what happened", ["", "times"], sorted(it.counts.items()))
    show_rows(
        "memory, early and late",
        ["", "early, MB", "late, MB", ""],
        [[name, early, late, "flat" if flat else "GROWN"] for name, early, late, flat in grown],
    )
    wrong = [
        *it.wrong[:20],
        *left,
        *(f"the memory of the {name} grew" for name, *_, flat in grown if not flat),
    ]
    keep_report(
        arguments.output,
        asdict(plan),
        counts=dict(it.counts),
        memory=[{"of": name, "early": a, "late": b, "flat": flat} for name, a, b, flat in grown],
        wrong=[*it.wrong, *left],
        samples=[asdict(each) for each in it.samples],
    )
    draw(it.samples, arguments.output.with_suffix(".png"))
    print("\n".join(wrong) or "Every future ended once, as it should; memory is flat; nothing is left.")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
