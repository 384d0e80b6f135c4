"""Expand and adjoint against what the GPU's memory allows: a copy of D floats, and their writing alone."""

from collections.abc import Iterator

import torch

from backends.torch.adapter.theta import triton_kernels as kernels
from backends.torch.adapter.theta.expansion import storage_of
from unilora_spec import Projection

from ..figures import CALLS, Pair, figures
from ..findings import Context

COPY, WRITE, PEFT = "a copy of D floats", "writing D floats", "PEFT's gather and scale"


def findings(context: Context) -> Iterator[dict]:
    """The copy reads and writes 8 bytes an entry. Expand computed writes 4, and expand cached reads 4 more and gathers 4."""
    D, d = (20_000_000, 524_288) if context.gpu else (600, 50)
    theta, x = (torch.randn(count, device=context.device) for count in (d, D))
    p, out = Projection("balanced", D=D, d=d, seed=0), torch.empty_like(x)
    cached = storage_of(p, context.device, "cached")
    indices = cached.index.long()
    columns = cached.index.int()  # index_add_ takes no uint16, in which a small d is cached
    scales = torch.cat(cached.scale)[indices]
    steps = {
        COPY: lambda: out.copy_(x),
        WRITE: lambda: out.fill_(1.0),
        PEFT: lambda: theta[indices] * scales,
        "expand computed": lambda: kernels.expand(theta, D, 0),
        "expand computed, bfloat16": lambda: kernels.expand(theta, D, 0, torch.bfloat16),
        "expand cached": lambda: cached.expand(theta),
        "index": lambda: kernels.index(D, d, 0, context.device),
        "adjoint": lambda: kernels.adjoint(x, d, D, 0),
        "adjoint by atomic additions": lambda: torch.zeros_like(theta).index_add_(0, columns, x),
    }
    pairs = [
        Pair("expand computed", "expand computed", COPY, 1.2, bytes=4 * D),
        Pair("expand computed, beside writing alone", "expand computed", WRITE),
        Pair("expand computed to bfloat16", "expand computed, bfloat16", COPY, bytes=2 * D),
        Pair("expand cached", "expand cached", COPY, bytes=12 * D),
        Pair("expand computed, beside PEFT's", "expand computed", PEFT),
        Pair("expand computed, beside cached", "expand computed", "expand cached"),
        Pair("index", "index", COPY, bytes=4 * D),
        Pair("adjoint", "adjoint", COPY, bytes=4 * D),
        Pair("adjoint, beside index_add_, whose sums have no order", "adjoint", "adjoint by atomic additions"),
        Pair(COPY, COPY, WRITE, bytes=8 * D),
    ]
    with torch.no_grad():
        yield from figures(context, steps, pairs, 100, CALLS)
