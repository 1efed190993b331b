"""What is measured of a run on a remote site once its workers are there."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from statistics import median, quantiles
from typing import TYPE_CHECKING, Any

import weft
from processes import Processes, memory_of, nanoseconds_of

if TYPE_CHECKING:
    from remote_run import Order

__all__ = ["measure"]

PATIENCE = 300.0
_seeds = itertools.count(1)


def measure(order: Order, channel: Any, noop: Any, fill: Any) -> dict[str, Any]:
    """All of it."""
    processes = Processes(order.hosts, order.marks)
    agent = processes.find("agent")
    found: dict[str, Any] = {"agent at first, MB": memory_of(agent)[0]}
    found |= throughput(order, noop, processes)
    found["agent with calls, MB"] = memory_of(agent)[1]
    found |= trips(order, noop)
    found |= idleness(order, agent)
    found |= transfers(order, channel, fill, processes)
    found["agent with a large result, MB"] = memory_of(agent)[1]
    return found


def throughput(order: Order, noop: Any, processes: Processes) -> dict[str, Any]:
    """Tasks a second from the first submission to the last result, and whose time they take."""
    rates: list[float] = []
    spent: Counter[str] = Counter()
    weft.gather([noop() for _ in range(order.noops)]).result(PATIENCE)  # all know the function then
    for _ in range(order.rounds):
        before, mine = processes.nanoseconds(), time.process_time_ns()
        begun = time.perf_counter()
        weft.gather([noop() for _ in range(order.noops)]).result(PATIENCE)
        rates.append(order.noops / (time.perf_counter() - begun))
        spent["client"] += time.process_time_ns() - mine
        spent.update(processes.nanoseconds() - before)
    tasks = order.rounds * order.noops
    return {
        "no-ops, tasks/s": median(rates),
        "rounds, tasks/s": rates,
        **{f"{kind}, us/task": took / tasks / 1000 for kind, took in sorted(spent.items())},
        "all of them, us/task": sum(spent.values()) / tasks / 1000,
    }


def trips(order: Order, noop: Any) -> dict[str, float]:
    """One task after the other."""
    seconds = []
    for _ in range(order.trips):
        begun = time.perf_counter()
        noop().result(PATIENCE)
        seconds.append(time.perf_counter() - begun)
    return {
        "one task p50, ms": 1000 * median(seconds),
        "one task p90, ms": 1000 * quantiles(seconds, n=10, method="inclusive")[-1],
    }


def idleness(order: Order, agent: int) -> dict[str, float]:
    """What the agent does when there is nothing to do."""
    before, begun = nanoseconds_of(agent), time.perf_counter()
    time.sleep(order.idle)
    spent = (nanoseconds_of(agent) - before) / 1e9
    return {
        "agent idle, % of a core": 100 * spent / (time.perf_counter() - begun),
        "agent idle, MB": memory_of(agent)[0],
    }


def transfers(order: Order, channel: Any, fill: Any, processes: Processes) -> dict[str, Any]:
    """A large result, and as many bytes through the bare channel, in turn."""
    results, bare = [], []
    spent: Counter[str] = Counter()
    for _ in range(order.transfers):
        before, mine = processes.nanoseconds(), time.process_time_ns()
        begun = time.perf_counter()
        data = fill(next(_seeds), order.large).result(PATIENCE)
        results.append(order.large / 1e6 / (time.perf_counter() - begun))
        spent["client"] += time.process_time_ns() - mine
        spent.update(processes.nanoseconds() - before)
        assert len(data) == order.large
        del data
        begun = time.perf_counter()
        read(channel, order.large)
        bare.append(order.large / 1e6 / (time.perf_counter() - begun))
    megabytes = order.transfers * order.large / 1e6
    return {
        "large result, MB/s": median(results),
        "bare channel, MB/s": median(bare),
        "result : channel": median(one / other for one, other in zip(results, bare, strict=True)),
        **{f"{kind}, ms/MB": took / megabytes / 1e6 for kind, took in sorted(spent.items())},
    }


def read(channel: Any, size: int) -> None:
    """So many bytes from a command there."""
    process = channel.open(["head", "-c", str(size), "/dev/zero"])
    try:
        left = size
        while left:
            data = process.read(1 << 18)
            assert data, "it ended early"
            left -= len(data)
    finally:
        process.close()
