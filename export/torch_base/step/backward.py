"""PyTorch's operations of a backward pass as they are to stand in a graph: calls of gradients.py's functions, and plain operations where
PyTorch's own decompositions would write into slices."""

import torch
from torch._decomp import decomposition_table

from ...graph.functions import DOMAIN
from ...graph.gradients import GRADIENTS

aten = torch.ops.aten


def _call(name, g, *inputs, **attributes):
    """A call of one of the functions, whose result is in the shape of ``g``."""
    assert name in GRADIENTS
    node = f"{DOMAIN.domain}::{name}"
    return torch.onnx.ops.symbolic(node, (g, *inputs), attributes, dtype=g.dtype, shape=g.shape, version=DOMAIN.version)


def _gelu(g, x, *, approximate="none"):
    if approximate == "none":
        return _call("GeluBackward", g, x)
    return decomposition_table[aten.gelu_backward.default](g, x, approximate=approximate)


def _layer_norm(g, x, shape, mean, deviation, weight, bias, wanted):
    of_x = of_weight = of_bias = None
    rows = list(range(g.dim() - len(shape)))
    if wanted[0]:
        of_normal = g if weight is None else g * weight
        of_x = _call("LayerNormBackward", of_normal, x, mean, deviation, axes=list(range(-len(shape), 0)))
    if wanted[1]:
        of_weight = (g * ((x - mean) * deviation)).sum(rows)
    if wanted[2]:
        of_bias = g.sum(rows)
    return of_x, of_weight, of_bias


def _slice(g, sizes, dim, start, end, step):
    if step != 1:
        return decomposition_table[aten.slice_backward.default](g, sizes, dim, start, end, step)
    start = start if start >= 0 else start + sizes[dim]
    return _between_zeros(g, dim % g.dim(), start, sizes[dim] - start - g.shape[dim])


def _select(g, sizes, dim, index):
    index = index if index >= 0 else index + sizes[dim]
    return _between_zeros(g.unsqueeze(dim), dim % len(sizes), index, sizes[dim] - index - 1)


def _between_zeros(g, dim, before, after):
    """g with zeros around it along an axis, as one Concat."""

    def zeros(length):
        size = list(g.shape)
        size[dim] = length
        return [] if isinstance(length, int) and length == 0 else [g.new_zeros(size)]

    return torch.cat([*zeros(before), g, *zeros(after)], dim)


# torch's exporter gives no sum of weights with a nll_loss, which its backward pass divides by where the loss is a mean.
_OURS_TO_CHOOSE = ("backward", "nll_loss")
DECOMPOSED = {
    op: made for op, made in decomposition_table.items() if any(part in str(op) for part in _OURS_TO_CHOOSE)
} | {
    aten.gelu_backward.default: _gelu,
    aten.tanh_backward.default: lambda g, y: _call("TanhBackward", g, y),
    aten.sigmoid_backward.default: lambda g, y: _call("SigmoidBackward", g, y),
    aten._softmax_backward_data.default: lambda g, y, dim, dtype: _call("SoftmaxBackward", g, y, axes=[dim]),
    aten._log_softmax_backward_data.default: lambda g, y, dim, dtype: _call("LogSoftmaxBackward", g, y, axes=[dim]),
    aten.native_layer_norm_backward.default: _layer_norm,
    aten.slice_backward.default: _slice,
    aten.select_backward.default: _select,
}
"""For make_fx, while the backward pass is traced: PyTorch's own ways of operations that ONNX lacks, and ours."""
