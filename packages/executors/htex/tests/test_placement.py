"""The interchange in the client's process: who submits does its work, and Ctrl-C leaves none half done."""

from __future__ import annotations

import gc
import os
import signal
import threading
from typing import Any

import pytest
from weft_executor_htex.interrupt import Uninterrupted
from weft_interfaces import Call


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_waits_for_the_end_of_the_block() -> None:
    steps = []

    def hit() -> None:
        with Uninterrupted():
            interrupt()
            steps.append("the rest of the block")
        steps.append("what comes behind it")

    with pytest.raises(KeyboardInterrupt):
        hit()
    assert steps == ["the rest of the block"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_the_handler_of_a_program_is_what_hears_of_it(monkeypatch: Any) -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: heard.append(number))
    try:
        with Uninterrupted():
            interrupt()
            assert heard == []
        assert heard == [signal.SIGINT]
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("handler", [signal.SIG_IGN, signal.SIG_DFL])
def test_what_is_no_function_is_left_alone(handler: Any) -> None:
    before = signal.signal(signal.SIGINT, handler)
    try:
        with Uninterrupted():
            assert signal.getsignal(signal.SIGINT) is handler
        assert signal.getsignal(signal.SIGINT) is handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_an_error_in_the_block_passes() -> None:
    with pytest.raises(ZeroDivisionError), Uninterrupted():
        raise ZeroDivisionError
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_other_threads_do_not_touch_handlers() -> None:
    failures: list[BaseException] = []

    def enter() -> None:
        try:
            with Uninterrupted():
                assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join(10)
    assert failures == []


# One that strikes while an object is finalised is reported so, and goes no further.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_interrupts_at_any_point_of_a_submission_lose_no_other_call(site: Any, recorder: Any) -> None:
    """Ctrl-C strikes 300 times while calls are submitted one by one; those submitted before all end well."""
    here = site()
    here.start("b")
    recorder.value(here.executor, abs, -1)
    submitted: list[Call] = []
    interrupted = 0
    armed = False
    main = threading.get_ident()
    go, stop = threading.Event(), threading.Event()

    def strike() -> None:
        while go.wait(30) and not stop.is_set():
            go.clear()
            signal.pthread_kill(main, signal.SIGINT)

    def raise_if_armed(number: int, frame: Any) -> None:
        if armed:
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, raise_if_armed)
    striker = threading.Thread(target=strike)
    striker.start()
    try:
        while interrupted < 300:
            call = Call(1000 + len(submitted) + interrupted, abs, (-1,))
            go.set()
            try:
                armed = True
                here.executor.submit([call])
                armed = False
                submitted.append(call)
            except KeyboardInterrupt:
                armed = False
                interrupted += 1
    finally:
        stop.set()
        go.set()
        striker.join(30)
        signal.signal(signal.SIGINT, before)
    assert [outcome.value for outcome in recorder.wait(*submitted)] == [1] * len(submitted)
    assert recorder.value(here.executor, abs, -2) == 2
    gc.collect()  # what an interrupt has left half made is reported here, and not in another test
