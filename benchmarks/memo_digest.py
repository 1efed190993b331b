"""Digests of values: a large array beside bare BLAKE3, small arguments beside pickle and joblib."""

from __future__ import annotations

import hashlib
import pickle
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import joblib
import numpy
from blake3 import blake3
from record import Figure, Target, summarize
from weft_memo import digest

__all__ = ["in_digests"]


class Sizes(Protocol):
    """How much is measured. large: bytes of the array. small: tuples of arguments."""

    @property
    def rounds(self) -> int: ...

    @property
    def large(self) -> int: ...

    @property
    def small(self) -> int: ...


def in_digests(sizes: Sizes) -> Iterator[Figure]:
    """All figures of digests."""
    yield large_array(sizes)
    yield from small_arguments(sizes)


def large_array(sizes: Sizes) -> Figure:
    """Gigabytes per second; a bare one has the same number of threads."""
    array = numpy.random.default_rng(0).random(sizes.large // 8)
    data = array.view(numpy.uint8).data
    contenders: dict[str, Callable[[], object]] = {
        "weft": lambda: digest(array),
        "bare": lambda: blake3(data, max_threads=blake3.AUTO).digest(),
    }
    if sizes.large <= 100_000_000:  # it takes its time
        contenders["joblib"] = lambda: joblib.hash(array)
    seconds = taking_turns(contenders, sizes.rounds)
    samples = {name: [sizes.large / one / 1e9 for one in many] for name, many in seconds.items()}
    name = f"array of {sizes.large / 1e9:,.3g} GB"
    return summarize("digests, beside bare BLAKE3", name, "GB/s", samples, Target(">=", 0.8, of_ratio=True))


def small_arguments(sizes: Sizes) -> Iterator[Figure]:
    """Microseconds for each tuple. Pickles of equal values may differ: they are the price of bytes alone."""
    tuples = [("name", number, 0.5, {"a": number}, [1, 2, 3]) for number in range(sizes.small)]
    few = tuples[: max(1, sizes.small // 20)]  # joblib is too slow for more
    contenders: dict[str, Callable[[], object]] = {
        "weft": lambda: all_of(digest, tuples),
        "pickle+sha256": lambda: all_of(pickled, tuples),
        "joblib": lambda: all_of(joblib.hash, few),
    }
    seconds = taking_turns(contenders, sizes.rounds)
    each = {name: (len(few) if name == "joblib" else len(tuples)) / 1e6 for name in seconds}
    samples = {name: [one / each[name] for one in many] for name, many in seconds.items()}
    section, name = "digests of small arguments", f"{sizes.small:,} tuples of five"
    yield summarize(
        section, f"{name}, beside pickle", "us", samples, Target("<=", 15), beside="pickle+sha256"
    )
    yield summarize(
        section, f"{name}, beside joblib", "us", samples, Target("<=", 0.2, of_ratio=True), beside="joblib"
    )


def all_of(function: Callable[[Any], object], values: list[Any]) -> None:
    for value in values:
        function(value)


def pickled(value: Any) -> bytes:
    return hashlib.sha256(pickle.dumps(value, 5)).digest()


def taking_turns(contenders: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds that each takes, after one round that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        for name, call in contenders.items():
            before = time.perf_counter()
            call()
            if number:
                seconds[name].append(time.perf_counter() - before)
    return seconds
