"""Runs that go on without their process, on this machine: an agent behind a local channel."""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import weft

pytestmark = [pytest.mark.once, pytest.mark.timeout(120)]

PATIENCE = 60.0

CONFIGURATION = """
detach = {detach}

[[executors]]
type = "htex"
label = "far"
workers_per_node = 2
interchange = "agent"

[executors.blocks.provider]
type = "local"
channel = {{type = "local", home = {home}, environment = {{HOME = {home}, XDG_CACHE_HOME = {cache}}}}}
"""

SCRIPT = """
import pathlib, sys, time
import weft

FOLDER = pathlib.Path(sys.argv[1])

@weft.task(memo=True)
def work(number):
    with open(FOLDER / f"ran-{number}", "a") as file:
        file.write("x")
    while number > 5 and not (FOLDER / "go").exists():
        time.sleep(0.01)
    if number == 3:
        raise ValueError("three is bad")
    return number * number

@weft.task
def total(values):
    return sum(values)

with weft.run() as run:
    futures = [work(number) for number in range(10)]
    last = total([future for number, future in enumerate(futures) if number != 3])
    print("submitted", flush=True)
    if "leave" in sys.argv:
        [future.exception() for future in futures[:6]]
        run.detach()
        print(futures[9].exception(), flush=True)
        print(last.exception(), flush=True)
    if "wait" in sys.argv:
        (FOLDER / "go").touch()
    for future in weft.as_completed(futures):
        if not future.exception():
            print(future.result(), flush=True)
    print("hits", sum(future.memo_hit for future in futures), flush=True)
"""


