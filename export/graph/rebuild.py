"""θ's way inside a graph: theta → index → theta_D → A and B of each segment, or of rank 0 its M (SPEC 7.2), each step a node
of our own domain.

Where theta is a constant, so is all that follows: a runtime that folds constants when it loads a file (ONNX Runtime does)
computes it once. Where theta is an input, the index is still a constant, and each run gathers.
"""

import itertools
from typing import NamedTuple

import numpy as np
import onnx_ir as ir
from onnx_ir.tape import Tape

from unilora_spec import Adapter, Projection, Segment
from unilora_spec.program import Program

from ..folders.peft_names import PREFIX
from . import programs
from .functions import DOMAIN

LARGEST_COMPUTED = 2**18
"""The longest index that is computed in the graph. While it folds, ONNX Runtime keeps the result of every node of the
chain: some 1.5 KB an entry, thus 0.4 GB and 0.3 s here, and 2.9 GB for two million entries. Stored, an entry takes 4
bytes of the file. docs/onnx.md has the table."""
COMPUTING_OPSET = 18  # brought BitwiseXor and BitwiseAnd
KNOWN = 64
"""The entries of a computed index that a graph compares with what they have to be. Where integers overflow, every entry is another
number below d: of 64 some differ, unless d is 1 and all are 0."""


class GraphTape(Tape):
    """Nodes and constants that are to go into a graph.

    Results are named after ``prefix``, as names that a graph chooses by itself may be in use in its branches. The index of P is made of
    operators that ``opset``, the graph's, has: a tape on which none is made may be without it. ``inline`` is for runtimes of which
    nothing is known: their nodes need neither int64 nor operators that are seldom used.
    """

    def __init__(self, prefix: str = "unilora", *, opset: int | None = None, inline: bool = False):
        super().__init__()
        self.opset, self.prefix, self.inline, self._constants = opset, prefix, inline, {}

    def add(self, op_type, *inputs, name=None, shape=None, domain="", dtype=ir.DataType.FLOAT, **attributes):
        name = name or f"{self.prefix}.{len(self.nodes)}"
        output = ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape) if shape is not None else None)
        return self.op(op_type, inputs, attributes, domain=domain, output=output)

    def call(self, function, *inputs, **keywords):
        return self.add(function, *inputs, domain=DOMAIN.domain, **keywords)

    def constant(self, name, value, dtype=None) -> ir.Value:
        """An initializer; the same name gives the same one."""
        if name not in self._constants:
            self._constants[name] = self.initializer(ir.Tensor(np.asarray(value, dtype), name=name))
        return self._constants[name]

    def integers(self, name, value):
        return self.constant(f"unilora.{name}", value, np.int64)

    def cast(self, value, dtype, name=None):
        """``value`` in ``dtype``, itself where it has it."""
        if value.dtype == dtype:
            return value
        return self.add("Cast", value, to=int(dtype), dtype=dtype, shape=value.shape, name=name)


class Pair(NamedTuple):
    """A (in, rank) and s·B (rank, out) of a segment, as they are fed: of any rank."""

    A: ir.Value
    B: ir.Value


def factors(
    tape: GraphTape, adapter: Adapter, theta: ir.Value, rows=None, fed=False
) -> dict[int, tuple[ir.Value, ...]]:
    """A and B in float32, by the offsets of the segments in θ_D: (rank, in) and (out, rank); of rank 0, M (out, in).

    ``theta`` is of shape [d], or [rows, d] where each row of the batch has its own; then each has ``rows`` in front.
    ``fed``: each run may bring another one.
    """
    return factors_of(tape, adapter, expansion(tape, adapter, theta, rows, fed=fed).theta_D, rows)


def factors_of(tape: GraphTape, adapter: Adapter, theta_D: ir.Value, rows=None) -> dict[int, tuple[ir.Value, ...]]:
    """``factors`` from θ_D."""
    placed = list(adapter.layer_map.placed())
    dims = [shape for s, _ in placed for shape in shapes(s)]
    flat = tape.op_multi_out(
        "Split",
        [theta_D, tape.integers("sizes", [a * b for a, b in dims])],
        {"axis": 0 if rows is None else 1},
        outputs=[ir.Value(name=f"unilora.part{i}", type=ir.TensorType(ir.DataType.FLOAT)) for i in range(len(dims))],
    )
    names = [factor_name(s, name) for s, _ in placed for name in ("AB" if s.rank else "M")]
    first = ([], []) if rows is None else ([0], [rows])  # 0: as many as there are
    shaped = iter(
        tape.call("View", part, dims=first[0] + shape, shape=first[1] + shape, name=name)
        for part, shape, name in zip(flat, dims, names)
    )
    return {offset: tuple(itertools.islice(shaped, len(shapes(s)))) for s, offset in placed}


