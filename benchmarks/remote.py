"""A laptop and a cluster, with one SSH connection between them that takes its time.

``hatch run bench:remote``. The remote site of the integration tests on this machine: a login node and two
compute nodes with Slurm behind a firewall, and a cable that delays what passes. For each delay and both
channels: tasks a second, the round trip of one task, a large result, what the agent takes, and where the time
until the first result goes. Needs root, and what ``integration-tests/servers/packages.txt`` lists.

Each run is a fresh interpreter. The first one on a site sends what is sent once; it is kept apart. Steps
before the first result are told in round trips, too: how much longer they take with the longest delay.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from findings import keep_report, show_trials

HERE = Path(__file__).parent
RESULTS = HERE / "results"
sys.path.insert(0, str(HERE.parent / "integration-tests"))

from servers.process import program  # noqa: E402  beside this folder
from servers.site import Site, remote_site  # noqa: E402  beside this folder

PATIENCE = 900.0
AIMED = 50  # the delay that has targets
TARGETS = {
    "no-ops, tasks/s": (">=", 5000.0),
    "block runs to first result, s": ("<=", 5.0),
    "agent with calls, MB": ("<=", 60.0),
    "agent idle, MB": ("<=", 60.0),
    "agent idle, % of a core": ("<=", 1.0),
}


@dataclass(frozen=True)
class Sizes:
    """How much is measured. delays: there and back, in milliseconds. starts: runs of which only the beginning
    counts, beside the one that goes on. The others: see ``remote_run.py``.
    """

    delays: tuple[int, ...] = (0, 50, 200)
    kinds: tuple[str, ...] = ("ssh", "openssh")
    starts: int = 2
    rounds: int = 5
    noops: int = 20_000
    trips: int = 100
    large: int = 100_000_000
    transfers: int = 3
    idle: float = 60.0


QUICK = Sizes(
    delays=(20,), kinds=("ssh",), starts=0, rounds=1, noops=500, trips=5, large=2_000_000, transfers=1,
    idle=1.0,
)  # fmt: skip


class Bench:
    """One site, and the runs on it."""

    def __init__(self, site: Site, folder: Path, sizes: Sizes) -> None:
        self._site, self._folder, self._sizes = site, folder, sizes

    def start(self, kind: str, **settings: Any) -> dict[str, Any]:
        """One run."""
        order = {
            "kind": kind,
            "config": str(self._site.config),
            "environment": sys.executable,
            "directory": str(self._folder / "runs"),
            "home": str(self._site.home),
            "hosts": {name: host.pid for name, host in self._site.hosts.items()},
            "marks": {f"-F {self._site.config}": "ssh", f"cable.py {self._site.outermost.link} ": "cable"},
            **settings,
        }
        command = [sys.executable, str(HERE / "remote_run.py"), repr(time.time()), json.dumps(order)]
        done = subprocess.run(
            command, cwd=self._folder, stdout=subprocess.PIPE, text=True, timeout=PATIENCE, check=True
        )
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def trials(self) -> Iterator[tuple[int, str, dict[str, Any], dict[str, float]]]:
        """Each delay and kind of channel, with what was found, and the shortest times of all its runs."""
        sizes = self._sizes
        sent = self.start(sizes.kinds[0])["python to first result, s"]
        say(f"with the agent's file sent, the first result came after {sent:.1f} s")
        names = ("rounds", "noops", "trips", "large", "transfers", "idle")
        for delay in sizes.delays:
            self._site.delay(delay / 1000)
            for kind in sizes.kinds:
                say(f"{delay} ms, {kind}")
                row = self.start(kind, **{name: getattr(sizes, name) for name in names})
                again = [self.start(kind) for _ in range(sizes.starts)]
                starts = [row, *again]
                yield delay, kind, row | summary(starts, median), summary(starts, min)


def summary(
    starts: Sequence[Mapping[str, Any]], which: Callable[[Iterable[float]], float]
) -> dict[str, float]:
    """What several runs have in common."""
    names = [name for name in starts[0] if all(isinstance(each.get(name), (int, float)) for each in starts)]
    return {name: which([each[name] for each in starts]) for name in names}


def count_trips(shortest: Mapping[tuple[int, str], Mapping[str, float]], kind: str) -> dict[str, float]:
    """How often each step waits for the other side, from the shortest times with each delay."""
    delays = sorted({delay for delay, _ in shortest})
    least, most = delays[0], delays[-1]
    steps = ("connection", "agent", "environment", "submission", "manager to first result")
    if least == most:
        return {}
    return {
        f"{step}, round trips": (shortest[most, kind][f"{step}, s"] - shortest[least, kind][f"{step}, s"])
        / (most - least)
        * 1000
        for step in steps
    }


def judge(rows: Mapping[tuple[int, str], Mapping[str, Any]]) -> list[str]:
    """The targets, and whether they were met, in words."""
    words = []
    for (delay, kind), row in rows.items():
        for name, (bound, number) in TARGETS.items() if delay == AIMED else ():
            met = row[name] >= number if bound == ">=" else row[name] <= number
            verdict = "met" if met else "MISSED"
            words.append(f"{delay} ms, {kind}: {name}: {row[name]:.4g}, {bound} {number:g}: {verdict}")
    return words


def tools() -> dict[str, str]:
    """The versions of what is between the two sides."""
    said = {
        name: subprocess.run([program(name), "-V"], capture_output=True, text=True, check=True)
        for name in ("ssh", "slurmctld")
    }
    return {"paramiko": version("paramiko")} | {
        name: (done.stdout or done.stderr).strip() for name, done in said.items()
    }


def say(words: str) -> None:
    """Tell what happens."""
    print(words, file=sys.stderr, flush=True)


def main() -> None:
    """Measure, show, keep."""
    parser = argparse.ArgumentParser(prog="bench:remote", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="measure little: to see whether it works")
    parser.add_argument("--delay", type=int, nargs="+", help="there and back, in ms")
    parser.add_argument("--channel", choices=["ssh", "openssh"], nargs="+", help="which ones")
    default = RESULTS / f"remote-{date.today():%Y-%m-%d}.json"
    parser.add_argument("--output", type=Path, default=default, help="JSON file; the table goes to .txt")
    arguments = parser.parse_args()
    settings = asdict(QUICK if arguments.quick else Sizes())
    for name, value in (("delays", arguments.delay), ("kinds", arguments.channel)):
        if value is not None:
            settings[name] = tuple(value)
    sizes = Sizes(**settings)
    rows: dict[tuple[int, str], dict[str, Any]] = {}
    shortest: dict[tuple[int, str], dict[str, float]] = {}
    with tempfile.TemporaryDirectory(prefix="weft-bench-") as name:
        folder = Path(name)
        with remote_site(folder / "s", compute_python=Path(sys.executable)) as site:
            for delay, kind, row, best in Bench(site, folder, sizes).trials():
                rows[delay, kind], shortest[delay, kind] = row, best
    for kind in sizes.kinds:
        rows[max(sizes.delays), kind].update(count_trips(shortest, kind))
    verdicts = judge(rows)
    table = {f"{delay} ms {kind}": row for (delay, kind), row in rows.items()}
    shown = {name: {k: v for k, v in row.items() if not isinstance(v, list)} for name, row in table.items()}
    show_trials("one connection, and its round trip", shown)
    print("\n".join(verdicts))
    keep_report(arguments.output, asdict(sizes), tools=tools(), trials=table, verdicts=verdicts)
    with arguments.output.with_suffix(".txt").open("w", encoding="utf-8") as file:
        show_trials("one connection, and its round trip", shown, file)
        print("\n".join(verdicts), file=file)


if __name__ == "__main__":
    main()
