"""Weft's kernel on threads and on processes, beside the bare executors of the standard library.

``hatch run bench:kernel``. All contenders live in one process and take turns; figures are medians, ratios are
medians of the ratios of neighbours in time. What is measured in fresh interpreters is in ``probes.py``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import date
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Protocol

import weft
from cases import Case, Contender, chain, fan, interleave, percentile, round_trips, run_true, throughput
from probes import probe, start_seconds
from record import Figure, Target, keep, medians, show, summarize
from weft_core import Kernel, TaskSpec
from weft_interfaces import Executor

RESULTS = Path(__file__).parent / "results"
FIRST_RESULT = "import weft; assert weft.task(abs)(-1).result() == 1"


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    rounds: int = 5
    workers: int = 2
    threads: int = 100_000
    processes: int = 20_000
    trips: int = 1_000
    chain: int = 20_000
    process_chain: int = 2_000
    fan: int = 20_000
    shell: int = 2_000
    shell_workers: int = 4
    pending: int = 100_000
    graphs: tuple[int, int, int] = (10_000, 100_000, 1_000_000)
    starts: int = 25


QUICK = Sizes(
    rounds=1, threads=2_000, processes=500, trips=100, chain=500, process_chain=100, fan=500, shell=40,
    pending=5_000, graphs=(1_000, 2_000, 5_000), starts=2,
)  # fmt: skip


# -- contenders ----------------------------------------------------------------------------------------------


@contextmanager
def contenders(make: Callable[[], Executor], pool: Any) -> Iterator[list[Contender]]:
    """``@weft.task`` and the kernel, each with an executor of its own, and the bare pool."""
    # The pool starts first: where it forks, that is before there are threads.
    with (
        pool,
        Kernel([make()], directory=Path("unused")) as kernel,
        weft.run(executors=[make()], progress=False),
    ):
        bare = Contender("bare", lambda function: partial(pool.submit, function), waits_for_futures=False)
        found = [Contender("weft", weft.task), Contender("kernel", partial(bind_to_kernel, kernel)), bare]
        for contender in found:
            throughput(contender, 100)
        yield found


def bind_to_kernel(kernel: Kernel, function: Callable[..., Any]) -> Callable[..., Any]:
    """As the face calls the kernel, without what the face does."""
    spec = TaskSpec(function=function)
    return lambda *arguments: kernel.submit(spec, arguments)


# -- figures -------------------------------------------------------------------------------------------------


class Rounds(Protocol):
    """What :func:`latency` and :func:`compare` want to know."""

    @property
    def rounds(self) -> int: ...

    @property
    def trips(self) -> int: ...


def latency(section: str, them: Sequence[Contender], sizes: Rounds) -> Iterator[Figure]:
    """Round trips: what half of them, and 99 of 100, stay below."""
    trips = interleave(partial(round_trips, calls=sizes.trips), them, sizes.rounds)
    for percent in (50, 99):
        samples = {name: [percentile(one, percent) * 1e6 for one in many] for name, many in trips.items()}
        yield summarize(section, f"round trip, p{percent}", "us", samples)


def compare(
    section: str, them: Sequence[Contender], sizes: Rounds, cases: Mapping[str, tuple[Case, Target | None]]
) -> Iterator[Figure]:
    """Cases that give tasks per second, for all contenders."""
    for name, (case, target) in cases.items():
        yield summarize(section, name, "tasks/s", interleave(case, them, sizes.rounds), target)


def on_threads(sizes: Sizes) -> Iterator[Figure]:
    """Everything on threads."""
    section = "threads, beside ThreadPoolExecutor"
    pool, make = ThreadPoolExecutor(sizes.workers), partial(weft.ThreadExecutor, workers=sizes.workers)
    cases: dict[str, tuple[Case, Target | None]] = {
        f"{sizes.threads:,} no-ops": (
            partial(throughput, calls=sizes.threads),
            Target(">=", 0.45, of_ratio=True),
        ),
        f"chain of {sizes.chain:,}": (partial(chain, calls=sizes.chain), Target(">=", 10_000)),
        f"1 to {sizes.fan:,} to 1": (partial(fan, calls=sizes.fan), None),
    }
    with contenders(make, pool) as them:
        yield from compare(section, them, sizes, cases)
        yield from latency(section, them, sizes)


def on_processes(sizes: Sizes) -> Iterator[Figure]:
    """Everything on processes."""
    section = "processes, beside ProcessPoolExecutor"
    pool, make = ProcessPoolExecutor(sizes.workers), partial(weft.ProcessExecutor, workers=sizes.workers)
    pool.submit(abs, 0).result()  # it forks now, while there are no threads
    cases: dict[str, tuple[Case, Target | None]] = {
        f"{sizes.processes:,} no-ops": (
            partial(throughput, calls=sizes.processes),
            Target(">=", 1, of_ratio=True),
        ),
        f"chain of {sizes.process_chain:,}": (partial(chain, calls=sizes.process_chain), None),
        f"1 to {sizes.processes:,} to 1": (partial(fan, calls=sizes.processes), None),
    }
    with contenders(make, pool) as them:
        yield from compare(section, them, sizes, cases)
        yield from latency(section, them, sizes)


def on_the_shell(sizes: Sizes) -> Iterator[Figure]:
    """Commands from four threads, beside ``subprocess`` from four threads."""
    pool = ThreadPoolExecutor(sizes.shell_workers)
    command = weft.shell(lambda: ["true"])
    ours = Contender("weft", lambda _: command)
    bare = Contender("bare", lambda _: partial(pool.submit, run_true))
    case = partial(throughput, calls=sizes.shell)
    with pool, weft.run(executors=[weft.ThreadExecutor(workers=sizes.shell_workers)], progress=False):
        section = f"shell, beside subprocess.run, {sizes.shell_workers} threads"
        cases = {f"{sizes.shell:,} x true": (case, Target(">=", 1_200))}
        yield from compare(section, [ours, bare], sizes, cases)


def in_memory(sizes: Sizes) -> Iterator[Figure]:
    """Memory that one pending task takes, its future included."""
    section = "pending task, beside ThreadPoolExecutor"
    kinds = {"queued": {"weft": "face", "bare": "bare"}, "dependent": {"weft": "face"}}
    gauges = {"resident": "resident", "traced": "by tracemalloc"}
    for kind, names in kinds.items():
        for gauge, label in gauges.items():
            samples = {
                name: [probe(kind, sizes.pending, option, gauge)["bytes"]] for name, option in names.items()
            }
            yield summarize(
                section, f"memory of a {kind} one, {label}", "bytes", samples, Target("<=", 1_200)
            )


def in_graphs(sizes: Sizes) -> Iterator[Figure]:
    """Time and memory for each task of graphs that grow; time must not grow with them."""
    section = "graphs: pending as a whole, then run"
    small, middle, large = sizes.graphs
    rounds = {small: sizes.rounds * 2 + 1, middle: sizes.rounds, large: 1 + sizes.rounds // 3}
    found: dict[int, list[dict[str, float]]] = {tasks: [] for tasks in sizes.graphs}
    for number in range(max(rounds.values())):
        for tasks in sizes.graphs:
            if number < rounds[tasks]:
                found[tasks].append(probe("graph", tasks))
    for tasks, many in found.items():
        times = [one["time"] * 1e6 for one in many]
        yield summarize(section, f"{tasks:,} tasks: time of each", "us", {"weft": times})
    for tasks, many in found.items():
        memory = [one["bytes"] for one in many]
        yield summarize(section, f"{tasks:,} tasks: memory of each", "bytes", {"weft": memory})
    growth = median(one["time"] for one in found[large]) / median(one["time"] for one in found[small])
    yield Figure(section, f"time of each, {large:,} to {small:,}", "x", growth, target=Target("<=", 1.3))


def at_start(sizes: Sizes) -> Iterator[Figure]:
    """Fresh interpreters: ``import weft``, and the first result on threads."""
    section = "interpreter, beside python -c pass"
    codes = {"import": "import weft", "first": FIRST_RESULT, "bare": "pass"}
    seconds = interleave_starts(codes, sizes.starts)
    for name, label, target in (
        ("import", "import weft, less pass", Target("<=", 0.1)),
        ("first", "import to first result, less pass", None),
    ):
        added = [ours - bare for ours, bare in zip(seconds[name], seconds["bare"], strict=True)]
        samples = {"weft": added, "bare": seconds["bare"]}
        yield Figure(section, label, "s", **medians(samples), target=target, samples=samples)


def interleave_starts(codes: dict[str, str], rounds: int) -> dict[str, list[float]]:
    """Seconds of fresh interpreters that run these, in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in codes}
    for _ in range(rounds):
        for name, code in codes.items():
            seconds[name].append(start_seconds(code))
    return seconds


SECTIONS: dict[str, Callable[[Sizes], Iterator[Figure]]] = {
    "threads": on_threads,
    "processes": on_processes,
    "shell": on_the_shell,
    "memory": in_memory,
    "graph": in_graphs,
    "start": at_start,
}


def main() -> None:
    """Measure, show, keep."""
    parser = argparse.ArgumentParser(prog="bench:kernel", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("section", nargs="*", help=f"{', '.join(SECTIONS)} (default: all)")
    parser.add_argument("--quick", action="store_true", help="measure little: to see whether it works")
    default = RESULTS / f"kernel-{date.today():%Y-%m-%d}.json"
    parser.add_argument(
        "--output",
        type=Path,
        default=default,
        help="JSON file (default: benchmarks/results/kernel-DATE.json)",
    )
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
