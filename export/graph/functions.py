"""The rebuild of θ_D from θ as ONNX functions, in the domain "unilora": SPEC.md's arithmetic, read as Python.

The functions are built of standard operators alone (opset 18, whose BitwiseXor and BitwiseAnd they need), so that any
runtime which inlines functions, or calls them, runs them. All integers are int64 and never negative, and every product
stays below 2^63 (SPEC 3.2), so that int64 is exact. A shift by n is a division by 2^n: BitShift takes
unsigned integers only, and with one type throughout there is no cast.

Nothing here depends on an adapter: its numbers are inputs and attributes. Functions that others call take inputs alone:
an attribute handed on through two calls is a corner of the standard that no runtime needs to be asked for.
"""

from collections.abc import Mapping, Sequence

import onnx_ir as ir
from onnxscript import BOOL, FLOAT, INT32, INT64, script
from onnxscript import opset18 as op
from onnxscript.values import OnnxFunction, Opset

DOMAIN = Opset("unilora", 1)


@script(DOMAIN, default_opset=op)
def CountTo(end: INT64) -> INT64[...]:
    """0, 1, … end − 1."""
    return op.Range(op.Constant(value_int=0), end, op.Constant(value_int=1))


@script(DOMAIN, default_opset=op)
def Mix(x: INT64[...], key: INT64) -> INT64[...]:
    """The 32-bit mixing function (SPEC 3.1)."""
    two_15 = op.Constant(value_int=2**15)
    two_16 = op.Constant(value_int=2**16)
    low_32 = op.Constant(value_int=2**32 - 1)
    x = op.BitwiseXor(x, key)
    x = op.BitwiseXor(x, x / two_16)
    x = op.BitwiseAnd(x * op.Constant(value_int=0x7FEB352D), low_32)
    x = op.BitwiseXor(x, x / two_15)
    x = op.BitwiseAnd(x * op.Constant(value_int=0x297A2D39), low_32)
    return op.BitwiseXor(x, x / two_16)


@script(DOMAIN, default_opset=op)
def Round(left: INT64[...], right: INT64[...], key: INT64, a: INT64):
    """One Feistel round: (L, R) → (R, (L + f) mod a) with f = (mix(R, key)·a) >> 32 (SPEC 4.2)."""
    f = Mix(right, key) * a / op.Constant(value_int=2**32)
    total = left + f
    return op.Identity(right), op.Where(total < a, total, total - a)


@script(DOMAIN, default_opset=op)
def Pass(x: INT64[...], a: INT64, keys: INT64[...]) -> INT64[...]:
    """One pass of the permutation over 0 … a² − 1: six rounds (SPEC 4.2)."""
    k0, k1, k2, k3, k4, k5 = op.Split(keys, num_outputs=6)
    left = x / a
    right = x - left * a
    left, right = Round(left, right, k0, a)
    left, right = Round(left, right, k1, a)
    left, right = Round(left, right, k2, a)
    left, right = Round(left, right, k3, a)
    left, right = Round(left, right, k4, a)
    left, right = Round(left, right, k5, a)
    return left * a + right


@script(DOMAIN, default_opset=op)
def Walk(x: INT64[...], count: INT64[...], a: INT64, keys: INT64[...]) -> INT64[...]:
    """One more pass for the ``count`` entries, the largest, that are still outside of 0 … D − 1 (SPEC 4.3).

    They could be found by comparing with D, but ONNX Runtime folds no node whose result has a size that it does not know.
    """
    outside, where = op.TopK(x, count)
    return op.ScatterElements(x, where, Pass(outside, a, keys))


@script(DOMAIN, default_opset=op)
def Columns(x: INT64[...], d: INT64) -> INT64[...]:
    """index(i) = π(i) mod d (SPEC 4.5)."""
    return op.Mod(x, d)


