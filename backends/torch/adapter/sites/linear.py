"""y = x(W + ΔW + ε)ᵀ + b as one autograd function that keeps nothing of the size of tokens × rank, or of W."""

import itertools

import torch
from torch.nn import functional as F


class _MergedLinear(torch.autograd.Function):
    """x (…, in), W (out, in), b (out) or None, a (first row or None, s, number of factors) for each segment, the noise's ``Draw``
    for each or for none, and the factors of all: pairs A (r, in), B (out', r), and one (out', in) where the rank is 0.

    With W + ΔW at hand, y and the input's gradient cost what they cost the base; low-rank products are left for the
    gradients of A and B alone, and one product for that of a single factor. W + ΔW is made again for the backward pass: that
    costs in · out · rank products, and to keep it would cost as much memory as the base's weights. So is ε, of which the norms of
    the rows are kept.
    """

    @staticmethod
    def forward(ctx, x, weight, bias, places, draws, *factors):
        # With a setup_context of its own, torch would look up signatures at each call, 0.1 ms long.
        ctx.places, ctx.draws = places, draws
        merged = merged_weight(weight, places, factors)
        norms = [rows.norm(dim=1) for _, rows in zip(draws, _rows(merged, places, factors))]
        ctx.save_for_backward(x, weight, *norms, *factors)
        return F.linear(x, _with_noise(merged, places, factors, draws, norms), bias)

    @staticmethod
    def backward(ctx, g):
        x, weight, *rest = ctx.saved_tensors
        norms, factors = rest[: len(ctx.draws)], rest[len(ctx.draws) :]
        of_x = None
        if ctx.needs_input_grad[0]:
            merged = merged_weight(weight, ctx.places, factors)
            of_x = g @ _with_noise(merged, ctx.places, factors, ctx.draws, norms)
        x, g = x.flatten(0, -2), g.flatten(0, -2)
        of_bias = g.sum(0) if ctx.needs_input_grad[2] else None
        of_factors = [None] * len(factors)
        if any(ctx.needs_input_grad[5:]):
            of_factors = []
            for row, s, own in _each(ctx.places, factors):
                rows = g if row is None else g[:, row : row + len(own[-1])]
                of_factors += _gradients(x, rows, s, *own)
        return of_x, None, of_bias, None, None, *of_factors


def merged_linear(x, weight, bias, places, *factors, draws=()):
    return _MergedLinear.apply(x, weight, bias, places, draws, *factors)


def _each(places, factors):
    """Row, s and factors of each segment."""
    factors = iter(factors)
    for row, s, count in places:
        yield row, s, tuple(itertools.islice(factors, count))


def _gradients(x, g, s, first, B=None):
    """Those of a segment's factors; of what beta = 0 multiplies, the shape alone counts."""
    if B is None:
        return [torch.addmm(first, g.T, x, beta=0, alpha=s)]
    # s·(gB)ᵀx and s·gᵀ(xAᵀ), in the order and layout that is fast for a small rank too
    of_A = torch.addmm(first, F.linear(g, B.T.contiguous()).T, x, beta=0, alpha=s)
    return [of_A, torch.addmm(B.T, F.linear(x, first).T, g, beta=0, alpha=s).T]


def merged_weight(weight, places, factors):
    """W + ΔW, with each segment's on the rows that it adapts (SPEC 7.5, 7.7)."""
    if len(places) == 1 and places[0][0] is None:
        return _sum(weight, places[0][1], *factors)
    merged = weight.clone()
    for rows, (_, s, own) in zip(_rows(merged, places, factors), _each(places, factors)):
        rows.copy_(_sum(rows, s, *own))
    return merged


def _rows(merged, places, factors):
    """Those that each segment adapts."""
    for row, _, own in _each(places, factors):
        yield merged if row is None else merged[row : row + len(own[-1])]


def _with_noise(merged, places, factors, draws, norms):
    for draw, of_rows, rows in zip(draws, norms, _rows(merged, places, factors)):
        rows.add_(draw(of_rows, rows.shape[1]))
    return merged


def _sum(weight, s, first, B=None):
    return torch.add(weight, first, alpha=s) if B is None else torch.addmm(weight, B, first, alpha=s)
