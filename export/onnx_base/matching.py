"""Which initializer of an ONNX file, whoever wrote it, holds which of an adapter's weights.

A weight is found by the names that exporters leave (by_names.py, exporter_names.py), by the adapter's fingerprint where they leave none
(by_content.py), or where the user says (by_hand.py). Shape or position alone never decides: a delta weight in the wrong place is worse
than a refusal.
"""

import functools
import itertools
from collections import defaultdict
from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from unilora_spec import Adapter, BaseMismatch

from ..graph.sites import FLOATS, uses
from .by_content import by_content
from .by_hand import by_hand
from .by_names import by_names
from .copies import copies_of
from .fitting import File, Match, Saved, Weight, values
from .joining import join
from .prepare import prepare
from .refusal import not_found

__all__ = ["Match", "match", "not_comparable", "prepare", "table", "values"]


def match(
    model: ir.Model, adapter: Adapter, given: Mapping[str, str] = {}, part: str | None = None
) -> tuple[list[Match], bool | None]:
    """Where the adapter's weights, in the order of the layer map, and then its saved parameters are in a prepared model,
    and whether the weights have the values that the adapter records (None: ``not_comparable`` says why).

    A weight that the file holds more than once (gathered, and transposed for the output layer) has a match for each copy. A
    bias trained in full that the exporter left out, as it was zero, is put into the model.

    ``given``  {the adapter's name: "initializer" or "initializer@row"} where the user knows better
    ``part``   of a model in several files: the part that this file is, as in the names of its weights ("encoder"). Weights that no
               initializer can be are then elsewhere, and left out

    Raises ``BaseMismatch`` for a weight that is not there or of another shape (SPEC 10.3), or that nothing tells apart from
    others, and ``UniLoraError`` for a ``given`` that names what does not exist.
    """
    file = File(model)
    wanted = [Weight(name, segments) for name, segments in adapter.layer_map.by_weight().items()]
    if join(file, [weight for weight in wanted if weight.name not in given]):
        file = File(model)
    wanted += [Saved(name, value.shape) for name, value in adapter.saved.items()]
    found = by_hand(file, {each.name: each for each in wanted}, given)
    doubts = {}
    for each in wanted:
        # Another part's weights may bear the same names, but for what tells the part.
        whole = part is not None and not _is_of(part, each.name)
        if each.name in found:
            continue
        if matches := by_names(file, each, doubts, whole):
            found[each.name] = matches
    missing = [each for each in wanted if each.name not in found]
    if missing and part is not None:
        _check_elsewhere(file, sorted(missing, key=lambda each: not _is_of(part, each.name)), found, doubts)
        wanted = [each for each in wanted if each.name in found]
    elif missing:
        found |= by_content(file, adapter, missing, found, doubts)
    _check_taken_once(found, wanted)
    first_row = functools.cache(lambda constant, turned: constant.read(turned, np.arange(1)).tobytes())
    for each in wanted:
        found[each.name] += copies_of(file, each, found, first_row)
    matches = [each for item in wanted for each in found[item.name]]
    if adapter.layer_map.by_weight().keys() - found.keys():
        return matches, None
    _check_base(adapter, file, found)
    return matches, _same_contents(adapter, found)


def not_comparable(matches: list[Match], adapter: Adapter) -> str | None:
    """Why the values of a file cannot be compared with the adapter's record, in words; None where they can be."""
    if adapter.base is None:
        return "the adapter records no base"
    if there := len(adapter.layer_map.by_weight().keys() - {each.name for each in matches}):
        return f"{there} of the adapter's weights are in other files, and the record is of all of them"
    for each in matches:
        if each.name not in adapter.saved and each.how != "copy" and each.value.dtype != ir.DataType.FLOAT:
            kind = "rounded to" if each.value.dtype in FLOATS else "quantized,"
            return f"{each.value.name} is {kind} {each.value.dtype.name.lower()}"
    return None


def table(matches: list[Match]) -> list[dict]:
    """The rows that a command prints, one for each match, with ``name``, ``initializer``, ``how``, ``stored`` ("out × in", "in × out",
    or the dtype where it is quantized) and ``uses``, a list of texts."""
    return [
        {
            "name": each.name,
            "initializer": each.value.name + ("" if each.row is None else f", rows from {each.row}"),
            "how": each.how,
            "stored": _stored(each),
            "uses": [str(use) for use in uses(each.value)],
        }
        for each in matches
    ]


def _is_of(part: str, name: str) -> bool:
    """Whether a parameter's name says that it is in a part of the model: model.encoder.…, text_model.…"""
    return not {part, f"{part}_model", f"{part}_tower"}.isdisjoint(name.split("."))


def _check_elsewhere(file: File, missing, found, doubts) -> None:
    """Raises ``BaseMismatch`` unless the missing weights are in other files: where one is in doubt, or may be one without a name."""
    taken = {each.value for matches in found.values() for each in matches}
    nameless = [each for each in file.constants if each.value not in taken and not each.is_named]
    for each in missing:
        if each.name in doubts or any(each.fits(constant) for constant in nameless):
            raise not_found(file, each, found, doubts, "a part of a model has no fingerprint to tell it by")


def _check_taken_once(found, wanted) -> None:
    """Raises ``BaseMismatch`` where two of the adapter's weights are found in one place."""
    taken = defaultdict(list)
    for each in wanted:
        for one in found[each.name]:
            height = each.segments[0].out_features if one.row is not None else 2**40
            taken[one.value].append((one.row or 0, height, each.name))
    for value, parts in taken.items():
        parts.sort()
        for (row, height, name), (next_row, _, next_name) in itertools.pairwise(parts):
            if row + height > next_row:
                raise BaseMismatch(
                    f"{name} and {next_name} are both found in {value.name}; say where they are by"
                    f" --map {name}=INITIALIZER --map {next_name}=INITIALIZER",
                    "10.3",
                )


def _check_base(adapter: Adapter, file: File, found) -> None:
    shapes = {}
    for name, segments in adapter.layer_map.by_weight().items():
        first, one = segments[0], found[name][0]
        shape = next((form for form, in_out in file.of[one.value].forms if in_out == one.transposed), None)
        if one.row is not None:
            shape = first.out_features, first.in_features
        if shape is not None and first.transposed:
            shape = shape[::-1]
        shapes[name] = tuple(one.value.shape) if shape is None else shape
    adapter.check_base(shapes, "the file")


def _same_contents(adapter: Adapter, found) -> bool | None:
    weights = adapter.layer_map.by_weight()
    if adapter.base is None or any(found[name][0].value.dtype not in FLOATS for name in weights):
        return None
    same = adapter.same_contents(lambda name: values(found[name][0], weights[name][0]))
    rounded = any(found[name][0].value.dtype != ir.DataType.FLOAT for name in weights)
    return None if rounded and not same else same


def _stored(match: Match) -> str:
    if match.value.dtype not in FLOATS:
        return match.value.dtype.name.lower()
    order = "in × out" if match.transposed else "out × in"
    dtype = "" if match.value.dtype == ir.DataType.FLOAT else f", {match.value.dtype.name.lower()}"
    return (order if len(match.value.shape) == 2 else "as in the model") + dtype
