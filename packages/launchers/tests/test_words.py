"""Any command arrives as it was, through every shell on the way."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from weft_interfaces import BlockShape, Launcher
from weft_launchers import AprunLauncher, SshLauncher, WrappedLauncher
from weft_launchers.node import DECODE, encode

LOGIN_SHELL = ["/bin/sh", "-c", 'exec /bin/sh -c "$2"', "login"]
PRINT = "import sys; sys.stdout.buffer.write(b'\\0'.join(map(__import__('os').fsencode, sys.argv[1:])))"

characters = st.characters(blacklist_characters="\0", blacklist_categories=["Cs"])
special = st.sampled_from(" '\"\\$`!*?~#&|;<>(){}[]%:=\n\t\r-0")
words = st.text(st.one_of(special, characters), max_size=20)
wild = st.one_of(
    words, st.sampled_from([":", "--", "-", "", "-n", "\\", "\\\\0047", "{}", "%b", "%s", "\n", "a\\c"])
)
ROUNDS = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@settings(max_examples=200, deadline=None)
@given(text=words)
def test_a_script_is_one_plain_word(text: str) -> None:
    word = encode(text)
    assert not set("'\n!") & set(word)
    assert all(word[place + 1] == "0" for place, character in enumerate(word) if character == "\\")


@ROUNDS
@given(text=st.lists(words, max_size=3).map("\n".join))
def test_a_script_comes_back(text: str) -> None:
    script = f"printf %s {__import__('shlex').quote(text)}"
    shown = subprocess.run(["/bin/sh", "-c", DECODE, "x", encode(script)], capture_output=True, check=True)
    assert shown.stdout == text.encode()


def printed(launcher: Launcher, arguments: list[str]) -> list[bytes]:
    argv = launcher.wrap([sys.executable, "-c", PRINT, *arguments], BlockShape())
    ended = subprocess.run(argv, capture_output=True, check=False, timeout=60)
    assert (ended.returncode, ended.stderr) == (0, b"")
    return ended.stdout.split(b"\0") if arguments else []


@pytest.mark.parametrize(
    "launcher",
    [
        SshLauncher(program=LOGIN_SHELL, hosts=["a"]),
        AprunLauncher(),
        WrappedLauncher(["/bin/sh", "-c", 'exec "$@"', "x"], AprunLauncher()),
    ],
    ids=lambda launcher: type(launcher).__name__,
)
@ROUNDS
@given(arguments=st.lists(wild, max_size=5))
def test_words_arrive(launcher: Launcher, arguments: list[str]) -> None:
    assert printed(launcher, arguments) == [word.encode() for word in arguments]


@ROUNDS
@given(value=words)
def test_values_of_variables_arrive(value: str) -> None:
    launcher = SshLauncher(
        program=["/bin/sh", "-c", 'exec env -i PATH="$PATH" /bin/sh -c "$2"', "login"], hosts=["a"]
    )
    argv = launcher.wrap(
        [sys.executable, "-c", "import os; os.write(1, os.environb[b'WEFT_VALUE'])"], BlockShape()
    )
    ended = subprocess.run(
        argv, capture_output=True, check=False, timeout=60, env={**os.environ, "WEFT_VALUE": value}
    )
    assert (ended.returncode, ended.stderr, ended.stdout) == (0, b"", value.encode())


def test_bytes_that_are_no_text_arrive(tmp_path: Path) -> None:
    name = os.fsdecode(b"latin \xe4")
    assert printed(AprunLauncher(), [name]) == [b"latin \xe4"]


def test_much_arrives() -> None:
    arguments = ["x" * 1000 + " '" for _ in range(80)]
    assert printed(SshLauncher(program=LOGIN_SHELL, hosts=["a"]), arguments) == [
        w.encode() for w in arguments
    ]
