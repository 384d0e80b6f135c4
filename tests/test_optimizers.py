"""LoRA-RITE and LoRA-Pro: what their papers claim of a step, as properties; their state; what they refuse."""

import copy
import io

import numpy as np
import pytest
import torch
from layers import batch, layers
from torch import nn

from backends.torch import attach
from backends.torch.optimizers import LoraPro, LoraRite
from backends.torch.optimizers.lora_pro import _closed
from backends.torch.optimizers.pairs import Pairs
from unilora_spec import KindError, WorkFailed

RANK = 3


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def adapted(seed=0, zero_B=False, kind="identity", d=None):
    """A model with two segments of one shape and one of another, s = 2, and θ in float64: A and B of it are of size one."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(7, 6), nn.Linear(7, 6), nn.Linear(6, 9))
    attach(model, RANK, d, targets=["0", "1", "2"], alpha=2 * RANK, kind=kind).double()
    theta = model.unilora.theta.data.normal_(generator=generator(seed))
    for segment, start in model.unilora.layer_map.placed() if zero_B else ():
        segment.factors(theta[start : start + segment.size])[1].zero_()
    return model.unilora


def factors(unilora, vector):
    placed = unilora.layer_map.placed()
    return [segment.factors(vector[start : start + segment.size]) for segment, start in placed]


def deltas(unilora, P=None):
    return [2 * B @ A for A, B in factors(unilora, unilora.theta if P is None else P @ unilora.theta)]


@torch.no_grad()
def transformed(unilora):
    """The same ΔW of other factors, (RA, BR⁻¹): a copy. R has a condition number of some ten."""
    other = copy.deepcopy(unilora.model).unilora
    random = generator(1)
    for A, B in factors(other, other.theta.data):
        R = torch.eye(RANK) * 2 + torch.randn(RANK, RANK, generator=random)
        A.copy_(R.double() @ A)
        B.copy_(B @ torch.linalg.inv(R.double()))
    return other


def trained(unilora, make, steps=8, through=None):
    """ΔW after each step on ½‖X(ΔW − Z)‖², X and Z random, new at each step, as batches are."""
    optimizer, random, seen = make(unilora), generator(2), []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = 0
        for delta in deltas(unilora, through):
            X, Z = (torch.randn(delta.shape, generator=random, dtype=torch.float64) for _ in "XZ")
            loss += 0.5 * (X @ (delta - Z).T).square().sum()
        loss.backward()
        gradient = unilora.theta.grad.clone()
        optimizer.step()
        assert torch.equal(unilora.theta.grad, gradient), "what was put in its place is gone again"
        seen.append([delta.detach() for delta in deltas(unilora, through)])
    return seen


def apart(one, other):
    """How far two ΔW are apart, as a share of the largest entry."""
    return max(float((a - b).abs().max() / a.abs().max()) for a, b in zip(one, other))


# LoRA-RITE


@pytest.mark.parametrize("zero_B", [False, True])
def test_rite_moves_the_weight_alike_whatever_its_factors(zero_B):
    def rite(unilora):
        return LoraRite(unilora, lr=0.1, weight_decay=0.1, clip=50)

    def adamw(unilora):
        return torch.optim.AdamW([unilora.theta], lr=0.1)

    start = adapted(zero_B=zero_B)
    before = [delta.detach() for delta in deltas(start)]
    other = transformed(start)
    seen = [trained(u, rite) for u in (start, other)]
    # float64 with 2⁻⁵³; a Gram matrix squares condition numbers of some hundred, eight steps add up: below 1e-9
    assert max(apart(*pair) for pair in zip(*seen)) < 1e-9
    assert apart(seen[0][-1], before) > 0.5, "they moved"
    start = adapted(zero_B=zero_B)
    assert apart(trained(start, adamw)[-1], trained(transformed(adapted(zero_B=zero_B)), adamw)[-1]) > 0.05


def paper_rite(unilora, lr, beta1=0.9, beta2=0.99, eps=1e-6, clip=5.0):
    """Algorithm 1, pair by pair and by QR as it is written there, with the moving averages of the authors' code."""
    state, t = {}, 0

    def step():
        nonlocal t
        t += 1
        pairs = list(zip(factors(unilora, unilora.theta.data), factors(unilora, unilora.theta.grad)))
        work = []
        for number, ((A, B), (gA, gB)) in enumerate(pairs):
            for name, side, g, partner in (("A", A.T, gA.T, B), ("B", B, gB, A.T)):
                U, R = torch.linalg.qr(partner)
                work.append(((number, name), side, g @ torch.linalg.pinv(R), U, R))
        total = sum(g.square().sum() for _, _, g, _, _ in work).sqrt()
        changes = []
        for key, side, g, U, R in work:
            g = g * min(1, clip / total)
            r = len(R)
            M, V, rho, last = state.get(
                key, (torch.zeros_like(side), torch.zeros(r, r).double(), 0, torch.zeros_like(U))
            )
            P = U.T @ last
            d = (torch.linalg.eigvalsh(V) - torch.linalg.eigvalsh(P @ V @ P.T)).max()
            b1, b2 = (beta * (1 - beta ** (t - 1)) / (1 - beta**t) for beta in (beta1, beta2))
            rho = b2 * (rho + d)
            V = b2 * P @ V @ P.T + (1 - b2) * g.T @ g / len(g)
            w, v = torch.linalg.eigh(V)
            M = b1 * M @ P.T + (1 - b1) * g @ v @ torch.diag(1 / ((w + rho).sqrt() + eps)) @ v.T
            state[key] = M, V, rho, U
            changes.append((side, lr * M @ torch.linalg.pinv(R).T))
        for side, change in changes:
            side.sub_(change)

    return step


