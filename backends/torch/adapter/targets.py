"""From names to a layer map: which weights of a model can be adapted, and which of them its user asked for."""

import difflib
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from unilora_spec import LayerMap, LayerMapError, Segment, UniLoraError
from unilora_spec.patterns import matches

from .delta_weight import DeltaWeight
from .sites import LowRank, MergedLinear

_CONV1D = "transformers.pytorch_utils"  # looked at where a model has it: importing it takes seconds, and a plain one needs none


@dataclass(frozen=True)
class Candidate:
    """A weight that can be adapted: ``target`` is the name that users write, ``weight`` the parameter's own."""

    target: str
    weight: str
    module: nn.Module
    parameter: str
    out_features: int
    in_features: int
    transposed: bool = False
    stack: int | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The stored matrix's, also where its numbers are packed: (out, in) of a Linear says the module."""
        linear = isinstance(self.module, nn.Linear)
        return (self.out_features, self.in_features) if linear else tuple(self.module._parameters[self.parameter].shape)

    def values(self) -> torch.Tensor:
        """What the module multiplies by: of a quantized weight, the numbers that its codes and scales stand for."""
        weight = self.module._parameters[self.parameter]
        if _library(weight) == "bitsandbytes":
            from transformers.integrations.bitsandbytes import dequantize_bnb_weight

            return dequantize_bnb_weight(weight, getattr(self.module, "state", None))
        return weight.dequantize() if _library(weight) == "torchao" else weight

    @property
    def is_quantized(self) -> bool:
        """Whether nothing can be added to the stored weight."""
        weight = self.module._parameters[self.parameter]
        return not weight.is_floating_point() or _library(weight) == "torchao"  # whose weights call themselves floats

    @property
    def site(self):
        """The way a pair acts on this weight."""
        grouped = isinstance(self.module, nn.modules.conv._ConvNd) and self.module.groups > 1
        if grouped or self.stack is not None:
            return DeltaWeight
        return MergedLinear if MergedLinear.fits(self.module) else LowRank


def _library(weight) -> str:
    return type(weight).__module__.partition(".")[0]


def candidates(model: nn.Module) -> list[Candidate]:
    """Every weight of ``model`` that can be adapted, in the order of its modules."""
    return [candidate for name, module in model.named_modules() for candidate in _of_module(name, module)]


def _of_module(name, module):
    dot = f"{name}." if name else ""
    if isinstance(module, nn.Linear):
        yield Candidate(name, f"{dot}weight", module, "weight", module.out_features, module.in_features)
    elif isinstance(module, nn.modules.conv._ConvNd):
        if not module.transposed:
            out, *kernel = module.weight.shape
            yield Candidate(name, f"{dot}weight", module, "weight", out, kernel[0] * module.weight[0, 0].numel())
    elif _CONV1D in sys.modules and isinstance(module, sys.modules[_CONV1D].Conv1D):
        rows, columns = module.weight.shape
        yield Candidate(name, f"{dot}weight", module, "weight", columns, rows, transposed=True)
    else:
        for parameter, weight in module._parameters.items():
            if weight is not None and weight.dim() == 3:
                transposed = bool(getattr(module, "is_transposed", False))
                stack, out, columns = weight.shape
                if transposed:
                    out, columns = columns, out
                full = dot + parameter
                yield Candidate(full, full, module, parameter, out, columns, transposed, stack)


