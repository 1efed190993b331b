"""What is remembered survives kills and edits, and explains itself: with the real store and command."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest
from weft_memo import open_store

NORM = """\
OFFSET = 2


def norm(x):
    # the usual one
    return x + OFFSET


def other(x):
    return x - 1
"""

TASKS = """\
import weft
from helpers import norm, other

SCALE = 10


def twice(x):
    return 2 * norm(x)


@weft.task(memo=True)
def scaled(x):
    return SCALE * x  # by a constant


@weft.task(memo=True)
def normed(x):
    return twice(x)


@weft.task(memo=True)
def othered(x):
    return other(x)


@weft.task(memo=True)
def seeded(config):
    return config["seed"]


def main(config):
    with weft.run() as run:
        futures = {name: globals()[name](1) for name in ("scaled", "normed", "othered")}
        futures["seeded"] = seeded(config)
        for future in futures.values():
            future.result()
    print(*(name for name, future in futures.items() if not future.memo_hit))


if __name__ == "__main__":
    main({"seed": 3, "depth": [1, 2]})
"""


class Application:
    """A script and a module of its own, which are edited and run again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.write("helpers.py", NORM)
        self.write("tasks.py", TASKS)

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)

    def edit(self, name: str, old: str, new: str) -> None:
        text = (self.folder / name).read_text()
        assert old in text
        self.write(name, text.replace(old, new))

    def command(self, *arguments: str) -> str:
        command = [sys.executable, "-W", "error", "-m", "weft", *arguments]
        done = subprocess.run(
            command, cwd=self.folder, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def misses(self) -> set[str]:
        """Run it: the tasks that ran."""
        return set(self.command("run", "--quiet", "tasks.py").split())

    def why(self, task: str) -> str:
        return self.command("why", "last", task)


@pytest.fixture
def application(tmp_path: Path) -> Application:
    application = Application(tmp_path)
    assert application.misses() == {"scaled", "normed", "othered", "seeded"}
    assert application.misses() == set()
    return application


def test_an_edited_helper_costs_the_tasks_that_reach_it_and_shows_its_diff(application: Application) -> None:
    application.edit("helpers.py", "return x + OFFSET", "return x + OFFSET + 1")
    assert application.misses() == {"normed"}
    why = application.why("normed")
    assert "helpers.norm" in why
    assert re.search(r"^\s*-\s+return x \+ OFFSET$", why, re.MULTILINE)
    assert re.search(r"^\s*\+\s+return x \+ OFFSET \+ 1$", why, re.MULTILINE)


def test_an_edited_constant_is_named(application: Application) -> None:
    application.edit("tasks.py", "SCALE = 10", "SCALE = 11")
    assert application.misses() == {"scaled"}
    assert re.search(r"tasks\.SCALE.*10 -> 11", application.why("scaled"))
    application.edit("helpers.py", "OFFSET = 2", "OFFSET = 3")
    assert application.misses() == {"normed"}
    assert re.search(r"helpers\.OFFSET.*2 -> 3", application.why("normed"))


def test_an_argument_is_named_with_the_place_inside_it(application: Application) -> None:
    application.edit("tasks.py", '"seed": 3', '"seed": 4')
    assert application.misses() == {"seeded"}
    assert 'config["seed"]: 3 -> 4' in application.why("seeded")


def test_comments_places_and_docstrings_cost_nothing(application: Application) -> None:
    application.edit("helpers.py", "# the usual one", "# the usual one, as everywhere\n")
    application.edit("tasks.py", "# by a constant", "# by another comment")
    application.edit("tasks.py", "def twice(x):", "def twice(x):\n    '''Two of it.'''")
    moved = (application.folder / "tasks.py").read_text()
    start, end = (
        moved.index("@weft.task(memo=True)\ndef scaled"),
        moved.index("@weft.task(memo=True)\ndef normed"),
    )
    moved = moved[:start] + moved[end:].replace("def main", moved[start:end] + "def main")
    application.write("tasks.py", moved)
    assert application.misses() == set()
    assert "hit" in application.why("scaled")


def test_a_plan_says_what_would_run_and_starts_nothing(application: Application) -> None:
    application.edit("helpers.py", "return x + OFFSET", "return x + OFFSET + 1")
    runs = set((application.folder / "runs").iterdir())
    plan = application.command("plan", "tasks.py")
    assert "3 hits, 1 miss" in plan
    assert "helpers.norm" in plan
    assert set((application.folder / "runs").iterdir()) == runs
    assert application.misses() == {"normed"}


# -- a run that is killed ------------------------------------------------------------------------------------


class Record(NamedTuple):
    """What a run's record says: how many lookups had which outcome."""

    outcomes: Counter[str]

    @classmethod
    def of(cls, folder: Path) -> Record:
        lines = [json.loads(line) for line in (folder / "memo.jsonl").read_text().splitlines()]
        return cls(Counter(line["outcome"] for line in lines if "outcome" in line))


def test_a_killed_census_goes_on_where_it_was(root: Path, tmp_path: Path) -> None:
    """Killed half-way, the second run does only the rest, and the third nothing."""
    command = [sys.executable, "-m", "weft", "run", "--quiet", "--config", str(root / "examples/memo.toml")]
    command += [str(root / "examples/census/census.py")]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    deadline = time.monotonic() + 60
    while count_entries(tmp_path) < 150:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)  # the store of another process tells nobody that it grew
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=30)
    kept = count_entries(tmp_path)
    assert 150 <= kept < 500

    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=100)
    second = Record.of(latest_run(tmp_path)).outcomes
    total = count_entries(tmp_path)
    assert second["hit"] >= kept - 2  # what the survey returned is part of it only when all is done
    assert second["miss"] == total - kept

    began = time.monotonic()
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=100)
    seconds = time.monotonic() - began
    third = Record.of(latest_run(tmp_path)).outcomes
    assert set(third) == {"hit"}
    assert seconds < 20, "a bound that a loaded machine keeps; the benchmark has the real one"
    listed = [sys.executable, "-m", "weft", "memo", "ls", "--json", "--store", str(tmp_path / "weft-memo.db")]
    done = subprocess.run(listed, capture_output=True, text=True, check=True, timeout=60)
    assert len(done.stdout.splitlines()) == count_entries(tmp_path) == total


def count_entries(folder: Path) -> int:
    """How many there are; a command would take longer than the run that is watched."""
    if not (folder / "weft-memo.db").exists():
        return 0
    with contextlib.closing(open_store(str(folder / "weft-memo.db"))) as store:
        return int(store.size()[0])


def latest_run(folder: Path) -> Path:
    return max((folder / "runs").iterdir(), key=os.path.getmtime)