class Runs:
    """Runs of the script in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "home").mkdir()
        (folder / "script.py").write_text(SCRIPT)
        self.configure(detach=True)
        self._started: list[subprocess.Popen[str]] = []

    def configure(self, *, detach: bool) -> None:
        home, cache = json.dumps(str(self.folder / "home")), json.dumps(str(self.folder / "home/cache"))
        text = CONFIGURATION.format(detach=str(detach).lower(), home=home, cache=cache)
        (self.folder / "far.toml").write_text(text)

    def weft(self, *arguments: str) -> subprocess.Popen[str]:
        self._started.append(
            subprocess.Popen(
                [sys.executable, "-m", "weft", *arguments],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
        return self._started[-1]

    def script(self, *arguments: str, options: tuple[str, ...] = ()) -> subprocess.Popen[str]:
        config = ("--quiet", "--config", "far.toml", *options)
        return self.weft("run", *config, "script.py", "--", str(self.folder), *arguments)

    def killed(self, lines: int) -> None:
        """A run whose process is killed when it has printed so much."""
        process = self.script()
        assert process.stdout is not None
        printed = [process.stdout.readline() for _ in range(lines)]
        assert all(printed), process.communicate()[1]
        process.kill()
        process.communicate()

    def attach(self, *arguments: str) -> tuple[int, list[str], str]:
        """The exit status, what was printed, and what was said beside it."""
        process = self.weft("attach", "last", *arguments)
        stdout, stderr = process.communicate(timeout=PATIENCE)
        return process.returncode, stdout.splitlines(), stderr

    def go(self) -> None:
        (self.folder / "go").touch()

    def marks(self) -> dict[str, str]:
        return {path.name: path.read_text() for path in self.folder.glob("ran-*")}

    def left(self) -> list[int]:
        """Processes that know of the folder."""
        found = []
        for name in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                if os.fsencode(self.folder) in Path(f"/proc/{name}/cmdline").read_bytes():
                    found.append(int(name))
        return found

    def close(self) -> None:
        for process in self._started:
            process.kill()
            process.communicate()
        for pid in self.left():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def wait_until(what: str, condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


@pytest.fixture
def runs(tmp_path: Path) -> Iterator[Runs]:
    runs = Runs(tmp_path)
    yield runs
    runs.close()


ONCE = {f"ran-{number}": "x" for number in range(10)}
LINES = {f"task {n} work: done {n * n}" for n in range(10) if n != 3} | {
    "task 3 work: failed ValueError: three is bad"
}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_another_process_shows_what_a_killed_run_gives(runs: Runs, number: signal.Signals) -> None:
    runs.killed(4)
    attached = runs.weft("attach", "last")
    assert attached.stdout is not None
    first = {attached.stdout.readline().strip() for _ in range(6)}
    assert first == {line for line in LINES if int(line.split()[1]) <= 5}
    attached.send_signal(number)
    _, said = attached.communicate(timeout=PATIENCE)
    if number == signal.SIGINT:
        assert attached.returncode == 130
        assert "goes on; `weft attach" in said
    assert runs.left(), "it is as it was"
    runs.go()
    status, lines, said = runs.attach()
    assert (status, set(lines[:-1]), lines[-1]) == (1, LINES, "10 tasks: 9 done, 1 failed"), said
    assert runs.marks() == ONCE
    wait_until("nothing is left", lambda: not runs.left())
    again = runs.attach("--json")
    tables = [json.loads(line) for line in again[1]]
    assert again[0] == 1
    assert tables[-1] == {"tasks": 10, "done": 9, "failed": 1, "cancelled": 0}
    by_task = {table.pop("task"): table for table in tables[:-1]}
    assert by_task[4] == {"name": "work", "state": "done", "value": 16}
    assert by_task[3] == {
        "name": "work",
        "state": "failed",
        "error": {"type": "ValueError", "message": "three is bad"},
    }


def test_what_comes_is_remembered_and_the_script_goes_on_from_there(runs: Runs) -> None:
    runs.killed(2)
    runs.go()
    assert runs.attach()[0] == 1
    printed, said = runs.script().communicate(timeout=PATIENCE)
    assert "hits 9" in printed, said
    assert runs.marks() == {**ONCE, "ran-3": "xx"}
    assert not list(runs.folder.glob("runs/*/detached/far/2")), "a run that has ended keeps nothing"


def test_futures_of_a_run_that_was_killed(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    runs.killed(2)
    monkeypatch.chdir(runs.folder)
    with pytest.raises(weft.InputError, match="there is no detached run 'nine'"):
        weft.attach("nine")
    (directory,) = (runs.folder / "runs").glob("*")
    with weft.attach(directory.name[:15]) as run:
        assert run.id == directory.name
        assert run.names == dict.fromkeys(range(10), "work")
        assert run.futures[1].result(PATIENCE) == 1
        assert isinstance(run.futures[9], concurrent.futures.Future)
        assert not run.futures[9].done()
        with pytest.raises(weft.InputError, match=f"belongs to another process .process {os.getpid()}"):
            weft.attach("last")
    assert run.leftovers == []
    runs.go()
    with weft.attach(directory) as run:
        assert run.wait(PATIENCE)
        assert run.futures[9].result() == 81
        with pytest.raises(ValueError, match="three is bad"):
            run.results()
    assert run.leftovers == []
    wait_until("nothing is left", lambda: not runs.left())


def test_a_process_can_leave_its_run(runs: Runs) -> None:
    process = runs.script("leave")
    printed, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, said
    assert "task 9 (work) goes on without it" in printed
    assert "task 10 (total) had not been handed over, and does not run" in printed
    assert "was left with 5 unfinished tasks: `weft attach /" in said
    runs.go()
    _, lines, _ = runs.attach()
    assert set(lines[:-1]) == LINES
    assert runs.marks() == ONCE


def test_a_run_that_ends_with_its_process_leaves_nothing_to_attach_to(runs: Runs) -> None:
    runs.configure(detach=False)
    process = runs.script("wait", options=("--detach",))
    printed, said = process.communicate(timeout=PATIENCE)
    assert "hits 0" in printed, said
    status, _, said = runs.attach()
    assert status == 2
    assert "there is no detached run 'last'; there are none" in said
    assert not runs.left()


def test_a_run_whose_executors_end_with_its_process_cannot_be_detached() -> None:
    with pytest.raises(
        weft.ConfigError, match=r"detach: tasks of 'threads' \(ThreadExecutor\) end"
    ) as caught:
        weft.run(detach=True)
    assert caught.value.key == "detach"
    with weft.run() as run, pytest.raises(weft.ConfigError, match="set detach=True"):
        run.detach()


def test_reaping_spares_a_run_that_goes_on(runs: Runs) -> None:
    runs.killed(2)
    process = runs.weft("reap", "--config", "far.toml", "--json", "--yes")
    printed, said = process.communicate(timeout=PATIENCE)
    (found,) = json.loads(printed)["runs"]
    assert found["process"] == "unknown", said
    assert "goes on without it: see `weft attach" in found["why"]
    runs.go()
    assert runs.attach()[0] == 1
