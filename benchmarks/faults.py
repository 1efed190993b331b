"""What breaks, how soon it is noticed, what it costs, and what it leaves behind.

``hatch run bench:faults``. Each fault strikes several times, each time a run of its own with the pilot
executor, blocks of this machine and tasks on their way. Detection is from the fault to the event, or the
error, that tells of it. A task is lost when its future does not get what it should, through the kernel, with
one retry for what a worker's death costs, and none for what the interchange's does. Processes are left when
one that the run had started is alive after its end.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

import weft
from family import alive, descendants
from findings import keep_report, show_rows
from relay import RelayedExecutor
from weft_interfaces import BlockShape, DirectLauncher, LostError
from weft_interfaces.memory import RecordingEventSink

RESULTS = Path(__file__).parent / "results"
PATIENCE = 60.0
PERIOD, THRESHOLD = 0.5, 3.0  # of heartbeats, in seconds
BYSTANDERS = 40
NAP = 1.0
GREED = 200 << 20  # bytes
MOMENT = 1.0  # to end what is silent, and to say so
LOSSES = 6  # after which a task that kills its workers fails


@dataclass(frozen=True)
class Finding:
    """What one strike showed. ``detected``: seconds. ``lost``: tasks that did not get what they should."""

    detected: float
    lost: int
    left: int = 0


# -- in the workers ------------------------------------------------------------------------------------------


def square(number: int) -> int:
    """A task that nothing happens to."""
    time.sleep(0.01)
    return number * number


def strike_once(marker: str, how: str) -> int:
    """The first time, tell when and where that is, and strike; the second time, be well."""
    path = Path(marker)
    if not path.exists():
        mark(path)
        end_by(how)
    return 42


def strike_always(how: str) -> None:
    """A task that kills each worker."""
    end_by(how)


def mark(path: Path) -> None:
    """Say when it is, and who is here."""
    template = os.getppid()
    manager = Path(f"/proc/{template}/stat").read_text().rpartition(")")[2].split()[1]
    unfinished = path.with_suffix(".part")
    unfinished.write_text(f"{time.time()} {os.getpid()} {manager}")
    unfinished.rename(path)


def end_by(how: str) -> None:
    """Die, be greedy, hang, or take a while."""
    if how == "exit":
        os._exit(3)
    if how == "segfault":
        ctypes.string_at(0)
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    hoard = bytearray(b"x") * (GREED if how == "greed" else 0)
    time.sleep(NAP if how == "nap" else 1000)
    del hoard


# -- a run ---------------------------------------------------------------------------------------------------


class Lab:
    """A run with a manager, and tasks on their way. ``directory`` is for its files."""

    def __init__(self, directory: Path, executor: Any, retries: int = 1) -> None:
        self.executor = executor
        self.marker = directory / "marker"
        self.sink = RecordingEventSink()
        self.run = weft.run(
            executors=[executor], sinks=[self.sink], retries=retries, run_dir=directory, progress=False
        )
        self.family: set[int] = set()
        self._bystanders: list[weft.Future[int]] = []

    def victim(self, how: str, **options: Any) -> weft.Future[int]:
        """The task that strikes, or is struck, among others."""
        self._more()
        task = weft.task(strike_once)
        return (task.options(**options) if options else task)(str(self.marker), how)

    def _more(self) -> None:
        task = weft.task(square)
        begin = len(self._bystanders)
        self._bystanders += [task(number) for number in range(begin, begin + BYSTANDERS)]

    def struck(self) -> tuple[float, int]:
        """When the victim began, seconds since the epoch; and the pid of its manager."""
        wait_until(self.marker.exists, "the victim does not begin")
        when, _, manager = self.marker.read_text().split()
        self.look()
        return float(when), int(manager)

    def look(self) -> None:
        """Remember which processes there are."""
        self.family.update(descendants(os.getpid()))

    def told(self, kind: str, since: float, **facts: Any) -> float:
        """Seconds until an event of this kind, and with these facts."""

        def found() -> list[float]:
            return [
                event.time - since
                for event in self.sink.of_kind(kind)
                if event.time >= since and all(event.data.get(name) == what for name, what in facts.items())
            ]

        wait_until(lambda: bool(found()), f"no event {kind!r}")
        return min(found())

    def retried(self) -> int:
        """How many tasks had to be run again."""
        return len(self.sink.of_kind("task.retrying"))

    def lost(self, *futures: weft.Future[int], value: int = 42) -> int:
        """How many of the tasks do not get what they should, those that come now included."""
        self._more()
        wrong = sum(not is_value(future, value) for future in futures)
        for number, future in enumerate(self._bystanders):
            wrong += not is_value(future, number**2)
        self.look()
        return wrong


def is_value(future: weft.Future[int], value: int) -> bool:
    """Whether a future gets this value."""
    return future.exception(PATIENCE) is None and future.result() == value


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Wait for what no notice is given of."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(what)
        time.sleep(0.002)


def pilot(kind: Any = weft.HighThroughputExecutor, launcher: Any = None, **settings: Any) -> Any:
    """An executor with blocks of this machine; a lost one is replaced."""
    blocks = weft.Blocks(provider=weft.LocalProvider(), launcher=launcher or DirectLauncher(), min=1)
    beats = {"heartbeat_period": PERIOD, "heartbeat_threshold": THRESHOLD}
    return kind(workers_per_node=2, blocks=blocks, **(beats | settings))


@contextmanager
def lab(executor: Any = None, **settings: Any) -> Iterator[Lab]:
    """A run; what it leaves is for :func:`left_of`."""
    with tempfile.TemporaryDirectory() as directory:
        made = Lab(Path(directory), executor or pilot(), **settings)
        with made.run:
            yield made
            made.look()


def left_of(family: set[int]) -> int:
    """How many of these processes do not end by themselves."""
    deadline = time.monotonic() + 10.0
    while (left := sum(map(alive, family))) and time.monotonic() < deadline:
        time.sleep(0.02)
    return left


# -- faults --------------------------------------------------------------------------------------------------


def worker(how: str, **options: Any) -> Finding:
    """A worker ends, or hangs until the task's timeout."""
    with lab() as here:
        victim = here.victim(how, **options)
        since, _ = here.struck()
        # Its time began a moment before it could say so.
        seconds = max(0.0, here.told("task.retrying", since) - options.get("timeout", 0.0))
        lost = here.lost(victim)
    return Finding(seconds, lost, left_of(here.family))


