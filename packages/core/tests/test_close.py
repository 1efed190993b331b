"""A run ends on request: nothing that was accepted is lost, every future is done, nothing is left behind."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Collection, Sequence
from typing import Any

import pytest
from weft_core import BackoffRetryPolicy, Kernel
from weft_interfaces import (
    Call,
    ConfigError,
    DeadlockError,
    ExecutorContext,
    InternalError,
    RunClosedError,
)
from weft_interfaces.memory import InMemoryExecutor, ManualExecutor, RecordingEventSink

Run = Any  # the class of conftest.py
MakeRun = Callable[..., Run]
PATIENCE = 20.0


def nothing(*_: Any) -> None:
    """A body."""


class Background:
    """A function in a thread; ``end`` gives what came of it."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self._function = function
        self._result: Any = None
        self._error: BaseException | None = None
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            self._result = self._function()
        except BaseException as error:
            self._error = error

    def end(self) -> Any:
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive(), "it hangs"
        if self._error is not None:
            raise self._error
        return self._result


def closing(run: Run, eventually: Any, **options: Any) -> Background:
    """A close that waits for what the test holds."""
    background = Background(lambda: run.kernel.close(**options))
    eventually(lambda: run.kernel._phase != "open", "closing has begun")
    return background


# -- draining ----------------------------------------------------------------------------------------------


def test_close_waits_for_what_was_submitted(run: Run, eventually: Any) -> None:
    first = run.held()
    second = run.held(first)
    close = closing(run, eventually)
    run.complete(first, 1)
    assert not run.kernel.closed
    run.complete(second, 2)
    assert close.end() == []
    assert run.kernel.closed
    assert (first.result(timeout=0), second.result(timeout=0)) == (1, 2)


def test_close_waits_for_retries_and_joins(make_run: MakeRun, eventually: Any) -> None:
    run = make_run(retries=2, retry_policy=BackoffRetryPolicy(delay=0.02))
    first = run.held()
    joined = run.join(lambda: [first])
    close = closing(run, eventually)
    for _ in range(2):
        run.manual.wait_held(1)
        run.fail(first)
    run.manual.wait_held(1)
    run.complete(first, 1)
    close.end()
    assert joined.result(timeout=0) == [1]


def test_a_clean_exit_waits_and_an_exception_cancels(tmp_path: Any, spec: Any) -> None:
    with Kernel([InMemoryExecutor()], directory=tmp_path) as kernel:
        future = kernel.submit(spec(len), ([],))
    assert kernel.closed
    assert future.result(timeout=0) == 0

    manual = ManualExecutor()
    with contextlib.suppress(KeyError), Kernel([manual], directory=tmp_path) as kernel:
        future = kernel.submit(spec(len), ([],))
        raise KeyError("user's")
    assert kernel.closed
    assert future.cancelled()


def test_outside_nobody_may_submit_while_it_closes(run: Run, eventually: Any) -> None:
    first = run.held()
    close = closing(run, eventually)
    for submit in (run.held, run.kernel.gather, lambda *_: run.held(first)):
        with pytest.raises(
            RunClosedError, match=r"run .* is closing and takes no more tasks: task '\w+' was not"
        ):
            submit([1])
    assert run.kernel.counts().total == 1
    run.complete(first)
    close.end()
    with pytest.raises(RunClosedError, match="is closed and takes no more tasks"):
        run.held()


def test_before_the_start_nobody_may_submit(tmp_path: Any, spec: Any) -> None:
    kernel = Kernel([ManualExecutor()], directory=tmp_path)
    with pytest.raises(RunClosedError, match="was not started: task 'nothing' was not submitted"):
        kernel.submit(spec(nothing))
    assert kernel.close() == []
    assert kernel.closed
    with pytest.raises(ConfigError, match="make a new one"):
        kernel.start()


