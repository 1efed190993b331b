"""One interchange, and thousands of managers that speak its protocol from a few processes.

``hatch run bench:scale``. Managers of ``crowd.py`` have no workers: what is measured is what the interchange
can hold. For each number of managers, in a client process of its own: how fast they register, what heartbeats
cost, how many calls a second go through, and how soon a manager is missed that falls silent, or whose
connection ends. With ``--hold SECONDS``, calls flow at a bounded rate for so long, and no manager may be
declared dead. CPU and memory are those of the process in which the interchange is, which is the client's.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import queue
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
from crowd import Order
from findings import keep_report, show_trials
from weft_executor_htex import HighThroughputExecutor
from weft_executor_htex.setup import ManagerSetup
from weft_interfaces import Blocks, Call, CallOptions, Event, Outcome
from weft_interfaces.memory import InMemoryProvider

RESULTS = Path(__file__).parent / "results"
PATIENCE = 300.0  # seconds that any step may take
TRIPS = 200
BATCH = 50_000


@dataclass(frozen=True)
class Sizes:
    """How much is measured. ``managers``: each number is a line of the table; ``crowds``: processes that they
    are in. ``rate``: calls a second while they are held for ``hold`` seconds, each of ``delay`` seconds.
    ``struck``: managers that fall silent, and as many whose connections end.
    """

    managers: tuple[int, ...] = (1024, 4096, 8192)
    transports: tuple[str, ...] = ("tcp", "unix")
    crowds: int = 4
    slots: int = 32
    calls: int = 200_000
    hold: float = 20.0
    rate: float = 500.0
    delay: float = 0.1
    struck: int = 16
    period: float = 5.0
    threshold: float = 30.0


QUICK = Sizes(
    managers=(64,), crowds=2, calls=5_000, hold=2.0, rate=200.0, struck=4, period=0.5, threshold=3.0
)


class Tally:
    """The executor's context: counts outcomes, and keeps when managers came and went."""

    run_id = "scale"
    make_scaler = None
    detached = None

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.done = 0
        self.errors: Counter[str] = Counter()
        self.up = 0
        self.gone: list[tuple[float, str, str]] = []
        self.changed = threading.Condition()

    def completed(self, outcomes: Sequence[Outcome]) -> None:
        """Count outcomes."""
        with self.changed:
            self.done += len(outcomes)
            self.errors.update(type(each.error).__name__ for each in outcomes if each.error is not None)
            self.changed.notify_all()

    def emit(self, events: Sequence[Event]) -> None:
        """Keep when managers came and went."""
        with self.changed:
            for event in events:
                if event.kind == "manager.up":
                    self.up += 1
                elif event.kind == "manager.gone":
                    self.gone.append((time.monotonic(), event.data["block"], event.data["reason"]))
            self.changed.notify_all()

    def wait(self, what: str, number: int) -> None:
        """Until ``done``, ``up`` or the length of ``gone`` is that number."""

        def there() -> bool:
            value = getattr(self, what)
            return (value if isinstance(value, int) else len(value)) >= number

        with self.changed:
            if not self.changed.wait_for(there, PATIENCE):
                raise TimeoutError(f"after {PATIENCE:g} s, {what} is still less than {number}: {vars(self)}")


class CrowdProcess:
    """A process full of managers."""

    def __init__(self, order: Order) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("crowd.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._answers: queue.Queue[dict[str, Any]] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        self._write(msgspec.json.encode(order))

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._answers.put(json.loads(line))

    def _write(self, line: bytes) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + b"\n")
        self._process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        """What it says next."""
        return self._answers.get(timeout=PATIENCE)

    def tell(self, command: str) -> dict[str, Any]:
        """Give it a command; its answer."""
        self._write(command.encode())
        return self.answer()

    def wait(self) -> int:
        """Until it has ended by itself."""
        return self._process.wait(PATIENCE)

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(30.0)
        finally:
            self._process.kill()
            self._process.wait()
            self._process.stdout.close()


def noop() -> None:
    """What is called; no worker ever runs it."""