@script(DOMAIN, default_opset=op)
def UniformIndex(i: INT64[...], d: INT64, keys: INT64[...]) -> INT64[...]:
    """index(i) = (h·d) >> 32 with h = mix(mix(i mod 2^32, K_6) ^ (i >> 32), K_7) (SPEC 5.1)."""
    two_32 = op.Constant(value_int=2**32)
    k6, k7 = op.Split(keys, num_outputs=2)
    high = i / two_32
    h = Mix(op.BitwiseXor(Mix(i - high * two_32, k6), high), k7)
    return h * d / two_32


@script(DOMAIN, default_opset=op)
def BalancedScale(d: INT64, longer: int, scale_longer: float, scale: float) -> FLOAT[...]:
    """1 / √n_j: the first ``longer`` columns hold one row more than the others (SPEC 4.6, 6.1)."""
    has_more = CountTo(d) < op.Constant(value_int=longer)
    return op.Where(has_more, op.Constant(value_float=scale_longer), op.Constant(value_float=scale))


@script(DOMAIN, default_opset=op)
def IfExact(scale: FLOAT[...], index: INT64[...], known: INT64[...]) -> FLOAT[...]:
    """The scale, or no numbers at all where the index does not begin as is ``known``: a runtime that computes int64 in 32 bits, as
    OpenVINO does, would make another θ_D, and say nothing."""
    begin = op.Slice(index, op.Constant(value_ints=[0]), op.Shape(known))
    same = op.ReduceMin(op.Cast(begin == known, to=INT32.dtype), keepdims=0)
    return op.Where(op.Cast(same, to=BOOL.dtype), scale, op.Constant(value_float=float("nan")))


@script(DOMAIN, default_opset=op)
def Expand(theta: FLOAT[...], scale: FLOAT[...], index) -> FLOAT[...]:
    """θ_D[i] = θ[j]·scale[j], j = index(i): one rounding (SPEC 6.2)."""
    return op.Gather(theta * scale, index)


@script(DOMAIN, default_opset=op)
def ExpandInput(theta: FLOAT[...], scale: FLOAT[...], index) -> FLOAT[...]:
    """The same for a θ that each run brings: Gather copies blocks, here of one number each, and takes ten times as long on
    the CPU. (The reference evaluator of onnx 1.23 cannot do this with more than 64 numbers: evaluator.py.)"""
    return op.GatherElements(theta * scale, index)


@script(DOMAIN, default_opset=op)
def ExpandRows(theta: FLOAT[...], scale: FLOAT[...], index) -> FLOAT[...]:
    """θ_D of several vectors, one a row."""
    rows = op.Slice(op.Shape(theta), op.Constant(value_ints=[0]), op.Constant(value_ints=[1]))
    each = op.Expand(op.Cast(index, to=INT32.dtype), op.Concat(rows, op.Shape(index), axis=0))
    return op.GatherElements(theta * scale, each, axis=1)


@script(DOMAIN, default_opset=op)
def ExpandRowsInline(theta: FLOAT[...], scale: FLOAT[...], index) -> FLOAT[...]:
    """The same by an operator that every runtime has."""
    return op.Gather(theta * scale, index, axis=1)


@script(DOMAIN, default_opset=op)
def NumberInBank(number: INT64[...], bank: FLOAT[...]) -> INT64[...]:
    """A number of each row of the batch, those outside of the bank as its length: Gather would take −1 for the last one, and refuses this."""
    length = op.Slice(op.Shape(bank), op.Constant(value_ints=[0]), op.Constant(value_ints=[1]))
    return op.Where(op.And(number >= op.Constant(value_int=0), number < length), number, length)


@script(DOMAIN, default_opset=op)
def ThetaOfBank(bank: FLOAT[...], number: INT64[...]) -> FLOAT[...]:
    """The vector of each row of the batch; where a runtime does not refuse a number outside of the bank (on a GPU none does), its answers
    are no numbers."""
    length = op.Slice(op.Shape(bank), op.Constant(value_ints=[0]), op.Constant(value_ints=[1]))
    inside = op.Unsqueeze(number < length, op.Constant(value_ints=[1]))
    return op.Where(inside, op.Gather(bank, number), op.Constant(value_float=float("nan")))