def shapes(segment: Segment) -> list[list[int]]:
    """The shapes of a segment's factors, in their order in θ_D (SPEC 7.2)."""
    if segment.rank == 0:
        return [[segment.out_features, segment.in_features]]
    return [[segment.rank, segment.in_features], [segment.out_features, segment.rank]]


def factor_name(segment: Segment, factor: str) -> str:
    """The name of A, B or M in the graph: ``encoder.0.query.weight.A``, or ``….A.row768``, ``….A.index3`` for a part."""
    place = [f".{key}{value}" for key in ("index", "row") if (value := getattr(segment, key)) is not None]
    return f"{segment.name}.{factor}{''.join(place)}"


def lora_name(segment: Segment, factor: str) -> str:
    """The name under which A or s·B is fed: ``model.layers.0.self_attn.q_proj.lora_A.weight``, as Olive's ``convert-adapters`` makes
    it of PEFT's; ``….row768.lora_A.weight``, ``….index3.lora_A.weight`` for a part."""
    module = factor_name(segment, "weight").replace(".weight.weight", "")
    return f"{PREFIX}{module}.lora_{factor}.weight".replace(f"{PREFIX}model", "model")


def pairs(adapter: Adapter) -> dict[str, np.ndarray]:
    """A (in, rank) and s·B (rank, out) of each segment by the names under which they are fed, float32."""
    found = {}
    for segment, A, B in adapter.factors():
        scaled = adapter.layer_map.factor_scale(segment) * B
        found[lora_name(segment, "A")] = np.ascontiguousarray(A.T)
        found[lora_name(segment, "B")] = np.ascontiguousarray(scaled.T)
    return found


def index_words(adapter: Adapter, opset: int, inline: bool = False) -> str:
    """Where a graph gets the index from, and why, in words for its report."""
    p = adapter.projection
    if p.kind == "identity":
        return "none needed: theta is theta_D"
    if isinstance(p, Program):
        return f"none: theta_D of kind {p.kind} is a program of theta and of frozen numbers, which are stored"
    if _index_is_computed(p, opset, inline):
        return "computed in the graph"
    why = f"D = {p.D:,} is above {LARGEST_COMPUTED:,}, from where computing it would slow down loading"
    if p.kind not in COMPUTED:
        why = f"the kind {p.kind} has no other"
    elif opset < COMPUTING_OPSET:
        why = f"computing it needs operators of opset {COMPUTING_OPSET}, the base has {opset}"
    elif inline:
        why = "computing it needs integers of 64 bits, which not every runtime has"
    return f"stored, 4 bytes an entry: {why}"


def _index_is_computed(p, opset, inline) -> bool:
    return p.kind in COMPUTED and p.D <= LARGEST_COMPUTED and opset >= COMPUTING_OPSET and not inline


class Expansion(NamedTuple):
    """θ_D, and what its adjoint needs: for a gather its scale and its index, for a program all values that it is made of."""

    theta_D: ir.Value
    projection: Projection
    scale: ir.Value | None = None
    index: ir.Value | None = None
    program: programs.Written | None = None

    def adjoint(self, tape: GraphTape, g: ir.Value) -> ir.Value:
        """The gradient of θ, float32[d], where ``g`` is that of θ_D (SPEC 6.3, 11.4)."""
        d = self.projection.d
        if self.program:
            return programs.adjoint(tape, self.program, d, g)
        if self.index is None:  # θ is θ_D
            return tape.add("Identity", g, shape=[d])
        return tape.call("Adjoint", g, self.scale, self.index, shape=[d])


def expansion(tape: GraphTape, adapter: Adapter, theta: ir.Value, rows=None, *, fed: bool) -> Expansion:
    """θ_D of theta, as ``factors`` takes it."""
    p = adapter.projection
    if p.kind == "identity":
        return Expansion(theta, p)
    if isinstance(p, Program):
        program = programs.written(tape, p, theta, "unilora.theta_D")
        return Expansion(program.theta_D, p, program=program)
    d = tape.integers("d", p.d)
    scale = _scale(tape, p, d)
    if _index_is_computed(p, tape.opset, tape.inline):
        index = COMPUTED[p.kind](tape, p, d)
        known = tape.integers("known", p.index(0, min(p.D, KNOWN)))
        scale = tape.call("IfExact", scale, index, known, shape=scale.shape)
    else:
        index = tape.constant("unilora.index", p.index(), np.int32)
    expand, shape = "ExpandInput" if fed and not tape.inline else "Expand", [p.D]
    if rows is not None:
        expand, shape = "ExpandRowsInline" if tape.inline else "ExpandRows", [rows, p.D]
    return Expansion(tape.call(expand, theta, scale, index, name="unilora.theta_D", shape=shape), p, scale, index)


