"""``weft memo``, in processes of its own."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from weft_interfaces import MemoEntry
from weft_memo import FileStore

pytestmark = pytest.mark.once


@pytest.fixture
def memo(start: Callable[..., Any]) -> Callable[..., Any]:
    """Run ``weft memo`` with these arguments: exit status, stdout and stderr."""

    def run(*arguments: str) -> tuple[int, str, str]:
        program = start(argv=["-m", "weft", "memo", *arguments])
        return program.end(), program.out, program.err

    return run


def key(number: int) -> bytes:
    return bytes([number]) * 32


@pytest.fixture
def store(tmp_path: Path) -> Path:
    path = tmp_path / "weft-memo.db"
    store, now = FileStore(path), time.time()
    for number, task in enumerate(["app.f", "app.g", "other.h"], start=1):
        components = {"function": key(100), "argument x": key(100 + number)}
        store.put(
            MemoEntry(key=key(number), task=task, value=[number] * (40_000 if number == 3 else 1),
                      components=components, run=f"runs/{number}", time=now - 86400 * (3 - number))
        )  # fmt: skip
    store.describe({key(100): "def f(x):\n    return x\n" + "# line\n" * 50, key(101): "3"})
    store.close()
    return path


def test_ls(memo: Any, store: Path) -> None:
    status, out, _ = memo("ls")
    assert status == 0
    assert [word in out for word in ("app.f", "app.g", "other.h", "010101010101", "runs/3", "3 entries")] == [
        True
    ] * 6
    assert "1 entries" in memo("ls", "--task", "app.*", "--since", "36h", "--store", str(store))[1]
    lines = memo("ls", "--json", "--run", "runs/2")[1].splitlines()
    (found,) = map(json.loads, lines)
    assert (found["key"], found["task"]) == (key(2).hex(), "app.g")
    assert found["components"]["argument x"] == key(102).hex()


def test_show(memo: Any, store: Path) -> None:
    status, out, _ = memo("show", "0101", "--value")
    assert status == 0
    assert key(1).hex() in out
    assert "argument x  656565656565\n    3\n" in out
    assert "    def f(x):\n        return x\n" in out
    assert "more lines" in out
    assert out.endswith("\n[1]\n")
    assert "[1]" not in memo("show", "0101")[1], "the value is read on request only"
    assert json.loads(memo("show", "03", "--json")[1])["task"] == "other.h"
    assert memo("show", "09")[::2] == (2, "weft: no key begins with 09\n")
    assert "3 keys begin with 0" in memo("show", "0")[2]


def test_rm(memo: Any, store: Path) -> None:
    assert memo("rm", "01")[0] == 1, "who does not say yes removes nothing"
    assert memo("rm", "01", "--yes")[1] == "removed 1 entries of app.f\n"
    assert memo("rm", "--task", "*", "-y")[1] == "removed 2 entries of app.g, other.h\n"
    assert memo("rm", "--task", "*", "-y")[1] == "there is nothing to remove\n"
    assert memo("rm")[0] == 2
    assert memo("rm", "01", "--task", "x")[0] == 2


def test_gc(memo: Any, store: Path) -> None:
    status, out, _ = memo("gc", "--max-age", "36h")
    assert status == 0
    assert out.startswith("removed 1 entries, 0 values")
    assert "2 entries and " in out
    assert memo("gc", "--max-size", "5kB")[1].startswith("removed 1 entries, 1 values")
    assert "app.g" in memo("ls")[1], "what is too large alone does not push out the others"
    assert memo("gc", "--max-size", "much")[2].startswith("weft: --max-size: 'much' is not")


def test_verify(memo: Any, store: Path) -> None:
    status, out, _ = memo("verify")
    assert status == 0
    assert out.startswith("3 entries are sound\n")
    (file,) = (store / "values").glob("??/*")
    file.write_bytes(b"x" + file.read_bytes()[1:])
    status, out, _ = memo("verify")
    assert status == 1
    assert out.startswith("030303030303  its value file")
    assert "1 of 3 entries are broken" in out
    assert memo("export", "copy")[::2] == (
        1,
        "weft: 1 entries are broken, and were left out: see weft memo verify\n",
    )
    assert memo("show", "03", "--value")[0] == 1


def test_export(memo: Any, store: Path, tmp_path: Path) -> None:
    assert memo("export", "copy", "--task", "app.*") == (0, "copied 2 entries to copy\n", "")
    copy = FileStore(tmp_path / "copy")
    assert [entry and entry.value for entry in map(copy.get, map(key, (1, 2, 3)))] == [[1], [2], None]
    assert copy.description(key(101)) == "3"
    copy.close()


def test_a_store_that_is_not_there(memo: Any, tmp_path: Path) -> None:
    assert memo("ls") == (2, "", "weft: there is no memo store weft-memo.db: name one with --store\n")
    assert list(tmp_path.iterdir()) == []
    assert "no://x" in memo("ls", "--store", "no://x")[2]
