"""s·(x Aᵀ)Bᵀ for few tokens, as where a text is continued: the calls then cost more time than the products.

What stays the same from token to token is prepared once, with A and B laid out as torch multiplies them fastest. On a
CPU, factors of bfloat16 and float16 are multiplied as float32, which is faster there for few tokens, and the sum is
rounded once.
"""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from unilora_spec import Segment

from ..calls.compiling import in_torch_func

_FEW = 16  # tokens; of more in half precision, the products in float32 would cost more than they save
_HALVES = (torch.bfloat16, torch.float16)


class Prepared(NamedTuple):
    """A module's factors, prepared for inputs of ``input_dtype`` on ``device``: the products are computed in ``dtype``,
    and ``pairs`` has (first row or None, number of rows, Aᵀ (1, in, rank), s·Bᵀ (1, rank, out)) of each segment."""

    input_dtype: torch.dtype
    device: torch.device
    dtype: torch.dtype
    pairs: list[tuple[int | None, int, Tensor, Tensor]]

    def are_for(self, x: Tensor) -> bool:
        return x.dtype is self.input_dtype and x.device == self.device


def are_few(x: Tensor, output: Tensor) -> bool:
    """Whether x, (…, in), has few tokens and ``output``, (…, out), is computed without a gradient, so that ``add`` is
    the faster way."""
    return (
        x.numel() <= _FEW * x.shape[-1]
        and not torch.is_grad_enabled()
        and x.dtype == output.dtype
        and not torch.compiler.is_compiling()
        and not in_torch_func()
    )


def prepared(x: Tensor, pairs: Iterable[tuple[Segment, float, Tensor, Tensor]]) -> Prepared:
    """Prepares segments, each with its s, A (rank, in) and B (out, rank), for inputs of the dtype and on the device of
    x."""
    dtype = torch.float32 if x.is_cpu and x.dtype in _HALVES else x.dtype
    made = []
    for segment, s, A, B in pairs:
        scaled_B = (B.to(x.device, dtype) * s).T.contiguous()
        made.append((segment.row, segment.out_features, A.to(x.device, dtype).T[None], scaled_B[None]))
    return Prepared(x.dtype, x.device, dtype, made)


def add(x: Tensor, output: Tensor, to_add: Prepared) -> Tensor:
    """Adds s·(x Aᵀ)Bᵀ of each segment to its rows of ``output``, in place, and returns it; ``output`` has to be
    contiguous."""
    dtype, pairs = to_add.dtype, to_add.pairs
    y = output
    if x.dim() != 3 or len(x) != 1:  # bmm and baddbmm take a batch of matrices, and less time than matmul
        x, y = x.reshape(1, -1, x.shape[-1]), y.view(1, -1, y.shape[-1])
    if x.dtype != dtype:
        x = x.to(dtype)
    for row, rows, A, B in pairs:
        part = y if row is None else y.narrow(2, row, rows)
        if y.dtype == dtype:
            part.baddbmm_(torch.bmm(x, A), B)
        else:
            part.add_(torch.bmm(torch.bmm(x, A), B))
    return output
