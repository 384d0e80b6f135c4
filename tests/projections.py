"""Projections beside plain arithmetic."""

import numpy as np

from unilora_spec import Projection

LARGEST = 2**40


def of(p):
    """What the oracle takes for a projection."""
    return p.kind, p.D, p.d, p.tensors["index"] if p.kind == "table" else p.seed


def dense(p):
    """P as a matrix in float64, from index and scale."""
    P = np.zeros((p.D, p.d))
    P[np.arange(p.D), p.index()] = p.scale()[p.index()]
    return P


def same_bits(a, b):
    return np.array_equal(np.asarray(a, np.float32).view(np.uint32), np.asarray(b, np.float32).view(np.uint32))


def table(index, d=3, **options):
    return Projection("table", D=5, d=d, seed=0, tensors={"index": index}, **options)
