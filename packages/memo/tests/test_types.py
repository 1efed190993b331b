"""Every type of the README's table: equal values have equal digests, all others have others.

``WEFT_REWRITE=1 hatch run pytest packages/memo/tests/test_types.py`` writes the table into the README, and
the digests of cases that are new into digests.json. A digest that is there never changes: it is the format.
"""

from __future__ import annotations

import array
import collections
import copy
import dataclasses
import datetime
import decimal
import enum
import fractions
import functools
import io
import ipaddress
import json
import operator
import os
import pathlib
import pickle
import random
import re
import struct
import sys
import types
import typing
import uuid
import zoneinfo
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from weft_memo import digest, id_for_memo

HERE = Path(__file__).parent
README = HERE.parent / "README.md"
DIGESTS = HERE / "digests.json"
REWRITE = bool(os.environ.get("WEFT_REWRITE"))
UTC = datetime.timezone.utc
HOUR = datetime.timezone(datetime.timedelta(hours=1))

NOON = datetime.datetime(2020, 1, 2, 12, tzinfo=UTC)

APP = sys.modules["memo_app"] = types.ModuleType("memo_app")


def named(cls: Any) -> Any:
    """In a module of a fixed name, whatever pytest calls this one."""
    cls.__module__ = APP.__name__
    setattr(APP, cls.__name__, cls)
    return cls


@named
@dataclasses.dataclass
class Model:
    name: str
    size: Any = 3


@named
@dataclasses.dataclass(frozen=True, slots=True)
class Frozen:
    name: str
    size: Any = 3


class Point(typing.NamedTuple):
    x: Any
    y: Any


named(Point)
Pair = named(collections.namedtuple("Pair", "x y"))


@named
class Colour(enum.Enum):
    RED = 1
    GREEN = 2


@named
class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


@named
class Mode(enum.Flag):
    READ = 1
    WRITE = 2


@named
class Text(str):
    __slots__ = ()


@named
class Numbers(list):
    pass


@named
class Quantity(np.ndarray):
    unit = "m"


def with_unit(value: Any) -> Any:
    value.unit = "s"
    return value


@named
class Plain:
    def __init__(self, **attributes: Any) -> None:
        self.__dict__.update(attributes)


@named
class Slotted:
    __slots__ = ("_x", "y")

    def __init__(self, x: Any, y: Any) -> None:
        self._x, self.y = x, y


@named
class Chosen:
    """Only what matters counts."""

    def __init__(self, matters: Any, cache: Any) -> None:
        self.matters, self.cache = matters, cache

    def __weft_memo__(self) -> Any:
        return self.matters


@named
class Rebuilt:
    def __init__(self, url: str) -> None:
        self.url, self.connection = url, object()

    def __reduce__(self) -> Any:
        return Rebuilt, (self.url,)


@named
class Registered:
    def __init__(self, matters: Any, cache: Any) -> None:
        self.matters, self.cache = matters, cache


@id_for_memo.register(Registered)
def _registered(value: Registered) -> bytes:
    return repr(value.matters).encode()


@named
class FailedError(Exception):
    def __init__(self, message: str, code: int) -> None:
        super().__init__(message, code)
        self.code = code


def helper(x: float) -> float:
    return x + 1


def other_helper(x: float) -> float:
    return x + 2


def nan(payload: int) -> float:
    return float(struct.unpack("<d", struct.pack("<Q", 0x7FF8_0000_0000_0000 | payload))[0])


def cyclic(*items: Any) -> list[Any]:
    value = [*items]
    value.append(value)
    return value


def with_caught(error: Exception) -> Exception:
    try:
        raise error
    except Exception as caught:
        return caught


def python_lists() -> list[list[Any]]:
    part = [1, [2]]
    return [
        [[]],
        [[part, part], [[1, [2]], [1, [2]]]],
        [()],
        [(1,)],
        [[1]],
        [[1, 2]],
        [[[1], 2]],
        [list(range(1000))],
        [cyclic(1), [1, cyclic(1)][1], copy.deepcopy(cyclic(1))],
        [cyclic(2)],
    ]


