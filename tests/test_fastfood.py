"""The kind fastfood, beyond what every kind is tested for: what its P does to lengths, and what its blocks are."""

import numpy as np

from unilora_spec import Projection
from unilora_spec.kinds import fastfood


def drawn(d):
    return np.random.default_rng(d).standard_normal(d).astype(np.float32)


def test_lengths_are_kept_in_the_mean():
    """SPEC 11.12. The seeds' ratios have a deviation of about 0.1; four standard errors, found from them, are 3% here, and a
    wrong S is a factor: √2 where L were taken for another power, (L/d) where zeros up to L were left out."""
    for d in (33, 64):  # just above a power of two, where most of a block is zeros; and one
        theta = drawn(d)
        lengths = [np.linalg.norm(Projection("fastfood", D=500, d=d, seed=seed).expand(theta)) for seed in range(150)]
        ratios = np.square(lengths) / np.square(np.linalg.norm(theta))
        error = ratios.std() / np.sqrt(len(ratios))
        assert error < 0.0125 and abs(ratios.mean() - 1) < 4 * error


def test_one_block_is_these_matrices():
    """S·H·G·Π·H·B, with H by its definition (Sylvester's), to rounding: 2 · 4 sums of 16 numbers near 1."""
    p = Projection("fastfood", D=16, d=13, seed=9)
    H = np.array([[(-1) ** (i & j).bit_count() for j in range(16)] for i in range(16)])
    B = np.diag(np.where(p.hashes(1, np.arange(16)) < 2**31, 1, -1))
    order = np.argsort(p.hashes(3, np.arange(16)), kind="stable")
    S, G = 1 / np.sqrt(16 * 16), np.diag(p.normal(2, 0, 16))
    theta = drawn(13)
    exact = S * H @ G @ np.eye(16)[order] @ H @ B @ np.pad(theta, (0, 3))
    assert np.allclose(p.expand(theta), exact, rtol=0, atol=1e-5)


def test_pieces_of_any_size_give_the_same(monkeypatch):
    p = Projection("fastfood", D=100, d=10, seed=4)
    theta, g = drawn(10), drawn(100)
    whole, adjoint = p.expand(theta), p.adjoint(g, 0, theta)
    monkeypatch.setattr(fastfood, "_PIECE", 32)
    assert len(list(p.pieces(0, 100))) == 4
    assert np.array_equal(p.expand(theta), whole)
    assert np.allclose(p.adjoint(g, 0, theta), adjoint, rtol=1e-6, atol=1e-6)  # sums of float64, in another order
