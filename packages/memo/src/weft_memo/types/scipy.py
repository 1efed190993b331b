"""SciPy's sparse arrays and matrices: by class, dtype, shape and stored elements.

The order in which elements are stored, several entries of one element, and the width of the indices do not
count; zeros that are stored do.
"""

from __future__ import annotations

from typing import Any

import numpy

from ..encoding import text
from ..node import Node, Split

__all__ = ["split_for"]


def split_for(kind: type) -> Split | None:
    """Only for what is sparse: other classes of SciPy are taken by their state."""
    if not any(cls.__module__.startswith("scipy.sparse") for cls in kind.__mro__):
        return None
    from scipy import sparse

    array = getattr(sparse, "sparray", ())
    return _sparse if issubclass(kind, (sparse.spmatrix, array)) else None


def _sparse(value: Any) -> Node:
    head = b"p" + text(type(value).__name__)
    if value.format in ("csr", "csc"):
        if not value.has_canonical_format:
            value = value.copy()
            value.sum_duplicates()
        return Node(head, (value.shape, _wide(value.indptr), _wide(value.indices), value.data))
    block = value.blocksize if value.format == "bsr" else None
    plain = value.tocoo(copy=True)
    plain.sum_duplicates()
    coordinates = getattr(plain, "coords", None) or (plain.row, plain.col)
    return Node(head, (value.shape, block, *map(_wide, coordinates), plain.data))


def _wide(indices: Any) -> Any:
    return indices.astype(numpy.int64, copy=False)
