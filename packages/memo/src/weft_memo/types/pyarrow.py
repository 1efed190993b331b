"""Apache Arrow: by type and content, however it is cut into chunks; what is under a null does not count."""

from __future__ import annotations

from typing import Any

import pyarrow
import pyarrow.compute
from pyarrow import types

from ..encoding import Encoding, content, text
from ..node import Node, Split, View

__all__ = ["split_for"]


def split_for(kind: type) -> Split | None:
    """Tables, record batches, arrays, scalars, buffers, and what describes them."""
    for base, split in _BASES:
        if issubclass(kind, base):
            return split
    return None


def _head(name: str) -> bytes:
    return b"w" + text(name)


def _table(value: Any) -> Node:
    columns = [_joined(column) for column in value.columns]
    labels = tuple(f"[{name!r}]" for name in value.column_names)
    name = "Table" if isinstance(value, pyarrow.Table) else "RecordBatch"
    parts = (value.schema, value.num_rows, *columns)
    return Node(_head(name), parts, labels=(".schema", "", *labels))


def _schema(value: Any) -> Node:
    return Node(_head("Schema"), (list(value), value.metadata))


def _field(value: Any) -> Node:
    return Node(_head("field"), (value.name, value.type, value.nullable, value.metadata))


def _type(value: Any) -> Encoding:
    return _head("DataType") + text(str(value))


def _joined(value: Any) -> Any:
    """A chunked array as an array; arrays as they are."""
    if not isinstance(value, pyarrow.ChunkedArray):
        return value
    chunks = [chunk for chunk in value.chunks if len(chunk)]
    if len(chunks) == 1:
        return chunks[0]
    return pyarrow.concat_arrays(chunks) if chunks else pyarrow.array([], value.type)


def _chunked(value: Any) -> Node:
    return Node(_head("ChunkedArray"), (_joined(value),), labels=("",))


def _scalar(value: Any) -> Node:
    return Node(_head("Scalar"), (pyarrow.array([value.as_py()], value.type),), labels=("",))


def _array(value: Any) -> Node:
    kind = value.type
    missing = None
    if value.null_count and not types.is_null(kind):
        missing = View(_bytes, _flags(value.is_null()))
    return Node(_head("Array"), (kind, len(value), missing, *_parts(value, kind)))


def _parts(value: Any, kind: Any) -> tuple[Any, ...]:
    """The elements, in an order and a form that only they decide."""
    if types.is_null(kind):
        return ()
    if isinstance(value, pyarrow.ExtensionArray):
        return (value.storage,)
    if types.is_dictionary(kind):
        return (value.dictionary_decode(),)
    if types.is_boolean(kind):
        return (View(_bytes, _flags(value.fill_null(False))),)
    if types.is_struct(kind):
        return tuple(value.flatten())
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        lengths = pyarrow.compute.list_value_length(value).fill_null(0)
        return View(_bytes, _fixed(lengths, lengths.type.bit_width // 8)), value.flatten()
    if types.is_string(kind) or types.is_binary(kind):
        return _texts(value, pyarrow.binary(), b"")
    if types.is_large_string(kind) or types.is_large_binary(kind):
        return _texts(value, pyarrow.large_binary(), b"")
    if types.is_primitive(kind):
        whole = value.view(_INTEGERS[kind.bit_width])
        return (View(_bytes, _fixed(whole.fill_null(0), kind.bit_width // 8)),)
    return (value.to_pylist(),)


def _texts(value: Any, kind: Any, empty: bytes) -> tuple[Any, ...]:
    plain = value.view(kind).fill_null(empty) if value.null_count else value.view(kind)
    lengths = pyarrow.compute.binary_length(plain)
    width = lengths.type.bit_width // 8
    sizes = _fixed(lengths, width)
    _, offsets, data = plain.buffers()
    if data is None or not len(plain):
        return View(_bytes, sizes), View(_bytes, b"")
    ends = memoryview(offsets).cast("B").cast("i" if width == 4 else "q")
    first, last = ends[plain.offset], ends[plain.offset + len(plain)]
    return View(_bytes, sizes), View(_bytes, memoryview(data)[first:last])


def _flags(value: Any) -> Any:
    return _fixed(value.cast(pyarrow.uint8()), 1)


def _fixed(value: Any, width: int) -> Any:
    """The bytes of elements of a fixed width, none of them null."""
    data = value.buffers()[1]
    if data is None:
        return b""
    return memoryview(data).cast("B")[value.offset * width : (value.offset + len(value)) * width]


def _bytes(data: Any) -> Encoding:
    return content(b"b", data)


def _buffer(value: Any) -> Node:
    return Node(_head("Buffer"), (View(_bytes, memoryview(value).cast("B")),))


_INTEGERS = {8: pyarrow.int8(), 16: pyarrow.int16(), 32: pyarrow.int32(), 64: pyarrow.int64()}
_BASES: tuple[tuple[type, Split], ...] = (
    (pyarrow.Table, _table),
    (pyarrow.RecordBatch, _table),
    (pyarrow.ChunkedArray, _chunked),
    (pyarrow.Array, _array),
    (pyarrow.Scalar, _scalar),
    (pyarrow.Buffer, _buffer),
    (pyarrow.Schema, _schema),
    (pyarrow.Field, _field),
    (pyarrow.DataType, _type),
)