def arrays() -> list[list[Any]]:
    a = np.arange(12.0).reshape(3, 4)
    record = np.array([(1, 2.0), (3, 4.0)], dtype=[("a", "i4"), ("b", "f8")])
    big = np.arange(600_000.0).reshape(600, 1000)
    return [
        [a, np.asfortranarray(a), a[::-1][::-1], np.repeat(a, 2, axis=1)[:, ::2], a.T.copy().T, pickled(a)],
        [a.T],
        [a[:2]],
        [a.reshape(4, 3)],
        [a.astype("f4")],
        [a.astype(">f8")],
        [a.astype("i8")],
        [a.astype(complex)],
        [a[:0]],
        [a[:, :0]],
        [np.array(3.0), a[0, 3:].reshape(())],
        [np.array([3.0])],
        [np.float64(3)],
        [np.float32(3)],
        [np.int64(3)],
        [np.bool_(True)],
        [np.str_("a")],
        [np.bytes_(b"a")],
        [np.datetime64("2020-01-01")],
        [np.datetime64("2020-01-01", "s")],
        [np.timedelta64(1, "D")],
        [np.array(["2020-01-01"], dtype="M8[D]")],
        [np.array(["a", "b"])],
        [np.array([b"a", b"b"])],
        [np.array(["a", [1], None], dtype=object), pickled(np.array(["a", [1], None], dtype=object))],
        [np.array(["a", [2], None], dtype=object)],
        [record, record.copy(), np.repeat(record, 2)[::2]],
        [record["a"]],
        [record.view(np.recarray)],
        [record[0]],
        [np.ma.array([1, 2, 3], mask=[0, 1, 0]), np.ma.array([1, 7, 3], mask=[0, 1, 0])],
        [np.ma.array([1, 2, 3], mask=[0, 0, 1])],
        [np.array([1, 2, 3])],
        [np.dtype("f8")],
        [np.dtype(">f8")],
        [np.dtype([("a", "i4")])],
        [big, np.asfortranarray(big), big[::-1].copy()[::-1]],
        [big[::-1]],
        [np.random.default_rng(3), pickled(np.random.default_rng(3))],
        [np.random.default_rng(4)],
        [np.array([1.0]).view(Quantity), pickled(np.array([1.0]).view(Quantity))],
        [with_unit(np.array([1.0]).view(Quantity))],
        [np.sin],
        [np.cos],
    ]


def pickled(value: Any) -> Any:
    return pickle.loads(pickle.dumps(value))


def pandas_values() -> list[list[Any]]:
    import pandas as pd

    frame = pd.DataFrame({"a": [1, 2, 3], "b": ["x", "y", None], "c": [0.5, np.nan, 2.0]})
    blocks = pd.DataFrame(index=range(3))
    for name in frame.columns:
        blocks[name] = frame[name]
    blocks.index = frame.index
    masked = pd.array([1, None, 3], dtype="Int64")
    filled = masked.copy()
    filled[1] = 9
    filled[1] = None
    stamp = pd.Timestamp("2020-01-01 12:00")
    index = pd.date_range("2020-01-01", periods=3)
    multi = pd.MultiIndex.from_tuples([("a", 1), ("b", 2)], names=["x", "y"])
    return [
        [frame, frame.copy(), blocks, pickled(frame), frame.iloc[::-1].iloc[::-1]],
        [frame.rename(columns={"a": "z"})],
        [frame[["b", "a", "c"]]],
        [frame.set_axis([1, 2, 3])],
        [frame.astype({"a": "int32"})],
        [frame.iloc[:2]],
        [frame.iloc[:0]],
        [frame["a"], blocks["a"]],
        [frame["a"].rename("q")],
        [frame["a"].astype("Int64")],
        [frame["b"].astype("string[python]"), frame["b"].astype("string[python]").copy()],
        [frame["b"].astype("category"), frame["b"].copy().astype("category")],
        [pd.Categorical(["x", "y"]), pickled(pd.Categorical(["x", "y"]))],
        [pd.Categorical(["x", "y"], ordered=True)],
        [pd.Categorical(["x", "y"], categories=["x", "y", "z"])],
        [masked, filled],
        [pd.array([1, 0, 3], dtype="Int64")],
        [pd.array([True, None], dtype="boolean")],
        [pd.Series([0.5, None], dtype="double[pyarrow]")],
        [pd.arrays.SparseArray([0, 0, 1])],
        [index, pickled(index)],
        [index.tz_localize("UTC")],
        [index.tz_localize("Europe/Paris")],
        [pd.timedelta_range("1h", periods=2)],
        [pd.period_range("2020-01", periods=2, freq="M")],
        [pd.interval_range(0, 3)],
        [pd.RangeIndex(3)],
        [pd.Index([0, 1, 2])],
        [multi, pd.MultiIndex.from_product([["b", "a", "c"], [2, 1]], names=["x", "y"])[[3, 0]]],
        [multi.set_names(["x", "z"])],
        [stamp, pickled(stamp)],
        [stamp.tz_localize("UTC")],
        [stamp.to_pydatetime()],
        [pd.Timedelta("1h")],
        [pd.Period("2020-01")],
        [pd.Interval(0, 1)],
        [pd.Interval(0, 1, closed="both")],
        [pd.NaT],
        [pd.NA],
        [pd.CategoricalDtype(["a"])],
        [pd.DatetimeTZDtype("ns", "UTC")],
        [pd.offsets.Day(2)],
    ]


