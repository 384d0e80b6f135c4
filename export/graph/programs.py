"""A program's values (SPEC 11) as nodes of a graph: the seven operations, and frozen numbers as initializers."""

import math
from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from unilora_spec.program import Program, Value, ordered


class Written(NamedTuple):
    """θ_D in a graph, and all that it is made of: ``pieces`` one behind the other are θ_D, and ``made`` has for each ``Value`` its value in
    the graph."""

    theta_D: ir.Value
    pieces: list[Value]
    made: dict[Value, ir.Value]


def theta_D(tape, projection: Program, theta: ir.Value, name: str, start: int = 0, stop: int | None = None) -> ir.Value:
    """θ_D, float32[D], of theta, float32[d]; or of its entries start … stop − 1 what ``projection.pieces`` gives."""
    return written(tape, projection, theta, name, start, stop).theta_D


def written(tape, projection: Program, theta: ir.Value, name: str, start: int = 0, stop: int | None = None) -> Written:
    """``theta_D`` with all values that it is made of."""
    pieces = [value for _, value in projection.pieces(start, projection.D if stop is None else stop)]
    made: dict[Value, ir.Value] = {}
    for value in ordered(pieces):
        made[value] = _WRITTEN[value.op](tape, value, theta, *(made[each] for each in value.inputs))
    whole = tape.add(
        "Concat", *(made[value] for value in pieces), axis=0, shape=[sum(value.size for value in pieces)], name=name
    )
    return Written(whole, pieces, made)


def _operation(op_type):
    return lambda tape, value, theta, *inputs: tape.add(op_type, *inputs, shape=value.shape)


def _frozen(tape, value, theta):
    number = sum(each.name.startswith("unilora.frozen") for each in tape.initializers)
    return tape.constant(f"unilora.frozen{number}", value.array)


def _range(tape, value, theta):
    stop = value.how + math.prod(value.shape)
    flat = _slice(tape, theta, [slice(value.how, stop)], [stop - value.how])
    return _reshaped(tape, flat, value.shape)


def _part(tape, value, theta, x):
    return _slice(tape, x, value.how, value.shape)


def _slice(tape, x, slices, shape):
    starts, stops, axes = [s.start for s in slices], [s.stop for s in slices], list(range(len(slices)))
    bounds = [_numbers(tape, each) for each in (starts, stops, axes)]
    return tape.add("Slice", x, *bounds, shape=shape)


def _reshape(tape, value, theta, x):
    return _reshaped(tape, x, value.shape)


def _reshaped(tape, x, shape):
    return tape.add("Reshape", x, _numbers(tape, shape), shape=shape)


def _numbers(tape, numbers):
    return tape.integers("numbers." + ".".join(map(str, numbers)), list(numbers))


def _take(tape, value, theta, x, index):
    return tape.add("Gather", x, index, axis=0, shape=value.shape)


_WRITTEN = {
    "theta": _range, "frozen": _frozen, "part": _part, "reshape": _reshape, "take": _take, "add": _operation("Add"),
    "subtract": _operation("Sub"), "multiply": _operation("Mul"), "matmul": _operation("MatMul"),
}  # fmt: skip


def adjoint(tape, written: Written, d: int, g: ir.Value) -> ir.Value:
    """The gradient of theta, float32[d], where ``g`` is that of the θ_D that is ``written``: the operations in reverse, each by its adjoint
    (SPEC 11.4)."""
    order, trained, made = ordered(written.pieces), set(), written.made
    for value in order:
        if value.op == "theta" or not trained.isdisjoint(value.inputs):
            trained.add(value)
    gradients: dict[Value, ir.Value] = {}
    for value, part in zip(written.pieces, _split(tape, g, [value.size for value in written.pieces])):
        _add(tape, gradients, value, part)
    of_ranges: dict[tuple[int, int], ir.Value] = {}
    for value in reversed(order):
        if value not in trained or value not in gradients:
            continue
        of_value = gradients.pop(value)
        if value.op == "theta":
            _add(tape, of_ranges, (value.how, value.size), _reshaped(tape, of_value, (value.size,)))
            continue
        of_inputs = _ADJOINTS[value.op](tape, value, of_value, *(made[each] for each in value.inputs))
        for each, of_input in zip(value.inputs, of_inputs):
            if each in trained:
                _add(tape, gradients, each, of_input())
    return _joined(tape, of_ranges, d)


