"""Kind `balanced` on a GPU without an index in memory: each kernel computes π, or π⁻¹, where it needs it (SPEC 3, 4, 6).

The requirements, and how they are met:

1. The bits of ``index`` and ``expand`` are the specification's; those of ``adjoint`` are the same at each run and on each
   device. Integers are uint32 (SPEC 1.4), and ``_splits`` writes down the order of each float32 sum: there are no atomics,
   no ``tl.sum``, whose order is its layout's, and no fused products. ``BLOCK`` and warps only deal lanes to programs.
2. One compilation serves every seed, D and d (two, below and from D = 2^32): scalars have annotated types, and none is
   specialized on. By itself Triton compiles anew for a key from 2^31 on, and for 1 and multiples of 16.
3. Nothing is copied to the device or read back, so that CUDA graphs can capture each call.

``TRITON_INTERPRET=1``, set before Triton is imported, runs them on a CPU, as the tests do.
"""

import torch
import triton
import triton.language as tl

from unilora_spec import Projection

# One warp a program: the maximum that ends a walk is then taken within a warp, without a barrier, and few lanes wait for
# the one that walks longest.
BLOCK, OPTIONS = 128, {"num_warps": 1, "enable_fp_fusion": False}
# Constants, not the device's, as the order of addition follows from them: about the threads that a large GPU holds, and
# how many partial sums of a column one lane may have to add up.
LANES, MOST_SPLITS = 2**18, 1024


def index(D: int, d: int, seed: int, device, start: int = 0, stop: int | None = None) -> torch.Tensor:
    """The columns of the rows start … stop − 1: int32[stop − start] on ``device`` (SPEC 4.5).

    Raises ``LimitError`` for D, d, seed or rows out of range.
    """
    p = Projection("balanced", D=D, d=d, seed=seed)
    start, stop = p.range_of(start, stop, D)
    out = torch.empty(stop - start, dtype=torch.int32, device=device)
    _launch(_index, out, *_permutation(p), start, len(out))
    return out


def expand(theta, D: int, seed: int, dtype=torch.float32, start: int = 0, stop: int | None = None) -> torch.Tensor:
    """θ_D[start:stop] as ``dtype``[stop − start] of θ, float[d]: rounded to float32, then to ``dtype`` (SPEC 6.2).

    Raises ``LimitError`` for D, d, seed or rows out of range.
    """
    p = Projection("balanced", D=D, d=len(theta), seed=seed)
    start, stop = p.range_of(start, stop, D)
    out = torch.empty(stop - start, dtype=dtype, device=theta.device)
    _launch(_expand, out, theta.contiguous(), *_scales(p), *_permutation(p), start, len(out))
    return out


def adjoint(g, d: int, D: int, seed: int, start: int = 0) -> torch.Tensor:
    """Pᵀg as float32[d]. ``g``, float[n], is the gradient of θ_D[start : start + n]; the rest counts as zero (SPEC 6.3).

    Walks all D rows, also for a short ``g``. Raises ``LimitError`` for D, d, seed or rows out of range.
    """
    p = Projection("balanced", D=D, d=d, seed=seed)
    start, stop = p.range_of(start, start + len(g), D)
    splits, chunk = _splits(D, d)
    partial = torch.empty(splits * d, dtype=torch.float32, device=g.device)
    out = torch.empty(d, dtype=torch.float32, device=g.device)
    _launch(_partial_sums, partial, g.contiguous(), *_permutation(p), start, stop - start, chunk, len(partial))
    _launch(_totals, out, partial, *_scales(p), d, splits)
    return out


