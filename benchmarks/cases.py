"""What is timed. Every case takes a contender, and knows nothing else of what it measures."""

from __future__ import annotations

import gc
import itertools
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from statistics import median, quantiles
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import numpy

__all__ = [
    "Case",
    "Contender",
    "add",
    "chain",
    "echo",
    "fan",
    "interleave",
    "large_results",
    "naps",
    "noop",
    "one_to_many",
    "round_trips",
    "throughput",
]

Call: TypeAlias = Callable[..., "Future[Any]"]
Case: TypeAlias = Callable[["Contender"], float]


def results(futures: Iterable[Future[Any]]) -> list[Any]:
    """Waits for them, one after the other."""
    return [future.result() for future in futures]


@dataclass(frozen=True)
class Contender:
    """Something that runs functions. ``bind(function)`` is the callable with which its users call it.

    ``waits_for_futures``: a future may be an argument; otherwise who calls waits for it first.
    ``gather``: how its users wait for many results. ``share``: how they pass a large value to many calls, if
    there is another way than just to pass it.
    """

    name: str
    bind: Callable[[Callable[..., Any]], Call]
    waits_for_futures: bool = True
    gather: Callable[[list[Any]], list[Any]] = results
    share: Callable[[Any], Any] | None = None

    def result(self, future: Future[Any]) -> Any:
        """Waits for this one."""
        return self.gather([future])[0]

    def ready(self, future: Future[Any]) -> Any:
        """What stands for this future in the arguments of the next call."""
        return future if self.waits_for_futures else self.result(future)


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


def nap(seconds: float) -> None:
    """A task that takes its time."""
    time.sleep(seconds)


def touch(array: numpy.ndarray) -> int:
    """Read something of every page."""
    return int(array[::4096].sum())


def make_large(seed: int, size: int) -> numpy.ndarray:
    """So many bytes, which no other seed gives: what has been sent before may be known."""
    import numpy

    return numpy.random.default_rng(seed).integers(0, 256, size, numpy.uint8)


def fill(value: int, size: int) -> numpy.ndarray:
    """So many bytes, in no time."""
    import numpy

    array = numpy.zeros(size, numpy.uint8)
    array[:8].view(numpy.uint64)[0] = value
    return array


def run_true() -> None:
    """The smallest command, as it is run without Weft."""
    subprocess.run(["true"], check=True, stdin=subprocess.DEVNULL)


# -- cases ---------------------------------------------------------------------------------------------------


def throughput(contender: Contender, calls: int, function: Callable[..., Any] = noop) -> float:
    """Calls per second, from the first submission to the last result."""
    call = contender.bind(function)
    with _Clock() as clock:
        futures = [call() for _ in range(calls)]
        contender.gather(futures)
    return calls / clock.seconds


def naps(contender: Contender, calls: int, seconds: float) -> float:
    """Calls per second of tasks that take so long."""
    call = contender.bind(nap)
    with _Clock() as clock:
        futures = [call(seconds) for _ in range(calls)]
        contender.gather(futures)
    return calls / clock.seconds


def round_trips(contender: Contender, calls: int) -> list[float]:
    """Seconds from a call to its result, each call alone."""
    call = contender.bind(noop)
    seconds = []
    for _ in range(calls):
        with _Clock(collect=False) as clock:
            contender.result(call())
        seconds.append(clock.seconds)
    return seconds


def chain(contender: Contender, calls: int) -> float:
    """Calls per second, each with the result of the one before; submitted ahead if the contender can."""
    call = contender.bind(add)
    with _Clock() as clock:
        future = call(0)
        for _ in range(calls - 1):
            future = call(contender.ready(future))
        value = contender.result(future)
    assert value == calls
    return calls / clock.seconds


def fan(contender: Contender, calls: int) -> float:
    """Calls per second from one call to many and to one again."""
    one, many, all_of_them = contender.bind(add), contender.bind(add), contender.bind(add_all)
    with _Clock() as clock:
        first = contender.ready(one(0))
        leaves = [many(first) for _ in range(calls)]
        total = contender.result(all_of_them([contender.ready(leaf) for leaf in leaves]))
    assert total == 2 * calls
    return (calls + 2) / clock.seconds


def one_to_many(contender: Contender, calls: int, size: int, *, shared: bool = False) -> float:
    """Seconds until so many calls have read one array of so many bytes. Sharing it counts, making it not."""
    array = make_large(next(_seeds), size)
    expected = touch(array)
    call = contender.bind(touch)
    with _Clock() as clock:
        argument = contender.share(array) if shared and contender.share else array
        found = contender.gather([call(argument) for _ in range(calls)])
    assert found == [expected] * calls
    return clock.seconds


def large_results(contender: Contender, calls: int, size: int) -> float:
    """Seconds until so many results of so many bytes are there, all of them different."""
    call = contender.bind(fill)
    with _Clock() as clock:
        arrays = contender.gather([call(next(_seeds), size) for _ in range(calls)])
    assert sum(array.nbytes for array in arrays) == calls * size
    return clock.seconds


_seeds = itertools.count(1)


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
