"""Properties of digests, and values that mean harm."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import dataclasses
import datetime
import decimal
import enum
import json
import os
import pickle
import queue
import random
import re
import socket
import subprocess
import sys
import threading
import types
import weakref
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from weft_interfaces import InputError
from weft_memo import UnknownTypeError, digest, digest_argument, id_for_memo


def values(nan: bool = True) -> Any:
    """Values of built-in types, nested."""
    atoms = (
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=nan)
        | st.complex_numbers(allow_nan=nan)
        | st.text(st.characters())
        | st.binary()
        | st.datetimes(timezones=st.none() | st.just(datetime.timezone.utc))
        | st.decimals(allow_nan=False)
        | st.fractions()
        | st.uuids()
    )
    hashable = st.recursive(
        atoms,
        lambda inner: st.lists(inner, max_size=3).map(tuple) | st.frozensets(inner, max_size=3),
        max_leaves=4,
    )
    return st.recursive(
        hashable,
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(hashable, inner, max_size=4)
            | st.tuples(inner, inner)
            | st.sets(hashable, max_size=4)
        ),
        max_leaves=8,
    )


def rebuilt(value: Any, rng: random.Random) -> Any:
    """Equal, of new objects, with unordered items put in another order."""
    if type(value) in (list, tuple):
        return type(value)(rebuilt(item, rng) for item in value)
    if type(value) in (set, frozenset):
        items = list(value)
        rng.shuffle(items)
        return type(value)(items)
    if type(value) is dict:
        items = list(value.items())
        rng.shuffle(items)
        return {key: rebuilt(item, rng) for key, item in items}
    return copy.deepcopy(value)


def mutations(value: Any) -> Iterator[Any]:
    """Values that differ from this one in one place."""
    if type(value) in (list, tuple):
        yield type(value)((*value, None))
        yield (tuple if type(value) is list else list)(value)
        for at, item in enumerate(value):
            yield type(value)((*value[:at], *value[at + 1 :]))
            for other in mutations(item):
                yield type(value)((*value[:at], other, *value[at + 1 :]))
    elif type(value) is dict:
        yield list(value.items())
        for key, item in value.items():
            yield {one: value[one] for one in value if one is not key}
            for other in mutations(item):
                yield {**value, key: other}
    elif type(value) in (set, frozenset):
        yield list(value)
        yield value | {"another item"}
    elif type(value) is int:
        yield from (value + 1, -value - 1, str(value), value ^ (1 << 70))
    elif type(value) is str:
        yield from (value + "x", value.encode("utf-8", "surrogatepass"))
    elif type(value) is bytes:
        yield from (value + b"\0", bytearray(value))
    elif type(value) is datetime.datetime:
        yield value.replace(fold=1 - value.fold)
        yield value.replace(tzinfo=datetime.timezone.utc if value.tzinfo is None else None)
    else:
        yield [value]
        yield (value,)


@given(values(), st.randoms(use_true_random=False))
def test_equal_values_built_differently_have_equal_digests(value: Any, rng: random.Random) -> None:
    expected = digest(value)
    assert digest(rebuilt(value, rng)) == expected
    assert digest(copy.deepcopy(value)) == expected
    assert digest(pickle.loads(pickle.dumps(value))) == expected


@given(values())
def test_values_that_differ_in_one_place_have_different_digests(value: Any) -> None:
    expected = digest(value)
    for other in mutations(value):
        assert digest(other) != expected, f"{value!r} and {other!r}"


@given(values(nan=False), values(nan=False))
def test_only_equal_values_have_equal_digests(one: Any, other: Any) -> None:
    if digest(one) == digest(other):
        assert type(one) is type(other)
        assert one == other


DTYPES = ("i1", "u2", "i4", "f8", ">f4", "c16", "?", "S3", "U2", "M8[s]", "i4,f8")


@settings(max_examples=40)
@given(st.data())
def test_arrays_do_not_depend_on_their_layout(data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.integers(0, 5), max_size=4)))
    dtype = data.draw(st.sampled_from(DTYPES))
    array = np.zeros(shape, dtype)
    flat = array.reshape(-1).view(np.uint8) if array.size else None
    if flat is not None:
        flat[:] = np.arange(flat.size) % 2
    expected = digest(array)
    order = data.draw(st.permutations(range(array.ndim)))
    reverse = (slice(None, None, -1),) * array.ndim
    layouts = [
        np.asfortranarray(array) if array.ndim else array.copy(),
        np.array(array.transpose(order)).transpose(np.argsort(order).astype(int)),
        array[reverse].copy()[reverse] if array.ndim else array,
        np.repeat(array, 2, axis=0)[::2] if array.ndim else array,
    ]
    for other in layouts:
        assert digest(other) == expected
    assert digest(array.tolist()) != expected
    if array.size:
        changed = array.copy()
        changed.reshape(-1).view(np.uint8)[-1] ^= 1
        assert digest(changed) != expected
    assert digest(array[np.newaxis]) != expected


@pytest.mark.parametrize("size", [1, 60, 129, 1 << 20, (1 << 20) + 1, 40_000_000])
def test_large_arrays_are_read_in_parts_and_by_threads_with_the_same_result(size: int) -> None:
    array = np.arange(size, dtype=np.uint8).reshape(1, size)
    wide = np.repeat(array, 2, axis=0)
    assert digest(wide[::2]) == digest(array) == digest(np.asfortranarray(wide)[1:])


# -- other processes -----------------------------------------------------------------------------------------

PROGRAM = """
import json, sys, dataclasses, enum, collections
from weft_memo import digest

