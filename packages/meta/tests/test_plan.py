"""``weft plan``: what would run, told without running it."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.once

TASKS = """
import os, sys, weft

SCALE = 2

def ran(what):
    with open("ran", "a") as file:
        print(what, file=file)

@weft.task(memo=True)
def double(x):
    ran(f"double {x}")
    return x * SCALE

@weft.task(memo=True)
def total(values):
    ran("total")
    return sum(values)

@weft.task
def plain(x):
    ran("plain")
    return x

@weft.shell(memo=True)
def echo(text):
    return f"echo {text}; echo echo >> ran"

@weft.join(memo=True)
def fan(n):
    return [double(i) for i in range(n)]

@weft.task(memo=True, memo_errors=True)
def fails():
    ran("fails")
    raise LookupError("as it must")
"""


class Script:
    """A script of these tasks, which is run and planned."""

    def __init__(self, folder: Path, start: Callable[..., Any]) -> None:
        self.folder = folder
        self._start = start

    def write(self, body: str, scale: int = 2) -> None:
        tasks = TASKS.replace("SCALE = 2", f"SCALE = {scale}")
        (self.folder / "script.py").write_text(tasks + textwrap.dedent(body))

    def run(self, *arguments: str) -> None:
        program = self._start(argv=["script.py", *arguments])
        assert program.end() == 0, program.err
        (self.folder / "ran").unlink(missing_ok=True)

    def plan(self, *arguments: str, status: int = 0) -> list[str]:
        """The lines of the plan of the script; nothing ran, and nothing was written, for it."""
        before = self.files()
        program = self._start(argv=["-m", "weft", "plan", *arguments, "script.py"])
        assert program.end() == status, program.err
        assert self.files() == before
        self.err = program.err
        return str(program.out).splitlines()

    def files(self) -> dict[str, bytes]:
        return {
            str(path.relative_to(self.folder)): path.read_bytes()
            for path in self.folder.rglob("*")
            if path.is_file() and path.suffix != ".pyc"
        }


@pytest.fixture
def script(start: Callable[..., Any], tmp_path: Path) -> Script:
    return Script(tmp_path, start)


def outcomes(lines: list[str]) -> list[str]:
    """The outcome and the task of each line of a plan that begins with an outcome."""
    return [" ".join(line.split()[:4]).rstrip(":") for line in lines if " task " in line[:14]]


def test_nothing_is_remembered_yet(script: Script) -> None:
    script.write("print('before'); a = double(1); b = double(a); c = plain(1); print('after')")
    assert script.plan() == [
        "miss     task 0 (double): the first call of script.double that this store knows",
        "unknown  task 1 (double): depends on task 0 (double)",
        "runs     task 2 (plain): not memoized",
        "0 hits, 1 miss, 1 unknown, 1 not memoized",
    ]
    assert script.err == "before\nafter\n"


def test_hits_have_their_values_and_the_script_goes_on(script: Script) -> None:
    body = (
        "parts = [double(i) for i in range(3)]\n"
        "text = echo('hello')\n"
        "print(total(parts).result(), text.result().stdout)\n"
    )
    script.write(body)
    script.run()
    assert script.plan()[-1] == "5 hits, 0 misses, 0 unknown"
    assert script.err == "6 hello\n\n"
    script.write(body + "double(total(parts).result() + 4)\n")
    lines = script.plan()
    assert outcomes(lines)[-1] == "miss task 6 (double)"
    assert re.fullmatch(r" +argument x: x: \d -> 10", lines[-2])  # of the double that was done last
    assert lines[-1] == "6 hits, 1 miss, 0 unknown"


def test_why_it_misses(script: Script) -> None:
    script.write("double(1)\n")
    script.run()
    script.write("double(1)\n", scale=3)
    lines = script.plan()
    assert lines[0] == "miss     task 0 (double): global script.SCALE"
    assert lines[2] == "             global script.SCALE: SCALE: 2 -> 3"


def test_the_plan_ends_where_a_value_is_needed(script: Script) -> None:
    line = TASKS.count("\n") + 2
    for wait in (
        "a.result()",
        "a.exception()",
        "next(weft.as_completed([b, a]))",
        "list(weft.map(double, [5, 6]))",
        "list(weft.map(double, [5, 6], ordered=False))",
        "weft.gather([a, b]).result()",
        "__import__('concurrent.futures').futures.wait([a])",
        "next(__import__('concurrent.futures').futures.as_completed([a]))",
        "__import__('asyncio').run(__import__('asyncio').wait_for(a, 9))",
        "[a.done() for _ in iter(int, 1)]",
    ):
        script.write(f"a, b = double(1), double(2)\n{wait}\ndouble(7)\n")
        *_, ended, summary = script.plan()
        assert ended.startswith(f"script.py, line {line}, needs "), wait
        assert ended.endswith(": the plan ends there"), wait
        assert summary.startswith("0 hits, "), wait
        assert "7" not in summary, wait
        assert script.err == "", wait
    assert "needs the value of task 0 (double)" in ended


def test_waits_in_threads_end_these_threads(script: Script) -> None:
    script.write(
        """
        import threading
        from concurrent.futures import ThreadPoolExecutor
        a = double(1)
        thread = threading.Thread(target=a.result)
        thread.start()
        thread.join()
        b = double(2)
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda future: future.result(), [a, b]))
        double(3)
        """
    )
    lines = script.plan()
    assert lines[-1] == "0 hits, 2 misses, 0 unknown"
    assert script.err == ""


def test_joins_are_planned_inside(script: Script) -> None:
    script.write("fan(2)\n")
    script.run()
    script.write(
        "f = fan(3)\nprint(f.done())\n@weft.join\ndef outer(n):\n    return total(fan(n))\nouter(2)\n"
    )
    assert outcomes(script.plan()) == [
        "miss task 0 (fan)",
        "hit task 1 (double)",
        "hit task 2 (double)",
        "miss task 3 (double)",
        "runs task 4 (outer)",
        "hit task 5 (fan)",
        "miss task 6 (total)",
    ]


def test_a_join_that_waits_ends_alone(script: Script) -> None:
    script.write(
        """
        @weft.join
        def waits():
            double(double(1).result())
            return double(2)
        waits()
        double(3)
        """
    )
    lines = script.plan()
    assert outcomes(lines) == ["runs task 0 (waits)", "miss task 1 (double)", "miss task 2 (double)"]
    assert "ends there" not in lines[-2]


def test_a_join_that_never_ends_is_not_followed_for_ever(script: Script) -> None:
    script.write("@weft.join\ndef again(n):\n    return again(n + 1)\nagain(0)\n")
    assert "not memoized" in script.plan()[-1]
    assert script.err == ""


def test_equal_calls_are_shared(script: Script) -> None:
    script.write("a, b = double(1), double(x=1)\ntotal([a, b])\n")
    lines = script.plan()
    assert lines[1] == "shared   task 1 (double): the same call as task 0"
    assert lines[2] == "unknown  task 2 (total): depends on task 0 (double) and 1 more"
    assert lines[-1] == "0 hits, 1 miss, 1 unknown, 1 shared"


def test_runs_of_all_kinds(script: Script) -> None:
    body = """
    shared = weft.share([1, 2])
    with weft.run() as outer:
        total(shared)
        with weft.run() as inner:
            double.options(name="inner")(1)
            assert weft.current_run() is inner
        double.submit_to(outer, 1)
        weft.gather([double(1), double(1)]).add_done_callback(lambda f: print(f.result()))
    assert outer.closed
    double(5)
    """
    script.write(body)
    script.run()
    assert script.plan()[-1] == "6 hits, 0 misses, 0 unknown"
    assert script.err == "[2, 2]\n"


def test_a_script_that_fails(script: Script) -> None:
    script.write("double(1)\nraise KeyError('of the script')\n")
    assert script.plan(status=1)[-1] == "0 hits, 1 miss, 0 unknown"
    assert "KeyError: 'of the script'" in script.err
    script.write("double(1)\nsys.exit(3)\n")
    assert script.plan(status=3)[-1] == "0 hits, 1 miss, 0 unknown"


def test_calls_that_would_fail(script: Script) -> None:
    script.write("double(iter([]))\n")
    lines = script.plan()
    assert lines[0].startswith("fails    task 0 (double): UnknownTypeError: unknown type for memoization")
    script.write(
        "future = fails()\ntry: future.result()\nexcept LookupError: print('caught')\ndouble(future)\n"
    )
    script.run()
    lines = script.plan()
    assert outcomes(lines) == ["hit task 0 (fails)", "fails task 1 (double)"]
    assert script.err == "caught\n"
    assert lines[-1] == "1 hit, 0 misses, 0 unknown, 1 fails"


def test_many_calls_are_grouped(script: Script) -> None:
    script.write("for i in range(40): double(i)\n")
    script.run()
    script.write("x = [double(i) for i in range(100)]\n[total([i]) for i in x]\n")
    lines = script.plan()
    assert lines[0].startswith("hit      40 x double (tasks 0, 1, 2, 3, 4, ...): run ")
    assert lines[1] == "miss     60 x double (tasks 40, 41, 42, 43, 44, ...): argument x"
    assert lines[2].endswith(" (of task 40)")
    assert "unknown  60 x total (tasks 140, 141, 142, 143, 144, ...): depends on double" in lines
    assert lines[-1] == "40 hits, 100 misses, 60 unknown"


def test_json(script: Script) -> None:
    script.write("double(1).result()\nplain(2)\n")
    script.run()
    table = json.loads("\n".join(script.plan("--json")))
    assert table["counts"] == {"hit": 1, "runs": 1}
    assert table["ended"] is None
    assert [call["outcome"] for call in table["calls"]] == ["hit", "runs"]
    assert table["calls"][0]["explanation"]["outcome"] == "hit"
    script.write("double(2).result()\n")
    table = json.loads("\n".join(script.plan("--json")))
    assert table["ended"].endswith("needs the value of task 0 (double)")


def test_configurations(script: Script) -> None:
    (script.folder / "site.toml").write_text(
        '[[executors]]\ntype = "processes"\n[memo]\nstore = "other.db"\nevery = true\n'
    )
    script.write("with weft.run('site.toml'): plain(1)\n")
    script.run()
    script.write("plain(1); plain(2)\n")
    assert script.plan("--config", "site.toml")[-1] == "1 hit, 1 miss, 0 unknown"
    (script.folder / "site.toml").write_text("memo = false\n")
    assert script.plan("--config", "site.toml")[-1] == "0 hits, 0 misses, 0 unknown, 2 not memoized"


def test_a_store_that_does_not_work(script: Script) -> None:
    (script.folder / "weft-memo.db").write_text("no folder")
    script.write("double(1)\n")
    line, summary = script.plan()
    assert line.startswith("miss     task 0 (double): the memo store does not work: ")
    assert summary == "0 hits, 1 miss, 0 unknown"


def test_wrong_commands(script: Script, start: Callable[..., Any]) -> None:
    program = start(argv=["-m", "weft", "plan", "missing.py"])
    assert program.end() == 2
    assert program.err == "weft: missing.py: no such script\n"
