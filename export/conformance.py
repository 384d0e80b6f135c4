"""The exported ONNX functions as an implementation that the conformance tests ask (conformance_tests/PROTOCOL.md).

``python -m conformance_tests --impl export.conformance`` runs each function of functions.py in ONNX Runtime, in a small
model of its own, and for ``merge`` the whole of rebuild.py. Requests for keys, the scale of `uniform`, the initial vector and
columns are not answered: a graph gets the first three from its writer, and does not need columns.
"""

import inspect
import math
from functools import lru_cache

import numpy as np
import onnx_ir as ir

from unilora_spec import Projection
from unilora_spec.permutation import check_key
from unilora_spec.program import Program
from unilora_spec.projection import KINDS
from unilora_spec.protocol import (
    SMALL,
    adapter_of,
    answering,
    array_of,
    gather_of,
    numbered,
    pack,
    pack_delta_weight,
    pack_weights,
    projection_of,
    segment_of,
    unpack,
    weights_of,
)

from .graph import programs
from .graph.adapt import Weight, adapt
from .graph.functions import DOMAIN, FUNCTIONS, add_functions
from .graph.rebuild import COMPUTED, GraphTape, shapes, two_scales
from .onnx import OPSETS
from .parity.compare import session

NUMPY = {ir.DataType.FLOAT: np.float32, ir.DataType.INT64: np.int64}


def run(function: str, *inputs, **attributes) -> np.ndarray:
    """What a function of functions.py gives in ONNX Runtime."""
    loaded, types = _loaded(function, **attributes)
    feeds = {name: np.asarray(value, NUMPY[types[name]]) for name, value in zip(types, inputs, strict=True)}
    return loaded.run(None, feeds)[0]


@lru_cache(64)
def _loaded(function, **attributes):
    signature = inspect.signature(FUNCTIONS[function].function)
    types = {
        name: _type(parameter.annotation) for name, parameter in signature.parameters.items() if name not in attributes
    }
    inputs = [_value(name, dtype) for name, dtype in types.items()]
    result = _value("result", _type(signature.return_annotation))
    node = ir.node(function, inputs, attributes, domain=DOMAIN.domain, outputs=[result])
    model = _model(inputs, [result], [node])
    add_functions(model)
    return _session(model), types


def _type(annotation):
    return ir.DataType(getattr(annotation, "dtype", ir.DataType.INT64))  # an index may be int32 too, and has none


def _value(name, dtype=ir.DataType.FLOAT, **constant):
    return ir.Value(name=name, type=ir.TensorType(dtype), **constant)


def _model(inputs, outputs, nodes, initializers=()):
    opsets = {"": OPSETS[0]}
    graph = ir.Graph(inputs, outputs, nodes=nodes, initializers=initializers, opset_imports=opsets, name="asked")
    return ir.Model(graph, ir_version=10)


def _session(model):
    # One thread: starting and ending a pool of them takes longer than running such a model.
    return session(ir.to_proto(model).SerializeToString(), threads=1)


def _mix(r):
    check_key(r["key"])
    return {"mixed": pack(run("Mix", unpack(r["words"], "words"), r["key"]), "mixed")}


def _permutation(r):
    p, x = Projection("balanced", D=r["D"], d=1, seed=int(r["seed"])), unpack(r["x"], "x")
    if len(x):
        p.range_of(int(x.min()), int(x.max()) + 1, p.D)
    return {"y": pack(permuted(p.permutation, x), "y")}


def permuted(pi, x) -> np.ndarray:
    """π(x) for int64[n] x. A graph knows from D how many entries are outside after each pass; here they are counted."""
    y = run("Pass", x, pi.a, pi.keys)
    while outside := np.count_nonzero(y >= pi.D):
        y = run("Walk", y, [outside], pi.a, pi.keys)
    return y


def _index(r):
    return {"index": pack(index_of(gather_of(r), r["start"], r["stop"]), "index")}


