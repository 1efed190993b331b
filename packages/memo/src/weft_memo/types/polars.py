"""Polars: column by column, by dtype and content, however they are cut into chunks."""

from __future__ import annotations

from typing import Any

import polars

from ..encoding import text
from ..instance import refuse
from ..node import Node, Split

__all__ = ["split_for"]


def split_for(kind: type) -> Split | None:
    """Frames, series, dtypes. A lazy frame is what will be done, perhaps with files: no content yet."""
    if issubclass(kind, polars.DataFrame):
        return _frame
    if issubclass(kind, polars.Series):
        return _series
    if issubclass(kind, polars.LazyFrame):
        return refuse(kind, "what it will hold is not known yet: pass its collect()")
    if issubclass(kind, polars.DataType):
        return _dtype
    return None


def _frame(value: Any) -> Node:
    columns = value.get_columns()
    labels = tuple(f"[{name!r}]" for name in value.columns)
    return Node(b"L" + text("DataFrame"), (value.height, *columns), labels=("", *labels))


def _series(value: Any) -> Node:
    head = b"L" + text("Series")
    dtype = value.dtype
    if isinstance(dtype, polars.Struct):
        fields = [value.struct.field(field.name) for field in dtype.fields]
        return Node(head, (value.name, dtype, _plain(value.is_null()), *fields))
    if (dtype.is_numeric() and not dtype.is_decimal()) or dtype.is_temporal() or dtype == polars.Boolean:
        plain = value.to_physical()
        if plain.dtype == polars.Boolean:
            plain = plain.cast(polars.UInt8)
        if str(plain.dtype) not in ("Int128", "UInt128"):
            missing = _plain(value.is_null()) if value.null_count() else None
            return Node(head, (value.name, dtype, missing, plain.fill_null(0).to_numpy()))
    return Node(head, (value.name, dtype, value.to_list()))


def _plain(mask: Any) -> Any:
    return mask.cast(polars.UInt8).to_numpy()


def _dtype(value: Any) -> Node:
    head = b"L" + text("DataType")
    if isinstance(value, polars.Enum):
        return Node(head, ("Enum", value.categories.to_list()))
    if isinstance(value, polars.Struct):
        return Node(head, ("Struct", *((field.name, field.dtype) for field in value.fields)))
    inner = getattr(value, "inner", None)
    if inner is not None:
        return Node(head, (type(value).__name__, inner, getattr(value, "shape", None)))
    if isinstance(value, polars.Categorical):
        return Node(head, ("Categorical",))
    return Node(head, (str(value),))