def plan(
    model: nn.Module,
    targets: str | Sequence[str],
    rank: int,
    ranks: Mapping[str, int] | None = None,
    alpha: float | None = None,
    scaling: str = "lora",
) -> LayerMap:
    """The layer map of ``targets`` in ``model``, in the order of its modules (SPEC 7).

    A target is the end of a module's name ("query", "attention.query"; for stacked experts, of the parameter's:
    "experts.down_proj") or a regular expression for the whole of it; "c_attn[0:768]" is a row range of a fused weight.
    ``ranks`` sets other ranks by the same patterns; the first that matches holds. ``alpha`` is ``rank`` by default, or 1
    where that is 0.
    Raises ``LayerMapError`` for a target that matches nothing, with close names, and for weights that cannot be adapted.
    """
    targets = [targets] if isinstance(targets, str) else list(targets)
    found = candidates(model)
    parts_of, rank_of = defaultdict(set), {}
    asked = {target: _row_range(target) for target in targets}
    named = matching([*(pattern for pattern, _ in asked.values()), *(ranks or {})], [each.target for each in found])
    for pattern, rows in asked.values():
        for name in named[pattern]:
            parts_of[name].add(rows)
    for pattern in reversed(ranks or {}):
        rank_of |= dict.fromkeys(named[pattern], ranks[pattern])
    unused = {target for target, (pattern, _) in asked.items() if not named[pattern]}
    unused |= {pattern for pattern in ranks or {} if not parts_of.keys() & named[pattern]}
    segments = []
    for candidate in found:
        if parts := parts_of.get(candidate.target):
            r = rank_of.get(candidate.target, rank)
            segments += _segments(candidate, sorted(parts, key=lambda rows: rows or (0, 0)), r)
    if unused:
        raise LayerMapError(_no_match(min(unused), [candidate.target for candidate in found]))
    _refuse_unreachable(model, {segment.name for segment in segments})
    return LayerMap(segments, (rank or 1) if alpha is None else alpha, scaling)


def _segments(candidate, parts, rank):
    for index in [None] if candidate.stack is None else range(candidate.stack):
        for rows in parts:
            first, stop = rows or (0, candidate.out_features)
            if not first < stop <= candidate.out_features:
                raise LayerMapError(
                    f"{candidate.target} has {candidate.out_features} rows; [{first}:{stop}] is not among them"
                )
            yield Segment(
                candidate.weight, stop - first, candidate.in_features, rank, candidate.transposed, rows and first, index
            )


def matching(patterns: Sequence[str], names: Sequence[str]) -> dict[str, set[str]]:
    """Which of ``names`` each pattern is the end of, at a dot, or a regular expression for the whole of."""
    found = {p: {name for name in names if name == p or name.endswith(f".{p}")} for p in patterns}
    try:
        expressions = matches(patterns, names)
    except UniLoraError as error:
        raise LayerMapError(f"a name to look for is none, nor a pattern for names: {error}") from None
    for pattern, row in zip(patterns, expressions, strict=True):
        found[pattern] |= {name for name, match in zip(names, row, strict=True) if match}
    return found


def _row_range(target):
    found = re.fullmatch(r"(.+)\[(\d+):(\d+)\]", target)
    return (found[1], (int(found[2]), int(found[3]))) if found else (target, None)


def _no_match(target, names) -> str:
    if not names:
        return "the model has no Linear, convolution, Conv1D or stacked weight to adapt"
    ends = list(dict.fromkeys(part for name in names for part in (name.rsplit(".", 1)[-1], name)))
    close = difflib.get_close_matches(_row_range(target)[0], ends, n=4, cutoff=0.4) or ends[:6]
    return f"the target {target!r} matches no weight that can be adapted; close names are {', '.join(close)}"


def _refuse_unreachable(model, names):
    """Two ways for a hook to miss a weight's use, refused by name: better no adapter than one that acts in part."""
    uses = Counter(id(p) for module in model.modules() for p in module._parameters.values() if p is not None)
    for name in names:
        owner, _, parameter = name.rpartition(".")
        weight = model.get_submodule(owner)._parameters[parameter]
        if uses[id(weight)] > 1:
            raise LayerMapError(f"{name} is tied to another module's weight; adapt a weight that is used once")
        parent = model.get_submodule(owner.rpartition(".")[0])
        if isinstance(parent, nn.MultiheadAttention):
            raise LayerMapError(f"{name} is read by nn.MultiheadAttention without calling its module; leave it out")
