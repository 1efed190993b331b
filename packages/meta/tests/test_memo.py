"""Tasks whose calls are remembered: options, settings, and what a run does with them."""

from __future__ import annotations

import functools
import threading
from pathlib import Path
from typing import Any

import pytest
import weft
from weft._config import read_config
from weft_interfaces import MemoStore
from weft_interfaces.memory import InMemoryMemoStore


class Counter:
    """Says how often something ran; nothing of it counts for what is remembered."""

    def __init__(self) -> None:
        self.count = 0
        self._lock = threading.Lock()

    def __call__(self) -> int:
        with self._lock:
            self.count += 1
            return self.count

    def __weft_memo__(self) -> str:
        return "a counter"


@pytest.fixture
def ran() -> Counter:
    return Counter()


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def add(ran: Counter, x: Any, y: Any = 1) -> Any:
    ran()
    return x + y


def once(function: Any, *args: Any, config: weft.Config | None = None, **kwargs: Any) -> tuple[Any, bool]:
    """The value of one call in a run of its own, and whether it was remembered."""
    with weft.run(config or weft.Config()):
        future = function(*args, **kwargs)
        return future.result(timeout=30), future.memo_hit


def test_a_task_that_asks_for_it_is_remembered_by_default(ran: Counter, folder: Path) -> None:
    task = weft.task(memo=True)(add)
    assert once(task, ran, 1) == (2, False)
    assert once(task, ran, 1) == (2, True)
    assert once(task, ran, x=1, y=1) == (2, True)
    assert once(task, ran, 1, 2) == (3, False)
    assert ran.count == 2
    assert (folder / "weft-memo.db").exists()


def test_a_task_that_says_nothing_runs_and_makes_no_store(ran: Counter, folder: Path) -> None:
    task = weft.task(add)
    assert once(task, ran, 1) == once(task, ran, 1) == (2, False)
    assert list(folder.iterdir()) == []


def test_all_are_remembered_where_the_configuration_says_so_but_those_that_refuse(ran: Counter) -> None:
    config = weft.Config(memo=weft.Memo(every=True))
    task, never = weft.task(add), weft.task(memo=False)(add)
    assert [once(each, ran, 1, config=config)[1] for each in (task, task, never, never)] == [
        False,
        True,
        False,
        False,
    ]


def test_memo_false_in_the_configuration_remembers_nothing(ran: Counter, folder: Path) -> None:
    task, config = weft.task(memo=True)(add), weft.Config(memo=False)
    assert once(task, ran, 1, config=config) == once(task, ran, 1, config=config) == (2, False)
    assert list(folder.iterdir()) == []


def test_a_store_may_be_an_object_which_is_not_closed(ran: Counter) -> None:
    store = InMemoryMemoStore()
    config = weft.Config(memo=weft.Memo(store=store))
    task = weft.task(memo=True)(add)
    assert [once(task, ran, 1, config=config)[1] for _ in range(3)] == [False, True, True]
    assert isinstance(store, MemoStore)


def test_a_file_names_the_store(ran: Counter, folder: Path) -> None:
    (folder / "site.toml").write_text('[memo]\nstore = "elsewhere.db"\npolicy = "name"\nevery = true\n')
    config = read_config(folder / "site.toml")
    assert config.memo == weft.Memo(store="elsewhere.db", policy="name", every=True)
    task = weft.task(add)
    assert [once(task, ran, 1, config=config)[1] for _ in range(2)] == [False, True]
    assert (folder / "elsewhere.db").exists()


@pytest.mark.parametrize(
    ("text", "key", "fragment"),
    [
        ("[memo]\nstor = 'x'", "memo.stor", "did you mean 'store'?"),
        ("[memo]\npolicy = 'shallow'", "memo.policy", "'deep', 'body', 'name'"),
        ("[memo]\nstore = 3", "memo.store", "3 is not a text"),
        ("[memo]\nmax_size = 'big'", "memo.max_size", "'big'"),
        ("[memo]\nmax_age = 'old'", "memo.max_age", "'old'"),
        ("memo = 3", "memo", "3 is not a table or true or false"),
        ("[memo]\nstore = ''", "memo.store", "neither a path"),
    ],
)
def test_a_wrong_setting_is_named(folder: Path, text: str, key: str, fragment: str) -> None:
    (folder / "site.toml").write_text(text)
    with pytest.raises(weft.ConfigError, match=r"site\.toml") as caught:
        read_config(folder / "site.toml")
    assert caught.value.key == key
    assert fragment in str(caught.value)


def test_a_version_stands_for_the_code(ran: Counter) -> None:
    def first(ran: Counter, x: int) -> int:
        ran()
        return x

    def second(ran: Counter, x: int) -> int:
        ran()
        return x + 0

    second.__qualname__ = first.__qualname__
    hits = [
        once(weft.task(memo=True, version=version)(function), ran, 1)[1]
        for function, version in ((first, "3"), (second, "3"), (second, "4"))
    ]
    assert hits == [False, True, False]


