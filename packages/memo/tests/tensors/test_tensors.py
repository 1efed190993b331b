"""Tensors: equal ones have equal digests, all others have others."""

from __future__ import annotations

import copy
import pickle
import warnings
from typing import Any

import pytest
import torch
from weft_memo import UnknownTypeError, digest

pytestmark = pytest.mark.once


def pickled(value: Any) -> Any:
    return pickle.loads(pickle.dumps(value))


def groups() -> list[list[Any]]:
    a = torch.arange(12.0).reshape(3, 4)
    wide = torch.repeat_interleave(a, 2, 1)[:, ::2]
    parameter = torch.nn.Parameter(a.clone())
    layer = torch.nn.Linear(2, 3)
    coo = torch.sparse_coo_tensor([[0, 1, 1], [1, 0, 0]], [1.0, 2.0, 3.0], (2, 3))
    summed = torch.sparse_coo_tensor([[1, 0], [0, 1]], [5.0, 1.0], (2, 3))
    tagged = a.clone()
    tagged.unit = "m"  # type: ignore[attr-defined]
    quantized = torch.quantize_per_tensor(a, 0.1, 0, torch.qint8)
    return [
        [a, a.t().contiguous().t(), a.clone(), pickled(a), wide],
        [a.t()],
        [a.double()],
        [a.bfloat16(), pickled(a.bfloat16())],
        [a.half()],
        [a.to(torch.float8_e4m3fn)],
        [a.clone().requires_grad_()],
        [parameter, pickled(parameter)],
        [tagged],
        [a[:0]],
        [torch.tensor(3.0)],
        [torch.tensor([3.0])],
        [torch.tensor(True)],
        [torch.tensor([1 - 2j]), torch.tensor([1 + 2j]).conj()],
        [torch.tensor([1 + 2j])],
        [coo, coo.coalesce(), summed, pickled(coo)],
        [a.to_sparse_csr(), pickled(a.to_sparse_csr())],
        [a.to_sparse_csc()],
        [quantized, pickled(quantized)],
        [layer, copy.deepcopy(layer), pickled(layer)],
        [torch.nn.Linear(2, 3)],
        [layer.state_dict(), copy.deepcopy(layer).state_dict()],
        [torch.float32],
        [torch.float64],
        [torch.device("cpu")],
        [torch.Size([3, 4])],
        [torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)],
        [torch.Generator().manual_seed(2)],
        [torch.arange(3_000_000), torch.arange(6_000_000)[::2] // 2],
    ]


def test_equal_tensors_have_equal_digests_and_others_have_others() -> None:
    found: dict[bytes, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's own, of features that it may change
        for group in groups():
            first, *others = map(digest, group)
            assert all(other == first for other in others), group[0]
            assert first not in found, (group[0], found[first])
            found[first] = group[0]


def test_a_tensor_without_content_is_refused() -> None:
    with pytest.raises(UnknownTypeError, match=r"torch\.Tensor at \['x'\] \(a meta tensor has no content\)"):
        digest({"x": torch.empty(3, device="meta")})
