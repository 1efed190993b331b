from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import pytest
import weft
from weft_test_tasks import argv, echo, fails, sh

EXECUTORS = ["threads", "processes"]


@pytest.fixture(params=EXECUTORS)
def any_run(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[weft.Run]:
    """A run on two threads, or on two processes."""
    table = {"type": request.param, "workers": 2}
    with weft.run(executors=[table], run_dir=tmp_path / "runs", shutdown_timeout=5) as opened:
        yield opened


def test_the_value_is_what_the_command_wrote(any_run: weft.Run) -> None:
    result = sh("echo out; echo err >&2").result()
    assert result == weft.ShellResult(0, "out\n", "err\n")
    assert result.exit_status == 0
    assert echo("hello").result().stdout == "hello\n"


def test_a_list_is_run_without_a_shell(any_run: weft.Run) -> None:
    assert argv("echo", "$HOME", "; ls").result().stdout == "$HOME ; ls\n"


def test_futures_are_values_in_the_body(any_run: weft.Run) -> None:
    @weft.task
    def word() -> str:
        return "later"

    assert echo(word()).result().stdout == "later\n"


def test_another_exit_status_raises_with_the_end_of_stderr(any_run: weft.Run) -> None:
    with pytest.raises(weft.ShellError) as caught:
        fails(3).result()
    error = caught.value
    assert error.exit_status == 3
    assert error.stderr_tail == "bad"
    assert error.command == "echo good; echo bad >&2; exit 3"
    assert "ended with exit status 3" in str(error)


def test_a_signal_is_a_negative_status(any_run: weft.Run) -> None:
    with pytest.raises(weft.ShellError, match="killed by signal 9"):
        sh("kill -9 $$").result()


def test_the_tail_is_the_last_lines_only(run: weft.Run) -> None:
    with pytest.raises(weft.ShellError) as caught:
        sh("seq 100000 >&2; exit 1").result()
    assert caught.value.stderr_tail.splitlines() == [str(number) for number in range(99981, 100001)]


def test_much_output_and_odd_bytes(any_run: weft.Run) -> None:
    assert len(sh("head -c 3000000 /dev/zero | tr '\\0' x").result().stdout) == 3_000_000
    assert sh("printf 'a\\377b'").result().stdout == "a\ufffdb"


@pytest.mark.parametrize("arguments", [("no-such-command-here",), ("/",)])
def test_a_command_that_cannot_be_run(any_run: weft.Run, arguments: tuple[str, ...]) -> None:
    with pytest.raises(weft.ShellError) as caught:
        argv(*arguments).result()
    assert caught.value.exit_status == (127 if arguments[0] != "/" else 126)
    assert arguments[0] in caught.value.stderr_tail


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        (
            None,
            "shell task 'odd' returned None: it must return the command line as a text, or a list",
        ),
        ("  ", "shell task 'odd' returned an empty command line"),
        ([], "returned []"),
        (3, "returned 3"),
        (["echo", 3], "returned a list whose argument 1 is 3: arguments are texts and paths"),
        ("a\0b", "embedded null byte"),
    ],
)
def test_a_body_that_returns_something_else(run: weft.Run, returned: Any, said: str) -> None:
    @weft.shell
    def odd() -> Any:
        return returned

    with pytest.raises(weft.InputError) as caught:
        odd().result()
    assert said in str(caught.value)


def test_paths_are_arguments(run: weft.Run, tmp_path: Path) -> None:
    @weft.shell
    def listing(path: Path) -> list[str | Path]:
        return ["ls", path]

    (tmp_path / "seen").touch()
    assert "seen" in listing(tmp_path).result().stdout


# -- files --------------------------------------------------------------------------------------------------


def test_output_is_appended_to_files(any_run: weft.Run, tmp_path: Path) -> None:
    out, err = tmp_path / "logs" / "out", tmp_path / "logs" / "err"
    to_files = sh.options(stdout=out, stderr=err)
    for _ in range(2):
        assert to_files("echo a; echo b >&2").result() == weft.ShellResult(0, "", "")
    assert out.read_text() == "a\na\n"
    assert err.read_text() == "b\nb\n"
    with pytest.raises(weft.ShellError) as caught:
        to_files("echo mine >&2; exit 1").result()
    assert caught.value.stderr_tail == "mine"
    assert caught.value.stderr_path == str(err)


def test_both_streams_may_go_to_one_file(run: weft.Run, tmp_path: Path) -> None:
    sh.options(stdout=tmp_path / "log", stderr=tmp_path / "log")("echo a; echo b >&2; echo c").result()
    assert (tmp_path / "log").read_text() == "a\nb\nc\n"


def test_a_directory_for_each_task(any_run: weft.Run, tmp_path: Path) -> None:
    folder = tmp_path / "{name}-{id}"
    apart = sh.options(cwd=folder, stdout=folder / "out", name="job")
    futures = [apart("pwd; touch here") for _ in range(3)]
    for future in futures:
        future.result()
        folder = tmp_path / f"job-{future.task_id}"
        assert (folder / "here").exists()
        assert (folder / "out").read_text() == f"{folder}\n"


# -- endings ------------------------------------------------------------------------------------------------

# Leaves a grandchild in the background, and one that ignores SIGTERM, and writes who they are.
FAMILY = "(trap '' TERM; sleep 1000) & sleep 1000 & echo $$ $! > {file}.tmp; mv {file}.tmp {file}; wait"