class Trial:
    """One interchange, and so many managers."""

    def __init__(self, managers: int, transport: str, sizes: Sizes, directory: Path) -> None:
        self.sizes = sizes
        self.managers = managers
        self.tally = Tally(directory)
        self.executor = HighThroughputExecutor(
            workers_per_node=sizes.slots,
            blocks=Blocks(provider=InMemoryProvider(), max=managers),
            heartbeat_period=sizes.period,
            heartbeat_threshold=sizes.threshold,
            address="127.0.0.1" if transport == "tcp" else None,
        )
        self._ids = itertools.count(1)
        self._options = CallOptions(name="noop")
        self._submitted = 0
        self.crowds: list[CrowdProcess] = []

    def close(self) -> None:
        """End all crowds."""
        for crowd in self.crowds:
            crowd.close()

    def submit(self, count: int) -> None:
        """Submit so many calls."""
        calls = [Call(next(self._ids), noop, (), {}, self._options) for _ in range(count)]
        self._submitted += count
        self.executor.submit(calls)

    def drained(self) -> None:
        """Wait until all calls are done."""
        self.tally.wait("done", self._submitted)

    def register(self) -> dict[str, float]:
        """Have all managers come, at once."""
        sizes = self.sizes
        setup = ManagerSetup.load(self.executor.command("block").input)
        each = self.managers // sizes.crowds
        cpu, since = processor_seconds(), time.monotonic()
        for index in range(sizes.crowds):
            self.crowds.append(CrowdProcess(Order(setup, each, index * each, sizes.slots)))
        self.tally.wait("up", 1)
        first = time.monotonic()
        self.tally.wait("up", each * sizes.crowds)
        now = time.monotonic()
        for crowd in self.crowds:
            crowd.answer()
        return {
            "all up, s": now - since,
            "registrations/s": each * sizes.crowds / max(now - first, 1e-9),
            "cpu ms/registration": 1000 * (processor_seconds() - cpu) / self.managers,
        }

    def heartbeats(self) -> dict[str, float]:
        """What it costs that all managers are there, and nothing happens."""
        before = self._counted("sent Heartbeat"), processor_seconds(), time.monotonic()
        time.sleep(2 * self.sizes.period)
        after = self._counted("sent Heartbeat"), processor_seconds(), time.monotonic()
        beats, cpu, seconds = (b - a for a, b in zip(before, after, strict=True))
        return {
            "heartbeats/s": beats / seconds,
            "cpu % idle": 100 * cpu / seconds,
            "cpu us/heartbeat": 1e6 * cpu / max(1, beats),
        }

    def _counted(self, what: str) -> float:
        return float(sum(crowd.tell("count")["counts"].get(what, 0) for crowd in self.crowds))

    def flow(self) -> dict[str, float]:
        """Calls that take no time, as fast as they go; and one after the other."""
        self.submit(1000)
        self.drained()
        cpu, since = processor_seconds(), time.monotonic()
        for _ in range(self.sizes.calls // BATCH):
            self.submit(BATCH)
        self.drained()
        seconds = time.monotonic() - since
        cpu = processor_seconds() - cpu
        trips = []
        for _ in range(TRIPS):
            begun = time.perf_counter()
            self.submit(1)
            self.drained()
            trips.append(time.perf_counter() - begun)
        return {
            "tasks/s": self.sizes.calls / seconds,
            "cpu us/task": 1e6 * cpu / self.sizes.calls,
            "round trip p50, ms": 1000 * median(trips),
            "round trip p99, ms": 1000 * sorted(trips)[int(0.99 * len(trips))],
        }

    def hold(self) -> dict[str, Any]:
        """Calls at a bounded rate for a while: nobody may be given up, and nothing lost."""
        sizes = self.sizes
        self._delay(sizes.delay)
        gone, done = len(self.tally.gone), self.tally.done
        cpu, since, batches = processor_seconds(), time.monotonic(), 0
        memory = [resident()]
        while (now := time.monotonic()) < since + sizes.hold:
            due = int((now - since) * 10) + 1  # batches of a tenth of a second
            for _ in range(due - batches):
                self.submit(max(1, int(sizes.rate / 10)))
            batches = due
            memory.append(resident())
            time.sleep(max(0.0, since + batches / 10 - time.monotonic()))
        self.drained()
        seconds = time.monotonic() - since
        return {
            "held, s": seconds,
            "held tasks/s": (self.tally.done - done) / seconds,
            "cpu % held": 100 * (processor_seconds() - cpu) / seconds,
            "memory held, MB": max(memory) / 1e6,
            "wrongly declared dead": len(self.tally.gone) - gone,
        }

    def strike(self, verb: str) -> dict[str, float]:
        """Some managers fall silent, or their connections end, while calls flow: how soon it is noticed."""
        gone, errors = len(self.tally.gone), sum(self.tally.errors.values())
        self.submit(self.sizes.struck * self.sizes.slots)
        since = time.monotonic()
        for index in range(self.sizes.struck):
            self.crowds[index % len(self.crowds)].tell(f"{verb} 1")
        self.tally.wait("gone", gone + self.sizes.struck)
        seconds = [at - since for at, _, _ in self.tally.gone[gone:]]
        self.drained()
        wrong = len(self.tally.gone) - gone - self.sizes.struck
        return {
            f"{verb}: noticed after, median s": median(seconds),
            f"{verb}: noticed after, worst s": max(seconds),
            f"{verb}: others declared dead": wrong,
            f"{verb}: calls reported lost": sum(self.tally.errors.values()) - errors,
        }

    def _delay(self, seconds: float) -> None:
        for crowd in self.crowds:
            crowd.tell(f"delay {seconds}")

    def end(self) -> dict[str, Any]:
        """Shut down: all managers are told to end, and do."""
        since = time.monotonic()
        leftovers = self.executor.shutdown(cancel=True, timeout=10.0)
        codes = [crowd.wait() for crowd in self.crowds]
        return {
            "shutdown, s": time.monotonic() - since,
            "left over": len(leftovers) + sum(code != 0 for code in codes),
        }


def measure(managers: int, transport: str, sizes: Sizes) -> dict[str, Any]:
    """Everything about one number of managers, in this process."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        trial = Trial(managers, transport, sizes, directory)
        stack.callback(trial.close)
        trial.executor.start(trial.tally)
        stack.callback(trial.executor.shutdown, cancel=True)
        empty = resident()
        row: dict[str, Any] = {"managers": managers, "transport": transport}
        say(f"{managers} managers, {transport}: they register")
        row |= trial.register()
        row["memory, MB"] = resident() / 1e6
        row["memory kB/manager"] = (resident() - empty) / managers / 1000
        row["descriptors"] = len(os.listdir("/proc/self/fd"))
        steps = (
            ("heartbeats", trial.heartbeats),
            ("calls", trial.flow),
            (f"held for {sizes.hold:g} s", trial.hold),
            ("connections end", lambda: trial.strike("close")),
            ("silence", lambda: trial.strike("silence")),
            ("shutdown", trial.end),
        )
        for words, step in steps:
            say(f"{managers} managers, {transport}: {words}")
            row |= step()
        row["malformed"] = sum(trial.executor.status().get("malformed", {}).values())
        row["memory at the most, MB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    return row


def processor_seconds() -> float:
    """That this process has taken so far, in all threads."""
    return time.process_time()


def resident() -> int:
    """Bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def say(words: str) -> None:
    """Tell what happens."""
    print(words, file=sys.stderr, flush=True)


def measure_apart(managers: int, transport: str, sizes: Sizes) -> dict[str, Any]:
    """The same, in a process of its own."""
    command = [sys.executable, __file__, "--one", json.dumps([managers, transport, asdict(sizes)])]
    found: dict[str, Any] = json.loads(
        subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    )
    return found


def wrong_with(row: dict[str, Any]) -> list[str]:
    """What must not be, and is."""
    never = ("wrongly declared dead", "close: others declared dead", "silence: others declared dead")
    found = [f"{name}: {row[name]}" for name in (*never, "left over", "malformed") if row[name]]
    return [f"{row['managers']} managers, {row['transport']}: {each}" for each in found]


def main() -> int:
    """Measure, show, keep."""
    parser = argparse.ArgumentParser(prog="bench:scale", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="measure little: to see whether it works")
    parser.add_argument("--hold", type=float, help="seconds that managers are held while calls flow")
    parser.add_argument("--managers", type=int, nargs="+", help="how many, one trial for each number")
    parser.add_argument("--transport", choices=["tcp", "unix"], nargs="+", help="how they connect")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    default = RESULTS / f"scale-{date.today():%Y-%m-%d}.json"
    parser.add_argument("--output", type=Path, default=default, help="JSON file")
    arguments = parser.parse_args()
    if arguments.one:
        managers, transport, settings = json.loads(arguments.one)
        json.dump(measure(managers, transport, Sizes(**settings)), sys.stdout)
        return 0
    settings = asdict(QUICK if arguments.quick else Sizes())
    for name, value in (
        ("hold", arguments.hold),
        ("managers", arguments.managers),
        ("transports", arguments.transport),
    ):
        if value is not None:
            settings[name] = value
    sizes = Sizes(**settings)
    rows = [measure_apart(n, transport, sizes) for transport in sizes.transports for n in sizes.managers]
    show_trials(
        "one interchange, and so many managers",
        {f"{row['managers']:,} {row['transport']}": row for row in rows},
    )
    keep_report(arguments.output, asdict(sizes), trials=rows)
    wrong = [words for row in rows for words in wrong_with(row)]
    print("\n".join(wrong) or "No manager was declared dead wrongly, and nothing was left over.")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