def test_options_after_memo_ask_for_it_too(ran: Counter) -> None:
    task = weft.task(ignore_for_memo=["y"])(add)
    assert once(task, ran, 1, y=1) == (2, False)
    assert once(task, ran, 1, y=5) == (2, True)
    assert once(task.options(memo=False), ran, 1, y=5) == (6, False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"memo": "shallow"}, "memo: 'shallow' is neither true, false, nor one of 'deep', 'body', 'name'"),
        ({"memo": 1.5}, "memo: 1.5"),
        ({"version": 3}, "version: 3 is not a text"),
        ({"ignore_for_memo": "y"}, "ignore_for_memo: 'y' is not a list"),
        ({"ignore_for_memo": [1]}, "ignore_for_memo: 1 is not the name"),
        ({"ignore_for_memo": ["yy"]}, "ignore_for_memo: add has no parameter 'yy'; did you mean 'y'?"),
        ({"memo_errors": "yes"}, "memo_errors: 'yes' is not true or false"),
    ],
)
def test_a_wrong_option_is_named_at_once(options: dict[str, Any], message: str) -> None:
    with pytest.raises(weft.InputError, match=message.replace("?", r"\?")):
        weft.task(**options)(add)
    with pytest.raises(weft.InputError, match=message.replace("?", r"\?")):
        weft.task(add).options(**options)


def test_a_value_that_cannot_be_hashed_is_named_with_its_argument_and_the_way_out() -> None:
    task = weft.task(memo=True)(len)
    with weft.run():
        future = weft.task(memo=True)(add)(Counter(), {"a": [threading.Lock()]})
        error = future.exception(timeout=30)
    assert isinstance(error, ValueError)
    assert "unknown type for memoization" in str(error)
    for part in ("lock", "x", "['a'][0]", "ignore_for_memo"):
        assert part in str(error)
    assert once(task, [1, 2])[0] == 2


def test_equal_calls_in_flight_run_once(ran: Counter) -> None:
    gate = threading.Event()

    def waits(ran: Counter, x: int) -> int:
        gate.wait(30)
        return add(ran, x)

    task = weft.task(memo=True, ignore_for_memo=["ran"])(waits)
    with weft.run():
        futures = [task(ran, 1) for _ in range(5)]
        gate.set()
        assert [future.result(timeout=30) for future in futures] == [2] * 5
    assert ran.count == 1
    assert [future.memo_hit for future in futures].count(False) == 1


@pytest.mark.parametrize("errors", [False, True])
def test_errors_are_remembered_only_where_that_was_asked_for(ran: Counter, errors: bool) -> None:
    def fails(ran: Counter) -> None:
        ran()
        raise LookupError("not there")

    task = weft.task(memo=True, memo_errors=errors)(fails)
    for _ in range(2):
        with weft.run(), pytest.raises(LookupError, match="not there"):
            task(ran).result(timeout=30)
    assert ran.count == (1 if errors else 2)


def test_joins_and_commands_are_remembered_too(ran: Counter, folder: Path) -> None:
    inner = weft.task(memo=False)(add)

    @weft.join(memo=True)
    def fan_out(ran: Counter, n: int) -> list[weft.Future[Any]]:
        return [inner(ran, i) for i in range(n)]

    @weft.shell(memo=True)
    def append(path: str) -> str:
        return f"echo x >> {path}; wc -l < {path}"

    for _ in range(2):
        assert once(fan_out, ran, 3)[0] == [1, 2, 3]
        assert once(append, "file.txt")[0].stdout.strip() == "1"
    assert ran.count == 3


def test_processes_and_pilots_share_what_is_remembered(ran: Counter) -> None:
    task = weft.task(memo=True)(functools.partial(pow, 2))
    hits = [
        once(task, 10, config=weft.Config(executors=[kind]))
        for kind in ("processes", "threads", {"type": "htex", "blocks": {"provider": "local"}})
    ]
    assert hits == [(1024, False), (1024, True), (1024, True)]


def test_a_store_that_does_not_work_costs_hits_and_nothing_else(
    ran: Counter, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "weft-memo.db").write_text("a file where the folder should be")
    task = weft.task(memo=True)(add)
    with weft.run() as run:
        assert [task(ran, i).result(timeout=30) for i in range(5)] == [1, 2, 3, 4, 5]
    said = [record.getMessage() for record in caplog.records if "weft-memo.db" in record.getMessage()]
    assert 1 <= len(said) <= 2, "once for reading, and once for writing"
    assert run.closed


def test_what_ends_with_the_interpreter_is_remembered_too(start: Any) -> None:
    """The default run waits for it at a time when newer Pythons start no threads any more."""
    script = """
        import sys, time

        @weft.task(memo=True)
        def late(x):
            time.sleep(0.3)
            return x

        first = late(1)
        first.add_done_callback(lambda done: print(done.result(), done.memo_hit, flush=True))
    """
    for expected in ("1 False\n", "1 True\n"):
        program = start(script)
        assert program.end() == 0, program.err
        assert (program.out, program.err) == (expected, "")