def _splits(D, d):
    """(splits, chunk): in how many parts a column is summed, and how many of its rows each part has.

    The rows of column j are π⁻¹(j + k·d) for k = 0, 1, … n_j − 1 (SPEC 4.6). Part s starts with 0 and adds the gradients of
    k = s·chunk, … (s + 1)·chunk − 1 one after the other. The column starts with 0 and adds part after part, and its sum is
    multiplied by its scale. That is no more than n_j roundings for any of the gradients, as SPEC 6.3 allows.
    """
    rows = triton.cdiv(D, d)
    chunk = triton.cdiv(rows, min(max(LANES // d, 1), MOST_SPLITS))
    return triton.cdiv(rows, chunk), chunk


def _permutation(p):
    """D, d, a, the keys, and what holds the numbers of a walk: with D < 2^32, a ≤ 2^16, and so they are all below 2^32."""
    return p.D, p.d, p.permutation.a, *p.permutation.keys, tl.uint32 if p.D < 2**32 else tl.uint64


def _scales(p):
    """D mod d, the scale of so many columns from the first on, and that of the others (SPEC 4.6, 6.1)."""
    return p.D % p.d, float(p.scale(0, 1)[0]), float(p.scale(p.d - 1, p.d)[0])


def _launch(kernel, out, *arguments):
    with torch.accelerator.device_index(out.device.index):  # Triton launches on the current device
        kernel[(triton.cdiv(len(out), BLOCK),)](out, *arguments, BLOCK, **OPTIONS)


@triton.jit
def _mix(x, key):
    """SPEC 3.1, uint32."""
    x ^= key.to(tl.uint32)  # the interpreter knows no annotations
    x ^= x >> 16
    x *= 0x7FEB352D
    x ^= x >> 15
    x *= 0x297A2D39
    return x ^ (x >> 16)


@triton.jit
def _forward(L, R, key, a):
    """A round of π (SPEC 4.2), uint32."""
    total = L + tl.umulhi(_mix(R, key), a)
    return R, tl.where(total < a, total, total - a)


@triton.jit
def _backward(L, R, key, a):
    """A round of π⁻¹ (SPEC 4.4), uint32: where R − f wraps, + a wraps it back."""
    f = tl.umulhi(_mix(L, key), a)
    return tl.where(R < f, R - f + a, R - f), L


@triton.jit
def _walk(x, D, a, keys, step: tl.constexpr):
    """π(x) where ``step`` is ``_forward``, π⁻¹(x) where it is ``_backward`` and the keys are turned around (SPEC 4.3, 4.4).

    A lane makes passes until it is below D, and keeps what it has then. It comes there after a² − D + 1 passes at most, as
    a pass is a bijection of [0, a²) and x is below D. So must be the x of lanes without a row: another may circle forever.
    """
    D, a = D.to(x.dtype), a.to(tl.uint32)
    L, R = (x // a).to(tl.uint32), (x % a).to(tl.uint32)
    y = tl.zeros_like(x) + D  # outside: every lane makes the first pass
    while tl.max(y, axis=0) >= D:
        next_L, next_R = L, R
        for t in tl.static_range(6):
            next_L, next_R = step(next_L, next_R, keys[t], a)
        L, R = tl.where(y >= D, next_L, L), tl.where(y >= D, next_R, R)
        y = L.to(x.dtype) * a + R
    return y


@triton.jit
def _lanes(BLOCK: tl.constexpr):
    return tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)


@triton.jit
def _columns(lane, D, d, a, keys, word: tl.constexpr, start, count):
    """The columns of the rows start + lane, int64; any column where lane is not below ``count``."""
    row = tl.where(lane < count, start + lane, 0)
    return (_walk(row.to(word), D, a, keys, _forward) % d.to(word)).to(tl.int64)


i32, i64, u32 = tl.int32, tl.int64, tl.uint32  # the types of the scalars below, whatever their values
SCALARS = ("D", "d", "a", "k0", "k1", "k2", "k3", "k4", "k5", "start", "count", "chunk", "lanes", "splits", "longer")


@triton.jit(do_not_specialize=SCALARS)
def _index(
    out, D: i64, d: i64, a: i64, k0: u32, k1: u32, k2: u32, k3: u32, k4: u32, k5: u32, word: tl.constexpr,
    start: i64, count: i64, BLOCK: tl.constexpr,
):  # fmt: skip
    lane = _lanes(BLOCK)
    j = _columns(lane, D, d, a, (k0, k1, k2, k3, k4, k5), word, start, count)
    tl.store(out + lane, j.to(tl.int32), mask=lane < count)


@triton.jit(do_not_specialize=SCALARS)
def _expand(
    out, theta, longer: i64, first, other, D: i64, d: i64, a: i64, k0: u32, k1: u32, k2: u32, k3: u32, k4: u32, k5: u32,
    word: tl.constexpr, start: i64, count: i64, BLOCK: tl.constexpr,
):  # fmt: skip
    lane = _lanes(BLOCK)
    j = _columns(lane, D, d, a, (k0, k1, k2, k3, k4, k5), word, start, count)
    value = tl.load(theta + j).to(tl.float32) * tl.where(j < longer, first, other)
    tl.store(out + lane, value.to(out.dtype.element_ty), mask=lane < count)


@triton.jit(do_not_specialize=SCALARS)
def _partial_sums(
    out, g, D: i64, d: i64, a: i64, k0: u32, k1: u32, k2: u32, k3: u32, k4: u32, k5: u32, word: tl.constexpr,
    start: i64, count: i64, chunk: i32, lanes: i64, BLOCK: tl.constexpr,
):  # fmt: skip
    """float32[splits · d], a lane for each part of a column, in the order of ``_splits``."""
    lane = _lanes(BLOCK)
    y = lane % d + lane // d * chunk * d  # j + k·d in 64 bits: beyond the last row it may pass 2^32
    total = tl.zeros([BLOCK], tl.float32)
    for _ in range(chunk):
        row = _walk(tl.where(y < D, y, 0).to(word), D, a, (k5, k4, k3, k2, k1, k0), _backward).to(tl.int64) - start
        total += tl.load(g + row, mask=(y < D) & (row >= 0) & (row < count), other=0.0).to(tl.float32)
        y += d
    tl.store(out + lane, total, mask=lane < lanes)


@triton.jit(do_not_specialize=SCALARS)
def _totals(out, partial, longer: i64, first, other, d: i64, splits: i32, BLOCK: tl.constexpr):
    j = _lanes(BLOCK)
    total = tl.zeros([BLOCK], tl.float32)
    for s in range(splits):
        total += tl.load(partial + s * d + j, mask=j < d, other=0.0)
    tl.store(out + j, total * tl.where(j < longer, first, other), mask=j < d)