class Colour(enum.Enum):
    RED = "red"

@dataclasses.dataclass(frozen=True)
class Model:
    name: str
    tags: frozenset

class Plain:
    pass

plain = Plain()
plain.tags = {"x", "y", "z"}
plain.other = {Colour.RED: plain}
values = [
    set("abcdefghij"), {c: {d for d in "xyz"} for c in "hash"}, Model("a", frozenset("abc")), Colour.RED,
    plain, {Model("a", frozenset("abc")), Model("b", frozenset())}, collections.Counter("hello"),
]
print(json.dumps([digest(value).hex() for value in values]))
"""


def test_hash_seeds_and_processes_make_no_difference(tmp_path: Any) -> None:
    (tmp_path / "script.py").write_text(PROGRAM)
    outputs = set()
    for seed in ("0", "1", "2", "random"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        argv = [sys.executable, str(tmp_path / "script.py")]
        outputs.add(subprocess.run(argv, env=environment, capture_output=True, check=True).stdout)
    # Imported, the script's classes are those of a module of its name.
    code = "import sys; sys.path.insert(0, sys.argv[1]); import script"
    argv = [sys.executable, "-c", code, str(tmp_path)]
    outputs.add(subprocess.run(argv, capture_output=True, check=True).stdout)
    assert len(outputs) == 1
    assert len(set(json.loads(outputs.pop()))) == 7


# -- depth, sharing, cycles ----------------------------------------------------------------------------------


def nested(depth: int, inner: Any = ()) -> Any:
    for _ in range(depth):
        inner = [inner]
    return inner


def test_depth_far_beyond_the_recursion_limit() -> None:
    deep = nested(100_000)
    found = digest(deep)
    assert found == digest(nested(100_000))
    assert found != digest(nested(99_999))


def test_depth_is_no_matter_of_how_it_is_walked() -> None:
    for depth in (1, 40, 58, 59, 60, 61, 62, 63, 200):
        value = {"wide": [1, 2], "deep": nested(depth, "x" * 200)}
        assert digest(value) == digest(json.loads(json.dumps(value))), depth
    leaves = [nested(depth, {"k": {1, 2}}) for depth in range(80)]
    alone = [digest([leaf, None]) for leaf in leaves]
    assert len(set(alone)) == len(leaves)
    for leaf, expected in zip(leaves, alone, strict=True):
        # A sibling that is very deep sends the whole value another way.
        assert digest((leaf, nested(300))) != expected
        assert digest([[leaf, None], nested(300)]) == digest([[copy.deepcopy(leaf), None], nested(300)])


def test_little_stack_left() -> None:
    value = {"a": [{"b": [1, (2, {3})]}] * 3, "x": nested(50)}
    expected = digest(value)

    def low(depth: int) -> bytes:
        return digest(value) if depth == 0 else low(depth - 1)

    room = sys.getrecursionlimit() - len(list(iter_frames()))
    for left in range(60, 300, 20):
        assert low(room - left) == expected


def iter_frames() -> Iterator[types.FrameType]:
    frame: types.FrameType | None = sys._getframe()
    while frame is not None:
        yield frame
        frame = frame.f_back


@pytest.mark.timeout(20)
def test_sharing_is_not_counted_out() -> None:
    pair: Any = ["leaf"]
    for _ in range(60):
        pair = [pair, pair]
    assert digest(pair) == digest(copy.deepcopy(pair))
    keyed: Any = {"leaf": 1}
    for _ in range(60):
        keyed = {"a": keyed, "b": (keyed, keyed)}
    assert digest(keyed) == digest(copy.deepcopy(keyed))
    assert digest(keyed) != digest(pair)
    for _ in range(60):
        pair = (pair, nested(70, pair))
    assert digest(pair) == digest(copy.deepcopy(pair))


class Node:
    def __init__(self, name: Any) -> None:
        self.name = name
        self.links: Any = []


def ring(names: Any) -> Any:
    nodes = [Node(name) for name in names]
    for one, other in zip(nodes, nodes[1:] + nodes[:1], strict=True):
        one.links = [other]
    return nodes[0]


def test_cycles_are_equal_if_nothing_that_can_be_reached_differs() -> None:
    assert digest(ring("abc")) == digest(ring("abc"))
    assert digest(ring("abc")) == digest(ring("abcabc"))
    assert digest(ring("abc")) != digest(ring("abd"))
    assert digest(ring("abc")) != digest(ring("bca"))
    assert digest(ring("abc")) == digest(ring("bca").links[0].links[0])
    assert digest(ring("aab")) != digest(ring("aaab"))
    assert digest(ring("a" * 30 + "b")) != digest(ring("a" * 31 + "b"))
    one = ring("abc")
    assert digest([one, one.links[0]]) == digest([ring("abc"), ring("bca")])
    assert digest({"x": one}) == digest({"x": copy.deepcopy(one)})


@pytest.mark.timeout(20)
def test_entangled_graphs_take_time_in_proportion_to_their_size() -> None:
    rng = random.Random(3)
    nodes = [Node(number % 7) for number in range(1_000)]
    for node in nodes:
        node.links = rng.sample(nodes, 5)
    copied = copy.deepcopy(nodes) if sys.getrecursionlimit() > 10_000 else pickled_flat(nodes)
    assert digest(nodes) == digest(copied)
    copied[500].name = "changed"
    assert digest(nodes) != digest(copied)


def pickled_flat(nodes: list[Node]) -> list[Node]:
    """A copy of nodes, without recursion."""
    copies = {id(node): Node(node.name) for node in nodes}
    for node in nodes:
        copies[id(node)].links = [copies[id(link)] for link in node.links]
    return [copies[id(node)] for node in nodes]


def test_sets_of_parts_of_cycles_have_no_order() -> None:
    def web(order: list[int]) -> list[Node]:
        nodes = [Node(number) for number in range(10)]
        for node in nodes:
            node.links = {nodes[at] for at in order if at != node.name}
        return nodes

    assert digest(web(list(range(10)))[3]) == digest(web([5, 3, 9, 0, 1, 2, 4, 8, 7, 6])[3])
    assert digest(web(list(range(10)))[3]) != digest(web(list(range(10)))[4])
    assert digest(web(list(range(9)))[3]) != digest(web(list(range(10)))[3])


# -- hostile instances ---------------------------------------------------------------------------------------


class Angry:
    """Raises for whatever it is asked."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def anger(self, *_: Any) -> Any:
        raise RuntimeError("do not ask")

    __eq__ = __hash__ = __repr__ = __str__ = __bool__ = __len__ = __iter__ = anger  # type: ignore[assignment]