def polars_values() -> list[list[Any]]:
    import polars as pl

    frame = pl.DataFrame({"a": [1, 2, None], "b": ["x", None, "z"], "c": [0.5, 1.5, 2.5]})
    chunks = pl.concat([frame[:1], frame[1:]], rechunk=False)
    when = datetime.datetime(2020, 1, 1)
    category = pl.Series("a", ["x", "y"], dtype=pl.Categorical)
    return [
        [frame, chunks, pickled(frame), frame.clone()],
        [frame.rename({"a": "z"})],
        [frame.select("b", "a", "c")],
        [frame[:2]],
        [frame["a"], chunks["a"]],
        [frame["a"].alias("q")],
        [frame["a"].fill_null(0)],
        [frame["a"].cast(pl.Int32)],
        [pl.Series("a", [[1], [2, 3], None])],
        [pl.Series("a", [{"x": 1, "y": "p"}, None])],
        [pl.Series("a", [True, None, False])],
        [pl.Series("a", [when])],
        [pl.Series("a", [when]).dt.replace_time_zone("UTC")],
        [pl.Series("a", [when.date()])],
        [category, pickled(category)],
        [pl.Series("a", ["x", "y"], dtype=pl.Enum(["x", "y"]))],
        [pl.Series("a", ["x", "y"], dtype=pl.Enum(["y", "x"]))],
        [pl.Series("a", ["x", "y"])],
        [pl.Series("a", [decimal.Decimal("1.5")])],
        [pl.Series("a", [b"x"])],
        [pl.Series("a", [], dtype=pl.Int8)],
        [pl.Enum(["x"])],
        [pl.List(pl.Int8())],
        [pl.Datetime("us")],
    ]


def arrow_values() -> list[list[Any]]:
    import pyarrow as pa

    table = pa.table({"a": [1, 2, None, 4], "b": ["x", None, "zz", ""], "c": [True, None, False, True]})
    chunked = pa.concat_tables([table[:1], table[1:3], table[3:]])
    long = pa.table(
        {"a": [0, 1, 2, None, 4], "b": ["q", "x", None, "zz", ""], "c": [None, True, None, False, True]}
    )
    hidden = pa.Array.from_buffers(
        pa.int64(), 2, [pa.py_buffer(b"\x01"), pa.py_buffer(struct.pack("<qq", 1, 99))]
    )
    words = pa.array(["z", "a", "b", "a"])
    nested = pa.array([[1, 2], None, [], [3]])
    return [
        [table, chunked, long[1:], table.combine_chunks(), pickled(chunked)],
        [table.select(["b", "a", "c"])],
        [table.rename_columns(["a", "b", "d"])],
        [table[:3]],
        [table.replace_schema_metadata({"k": "v"})],
        [table["a"], chunked["a"], long["a"][1:]],
        [pa.array([1, None]), hidden],
        [pa.array([1, 0])],
        [pa.array([1, None], pa.int32())],
        [pa.array([1.0, None])],
        [pa.array([1.0], pa.float32())],
        [nested, pa.array([[9], [1, 2], None, [], [3]])[1:]],
        [pa.array([[1], None, [2], [3]])],
        [pa.array([[1, 2], [3, 4]], pa.list_(pa.int64(), 2))],
        [pa.array([{"x": 1, "y": "a"}, None]), pa.array([{"x": 7, "y": ""}, {"x": 1, "y": "a"}, None])[1:]],
        [pa.array([{"x": 1, "y": "a"}, {"x": None, "y": None}])],
        [
            pa.array(["a", "b", "a"]).dictionary_encode(),
            pa.array(["z", "a", "b", "a"]).dictionary_encode()[1:],
        ],
        [pa.array(["a", "b", "a"]), words[1:]],
        [pa.array(["a", "b", "a"], pa.large_string())],
        [pa.array(["a", "b", "a"], pa.string_view())],
        [pa.array([b"a"])],
        [pa.array([b"a"], pa.binary(1))],
        [pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int64()))],
        [pa.array([decimal.Decimal("1.5")])],
        [pa.array([datetime.datetime(2020, 1, 1)])],
        [pa.array([datetime.datetime(2020, 1, 1)], pa.timestamp("s"))],
        [pa.array([datetime.date(2020, 1, 1)])],
        [pa.nulls(2)],
        [pa.nulls(3)],
        [table.to_batches()[0]],
        [pa.scalar(1)],
        [pa.scalar("a")],
        [table.schema],
        [table.schema.field("a")],
        [pa.int64()],
        [pa.list_(pa.int64())],
        [pa.py_buffer(b"abc")],
    ]