def index_of(p, start, stop) -> np.ndarray:
    """The columns of the rows start … stop − 1: int64[stop − start]."""
    start, stop = p.range_of(start, stop, p.D)
    rows = start + run("CountTo", stop - start)
    if p.kind == "identity":
        return rows
    if p.kind == "uniform":
        return run("UniformIndex", rows, p.d, p.keys[6:8])
    return run("Columns", permuted(p.permutation, rows), p.d)


def _expand(r):
    p = projection_of(r)
    return {"theta_D": pack(expanded(p, array_of(r, "theta", p.d), r["start"], r["stop"]), "theta_D")}


def expanded(p, theta, start, stop) -> np.ndarray:
    """θ_D[start:stop] as float32."""
    if isinstance(p, Program):
        start, stop = p.range_of(start, stop, p.D)
        if p.D <= SMALL:
            return _program(p, 0, p.D).run(None, {"theta": theta})[0][start:stop]
        if start == stop:
            return theta[:0]
        rows = _program(p, start, stop).run(None, {"theta": theta})[0]
        first = next(p.pieces(start, stop))[0]
        return rows[start - first : stop - first]
    if p.kind not in ("identity", *COMPUTED):
        return run("Expand", theta, p.scale(), p.index(start, stop))
    index = index_of(p, start, stop)
    scale = run("BalancedScale", p.d, **two_scales(p)) if p.kind == "balanced" else p.scale()
    return run("Expand", theta, scale, index)


@lru_cache(64)
def _program(p, start, stop):
    tape, theta = GraphTape(opset=OPSETS[0]), _value("theta", shape=ir.Shape([p.d]))
    theta_D = programs.theta_D(tape, p, theta, "theta_D", start, stop)
    return _session(_model([theta], [theta_D], tape.nodes, tape.initializers))


def _delta_weight(r):
    adapter = adapter_of(r)
    s, offset = segment_of(r, adapter, adapter.layer_map.placed())
    theta_D = expanded(adapter.projection, adapter.theta, offset, offset + s.size)
    dims = shapes(s)
    flat = np.split(theta_D, np.cumsum([math.prod(shape) for shape in dims])[:-1])
    factors = [run("View", part, dims=tuple(shape)) for part, shape in zip(flat, dims)]
    delta = run("DeltaWeight" if s.rank else "Scaled", *factors, adapter.layer_map.factor_scale(s))
    return pack_delta_weight(s, factors, delta)


def _merge(r):
    adapter, weights = adapter_of(r), weights_of(r)
    shapes = {name: weight.shape for name, weight in weights.items()}
    adapter.check_base(shapes)
    adapter.check_saved(shapes)
    merged = _outputs(numbered(adapter, weights), [*(weights | adapter.saved).values()])
    return {"weights": pack_weights(dict(zip(weights, merged))), "same_contents": adapter.same_contents(weights.get)}


def _outputs(adapter, weights):
    """The weights with ΔW, as the outputs of a graph that holds the rebuild."""
    values = [
        _value(f"{k}.weight", const_value=ir.tensor(weight), shape=ir.Shape(weight.shape))
        for k, weight in enumerate(weights)
    ]
    outputs = [_value(f"{k}.output") for k in range(len(weights))]
    nodes = [ir.node("Identity", [value], outputs=[output]) for value, output in zip(values, outputs)]
    model = _model([], outputs, nodes, values)
    placed = adapter.layer_map.placed_by_weight()
    adapt(
        model,
        [adapter],
        [Weight(value, placed[value.name]) for value in values if value.name in placed],
        [],
        "reconstruct",
    )
    return _session(model).run(None, {})


answer = answering(
    "export",
    {
        "mix": _mix, "permutation": _permutation, "index": _index, "expand": _expand, "delta_weight": _delta_weight,
        "merge": _merge,
    },
    kinds=[kind for kind in KINDS if kind in ("identity", *COMPUTED) or issubclass(KINDS[kind], Program)],
    # of the others the index is a constant of the graph: nothing is computed
)  # fmt: skip
