"""pandas: column by column, by dtype and content; how the columns are stored together does not count."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy
import pandas

from ..encoding import text
from ..naming import qualified_name
from ..node import Node, Split

__all__ = ["split_for"]


def split_for(kind: type) -> Split | None:
    """Frames, series, indexes, arrays of extension types, their scalars and dtypes."""
    for base, split in _BASES:
        if issubclass(kind, base):
            return split(b"P" + text(base.__name__) + _own(kind))
    return None


def _own(kind: type) -> bytes:
    """The name of a class that another library derived, as that of a frame with geometries."""
    return b"" if kind.__module__.partition(".")[0] == "pandas" else text(qualified_name(kind))


def _frame(head: bytes) -> Split:
    def split(value: Any) -> Node:
        columns = [column(value.iloc[:, at]) for at in range(value.shape[1])]
        names = [f"[{name!r}]" if isinstance(name, str) else ".iloc[...]" for name in value.columns]
        parts = (value.index, value.columns, extras(value), *columns)
        return Node(head, parts, labels=(".index", ".columns", ".attrs", *names))

    return split


def extras(value: Any) -> Any:
    """What a frame or series carries along: attributes, flags, and what derived classes list."""
    own = {name: getattr(value, name, None) for name in value._metadata if name not in ("_name", "name")}
    return value.attrs, value.flags.allows_duplicate_labels, own


def _series(head: bytes) -> Split:
    def split(value: Any) -> Node:
        parts = (value.name, value.index, extras(value), column(value))
        return Node(head, parts, labels=(".name", ".index", ".attrs", ""))

    return split


def column(value: Any) -> Any:
    """The values of a series or index: an array of NumPy's or of an extension type."""
    array = value.array
    return array.to_numpy() if isinstance(array, pandas.arrays.NumpyExtensionArray) else array


def _index(head: bytes) -> Split:
    def split(value: Any) -> Node:
        if isinstance(value, pandas.RangeIndex):
            return Node(head, (value.name, "range", value.start, value.stop, value.step))
        if isinstance(value, pandas.MultiIndex):
            levels = [column(value.get_level_values(at)) for at in range(value.nlevels)]
            return Node(head, (list(value.names), "levels", *levels))
        frequency = getattr(value, "freqstr", None)
        return Node(head, (value.name, frequency, column(value)), labels=(".name", ".freq", ""))

    return split


def _categorical(head: bytes) -> Split:
    return lambda value: Node(head, (value.categories, value.codes, value.ordered))


def _interval_array(head: bytes) -> Split:
    return lambda value: Node(head, (column(value.left), column(value.right), value.closed))


def _stamps(head: bytes) -> Split:
    """Dates, durations and periods: whole numbers, and the dtype with unit and zone."""
    return lambda value: Node(head, (str(value.dtype), value.asi8))


def _array(head: bytes) -> Split:
    """What is missing does not count, but that it is."""

    def split(value: Any) -> Node:
        dtype = value.dtype
        if isinstance(dtype, pandas.ArrowDtype):
            return Node(head, (str(dtype), value.__arrow_array__()))
        if isinstance(dtype, pandas.SparseDtype):
            return Node(head, (str(dtype), value.to_numpy()))
        plain = getattr(dtype, "numpy_dtype", None)
        if isinstance(plain, numpy.dtype) and plain.kind in "biuf":
            return Node(head, (str(dtype), value.isna(), value.to_numpy(plain, na_value=plain.type(0))))
        return Node(head, (str(dtype), value.to_numpy(dtype=object)))

    return split


# -- scalars, dtypes -----------------------------------------------------------------------------------------


def _stamp(head: bytes) -> Split:
    def split(value: Any) -> Node:
        zone = getattr(value, "tzinfo", None)
        return Node(head, (value.unit, int(value.asm8.view("i8")), None if zone is None else str(zone)))

    return split


def _period(head: bytes) -> Split:
    return lambda value: Node(head, (value.ordinal, value.freqstr))


def _interval(head: bytes) -> Split:
    return lambda value: Node(head, (value.left, value.right, value.closed))


def _missing(head: bytes) -> Split:
    return lambda value: Node(head, ())


def _dtype(head: bytes) -> Split:
    def split(value: Any) -> Node:
        if isinstance(value, pandas.CategoricalDtype):
            return Node(head, (value.categories, value.ordered))
        return Node(head, (type(value).__name__, str(value)))

    return split


_BASES: tuple[tuple[type, Callable[[bytes], Split]], ...] = (
    (pandas.DataFrame, _frame),
    (pandas.Series, _series),
    (pandas.Index, _index),
    (pandas.Categorical, _categorical),
    (pandas.arrays.IntervalArray, _interval_array),
    (pandas.arrays.DatetimeArray, _stamps),
    (pandas.arrays.TimedeltaArray, _stamps),
    (pandas.arrays.PeriodArray, _stamps),
    (pandas.api.extensions.ExtensionArray, _array),
    (type(pandas.NaT), _missing),
    (type(pandas.NA), _missing),
    (pandas.Timestamp, _stamp),
    (pandas.Timedelta, _stamp),
    (pandas.Period, _period),
    (pandas.Interval, _interval),
    (pandas.api.extensions.ExtensionDtype, _dtype),
)