class Liar:
    def __init__(self, value: Any) -> None:
        self.value = value

    @property
    def __class__(self) -> Any:
        return int


class Overridden(dict):  # type: ignore[type-arg]
    def items(self) -> Any:
        return [("fake", 1)]

    def __iter__(self) -> Any:
        return iter(["fake"])

    def __len__(self) -> int:
        return 1


def test_hostile_instances_are_hashed_by_their_state() -> None:
    assert digest(Angry(1)) == digest(Angry(1)) != digest(Angry(2))
    assert digest(Liar(1)) == digest(Liar(1)) != digest(Liar(2))
    assert digest(Liar(1)) != digest(1)
    assert digest(Overridden(a=1)) == digest(Overridden(a=1)) != digest(Overridden(a=2))
    assert digest(Overridden(a=1)) != digest({"a": 1})


def test_huge_and_strange_atoms() -> None:
    values = [10**10_000, -(10**10_000), "\ud800", "\udfff", "\ud800\udc00", "x" * 10_000_000, float("-nan")]
    assert len({digest(value) for value in values}) == len(values)


def looping() -> Any:
    value: Any = {}
    value["self"] = [value]
    return value


class Returns:
    def __init__(self, result: Any) -> None:
        self.result = result

    def __weft_memo__(self) -> Any:
        return self.result(self)


