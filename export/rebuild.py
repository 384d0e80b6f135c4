"""θ's way inside a graph: theta → index → theta_D → A, B → ΔW → W + ΔW, each step a node of our own domain.

Every step depends on constants alone. A runtime that folds constants when it loads a file (ONNX Runtime does) computes
W + ΔW once and then runs what the merged file runs.
"""

import itertools

import numpy as np
import onnx_ir as ir
from onnx_ir.tape import Tape

from unilora_spec import Adapter, Segment, UniLoraError

from .functions import DOMAIN, add_functions

LARGEST_COMPUTED = 2**18
"""The longest index that is computed in the graph. While it folds, ONNX Runtime keeps the result of every node of the
chain: some 1.3 KB an entry, thus 0.3 GB and 0.3 s here, and 2.8 GB for two million entries. Stored, an entry takes 4
bytes of the file. docs/onnx.md has the table."""


def rebuild(model: ir.Model, adapter: Adapter, weights: dict[str, ir.Value]) -> None:
    """Rebuilds ``weights``, the adapted initializers of ``model`` by the adapter's names, from θ inside the graph."""
    if "theta" in {value.name for value in [*model.graph.inputs, *model.graph.initializers.values()]}:
        raise UniLoraError("the model has a tensor named theta itself, which the graph needs for the adapter's vector")
    tape = _Tape()
    theta_D = _theta_D(tape, adapter)
    placed = itertools.groupby(sorted(adapter.layer_map.placed(), key=_by_weight), key=lambda item: item[0].name)
    groups = {name: list(segments) for name, segments in placed}
    for name, W in weights.items():
        uses = W.uses()
        delta = _delta(tape, adapter, theta_D, groups[name], list(W.shape))
        adapted = tape.add("Add", W, delta, name=f"{name}.adapted", shape=W.shape)
        for node, position in uses:
            node.replace_input_with(position, adapted)
    model.graph.insert_before(model.graph[0], tape.nodes)
    for value in tape.initializers:
        model.graph.register_initializer(value)
    add_functions(model)


def factor_name(segment: Segment, factor: str) -> str:
    """The name of A or B in the graph: ``encoder.0.query.weight.A``, or ``….A.row768``, ``….A.index3`` for a part."""
    place = [f".{key}{value}" for key in ("index", "row") if (value := getattr(segment, key)) is not None]
    return f"{segment.name}.{factor}{''.join(place)}"


def index_is_computed(adapter: Adapter) -> bool:
    """Whether the graph computes the index; otherwise it stores it, or needs none."""
    return adapter.projection.kind != "identity" and adapter.projection.D <= LARGEST_COMPUTED


class _Tape(Tape):
    def add(self, op_type, *inputs, name=None, shape=None, domain="", dtype=ir.DataType.FLOAT, **attributes):
        output = ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape) if shape is not None else None)
        return self.op(op_type, inputs, attributes, domain=domain, output=output)

    def call(self, function, *inputs, **keywords):
        return self.add(function, *inputs, domain=DOMAIN.domain, **keywords)

    def constant(self, name, value, dtype=None):
        return self.initializer(ir.Tensor(np.asarray(value, dtype), name=name))

    def integers(self, name, value):
        return self.constant(f"unilora.{name}", value, np.int64)


def _theta_D(tape: _Tape, adapter: Adapter) -> ir.Value:
    p = adapter.projection
    theta = tape.constant("theta", np.asarray(adapter.theta, np.float32))
    if p.kind == "identity":
        return theta
    d = tape.integers("d", p.d)
    index = _index(tape, p, d) if index_is_computed(adapter) else tape.constant("unilora.index", p.index(), np.int32)
    return tape.call("Expand", theta, _scale(tape, p, d), index, name="unilora.theta_D", shape=[p.D])


