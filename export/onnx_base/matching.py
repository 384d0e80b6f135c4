"""Which initializer of an ONNX file, whoever wrote it, holds which of an adapter's weights.

By the names that exporters leave (by_names.py, exporter_names.py); by the adapter's fingerprint where they leave none (by_content.py); by
what the user says. Never by shape or position alone: a delta weight in the wrong place is worse than a refusal.
"""

import difflib
import functools
import itertools
import re
from collections import defaultdict
from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from unilora_spec import Adapter, BaseMismatch, Segment, UniLoraError, contents_fingerprint

from ..graph.sites import FLOATS, uses
from . import by_content
from .by_names import by_names, listed
from .fitting import Constant, File, Match, Saved, Weight, release
from .joining import join
from .prepare import prepare

__all__ = ["Match", "match", "not_comparable", "prepare", "table", "values"]

CACHE = 2**28  # bytes of weights that the search keeps in memory
BAND = 64  # rows of a weight that are compared at once
BLOCK = 16  # the fewest numbers of a row that have one scale
ABOUT_EQUAL = 0.8  # correlation in a block: of a matrix and its rounding to 4 bits 0.98, of two matrices 0.2


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
    others, and ``UniLoraError`` for a ``given`` that means nothing.
    """
    file = File(model)
    wanted = [Weight(name, segments) for name, segments in adapter.layer_map.by_weight().items()]
    if join(file, [weight for weight in wanted if weight.name not in given]):
        file = File(model)
    wanted += [Saved(name, value.shape) for name, value in adapter.saved.items()]
    found = _given(file, {each.name: each for each in wanted}, given)
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
        found |= _by_content(file, adapter, missing, found, doubts)
    _check_taken_once(found, wanted)
    first_row = functools.cache(lambda constant, turned: constant.read(turned, np.arange(1)).tobytes())
    for each in wanted:
        found[each.name] += _copies(file, each, found, first_row)
    matches = [each for item in wanted for each in found[item.name]]
    if adapter.layer_map.by_weight().keys() - found.keys():
        return matches, None
    _check_base(adapter, file, found)
    return matches, _same_contents(adapter, found)


def not_comparable(matches: list[Match], adapter: Adapter) -> str | None:
    """Why the values of a file cannot be held against the adapter's record, in words; None where they can be."""
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
    """What a command prints: a row for each match, with ``name``, ``initializer``, ``how``, ``stored`` ("out × in", "in × out",
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


def values(match: Match, segment: Segment) -> np.ndarray:
    """A copy of a weight's values in floats, in float32 and in the form of the model that was adapted.

    ``segment`` is one of the weight's. External data is read and let go of again.
    """
    return _read(*_place(match), segment.out_features, segment.transposed)


# By what the user says


def _given(file: File, wanted, given: Mapping[str, str]) -> dict[str, list[Match]]:
    found = {}
    for name, text in given.items():
        if name not in wanted:
            raise UniLoraError(f"the adapter has no weight {name}, which --map names{_near(name, wanted)}")
        value, row = file.initializers.get(text), None
        if value is None and "@" in text:
            before, _, after = text.rpartition("@")
            if after.isdecimal():
                value, row = file.initializers.get(before), int(after)
        constant = file.of.get(value)
        if constant is None:
            raise UniLoraError(
                f"the file has no initializer {text} in use, which --map names{_near(text, file.initializers)}"
            )
        found[name] = [_given_match(wanted[name], constant, row)]
    return found


def _given_match(wanted, constant, row) -> Match:
    fits = wanted.fits(constant)
    if row is not None:
        rows = wanted.stacked(constant) if isinstance(wanted, Weight) else []
        fits = [turned for turned, height in rows if row + wanted.segments[0].out_features <= height]
    if not fits:
        at = "" if row is None else f" at row {row}"
        shape = " × ".join(map(str, constant.forms[0][0] if constant.forms else constant.value.shape))
        raise BaseMismatch(
            f"{constant.value.name} does not hold {wanted}{at}: it is {shape}; give another --map", "10.3"
        )
    return Match(wanted.name, constant.value, fits[0], "given", row)


def _near(name, there) -> str:
    near = difflib.get_close_matches(name, list(there), 3, 0) if there else []
    return f"; it has {', '.join(near)}" + (", …" if len(near) < len(there) else "") if near else ""


# In one of several files


def _is_of(part: str, name: str) -> bool:
    """Whether a parameter's name says that it is in a part of the model: model.encoder.…, text_model.…"""
    return not {part, f"{part}_model", f"{part}_tower"}.isdisjoint(name.split("."))