def _balanced_index(tape: GraphTape, p, d) -> ir.Value:
    result = {"dtype": ir.DataType.INT64, "shape": [p.D]}
    x = tape.call("CountTo", tape.integers("D", p.D), name="unilora.i", **result)
    a, keys = tape.integers("a", p.permutation.a), tape.integers("keys", p.permutation.keys)
    x = tape.call("Pass", x, a, keys, name="unilora.pass", **result)
    for i, outside in enumerate(_walks(p.permutation), 1):
        count = tape.integers(f"outside{i}", [outside])
        x = tape.call("Walk", x, count, a, keys, name=f"unilora.walk{i}", **result)
    return tape.call("Columns", x, d, name="unilora.index", **result)


def _uniform_index(tape: GraphTape, p, d) -> ir.Value:
    result = {"dtype": ir.DataType.INT64, "shape": [p.D]}
    x = tape.call("CountTo", tape.integers("D", p.D), name="unilora.i", **result)
    return tape.call("UniformIndex", x, d, tape.integers("keys", p.keys[6:8]), name="unilora.index", **result)


COMPUTED = {"balanced": _balanced_index, "uniform": _uniform_index}


def _walks(pi) -> list[int]:
    """How many entries each further pass is for: D is known, so the graph has no loop and no unknown sizes (SPEC 4.3)."""
    outside, walks = pi.one_pass(np.arange(pi.D)), []
    while len(outside := outside[outside >= pi.D]):
        walks.append(len(outside))
        outside = pi.one_pass(outside)
    return walks


def _scale(tape: GraphTape, p, d) -> ir.Value:
    if p.kind != "balanced":
        return tape.constant("unilora.scale", p.scale())
    return tape.call("BalancedScale", d, **two_scales(p), name="unilora.scale", shape=[p.d])


def two_scales(p) -> dict:
    """The attributes of ``BalancedScale``: how many columns hold one row more, their scale and the others'."""
    scale = p.scale()
    return {"longer": p.D % p.d, "scale_longer": float(scale[0]), "scale": float(scale[-1])}


def delta(tape: GraphTape, adapter: Adapter, factors, placed, shape) -> ir.Value:
    """ΔW in float32 of one whole weight, in the shape in which it is stored: the segments' delta weights, and zeros
    between them (SPEC 7.3 to 7.5). ``placed`` are its segments, as it is stored, with their offsets in θ_D."""
    placed = sorted(placed, key=lambda item: (item[0].index or 0, item[0].row or 0))
    if placed[0][0].index is None:
        return _matrix(tape, adapter, factors, placed, shape)
    pieces, end = [], 0
    for index, group in itertools.groupby(placed, key=lambda item: item[0].index):
        pieces += _gap(tape, end, index, shape[1:])
        matrix = _matrix(tape, adapter, factors, list(group), shape[1:])
        pieces.append(tape.call("View", matrix, dims=[1, *shape[1:]], shape=[1, *shape[1:]]))
        end = index + 1
    pieces += _gap(tape, end, shape[0], shape[1:])
    return tape.add("Concat", *pieces, axis=0, shape=shape)


def product(tape: GraphTape, adapter: Adapter, segment: Segment, factors, shape=None) -> ir.Value:
    """ΔW of a segment in float32 (SPEC 7.7)."""
    if isinstance(factors, Pair):
        return tape.call("PairDelta", *factors, shape=shape)
    function = "DeltaWeight" if segment.rank else "Scaled"
    return tape.call(function, *factors, scale_of(tape, adapter, segment), shape=shape)


def scale_of(tape: GraphTape, adapter: Adapter, segment: Segment, dtype=ir.DataType.FLOAT) -> ir.Value:
    """s of a segment, cast once (SPEC 7.7). Segments of the same rank share it."""
    s = adapter.layer_map.factor_scale(segment)
    return tape.constant(f"unilora.s.rank{segment.rank}.{dtype.name.lower()}", s, dtype.numpy())


def _matrix(tape: GraphTape, adapter, factors, placed, shape) -> ir.Value:
    first = placed[0][0]
    rows, pieces, end = shape[1 if first.transposed else 0], [], 0
    for segment, offset in placed:
        start = segment.row or 0
        pieces += _gap(tape, end, start, [segment.in_features])
        size = [segment.out_features, segment.in_features]
        pieces.append(product(tape, adapter, segment, factors[offset], size))
        end = start + segment.out_features
    pieces += _gap(tape, end, rows, [first.in_features])
    delta = pieces[0]
    if len(pieces) > 1:
        delta = tape.add("Concat", *pieces, axis=0, shape=[rows, first.in_features])
    if first.transposed:
        return tape.add("Transpose", delta, perm=[1, 0], shape=shape)
    return delta if len(shape) == 2 else tape.call("View", delta, dims=shape, shape=shape)


def _gap(tape: GraphTape, start, end, rest):
    dims = [end - start, *rest]
    return [tape.call("Zeros", dims=dims, shape=dims)] if start < end else []
