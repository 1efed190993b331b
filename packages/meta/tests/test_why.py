"""``weft why``: what a run did, told afterwards by another process."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.once

APP = """
import sys, weft

SCALE = 2

def norm(config):
    return config["seed"] * SCALE

@weft.task(memo=True)
def simulate(config):
    return norm(config)

@weft.task(memo=True)
def total(values):
    return sum(values)

if __name__ == "__main__":
    with weft.run(name=sys.argv[1]):
        parts = [simulate({"seed": int(seed)}) for seed in sys.argv[2:]]
        print(total(parts).result())
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WEFT_CONFIG", raising=False)
    return tmp_path


@pytest.fixture
def execute(start: Callable[..., Any], folder: Path) -> Callable[..., None]:
    """Run ``app.py``, with some of its text replaced, as ``name`` with these seeds."""

    def run(name: str, *seeds: int, **replaced: str) -> None:
        text = APP
        for old, new in replaced.items():
            assert {"scale": "SCALE = 2", "norm": "* SCALE"}[old] in text
            text = text.replace({"scale": "SCALE = 2", "norm": "* SCALE"}[old], new)
        (folder / "app.py").write_text(text)
        program = start(argv=["app.py", name, *map(str, seeds)])
        assert program.end() == 0, program.err

    return run


@pytest.fixture
def why(start: Callable[..., Any], folder: Path) -> Callable[..., str]:
    """Run ``weft why`` with these arguments: what it printed, on stderr if that is the status."""

    def ask(*arguments: str, status: int = 0) -> str:
        program = start(argv=["-m", "weft", "why", *arguments])
        assert program.end() == status, program.err
        return str(program.out if status == 0 else program.err)

    return ask


def test_the_first_run(execute: Any, why: Any) -> None:
    execute("one", 1, 2)
    assert why("last", "simulate").splitlines() == [
        "app.simulate: 2 misses",
        "2 misses (task 0, 1): the first call of app.simulate that this store knows",
    ]
    assert why("one", "2").splitlines() == [
        "task 2: miss",
        "the first call of app.total that this store knows",
    ]


def test_an_argument_that_changed(execute: Any, why: Any) -> None:
    execute("one", 1)
    execute("two", 1, 5)
    assert 'argument config: config["seed"]: 1 -> 5' in why("two", "1")
    lines = why("last", "app.simulate").splitlines()
    assert lines[0] == "app.simulate: 1 hit, 1 miss"
    assert lines[1].startswith("1 hit (task 0): computed by run one-")
    assert lines[2] == "1 miss (task 1): argument config"
    assert "by run one-" in lines[3]


def test_a_helper_that_changed_is_shown_as_a_diff(execute: Any, why: Any) -> None:
    execute("one", 1, 2)
    execute("two", 1, 2, norm="* SCALE + 1")
    text = why("last", "0")
    assert "helper app.norm:" in text
    assert '-    return config["seed"] * SCALE\n' in text
    assert '+    return config["seed"] * SCALE + 1\n' in text
    text = why("last", "simulate")
    assert "2 misses (task 0, 1): helper app.norm" in text
    assert text.count("+    return") == 1


def test_a_global_that_changed(execute: Any, why: Any) -> None:
    execute("one", 1)
    execute("two", 1, scale="SCALE = 3")
    assert "global app.SCALE: SCALE: 2 -> 3" in why("two", "simulate")
    assert "argument values: values[0]: 2 -> 3" in why("two", "total")


def test_a_hit(execute: Any, why: Any) -> None:
    execute("one", 1)
    execute("two", 1)
    text = why("two", "0")
    assert text.startswith("task 0: hit\napp.simulate was remembered: run one-")
    execute("three", 1, 2, 1)
    assert "app.simulate: 2 hits, 1 miss" in why("three", "simulate")


def test_of_many_misses_some_are_looked_at(execute: Any, why: Any) -> None:
    execute("one", 1)
    execute("two", *range(1000, 1120))
    lines = why("two", "simulate").splitlines()
    assert lines[0] == "app.simulate: 120 misses"
    assert lines[1] == "40 misses (task 0, 3, 6, 9, 12, ...): argument config"
    assert lines[-1] == "and 80 more misses, which were not looked at"


def test_json(execute: Any, why: Any) -> None:
    execute("one", 1)
    execute("two", 1, 2, scale="SCALE = 3")
    table = json.loads(why("two", "simulate", "--json"))
    assert table["name"] == "app.simulate"
    assert table["counts"] == {"miss": 2}
    reason = table["reasons"][0]
    assert reason["reason"] == "global app.SCALE"
    assert reason["tasks"] == [0]
    assert reason["explanation"]["changes"][0]["lines"] == ["SCALE: 2 -> 3"]
    table = json.loads(why("two", "0", "--json"))
    assert table["reasons"][0]["explanation"]["outcome"] == "miss"


def test_how_runs_are_named(execute: Any, folder: Path, why: Any) -> None:
    execute("one", 1)
    execute("other", 1)
    run = next((folder / "runs").glob("one-*"))
    expected = why("one", "0")
    assert expected.startswith("task 0: miss")
    for name in (run.name, str(run), f"runs/{run.name}", str(run / "memo.jsonl")):
        assert why(name, "0") == expected
    (folder / "runs").rename(folder / "elsewhere")
    assert why("one", "0", "--run-dir", "elsewhere") == expected
    (folder / "site.toml").write_text('run_dir = "elsewhere"\n')
    assert why("one", "0", "--config", "site.toml") == expected


def test_mistakes_say_what_there_is(execute: Any, folder: Path, why: Any) -> None:
    assert "no run in here looked anything up" in why("last", "0", status=2)
    execute("one", 1)
    execute("other", 1)
    assert "2 runs begin with 'o': one-" in why("o", "0", status=2)
    assert "no run 'twain' looked anything up; there are other-" in why("twain", "0", status=2)
    assert "looked up no task 'simulat'; did you mean 'simulate'?" in why("one", "simulat", status=2)
    assert "did not look up task 77" in why("one", "77", status=2)
    (folder / "runs" / "empty").mkdir()
    assert "no task of this run was looked up" in why("empty", "0", status=2)
    (folder / "runs" / "empty" / "memo.jsonl").write_text('{"format": 99}\n')
    assert "has format 99" in why("empty", "0", status=2)


def test_a_store_that_was_moved(execute: Any, folder: Path, why: Any) -> None:
    execute("one", 1)
    execute("two", 1, 2)
    (folder / "weft-memo.db").rename(folder / "moved.db")
    assert "--store says where it is now" in why("two", "1", status=2)
    assert why("two", "0").startswith("task 0: hit")
    assert 'config["seed"]: 1 -> 2' in why("two", "1", "--store", "moved.db")


def test_a_value_that_cannot_be_read_any_more(start: Any, folder: Path, why: Any) -> None:
    (folder / "parts.py").write_text("class Part:\n    pass\n")
    (folder / "app.py").write_text(
        "import weft\n"
        "@weft.task(memo='name')\n"
        "def make():\n"
        "    import parts\n"
        "    return getattr(parts, 'Part', int)()\n"
        "make().result()\n"
    )
    assert start(argv=["app.py"]).end() == 0
    (folder / "parts.py").write_text("value = 1\n")
    program = start(argv=["app.py"])
    assert program.end() == 0, program.err
    assert "app.make was remembered, but cannot be read any more: " in why("last", "0")