def test_a_running_task_may_submit_while_it_closes(
    spawning_kernel: Kernel, spec: Any, eventually: Any
) -> None:
    gate = threading.Event()

    def parent(depth: int) -> Any:
        assert gate.wait(PATIENCE)
        again = spec(parent, join=True)
        return [spawning_kernel.submit(again, (depth - 1,)) for _ in range(2)] if depth else "leaf"

    top = spawning_kernel.submit(spec(parent, join=True), (2,))
    close = Background(spawning_kernel.close)
    eventually(lambda: spawning_kernel._phase == "draining", "closing has begun")
    gate.set()
    assert close.end() == []
    assert top.result(timeout=0) == [["leaf", "leaf"], ["leaf", "leaf"]]
    assert spawning_kernel.counts().done == 7


def test_a_done_callback_may_submit_while_it_closes(run: Run, eventually: Any) -> None:
    first, later = run.held(), []

    def follow_up(done: Any) -> None:
        later.append(run.held(done))
        if len(later) < 5:
            later[-1].add_done_callback(follow_up)

    first.add_done_callback(follow_up)
    close = closing(run, eventually)
    run.complete(first)
    for i in range(5):
        assert not run.kernel.closed, "it waits for what callbacks submitted"
        run.complete(later[i], i)
    close.end()
    assert [future.result(timeout=0) for future in later] == list(range(5))


def test_what_outlives_its_task_may_not(make_run: MakeRun) -> None:
    """A call that was lost may go on for a while. Once the run is idle, its submissions get a clear error."""
    began, go_on, outcome = threading.Event(), threading.Event(), []
    shutting_down = threading.Event()

    class Slow(ManualExecutor):
        def shutdown(self, *, cancel: bool = False, timeout: float = 10.0) -> list[str]:
            shutting_down.set()
            assert go_on.wait(PATIENCE)
            submitter.end()
            return super().shutdown(cancel=cancel, timeout=timeout)

    run = make_run(manual=Slow())

    def body() -> None:
        began.set()
        assert shutting_down.wait(PATIENCE)
        try:
            run.held()
        except RunClosedError as error:
            outcome.append(error)
        go_on.set()

    first = run.submit(body)
    call_id = run.call_id(first)
    submitter = Background(lambda: run.manual.run(call_id))
    assert began.wait(PATIENCE)
    run.manual.lose(call_id)
    run.kernel.close()
    assert len(outcome) == 1
    assert run.kernel.counts().total == 1


def test_none_is_lost_in_the_race_with_close(tmp_path: Any, spec: Any, in_threads: Any) -> None:
    task = spec(nothing)
    for turn in range(200):
        kernel = Kernel([InMemoryExecutor()], directory=tmp_path)
        kernel.start()
        first = threading.Event()

        def submit(kernel: Kernel = kernel, first: threading.Event = first) -> list[Any]:
            accepted = []
            try:
                while True:
                    accepted.append(kernel.submit(task, (accepted[-1:],)))
                    first.set()
            except RunClosedError:
                return accepted

        def close(kernel: Kernel = kernel, first: threading.Event = first, turn: int = turn) -> None:
            if turn % 2:
                assert first.wait(PATIENCE)
            assert kernel.close(cancel=turn % 4 > 1) == []

        *accepted, _ = in_threads(*[submit] * 8, close)
        futures = [future for some in accepted for future in some]
        assert all(future.done() for future in futures)
        assert kernel.counts().total == len(futures)
        assert kernel.counts().finished == len(futures)
        if turn % 4 < 2:
            assert kernel.counts().done == len(futures), "it was drained"
        assert not kernel._tasks


# -- cancelling --------------------------------------------------------------------------------------------


def test_close_and_cancel_ends_every_stage(make_run: MakeRun) -> None:
    run = make_run(retries=5, retry_policy=BackoffRetryPolicy(delay=60))
    launched, begun, retrying = run.held(), run.held(), run.held()
    run.manual.begin(run.call_id(begun))
    run.fail(retrying)
    run.fail(retrying)
    futures = [
        launched,
        begun,
        retrying,
        run.held(launched),
        run.kernel.gather([begun]),
        run.join(lambda: begun),
    ]
    called: list[Any] = []
    for future in futures:
        future.add_done_callback(called.append)
    assert run.kernel.close(cancel=True) == []
    assert all(future.cancelled() for future in futures)
    assert sorted(future.task_id for future in called) == sorted(future.task_id for future in futures)


