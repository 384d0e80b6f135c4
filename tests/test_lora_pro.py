"""LoRA-Pro through P (Wang et al. 2025)."""

import numpy as np
import pytest
import torch
from optimized import RANK, Called, adapted, apart, deltas, factors, generator, trained, transformed

from backends.torch.optimizers import LoraPro
from backends.torch.optimizers.lora_pro import _closed


def jacobian(s, A, B):
    """J of (a, b) → s·(B·a + b·A), dense."""

    def move(vector):
        a, b = vector[: A.numel()].reshape(A.shape), vector[A.numel() :].reshape(B.shape)
        return (s * (B @ a + b @ A)).flatten()

    return torch.autograd.functional.jacobian(move, torch.zeros(A.numel() + B.numel(), dtype=torch.float64))


@pytest.mark.parametrize("rank_of_B", [RANK, 1, 0])
def test_pro_is_the_nearest_move_and_the_nearest_pair_that_makes_it(rank_of_B):
    s, random = 1.7, generator(5)
    A, B, G = (torch.randn(n, generator=random, dtype=torch.float64) for n in [(RANK, 6), (5, RANK), (5, 6)])
    B[:, rank_of_B:] = 0
    J = jacobian(s, A, B)
    g = J.T @ G.flatten()
    inverse = torch.linalg.pinv(J, rtol=1e-9)
    # of all that bring J nearest to G, what is nearest to g
    expected = g + inverse @ (G.flatten() - J @ g)
    g_A, g_B = g[: A.numel()].reshape(A.shape), g[A.numel() :].reshape(B.shape)
    a, b = (side[0] for side in _closed(s, A[None], B[None], g_A[None], g_B[None]))
    # float64, condition numbers of some hundred in Gram matrices: 2⁻⁵³ · 10⁴
    torch.testing.assert_close(torch.cat((a.flatten(), b.flatten())), expected, atol=1e-11, rtol=0)
    if rank_of_B == RANK:
        first = torch.linalg.inv(B.T @ B) @ g_A / s**2
        X = (a - first) @ torch.linalg.pinv(A)
        residual = B.T @ B @ X + X @ A @ A.T + first @ A.T
        assert residual.abs().max() < 1e-10 and X.abs().max() > 1e-3


@pytest.mark.parametrize(("kind", "d", "left"), [("balanced", 20, 1e-3), ("vera", None, 1e-3), ("tied", None, 0.2)])
def test_pro_through_P_is_the_nearest_move_that_theta_can_make(kind, d, left):
    unilora = adapted(kind=kind, d=d)
    optimizer = LoraPro(unilora, rounds=100)  # more than there are unknowns: it has to know when to stop
    P = dense(unilora)
    theta_D = unilora.storage.expand(unilora.theta.detach(), torch.float64)
    JP = torch.block_diag(*[jacobian(2.0, A, B) for A, B in factors(unilora, theta_D)]) @ P
    G = torch.randn(len(JP), generator=generator(6), dtype=torch.float64)
    with torch.no_grad():
        t = optimizer._by_conjugate_gradients(JP.T @ G, optimizer._factors())
        torch.testing.assert_close(optimizer._moved(t), P @ t, atol=1e-6 * t.norm().item(), rtol=0)  # P is in float32
    move, nearest = JP @ t, JP @ torch.linalg.pinv(JP, rtol=1e-6) @ G
    # to the residual of 1e-5 times condition numbers of some ten; those of tied, which shares A and B, are near a thousand, and
    # a hundred rounds come part of the way
    assert (move - nearest).norm() < left * nearest.norm() and nearest.norm() < 0.9 * G.norm()


def dense(unilora):
    """P, the Jacobian of θ_D at θ, row by row of the reference's adjoint."""
    projection, theta = unilora.projection, unilora.theta.detach().float().numpy()
    return torch.stack(
        [torch.from_numpy(projection.adjoint(np.ones(1), i, theta)) for i in range(projection.D)]
    ).double()


def paper_pro(unilora, lr, P, beta1=0.9, beta2=0.99, eps=1e-8, decay=0.1):
    """Adam on J(a, b), and J(a, b) by dense matrices: of all that come nearest, what is nearest to the gradient."""
    first, second, t = 0, 0, 0

    def step():
        nonlocal first, second, t
        t += 1
        theta_D = P @ unilora.theta.data
        J = torch.block_diag(*[jacobian(2.0, A, B) for A, B in factors(unilora, theta_D)]) @ P
        inverse = torch.linalg.pinv(J, rtol=1e-9)
        E = J @ inverse @ torch.linalg.pinv(J.T, rtol=1e-9) @ unilora.theta.grad
        first, second = beta1 * first + (1 - beta1) * E, beta2 * second + (1 - beta2) * E**2
        E = first / (1 - beta1**t) / ((second / (1 - beta2**t)).sqrt() + eps)
        g = J.T @ E
        change = g + inverse @ (E - J @ g)
        unilora.theta.data.mul_((1 - lr * decay) ** 0.5).sub_(lr * change)

    return step


@pytest.mark.parametrize(("kind", "d", "tolerance"), [("identity", None, 1e-9), ("balanced", 20, 1e-4)])
def test_pro_is_the_papers_algorithm(kind, d, tolerance):
    """Float64 with Gram matrices for `identity`; through P what is applied in float32, and ten rounds instead of a solution."""

    def weights(make):
        unilora = adapted(kind=kind, d=d)
        P = dense(unilora)
        return trained(unilora, lambda u: make(u, P), steps=4, through=P)

    one = weights(lambda u, P: LoraPro(u, lr=0.01, betas=(0.9, 0.99), weight_decay=0.1, rounds=40))
    other = weights(lambda u, P: Called(u, paper_pro(u, 0.01, P)))
    assert max(apart(*pair) for pair in zip(one, other)) < tolerance


@pytest.mark.parametrize(("efficient", "alike"), [(False, True), (True, False)])
def test_pro_moves_the_weight_alike_whatever_its_factors_to_first_order(efficient, alike):
    def pro(unilora):
        return LoraPro(unilora, lr=1e-6, efficient=efficient)

    start = adapted()
    before = [delta.detach() for delta in deltas(start)]
    other = transformed(start)
    seen = [[a - b for a, b in zip(trained(u, pro)[-1], before)] for u in (start, other)]
    # a move of 1e-6, eight times; of second order is 1e-12 by the inverse of small singular values, here above 0.1
    assert (apart(*seen) < 1e-3) == alike
