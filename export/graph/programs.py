"""A program's values (SPEC 11) as nodes of a graph: the seven operations, and frozen numbers as initializers."""

import math

import onnx_ir as ir

from unilora_spec.program import Program, Value, ordered


def theta_D(
    tape, projection: Program, theta: ir.Value, name: str, start: int = 0, stop: int | None = None
) -> ir.Value:
    """θ_D, float32[D], of theta, float32[d]; or of its entries start … stop − 1 what ``projection.pieces`` gives."""
    pieces = [value for _, value in projection.pieces(start, projection.D if stop is None else stop)]
    made: dict[Value, ir.Value] = {}
    for value in ordered(pieces):
        made[value] = _WRITTEN[value.op](tape, value, theta, *(made[each] for each in value.inputs))
    return tape.add("Concat", *(made[value] for value in pieces), axis=0, shape=[sum(value.size for value in pieces)], name=name)


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
