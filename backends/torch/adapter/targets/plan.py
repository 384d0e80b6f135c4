"""Makes a layer map of the targets that a user names in a model."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence

from torch import nn

from unilora_spec import LayerMap, LayerMapError, Segment, UniLoraError
from unilora_spec.patterns import matches

from .architectures import default_targets
from .candidates import Candidate, Unfit, candidates, is_conv1d, survey
from .mismatch import is_glob, why_glob, why_none, why_not_among
from .names import parameters, unwrapped

__all__ = ["Candidate", "candidates", "matching", "plan"]

ALL_LINEAR = "all-linear"


def plan(
    model: nn.Module,
    targets: str | Sequence[str] | None,
    rank: int,
    ranks: Mapping[str, int] | None = None,
    alpha: float | None = None,
    scaling: str = "lora",
    exclude: str | Sequence[str] = (),
) -> LayerMap:
    """The layer map of ``targets`` in ``model``, in the order of its modules (SPEC 7).

    A target is the end of a module's name ("query", "attention.query"; of a parameter that no torch layer multiplies by, of the
    parameter's: "experts.down_proj", "self_attn.in_proj_weight") or a regular expression for the whole of it; "c_attn[0:768]" is a
    row range of a fused weight. "all-linear" is every nn.Linear, Conv1D and projection of nn.MultiheadAttention but those of heads:
    the output embeddings, and what stands beside the base model of a transformers model. None takes the defaults of the model's
    type (architectures.py). Names are the base's, without what ``torch.compile`` or checkpoint wrappers add.

    A regular expression takes linear maps only: Linear, Conv1D, convolutions, the projections of nn.MultiheadAttention, and stacked
    experts where the expression itself says "experts". A table (Embedding) or another bare matrix, which may be anything (a
    position table, a router, a projection), is taken only by its name or the end of it. Vectors are never targets.

    ``exclude`` leaves targets out and ``ranks`` gives targets other ranks, both by the end of a name or a regular
    expression; the first of ``ranks`` that matches holds. ``alpha`` is ``rank`` by default, or 1 where that is 0.
    Raises ``LayerMapError`` for a pattern that matches nothing, with the reason or close names, for weights that cannot
    be adapted, and for a wrapped model to which no adapter can be attached.
    """
    model = unwrapped(model)
    found = survey(model)
    targets = default_targets(model, found) if targets is None else _listed(targets)
    exclude, ranks = _listed(exclude), ranks or {}
    asked = {target: _row_range(target) for target in targets}
    names = [each.target for each in found]
    patterns = [pattern for pattern, _ in asked.values() if pattern != ALL_LINEAR]
    by_name, by_expression = _matching([*patterns, *ranks, *exclude], names)

    parts_of = defaultdict(set)
    for target, (pattern, rows) in asked.items():
        if pattern == ALL_LINEAR:
            taken = _all_linear(model, found)
        else:
            taken = by_name[pattern] | {
                each.target for each in found if each.target in by_expression[pattern] and _is_meant(each, pattern)
            }
        if not taken:
            raise LayerMapError(why_none(target, pattern, model, found, by_expression.get(pattern, set())))
        for name in taken:
            parts_of[name].add(rows)
    among = [name for name in names if name in parts_of]
    for pattern in exclude:
        if not (out := (by_name[pattern] | by_expression[pattern]).intersection(among)):
            raise LayerMapError(why_not_among("exclude", pattern, model, among))
        for name in out:
            parts_of.pop(name, None)
    rank_of = {}
    for pattern in reversed(ranks):
        if not (named := (by_name[pattern] | by_expression[pattern]) & parts_of.keys()):
            raise LayerMapError(why_not_among("ranks", pattern, model, [n for n in among if n in parts_of]))
        rank_of |= dict.fromkeys(named, ranks[pattern])
    chosen = [each for each in found if each.target in parts_of]
    _refuse_unfit(model, chosen)
    if exclude and not chosen:
        raise LayerMapError(f"exclude leaves none of the targets; leave out fewer than all {len(among)}")
    segments = []
    for each in chosen:
        parts = sorted(parts_of[each.target], key=lambda rows: rows or (0, 0))
        segments += _segments(each, parts, rank_of.get(each.target, rank))
    return LayerMap(segments, (rank or 1) if alpha is None else alpha, scaling)


def matching(patterns: Sequence[str], names: Sequence[str]) -> dict[str, set[str]]:
    """For each pattern, the ``names`` that end in it, from a dot on, or that it matches as a whole as a regular
    expression.

    Raises ``LayerMapError`` for a glob ("*.query") and for a pattern that is no regular expression.
    """
    by_name, by_expression = _matching(patterns, names)
    return {pattern: by_name[pattern] | by_expression[pattern] for pattern in patterns}


def _matching(patterns, names):
    for pattern in filter(is_glob, patterns):
        raise LayerMapError(why_glob(pattern))
    by_name = {p: {name for name in names if name == p or name.endswith(f".{p}")} for p in patterns}
    try:
        rows = matches(patterns, names)
    except UniLoraError as error:
        raise LayerMapError(f"a pattern is neither the end of a name nor a regular expression: {error}") from None
    found = [{name for name, match in zip(names, row, strict=True) if match} for row in rows]
    return by_name, dict(zip(patterns, found, strict=True))


def _is_meant(each, pattern) -> bool:
    """Whether a regular expression that matches the target may take it."""
    stack = isinstance(each, Candidate) and each.stack is not None
    return each.is_linear and (not stack or "experts" in pattern)


def _all_linear(model, found) -> set[str]:
    heads, taken = _heads(model), set()
    for each in found:
        kind = isinstance(each.module, (nn.Linear, nn.MultiheadAttention)) or is_conv1d(each.module)
        if kind and each.is_linear and id(each.module) not in heads:
            taken.add(each.target)
    return taken


def _heads(model) -> set[int]:
    """The ids of the modules of output embeddings, and of the modules beside the base model of each outermost
    transformers model."""
    heads, inside = set(), set()
    for module in model.modules():
        if callable(getattr(module, "get_output_embeddings", None)):
            output = module.get_output_embeddings()
            heads |= _all_of(output) if isinstance(output, nn.Module) else set()
            base = module._modules.get(getattr(module, "base_model_prefix", None))
            if base is not None and id(module) not in inside:
                heads |= _all_of(module) - _all_of(base)
            inside |= _all_of(module)
    return heads


def _all_of(module) -> set[int]:
    return {id(each) for each in module.modules()}


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


def _listed(patterns) -> list[str]:
    return [patterns] if isinstance(patterns, str) else list(patterns)


def _row_range(target):
    found = re.fullmatch(r"(.+)\[(\d+):(\d+)\]", target)
    return (found[1], (int(found[2]), int(found[3]))) if found else (target, None)


def _refuse_unfit(model, chosen) -> None:
    """Raises ``LayerMapError`` for a target that cannot be adapted, and for a weight that another module uses too,
    where the adapter would act in one place and not in the other."""
    uses = defaultdict(dict)
    for name, (module, key) in parameters(model).items():
        uses[id(module._parameters[key])].setdefault((id(module), key), name)
    for each in chosen:
        if isinstance(each, Unfit):
            raise LayerMapError(f"{each.weight} {each.why}")
        owners = uses[id(each.module._parameters[each.parameter])]
        others = [name for owner, name in owners.items() if owner != (id(each.module), each.parameter)]
        if others:
            raise LayerMapError(
                f"{each.weight} is tied to another module's weight, {others[0]}; adapt a weight that is used once"
            )