@script(DOMAIN, default_opset=op)
def View(x: FLOAT[...], dims: Sequence[int]) -> FLOAT[...]:
    """The same entries in another shape: of a range of θ_D, A or B (SPEC 7.2)."""
    return op.Reshape(x, op.Constant(value_ints=dims))


@script(DOMAIN, default_opset=op)
def Zeros(dims: Sequence[int]) -> FLOAT[...]:
    """The part of a weight that no segment adapts."""
    return op.ConstantOfShape(op.Constant(value_ints=dims))


@script(DOMAIN, default_opset=op)
def DeltaWeight(A: FLOAT[...], B: FLOAT[...], s: FLOAT) -> FLOAT[...]:
    """ΔW = s·B·A (SPEC 7.7)."""
    return s * op.MatMul(B, A)


@script(DOMAIN, default_opset=op)
def Scaled(M: FLOAT[...], s: FLOAT) -> FLOAT[...]:
    """ΔW = s·M of rank 0 (SPEC 7.7)."""
    return s * M


@script(DOMAIN, default_opset=op)
def LowRank(x: FLOAT[...], A: FLOAT[...], B: FLOAT[...], s: FLOAT) -> FLOAT[...]:
    """x·ΔWᵀ without ΔW: what a product with W lacks."""
    return op.MatMul(op.MatMul(x, op.Transpose(A, perm=[1, 0])) * s, op.Transpose(B, perm=[1, 0]))


@script(DOMAIN, default_opset=op)
def PairDelta(A: FLOAT[...], B: FLOAT[...]) -> FLOAT[...]:
    """ΔW of A (in, rank) and s·B (rank, out), as they are fed."""
    return op.Transpose(op.MatMul(A, B), perm=[1, 0])


@script(DOMAIN, default_opset=op)
def PairProduct(x: FLOAT[...], A: FLOAT[...], B: FLOAT[...]) -> FLOAT[...]:
    """x·ΔWᵀ without ΔW, of A (in, rank) and s·B (rank, out)."""
    return op.MatMul(op.MatMul(x, A), B)


@script(DOMAIN, default_opset=op)
def PairLookup(ids, A: FLOAT[...], B: FLOAT[...]) -> FLOAT[...]:
    """The rows ``ids`` of ΔW without ΔW, of A (in, rank) and s·B (rank, out), of which no more than these rows is turned."""
    columns = op.Gather(B, op.Reshape(ids, op.Constant(value_ints=[-1])), axis=1)
    rows = op.MatMul(op.Transpose(columns, perm=[1, 0]), op.Transpose(A, perm=[1, 0]))
    features = op.Slice(op.Shape(A), op.Constant(value_ints=[0]), op.Constant(value_ints=[1]))
    return op.Reshape(rows, op.Concat(op.Shape(ids), features, axis=0))


@script(DOMAIN, default_opset=op)
def LowRankRows(x: FLOAT[...], A: FLOAT[...], B: FLOAT[...], s: FLOAT) -> FLOAT[...]:
    """The same, where each row of the batch has its own A and B."""
    return op.MatMul(op.MatMul(x, op.Transpose(A, perm=[0, 2, 1])) * s, op.Transpose(B, perm=[0, 2, 1]))


@script(DOMAIN, default_opset=op)
def LowRankLookup(ids, A: FLOAT[...], B: FLOAT[...], s: FLOAT) -> FLOAT[...]:
    """The rows ``ids`` of ΔW without ΔW: what a lookup in W lacks."""
    return op.MatMul(op.Gather(B, ids) * s, A)


@script(DOMAIN, default_opset=op)
def LowRankLookupRows(ids, A: FLOAT[...], B: FLOAT[...], s: FLOAT) -> FLOAT[...]:
    """The same, where each row of the batch has its own A and B."""
    rows = op.GatherND(B, op.Unsqueeze(ids, op.Constant(value_ints=[-1])), batch_dims=1)
    return op.MatMul(rows * s, A)


