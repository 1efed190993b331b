"""What is timed. Every case takes a contender, and knows nothing else of what it measures."""

from __future__ import annotations

import gc
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any, TypeAlias

__all__ = [
    "Case",
    "Contender",
    "add",
    "chain",
    "echo",
    "fan",
    "interleave",
    "noop",
    "round_trips",
    "throughput",
]

Call: TypeAlias = Callable[..., "Future[Any]"]
Case: TypeAlias = Callable[["Contender"], float]


@dataclass(frozen=True)
class Contender:
    """Something that runs functions. ``bind(function)`` is the callable with which its users call it.

    ``waits_for_futures``: a future may be an argument; otherwise who calls waits for it first.
    """

    name: str
    bind: Callable[[Callable[..., Any]], Call]
    waits_for_futures: bool = True

    def ready(self, future: Future[Any]) -> Any:
        """What stands for this future in the arguments of the next call."""
        return future if self.waits_for_futures else future.result()


# -- what the tasks do: importable, so that processes find it ------------------------------------------------


def noop() -> None:
    """Nothing."""


def echo(value: Any) -> Any:
    """The value itself."""
    return value


def add(*values: int) -> int:
    """One more than the sum."""
    return sum(values) + 1


def add_all(values: list[int]) -> int:
    """The sum."""
    return sum(values)


def run_true() -> None:
    """The smallest command, as it is run without Weft."""
    subprocess.run(["true"], check=True, stdin=subprocess.DEVNULL)


# -- cases ---------------------------------------------------------------------------------------------------


def throughput(contender: Contender, calls: int, function: Callable[..., Any] = noop) -> float:
    """Calls per second, from the first submission to the last result."""
    call = contender.bind(function)
    with _Clock() as clock:
        futures = [call() for _ in range(calls)]
        _wait(futures)
    return calls / clock.seconds


def round_trips(contender: Contender, calls: int) -> list[float]:
    """Seconds from a call to its result, each call alone."""
    call = contender.bind(noop)
    seconds = []
    for _ in range(calls):
        with _Clock(collect=False) as clock:
            call().result()
        seconds.append(clock.seconds)
    return seconds


def chain(contender: Contender, calls: int) -> float:
    """Calls per second, each with the result of the one before; submitted ahead if the contender can."""
    call = contender.bind(add)
    with _Clock() as clock:
        future = call(0)
        for _ in range(calls - 1):
            future = call(contender.ready(future))
        value = future.result()
    assert value == calls
    return calls / clock.seconds


def fan(contender: Contender, calls: int) -> float:
    """Calls per second from one call to many and to one again."""
    one, many, all_of_them = contender.bind(add), contender.bind(add), contender.bind(add_all)
    with _Clock() as clock:
        first = contender.ready(one(0))
        leaves = [many(first) for _ in range(calls)]
        total = all_of_them([contender.ready(leaf) for leaf in leaves]).result()
    assert total == 2 * calls
    return (calls + 2) / clock.seconds


def _wait(futures: Iterable[Future[Any]]) -> None:
    for future in futures:
        future.result()


class _Clock:
    """The seconds that its block took."""

    def __init__(self, *, collect: bool = True) -> None:
        if collect:
            gc.collect()  # nobody pays for what others have left

    def __enter__(self) -> _Clock:
        self._began = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self._began


# -- side by side --------------------------------------------------------------------------------------------


def interleave(
    case: Callable[[Contender], Any], contenders: Sequence[Contender], rounds: int
) -> dict[str, list[Any]]:
    """What the case gives for each contender in each round; in turn, so that noise hits all of them."""
    measured: dict[str, list[Any]] = {contender.name: [] for contender in contenders}
    for number in range(rounds):
        for contender in contenders if number % 2 == 0 else reversed(contenders):
            measured[contender.name].append(case(contender))
    return measured


def percentile(values: Sequence[float], percent: int) -> float:
    """So many percent of the values are not above it."""
    return median(values) if percent == 50 else quantiles(values, n=100, method="inclusive")[percent - 1]
