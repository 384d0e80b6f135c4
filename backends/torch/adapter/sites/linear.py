"""y = x(W + ΔW + ε)ᵀ + b as one autograd function that keeps nothing of the size of tokens × rank, or of W."""

import itertools

import torch
from torch.nn import functional as F

# From this rank on, a CPU's library multiplies matrices fastest as they stand; for less, with the rank as the number of rows, by 2 to 5
# times for rank 4 (python -m benchmarks.gradient_orders).
_WIDE = 16


class _MergedLinear(torch.autograd.Function):
    """Takes x (…, in), W (out, in), b (out) or None; ``places`` with (first row or None, s, number of factors) of each
    segment; ``draws`` with the noise's ``Draw`` of each segment, or empty; and the factors of all segments: A (r, in)
    and B (out', r), or one (out', in) where the rank is 0.

    With W + ΔW computed, y and the input's gradient cost what they cost in the base; only the gradients of A and B take
    low-rank products, and the gradient of a single factor takes one product. W + ΔW is computed again for the backward
    pass: that costs in · out · rank products, and to keep it would cost as much memory as the base's weights. ε is
    computed again too, from the norms of the rows, which are kept.
    """

    @staticmethod
    def forward(ctx, x, weight, bias, places, draws, *factors):
        # A setup_context of its own would make torch look up signatures at each call, which takes 0.1 ms.
        ctx.places, ctx.draws = places, draws
        merged = merged_weight(weight, places, factors)
        norms = [rows.norm(dim=1) for _, rows in zip(draws, _adapted_rows(merged, places, factors))]
        ctx.save_for_backward(x, weight, *norms, *factors)
        return F.linear(x, _with_noise(merged, places, factors, draws, norms), bias)

    @staticmethod
    def backward(ctx, g):
        x, weight, *rest = ctx.saved_tensors
        norms, factors = rest[: len(ctx.draws)], rest[len(ctx.draws) :]
        grad_x = None
        if ctx.needs_input_grad[0]:
            merged = merged_weight(weight, ctx.places, factors)
            grad_x = g @ _with_noise(merged, ctx.places, factors, ctx.draws, norms)
        x, g = x.flatten(0, -2), g.flatten(0, -2)
        grad_bias = g.sum(0) if ctx.needs_input_grad[2] else None
        grad_factors = [None] * len(factors)
        if any(ctx.needs_input_grad[5:]):
            grad_factors = []
            for row, s, own in _each_segment(ctx.places, factors):
                rows = g if row is None else g[:, row : row + len(own[-1])]
                grad_factors += _factor_gradients(x, rows, s, *own)
        return grad_x, None, grad_bias, None, None, *grad_factors


def merged_linear(x, weight, bias, places, *factors, draws=()):
    return _MergedLinear.apply(x, weight, bias, places, draws, *factors)


def _each_segment(places, factors):
    """Yields (first row or None, s, factors) of each segment."""
    factors = iter(factors)
    for row, s, count in places:
        yield row, s, tuple(itertools.islice(factors, count))


def _factor_gradients(x, g, s, first, B=None):
    """The gradients of a segment's factors. With beta = 0, addmm looks at the shape of its first argument alone."""
    if B is None:
        return [torch.addmm(first, g.T, x, beta=0, alpha=s)]
    # s·(gB)ᵀx and s·gᵀ(xAᵀ)
    x_A = F.linear(x, first)
    if len(first) >= _WIDE:
        return [torch.addmm(first, (g @ B).T, x, beta=0, alpha=s), torch.addmm(B, g.T, x_A, beta=0, alpha=s)]
    grad_A = torch.addmm(first, F.linear(g, B.T.contiguous()).T, x, beta=0, alpha=s)
    return [grad_A, torch.addmm(B.T, x_A.T, g, beta=0, alpha=s).T]


def merged_weight(weight, places, factors):
    """W + ΔW, with each segment's ΔW on the rows that it adapts (SPEC 7.5, 7.7)."""
    if len(places) == 1 and places[0][0] is None:
        return _sum(weight, places[0][1], *factors)
    merged = weight.clone()
    for rows, (_, s, own) in zip(_adapted_rows(merged, places, factors), _each_segment(places, factors)):
        rows.copy_(_sum(rows, s, *own))
    return merged


def _adapted_rows(merged, places, factors):
    """Yields the rows of ``merged`` that each segment adapts, as a view."""
    for row, _, own in _each_segment(places, factors):
        yield merged if row is None else merged[row : row + len(own[-1])]


def _with_noise(merged, places, factors, draws, norms):
    for draw, row_norms, rows in zip(draws, norms, _adapted_rows(merged, places, factors)):
        rows.add_(draw(row_norms, rows.shape[1]))
    return merged


def _sum(weight, s, first, B=None):
    return torch.add(weight, first, alpha=s) if B is None else torch.addmm(weight, B, first, alpha=s)