def family(file: Path, wait_until: Callable[..., Any]) -> list[int]:
    wait_until(file.exists, str(file))
    return [int(pid) for pid in file.read_text().split()]


def test_the_timeout_kills_the_whole_group(
    any_run: weft.Run, tmp_path: Path, running: Callable[[int], bool], wait_until: Callable[..., Any]
) -> None:
    file = tmp_path / "pids"
    future = sh.options(timeout=2)(FAMILY.format(file=file))
    pids = family(file, wait_until)
    with pytest.raises(weft.TaskTimeoutError):
        future.result(30)
    wait_until(lambda: not any(map(running, pids)), "the end of all processes")


def test_cancel_kills_the_whole_group(
    any_run: weft.Run, tmp_path: Path, running: Callable[[int], bool], wait_until: Callable[..., Any]
) -> None:
    file = tmp_path / "pids"
    future = sh(FAMILY.format(file=file))
    pids = family(file, wait_until)
    assert future.cancel()
    with pytest.raises(CancelledError):
        future.result(30)
    wait_until(lambda: not any(map(running, pids)), "the end of all processes")


def test_one_that_ignores_sigterm_is_killed(
    any_run: weft.Run, tmp_path: Path, running: Callable[[int], bool], wait_until: Callable[..., Any]
) -> None:
    file = tmp_path / "pids"
    future = sh(f"trap '' TERM; echo $$ > {file}.tmp; mv {file}.tmp {file}; while :; do sleep 1000; done")
    pids = family(file, wait_until)
    assert future.cancel()
    with pytest.raises(CancelledError):
        future.result(30)
    wait_until(lambda: not any(map(running, pids)), "the end of all processes")


def test_one_that_cleans_up_on_sigterm_may(
    run: weft.Run, tmp_path: Path, wait_until: Callable[..., Any]
) -> None:
    file = tmp_path / "pids"
    future = sh(f"trap 'echo cleaned > {tmp_path}/cleaned; exit 0' TERM; touch {file}; sleep 1000 & wait")
    wait_until(file.exists)
    assert future.cancel()
    with pytest.raises(CancelledError):
        future.result(30)
    assert (tmp_path / "cleaned").read_text() == "cleaned\n"


def test_leaving_the_run_by_an_exception_kills_commands(
    tmp_path: Path, running: Callable[[int], bool], wait_until: Callable[..., Any]
) -> None:
    file = tmp_path / "pids"
    opened = weft.run(run_dir=tmp_path)
    opened.start()
    future = sh(FAMILY.format(file=file))
    pids = family(file, wait_until)
    opened.end(ZeroDivisionError())
    assert future.cancelled()
    assert opened.leftovers == []
    wait_until(lambda: not any(map(running, pids)), "the end of all processes")


def test_a_command_is_sent_a_signal_before_its_time_is_over(any_run: weft.Run) -> None:
    @weft.shell(timeout=20)
    def trapping() -> str:
        weft.on_walltime(signal.SIGUSR1, seconds=17)
        return "trap 'echo saved; exit' USR1; while :; do sleep 0.1; done"

    assert trapping().result(timeout=20).stdout == "saved\n"


def test_interrupted_before_it_has_started_it_is_killed_at_once(running: Callable[[int], bool]) -> None:
    from weft._shell import _Command
    from weft_interfaces import CallOptions

    command = _Command(CallOptions())
    command.interrupt()
    with pytest.raises(weft.ShellError, match="was killed by signal"):
        command.run(["/bin/sh", "-c", "sleep 1000"])


def test_an_exception_in_the_waiting_thread_kills_the_command(
    monkeypatch: pytest.MonkeyPatch, running: Callable[[int], bool]
) -> None:
    from weft import _shell
    from weft_interfaces import CallOptions

    seen = []

    def interrupted(pid: int) -> None:
        seen.append(pid)
        raise KeyboardInterrupt

    monkeypatch.setattr(_shell, "_wait_unreaped", interrupted)
    with pytest.raises(KeyboardInterrupt):
        _shell._Command(CallOptions()).run(["/bin/sh", "-c", "sleep 1000"])
    assert not running(seen[0])


def test_it_leaves_no_file_descriptor_and_no_thread(run: weft.Run) -> None:
    sh("true").result()
    before = len(os.listdir("/proc/self/fd")), threading.active_count()
    for status in (0, 1):
        for future in [sh(f"exit {status}") for _ in range(20)]:
            future.exception()
    assert len(os.listdir("/proc/self/fd")) == before[0]
    assert threading.active_count() <= before[1] + 3  # the other workers of the run


def test_it_works_outside_of_a_worker_too() -> None:
    from weft._shell import ShellCall

    assert ShellCall(lambda: "echo here")().stdout == "here\n"


def test_a_command_dies_with_its_worker_process(
    tmp_path: Path, running: Callable[[int], bool], wait_until: Callable[..., Any]
) -> None:
    file = tmp_path / "pids"
    with weft.run(executors=[{"type": "processes", "workers": 1}], run_dir=tmp_path, retries=0):
        # Init is the parent of the orphan: it cannot be found as a descendant.
        orphan = f"(sleep 1000 & echo $! > {file}.1)"
        future = sh(f"{orphan}; echo $PPID $$ $(cat {file}.1) > {file}.2; mv {file}.2 {file}; sleep 1000")
        worker, *pids = family(file, wait_until)
        os.kill(worker, signal.SIGKILL)
        with pytest.raises(weft.WorkerLostError):
            future.result(30)
        wait_until(lambda: not any(map(running, pids)), "the end of all processes")
