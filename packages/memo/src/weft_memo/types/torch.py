"""PyTorch's tensors: by class, dtype, shape, content and whether they need a gradient, wherever they are
kept.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch

from ..encoding import Encoding, content, text
from ..errors import UnknownTypeError
from ..naming import qualified_name
from ..node import Node, Split, View

__all__ = ["split_for"]


def split_for(kind: type) -> Split | None:
    """Tensors, devices, random generators; modules and optimizers are taken by their state."""
    if issubclass(kind, torch.Tensor):
        return _tensor
    if issubclass(kind, torch.Generator):
        return lambda value: Node(b"h" + text("Generator"), (value.get_state(),))
    if kind is torch.dtype or kind is torch.device or kind is torch.layout or kind is torch.memory_format:
        return lambda value: b"h" + text(str(value))
    return None


def _tensor(value: Any) -> Node:
    if value.is_meta:
        raise UnknownTypeError(qualified_name(type(value)), "", "a meta tensor has no content")
    head = b"h" + text(type(value).__name__) + text(str(value.dtype))
    parts: list[Any] = [tuple(value.shape), value.requires_grad, dict(value.__dict__)]
    plain = value.detach()
    if plain.is_quantized:
        parts += [repr(plain.qscheme()), plain.dequantize(), plain.int_repr()]
    elif plain.layout is torch.sparse_coo:
        plain = plain.coalesce()
        parts += ["sparse", plain.indices(), plain.values()]
    elif plain.layout is not torch.strided:
        parts += [str(plain.layout), plain.to_sparse_coo().coalesce().indices(), plain.values()]
    else:
        parts.append(View(_elements, plain))
    return Node(head, parts)


def _elements(value: Any) -> Encoding:
    """The elements in C order; only those that are not in order, or not in this memory, are copied."""
    value = value.resolve_conj().resolve_neg().cpu().contiguous()
    size = value.numel() * value.element_size()
    if not size:
        return content(b"b", b"")
    data = (ctypes.c_char * size).from_address(value.data_ptr())
    return content(b"b", memoryview(data).cast("B"))