def sparse_values() -> list[list[Any]]:
    from scipy import sparse

    dense = np.array([[0, 1.0, 0], [2, 0, 3]])
    unsorted = sparse.csr_array(
        (np.array([1.0, 3, 2]), np.array([1, 2, 0]), np.array([0, 1, 3])), shape=(2, 3)
    )
    twice = sparse.coo_array((np.array([0.5, 0.5, 2, 3]), ([0, 0, 1, 1], [1, 1, 0, 2])), shape=(2, 3))
    return [
        [sparse.csr_array(dense), unsorted, twice.tocsr(), pickled(unsorted)],
        [sparse.csr_matrix(dense)],
        [sparse.csc_array(dense)],
        [sparse.coo_array(dense), twice],
        [sparse.lil_array(dense)],
        [sparse.dok_array(dense)],
        [sparse.dia_array(dense)],
        [sparse.bsr_array(dense)],
        [sparse.csr_array(dense.astype("f4"))],
        [sparse.csr_array(dense * 2)],
        [sparse.csr_array(dense[:, :2])],
    ]


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of the table. ``make`` gives groups: values of one group are equal, those of two are not."""

    name: str
    types: str
    counts: str
    make: Callable[[], list[list[Any]]]
    once: bool = False  # needs what only some environments have
    frozen: bool = True  # the digests are recorded


ROWS = (
    Row(
        "numbers",
        "`None`, `bool`, `int`, `float`, `complex`, `...`, `NotImplemented`",
        "type and value, floats bit by bit: `1`, `1.0` and `True` are three; so are `0.0` and `-0.0`, and "
        "NaNs of "
        "different payloads",
        lambda: [
            *(
                [None],
                [True],
                [False],
                [0],
                [1],
                [-1],
                [2**64, int("1" + "0" * 64, 2)],
                [-(2**64)],
                [10**1000],
            ),
            *(
                [0.0],
                [-0.0],
                [1.0],
                [0.1 + 0.2],
                [0.3],
                [float("inf")],
                [nan(0)],
                [nan(1)],
                [1j],
                [-0.0 - 1j],
            ),
            *([...], [NotImplemented], [127], [128], [-128], [-129], [255], [256], [10**1000 + 1]),
        ],
    ),
    Row(
        "text",
        "`str`, `bytes`, `bytearray`, `memoryview`, `array.array`, `io.BytesIO`, `io.StringIO`",
        "type and content; of views and arrays format and shape, too; of buffers the position",
        lambda: [
            *([""], ["a", "".join(["a"])], ["ab"], ["\ud800"], ["é"], ["e\u0301"], ["x" * 500], ["x" * 501]),
            *([b""], [b"a"], [b"x" * 500], [bytearray(b"a")], [bytearray(b"")]),
            [memoryview(b"a"), memoryview(b"bab")[1:2], memoryview(b"axb")[::3]],
            [memoryview(b"abcd").cast("I")],
            *([array.array("d", [1.0])], [array.array("f", [1.0])], [array.array("q", [1])]),
            *([io.BytesIO(b"a")], [io.StringIO("a")], [io.BytesIO(b"b")]),
        ],
    ),
    Row(
        "containers",
        "`tuple`, `list`, nested in any way, to any depth, with cycles",
        "type, items and their order; not which of them are one object",
        python_lists,
    ),
    Row(
        "unordered",
        "`dict`, `set`, `frozenset`, `collections.Counter`, `types.MappingProxyType`, views of a `dict`",
        "type and items, in any order",
        lambda: [
            *([{}], [set()], [frozenset()]),
            [{"a": 1, "b": [2]}, {"b": [2], "a": 1}],
            *([{"a": [2], "b": 1}], [{"a": 1}], [{1: "a"}], [{True: "a"}], [{1.0: "a"}]),
            [set("abcdefgh"), set("hgfedcba")],
            *([frozenset("abcdefgh")], [{1, 2}], [{(1, 2)}], [{1.0, 2}]),
            [collections.Counter("aab"), collections.Counter("baa")],
            [types.MappingProxyType({"a": 1, "b": 2}), types.MappingProxyType({"b": 2, "a": 1})],
            *([{"a": 1}.keys()], [{"a": 1}.values()], [{"a": 1}.items()]),
        ],
    ),
    Row(
        "collections",
        "`collections.OrderedDict`, `deque`, `defaultdict`, `ChainMap`, `UserDict`, `UserList`; `range`, "
        "`slice`",
        "content; of an `OrderedDict` the order, of a `deque` its bound, of a `defaultdict` its factory",
        lambda: [
            [collections.OrderedDict(a=1, b=2), moved(collections.OrderedDict(b=2, a=1))],
            *(
                [collections.OrderedDict(b=2, a=1)],
                [collections.deque([1, 2])],
                [collections.deque([1, 2], 3)],
            ),
            *([collections.defaultdict(list, a=1)], [collections.defaultdict(set, a=1)]),
            *([collections.ChainMap({"a": 1}, {})], [collections.UserDict(a=1)], [collections.UserList([1])]),
            *([range(3)], [range(0, 3, 2)], [range(0, 4, 2)], [slice(3)], [slice(0, 3)], [slice("a", None)]),
        ],
    ),
    Row(
        "times",
        "`datetime.date`, `time`, `datetime`, `timedelta`, `timezone`; `zoneinfo.ZoneInfo`",
        "fields, `fold` and zone: an aware time differs from a naive one, and from the same instant "
        "elsewhere",
        lambda: [
            *(
                [datetime.date(2020, 1, 2)],
                [datetime.datetime(2020, 1, 2)],
                [datetime.datetime(2020, 1, 2, fold=1)],
            ),
            [
                datetime.datetime(2020, 1, 2, 12, tzinfo=UTC),
                pickled(datetime.datetime(2020, 1, 2, 12, tzinfo=UTC)),
            ],
            [datetime.datetime(2020, 1, 2, 13, tzinfo=HOUR)],
            [datetime.datetime(2020, 1, 2, 13, tzinfo=zoneinfo.ZoneInfo("Europe/Paris"))],
            *([datetime.time(1)], [datetime.time(1, tzinfo=UTC)], [datetime.time(1, fold=1)]),
            *([datetime.timedelta(1), datetime.timedelta(hours=24)], [datetime.timedelta(-1)]),
            *([UTC, datetime.timezone(datetime.timedelta())], [HOUR], [zoneinfo.ZoneInfo("UTC")]),
            [datetime.timezone(datetime.timedelta(hours=1), "CET")],
        ],
    ),
    Row(
        "exact",
        "`decimal.Decimal`, `fractions.Fraction`, `uuid.UUID`, `ipaddress`, `random.Random`, `re.Pattern`",
        "value (of a decimal with its zeros at the end), state, pattern and flags",
        lambda: [
            *(
                [decimal.Decimal("1.0")],
                [decimal.Decimal("1.00")],
                [decimal.Decimal("NaN")],
                [decimal.Decimal(1)],
            ),
            [fractions.Fraction(1, 2), fractions.Fraction(2, 4)],
            *([fractions.Fraction(1)], [uuid.UUID(int=1), pickled(uuid.UUID(int=1))], [uuid.UUID(int=2)]),
            *(
                [ipaddress.ip_address("1.2.3.4")],
                [ipaddress.ip_address("::1")],
                [ipaddress.ip_network("1.2.3.0/24")],
            ),
            *([random.Random(1), pickled(random.Random(1))], [random.Random(2)]),
            *(
                [re.compile("a")],
                [re.compile("a", re.IGNORECASE)],
                [re.compile(b"a")],
            ),
        ],
    ),
    Row(
        "paths",
        "`pathlib` paths, pure ones too",
        "kind and text; not what is at that place: pass a digest of the file, if its content counts",
        lambda: [
            *([pathlib.PurePosixPath("a/b"), pathlib.PurePosixPath("a//b/.")], [pathlib.PurePosixPath("b")]),
            *([pathlib.PureWindowsPath("a/b"), pathlib.PureWindowsPath("a\\b")], [pathlib.Path("a/b")]),
        ],
    ),
    Row(
        "dataclasses",
        "dataclasses, named tuples, `types.SimpleNamespace`",
        "name of the class, names and values of fields, also of those that do not take part in comparisons",
        lambda: [
            [Model("a"), Model("a", 3), pickled(Model("a"))],
            *(
                [Model("b")],
                [Model("a", 4)],
                [Model("a", 3.0)],
                [Frozen("a"), pickled(Frozen("a"))],
                [Frozen("b")],
            ),
            *([Point(1, 2)], [Point(2, 1)], [Pair(1, 2)], [(1, 2)]),
            [types.SimpleNamespace(a=1, b=2), types.SimpleNamespace(b=2, a=1)],
            [types.SimpleNamespace(a=1)],
        ],
    ),
    Row(
        "enums",
        "enums, also `IntEnum`, `StrEnum`, `Flag` and combinations of flags",
        "name of the class, name of the member and its value; of flags the value",
        lambda: [
            *([Colour.RED, Colour(1)], [Colour.GREEN], [Level.LOW], [Level.HIGH], [Mode.READ], [Mode.WRITE]),
            *([Mode.READ | Mode.WRITE, ~Mode(0)], [Mode(0)]),
        ],
    ),
    Row(
        "instances",
        "instances of any class that `pickle` can take apart, exceptions, subclasses of built-in types",
        "name of the class, and its state as `__reduce_ex__`, `__getstate__` or `__slots__` and `__dict__` "
        "give it, "
        "hashed part by part; of exceptions arguments and attributes, not the traceback",
        lambda: [
            [Plain(a=1, b=[2]), Plain(b=[2], a=1), pickled(Plain(a=1, b=[2]))],
            *(
                [Plain(a=1)],
                [Plain()],
                [Plain(a=1.0)],
                [Slotted(1, 2), pickled(Slotted(1, 2))],
                [Slotted(2, 1)],
            ),
            *([Rebuilt("a"), Rebuilt("a")], [Rebuilt("b")], [Text("a")], [Numbers([1])], [Numbers([2])]),
            *([ValueError("a"), with_caught(ValueError("a"))], [ValueError("b")], [TypeError("a")]),
            *([FailedError("a", 1)], [FailedError("a", 2)], [OSError(2, "x", "f")], [OSError(2, "x", "g")]),
        ],
    ),
    Row(
        "chosen",
        "classes with a method `__weft_memo__`, types given to `id_for_memo.register`",
        "name of the class, and what the method or function returns",
        lambda: [
            *([Chosen([1], "x"), Chosen([1], "y")], [Chosen([2], "x")]),
            *([Registered([1], "x"), Registered([1], "y")], [Registered([2], "x")]),
        ],
    ),
    Row(
        "names",
        "functions and classes of built-in and standard modules, modules, `operator` functions, type hints",
        "name",
        lambda: [
            *(
                [len],
                [print],
                [math_sqrt()],
                [str.upper],
                [str.lower],
                [int],
                [str],
                [collections.OrderedDict],
            ),
            *([json], [re], [operator.itemgetter(1)], [operator.itemgetter(2)], [operator.attrgetter("a")]),
            *([list[int]], [list[str]], [dict[str, int]], [typing.Any], [pathlib.PurePosixPath]),
            *([type(None)], [types.FunctionType], [json.dumps], [json.loads], [[1].append], [[2].append]),
            [int | str, str | int],
            [typing.Optional[int], typing.Union[None, int]],  # noqa: UP007, UP045
        ],
    ),
    Row(
        "code",
        "functions and classes of the user's, methods, `functools.partial`, `functools.lru_cache`",
        "identity of the code, as that of a task's function; of methods and partials also what they are "
        "bound to",
        lambda: [
            [helper],
            [other_helper],
            [functools.partial(helper, 1), functools.partial(helper, 1)],
            *(
                [functools.partial(helper, 2)],
                [functools.partial(other_helper, 1)],
                [functools.partial(helper, x=1)],
            ),
            *([functools.lru_cache(helper)], [Model], [Plain], [Chosen(1, 2).__weft_memo__]),
            [Chosen(2, 2).__weft_memo__],
        ],
        frozen=False,
    ),
    Row(
        "numpy",
        "NumPy: arrays, record and masked arrays, memory maps, scalars, dtypes, generators, ufuncs",
        "dtype (with the order of its bytes), shape and content, however they are laid out in memory; "
        "not what is masked; state",
        arrays,
    ),
    Row(
        "pandas",
        "pandas: `DataFrame`, `Series`, indexes, extension arrays, scalars, dtypes",
        "names, index, order of columns, dtypes, content, `attrs`; not how columns are stored together, nor "
        "what is "
        "under a missing value; of categoricals also the order of categories",
        pandas_values,
        once=True,
    ),
    Row(
        "polars",
        "Polars: `DataFrame`, `Series`, dtypes",
        "names, order of columns, dtypes, content; not how it is cut into chunks",
        polars_values,
        once=True,
    ),
    Row(
        "pyarrow",
        "Arrow: `Table`, `RecordBatch`, arrays, scalars, buffers, schemas, types",
        "schema with its metadata, content; not how it is cut into chunks, nor what is under a null",
        arrow_values,
        once=True,
    ),
    Row(
        "scipy",
        "SciPy: sparse arrays and matrices",
        "class (`csr` and `csc` are two), dtype, shape, stored elements, zeros too; not their order, nor "
        "how wide "
        "the indices are; duplicates count as their sum",
        sparse_values,
        once=True,
    ),
)
TORCH = (
    "| PyTorch: tensors, parameters, generators, dtypes; modules by their state | class, dtype, shape, "
    "content, "
    "`requires_grad`; not the device |"
)


def moved(value: Any) -> Any:
    value.move_to_end("b")
    return value


def math_sqrt() -> Any:
    import math

    return math.sqrt


def params(rows: Any) -> list[Any]:
    return [pytest.param(row, id=row.name, marks=pytest.mark.once if row.once else ()) for row in rows]


@pytest.mark.parametrize("row", params(ROWS))
def test_equal_values_have_equal_digests_and_others_have_others(row: Row) -> None:
    groups = row.make()
    found: dict[bytes, Any] = {}
    for group in groups:
        first, *others = map(digest, group)
        assert all(other == first for other in others), (
            f"equal values have different digests: {group!r} {[d.hex()[:6] for d in (first, *others)]}"
        )
        assert first not in found, f"{group[0]!r} has the digest of {found[first]!r}"
        found[first] = group[0]


@pytest.mark.once
def test_no_value_of_the_table_has_the_digest_of_another() -> None:
    groups = [(row.name, group[0]) for row in ROWS for group in row.make()]
    found: dict[bytes, Any] = {}
    for name, value in groups:
        assert found.setdefault(digest(value), (name, value)) == (name, value)


@pytest.mark.parametrize("row", params(row for row in ROWS if row.frozen and not row.once))
def test_digests_are_those_that_earlier_versions_gave(row: Row) -> None:
    recorded = json.loads(DIGESTS.read_text()) if DIGESTS.exists() else {}
    now = [digest(group[0]).hex() for group in row.make()]
    if REWRITE:
        before = recorded.get(row.name, [])
        assert now[: len(before)] == before, "what is recorded must not change; add cases at the end"
        DIGESTS.write_text(json.dumps({**recorded, row.name: now}, indent=1, sort_keys=True) + "\n")
    else:
        assert now == recorded[row.name]


@pytest.mark.once
def test_the_readme_has_the_table() -> None:
    lines = ["| values | what counts |", "|---|---|"]
    lines += [f"| {row.types} | {row.counts} |" for row in ROWS] + [TORCH]
    text = README.read_text(encoding="utf-8")
    begin, end = "<!-- table of types -->\n", "\n<!-- end of the table -->"
    head, _, rest = text.partition(begin)
    if REWRITE:
        README.write_text(head + begin + "\n".join(lines) + end + rest.partition(end)[2], encoding="utf-8")
    else:
        assert rest.partition(end)[0].splitlines() == lines, "write it anew with WEFT_REWRITE=1"