def _check_elsewhere(file: File, missing, found, doubts) -> None:
    """Raises ``BaseMismatch`` unless the missing weights are in other files: where one is in doubt, or may be one without a name."""
    taken = {each.value for matches in found.values() for each in matches}
    nameless = [each for each in file.constants if each.value not in taken and not each.is_named]
    for each in missing:
        if each.name in doubts or any(each.fits(constant) for constant in nameless):
            raise _not_found(file, each, found, doubts, "a part of a model has no fingerprint to tell it by")


# By content


def _by_content(file: File, adapter: Adapter, missing, found, doubts) -> dict[str, list[Match]]:
    weights = {name: Weight(name, segments) for name, segments in adapter.layer_map.by_weight().items()}
    for each in missing:
        if isinstance(each, Saved):
            raise _not_found(file, each, found, doubts)
    if adapter.base is None:
        raise _not_found(file, missing[0], found, doubts, "the adapter records no fingerprint to tell it by")
    known = {name: _place(found[name][0]) for name in weights if name in found}
    if quantized := [value for value, _, _ in known.values() if value.dtype not in FLOATS]:
        raise _not_found(
            file, missing[0], found, doubts, f"no fingerprint can tell it, as {quantized[0].name} is quantized"
        )

    taken = {value for value, _, _ in known.values()}
    floats = [constant for constant in file.constants if constant.value.dtype in FLOATS and constant.value not in taken]
    groups = []
    for prefix, group in by_content.grouped([each.name for each in missing], lambda name: weights[name].form):
        places = _places(floats, weights[group[0]])
        if not places:
            quantized = any(
                constant.value.dtype not in FLOATS and weights[group[0]].fits(constant) for constant in file.constants
            )
            why = "no fingerprint can tell what is quantized" if quantized else None
            raise _not_found(file, weights[group[0]], found, doubts, why)
        groups.append(by_content.Group(prefix, group, places))

    sizes = [4 * s.out_features * s.in_features for s in adapter.layer_map.segments]
    read = functools.lru_cache(max(1, CACHE // max(sizes)))(_read)

    def proves(assignment):
        places = known | assignment
        contents = contents_fingerprint(places, lambda name: read(*places[name], *weights[name].turn))
        return contents == adapter.base.contents

    assignment, hashed, all_of_them = by_content.search(groups, proves, sum(sizes))
    if assignment is None:
        limit = "" if all_of_them else f", and {hashed * sum(sizes) / 1e9:.0f} GB of hashing are the limit"
        why = f"none of {hashed} ways to choose among those of its shape gives the adapter's fingerprint{limit}"
        raise _not_found(file, missing[0], found, doubts, why)
    return {name: [Match(name, *place[:2], "fingerprint", place[2])] for name, place in assignment.items()}


def _place(match: Match):
    return match.value, match.transposed, match.row


def _places(constants, wanted: Weight) -> dict[by_content.Kind, list]:
    """Where a weight of that form may be, in the order of use: first as a whole initializer, then among others in one."""
    whole, parts = defaultdict(list), defaultdict(list)
    for constant in constants:
        for turned in wanted.fits(constant):
            whole[by_content.Kind((constant.family, tuple(constant.value.shape), turned))].append(
                (constant.value, turned, None)
            )
        for turned, height in wanted.stacked(constant):
            out = wanted.segments[0].out_features
            for row in range(0, height - out + 1, out) if height % out == 0 else ():
                family = constant.family, tuple(constant.value.shape), turned
                parts[by_content.Kind(family, row)].append((constant.value, turned, row))
    return whole | parts


def _read(value: ir.Value, transposed, row, out, turned) -> np.ndarray:
    """A copy of a weight's values: read from (in, out) where ``transposed``, turned to (in, out) where ``turned``."""
    array = value.const_value.numpy()
    if array.ndim == 2:
        array = array.T if transposed else array
        array = array if row is None else array[row : row + out]
        array = array.T if turned else array
    array = np.array(array, np.float32, order="C")
    release(value)
    return array


# What has been found


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


def _copies(file: File, wanted, found, first_row) -> list[Match]:
    """Further initializers of the same values: one parameter, which has been folded with a Transpose for one of its uses.

    Quantized, the two are only about equal; then one must be looked up and one multiplied by, as of tied embeddings.
    """
    first = found[wanted.name][0]
    if first.row is not None or len(first.value.shape) < 2:
        return []
    taken = {each.value for matches in found.values() for each in matches}
    whole, copies = file.of[first.value], []
    for constant in file.constants:
        if constant.value in taken or len(constant.value.shape) < 2 or _of_another_layer(wanted.name, constant):
            continue
        for turned in wanted.fits(constant):
            if first.value.dtype in FLOATS and constant.value.dtype == first.value.dtype:
                same = first_row(whole, first.transposed) == first_row(constant, turned)
                same = same and _equal(whole, first.transposed, constant, turned)
            else:
                same = {use.form for use in constant.uses} != {use.form for use in whole.uses}
                same = same and _about_equal(whole, first.transposed, constant, turned)
            if same:
                copies.append(Match(wanted.name, constant.value, turned, "copy"))
                break
    return copies


def _equal(a: Constant, a_turned, b: Constant, b_turned) -> bool:
    """Whether two initializers hold the same values, and not one number only, as new ones do."""
    varied = False
    for start in range(0, a.rows(a_turned), BAND):
        band = np.arange(start, min(start + BAND, a.rows(a_turned)))
        values = a.read(a_turned, band)
        if not np.array_equal(values, b.read(b_turned, band)):
            return False
        varied = varied or np.ptp(values) > 0
    return varied


def _about_equal(a: Constant, a_turned, b: Constant, b_turned) -> bool:
    """Whether two initializers go up and down together. Within a block their scale need not be known for that, nor its sign,
    which MatMulNBits uses."""
    some = np.unique(np.linspace(0, a.rows(a_turned) - 1, BAND, dtype=int))
    a, b = a.read(a_turned, some), b.read(b_turned, some)
    a, b = (array[:, : array.shape[1] // BLOCK * BLOCK].reshape(-1, BLOCK) for array in (a, b))
    a, b = (array - array.mean(1, keepdims=True) for array in (a, b))
    sizes = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    together = np.abs((a * b).sum(1))[sizes > 0] / sizes[sizes > 0]
    return together.size > 0 and bool(together.mean() > ABOUT_EQUAL)


def _of_another_layer(name: str, constant: Constant) -> bool:
    """Whether its names say that a constant is the same weight of another layer: those may begin equal, and are not tied."""

    def ends(a, b):
        return f".{a}".endswith(f".{b}") or f".{b}".endswith(f".{a}")

    def template(text):
        return re.sub(r"\d+", "*", text)

    return any(ends(template(name), template(other)) and not ends(name, other) for _, other in constant.names)


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


def _not_found(file: File, wanted, found, doubts, why=None) -> BaseMismatch:
    reasons = [doubts.get(wanted.name, "none has its name, and none is used by a node or beside a bias of its module")]
    reasons += [why] if why else []
    taken = {each.value for matches in found.values() for each in matches}
    fitting = [each.value for each in file.constants if each.value not in taken and wanted.fits(each)]
    reasons.append(f"of its shape are {listed(fitting)}" if fitting else "none that is free has its shape")
    at, instead = "", ""
    if file.fused and isinstance(wanted, Weight) and any(wanted.stacked(each) for each in file.constants):
        stack = file.fused.inputs[1].name
        reasons.append(f"q, k and v of a layer are one matrix in this file, such as {stack}")
        at, instead = "@ROW", ", or give a file without that fusion"
    return BaseMismatch(
        f"no initializer of the file is known to be {wanted}: {'; '.join(reasons)}; say which by"
        f" --map {wanted.name}=INITIALIZER{at}{instead}",
        "10.3",
    )


def _stored(match: Match) -> str:
    if match.value.dtype not in FLOATS:
        return match.value.dtype.name.lower()
    order = "in × out" if match.transposed else "out × in"
    dtype = "" if match.value.dtype == ir.DataType.FLOAT else f", {match.value.dtype.name.lower()}"
    return (order if len(match.value.shape) == 2 else "as in the model") + dtype
