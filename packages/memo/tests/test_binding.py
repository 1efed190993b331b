# ruff: noqa: E501, E704  a table
"""Arguments by name."""

from __future__ import annotations

import functools
import inspect
import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from weft_memo import bind_arguments, unknown_parameters


def plain(a, b=2, c=3): ...
def only(a, /, b, *, c=3): ...
def rest(a, *args, c=3): ...
def keywords(a, /, b=2, **kwargs): ...
def everything(a, b=2, /, c=3, *args, d, e=5, **kwargs): ...
def nothing(): ...


class Model:
    def fit(self, x, y=2): ...

    def __call__(self, x, y=2): ...


@functools.wraps(plain)
def wrapped(*args, **kwargs): ...


@pytest.mark.parametrize(
    ("function", "args", "kwargs", "bound"),
    [
        (plain, (1,), {}, {"a": 1, "b": 2, "c": 3}),
        (plain, (1, 5), {}, {"a": 1, "b": 5, "c": 3}),
        (plain, (1, 5, 6), {}, {"a": 1, "b": 5, "c": 6}),
        (plain, (), {"c": 6, "a": 1, "b": 5}, {"a": 1, "b": 5, "c": 6}),
        (plain, (1,), {"c": 6}, {"a": 1, "b": 2, "c": 6}),
        (wrapped, (1,), {"b": 4}, {"a": 1, "b": 4, "c": 3}),
        (only, (1, 2), {}, {"a": 1, "b": 2, "c": 3}),
        (only, (1,), {"b": 2, "c": 4}, {"a": 1, "b": 2, "c": 4}),
        (rest, (1,), {}, {"a": 1, "c": 3}),
        (rest, (1, 2, 3), {"c": 4}, {"a": 1, "args": (2, 3), "c": 4}),
        (keywords, (1,), {"z": 1, "y": 2}, {"a": 1, "b": 2, "y": 2, "z": 1}),
        (keywords, (1,), {"a": 9}, {"a": 1, "b": 2, "**a": 9}),
        (everything, (1, 2, 3, 4), {"d": 5, "f": 6}, {"a": 1, "b": 2, "c": 3, "args": (4,), "d": 5, "e": 5, "f": 6}),
        (nothing, (), {}, {}),
        (Model().fit, (1,), {}, {"x": 1, "y": 2}),
        (Model(), (), {"x": 1}, {"x": 1, "y": 2}),
        (functools.partial(plain, 1), (5,), {}, {"b": 5, "c": 3}),
        (max, (1, 2), {}, {"0": 1, "1": 2}),
        (dict, (), {"b": 1, "a": 2}, {"a": 2, "b": 1}),
    ],
)  # fmt: skip
def test_bound(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], bound: dict[str, Any]) -> None:
    for _ in range(2):
        found = bind_arguments(function, args, kwargs)
        assert found == bound
        assert list(found) == list(bound)


def test_all_forms_of_a_call_are_equal() -> None:
    values = {"a": 1, "b": 2, "c": 3}
    found = []
    for count in range(4):
        for order in itertools.permutations(list(values)[count:]):
            args = tuple(values.values())[:count]
            found.append(list(bind_arguments(plain, args, {name: values[name] for name in order}).items()))
    assert all(one == [("a", 1), ("b", 2), ("c", 3)] for one in found)


@pytest.mark.parametrize("function", [plain, only, rest, keywords, everything, nothing])
@given(
    args=st.lists(st.integers(), max_size=6),
    kwargs=st.dictionaries(st.sampled_from("abcdefg"), st.integers()),
)
def test_as_inspect_binds(function: Any, args: list[int], kwargs: dict[str, int]) -> None:
    signature = inspect.signature(function)
    try:
        expected = signature.bind(*args, **kwargs)
    except TypeError:
        with pytest.raises(TypeError):
            bind_arguments(function, tuple(args), kwargs)
        return
    expected.apply_defaults()
    found = bind_arguments(function, tuple(args), kwargs)
    extra = expected.arguments.pop("kwargs", {})
    if not expected.arguments.get("args", True):
        del expected.arguments["args"]
    assert {name: found[name] for name in expected.arguments} == expected.arguments
    others = {
        name.removeprefix("**"): value for name, value in found.items() if name not in expected.arguments
    }
    assert others == extra


def test_a_call_that_is_not_taken() -> None:
    for args, kwargs in (((), {}), ((1, 2, 3, 4), {}), ((1,), {"a": 2}), ((1,), {"z": 2})):
        with pytest.raises(TypeError, match="argument"):
            bind_arguments(plain, args, kwargs)


def test_defaults_are_those_of_the_function_now() -> None:
    def function(a, b=[]):  # noqa: B006
        return a

    assert bind_arguments(function, (1,), {})["b"] is function.__defaults__[0]


def test_unknown_parameters() -> None:
    assert unknown_parameters(plain, ["a", "d", "c", "e"]) == ["d", "e"]
    assert unknown_parameters(wrapped, ["a", "args"]) == ["args"]
    assert unknown_parameters(keywords, ["anything"]) == []
    assert unknown_parameters(max, ["anything"]) == []