def fails(_: Any) -> Any:
    raise KeyError("no such thing")


class Missing:
    __slots__ = ("absent", "lock")

    def __init__(self) -> None:
        self.lock = threading.Lock()


class Refusing:
    __weft_memo__ = None


class NeverPickled:
    def __reduce__(self) -> Any:
        raise OSError("disk on fire")


class SelfReducing:
    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.__reduce_ex__(protocol)


async def coroutine() -> None:
    """Never awaited."""


@contextlib.contextmanager
def unclosed() -> Iterator[list[tuple[Any, str]]]:
    with contextlib.ExitStack() as stack:
        waiting = stack.enter_context(contextlib.closing(coroutine()))
        file = stack.enter_context(open(os.devnull))
        connection = stack.enter_context(socket.socket())
        pool = stack.enter_context(ThreadPoolExecutor(1))
        yield [
            (object(), "builtins.object"),
            (threading.Lock(), "lock"),
            (threading.RLock(), "RLock"),
            (threading.Thread(), "threading.Thread"),
            (queue.Queue(), "lock"),
            (file, "TextIOWrapper"),
            (connection, "socket"),
            (pool, "ThreadPoolExecutor"),
            (Future(), "concurrent.futures"),
            (iter([1]), "list_iterator"),
            (zip([1], [2], strict=True), "zip"),
            ((x for x in [1]), "generator"),
            (waiting, "coroutine"),
            (weakref.ref(Node), "ReferenceType"),
            (sys._getframe(), "frame"),
            (Refusing(), "Refusing"),
            (NeverPickled(), "disk on fire"),
            (SelfReducing(), "SelfReducing"),
            (Returns(fails), "KeyError"),
            (Returns(lambda value: value), "returned the value itself"),
            (Returns(lambda value: Returns(value.result)), "nested more than"),
            (Returns(lambda value: [threading.Lock()]), "lock"),
            (re.match("a", "a"), "Match"),
        ]


def test_what_has_no_content_is_refused_by_name() -> None:
    with unclosed() as cases:
        for value, words in cases:
            with pytest.raises(UnknownTypeError, match="unknown type for memoization") as caught:
                digest(value)
            assert words in str(caught.value), words
            for remedy in ("id_for_memo.register", "__weft_memo__", "ignore_for_memo"):
                assert remedy in str(caught.value)


def test_an_asyncio_future_is_refused() -> None:
    async def ask() -> str:
        with pytest.raises(UnknownTypeError) as caught:
            digest(asyncio.get_running_loop().create_future())
        return str(caught.value)

    assert "pass its value" in asyncio.run(ask())


@dataclasses.dataclass
class Config:
    model: Any


