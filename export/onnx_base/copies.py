"""Further initializers that hold the values of a weight that has been found."""

import re

import numpy as np

from ..graph.sites import FLOATS
from .fitting import Constant, File, Match

BAND = 64  # rows of a weight that are compared at once
BLOCK = 16  # the fewest numbers of a row that have one scale
ABOUT_EQUAL = 0.8  # correlation in a block: of a matrix and its rounding to 4 bits 0.98, of two matrices 0.2


def copies_of(file: File, wanted, found, first_row) -> list[Match]:
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
