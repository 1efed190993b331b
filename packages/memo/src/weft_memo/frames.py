"""Describes arrays and tables of other libraries: by dtype and shape, and a digest of the content.

By their names alone: none of the libraries is imported for it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

__all__ = ["describe_frame"]

_COLUMNS = 64
_ITEMS = 16

Digest = Callable[[Any], "str | None"]


def describe_frame(value: Any, digest: Digest) -> Any:
    """A node as in :mod:`description <weft_memo.description>`: of a table, with each of its columns."""
    kind = type(value)
    name = f"{kind.__module__.partition('.')[0]}.{kind.__name__}"
    node: dict[str, Any] = {"t": name, "s": _summary(value)}
    columns = _columns(value, name)
    if columns is None or len(columns) > _COLUMNS:
        node["d"], content = digest(value), _content(value, name)
        return node if content is None else {**node, "v": content}
    node["k"] = {
        json.dumps(str(label), ensure_ascii=False): {"t": "column", "s": dtype, "d": digest(column)}
        for label, dtype, column in columns
    }
    if name == "pandas.DataFrame":
        node["f"] = {"index": {"t": "index", "s": str(value.index.dtype), "d": digest(value.index)}}
    return node


def _summary(value: Any) -> str:
    """``float64 (3, 4)``."""
    parts = []
    for attribute in ("dtype", "shape"):
        found = getattr(value, attribute, None)
        if found is not None and not callable(found):
            parts.append(str(tuple(found) if attribute == "shape" else found))
    return " ".join(parts)


def _content(value: Any, name: str) -> str | None:
    """The numbers of an array that has few."""
    if name in ("pandas.Timestamp", "pandas.Timedelta"):
        return str(value)
    if name.startswith("numpy.") and value.dtype.kind in "biufcSU" and value.size <= _ITEMS:
        shown = repr(value.tolist())
        return shown if len(shown) <= 120 else None
    return None


def _columns(value: Any, name: str) -> list[tuple[Any, str, Any]] | None:
    """The label, the dtype and the content of each column; None for what has none."""
    if name == "pandas.DataFrame":
        return [
            (label, str(dtype), value.iloc[:, i].reset_index(drop=True))
            for i, (label, dtype) in enumerate(zip(value.columns, value.dtypes, strict=True))
        ]
    if name == "polars.DataFrame":
        return [(column.name, str(column.dtype), column) for column in value.get_columns()]
    if name == "pyarrow.Table":
        return [
            (label, str(column.type), column)
            for label, column in zip(value.column_names, value.columns, strict=True)
        ]
    return None
