"""What a generated token costs and gives: few tokens without a gradient go a way of their own, with the same numbers."""

import copy

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from backends.torch import attach
from backends.torch.adapter.sites import few_tokens
from backends.torch.adapter.sites.low_rank import LowRank
from backends.torch.adapter.sites.noise import Noise

LAYERS = {
    "linear": lambda: nn.Linear(24, 20),
    "no bias": lambda: nn.Linear(24, 20, bias=False),
    "transposed": lambda: Conv1D(20, 24),
}
TARGETS = {"whole": ["0"], "rows": ["0[2:9]", "0[12:20]"]}
SHAPES = {
    "vector": (24,),
    "row": (1, 24),
    "token": (1, 1, 24),
    "a few of one text": (1, 3, 24),
    "of several texts": (4, 1, 24),
    "of texts": (2, 5, 24),  # of more, W + ΔW costs less for a layer so small
    "none": (0, 24),
}


def random(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def adapted(layer="linear", targets="whole", dtype=torch.float32, rank=3, **options):
    torch.manual_seed(0)
    base = nn.Sequential(LAYERS[layer]()).to(dtype)
    return attach(base, rank=rank, d=60, targets=TARGETS[targets], alpha=5, bound=1.0, **options).eval()


@pytest.fixture
def ways(monkeypatch):
    """Which way each layer went since the last look."""
    taken = []
    for owner, method, name in ((few_tokens, "add", "few"), (LowRank, "_added", "many")):
        own = getattr(owner, method)
        monkeypatch.setattr(owner, method, lambda *given, own=own, name=name: taken.append(name) or own(*given))

    def look():
        seen = taken.copy()
        taken.clear()
        return seen

    return look


def check(model, x):
    """The sum is rounded to the output's dtype once; before, there are some thirty roundings, of float64 for an input of
    that, else of float32, of sums of absolute values (24 products for each of three, and those three)."""
    unilora = model.unilora
    with torch.no_grad():
        given = model(x)
        unilora.enabled = False
        exact = model(x).double()
        unilora.enabled = True
    magnitude = torch.zeros_like(exact)
    for segment, (A, B) in zip(unilora.layer_map.segments, unilora.factors()):
        s, (A, B) = float(unilora.layer_map.factor_scale(segment)), (A.detach().double(), B.detach().double())
        rows = slice(segment.row or 0, (segment.row or 0) + segment.out_features)
        exact[..., rows] += s * x.double() @ A.T @ B.T
        magnitude[..., rows] += s * x.double().abs() @ A.abs().T @ B.abs().T
    rounding = 2.0**-53 if x.dtype == torch.float64 else 2.0**-24
    bound = torch.finfo(given.dtype).eps / 2 * exact.abs() + 30 * rounding * magnitude
    assert given.dtype == x.dtype and ((magnitude > 1).any() or not x.numel())
    assert ((given.double() - exact).abs() <= bound).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("targets", TARGETS)
@pytest.mark.parametrize("layer", LAYERS)
def test_few_tokens_give_the_sum_rounded_once(layer, targets, dtype, ways):
    model = adapted(layer, targets, dtype)
    for shape in SHAPES.values():
        check(model, random(*shape).to(dtype))
        assert ways() == ["few"], shape


def test_the_last_token_of_each_text_is_no_contiguous_input(ways):
    model, x = adapted(), random(4, 5, 24)
    check(model, x[:, -1:])
    check(model, x[:1, -1:])
    check(model, x[0].T.contiguous().T[:1])
    assert ways() == 3 * ["few"]


def test_what_goes_the_other_way(ways):
    model, x = adapted(), random(1, 24)

    def way(model, x):
        model(x)
        return ways()

    assert way(model, x) == ["many"], "a gradient may be wanted"
    with torch.no_grad():
        assert way(model, x) == way(model, random(10, 24)) == ["few"]
        half = adapted(dtype=torch.bfloat16)
        assert way(half, random(16, 24).bfloat16()) == ["few"] and way(half, random(17, 24).bfloat16()) == ["many"]
        with torch.autocast("cpu", torch.bfloat16):
            assert way(model, x) == ["many"]
        assert way(adapted(rank=0), x) == ["many"]
        noisy = adapted().train()
        noisy.unilora.noise = Noise(sigma=0.1, seed=0)
        assert way(noisy, x) == ["few"], "no noise yet"
        noisy.unilora.noise.at(1, 2)
        assert way(noisy, x) == ["many"]
        noisy.eval()
        assert way(noisy, x) == ["few"]
    with torch.inference_mode():
        assert way(model, x) == ["few"]


def test_what_is_prepared_is_of_the_theta_of_now_and_serves_every_mode():
    model, x = adapted(), random(1, 24)
    with torch.inference_mode():
        before = model(x)
    check(model, x)
    with torch.no_grad():
        model.unilora.theta.mul_(2)
    check(model, x)
    assert not torch.equal(before, model(x))
    model(x).sum().backward()  # factors with a gradient, which the next call takes as well
    check(model, x)
    assert not model(x).is_inference() and model(x).requires_grad
    check(model.double(), x.double())
    check(copy.deepcopy(model), x.double())


@pytest.mark.parametrize("layer", LAYERS)
def test_what_a_hook_has_kept_stays_what_it_was(layer):
    torch.manual_seed(0)
    base, kept = nn.Sequential(LAYERS[layer]()), []
    if layer == "transposed":
        base[0].register_forward_hook(lambda module, inputs, output: kept.append((output, output.clone())))
    base[0].register_forward_pre_hook(lambda module, inputs: kept.append((inputs[0], inputs[0].clone())))
    model = attach(base, rank=3, d=60, targets=["0"], bound=1.0)
    with torch.no_grad():
        model(random(1, 24))
    assert kept and all(torch.equal(*pair) for pair in kept)


def test_a_batch_of_thetas_goes_through_one_token():
    model, x = adapted(), random(1, 24)
    thetas = random(3, 60)
    with torch.no_grad():
        batched = torch.func.vmap(lambda theta: torch.func.functional_call(model, {"unilora_theta": theta}, x))(thetas)
        for theta, given in zip(thetas, batched):
            model.unilora.theta.copy_(theta)
            torch.testing.assert_close(
                given, model(x), rtol=1e-5, atol=1e-5
            )  # some fifty roundings of 2⁻²⁴ of sums near ten


def test_an_encoder_of_torch_does_not_go_past_a_layer_within_that_is_the_model():
    torch.manual_seed(0)
    encoder, x = nn.TransformerEncoderLayer(24, 2, 24, batch_first=True).eval(), random(1, 3, 24)
    with torch.no_grad():
        before = encoder(x)
        attach(encoder.linear1, rank=3, d=60, targets=[""], bound=4.0)
        assert not torch.allclose(encoder(x), before, atol=0.1)


def test_it_is_prepared_once_for_a_theta_and_a_dtype(monkeypatch):
    made, own = [], few_tokens.prepared
    monkeypatch.setattr(few_tokens, "prepared", lambda x, pairs: made.append(x.dtype) or own(x, pairs))
    model, x = adapted(), random(1, 24)
    with torch.no_grad():
        for _ in range(3):
            model(x)
        assert made == [torch.float32]
        model.unilora.theta.mul_(2)
        model(x)
        assert made == 2 * [torch.float32]
        model.double()(x.double())
    assert made == [torch.float32, torch.float32, torch.float64]
