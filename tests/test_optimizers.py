"""LoRA-RITE and LoRA-Pro: what their papers claim of a step, as properties; their state; what they refuse."""

import copy
import io

import pytest
import torch
from layers import batch, layers
from optimized import Called, adapted, apart, deltas, factors, trained, transformed
from torch import nn

from backends.torch import attach
from backends.torch.optimizers import LoraPro, LoraRite
from backends.torch.optimizers.pairs import Pairs
from unilora_spec import KindError, WorkFailed

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


def test_rite_is_the_papers_algorithm():
    one = trained(adapted(), lambda u: LoraRite(u, lr=0.1, betas=(0.9, 0.99), clip=5))
    other = trained(adapted(), lambda u: Called(u, paper_rite(u, 0.1)))
    assert max(apart(*pair) for pair in zip(one, other)) < 1e-9  # as above


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
