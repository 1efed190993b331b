"""What the suites assert and wait with; the standard library is enough, so they run under any test runner."""

from __future__ import annotations

import os
import threading
import time
import unittest
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NoReturn, TypeVar

__all__ = ["aside", "child_processes", "eventually", "in_threads", "left_out", "raises", "skip"]

E = TypeVar("E", bound=BaseException)
S = TypeVar("S")


def raises(kind: type[E], action: Callable[[], object], promise: str) -> E:
    """Assert that ``action`` raises such an error, and return it.

    ``promise`` is what is broken if it does not.
    """
    try:
        action()
    except kind as error:
        return error
    except Exception as error:
        raise AssertionError(
            f"{promise}: {type(error).__name__} was raised, not {kind.__name__}: {error}"
        ) from error
    raise AssertionError(f"{promise}: nothing was raised, {kind.__name__} was expected")


def skip(reason: str) -> NoReturn:
    """Skip the running test: pytest and unittest both understand it."""
    raise unittest.SkipTest(reason)


def left_out(*tests: str) -> Callable[[type[S]], type[S]]:
    """Leave tests out of a subclass of a suite, for promises that an implementation does not make.

    Without it such tests are skipped, each time that they run.
    """

    def leave_out(suite: type[S]) -> type[S]:
        for test in tests:
            if not callable(getattr(suite, test)):
                raise AttributeError(f"{suite.__name__}: {test!r} is no test that could be left out")
            setattr(suite, test, None)
        return suite

    return leave_out


def eventually(condition: Callable[[], object], timeout: float) -> bool:
    """Whether it holds within ``timeout`` seconds: for what nothing announces, such as the end of a foreign
    process.
    """
    end, pause = time.monotonic() + timeout, threading.Event()
    while not condition():
        if time.monotonic() > end:
            return False
        pause.wait(0.005)
    return True


def aside(action: Callable[..., object], *args: Any) -> threading.Thread:
    """Run it in a thread of its own, and go on."""
    thread = threading.Thread(target=action, args=args, name="suite-aside", daemon=True)
    thread.start()
    return thread


def in_threads(action: Callable[[int], object], count: int, timeout: float, promise: str) -> None:
    """Run ``action(0)``, ``action(1)``, ...

    at once. Raises what one of them raised, and when one has not ended in time.
    """
    errors: list[BaseException] = []
    start = threading.Barrier(count)

    def run(number: int) -> None:
        try:
            start.wait(timeout)
            action(number)
        except BaseException as error:  # noqa: BLE001 - raised again below, in the test's thread
            errors.append(error)

    threads = [aside(run, number) for number in range(count)]
    end = time.monotonic() + timeout
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    if errors:
        raise AssertionError(f"{promise}: {type(errors[0]).__name__}: {errors[0]}") from errors[0]
    hanging = sum(thread.is_alive() for thread in threads)
    assert not hanging, f"{promise}: {hanging} of {count} threads have not returned after {timeout:g} s"


def child_processes() -> set[int]:
    """The processes whose parent is this one, zombies too. Empty where there is no /proc to read it from."""
    return set(_children_of(os.getpid(), Path("/proc").glob("[0-9]*/stat")))


def _children_of(parent: int, stats: Iterable[Path]) -> Iterable[int]:
    for stat in stats:
        try:
            after_name = stat.read_text(errors="replace").rpartition(")")[2].split()
        except OSError:
            continue  # it has ended since it was listed
        if int(after_name[1]) == parent:
            yield int(stat.parent.name)
