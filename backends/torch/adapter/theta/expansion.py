"""θ_D = Pθ and its adjoint (SPEC 6.2, 6.3) of kinds that gather: P is held in one of three ways, which give the same
bits.

``cached``    the column of every entry: 2 bytes an entry (uint16) where d ≤ 65,536, otherwise 4 (int32)
``computed``  nothing: columns are computed at each use, on a CPU in pieces, on a GPU within the Triton kernels
``theta``     nothing, as there is nothing to compute: with kind identity, θ_D is θ

Where ``keeps_nothing`` is true, no tensor is kept for a backward pass, so that several can go through one θ_D.

Kinds that do more than gather hold their frozen numbers instead: programs.py.
"""

import importlib.util
import itertools
import weakref
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unilora_spec import KindError, Projection
from unilora_spec.gather import Gather
from unilora_spec.program import Program

from .programs import Frozen

LARGEST_CACHE = 2**30  # bytes of an index above which a CPU computes: as much memory as a small base model
_PIECE = 2**22  # entries whose columns a CPU computes at a time


def index_of(projection: Gather, start: int = 0, stop: int | None = None, dtype: torch.dtype = torch.int32) -> Tensor:
    """The columns of the rows start … stop − 1, computed on all of torch's threads: ``dtype``[stop − start], integers that
    hold d − 1. An int32 always does, as d < 2^31 (SPEC 6)."""
    start, stop = projection.range_of(start, stop, projection.D)
    index, threads = torch.empty(stop - start, dtype=dtype), torch.get_num_threads()
    share = max(2**20, -(-len(index) // threads))  # for less, two threads take longer than one

    def fill(i):
        projection.index(start + i, min(start + i + share, stop), out=index[i : i + share].numpy())

    if len(index) <= share:
        fill(0)
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(fill, range(0, len(index), share)))
    return index


class Expand(torch.autograd.Function):
    """θ (float[d]) → θ_D (``dtype``[D]); ``index`` is uint16[D] or int32[D], ``scale`` float32[d], whole or in parts.

    Scaling before gathering rounds each entry once, as the specification does, so the bits are the specification's; in a
    ``dtype`` of less precision they are rounded once more.
    """

    generate_vmap_rule = True  # all of it is torch's own operators, which torch.func.vmap knows

    @staticmethod
    def forward(theta: Tensor, index: Tensor, dtype: torch.dtype, *scale: Tensor) -> Tensor:
        return (theta.float() * torch.cat(scale)).to(dtype).index_select(0, index.int())

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        # Kept as attributes, not by save_for_backward: a graph that is used for two backward passes stays usable,
        # and gradient checkpointing, which counts saved tensors, sees none.
        _, ctx.index, _, *ctx.scale = inputs

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        scale = torch.cat(ctx.scale)
        total = torch.zeros_like(scale)
        # In pieces, so that little is made int32 at a time; compiled code makes each column int32 as it reads it.
        whole = torch.compiler.is_compiling()
        pieces = [(ctx.index, g)] if whole else zip(ctx.index.split(_PIECE), g.split(_PIECE))
        for columns, part in pieces:
            total = total.index_add(0, columns.int(), part.float())  # not in place: of a vmap, g is a batch
        return total * scale, *[None] * (2 + len(ctx.scale))  # which torch gives the dtype of θ


class Cached:
    """P as an index."""

    name, keeps_nothing = "cached", True

    def __init__(self, projection: Gather, device):
        self.device = torch.device(device)
        self.index = index_of(projection, dtype=index_dtype(projection.d)).to(device)
        self.scale = _in_parts(projection.scale(), device)

    @property
    def nbytes(self) -> int:
        return self.index.nbytes

    def expand(self, theta: Tensor, dtype=torch.float32) -> Tensor:
        # Without a gradient, torch.compile passes a function that has a setup_context its arguments in the wrong
        # places.
        expand = Expand.apply if torch.is_grad_enabled() else Expand.forward
        return expand(theta, self.index, dtype, *self.scale)


def index_dtype(d: int) -> torch.dtype:
    """The type of the cached columns, which are below d."""
    return torch.uint16 if d <= 2**16 else torch.int32


def _in_parts(scale, device) -> list[Tensor]:
    """The scale, float32[d], as one number for each run of equal ones, repeated by a stride of 0: kind balanced has at
    most two runs. Where there are more, the scale is one tensor as it is."""
    edges = [0, *np.flatnonzero(np.diff(scale)) + 1, len(scale)]
    if len(edges) > 3:
        return [torch.from_numpy(scale).to(device)]
    return [torch.tensor(scale[i], device=device).expand(end - i) for i, end in itertools.pairwise(edges)]


class Computed:
    """P as the four numbers that it follows from: kind, D, d and seed."""

    name, nbytes, keeps_nothing = "computed", 0, True

    def __init__(self, projection: Gather, device):
        self.projection, self.device = projection, torch.device(device)

    def expand(self, theta: Tensor, dtype=torch.float32) -> Tensor:
        p = self.projection
        return _expand(theta, p.kind, p.D, str(p.seed), dtype)


class Theta:
    """P = I: θ_D is θ."""

    name, nbytes, keeps_nothing = "theta", 0, True

    def __init__(self, projection, device):
        self.device = torch.device(device)

    def expand(self, theta: Tensor, dtype=torch.float32) -> Tensor:
        return theta.to(dtype)


Storage = Cached | Computed | Theta | Frozen
"""The ways in which P is held."""


def storage_named(projection: Projection, device, asked: str | None = None) -> type:
    """The class that holds P on ``device``: ``Computed`` or ``Cached`` as ``asked``; by default ``Computed`` where a
    GPU's kernels compute P and where a CPU's index would take more than 1 GiB, else ``Cached``. Raises ``KindError``
    for what cannot be held so."""
    device = torch.device(device)
    if asked not in (None, "cached", "computed"):
        raise KindError(f"storage is {asked!r}; give cached, computed or None")
    if isinstance(projection, Program):
        if asked:
            raise KindError(f"kind {projection.kind} has no index to hold as {asked}; leave storage out")
        return Frozen
    if projection.kind == "identity":
        return Theta
    on_gpu = device.type == "cuda" and projection.kind == "balanced" and importlib.util.find_spec("triton") is not None
    in_four_numbers = not projection.stored and not projection.layered and not projection.options
    computable = in_four_numbers and (device.type in ("cpu", "meta") or on_gpu)
    if device.type == "meta" and asked is None:
        return Computed  # nothing can be held there
    if asked == "computed" and not computable:
        raise KindError(f"kind {projection.kind} cannot be computed on {device.type}; give storage cached")
    by_default = on_gpu or (computable and index_dtype(projection.d).itemsize * projection.D > LARGEST_CACHE)
    return Computed if asked == "computed" or (asked is None and by_default) else Cached


_held = weakref.WeakValueDictionary()


def storage_of(projection: Projection, device, asked: str | None = None) -> Storage:
    """P held on ``device``, ready to expand: see ``storage_named``. Equal projections share one storage while it is in
    use."""
    of_kind, device = storage_named(projection, device, asked), torch.device(device)
    key = of_kind, projection, device
    storage = _held.get(key)
    if storage is None:
        storage = _held[key] = of_kind(projection, device)
    return storage


@lru_cache(maxsize=8)
def _projection(kind, D, d, seed):
    return Projection(kind=kind, D=D, d=d, seed=int(seed))


@lru_cache(maxsize=8)
def _scale(projection):
    return torch.from_numpy(projection.scale())


def _pieces(projection):
    for start in range(0, projection.D, _PIECE):
        stop = min(start + _PIECE, projection.D)
        yield slice(start, stop), index_of(projection, start, stop)


# As operators, they are one node each of a graph that torch.compile makes. The seed is passed as text, as an operator's
# integers are signed and have 64 bits, and a seed may be larger.
@torch.library.custom_op("unilora::expand", mutates_args=(), device_types="cpu")
def _expand(theta: Tensor, kind: str, D: int, seed: str, dtype: torch.dtype) -> Tensor:
    p = _projection(kind, D, len(theta), seed)
    scaled, result = (theta.float() * _scale(p)).to(dtype), torch.empty(D, dtype=dtype)
    for rows, index in _pieces(p):
        torch.index_select(scaled, 0, index, out=result[rows])
    return result


@torch.library.custom_op("unilora::adjoint", mutates_args=(), device_types="cpu")
def _adjoint(g: Tensor, kind: str, d: int, seed: str) -> Tensor:
    p = _projection(kind, len(g), d, seed)
    total = torch.zeros(d)
    for rows, index in _pieces(p):
        total.index_add_(0, index, g[rows].float())
    return total * _scale(p)


@_expand.register_kernel("cuda")
def expand_in_kernel(theta, kind, D, seed, dtype):
    from . import triton_kernels  # Triton is there where storage_named chose it

    return triton_kernels.expand(theta, D, int(seed), dtype)


@_adjoint.register_kernel("cuda")
def adjoint_in_kernel(g, kind, d, seed):
    from . import triton_kernels

    return triton_kernels.adjoint(g, d, len(g), int(seed))


@_expand.register_fake
def _(theta, kind, D, seed, dtype):
    return theta.new_empty(D, dtype=dtype)


@_adjoint.register_fake
def _(g, kind, d, seed):
    return g.new_empty(d, dtype=torch.float32)


@_expand.register_vmap
def _(info, in_dims, theta, *rest):
    thetas = theta.movedim(in_dims[0], 0)
    return torch.stack([_expand(each, *rest) for each in thetas]), 0


@_adjoint.register_vmap
def _(info, in_dims, g, *rest):
    gradients = g.movedim(in_dims[0], 0)
    return torch.stack([_adjoint(each, *rest) for each in gradients]), 0


def _setup_context(ctx, inputs, output):
    theta, ctx.kind, _, ctx.seed, _ = inputs
    ctx.d = len(theta)


def _backward(ctx, g):
    return _adjoint(g.contiguous(), ctx.kind, ctx.d, ctx.seed), None, None, None, None


_expand.register_autograd(_backward, setup_context=_setup_context)