def greedy() -> Finding:
    """A worker takes more memory than its task asked for: it is ended, and its certificate says why."""
    with lab() as here:
        victim = here.victim("greed", memory="100MB")
        since, _ = here.struck()
        seconds = here.told("task.retrying", since)
        lost = here.lost(victim)
        error = weft.task(strike_always).options(memory="100MB", retries=0)("greed").exception(PATIENCE)
        certificate = error.certificate if isinstance(error, LostError) else None
        lost += certificate is None or not certificate.out_of_memory
        here.look()
    return Finding(seconds, lost, left_of(here.family))


def interchange(number: signal.Signals) -> Finding:
    """The interchange's process gets a signal: its managers end, the next one gets blocks of its own, where
    what was lost runs, though no task has a retry.
    """
    with lab(pilot(interchange="process"), retries=0) as here:
        victim = here.victim("wait")
        here.struck()
        [pid] = [pid for pid in here.family if runs(pid, "weft_executor_htex.interchange")]
        since = time.time()
        os.kill(pid, number)
        seconds = here.told("interchange.lost", since)
        lost = here.lost(victim)
    return Finding(seconds, lost, left_of(here.family))


def runs(pid: int, module: str) -> bool:
    """Whether a process was started to run this module."""
    try:
        return module.encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False


def manager(number: signal.Signals) -> Finding:
    """A manager gets a signal."""
    with lab() as here:
        victim = here.victim("wait")
        _, pid = here.struck()
        since = time.time()
        os.kill(pid, number)
        seconds = here.told("task.retrying", since)
        if number is signal.SIGSTOP:
            os.kill(pid, signal.SIGCONT)
        lost = here.lost(victim)
    return Finding(seconds, lost, left_of(here.family))


