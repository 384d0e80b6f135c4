"""y = x(W + ΔW + ε)ᵀ + b as one autograd function that keeps nothing of the size of tokens × rank, or of W."""

import torch
from torch.nn import functional as F


class _MergedLinear(torch.autograd.Function):
    """x (…, in), W (out, in), b (out) or None, a (first row or None, s) for each pair, a ``Draw`` for each or none at all, and the
    pairs A (r, in), B (out', r).

    With W + ΔW at hand, y and the input's gradient cost what they cost the base; low-rank products are left for the
    gradients of A and B alone. W + ΔW is made again for the backward pass: that costs in · out · rank products, and to keep it
    would cost as much memory as the base's weights. So is the noise ε, of which the norms of the rows are kept.
    """

    @staticmethod
    def forward(ctx, x, weight, bias, places, draws, *factors):
        # With a setup_context of its own, torch would look up signatures at each call, 0.1 ms long.
        ctx.places, ctx.draws = places, draws
        merged = merged_weight(weight, places, factors)
        norms = [_rows(merged, row, B).norm(dim=1) for (row, _), B, _ in zip(places, factors[1::2], draws)]
        ctx.save_for_backward(x, weight, *norms, *factors)
        return F.linear(x, _add_noise(merged, places, draws, norms), bias)

    @staticmethod
    def backward(ctx, g):
        x, weight, *rest = ctx.saved_tensors
        norms, factors = rest[: len(ctx.draws)], rest[len(ctx.draws) :]
        of_x = None
        if ctx.needs_input_grad[0]:
            of_x = g @ _add_noise(merged_weight(weight, ctx.places, factors), ctx.places, ctx.draws, norms)
        x, g = x.flatten(0, -2), g.flatten(0, -2)
        of_bias = g.sum(0) if ctx.needs_input_grad[2] else None
        of_factors = [None] * len(factors)
        if any(ctx.needs_input_grad[5:]):
            for i, (row, s) in enumerate(ctx.places):
                A, B = factors[2 * i : 2 * i + 2]
                rows = g if row is None else g[:, row : row + len(B)]
                # s·(gB)ᵀx and s·gᵀ(xAᵀ), in the order and layout that is fast for a small rank too; of what beta = 0
                # multiplies, the shape alone counts
                of_factors[2 * i] = torch.addmm(A, F.linear(rows, B.T.contiguous()).T, x, beta=0, alpha=s)
                of_factors[2 * i + 1] = torch.addmm(B.T, F.linear(x, A).T, rows, beta=0, alpha=s).T
        return of_x, None, of_bias, None, None, *of_factors


def merged_linear(x, weight, bias, places, *factors, draws=()):
    return _MergedLinear.apply(x, weight, bias, places, draws, *factors)


def merged_weight(weight, places, factors):
    """W + ΔW, ΔW = Σ s·B·A on the rows that each pair adapts (SPEC 7.5, 7.7)."""
    if len(places) == 1 and places[0][0] is None:
        (_, s), (A, B) = places[0], factors
        return torch.addmm(weight, B, A, alpha=s)
    merged = weight.clone()
    for i, (row, s) in enumerate(places):
        A, B = factors[2 * i : 2 * i + 2]
        rows = _rows(merged, row, B)
        rows.copy_(torch.addmm(rows, B, A, alpha=s))
    return merged


def _add_noise(merged, places, draws, norms):
    for (row, _), draw, of_rows in zip(places, draws, norms):
        _rows(merged, row, of_rows).add_(draw(of_rows, merged.shape[1]))
    return merged


def _rows(merged, row, like):
    return merged if row is None else merged[row : row + len(like)]
