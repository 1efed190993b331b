"""Ctrl-C and the end of the interpreter, with real processes."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import subprocess
import sys
import termios
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

# Tasks that cannot be stopped, and end when the test says so: by opening the other end of a pipe with a name.
PROGRAM = """
    import os, sys
    os.path.exists("gate") or os.mkfifo("gate")

    @weft.task
    def stubborn():
        print("begun", flush=True)
        with open("gate") as gate:
            return gate.read()

    @weft.task
    def later(x):
        return x

    config = weft.Config(executors=[{"type": "threads", "workers": 1}], shutdown_timeout="20s")
"""
WAITING_IN_BLOCK = """
    with weft.run(config) as run:
        first = stubborn()
        rest = [stubborn() for _ in range(5)] + [later(first)]
        try:
            first.result()
        finally:
            print("leaving", flush=True)
"""
WAITING_AT_EXIT = """
    try:
        with weft.run(config) as run:
            first = stubborn()
            rest = [stubborn() for _ in range(5)] + [later(first)]
            print("leaving", flush=True)
    finally:
        print("first", first.done() and not first.cancelled(), "rest", all(f.cancelled() for f in rest))
"""


def open_gate(folder: Path) -> None:
    with open(folder / "gate", "w") as gate:
        gate.write("x")


@pytest.mark.parametrize("body", [WAITING_IN_BLOCK, WAITING_AT_EXIT])
def test_ctrl_c_once_waits_for_what_has_begun(start: Callable[..., Any], tmp_path: Path, body: str) -> None:
    program = start(textwrap.dedent(PROGRAM) + textwrap.dedent(body))
    program.wait_for("begun")
    if body is WAITING_AT_EXIT:
        program.wait_for("leaving")
    program.interrupt()
    program.wait_for("these; Ctrl-C stops at once")
    program.wait_for("(stubborn): runs on 'threads'")
    assert program.process.poll() is None
    open_gate(tmp_path)
    assert program.end() == -signal.SIGINT
    assert program.out.count("begun") == 1
    assert "left over" not in program.err
    assert "KeyboardInterrupt" in program.err
    if body is WAITING_AT_EXIT:
        assert "first True rest True" in program.out


@pytest.mark.parametrize("body", [WAITING_IN_BLOCK, WAITING_AT_EXIT])
def test_ctrl_c_twice_is_at_once(start: Callable[..., Any], body: str) -> None:
    program = start(textwrap.dedent(PROGRAM) + textwrap.dedent(body))
    program.wait_for("begun")
    if body is WAITING_AT_EXIT:
        program.wait_for("leaving")
    program.interrupt()
    program.wait_for("these; Ctrl-C stops at once")
    program.interrupt()
    assert program.end(15) == -signal.SIGINT
    assert "interrupted again: stopping at once" in program.err
    assert "left over: thread 'threads-0'" in program.err


def test_ctrl_c_three_and_four_times_changes_nothing(start: Callable[..., Any]) -> None:
    program = start(textwrap.dedent(PROGRAM) + textwrap.dedent(WAITING_IN_BLOCK))
    program.wait_for("begun")
    program.interrupt()
    program.wait_for("these; Ctrl-C stops at once")
    program.interrupt()
    program.wait_for("stopping at once")
    program.interrupt()
    assert program.end(15) == -signal.SIGINT


def test_the_wait_has_a_deadline(start: Callable[..., Any]) -> None:
    program = start(textwrap.dedent(PROGRAM).replace("20s", "1s") + textwrap.dedent(WAITING_IN_BLOCK))
    program.wait_for("begun")
    program.interrupt()
    assert program.end(20) == -signal.SIGINT
    assert "left over: thread 'threads-0'" in program.err


def test_ctrl_c_ends_commands_at_the_second_time(
    start: Callable[..., Any], tmp_path: Path, running: Callable[[int], bool], wait_until: Callable[..., Any]
) -> None:
    program = start("""
        @weft.shell
        def command():
            return "echo $$ > pid.tmp; mv pid.tmp pid; sleep 1000 & wait"

        with weft.run() as run:
            command()
            print("submitted", flush=True)
    """)
    wait_until((tmp_path / "pid").exists)
    program.wait_for("submitted")
    program.interrupt()
    program.wait_for("runs on 'threads'")
    pid = int((tmp_path / "pid").read_text())
    assert running(pid)
    program.interrupt()
    program.end()
    wait_until(lambda: not running(pid))


# -- the default run ----------------------------------------------------------------------------------------


def test_the_default_run_starts_with_the_first_call_once(start: Callable[..., Any]) -> None:
    program = start("""
        import threading
        assert threading.active_count() == 1

        @weft.task
        def who():
            return weft.current_run().id

        found = []
        threads = [threading.Thread(target=lambda: found.append(who().result())) for _ in range(20)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        assert len(found) == 20 and len(set(found)) == 1, found
        with weft.run() as run:
            assert who().result() == run.id
        assert who().result() == found[0]
    """)
    assert program.end() == 0, program.err


def test_it_waits_for_what_was_submitted_when_the_script_ends(
    start: Callable[..., Any], tmp_path: Path
) -> None:
    program = start(textwrap.dedent(PROGRAM) + "later(stubborn()); print('script ended', flush=True)")
    program.wait_for("script ended")
    program.wait_for("begun")
    assert program.process.poll() is None
    open_gate(tmp_path)
    assert program.end() == 0
    assert program.err == ""


def test_its_tasks_may_call_others_after_the_script_has_ended(
    start: Callable[..., Any], tmp_path: Path
) -> None:
    program = start("""
        import threading
        ended = threading.Event()

        @weft.task
        def leaf(x):
            open("leaf", "w").write(str(x))

        @weft.task
        def branch():
            ended.wait(30)
            return leaf(3)

        leaf(0).result()
        branch()
        ended.set()
    """)
    assert program.end() == 0, program.err
    assert (tmp_path / "leaf").read_text() == "3"


def test_ctrl_c_at_its_end(start: Callable[..., Any], tmp_path: Path) -> None:
    program = start(textwrap.dedent(PROGRAM) + "later(stubborn()); print('script ended', flush=True)")
    program.wait_for("script ended")
    program.wait_for("begun")
    program.interrupt()
    program.wait_for("these; Ctrl-C stops at once")
    open_gate(tmp_path)
    assert program.end() == -signal.SIGINT


def test_ctrl_c_twice_at_its_end(start: Callable[..., Any]) -> None:
    program = start(textwrap.dedent(PROGRAM) + "stubborn(); print('script ended', flush=True)")
    program.wait_for("script ended")
    program.wait_for("begun")
    program.interrupt()
    program.wait_for("these; Ctrl-C stops at once")
    program.interrupt()
    assert program.end(15) == -signal.SIGINT
    assert "left over" in program.err


def test_a_script_that_fails_cancels_it(start: Callable[..., Any]) -> None:
    program = start("""
        @weft.shell
        def command():
            return "sleep 1000"

        futures = [command() for _ in range(10)]
        raise RuntimeError("mine")
    """)
    assert program.end() == 1
    assert "RuntimeError: mine" in program.err


def test_a_forked_child_has_no_run(start: Callable[..., Any]) -> None:
    program = start("""
        import os, warnings
        warnings.simplefilter("ignore")

        @weft.task
        def double(x):
            return 2 * x

        assert double(1).result() == 2
        with weft.run() as run:
            pid = os.fork()
            if pid == 0:
                assert weft.current_run() is None
                print("child", double(2).result(), weft.current_run().id != run.id, flush=True)
                os._exit(0)
            os.waitpid(pid, 0)
            print("parent", double(3).result(), flush=True)
    """)
    assert program.end() == 0, program.err
    assert "child 4 True" in program.out
    assert "parent 6" in program.out


# -- a terminal ---------------------------------------------------------------------------------------------


class Terminal:
    """A program in a terminal of its own, which it controls: bytes typed there act as from a keyboard."""

    def __init__(self, argv: list[str], cwd: Path, environment: dict[str, str]) -> None:
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, b"\x32\x00\xc8\x00\x00\x00\x00\x00")  # 50 lines of 200 columns
        claim = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
        claim += "os.execv(sys.argv[1], sys.argv[1:])"
        self.process = subprocess.Popen(
            [sys.executable, "-c", claim, *argv],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            cwd=cwd,
            env={**environment, "TERM": "xterm", "NO_COLOR": ""},
            start_new_session=True,
        )
        os.close(slave)
        self.text = ""

    def read_until(self, text: str) -> str:
        while text not in self.text:
            data = self._read()
            assert data, f"{text!r} did not come: {self.text}"
            self.text += data
        return self.text

    def end(self) -> int:
        while data := self._read():
            self.text += data
        os.close(self.master)
        return self.process.wait(30)

    def type(self, data: bytes) -> None:
        os.write(self.master, data)

    def _read(self) -> str:
        ready, _, _ = select.select([self.master], [], [], 30)
        assert ready, f"nothing more came: {self.text}"
        try:
            return os.read(self.master, 65536).decode(errors="replace")
        except OSError:  # what Linux says when the other side has closed it
            return ""


@pytest.fixture
def terminal(tmp_path: Path, environment: dict[str, str]) -> Any:
    opened = []

    def begin(script: str, *arguments: str, env: dict[str, str] | None = None) -> Terminal:
        (tmp_path / "script.py").write_text("import weft\n" + textwrap.dedent(script))
        argv = [sys.executable, *(arguments or ("script.py",))]
        opened.append(Terminal(argv, tmp_path, {**environment, **(env or {})}))
        return opened[-1]

    yield begin
    for one in opened:
        if one.process.poll() is None:
            one.process.kill()
            one.process.wait()


def test_ctrl_c_typed_in_a_terminal(terminal: Any, tmp_path: Path, let_wait: Callable[[int], None]) -> None:
    program = terminal(
        textwrap.dedent(PROGRAM) + textwrap.dedent(WAITING_IN_BLOCK), env={"WEFT_PROGRESS": "1"}
    )
    program.read_until("begun")
    let_wait(program.process.pid)
    program.type(b"\x03")
    program.read_until("(stubborn): runs on 'threads'")
    open_gate(tmp_path)
    program.read_until("1 of 7 tasks done, 6 cancelled")
    assert program.end() == -signal.SIGINT


def test_ctrl_c_typed_does_not_reach_commands(
    terminal: Any, tmp_path: Path, let_wait: Callable[[int], None]
) -> None:
    program = terminal("""
        import os
        os.mkfifo("gate")

        @weft.shell
        def command():
            return "touch begun; read line < gate; echo $line"

        with weft.run():
            future = command()
            try:
                print("waiting", flush=True)
                future.result()
            except KeyboardInterrupt:
                print("interrupted", flush=True)
                print("the command said", future.result().stdout)
    """)
    program.read_until("waiting")
    with open(tmp_path / "gate", "w") as gate:  # opens once the command has
        let_wait(program.process.pid)
        program.type(b"\x03")
        program.read_until("interrupted")
        gate.write("survived\n")
    program.read_until("the command said survived")
    assert program.end() == 0


def test_a_bar_in_a_terminal(terminal: Any, tmp_path: Path) -> None:
    program = terminal(
        textwrap.dedent(PROGRAM)
        + textwrap.dedent("""
            with weft.run(config, progress=True):
                done = [later(i) for i in range(30)]
                first = stubborn()
                first.result()
                print("printed by the script", flush=True)
        """)
    )
    program.read_until("30 of 31 tasks done, 1 with an executor")
    assert "\x1b[" in program.text
    open_gate(tmp_path)
    assert program.end() == 0
    assert "printed by the script" in program.text
    assert program.text.rstrip().splitlines()[-1].endswith("s)")
    assert "weft: 31 of 31 tasks done" in program.text