class Called(torch.optim.Optimizer):
    """A function as an optimizer's step."""

    def __init__(self, unilora, step):
        super().__init__([unilora.theta], {})
        self.step = torch.no_grad()(step)


def test_rite_is_the_papers_algorithm():
    one = trained(adapted(), lambda u: LoraRite(u, lr=0.1, betas=(0.9, 0.99), clip=5))
    other = trained(adapted(), lambda u: Called(u, paper_rite(u, 0.1)))
    assert max(apart(*pair) for pair in zip(one, other)) < 1e-9  # as above


# LoRA-Pro


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


# Both


MAKERS = {
    "rite": lambda unilora, **options: LoraRite(unilora, **options),
    "pro": lambda unilora, **options: LoraPro(unilora, **options),
    "pro, efficient": lambda unilora, **options: LoraPro(unilora, **options, efficient=True),
}


def regression(kind, d=None):
    """A model whose two layers are to become others, and the loss of it."""
    base = nn.Sequential(nn.Linear(24, 32), nn.Tanh(), nn.Linear(32, 8))
    torch.manual_seed(0)
    for parameter in base.parameters():
        nn.init.normal_(parameter, std=0.2)
    aim, x = copy.deepcopy(base), batch(256)
    for layer in (aim[0], aim[2]):
        layer.weight.data += 0.3 * torch.randn(len(layer.weight), 2) @ torch.randn(2, layer.weight.shape[1]) / 5
    aim[2].bias.data += 0.5
    y = aim(x).detach()
    model = attach(base, 4, d, targets=["0", "2"], kind=kind, train_in_full=["2.bias"])
    return model, lambda: (model(x) - y).square().mean()


def run(model, loss, optimizer, steps):
    for _ in range(steps):
        optimizer.zero_grad()
        value = loss()
        value.backward()
        optimizer.step()
    return value.item()


@pytest.mark.parametrize(
    ("maker", "kind", "d", "lr"),
    [("rite", "identity", None, 0.01), ("pro", "identity", None, 0.01), ("pro, efficient", "identity", None, 0.01),
     ("pro", "balanced", 200, 0.003), ("pro, efficient", "uniform", 200, 0.03)],
)  # fmt: skip
def test_the_loss_falls_and_a_run_in_two_parts_is_the_same(maker, kind, d, lr):
    def begun():
        model, loss = regression(kind, d)
        others = [{"params": [model.get_parameter("2.bias")], "lr": 0.05}]
        return model, loss, MAKERS[maker](model.unilora, lr=lr, others=others)

    model, loss, optimizer = begun()
    before = loss().item()
    assert run(model, loss, optimizer, 24) < 0.6 * before
    assert model.get_parameter("2.bias").detach().abs().max() > 0.2, "AdamW stepped it"
    again, loss, optimizer = begun()
    run(again, loss, optimizer, 9)
    file = io.BytesIO()
    torch.save((again.state_dict(), optimizer.state_dict()), file)
    file.seek(0)
    third, loss, optimizer = begun()
    weights, state = torch.load(file, weights_only=True)
    third.load_state_dict(weights, strict=False)
    optimizer.load_state_dict(state)
    run(third, loss, optimizer, 15)
    assert torch.equal(third.unilora.theta, model.unilora.theta)


def test_split_and_join():
    unilora = adapted()
    pairs = Pairs(unilora.layer_map)
    assert [len(numbers) for numbers in pairs.batches] == [2, 1]
    vector = torch.arange(unilora.projection.D, dtype=torch.float64)
    assert torch.equal(pairs.join(pairs.split(vector)), vector)


def test_refused_by_name():
    balanced = attach(layers(), rank=2, d=20, targets=["0"]).unilora
    with pytest.raises(KindError, match="LoRA-RITE steps A and B themselves, which kind balanced rebuilds from theta"):
        LoraRite(balanced)
    with pytest.raises(KindError, match="0.weight has rank 0, and so no A and B to step; take AdamW"):
        LoraPro(attach(layers(), rank=0, d=20, targets=["0"]).unilora)
    unilora = adapted()
    for make in MAKERS.values():
        optimizer = make(unilora)
        unilora.theta.grad = torch.full_like(unilora.theta, torch.nan)
        if make is not MAKERS["pro, efficient"]:  # AdamW's own moments take what they get
            unilora.theta.data.fill_(torch.nan)
            with pytest.raises(WorkFailed, match="not finite any more; give a lower learning rate"):
                optimizer.step()
    unilora.theta.full_tensor = None
    with pytest.raises(KindError, match="LoraRite steps whole matrices, and theta is in parts"):
        LoraRite(unilora)
