"""Makes a specification of the matrices that a user names in a tree."""

import difflib
import re
from collections.abc import Mapping, Sequence

import numpy as np

from unilora_spec import LayerMap, LayerMapError, Projection, Segment
from unilora_spec.projection import kind_named

from .paths import Leaf, Names, flattened, named
from .specification import Specification


def plan(
    params,
    targets: str | Sequence[str] | LayerMap,
    rank: int = 4,
    d: int | None = None,
    seed: int = 0,
    *,
    names: Names = None,
    ranks: Mapping[str, int] = {},
    alpha: float | None = None,
    scaling: str = "lora",
    kind: str = "balanced",
    options: Mapping[str, int] = {},
) -> Specification:
    """The specification of an adapter for ``params``, a tree of parameters of any library. Only shapes are read, and
    values for kinds that begin with the weights' own values.

    targets, ranks   ends of paths or of a checkpoint's names, with or without their last part ("query" of
                     "layers.0.query.kernel"), or regular expressions for the whole of one; ``ranks`` gives targets
                     another rank than ``rank``. Or a layer map for the targets: rank, ranks, alpha and scaling are then
                     taken from it
    d                the length of θ, 1 … D; with most kinds other than "balanced" it follows from the layer map, and is
                     left out
    names            which tensor of a checkpoint each leaf holds, a table by path or a function of path and array
                     (paths.py); by default tensors are named by their paths in the tree
    alpha            ΔW is alpha / rank · B·A; by default alpha is ``rank``, or 1 where that is 0

    Segments are in the order of their names, with numbers in names ordered as numbers, whatever the order of the tree.
    Raises ``LayerMapError`` for a target that matches no matrix, and for a leaf whose input and output axes are
    unknown.
    """
    leaves = named(params, names)
    if isinstance(targets, LayerMap):
        layer_map = targets
    else:
        targets = [targets] if isinstance(targets, str) else list(targets)
        rank_of, matrices = (
            {},
            [
                (path, name)
                for path, (leaf, shape) in leaves.items()
                if _is_matrix(leaf, shape)
                for name in leaf.names(shape)
            ],
        )
        for target in targets:
            rank_of |= dict.fromkeys(_matching(target, matrices, leaves), rank)
        for pattern in reversed(ranks):
            rank_of |= dict.fromkeys(_matching(pattern, rank_of, leaves), ranks[pattern])
        segments = [
            s for (path, name), r in rank_of.items() for s in _segments(path, name, *leaves[path], r, names is None)
        ]
        segments.sort(key=lambda segment: (_in_order(segment.name), segment.index or 0))
        layer_map = LayerMap(segments, (rank or 1) if alpha is None else alpha, scaling)
    of_kind = kind_named(kind).trained_as()
    options = of_kind.with_defaults(dict(options))
    layer_map = of_kind.fitted(layer_map, **options)
    arrays = dict(flattened(params)[0])
    holder = {name: path for path, (leaf, shape) in leaves.items() for name in leaf.names(shape)}

    def read(name):
        path = holder[name]
        return dict(leaves[path][0].tensors(arrays[path]))[name]

    projection = Projection.of(layer_map, kind, d, seed, read, **options)
    return Specification(projection, layer_map, tuple((path, *held) for path, held in leaves.items()))


def _matching(pattern: str, matrices, leaves) -> list[tuple[str, str]]:
    """The ``matrices`` that a pattern names, each as (its leaf's path, its own name)."""

    def is_named(name):
        return name == pattern or name.endswith(f".{pattern}") or (name and re.fullmatch(pattern, name))

    taken = [each for each in matrices if any(is_named(name) or is_named(name.rpartition(".")[0]) for name in each)]
    if not taken:
        raise LayerMapError(_why_none(pattern, leaves))
    return taken


def _in_order(name: str) -> list[tuple[bool, int | str]]:
    return [(part.isdigit(), int(part) if part.isdigit() else part) for part in re.split("([0-9]+)", name)]


def _is_matrix(leaf: Leaf, shape) -> bool:
    return len(leaf.groups(len(shape))) > 1


def _segments(path, name, leaf: Leaf, shape, rank, is_own):
    tensor = leaf.tensor_shape(shape)
    if is_own and len(tensor) > 2:
        raise LayerMapError(
            f"{path} has {len(tensor)} axes, {list(tensor)}; say by names which of them are in, out and layers: Leaf(…, axes=…, stacked=…)"
        )
    stack = tensor[0] if leaf.transposed and len(tensor) == 3 else None
    out, inside = tensor[-2:] if stack else (tensor[0], int(np.prod(tensor[1:])))
    if leaf.transposed:
        out, inside = inside, out
    for index in [None] if stack is None else range(stack):
        yield Segment(name, out, inside, rank, leaf.transposed, None, index)


def _why_none(pattern, leaves):
    ends = {part for path, (leaf, shape) in leaves.items() if _is_matrix(leaf, shape) for part in path.split(".")[-2:]}
    close = difflib.get_close_matches(pattern, sorted(ends), 3, 0.4) or sorted(ends)[:5]
    return f"no matrix of the tree is named {pattern!r:.80}; names are {', '.join(close)} …"
