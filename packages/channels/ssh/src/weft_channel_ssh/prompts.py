"""Questions to a person: in a terminal, in a notebook, or by a function of the caller's."""

from __future__ import annotations

import contextlib
import os
import select
import sys
import threading
from collections.abc import Callable, Iterator
from typing import NamedTuple

from weft_interfaces import AuthenticationNeededError

__all__ = ["Answerer", "Question", "answerer", "notebook"]

_LOOK = 0.25  # seconds between looks at whether the question still stands

_asking = threading.Lock()  # one person, one question at a time


class Question(NamedTuple):
    """What a person is asked. kind: ``password``, ``passphrase`` (of a key file), ``challenge`` (what the
    server asks, such as a second factor) or ``choice`` (yes or no). echo: whether the answer may be seen.
    """

    destination: str
    text: str
    echo: bool
    kind: str
    instructions: str = ""


Answerer = Callable[[Question], str]


def answerer(prompts: Answerer | None, stands: Callable[[], bool]) -> Answerer:
    """Who answers: ``prompts``, or whoever sits at the terminal or the notebook. ``stands`` says whether the
    answer is still of use.

    The answerer raises :class:`~weft_interfaces.AuthenticationNeededError` when nobody can be asked.
    """
    if prompts is not None:
        return prompts

    def ask(question: Question) -> str:
        here = notebook()
        with _asking:
            if here:
                return _ask_in_notebook(question)
            return _ask_in_terminal(question, stands)

    return ask


def _words(question: Question) -> str:
    """What is shown; the server's words cannot play tricks on the terminal."""
    lines = [f"{question.destination}:", *question.instructions.splitlines(), question.text]
    shown = [line for line in ("".join(c for c in line if c.isprintable()) for line in lines) if line.strip()]
    head, *more, text = shown if len(shown) > 1 else [*shown, ""]
    if more:
        return "\n".join([head, *more, text.rstrip() + " "])
    return f"{head} {text.rstrip()} "


def notebook() -> bool:
    """Whether this is an ipykernel, whose input() asks in the page of the notebook."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return getattr(shell, "kernel", None) is not None


def _ask_in_notebook(question: Question) -> str:
    import getpass

    if threading.current_thread() is not threading.main_thread():
        raise AuthenticationNeededError(
            f"{question.destination} asks {question.text.strip()!r}, and a notebook can be asked by its "
            "cells only: call authenticate() of the channel in one"
        )
    try:
        return input(_words(question)) if question.echo else getpass.getpass(_words(question))
    except (EOFError, NotImplementedError, RuntimeError) as error:
        raise AuthenticationNeededError(
            f"{question.destination} asks {question.text.strip()!r}, but this notebook takes no input: "
            f"{error}"
        ) from error


def _ask_in_terminal(question: Question, stands: Callable[[], bool]) -> str:
    with _terminal(question) as terminal, _echo(terminal, question.echo):
        os.write(terminal, _words(question).encode(errors="replace"))
        line = b""
        while not line.endswith(b"\n"):
            if not select.select([terminal], [], [], _LOOK)[0]:
                if not stands():
                    os.write(terminal, b"\r\n")
                    raise AuthenticationNeededError(
                        f"{question.destination} asked {question.text.strip()!r}, and nobody answered in time"
                    )
                continue
            part = os.read(terminal, 1024)
            if not part:
                raise AuthenticationNeededError(
                    f"{question.destination}: the terminal was closed while it asked"
                )
            line += part
        if not question.echo:
            os.write(terminal, b"\r\n")
    return line.rstrip(b"\r\n").decode(errors="surrogateescape")


@contextlib.contextmanager
def _terminal(question: Question) -> Iterator[int]:
    """The terminal that this process was started from, if it is in front: one behind would be stopped."""
    terminal = -1
    try:
        terminal = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
        if os.tcgetpgrp(terminal) != os.getpgrp():
            raise OSError("this process runs in the background of its terminal")
    except OSError as error:
        if terminal >= 0:
            os.close(terminal)
        raise AuthenticationNeededError(
            f"{question.destination} asks {question.text.strip()!r}, and there is neither a terminal nor a "
            f"notebook to ask in ({error.strerror or error}): pass prompts= or password=, or authenticate "
            "where there is one"
        ) from None
    try:
        yield terminal
    finally:
        os.close(terminal)


@contextlib.contextmanager
def _echo(terminal: int, echo: bool) -> Iterator[None]:
    import termios

    before = termios.tcgetattr(terminal)
    if not echo:
        silent = termios.tcgetattr(terminal)
        silent[3] &= ~termios.ECHO
        termios.tcsetattr(terminal, termios.TCSAFLUSH, silent)
    try:
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSAFLUSH, before)
