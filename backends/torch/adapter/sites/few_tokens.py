"""s·(x Aᵀ)Bᵀ where texts are continued, a token at a time: the time then goes into calls, not into products.

What does not change from token to token is prepared once, with A and B laid out as torch multiplies them fastest. On a CPU, factors of
bfloat16 and float16 are multiplied as float32, which is faster there for so little, and the sum is rounded once.
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
    """What a module adds to inputs of the dtype ``of`` on ``device``: ``dtype`` is that of the products, ``pairs`` are (first row or None, number
    of rows, Aᵀ (1, in, rank), s·Bᵀ (1, rank, out))."""

    of: torch.dtype
    device: torch.device
    dtype: torch.dtype
    pairs: list[tuple[int | None, int, Tensor, Tensor]]

    def are_for(self, x: Tensor) -> bool:
        return x.dtype is self.of and x.device == self.device


def are_few(x: Tensor, output: Tensor) -> bool:
    """Whether ``output``, (…, out), is that of so few tokens x, (…, in), and nobody wants a gradient of it."""
    return (
        x.numel() <= _FEW * x.shape[-1]
        and not torch.is_grad_enabled()
        and x.dtype == output.dtype
        and not torch.compiler.is_compiling()
        and not in_torch_func()
    )


def prepared(x: Tensor, pairs: Iterable[tuple[Segment, float, Tensor, Tensor]]) -> Prepared:
    """For inputs like x, the segments with their s, A (rank, in) and B (out, rank)."""
    dtype = torch.float32 if x.is_cpu and x.dtype in _HALVES else x.dtype
    made = []
    for segment, s, A, B in pairs:
        of_B = (B.to(x.device, dtype) * s).T.contiguous()
        made.append((segment.row, segment.out_features, A.to(x.device, dtype).T[None], of_B[None]))
    return Prepared(x.dtype, x.device, dtype, made)


def add(x: Tensor, output: Tensor, to_add: Prepared) -> Tensor:
    """``output``, which is contiguous, with s·(x Aᵀ)Bᵀ of each segment added on its rows, in place."""
    dtype, pairs = to_add.dtype, to_add.pairs
    y = output
    if x.dim() != 3 or len(x) != 1:  # the calls of a batch of matrices take them as they are, and less time than others
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
