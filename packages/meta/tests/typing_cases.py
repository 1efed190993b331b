"""What type checkers make of the face: read by mypy in test_typing.py, never run."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future as AnyFuture

import weft
from typing_extensions import assert_type
from weft import Future, ShellResult


@weft.task
def simulate(seed: int) -> float:
    return seed * 1.0


@weft.task(cpus=2, memory="4GB", executor=["a", "b"], timeout="1m")
def add(x: float, y: float = 2.0, *, name: str = "") -> float:
    return x + y


@weft.task
def total(values: list[float]) -> float:
    return sum(values)


@weft.shell
def align(reads: str) -> str:
    return f"bwa {reads}"


@weft.shell(stdout="x")
def listed(reads: str) -> list[str]:
    return ["bwa", reads]


@weft.join
def fan_out(n: int) -> list[Future[float]]:
    return [simulate(i) for i in range(n)]


@weft.join(name="x")
def one(n: int) -> Future[float]:
    return simulate(n)


def plain(value: int) -> int:
    return value


class Model:
    @weft.task
    def fitted(self, rows: int) -> str:
        return ""


def calls(foreign: AnyFuture[int], words: Future[str]) -> None:
    assert_type(simulate(3), Future[float])
    assert_type(simulate(seed=3), Future[float])
    assert_type(add(1.0, 2.0, name="n"), Future[float])
    assert_type(align("x"), Future[ShellResult])
    assert_type(listed("x"), Future[ShellResult])
    assert_type(fan_out(3), Future[list[float]])
    assert_type(one(3), Future[float])
    assert_type(Model().fitted(3), Future[str])
    assert_type(simulate.options(priority=5)(7), Future[float])
    assert_type(simulate(3).result(), float)
    simulate("x")  # error
    simulate(sed=3)  # error
    simulate()  # error
    add(1.0, nme="x")  # error
    Model().fitted("x")  # error


def futures_as_arguments(foreign: AnyFuture[int], words: Future[str]) -> None:
    assert_type(simulate(foreign), Future[float])
    assert_type(add(simulate(1), simulate(2)), Future[float])
    assert_type(add(1.0, simulate(2)), Future[float])
    assert_type(total([simulate(i) for i in range(3)]), Future[float])
    assert_type(add(y=weft.later(simulate(1)), x=3.0), Future[float])
    assert_type(total(values=weft.later([simulate(1)])), Future[float])
    add(x=simulate(1))  # error
    add(x=weft.later(words))  # error
    total(["x"])  # error


def shared_values_as_arguments() -> None:
    rows = weft.share([1.0, 2.0])
    assert_type(rows.value, list[float])
    assert_type(total(rows), Future[float])
    assert_type(total(values=weft.later(rows)), Future[float])
    assert_type(add(1.0, weft.share(2.0)), Future[float])
    assert_type(total([weft.share(1.0), weft.share(2.0)]), Future[float])
    total(values=rows)  # error


def the_rest() -> None:
    assert_type(weft.gather([simulate(1)]), Future[list[float]])
    assert_type(weft.gather({"a": simulate(1)}), Future[dict[str, float]])
    assert_type(weft.gather(simulate(1), simulate(2)), Future[tuple[float, ...]])
    assert_type(weft.map(simulate, range(3)), Iterator[float])
    assert_type(weft.map(plain, range(3)), Iterator[int])
    with weft.run("site.toml", retries=2) as run:
        assert_type(run, weft.Run)
    weft.task(cpu=3)  # error
    weft.Config(retris=3)  # error
    simulate.options(prority=3)  # error