def test_the_path_to_the_cause() -> None:
    lock = threading.Lock()
    holder = types.SimpleNamespace(lock=lock)
    for value, path in [
        (lock, ""),
        ([1, lock], "[1]"),
        ({"model": holder}, "['model'].lock"),
        ({"a": (0, {5: Config([Missing()])})}, "['a'][1][5].model[0].lock"),
        ({(1, 2): lock}, "[<tuple>]"),
        ({lock: 1}, "{key <lock>}"),
        ({lock}, "{...}"),
        (nested(3, lock), "[0][0][0]"),
        (np.array([1, lock], dtype=object), "[1]"),
        (queue.Queue(), ".mutex"),
    ]:
        with pytest.raises(UnknownTypeError) as caught:
            digest(value)
        assert caught.value.path == path
        assert (f" at {path}" if path else "lock") in str(caught.value)
    with pytest.raises(UnknownTypeError, match=r"lock at config\['model'\]\.lock"):
        digest_argument({"model": holder}, set(), "config")
    with pytest.raises(UnknownTypeError, match=r"at \[0\]\[0\].*\.\.\..*\[0\]"):
        digest(nested(100_000, lock))


def test_the_error_is_a_wrong_input_and_survives_pickling() -> None:
    error = UnknownTypeError("app.Model", "config['model']", "no reason")
    assert isinstance(error, InputError)
    assert isinstance(error, ValueError)
    copied = pickle.loads(pickle.dumps(error))
    assert (str(copied), copied.path, copied.type_name) == (str(error), error.path, "app.Model")


# -- what users say ------------------------------------------------------------------------------------------


class Base:
    def __init__(self, matters: Any, cache: Any = None) -> None:
        self.matters, self.cache = matters, cache


class Derived(Base):
    pass


class WithMethod(Base):
    def __weft_memo__(self) -> Any:
        return {"method": self.matters}


def test_a_registered_function_decides() -> None:
    before = digest(Base(1, "x"))

    @id_for_memo.register(Base)
    def simpler(value: Base) -> Any:
        return [value.matters]

    assert digest(Base(1, "x")) == digest(Base(1, "y")) != before
    assert digest(Derived(1, "x")) == digest(Derived(1, "y"))
    assert digest(Derived(1)) != digest(Base(1)), "the class counts"
    assert digest(WithMethod(1, "x")) == digest(WithMethod(1, "y"))
    assert digest(Base([Base(1, "x")])) == digest(Base([Base(1, "y")]))

    @id_for_memo.register
    def bytes_of(value: WithMethod) -> bytes:
        return b"all the same"

    assert digest(WithMethod(1)) == digest(WithMethod(2))
    assert id_for_memo([1]) == digest([1])


def test_what_is_hashed_by_what_it_is_cannot_be_registered() -> None:
    for kind in (int, list, dict, str):
        with pytest.raises(TypeError, match="hashed by what they are"):
            id_for_memo.register(kind, repr)
    assert digest([1]) == digest([1])


class Abstract(enum.Enum):
    ONE = object()
    OTHER = object()  # noqa: PIE796


def test_members_without_content_are_hashed_by_name() -> None:
    assert digest(Abstract.ONE) == digest(copy.copy(Abstract.ONE)) != digest(Abstract.OTHER)


# -- classes of arguments ------------------------------------------------------------------------------------


def test_classes_of_the_users_are_told() -> None:
    seen: set[type] = set()
    value = {
        "a": [Config(Derived(1))],
        "b": decimal.Decimal(1),
        "c": np.array([Node(1)], dtype=object),
        "d": {},
    }
    assert digest_argument(value, seen) == digest(value)
    assert seen == {Config, Derived, Node}
    for plain in (1, [1], {"a": datetime.date(2020, 1, 1)}, np.ones(3)):
        found: set[type] = set()
        digest_argument(plain, found)
        assert found == set()
    seen = set()
    digest_argument(nested(300, [Config(1), Abstract.ONE]), seen)
    assert seen == {Config, Abstract}


# -- threads -------------------------------------------------------------------------------------------------


def test_threads_may_hash_at_once() -> None:
    kinds = [type(f"Made{number}", (Base,), {}) for number in range(50)]
    values = [[kind(number), {"x": np.arange(2_000_000)}] for number, kind in enumerate(kinds[:4])]
    values += [[kind(number), nested(100)] for number, kind in enumerate(kinds)]
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: [digest(value) for value in values], range(8)))
    assert all(result == results[0] for result in results)
    assert len(set(results[0])) == len(values)
