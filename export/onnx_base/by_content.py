"""Finds weights by their values: where no name identifies them, the assignment that gives the adapter's fingerprint is the right one."""

import functools
from collections import defaultdict

from unilora_spec import Adapter, contents_fingerprint

from ..graph.sites import FLOATS
from . import assignments
from .fitting import File, Match, Saved, Weight, read_values
from .refusal import not_found

CACHE = 2**28  # bytes of weights that the search keeps in memory


def by_content(file: File, adapter: Adapter, missing, found, doubts) -> dict[str, list[Match]]:
    """Where the ``missing`` weights are, beside those of ``found``. Raises ``BaseMismatch`` where no assignment gives the fingerprint."""
    weights = {name: Weight(name, segments) for name, segments in adapter.layer_map.by_weight().items()}
    for each in missing:
        if isinstance(each, Saved):
            raise not_found(file, each, found, doubts)
    if adapter.base is None:
        raise not_found(file, missing[0], found, doubts, "the adapter records no fingerprint to tell it by")
    known = {name: found[name][0].place for name in weights if name in found}
    if quantized := [value for value, _, _ in known.values() if value.dtype not in FLOATS]:
        raise not_found(
            file, missing[0], found, doubts, f"no fingerprint can tell it, as {quantized[0].name} is quantized"
        )

    taken = {value for value, _, _ in known.values()}
    floats = [constant for constant in file.constants if constant.value.dtype in FLOATS and constant.value not in taken]
    groups = []
    for prefix, group in assignments.grouped([each.name for each in missing], lambda name: weights[name].form):
        places = _places(floats, weights[group[0]])
        if not places:
            quantized = any(
                constant.value.dtype not in FLOATS and weights[group[0]].fits(constant) for constant in file.constants
            )
            why = "no fingerprint can tell what is quantized" if quantized else None
            raise not_found(file, weights[group[0]], found, doubts, why)
        groups.append(assignments.Group(prefix, group, places))

    sizes = [4 * s.out_features * s.in_features for s in adapter.layer_map.segments]
    read = functools.lru_cache(max(1, CACHE // max(sizes)))(read_values)

    def proves(assignment):
        places = known | assignment
        contents = contents_fingerprint(places, lambda name: read(*places[name], *weights[name].turn))
        return contents == adapter.base.contents

    assignment, hashed, all_of_them = assignments.search(groups, proves, sum(sizes))
    if assignment is None:
        limit = "" if all_of_them else f", and {hashed * sum(sizes) / 1e9:.0f} GB of hashing are the limit"
        why = f"none of {hashed} ways to choose among those of its shape gives the adapter's fingerprint{limit}"
        raise not_found(file, missing[0], found, doubts, why)
    return {name: [Match(name, *place[:2], "fingerprint", place[2])] for name, place in assignment.items()}


def _places(constants, wanted: Weight) -> dict[assignments.Kind, list]:
    """Where a weight of that form may be, in the order of use: first as a whole initializer, then among others in one."""
    whole, parts = defaultdict(list), defaultdict(list)
    for constant in constants:
        for turned in wanted.fits(constant):
            whole[assignments.Kind((constant.family, tuple(constant.value.shape), turned))].append(
                (constant.value, turned, None)
            )
        for turned, height in wanted.stacked(constant):
            out = wanted.segments[0].out_features
            for row in range(0, height - out + 1, out) if height % out == 0 else ():
                family = constant.family, tuple(constant.value.shape), turned
                parts[assignments.Kind(family, row)].append((constant.value, turned, row))
    return whole | parts
