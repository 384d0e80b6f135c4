"""The backward pass as ONNX functions, in the domain "unilora" beside those of functions.py: the adjoint of θ's expansion, and of the
operations whose gradient ONNX has no operator for.

PyTorch's autograd says where they stand; each is what PyTorch computes there, of standard operators alone.
"""

from collections.abc import Sequence

from onnxscript import FLOAT, script
from onnxscript import opset18 as op

from .functions import DOMAIN


@script(DOMAIN, default_opset=op)
def Adjoint(g: FLOAT[...], scale: FLOAT[...], index) -> FLOAT[...]:
    """The gradient of θ of that of θ_D: the sum of g over the rows of each column, times its scale (SPEC 6.3)."""
    nothing = scale * op.Constant(value_float=0.0)
    return op.ScatterElements(nothing, index, g, reduction="add") * scale


@script(DOMAIN, default_opset=op)
def GeluBackward(g: FLOAT[...], x: FLOAT[...]) -> FLOAT[...]:
    """g·(Φ(x) + x·φ(x)), Φ and φ those of the normal distribution."""
    u = x * op.Constant(value_float=0.7071067811865476)  # 1 / √2
    below = op.Erf(u) * op.Constant(value_float=0.5) + op.Constant(value_float=0.5)
    density = op.Exp(op.Neg(u * u)) * op.Constant(value_float=0.3989422804014327)  # 1 / √(2π)
    return g * (below + x * density)


@script(DOMAIN, default_opset=op)
def TanhBackward(g: FLOAT[...], y: FLOAT[...]) -> FLOAT[...]:
    """Of y = tanh(x)."""
    return g * (op.Constant(value_float=1.0) - y * y)


@script(DOMAIN, default_opset=op)
def SigmoidBackward(g: FLOAT[...], y: FLOAT[...]) -> FLOAT[...]:
    """Of y = 1 / (1 + e^−x)."""
    return g * (y - y * y)


@script(DOMAIN, default_opset=op)
def SoftmaxBackward(g: FLOAT[...], y: FLOAT[...], axes: Sequence[int]) -> FLOAT[...]:
    """Of y = softmax(x): y·(g − Σ g·y)."""
    gy = g * y
    return gy - y * op.ReduceSum(gy, op.Constant(value_ints=axes))


@script(DOMAIN, default_opset=op)
def LogSoftmaxBackward(g: FLOAT[...], y: FLOAT[...], axes: Sequence[int]) -> FLOAT[...]:
    """Of y = log softmax(x)."""
    return g - op.Exp(y) * op.ReduceSum(g, op.Constant(value_ints=axes))


@script(DOMAIN, default_opset=op)
def LayerNormBackward(
    g: FLOAT[...], x: FLOAT[...], mean: FLOAT[...], deviation: FLOAT[...], axes: Sequence[int]
) -> FLOAT[...]:
    """Of the normalized x, with its mean and the inverse of its standard deviation: what is left of g without its mean and its part along the result."""
    normal = (x - mean) * deviation
    axis = op.Constant(value_ints=axes)
    along = op.ReduceMean(g * normal, axis)
    return (g - op.ReduceMean(g, axis) - normal * along) * deviation


GRADIENTS = {
    function.name: function
    for function in (
        Adjoint, GeluBackward, TanhBackward, SigmoidBackward, SoftmaxBackward, LogSoftmaxBackward, LayerNormBackward,
    )
}  # fmt: skip
