"""NumPy: by dtype, shape and content, however they are laid out in memory."""

from __future__ import annotations

from typing import Any

import numpy

from ..encoding import THREADED, Encoding, compress, count, fingerprint, text
from ..instance import attributes
from ..naming import qualified_name
from ..node import Node, Split, View

__all__ = ["array_split", "split_for"]

CHUNK = 1 << 24  # bytes
_HIDDEN = ("", "", "")  # a path goes from the array to the element


def split_for(kind: type) -> Split | None:
    """Arrays, masked arrays, scalars, dtypes, generators of random numbers, ufuncs."""
    if issubclass(kind, numpy.ma.MaskedArray):
        return _masked if kind.__module__.startswith("numpy.") else _derived(kind, _masked)
    if issubclass(kind, numpy.ndarray):
        return array_split(kind) if kind.__module__.startswith("numpy") else _derived(kind, array_split(kind))
    if issubclass(kind, numpy.generic):
        return _scalar
    if issubclass(kind, numpy.dtype):
        return _dtype
    if issubclass(kind, (numpy.random.Generator, numpy.random.BitGenerator, numpy.random.RandomState)):
        return _random
    if kind is numpy.ufunc:
        return lambda value: b"F" + text(f"numpy.{value.__name__}")
    return None


def _derived(kind: type, split: Split) -> Split:
    """A class of another library, or the user's: as an array, with attributes, such as a unit."""
    head = b"S" + text(qualified_name(kind))

    def derived(value: Any) -> Node:
        own = {name: one for name, one in attributes(value, numpy.ndarray).items() if name not in _INTERNAL}
        return Node(head, (View(split, value), own), labels=("", ""))

    return derived


# What a masked array keeps in its dictionary, and _masked has taken.
_INTERNAL = {
    "_baseclass",
    "_basedict",
    "_fill_value",
    "_hardmask",
    "_isfield",
    "_mask",
    "_sharedmask",
}


def dtype_words(dtype: Any) -> Any:
    """A dtype as plain values, the same in all versions of NumPy."""
    if dtype.subdtype is not None:
        base, shape = dtype.subdtype
        return "sub", dtype_words(base), shape
    if dtype.names is not None:
        fields = tuple(
            (name, dtype_words(dtype.fields[name][0]), dtype.fields[name][1]) for name in dtype.names
        )
        return "fields", fields, dtype.itemsize
    if dtype.kind in "Mm":
        return dtype.str
    return dtype.str if dtype.isbuiltin else f"{dtype}"


def array_split(kind: type) -> Split:
    """Subclasses differ by their names, but a file that is mapped into memory is an array as any other."""
    own = b"" if kind in (numpy.ndarray, numpy.memmap) else text(kind.__qualname__)

    def split(value: Any) -> Node | Encoding:
        value = value.view(numpy.ndarray)
        dtype = value.dtype
        if dtype.hasobject:
            if dtype.kind == "O":
                return Node(b"A" + own, ("O", value.shape, value.ravel().tolist()), labels=_HIDDEN)
            parts = (dtype_words(dtype), value.shape, value.ravel().tolist())
            return Node(b"A" + own, parts, labels=_HIDDEN)
        if not dtype.isnative or dtype.kind not in "biufcSU":
            return Node(b"A" + own, (dtype_words(dtype), value.shape, View(_raw, value)))
        head = b"A" + own + text(dtype.str) + count(value.ndim) + b"".join(map(count, value.shape))
        return compress(head + _raw(value))

    return split


def _raw(value: Any) -> Encoding:
    """The elements in C order."""
    if value.flags.c_contiguous:
        data = value.reshape(-1).view(numpy.uint8) if value.size and value.itemsize else b""
        return b"#" + fingerprint(memoryview(data))
    return b"#" + chunked(value)


def chunked(value: Any) -> bytes:
    """The digest of the elements in C order, with a copy of only some at a time."""
    from blake3 import blake3

    threads = blake3.AUTO if value.nbytes >= THREADED else 1
    hasher = blake3(max_threads=threads)
    if value.nbytes <= CHUNK:
        hasher.update(value.tobytes())
    else:
        _feed(hasher, value)
    digest: bytes = hasher.digest()
    return digest


def _feed(hasher: Any, value: Any) -> None:
    if value.ndim == 1 or value[0].nbytes <= CHUNK:
        rows = max(1, CHUNK // max(1, value[0].nbytes))
        for at in range(0, len(value), rows):
            hasher.update(value[at : at + rows].tobytes())
    else:
        for part in value:
            _feed(hasher, part)


def _scalar(value: Any) -> Node | Encoding:
    dtype = value.dtype
    if dtype.hasobject:
        return Node(b"a", (dtype_words(dtype), value.tolist()))
    if dtype.kind == "V":
        return Node(b"a", (dtype_words(dtype), numpy.asarray(value).tobytes()))
    return compress(b"a" + text(dtype.str) + _counted(value.tobytes()))


def _counted(data: bytes) -> bytes:
    return count(len(data)) + data


def _dtype(value: Any) -> Node:
    return Node(b"d", (dtype_words(value), value.alignment if value.isalignedstruct else 0))


def _random(value: Any) -> Node:
    """By state, of which the kind of the generator is part."""
    if isinstance(value, numpy.random.RandomState):
        state = value.get_state(legacy=False)
    else:
        state = getattr(value, "bit_generator", value).state
    return Node(b"r" + text(type(value).__name__), (state,), labels=("",))


def _masked(value: Any) -> Node:
    """What is masked does not count."""
    mask = numpy.ma.getmaskarray(value)
    filled = value.filled(value.fill_value)
    return Node(b"x", (filled, mask, value.fill_value))