def _split(tape, g, sizes):
    if len(sizes) == 1:
        return [g]
    parts = [
        ir.Value(name=f"{tape.prefix}.piece{i}.grad", type=ir.TensorType(ir.DataType.FLOAT)) for i in range(len(sizes))
    ]
    return tape.op_multi_out("Split", [g, _numbers(tape, sizes)], {"axis": 0}, outputs=parts)


def _add(tape, gradients, key, g):
    gradients[key] = tape.add("Add", gradients[key], g, shape=g.shape) if key in gradients else g


def _joined(tape, of_ranges, d):
    """θ's gradient from those of its ranges, which do not overlap; a range that nothing is made of has zeros."""
    parts, end = [], 0
    for (start, size), part in [*sorted(of_ranges.items()), ((d, 0), None)]:
        if start > end:
            parts.append(tape.constant(f"unilora.zeros{start - end}", np.zeros(start - end, np.float32)))
        parts += [part] if size else []
        end = start + size
    return tape.add("Concat", *parts, axis=0, shape=[d])


def _summed_to(tape, shape, g, wide):
    """The gradient of an array that was broadcast to the shape ``wide``."""
    more = len(wide) - len(shape)
    if more:
        g = tape.add("ReduceSum", g, _numbers(tape, range(more)), keepdims=0, shape=wide[more:])
    if axes := [i for i, n in enumerate(shape) if n != wide[more + i]]:
        g = tape.add("ReduceSum", g, _numbers(tape, axes), shape=shape)
    return g


def _of_elementwise(of_x, of_y):
    def adjoints(tape, value, g, x, y):
        one, other = value.inputs
        yield lambda: _summed_to(tape, one.shape, of_x(tape, g, x, y), value.shape)
        yield lambda: _summed_to(tape, other.shape, of_y(tape, g, x, y), value.shape)

    return adjoints


def _of_matmul(tape, value, g, x, y):
    one, other = value.inputs
    yield lambda: tape.add("MatMul", g, tape.add("Transpose", y, perm=[1, 0]), shape=one.shape)
    yield lambda: tape.add("MatMul", tape.add("Transpose", x, perm=[1, 0]), g, shape=other.shape)


def _of_part(tape, value, g, x):
    (whole,) = value.inputs
    after = [n - s.stop for s, n in zip(value.how, whole.shape)]
    yield lambda: tape.add("Pad", g, _numbers(tape, [s.start for s in value.how] + after), shape=whole.shape)


def _of_reshape(tape, value, g, x):
    yield lambda: _reshaped(tape, g, value.inputs[0].shape)


def _of_take(tape, value, g, x, index):
    whole = value.inputs[0].shape

    def added():
        zeros = tape.constant(f"unilora.zeros{'x'.join(map(str, whole))}", np.zeros(whole, np.float32))
        places = tape.add("Unsqueeze", index, _numbers(tape, [-1]), dtype=ir.DataType.INT64)
        return tape.add("ScatterND", zeros, places, g, reduction="add", shape=whole)

    yield added


def _same(tape, g, x, y):
    return g


_ADJOINTS = {
    "add": _of_elementwise(_same, _same),
    "subtract": _of_elementwise(_same, lambda tape, g, x, y: tape.add("Neg", g)),
    "multiply": _of_elementwise(lambda tape, g, x, y: tape.add("Mul", g, y), lambda tape, g, x, y: tape.add("Mul", g, x)),
    "matmul": _of_matmul, "part": _of_part, "reshape": _of_reshape, "take": _of_take,
}  # fmt: skip
"""The gradients of each operation's inputs, made where they are asked for."""