@script(DOMAIN, default_opset=op)
def Product(x: FLOAT[...], W: FLOAT[...]) -> FLOAT[...]:
    """x·Wᵀ."""
    return op.MatMul(x, op.Transpose(W, perm=[1, 0]))


@script(DOMAIN, default_opset=op)
def ProductRows(x: FLOAT[...], W: FLOAT[...]) -> FLOAT[...]:
    """The same, where each row of the batch has its own W."""
    return op.MatMul(x, op.Transpose(W, perm=[0, 2, 1]))


@script(DOMAIN, default_opset=op)
def Lookup(ids, W: FLOAT[...]) -> FLOAT[...]:
    """The rows ``ids`` of W."""
    return op.Gather(W, ids)


@script(DOMAIN, default_opset=op)
def LookupRows(ids, W: FLOAT[...]) -> FLOAT[...]:
    """The same, where each row of the batch has its own W."""
    return op.GatherND(W, op.Unsqueeze(ids, op.Constant(value_ints=[-1])), batch_dims=1)


@script(DOMAIN, default_opset=op)
def AddRows(x: FLOAT[...], b: FLOAT[...]) -> FLOAT[...]:
    """x + b, where each row of the batch has its own b."""
    return x + op.Unsqueeze(b, op.Constant(value_ints=[1]))


@script(DOMAIN, default_opset=op)
def Rows(x: FLOAT[...], batch: FLOAT[...]) -> FLOAT[...]:
    """x as (rows of the batch, all between, features), whatever its shape: x starts with the batch."""
    first = op.Slice(op.Shape(batch), op.Constant(value_ints=[0]), op.Constant(value_ints=[1]))
    last = op.Slice(op.Shape(x), op.Constant(value_ints=[-1]), op.Constant(value_ints=[2**31 - 1]))
    return op.Reshape(x, op.Concat(first, op.Constant(value_ints=[-1]), last, axis=0))


@script(DOMAIN, default_opset=op)
def Unrows(y: FLOAT[...], x: FLOAT[...]) -> FLOAT[...]:
    """y in the shape of x, but for its last axis."""
    dims = op.Slice(op.Shape(x), op.Constant(value_ints=[0]), op.Constant(value_ints=[-1]))
    return op.Reshape(y, op.Concat(dims, op.Constant(value_ints=[-1]), axis=0))


FUNCTIONS = {
    function.name: function
    for function in (
        CountTo, Mix, Round, Pass, Walk, Columns, UniformIndex, BalancedScale, IfExact, Expand, ExpandInput, ExpandRows,
        ExpandRowsInline, NumberInBank, ThetaOfBank, View, Zeros, DeltaWeight, Scaled, PairDelta, PairProduct, PairLookup, LowRank, LowRankRows, LowRankLookup, LowRankLookupRows, Product, ProductRows,
        Lookup, LookupRows, AddRows, Rows, Unrows,
    )
}  # fmt: skip


def add_functions(model: ir.Model, known: Mapping[str, OnnxFunction] = FUNCTIONS) -> None:
    """Gives a model those of the ``known`` functions that its nodes call, directly or through others."""
    opset = model.opset_imports[""]
    wanted = {node.op_type for node in model.graph.all_nodes() if node.domain == DOMAIN.domain}
    while wanted:
        function = ir.from_proto(known[wanted.pop()].to_function_proto())
        function.opset_imports[""] = opset
        model.functions[function.identifier()] = function
        calls = {node.op_type for node in function if node.domain == DOMAIN.domain}
        wanted |= calls - {name for _, name, _ in model.functions}
    ordered = sorted(model.functions.items(), key=lambda item: list(known).index(item[0][1]))
    model.functions.clear()
    model.functions.update(ordered)
    model.opset_imports[DOMAIN.domain] = DOMAIN.version
