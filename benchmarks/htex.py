"""The pilot executor on this machine, beside the process pool of the standard library.

``hatch run bench:htex``. One block of this machine with two workers. Contenders take turns; figures are
medians, ratios are medians of the ratios of neighbours in time.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from datetime import date
from functools import partial
from pathlib import Path
from statistics import median

import weft
from cases import Case, Contender, chain, fan, throughput
from kernel import compare, contenders, latency
from probes import start_seconds
from record import Figure, Target, keep, show

RESULTS = Path(__file__).parent / "results"
SECTION = "pilot executor, beside ProcessPoolExecutor"
START = """
import weft
htex = {"type": "htex", "workers_per_node": 2, "blocks": {"provider": "local"}}
with weft.run(executors=[htex], progress=False):
    assert weft.task(abs)(-1).result() == 1
"""


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    rounds: int = 5
    workers: int = 2
    noops: int = 50_000
    trips: int = 1_000
    chain: int = 2_000
    fan: int = 20_000
    short: int = 2_000
    starts: int = 10


QUICK = Sizes(rounds=1, noops=500, trips=100, chain=100, fan=500, short=100, starts=2)


def make(workers: int) -> weft.HighThroughputExecutor:
    """One block of this machine."""
    return weft.HighThroughputExecutor(
        workers_per_node=workers, blocks=weft.Blocks(provider=weft.LocalProvider())
    )


def nap(seconds: float) -> None:
    """A task that takes its time."""
    time.sleep(seconds)


def naps(contender: Contender, calls: int, seconds: float) -> float:
    """Calls per second of tasks that take so long."""
    return throughput(contender, calls, partial(nap, seconds))


def speed(sizes: Sizes) -> Iterator[Figure]:
    """Throughput, chains, round trips."""
    pool = ProcessPoolExecutor(sizes.workers)
    pool.submit(abs, 0).result()  # it forks now, while there are no threads
    cases: dict[str, tuple[Case, Target | None]] = {
        f"{sizes.noops:,} no-ops": (partial(throughput, calls=sizes.noops), Target(">=", 4, of_ratio=True)),
        f"{sizes.short:,} x 1 ms": (partial(naps, calls=sizes.short, seconds=0.001), None),
        f"{sizes.short // 10:,} x 10 ms": (partial(naps, calls=sizes.short // 10, seconds=0.01), None),
        f"{sizes.short // 100:,} x 100 ms": (partial(naps, calls=sizes.short // 100, seconds=0.1), None),
        f"chain of {sizes.chain:,}": (partial(chain, calls=sizes.chain), Target(">=", 5_000)),
        f"1 to {sizes.fan:,} to 1": (partial(fan, calls=sizes.fan), None),
    }
    with contenders(partial(make, sizes.workers), pool) as them:
        yield from compare(SECTION, them, sizes, cases)
        yield from latency(SECTION, them, sizes)


def at_start(sizes: Sizes) -> Iterator[Figure]:
    """A fresh interpreter, from its start to the first result and its end."""
    seconds = [start_seconds(START) for _ in range(sizes.starts)]
    yield Figure(
        "interpreter", "python -c: import, first result, end", "s", median(seconds), samples={"weft": seconds}
    )


SECTIONS: dict[str, Callable[[Sizes], Iterator[Figure]]] = {"speed": speed, "start": at_start}


def main() -> None:
    """Measure, show, keep."""
    parser = argparse.ArgumentParser(prog="bench:htex", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("section", nargs="*", help=f"{', '.join(SECTIONS)} (default: all)")
    parser.add_argument("--quick", action="store_true", help="measure little: to see whether it works")
    default = RESULTS / f"htex-{date.today():%Y-%m-%d}.json"
    parser.add_argument("--output", type=Path, default=default, help="JSON file")
    arguments = parser.parse_args()
    if unknown := set(arguments.section) - SECTIONS.keys():
        parser.error(f"no section is called {', '.join(unknown)}; the sections are {', '.join(SECTIONS)}")
    sizes = QUICK if arguments.quick else Sizes()
    figures: list[Figure] = []
    for name in arguments.section or SECTIONS:
        print(f"measuring: {name}", file=sys.stderr, flush=True)
        figures += SECTIONS[name](sizes)
    show(figures)
    keep(figures, arguments.output, asdict(sizes))


if __name__ == "__main__":
    main()
