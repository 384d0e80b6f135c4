"""PyTorch's operations of a backward pass as they are to stand in a graph: whole where gradients.py has a function, of plain operations where
PyTorch's own decompositions would write into slices."""

import torch
from onnxscript import opset18 as op
from torch._decomp import decomposition_table

from ...graph import gradients

aten = torch.ops.aten


def _between_zeros(g, dim, before, after):
    """g with zeros around it along an axis, as one Concat."""
    sizes = [list(g.shape) for _ in range(2)]
    sizes[0][dim], sizes[1][dim] = before, after
    zeros = [[] if isinstance(n, int) and n == 0 else [g.new_zeros(size)] for n, size in zip((before, after), sizes)]
    return torch.cat([*zeros[0], g, *zeros[1]], dim)


def _slice_backward(g, sizes, dim, start, end, step):
    if step != 1:
        return decomposition_table[aten.slice_backward.default](g, sizes, dim, start, end, step)
    start = start if start >= 0 else start + sizes[dim]
    return _between_zeros(g, dim % g.dim(), start, sizes[dim] - start - g.shape[dim])


def _select_backward(g, sizes, dim, index):
    index = index if index >= 0 else index + sizes[dim]
    return _between_zeros(g.unsqueeze(dim), dim % len(sizes), index, sizes[dim] - index - 1)


def _gelu_backward(g, x, *, approximate="none"):
    if approximate == "none":
        return NotImplemented  # it stays whole
    return decomposition_table[aten.gelu_backward.default](g, x, approximate=approximate)


def _layer_norm_backward(g, x, shape, mean, deviation, weight, bias, wanted):
    """What the weight and the bias do apart, so that one function is left for what normalizes."""
    if weight is None and wanted == [True, False, False]:
        return NotImplemented
    of_normal = g if weight is None else g * weight
    of_x = of_weight = of_bias = None
    if wanted[0]:
        of_x = aten.native_layer_norm_backward(of_normal, x, shape, mean, deviation, None, None, [True, False, False])[0]
    rows = list(range(g.dim() - len(shape)))
    if wanted[1]:
        of_weight = (g * ((x - mean) * deviation)).sum(rows)
    if wanted[2]:
        of_bias = g.sum(rows)
    return of_x, of_weight, of_bias


DECOMPOSED = {
    aten.slice_backward.default: _slice_backward,
    aten.select_backward.default: _select_backward,
    aten.gelu_backward.default: _gelu_backward,
    aten.native_layer_norm_backward.default: _layer_norm_backward,
}
"""For make_fx, while the backward pass is traced."""

TRANSLATED = {
    aten.gelu_backward.default: lambda g, x, approximate="none": gradients.GeluBackward(g, x),
    aten.tanh_backward.default: lambda g, y: gradients.TanhBackward(g, y),
    aten.sigmoid_backward.default: lambda g, y: gradients.SigmoidBackward(g, y),
    aten._softmax_backward_data.default: lambda g, y, dim, dtype: gradients.SoftmaxBackward(g, y, axes=[dim]),
    aten._log_softmax_backward_data.default: lambda g, y, dim, dtype: gradients.LogSoftmaxBackward(g, y, axes=[dim]),
    aten.native_layer_norm_backward.default: lambda g, x, shape, mean, deviation, weight, bias, wanted: (
        gradients.LayerNormBackward(g, x, mean, deviation, axes=list(range(-len(shape), 0))),
        op.Identity(mean),
        op.Identity(mean),  # nobody asks for these two
    ),
}
"""For torch's exporter, what each is in ONNX."""
