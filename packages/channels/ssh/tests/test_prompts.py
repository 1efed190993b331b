"""Questions to a person, in a real terminal, and where there is none."""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from weft_channel_ssh import Question
from weft_channel_ssh.prompts import answerer
from weft_interfaces import AuthenticationNeededError

_ASK = """
import os, sys
if len(sys.argv) > 3:
    terminal = os.open(sys.argv[3], os.O_RDWR)  # of a new session: it becomes this process's own
from weft_channel_ssh import Question
from weft_channel_ssh.prompts import answerer
from weft_interfaces import AuthenticationNeededError
text, said = "Code:\\x1b[2J ", "Your token\\nis asked for"
question = Question("alice@login", text, sys.argv[1] == "echo", "challenge", said)
stands = lambda: not os.path.exists(sys.argv[2])
try:
    print("got", answerer(None, stands)(question))
except AuthenticationNeededError as error:
    print("nobody:", error)
"""


@contextlib.contextmanager
def asking(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-W", "error", "-c", _ASK, *arguments]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def read_until(terminal: int, end: bytes) -> bytes:
    """What appears on the screen."""
    seen, deadline = b"", time.monotonic() + 30
    while end not in seen:
        assert select.select([terminal], [], [], max(0, deadline - time.monotonic()))[0], seen
        seen += os.read(terminal, 1024)
    return seen


@pytest.fixture
def terminal() -> Iterator[tuple[int, str]]:
    master, slave = os.openpty()
    yield master, os.ttyname(slave)
    os.close(slave)
    os.close(master)


@pytest.mark.parametrize("echo", ["echo", "silent"])
def test_a_person_at_a_terminal_answers(terminal: tuple[int, str], echo: str, tmp_path: Any) -> None:
    screen, name = terminal
    with asking(echo, str(tmp_path / "gone"), name) as process:
        shown = read_until(screen, b"Code:")
        os.write(screen, b"12 34\n")
        assert process.communicate(timeout=30)[0] == "got 12 34\n"
        seen = shown + read_until(screen, b"\n" if echo == "silent" else b"12 34")
    assert seen.startswith(b"alice@login:\r\nYour token\r\nis asked for\r\nCode:")
    assert b"\x1b" not in seen, "the server's words play no tricks on the terminal"
    assert (b"12 34" in seen) == (echo == "echo")


def test_a_question_that_no_longer_stands_is_taken_back(terminal: tuple[int, str], tmp_path: Any) -> None:
    screen, name = terminal
    with asking("silent", str(tmp_path / "gone"), name) as process:
        read_until(screen, b"Code:")
        (tmp_path / "gone").touch()
        assert process.communicate(timeout=30)[0].startswith("nobody: alice@login asked 'Code")


def test_without_a_terminal_nobody_is_asked(tmp_path: Any) -> None:
    with asking("silent", str(tmp_path / "gone")) as process:
        said = process.communicate(timeout=30)[0]
    assert "there is neither a terminal nor a notebook to ask in" in said
    assert "prompts= or password=" in said


def test_a_function_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    question = Question("alice@login", "Code: ", False, "challenge")
    assert answerer(lambda asked: f"{asked.kind} {asked.text}", lambda: True)(question) == "challenge Code: "


class _Kernel:
    """Says that this is a notebook, as IPython does in one."""

    kernel = object()

    @staticmethod
    def get_ipython() -> type[_Kernel]:
        return _Kernel


def test_a_notebook_is_asked_by_its_cells_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "IPython", _Kernel)  # type: ignore[arg-type]
    monkeypatch.setattr("builtins.input", lambda text: f"in the cell: {text}")
    monkeypatch.setattr("getpass.getpass", lambda text: f"hidden: {text}")
    ask = answerer(None, lambda: True)
    assert ask(Question("a@login", "Code: ", True, "challenge")) == "in the cell: a@login: Code: "
    assert ask(Question("a@login", "Code: ", False, "challenge")) == "hidden: a@login: Code: "
    caught: list[Exception] = []

    def aside() -> None:
        try:
            ask(Question("a@login", "Code: ", False, "challenge"))
        except AuthenticationNeededError as error:
            caught.append(error)

    thread = threading.Thread(target=aside)
    thread.start()
    thread.join(10)
    assert "a notebook can be asked by its cells only" in str(caught[0])
