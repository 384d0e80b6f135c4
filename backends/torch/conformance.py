"""The torch backend as an implementation that the conformance tests ask (conformance_tests/PROTOCOL.md).

``python -m conformance_tests`` asks the backend as it is with ``--impl backends.torch.conformance``; ``Expand`` under
torch.compile, for gathers alone, with ``--impl "python -m backends.torch.conformance --compile"``; and the Triton
kernels, without a GPU under ``TRITON_INTERPRET=1``, with ``--impl "python -m backends.torch.conformance --triton"
--timeout 60``.
"""

import sys
import tempfile
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch._dynamo.decorators import mark_unbacked
from transformers.pytorch_utils import Conv1D

from unilora_spec import save_adapter
from unilora_spec.gather import Gather
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
    serve,
    weights_of,
)

from .adapter.attach import load_adapter
from .adapter.sites.low_rank import delta_weight
from .adapter.theta.expansion import Expand, index_of, storage_of
from .adapter.theta.programs import Frozen


def _index(r):
    return {"index": pack(index_of(gather_of(r), r["start"], r["stop"]), "index")}


def _expand(expand, r):
    p = projection_of(r)
    theta = torch.tensor(array_of(r, "theta", p.d), requires_grad=True)
    return {"theta_D": pack(_rows(expand, p, theta, r["start"], r["stop"]).detach(), "theta_D")}


def _rows(expand, p, theta, start, stop):
    """θ_D[start:stop]: of a gather from these rows of P alone, of another kind from all of θ_D, as in training, unless
    it is large."""
    start, stop = p.range_of(start, stop, p.D)
    if isinstance(p, Program) and p.D <= SMALL:
        return storage_of(p, theta.device).expand(theta)[start:stop]
    if isinstance(p, Program):
        first = next(p.pieces(start, stop), (start,))[0]
        rows = Frozen(p, theta.device, start, stop).expand(theta) if start < stop else theta[:0]
        return rows[start - first : stop - first]
    return expand(theta, index_of(p, start, stop), torch.from_numpy(p.scale()))


def _adjoint(expand, r):
    p = projection_of(r)
    at = torch.tensor(array_of(r, "theta", p.d)) if isinstance(p, Program) else torch.zeros(p.d)
    rows = _rows(expand, p, at.requires_grad_(), r["start"], r["stop"])
    rows.backward(torch.tensor(array_of(r, "g", len(rows))))
    return {"theta": pack(at.grad, "theta")}


def _delta_weight(expand, r):
    adapter = adapter_of(r)
    segment, offset = segment_of(r, adapter, adapter.layer_map.placed())
    theta = torch.tensor(adapter.theta, requires_grad=True)
    rows = _rows(expand, adapter.projection, theta, offset, offset + segment.size)
    factors = segment.factors(rows.detach())
    s = float(adapter.layer_map.factor_scale(segment))
    shape = (segment.in_features, segment.out_features)
    stored = delta_weight(segment, factors, s, shape if segment.transposed else shape[::-1])
    return pack_delta_weight(segment, factors, stored.T if segment.transposed else stored)


def _merge(r):
    adapter, weights = adapter_of(r), weights_of(r)
    adapter.check_base({name: weight.shape for name, weight in weights.items()})
    segments = {segment.name: segment for segment in adapter.layer_map.segments}
    model = nn.Sequential(*[_module(torch.from_numpy(w), segments.get(name)) for name, w in weights.items()])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "adapter.safetensors")
        save_adapter(numbered(adapter, weights), path)
        load_adapter(model, path).merge()
    merged = {name: module.weight.detach() for name, module in zip(weights, model)}
    return {"weights": pack_weights(merged), "same_contents": adapter.same_contents(weights_of(r).get)}


def _module(weight, segment):
    """A module of the kind that holds such a weight in a model."""
    if segment is None:
        module = nn.Module()
    elif segment.index is not None:
        module = nn.Module()
        module.num_experts = len(weight)  # marks a stack of experts
    elif weight.dim() > 2:
        module = nn.Conv1d(1, 1, 1)
    else:
        module = Conv1D(1, 1) if segment.transposed else nn.Linear(*weight.shape[::-1])
    module.weight = nn.Parameter(weight)
    return module


def expand_by(theta, index, scale):
    """θ_D by ``Expand``, for any rows of P."""
    return Expand.apply(theta, index, torch.float32, scale)


def compiled_expand(backend="inductor"):
    """``expand_by`` under torch.compile, compiled once for all sizes; torch would compile the sizes 0 and 1
    separately."""
    compiled = torch.compile(expand_by, dynamic=True, fullgraph=True, backend=backend)

    def expand(theta, index, scale):
        index = index.clone(memory_format=torch.contiguous_format)  # torch gives an empty array another stride
        for vector, length in (theta, "d"), (scale, "d"), (index, "rows"):
            mark_unbacked(vector, 0, shape_id=length)
        return compiled(theta, index, scale)

    return expand


def kernel_answers():
    """The answers of the Triton kernels, for kind `balanced`, as ``more`` of ``implementation``."""
    from .adapter.theta import triton_kernels as kernels  # imported here, so that the rest runs without Triton

    device = "cuda" if torch.cuda.is_available() else "cpu"

    def index(r):
        p = projection_of(r)
        return {"index": pack(kernels.index(p.D, p.d, p.seed, device, r["start"], r["stop"]).cpu(), "index")}

    def expand(r):
        p = projection_of(r)
        theta = torch.tensor(array_of(r, "theta", p.d), device=device)
        theta_D = kernels.expand(theta, p.D, p.seed, start=r["start"], stop=r["stop"])
        return {"theta_D": pack(theta_D.cpu(), "theta_D")}

    def adjoint(r):
        p = projection_of(r)
        if p.D > 2**24:  # a kernel walks all rows of a column, and the request is for a slice of them
            return _adjoint(expand_by, r)
        start, stop = p.range_of(r["start"], r["stop"], p.D)
        g = torch.tensor(array_of(r, "g", stop - start), device=device)
        return {"theta": pack(kernels.adjoint(g, p.d, p.D, p.seed, start).cpu(), "theta")}

    def by_kind(kernel, other):
        return lambda r: (kernel if r["projection"]["kind"] == "balanced" else other)(r)

    return {
        "index": by_kind(index, _index),
        "expand": by_kind(expand, partial(_expand, expand_by)),
        "adjoint": by_kind(adjoint, partial(_adjoint, expand_by)),
        "merge": _merge,
    }


def implementation(name: str, expand, more=(), kinds=KINDS):
    """The function ``answer``, with the requests that ``expand`` (θ, index, scale → θ_D) takes part in, and those in
    ``more``."""
    uses = {"expand": _expand, "adjoint": _adjoint, "delta_weight": _delta_weight}
    requests = {request: partial(function, expand) for request, function in uses.items()} | dict(more)
    return answering(name, requests, kinds)


answer = implementation("backends.torch", expand_by, {"index": _index, "merge": _merge})

if __name__ == "__main__":
    if "--compile" in sys.argv[1:]:
        gathers = [kind for kind, of_kind in KINDS.items() if issubclass(of_kind, Gather)]
        answer = implementation("backends.torch, compiled", compiled_expand(), kinds=gathers)
    elif "--triton" in sys.argv[1:]:
        answer = implementation("backends.torch, Triton", expand_by, kernel_answers())
    serve(answer)
