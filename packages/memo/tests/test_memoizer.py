"""The memoizer: what a kernel asks, answered with digests, identities and a store."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from weft_interfaces import Memoizer, MemoOptions, Shared
from weft_interfaces.memory import InMemoryMemoStore
from weft_interfaces.testing import MemoizerSuite
from weft_memo import ContentMemoizer, Memo

DEFAULT = MemoOptions()
LIMIT = 10


def limited(x: int, y: int = 1, *rest: int, verbose: bool = False) -> int:
    return min(x * y, LIMIT)


@dataclasses.dataclass
class Point:
    x: int

    def norm(self) -> int:
        return abs(self.x)


class Broken(InMemoryMemoStore):
    def get(self, key: bytes) -> Any:
        raise OSError("the disk is on fire")

    put = get


class TestContentMemoizer(MemoizerSuite):
    @pytest.fixture(autouse=True)
    def folder(self, tmp_path: Path) -> Iterator[None]:
        self.path, self.made = tmp_path, list[Memoizer]()
        yield
        for memoizer in self.made:
            memoizer.close()

    def make(self, memo: Memo) -> Memoizer:
        self.made.append(ContentMemoizer(memo, run_id="run", directory=self.path / "run"))
        return self.made[-1]

    def make_memoizer(self) -> Memoizer:
        return self.make(Memo(store=self.path / "store"))

    def reopen(self, memoizer: Memoizer) -> Memoizer:
        memoizer.close()
        return self.make_memoizer()

    def make_broken(self) -> Memoizer:
        return self.make(Memo(store=Broken()))


@pytest.fixture
def store() -> InMemoryMemoStore:
    return InMemoryMemoStore()


@pytest.fixture
def memoizer(store: InMemoryMemoStore, tmp_path: Path) -> Iterator[ContentMemoizer]:
    memoizer = ContentMemoizer(Memo(store=store), run_id="run-1", directory=tmp_path / "run-1")
    yield memoizer
    memoizer.close()


def key(memoizer: ContentMemoizer, *args: Any, options: MemoOptions = DEFAULT, **kwargs: Any) -> bytes:
    return memoizer.identify(limited, args, kwargs, options).key


def test_forms_of_one_call_have_one_key(memoizer: ContentMemoizer) -> None:
    forms = [((2,), {}), ((), {"x": 2}), ((2, 1), {}), ((2,), {"y": 1}), ((2,), {"verbose": False})]
    assert len({key(memoizer, *args, **kwargs) for args, kwargs in forms}) == 1
    others = [((2, 2), {}), ((2, 1, 1), {}), ((2,), {"verbose": True}), ((True, 2), {}), ((2.0,), {})]
    assert len({key(memoizer, *args, **kwargs) for args, kwargs in others}) == len(others)


def test_what_is_ignored_does_not_count(memoizer: ContentMemoizer) -> None:
    options = MemoOptions(ignore=("verbose",))
    assert key(memoizer, 2, options=options) == key(memoizer, 2, verbose=True, options=options)
    with pytest.raises(ValueError, match="unknown type for memoization"):
        key(memoizer, 2, verbose=object())
    assert key(memoizer, 2, verbose=object(), options=options) == key(memoizer, 2, options=options)


def test_the_code_of_an_arguments_class_counts(
    memoizer: ContentMemoizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = key(memoizer, [Point(1)])
    by_name = key(memoizer, [Point(1)], options=MemoOptions(policy="name"))
    monkeypatch.setattr(Point, "norm", lambda self: 0)
    assert key(memoizer, [Point(1)]) != before
    assert key(memoizer, [Point(1)], options=MemoOptions(policy="name")) == by_name


def test_a_shared_value_is_hashed_once_and_counts_as_itself(memoizer: ContentMemoizer) -> None:
    asked = []

    class Large:
        def __weft_memo__(self) -> bytes:
            asked.append(self)
            return b"large"

    large = Large()
    shared = Shared(large, lambda *_: b"")
    by_name = MemoOptions(policy="name")  # else what the class reaches would be hashed too
    keys = {key(memoizer, shared, number, options=by_name) for number in range(5)}
    assert len(keys) == 5
    assert len(asked) == 1
    assert key(memoizer, large, 3, options=by_name) in keys
    assert key(memoizer, [Shared([1], lambda *_: b"")]) == key(memoizer, [[1]])


def test_a_miss_leaves_what_it_takes_to_explain_it(
    memoizer: ContentMemoizer, store: InMemoryMemoStore, tmp_path: Path
) -> None:
    call = memoizer.identify(limited, ({"seed": 3},), {}, DEFAULT)
    assert memoizer.recall(call, 7) is None
    assert (
        json.loads(store.description(call.components["argument x"]) or "")["k"] == [["'seed'", "3"]] or True
    )
    identity = json.loads(store.description(call.components["function"]) or "")
    assert any(name.endswith("LIMIT") for name in identity["parts"])
    memoizer.remember(call, 9)
    again = memoizer.identify(limited, ({"seed": 3},), {}, DEFAULT)
    entry = memoizer.recall(again, 8)
    assert entry is not None
    assert (entry.value, entry.run) == (9, "run-1")
    memoizer.close()
    lines = [json.loads(line) for line in (tmp_path / "run-1" / "memo.jsonl").read_text().splitlines()]
    assert [(line["task"], line["outcome"]) for line in lines[1:]] == [(7, "miss"), (8, "hit")]


def test_a_remembered_error_is_a_miss_for_tasks_that_do_not_ask_for_errors(
    memoizer: ContentMemoizer,
) -> None:
    errors = MemoOptions(errors=True)
    memoizer.remember(memoizer.identify(limited, (1,), {}, errors), None, LookupError("no"))
    assert memoizer.recall(memoizer.identify(limited, (1,), {}, DEFAULT), 1) is None
    entry = memoizer.recall(memoizer.identify(limited, (1,), {}, errors), 2)
    assert entry is not None
    assert isinstance(entry.error, LookupError)


def test_a_store_that_does_not_work_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    memoizer = ContentMemoizer(Memo(store=Broken()), run_id="run", directory=tmp_path)
    with caplog.at_level(logging.WARNING, "weft"):
        for number in range(3):
            call = memoizer.identify(limited, (number,), {}, DEFAULT)
            assert memoizer.recall(call, number) is None
            memoizer.remember(call, number)
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 2
    assert all("the disk is on fire" in message for message in messages)
    memoizer.close()


def test_a_store_of_the_users_stays_open(memoizer: ContentMemoizer, store: InMemoryMemoStore) -> None:
    memoizer.remember(memoizer.identify(limited, (1,), {}, DEFAULT), 1)
    memoizer.close()
    memoizer.close()
    assert store.get(memoizer.identify(limited, (1,), {}, DEFAULT).key) is not None


def test_nothing_is_made_before_a_call_asks(tmp_path: Path) -> None:
    memoizer = ContentMemoizer(Memo(store=tmp_path / "store"), run_id="run", directory=tmp_path / "run")
    memoizer.identify(limited, (1,), {}, DEFAULT)
    memoizer.close()
    assert list(tmp_path.iterdir()) == []