def test_what_cannot_be_stopped_still_completes(make_run: MakeRun) -> None:
    class Unstoppable(ManualExecutor):
        def cancel(self, ids: Collection[int]) -> Collection[int]:
            return ()

        def shutdown(self, *, cancel: bool = False, timeout: float = 10.0) -> list[str]:
            for call_id in self.held:
                self.complete(call_id, "ran")
            return [*super().shutdown(timeout=timeout), "a thread"]

    run = make_run(manual=Unstoppable(), retries=3)
    first = run.held()
    assert run.kernel.close(cancel=True) == ["a thread"]
    assert first.result(timeout=0) == "ran"


def test_a_failed_try_is_not_retried_while_it_closes(make_run: MakeRun) -> None:
    class Failing(ManualExecutor):
        def cancel(self, ids: Collection[int]) -> Collection[int]:
            return ()

        def shutdown(self, *, cancel: bool = False, timeout: float = 10.0) -> list[str]:
            for call_id in self.held:
                self.fail(call_id, OSError("killed"))
            return super().shutdown(timeout=timeout)

    run = make_run(manual=Failing(), retries=3)
    first = run.held()
    run.kernel.close(cancel=True)
    assert isinstance(first.exception(timeout=0), OSError)


def test_a_callback_that_submits_while_it_cancels_is_told(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    first = run.held()
    first.add_done_callback(run.held)
    run.kernel.close(cancel=True)
    assert "is closing and takes no more tasks" in caplog.text
    assert run.kernel.counts().total == 1


# -- again, and at once ------------------------------------------------------------------------------------


def test_closing_twice(run: Run) -> None:
    assert run.kernel.close() == []
    assert run.kernel.close() == []
    assert run.kernel.close(cancel=True) == []


class Interrupted(ManualExecutor):
    """Ctrl-C comes while it shuts down, once."""

    pressed = False

    def shutdown(self, *, cancel: bool = False, timeout: float = 10.0) -> list[str]:
        if not self.pressed:
            self.pressed = True
            raise KeyboardInterrupt
        return super().shutdown(cancel=cancel, timeout=timeout)


def test_interrupted_while_it_drains(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run.held()

    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(run.kernel._became_idle, "wait_for", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run.kernel.close()
    assert not first.done()
    with pytest.raises(RunClosedError):
        run.held()
    assert run.kernel.close(cancel=True) == []
    assert first.cancelled()


@pytest.mark.parametrize("again", [False, True])
def test_interrupted_while_executors_end(make_run: MakeRun, again: bool) -> None:
    run = make_run(manual=Interrupted())
    first = run.held()
    run.complete(first)
    with pytest.raises(KeyboardInterrupt):
        run.kernel.close()
    assert not run.kernel.closed
    assert run.kernel.close(cancel=again) == []
    assert run.kernel.closed


def test_cancelling_what_somebody_else_drains(run: Run, eventually: Any) -> None:
    first = run.held()
    draining = closing(run, eventually)
    assert run.kernel.close(cancel=True) == []
    assert first.cancelled()
    assert draining.end() == []


def test_who_drains_does_not_undo_that_somebody_cancels(make_run: MakeRun, eventually: Any) -> None:
    run = make_run(manual=ManualExecutor(confirm_cancels=False), retries=5)
    first = run.held()
    run.manual.begin(run.call_id(first))
    release = threading.Event()
    shutdown = run.manual.shutdown

    def slow(**options: Any) -> list[str]:
        assert release.wait(PATIENCE)
        return shutdown(**options)

    run.manual.shutdown = slow
    cancelling = closing(run, eventually, cancel=True)
    draining = Background(run.kernel.close)
    assert run.kernel._phase == "cancelling"
    release.set()
    assert cancelling.end() == draining.end() == []
    assert first.cancelled()


def test_the_second_to_close_waits_for_the_first(make_run: MakeRun, eventually: Any) -> None:
    """The executor's second shutdown does nothing, which must not be taken for the end."""
    run = make_run(manual=ManualExecutor(confirm_cancels=False))
    first = run.held()
    run.manual.begin(run.call_id(first))
    begun, release = threading.Event(), threading.Event()
    shutdown = run.manual.shutdown

    def slow(**options: Any) -> list[str]:
        if begun.is_set():
            return []
        begun.set()
        assert release.wait(PATIENCE)
        return shutdown(**options)

    run.manual.shutdown = slow
    one = closing(run, eventually, cancel=True)
    assert begun.wait(PATIENCE)
    two = Background(lambda: run.kernel.close(cancel=True))
    release.set()
    assert one.end() == two.end() == []
    assert first.cancelled(), "and not: never reported"


def test_closing_in_a_task_or_a_callback_is_refused(spawning_kernel: Kernel, spec: Any) -> None:
    future = spawning_kernel.submit(spec(spawning_kernel.close, name="closes"))
    with pytest.raises(
        DeadlockError, match=r"asked to close by task 0 \(closes\), which closing would wait for"
    ):
        future.result(timeout=PATIENCE)
    gate = threading.Event()
    other, errors = spawning_kernel.submit(spec(gate.wait), (PATIENCE,)), []

    def callback(_: Any) -> None:
        with pytest.raises(DeadlockError, match="by a done callback") as raised:
            spawning_kernel.close()
        errors.append(raised.value)

    other.add_done_callback(callback)
    gate.set()
    spawning_kernel.close()
    assert len(errors) == 1


def test_a_task_may_close_another_run(spawning_kernel: Kernel, spec: Any, tmp_path: Any) -> None:
    def body() -> int:
        with Kernel([InMemoryExecutor()], directory=tmp_path) as inner:
            return inner.submit(spec(len), ([1],)).result(timeout=PATIENCE)

    assert spawning_kernel.submit(spec(body)).result(timeout=PATIENCE) == 1


# -- executors that break their promises -------------------------------------------------------------------


class Forgetful(InMemoryExecutor):
    """Loses what it is given."""

    def submit(self, calls: Sequence[Call]) -> None:
        """And says nothing."""


def test_an_executor_that_never_reports(tmp_path: Any, spec: Any) -> None:
    kernel = Kernel([Forgetful("sieve")], directory=tmp_path)
    kernel.start()
    first = kernel.submit(spec(nothing))
    waiting, called = kernel.submit(spec(nothing), (first,)), []
    first.add_done_callback(called.append)
    kernel.close(cancel=True)
    with pytest.raises(
        InternalError, match=r"task 0 \(nothing\): executor 'sieve' never reported its outcome"
    ):
        first.result(timeout=0)
    assert waiting.cancelled()
    assert called == [first]
    assert kernel.counts().active == 0


def test_an_executor_whose_shutdown_raises(tmp_path: Any, spec: Any) -> None:
    class Broken(ManualExecutor):
        def shutdown(self, *, cancel: bool = False, timeout: float = 10.0) -> list[str]:
            super().shutdown(cancel=cancel, timeout=timeout)
            raise OSError("socket stuck")

    broken, sound = Broken("broken"), ManualExecutor("sound")
    kernel = Kernel([broken, sound], directory=tmp_path)
    kernel.start()
    future = kernel.submit(spec(nothing, executors=("sound",)))
    leftovers = kernel.close(cancel=True)
    assert leftovers == ["executor 'broken': its shutdown raised OSError('socket stuck')"]
    assert future.cancelled()
    with pytest.raises(RunClosedError):
        sound.submit([])


# -- the start ---------------------------------------------------------------------------------------------


class Failing(ManualExecutor):
    """Does not start."""

    def start(self, context: ExecutorContext) -> None:
        raise OSError("no port")


class Stubborn(ManualExecutor):
    """Raises when it is shut down, having ended."""

    ended = False

    def shutdown(self, *, cancel: bool = False, timeout: float = 10.0) -> list[str]:
        super().shutdown(cancel=cancel, timeout=timeout)
        self.ended = True
        raise OSError("too")


def test_when_one_does_not_start_the_others_are_ended(tmp_path: Any, spec: Any) -> None:
    first, second, never = Stubborn("first"), Stubborn("second"), ManualExecutor("never")
    kernel = Kernel([first, second, Failing("third"), never], directory=tmp_path)
    with pytest.raises(OSError, match="no port"):
        kernel.start()
    assert first.ended
    assert second.ended
    assert kernel.closed
    assert kernel.close() == []
    with pytest.raises(RunClosedError):
        kernel.submit(spec(nothing))


def test_executors_can_serve_one_run_after_another(tmp_path: Any, spec: Any) -> None:
    executor = InMemoryExecutor()
    for _ in range(2):
        with Kernel([executor], directory=tmp_path) as kernel:
            assert kernel.submit(spec(len), ([],)).result(timeout=0) == 0


def test_labels_must_differ(tmp_path: Any) -> None:
    with pytest.raises(ConfigError, match="two have the label 'm'"):
        Kernel([ManualExecutor("m"), ManualExecutor("m")], directory=tmp_path)
    with pytest.raises(ConfigError, match="two have the label 'm'"):
        Kernel([ManualExecutor("m")], directory=tmp_path, helper=InMemoryExecutor("m"))
    with pytest.raises(ConfigError, match="needs at least one"):
        Kernel([], directory=tmp_path)


def test_the_helper_may_be_one_of_the_executors(tmp_path: Any, spec: Any) -> None:
    executor = InMemoryExecutor()
    with Kernel([executor], directory=tmp_path, helper=executor) as kernel:
        assert kernel.submit(spec(lambda: kernel.gather(1), join=True)).result(timeout=0) == 1


def test_starting_twice(run: Run) -> None:
    with pytest.raises(ConfigError, match="started before"):
        run.kernel.start()
    assert not run.held().done(), "it goes on"


# -- views -------------------------------------------------------------------------------------------------


def test_wait_idle(run: Run) -> None:
    assert run.kernel.wait_idle(timeout=0)
    first = run.held()
    assert not run.kernel.wait_idle(timeout=0.01)
    waits = Background(lambda: run.kernel.wait_idle(timeout=PATIENCE))
    run.complete(first)
    assert waits.end()


def test_unfinished_says_what_is_waited_for(make_run: MakeRun) -> None:
    run = make_run(retries=5, retry_policy=BackoffRetryPolicy(delay=60))
    queued, begun, retrying = run.held(), run.held(), run.held()
    run.manual.begin(run.call_id(begun))
    run.fail(retrying)
    run.fail(retrying)
    run.held([queued, begun])
    run.kernel.gather([queued])
    assert run.kernel.unfinished() == [
        "task 1 (nothing): runs on 'manual'",
        "task 0 (nothing): waits for a worker of 'manual'",
        "task 2 (nothing): waits for its next try",
        "task 5 (nothing): waits for 2 futures",
        "task 6 (gather): waits for 1 futures that it returned",
    ]
    assert run.kernel.unfinished(limit=2)[2:] == ["and 3 more"]


def test_what_is_done_is_not_unfinished(run: Run) -> None:
    first, seen = run.held(), []
    first.add_done_callback(lambda _: seen.append(run.kernel.unfinished()))
    run.complete(first)
    assert seen == [[]]


def test_events_tell_the_life_of_a_run(make_run: MakeRun) -> None:
    sink = RecordingEventSink()
    run = make_run(sinks=[sink], retries=1)
    first = run.held()
    run.held(first)
    run.fail(first)
    run.fail(first, ValueError("twice"))
    run.join(lambda: 1).result(timeout=0)
    run.held().cancel()
    run.kernel.close()
    told = [(event.kind, event.data.get("task")) for event in sink.events]
    assert told == [
        ("run.started", None),
        ("task.submitted", 0),
        ("task.submitted", 1),
        ("task.retrying", 0),
        ("task.failed", 0),
        ("task.dependency_failed", 1),
        ("task.submitted", 3),
        ("task.done", 3),
        ("task.submitted", 4),
        ("task.cancelled", 4),
        ("run.closed", None),
    ]
    assert "twice" in sink.of_kind("task.failed")[0].data["error"]
    assert sink.of_kind("run.closed")[0].data["dependency_failed"] == 1
    assert sink.closed
