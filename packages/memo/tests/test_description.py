"""Descriptions: what they show, what they never do; and what two of them say differs."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import enum
import functools
import json
import math
import re
import time
from collections.abc import Callable
from typing import Any

import hypothesis
import hypothesis.strategies as st
import pytest
from weft_interfaces import Shared
from weft_memo.description import describe
from weft_memo.difference import differences


@dataclasses.dataclass
class Row:
    number: int
    name: str


class Color(enum.Enum):
    RED = 1
    BLUE = 2


class Hostile:
    """Whatever is asked of it raises."""

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(name)

    def __repr__(self) -> str:
        raise RuntimeError("repr")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("eq")

    def __hash__(self) -> int:
        return 1

    def __iter__(self) -> Any:
        raise RuntimeError("iter")


class HostileList(list[Any]):
    def __len__(self) -> int:
        raise RuntimeError("len")

    def __iter__(self) -> Any:
        raise RuntimeError("iter")


class Slotted:
    __slots__ = ("a", "b")

    def __init__(self, a: Any) -> None:
        self.a = a


def told(old: Any, new: Any, name: str = "x") -> list[str]:
    return differences(describe(old, name), describe(new, name), name)


PLAIN = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**70), 2**70),
        st.floats(allow_nan=False),
        st.text(max_size=20),
        st.binary(max_size=20),
        st.dates(),
        st.sampled_from(Color),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(st.text(max_size=8) | st.integers(), inner, max_size=4),
        st.sets(st.integers() | st.text(max_size=5), max_size=4),
        st.builds(Row, inner, inner),
    ),
    max_leaves=12,
)


def rebuilt(value: Any) -> Any:
    """An equal value, made in another way: of other objects, mappings and sets in the opposite order."""
    kind = type(value)
    if kind in (list, tuple):
        return kind([rebuilt(part) for part in value])
    if kind is dict:
        return {key: rebuilt(part) for key, part in reversed(value.items())}
    if kind is set:
        return {*reversed(list(value))}
    if kind is Row:
        return Row(rebuilt(value.number), rebuilt(value.name))
    return value


@hypothesis.given(PLAIN)
def test_equal_values_have_equal_descriptions(value: Any) -> None:
    assert describe(value) == describe(rebuilt(value))
    assert told(value, rebuilt(value)) == []


@hypothesis.given(PLAIN, PLAIN)
def test_different_values_differ_in_words(one: Any, other: Any) -> None:
    from weft_memo.hasher import digest

    assert (told(one, other) == []) == (digest(one) == digest(other))


@hypothesis.given(st.text(), st.text())
def test_what_is_no_description_is_compared_as_it_is(one: str, other: str) -> None:
    assert bool(differences(one, other)) == (one != other or False) or json.loads(one) == json.loads(other)


@hypothesis.given(
    st.recursive(
        st.none() | st.integers() | st.text(max_size=3) | st.floats(allow_nan=False),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["t", "n", "d", "i", "k", "f", "m", "s", "o", "v", "x"]), inner)
        ),
        max_leaves=20,
    ),
    st.data(),
)
def test_no_text_breaks_the_comparison(one: Any, data: Any) -> None:
    other = data.draw(st.sampled_from([one, [], {}, {"t": "list", "i": [1]}, {"t": "dict", "k": {"a": {}}}]))
    assert all(isinstance(line, str) for line in differences(json.dumps(one), json.dumps(other)))


def cyclic() -> list[Any]:
    value: list[Any] = [1]
    value.append({"again": value})
    return value


def deep() -> list[Any]:
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    return value


def generator() -> Any:
    yield 1


ODD: list[Callable[[], Any]] = [
    lambda: Hostile(),
    lambda: [Hostile()],
    lambda: {Hostile(): 1},
    lambda: {"a": Hostile()},
    lambda: {Hostile()},
    lambda: HostileList([1, 2]),
    lambda: cyclic(),
    lambda: deep(),
    lambda: generator(),
    lambda: open,
    lambda: print,
    lambda: 10**6000,
    lambda: math.nan,
    lambda: "\ud800",
    lambda: {"\ud800": "\ud800"},
    lambda: object,
    lambda: type("Odd", (), {"__module__": 3}),
    lambda: type("Odd", (), {"__module__": 3})(),
    lambda: functools.partial(print, Hostile()),
    lambda: ValueError(Hostile()),
    lambda: memoryview(b"abc"),
    lambda: re.compile("a"),
    lambda: slice(Hostile()),
    lambda: NotImplemented,
    lambda: datetime.datetime(2020, 1, 1, tzinfo=datetime.timezone.utc),
    lambda: list(range(100_000)),
    lambda: {number: [number] for number in range(20_000)},
    lambda: set(range(20_000)),
    lambda: ["x" * 10_000] * 1_000,
    lambda: [[[["x" * 100] * 50] * 50] * 50],
]


@pytest.mark.parametrize("make", ODD, ids=range(len(ODD)))
def test_every_value_has_a_bounded_description(make: Callable[[], Any]) -> None:
    value = make()
    text = describe(value)
    json.loads(text)
    text.encode()
    assert len(text) < 20_000
    assert describe(value) == text


@pytest.mark.parametrize(
    ("old", "new", "lines"),
    [
        ({"seed": 3, "rate": 0.1}, {"seed": 4, "rate": 0.1}, ['x["seed"]: 3 -> 4']),
        (
            [Row(i, "a") for i in range(20)],
            [Row(i, "ab"[i == 17]) for i in range(20)],
            ["x[17].name: 'a' -> 'b'"],
        ),
        (["a", "b", "c"], ["a", "b", "c", "d"], ["x: 3 items -> 4 items (added [3]: 'd')"]),
        (["a", "b"], ["z", "a", "b"], ["x: 2 items -> 3 items (added [0]: 'z')"]),
        ([1, 2, 3, 4, 5], [2, 3, 4, 5, 6], ["x: removed [0]: 1; added [4]: 6"]),
        (True, 1, ["x: True -> 1 (bool -> int)"]),
        (1, 1.0, ["x: 1 -> 1.0 (int -> float)"]),
        ((1,), [1], ["x: (1,) -> [1] (tuple -> list)"]),
        ("a", b"a", ["x: 'a' -> b'a' (str -> bytes)"]),
        (0.0, -0.0, ["x: 0.0 -> -0.0"]),
        (None, Row(1, "a"), ["x: None -> Row(number=1, name='a')"]),
        ({"a": 1}, {"b": [1, 2]}, ['x["a"]: removed, 1', 'x["b"]: added, [1, 2]']),
        ({1, 2}, {2, 3}, ["x: removed 1", "x: added 3"]),
        (Color.RED, Color.BLUE, ["x: Color.RED -> Color.BLUE"]),
        (Slotted(1), Slotted(2), ["x.a: 1 -> 2"]),
        ({(1, "a"): 1}, {(1, "a"): 2}, ['x[(1, "a")]: 1 -> 2']),
        ("a" * 500, "a" * 499 + "b", ["x differs after its first 60 characters"]),
        ("a" * 500, "a" * 600, ["x: a text of 500 characters -> a text of 600 characters"]),
        (list(range(3000)), [*range(2999), 0], ["x differs further on, where it is not shown"]),
        (
            collections.OrderedDict(a=1, b=2),
            collections.OrderedDict(b=2, a=1),
            ["x: the order of its keys differs"],
        ),
        (
            {"api_token": "abc"},
            {"api_token": "def"},
            ['x["api_token"] differs (it is not shown, because of its name)'],
        ),
        ([0] * 100, [1] * 100, [f"x[{i}]: 0 -> 1" for i in range(20)] + ["and 80 more"]),
    ],
)
def test_differences(old: Any, new: Any, lines: list[str]) -> None:
    assert told(old, new) == lines


def test_secrets_are_in_no_description() -> None:
    for text in (
        describe("hunter2", "password"),
        describe({"login": {"Secret_Key": "hunter2"}}),
        describe([Row(1, "a"), {"auth_token": ["hunter2"]}]),
    ):
        assert "hunter2" not in text
    assert told("hunter2", "hunter3", "password") == [
        "password differs (it is not shown, because of its name)"
    ]


def test_no_code_of_the_user_runs() -> None:
    class Counting:
        calls = 0

        def __init__(self) -> None:
            self.value = 1

        @property
        def computed(self) -> int:
            Counting.calls += 1
            return 1

        def __repr__(self) -> str:
            Counting.calls += 1
            return "counting"

        def __getattr__(self, name: str) -> Any:
            Counting.calls += 1
            raise AttributeError(name)

    assert json.loads(describe(Counting()))["f"] == {"value": "1"}
    assert Counting.calls == 0


def test_a_shared_value_is_described_as_itself() -> None:
    assert describe([Shared({"a": 1}, lambda *_: b"")]) == describe([{"a": 1}])


def test_a_known_digest_is_used() -> None:
    text = describe(list(range(3000)), digest=b"\xab" * 32)
    assert json.loads(text)["d"] == "ab" * 8


@pytest.mark.once
def test_arrays_and_tables() -> None:
    import numpy as np
    import pandas as pd
    import polars as pl

    weights = np.arange(400.0).reshape(20, 20)
    assert told(weights, weights + 1) == ["x: float64 (20, 20) content differs"]
    assert told(weights, weights[:10]) == ["x: float64 (20, 20) -> float64 (10, 20)"]
    assert told(weights, weights.copy(order="F")) == []
    assert told(np.array([1, 2]), np.array([1, 3])) == ["x: int64 (2,) [1, 2] -> int64 (2,) [1, 3]"]
    assert told(np.float64(1), np.float64(2)) == ["x: 1.0 -> 2.0"]
    columns = {"a": [1, 2], "b": [1.0, 2.0]}
    for library in (pd, pl):
        table: Any = library.DataFrame
        assert told(table(columns), table(columns)) == []
        assert told(table(columns), table({**columns, "b": [1.0, 3.0]})) == [
            f'x["b"]: {"float64" if library is pd else "Float64"} content differs'
        ]
    assert told(pd.DataFrame(columns), pd.DataFrame(columns, index=[5, 6]))[0].startswith("x.index")
    assert told(pd.Timestamp("2020-01-01"), pd.Timestamp("2020-01-02")) == [
        "x: pandas.Timestamp 2020-01-01 00:00:00 -> pandas.Timestamp 2020-01-02 00:00:00"
    ]


def test_small_arguments_are_described_at_once() -> None:
    """Of the 20 microseconds that are promised, on a quiet machine; the limit here is for busy ones."""
    value = {"seed": 3, "rate": 0.1, "names": ["a", "b"], "inner": {"x": 1, "y": "z"}}
    best = math.inf
    for _ in range(20):
        begun = time.perf_counter()
        for _ in range(100):
            describe(value, "config")
        best = min(best, (time.perf_counter() - begun) / 100)
    assert best < 100e-6