def drain() -> Finding:
    """A manager is drained: it ends when its tasks have, and no task notices."""
    with lab() as here:
        victim = here.victim("nap")
        since, pid = here.struck()
        [block] = [event.data["block"] for event in here.sink.of_kind("manager.up")]
        here.executor.drain([block])
        seconds = here.told("manager.gone", since, block=block) - NAP
        lost = here.lost(victim) + here.retried()
        wait_until(lambda: not alive(pid), "the drained manager does not end")
    return Finding(seconds, lost, left_of(here.family))


def client(number: signal.Signals) -> Finding:
    """The client's process gets a signal: how long until all that it had started has ended."""
    code = textwrap.dedent("""
        import sys, time, weft

        @weft.task
        def nap(seconds):
            time.sleep(seconds)

        if __name__ == "__main__":
            blocks = weft.Blocks(provider=weft.LocalProvider())
            htex = weft.HighThroughputExecutor(workers_per_node=2, blocks=blocks)
            with weft.run(executors=[htex], run_dir=sys.argv[1], progress=False, shutdown_timeout=1):
                nap(0).result()
                naps = [nap(1000) for _ in range(4)]
                print("ready", flush=True)
                weft.gather(naps).result()
    """)
    with tempfile.TemporaryDirectory() as directory:
        command = [sys.executable, "-c", code, directory]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
        ) as process:
            assert process.stdout is not None
            process.stdout.readline()
            family = set(descendants(process.pid))
            since = time.monotonic()
            process.send_signal(number)
            process.wait(PATIENCE)
            left = left_of(family)
            return Finding(time.monotonic() - since, 0, left)


class Fails:
    """A launcher whose command ends before the manager can register."""

    def wrap(self, command: Sequence[str], shape: BlockShape) -> list[str]:
        """The command."""
        return ["sh", "-c", "echo module: python/3.99: not found >&2; exit 7"]


class Differs:
    """A launcher that starts managers of another version."""

    def __init__(self, name: str, value: Any) -> None:
        self._code = (
            f"import sys; from weft_executor_htex import manager; manager.{name} = {value!r}; "
            "sys.exit(manager.main())"
        )

    def wrap(self, command: Sequence[str], shape: BlockShape) -> list[str]:
        """The command."""
        return [sys.executable, "-c", self._code]


def no_block(launcher: Any, words: str) -> Finding:
    """No manager ever registers: the task fails, and says why."""
    with lab(pilot(launcher=launcher)) as here:
        since = time.monotonic()
        error = weft.task(square)(3).exception(PATIENCE)
        seconds = time.monotonic() - since
    return Finding(seconds, int(error is None or words not in str(error)), left_of(here.family))


def network(seconds: float) -> Finding:
    """The network between manager and interchange is cut, and mended after so long.

    A third of the heartbeat's threshold is granted to connect again: a shorter cut costs nothing, and what is
    measured is how long tasks take to flow again.
    """
    with lab(pilot(RelayedExecutor, address="127.0.0.1", heartbeat_threshold=3 * THRESHOLD)) as here:
        weft.task(square)(0).result(PATIENCE)
        relay = here.executor.relay
        long = seconds > THRESHOLD
        victim = here.victim("wait" if long else "nap")
        here.struck()
        since = time.time()
        relay.cut()
        time.sleep(seconds)
        relay.mend()
        mended = time.time()
        if long:
            found = here.told("task.retrying", since)
        else:
            weft.task(square)(0).result(PATIENCE)
            found = time.time() - mended
        lost = here.lost(victim) + (0 if long else here.retried())
    return Finding(found, lost, left_of(here.family))


def poison() -> Finding:
    """A task that kills every worker: it fails, and shows how each of them died."""
    with lab(retries=100) as here:
        since = time.monotonic()
        error = weft.task(strike_always)("kill").exception(PATIENCE)
        seconds = time.monotonic() - since
        told = isinstance(error, LostError) and len(error.certificates) == LOSSES
        lost = here.lost() + (not told)
    return Finding(seconds, lost, left_of(here.family))


