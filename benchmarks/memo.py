"""Memoization: digests, stores, and calls that are remembered.

``hatch run bench:memo`` measures all, ``hatch run bench:memo digests calls`` these sections alone. A figure
that misses its target is marked as such; the exit status is 0 all the same.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path

import memo_store
import weft
from memo_digest import in_digests
from memo_store import in_stores
from record import Figure, keep, show, summarize

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Sizes:
    """How much is measured. large: bytes of the array. small: tuples of arguments. calls: of tasks."""

    rounds: int = 5
    large: int = 1_000_000_000
    small: int = 100_000
    calls: int = 10_000
    store: memo_store.Sizes = field(default_factory=memo_store.Sizes)


QUICK = Sizes(rounds=1, large=10_000_000, small=1_000, calls=200, store=memo_store.QUICK)

OFFSET = 1


def helper(x: int) -> int:
    """What the tasks below reach."""
    return x + OFFSET


def remembered(x: int, name: str, options: dict[str, int]) -> int:
    """A task of no weight."""
    return helper(x)


def in_calls(sizes: Sizes) -> Iterator[Figure]:
    """Tasks per second on threads: remembered and new, remembered and known, and neither."""
    plain, memo = weft.task(remembered), weft.task(memo=True)(remembered)
    samples: dict[str, list[float]] = {"new": [], "known": [], "not remembered": []}
    for _ in range(sizes.rounds):
        with tempfile.TemporaryDirectory(dir=os.environ.get("WEFT_BENCH_DIR")) as folder:
            config = weft.Config(memo=weft.Memo(store=Path(folder, "store")), run_dir=folder)
            for name, task in (("new", memo), ("known", memo), ("not remembered", plain)):
                samples[name].append(sizes.calls / seconds_of(task, config, sizes.calls))
    for name in ("new", "known"):
        both = {"weft": samples[name], "not remembered": samples["not remembered"]}
        yield summarize(
            "calls of tasks", f"remembered, {name}", "tasks/s", both, None, beside="not remembered"
        )


def seconds_of(task: Callable[..., weft.Future[int]], config: weft.Config, calls: int) -> float:
    """From the first call to the last value, with the closing of the run: what is kept survives then."""
    before = time.perf_counter()
    with weft.run(config):
        futures = [task(number, "name", {"depth": 3}) for number in range(calls)]
        weft.gather(futures).result()
    return time.perf_counter() - before


SECTIONS: dict[str, Callable[[Sizes], Iterable[Figure]]] = {
    "digests": in_digests,
    "stores": lambda sizes: in_stores(sizes.store),
    "calls": in_calls,
}


def main() -> None:
    """Measure, show, keep."""
    parser = argparse.ArgumentParser(prog="bench:memo", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("section", nargs="*", help=f"{', '.join(SECTIONS)} (default: all)")
    parser.add_argument("--quick", action="store_true", help="measure little: to see whether it works")
    default = RESULTS / f"memo-{date.today():%Y-%m-%d}.json"
    parser.add_argument("--output", type=Path, default=default, help="JSON file (default: %(default)s)")
    arguments = parser.parse_args()
    if unknown := set(arguments.section) - SECTIONS.keys():
        parser.error(f"no section is called {', '.join(unknown)}; the sections are {', '.join(SECTIONS)}")
    sizes = QUICK if arguments.quick else Sizes()
    figures: list[Figure] = []
    for name in arguments.section or SECTIONS:
        print(f"measuring: {name}", file=sys.stderr, flush=True)
        found = list(SECTIONS[name](sizes))
        show(found)
        figures += found
    keep(figures, arguments.output, asdict(sizes))


if __name__ == "__main__":
    main()
