"""What the table of the pilot executor has lines for, and how much is measured for each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

from cases import (
    Case,
    Contender,
    chain,
    fan,
    large_results,
    naps,
    one_to_many,
    percentile,
    round_trips,
    throughput,
)
from probes import queued, resident
from record import Target

__all__ = ["FIRST", "LAST", "PEERS", "PEERS_QUICK", "QUICK", "SECTIONS", "Line", "Sizes"]

FIRST, LAST = "python -c to first result", "first result to end"


@dataclass(frozen=True)
class Sizes:
    """How much is measured. ``naps``: tasks of 1, 10 and 100 ms. ``large``: bytes of the argument that
    ``readers`` read; ``results`` of ``result`` bytes each.
    """

    rounds: int = 5
    noops: int = 50_000
    trips: int = 1_000
    chain: int = 2_000
    fan: int = 20_000
    naps: tuple[int, int, int] = (1_000, 100, 20)
    data_rounds: int = 3
    large: int = 20_000_000
    readers: int = 40
    results: int = 1_000
    result: int = 1_000_000
    pending: int = 50_000
    starts: int = 10


QUICK = Sizes(
    rounds=1, noops=500, trips=100, chain=100, fan=500, naps=(100, 10, 4), data_rounds=1, large=1_000_000,
    readers=4, results=10, pending=2_000, starts=1,
)  # fmt: skip
# Rates do not depend on how many calls they are measured with, but how long it takes does.
PEERS = Sizes(rounds=3, noops=3_000, trips=200, chain=500, data_rounds=1, pending=10_000, starts=3)
PEERS_QUICK = Sizes(
    rounds=1, noops=200, trips=20, chain=20, naps=(20, 10, 4), data_rounds=1, large=1_000_000, readers=4,
    results=10, pending=500, starts=1,
)  # fmt: skip


@dataclass(frozen=True)
class Line:
    """One line: what the case gives, in this unit.

    ``times``: how many times the figures of others Weft's must be. ``peers``: whether they take part.
    ``sharing``: only those take part that have a way to share values. ``side_by_side``: those that can live
    in one process take turns; else each has an interpreter of its own. The case is None where that is
    measured from outside.
    """

    name: str
    unit: str
    case: Case | None
    rounds: int
    target: Target | None = None
    times: Mapping[str, float] = field(default_factory=dict)
    peers: bool = True
    sharing: bool = False
    side_by_side: bool = True


def speed(sizes: Sizes) -> list[Line]:
    """Throughput, chains, round trips."""
    line = partial(Line, rounds=sizes.rounds)
    short, middle, long = sizes.naps
    rate = "tasks/s"
    return [
        line("no-ops", rate, partial(throughput, calls=sizes.noops), target=Target(">=", 50_000),
             times={"ProcessPool": 4, "Parsl": 40}),
        line("tasks of 1 ms", rate, partial(naps, calls=short, seconds=0.001)),
        line("tasks of 10 ms", rate, partial(naps, calls=middle, seconds=0.01)),
        line("tasks of 100 ms", rate, partial(naps, calls=long, seconds=0.1)),
        line("chain", rate, partial(chain, calls=sizes.chain), target=Target(">=", 5_000)),
        line("one to many to one", rate, partial(fan, calls=sizes.fan), peers=False),
        line("round trip, p50", "us", partial(trip, calls=sizes.trips, percent=50), target=Target("<=", 250)),
        line("round trip, p99", "us", partial(trip, calls=sizes.trips, percent=99)),
    ]  # fmt: skip


def trip(contender: Contender, calls: int, percent: int) -> float:
    """Microseconds of a round trip that so many percent of them do not exceed."""
    return percentile(round_trips(contender, calls), percent) * 1e6


def data(sizes: Sizes) -> list[Line]:
    """Large arguments and results."""
    line = partial(Line, unit="s", rounds=sizes.data_rounds)
    large = f"{sizes.large / 1e6:g} MB to {sizes.readers} tasks"
    case = partial(one_to_many, calls=sizes.readers, size=sizes.large)
    return [
        line(large, case=case, target=Target("<=", 0.4)),
        line(f"{large}, shared", case=partial(case, shared=True), target=Target("<=", 0.1), sharing=True),
        line(
            f"{sizes.results:,} results of {sizes.result / 1e6:g} MB",
            case=partial(large_results, calls=sizes.results, size=sizes.result),
        ),
    ]


def memory(sizes: Sizes) -> list[Line]:
    """What a pending task takes of the memory of the client's process, its future included."""
    case = partial(pending, tasks=sizes.pending)
    return [Line("resident", "bytes", case, 1, Target("<=", 1_200), side_by_side=False)]


def pending(contender: Contender, tasks: int) -> float:
    """Bytes of each task that waits for a worker."""
    return queued(tasks, contender, resident)["bytes"]


def start(sizes: Sizes) -> list[Line]:
    """A fresh interpreter."""
    line = partial(Line, unit="s", case=None, rounds=sizes.starts, side_by_side=False)
    return [line(FIRST, target=Target("<=", 0.5)), line(LAST)]


SECTIONS: dict[str, Callable[[Sizes], list[Line]]] = {
    "speed": speed,
    "data": data,
    "memory": memory,
    "start": start,
}