def _index(tape: _Tape, p, d) -> ir.Value:
    D, result = tape.integers("D", p.D), {"dtype": ir.DataType.INT64, "shape": [p.D]}
    x = tape.call("CountTo", D, name="unilora.i", **result)
    if p.kind == "uniform":
        return tape.call("UniformIndex", x, d, tape.integers("keys", p.keys[6:8]), name="unilora.index", **result)
    a, keys = tape.integers("a", p.permutation.a), tape.integers("keys", p.permutation.keys)
    x = tape.call("Pass", x, a, keys, name="unilora.pass", **result)
    for i in range(_walks(p.permutation)):
        x = tape.call("Walk", x, D, a, keys, name=f"unilora.walk{i + 1}", **result)
    return tape.call("Columns", x, d, name="unilora.index", **result)


def _walks(pi) -> int:
    """How many further passes the entry needs that needs most: D is known, so the graph has no loop (SPEC 4.3)."""
    outside, walks = pi.one_pass(np.arange(pi.D)), 0
    while len(outside := outside[outside >= pi.D]):
        outside, walks = pi.one_pass(outside), walks + 1
    return walks


def _scale(tape: _Tape, p, d) -> ir.Value:
    if p.kind == "uniform":
        return tape.constant("unilora.scale", p.scale())
    return tape.call("BalancedScale", d, **two_scales(p), name="unilora.scale", shape=[p.d])


def two_scales(p) -> dict:
    """The attributes of ``BalancedScale``: how many columns hold one row more, their scale and the others'."""
    return {
        "longer": p.D % p.d,
        "scale_longer": float(p.scale(0, 1)[0]),
        "scale": float(p.scale(p.d - 1, p.d)[0]),
    }


def _by_weight(item):
    segment, _ = item
    return segment.name, segment.index or 0, segment.row or 0


def _delta(tape: _Tape, adapter, theta_D, placed, shape) -> ir.Value:
    """ΔW of one whole weight, of its shape: the segments' delta weights, and zeros between them (SPEC 7.3 to 7.5)."""
    first = placed[0][0]
    if first.index is None:
        return _matrix(tape, adapter, theta_D, placed, shape)
    pieces, end = [], 0
    for index, group in itertools.groupby(placed, key=lambda item: item[0].index):
        pieces += _gap(tape, end, index, shape[1:])
        matrix = _matrix(tape, adapter, theta_D, list(group), shape[1:])
        pieces.append(tape.call("View", matrix, dims=[1, *shape[1:]], shape=[1, *shape[1:]]))
        end = index + 1
    pieces += _gap(tape, end, shape[0], shape[1:])
    return tape.add("Concat", *pieces, axis=0, shape=shape)


def _matrix(tape: _Tape, adapter, theta_D, placed, shape) -> ir.Value:
    first = placed[0][0]
    rows, pieces, end = shape[1 if first.transposed else 0], [], 0
    for segment, offset in placed:
        start = segment.row or 0
        pieces += _gap(tape, end, start, [segment.in_features])
        pieces.append(_segment_delta(tape, adapter, theta_D, segment, offset))
        end = start + segment.out_features
    pieces += _gap(tape, end, rows, [first.in_features])
    delta = pieces[0]
    if len(pieces) > 1:
        delta = tape.add("Concat", *pieces, axis=0, shape=[rows, first.in_features])
    if first.transposed:
        return tape.add("Transpose", delta, perm=[1, 0], shape=shape)
    return delta if len(shape) == 2 else tape.call("View", delta, dims=shape, shape=shape)


def _gap(tape: _Tape, start, end, rest):
    dims = [end - start, *rest]
    return [tape.call("Zeros", dims=dims, shape=dims)] if start < end else []


def _segment_delta(tape: _Tape, adapter, theta_D, s: Segment, offset) -> ir.Value:
    middle, end = offset + s.rank * s.in_features, offset + s.size
    A, B = (
        tape.call("Factor", theta_D, first=[start], end=[stop], dims=dims, shape=dims, name=factor_name(s, name))
        for name, start, stop, dims in (
            ("A", offset, middle, [s.rank, s.in_features]),
            ("B", middle, end, [s.out_features, s.rank]),
        )
    )
    return tape.call(
        "DeltaWeight", A, B, s=float(adapter.layer_map.factor_scale(s)), shape=[s.out_features, s.in_features]
    )