@dataclass(frozen=True)
class Fault:
    """One line of the report. ``bound``: seconds within which it must be noticed."""

    name: str
    strike: Callable[[], Finding]
    bound: float


FAULTS = (
    Fault("worker: SIGKILL", lambda: worker("kill"), 1.0),
    Fault("worker: SIGSEGV", lambda: worker("segfault"), 1.0),
    Fault("worker: os._exit", lambda: worker("exit"), 1.0),
    Fault("worker: hangs, timeout 0.5 s", lambda: worker("wait", timeout=0.5), 1.0),
    Fault("worker: 200 MB, asked for 100 MB", greedy, 1.0),
    Fault("task kills every worker", poison, 15.0),
    Fault("manager: SIGKILL", lambda: manager(signal.SIGKILL), 2.5),
    Fault("manager: SIGSTOP, threshold 3 s", lambda: manager(signal.SIGSTOP), THRESHOLD + 2 * PERIOD),
    Fault("manager: SIGTERM", lambda: manager(signal.SIGTERM), 1.5),
    Fault("manager: drained", drain, 5.0),
    Fault("interchange: SIGKILL", lambda: interchange(signal.SIGKILL), 1.0),
    Fault("interchange: SIGSTOP, threshold 3 s", lambda: interchange(signal.SIGSTOP), THRESHOLD + MOMENT),
    Fault("block ends before it registers", lambda: no_block(Fails(), "python/3.99: not found"), 20.0),
    Fault("manager of another protocol", lambda: no_block(Differs("PROTOCOL", 99), "protocol 99"), 20.0),
    Fault("manager of another Python", lambda: no_block(Differs("PYTHON", "2.7"), "Python 2.7"), 20.0),
    Fault("network: cut for 1 s", lambda: network(1.0), 3.0),
    Fault("network: cut for 5 s, 3 s granted", lambda: network(5.0), THRESHOLD + 2 * PERIOD),
    Fault("client: SIGKILL", lambda: client(signal.SIGKILL), 6.0),
    Fault("client: SIGTERM", lambda: client(signal.SIGTERM), 6.0),
)


def report(fault: Fault, runs: int) -> dict[str, Any]:
    """Strike several times."""
    print(f"striking: {fault.name}", file=sys.stderr, flush=True)
    found = [fault.strike() for _ in range(runs)]
    worst = max(each.detected for each in found)
    lost, left = sum(each.lost for each in found), sum(each.left for each in found)
    return {
        "fault": fault.name,
        "runs": runs,
        "median": median(each.detected for each in found),
        "worst": worst,
        "bound": fault.bound,
        "lost": lost,
        "left": left,
        "verdict": "met" if worst <= fault.bound and not lost and not left else "MISSED",
        "detected": [each.detected for each in found],
    }


def main() -> int:
    """Strike, show, keep."""
    parser = argparse.ArgumentParser(prog="bench:faults", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="each fault once: to see whether it works")
    parser.add_argument("--runs", type=int, default=10, help="how often each fault strikes")
    parser.add_argument("--only", default="", help="faults with this in their names")
    default = RESULTS / f"faults-{date.today():%Y-%m-%d}.json"
    parser.add_argument("--output", type=Path, default=default, help="JSON file")
    arguments = parser.parse_args()
    chosen = [fault for fault in FAULTS if arguments.only in fault.name]
    runs = 1 if arguments.quick else arguments.runs
    rows = [report(fault, runs) for fault in chosen]
    columns = ("fault", "runs", "median", "worst", "bound", "lost", "left", "verdict")
    show_rows(
        "faults: seconds until they are noticed, tasks lost, processes left",
        columns,
        [[row[name] for name in columns] for row in rows],
    )
    settings = {"heartbeat_period": PERIOD, "heartbeat_threshold": THRESHOLD, "runs": runs}
    keep_report(arguments.output, settings, faults=rows)
    missed = [row["fault"] for row in rows if row["verdict"] != "met"]
    print(f"Missed: {'; '.join(missed)}." if missed else "Nothing was lost, and nothing is left.")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
