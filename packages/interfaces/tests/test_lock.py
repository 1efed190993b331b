"""The lock of the hot paths."""

from __future__ import annotations

import resource
import threading
from typing import Any

import pytest
from weft_interfaces import HotLock

ENTRIES = 100_000


def hammer(lock: Any) -> float:
    """Two threads that enter a lock again and again: how often they blocked, for each entry."""
    blocked: list[int] = []
    start = threading.Barrier(2)
    shared = [0]

    def count() -> None:  # a call: where the interpreter may turn to another thread
        shared[0] += 1

    def enter() -> None:
        start.wait()
        before = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw
        for _ in range(ENTRIES):
            with lock:
                count()
        blocked.append(resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw - before)

    threads = [threading.Thread(target=enter) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert shared == [2 * ENTRIES], "two were inside at once"
    return sum(blocked) / (2 * ENTRIES)


def test_two_threads_do_not_switch_at_every_entry() -> None:
    assert hammer(HotLock()) < 0.005  # an RLock: 0.02 to 0.05


def test_its_holder_may_enter_again_and_others_wait_until_it_has_left() -> None:
    lock, entered = HotLock(), threading.Event()

    def enter() -> None:
        with lock:
            entered.set()

    with lock:
        with lock:
            pass
        thread = threading.Thread(target=enter)
        thread.start()
        assert not entered.wait(0.2)  # longer than it yields: it blocks now
    assert entered.wait(10)
    thread.join()


def test_a_condition_may_be_made_of_it() -> None:
    changed = threading.Condition(HotLock())
    done: list[int] = []

    def work() -> None:
        with changed:
            done.append(1)
            changed.notify()

    with changed:
        thread = threading.Thread(target=work)
        thread.start()
        assert changed.wait_for(lambda: done, 10)
    thread.join()


class Interrupted(HotLock):
    """Ctrl-C strikes as soon as it is acquired."""

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        super().acquire(blocking, timeout)
        raise KeyboardInterrupt


def test_nobody_holds_it_after_an_interrupted_entry() -> None:
    lock, taken = Interrupted(), list[bool]()
    with pytest.raises(KeyboardInterrupt):
        lock.__enter__()
    thread = threading.Thread(target=lambda: taken.append(HotLock.acquire(lock, False)))
    thread.start()
    thread.join()
    assert taken == [True]
