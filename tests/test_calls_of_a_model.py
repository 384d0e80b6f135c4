"""However a model is called, and whoever changed θ since, what acts is the θ of now."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from adaptable import experts, net
from architectures import CASES
from torch import nn

from backends.torch import attach

X = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))


def adapted(model, targets=("query",), d=40, **options):
    return attach(model, 2, d, targets=targets, bound=1.0, **options)


def block():
    torch.manual_seed(0)
    return net()


@torch.no_grad()
def seen(model, *inputs):
    return model(*inputs)


def wanted(output):
    """Of each entry something else, as the squares after a LayerNorm always have the same sum."""
    return (output.cumsum(-1).sin() * output).sum()


def anew(model, make, targets):
    """The same adapter, put on another model that has never been called."""
    other = adapted(make(), targets)
    with torch.no_grad():
        other.unilora.theta.copy_(model.unilora.theta)
    return other


# Whoever changes θ


def fused(theta, optimizer=torch.optim.AdamW):
    optimizer([theta], lr=0.3, fused=True).step()


def exchanged(theta):
    """As an average of weights is swapped in."""
    theta.data = theta.data * 2


@torch.inference_mode()
def in_inference_mode(theta):
    theta.mul_(2)


CHANGES = {
    "a fused AdamW": fused,
    "a fused SGD": lambda theta: fused(theta, torch.optim.SGD),
    ".data": lambda theta: theta.data.mul_(2),
    ".data exchanged": exchanged,
    "inference mode": in_inference_mode,
    "a list of tensors": lambda theta: torch._foreach_mul_([theta.data], 2.0),
    "NumPy": lambda theta: theta.detach().numpy().__imul__(2),
    "a vector of parameters": lambda theta: nn.utils.vector_to_parameters(2 * theta.detach(), [theta]),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_the_next_call_sees_what_changed(change):
    model = adapted(block())
    for with_grad in (False, True):
        wanted(model(X)).backward()
        before = seen(model, X)  # a metric between backward and step
        change(model.unilora.theta)
        expected = seen(anew(model, block, ("query",)), X)
        assert (expected - before).abs().max() > 1e-3
        with torch.set_grad_enabled(with_grad):
            # few tokens take other products where no gradient is wanted: sums of eight numbers of size one, in another
            # order
            torch.testing.assert_close(model(X).detach(), expected, atol=1e-5, rtol=0)


# Calls past the forward of the model


class Coder(nn.Module):
    """As a VAE: called by its methods, never as a whole."""

    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = nn.Sequential(nn.Linear(8, 8), nn.Tanh()), nn.Linear(8, 8)

    def encode(self, x):
        return self.encoder(x)

    def decode(self, z):
        return self.decoder(z)


def coder():
    torch.manual_seed(0)
    return Coder()


def clip_features(model):
    batch = CASES["CLIP"].batch()
    texts = model.get_text_features(input_ids=batch["input_ids"])
    pictures = model.get_image_features(pixel_values=batch["pixel_values"])
    texts, pictures = (each if torch.is_tensor(each) else each.pooler_output for each in (texts, pictures))
    return texts - pictures


METHODS = {
    "CLIP's features": (CASES["CLIP"].model, ("q_proj", "text_projection", "visual_projection"), clip_features),
    "encode and decode": (coder, ("encoder.0", "decoder"), lambda model: model.decode(model.encode(X)) - X),
}


@pytest.mark.parametrize("is_fused", [False, True])
@pytest.mark.parametrize(("make", "targets", "run"), METHODS.values(), ids=METHODS)
def test_methods_of_a_model_are_trained_through(make, targets, run, is_fused):
    model = adapted(make(), targets)
    optimizer = torch.optim.AdamW([model.unilora.theta], lr=0.05, fused=is_fused)
    losses = []
    for _ in range(15):
        loss = run(model).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    with torch.no_grad():
        assert torch.equal(run(model), run(anew(model, make, targets)))


def test_generate_calls_the_encoder_with_the_theta_of_now():
    case = CASES["T5"]
    model, batch = adapted(case.model(), ("q", "v", "wo")), case.batch()
    optimizer = torch.optim.AdamW([model.unilora.theta], lr=0.3, fused=True)
    options = {"max_new_tokens": 8, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
    options |= {"eos_token_id": None, "pad_token_id": 0, "decoder_start_token_id": 0}
    for _ in range(2):
        model(**batch).logits.square().mean().backward()
        model.generate(batch["input_ids"], **options)
        optimizer.step()
        optimizer.zero_grad()
    first = torch.stack(model.generate(batch["input_ids"], **options).logits)
    other = anew(model, case.model, ("q", "v", "wo"))
    assert torch.equal(first, torch.stack(other.generate(batch["input_ids"], **options).logits))


# Threads


def grouped():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv1d(8, 8, 3, groups=2, padding=1), nn.ReLU(), nn.Conv1d(8, 8, 3, groups=8, padding=1))


THREADED = {
    "stacked experts": (experts, ("experts.gate_up_proj", "experts.down_proj"), torch.arange(12).reshape(2, 6)),
    "grouped convolutions": (grouped, ("0", "2"), torch.randn(2, 8, 9)),
    "Linear": (block, ("query",), X),
}


@pytest.mark.parametrize(("make", "targets", "inputs"), THREADED.values(), ids=THREADED)
def test_threads_get_each_the_whole_adapter(make, targets, inputs):
    model = adapted(make().eval(), targets)
    expected = seen(model, inputs)

    def differs(_):
        return not torch.equal(tensor(seen(model, inputs)), tensor(expected))

    with ThreadPoolExecutor(4) as pool:
        assert not any(pool.map(differs, range(100)))


def tensor(output):
    return getattr(output, "logits", output)


# What ends a call from within


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("where", ["before", "within", "after"])
def test_a_call_that_was_ended_leaves_nothing_behind(error, where):
    model = adapted(block())
    seen(model, X)

    def ends(*_):
        raise error

    part = model[1].query
    register = {
        "before": model.register_forward_pre_hook, "within": part.register_forward_pre_hook, "after": part.register_forward_hook,
    }[where]  # fmt: skip
    handle = register(ends)
    for call in (seen, lambda model, x: model(x)):
        with pytest.raises(error):
            call(model, X)
    handle.remove()
    with torch.no_grad():
        model.unilora.theta.mul_(2)
    assert torch.equal(seen(model, X), seen(anew(model, block, ("query",)), X))
    model.detach()  # which is refused within a call
    assert torch.equal(seen(model, X), seen(block(), X))


class Energy(nn.Module):
    """Of a gradient in its forward, wanted also where nobody wants one of its output."""

    def __init__(self):
        super().__init__()
        self.inner = block()

    def forward(self, x):
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            return torch.autograd.grad(self.inner(x).square().sum(), x, create_graph=True)[0]


def test_a_gradient_that_is_wanted_in_a_call_that_wants_none():
    model = adapted(Energy())
    with torch.no_grad():
        output = model(X)
    assert torch.equal(output, model(X))
    wanted(output).backward()
    gradient, model.unilora.theta.grad = model.unilora.theta.grad, None
    wanted(model(X)).backward()
    assert gradient.abs().max() > 0
    assert torch.equal(gradient, model.unilora.theta.grad)


def test_a_weight_that_is_on_disk_between_two_calls(tmp_path):
    """accelerate exchanges it during a call, and other tensors get its place in memory."""
    accelerate = pytest.importorskip("accelerate")
    case = CASES["Llama"]
    model, plain = case.model(), adapted(case.model(), ("q_proj", "v_proj", "down_proj"))
    accelerate.disk_offload(model, tmp_path, "cpu")
    adapted(model, ("q_proj", "v_proj", "down_proj"))
    for each in (model, plain):
        each(**case.batch()).logits.square().mean().backward()
    # The one adds x(W + ΔW), the other xW and xΔW: some dozen roundings of 2^-24 of the largest, there and back.
    gradient = plain.unilora.theta.grad
    torch.testing.assert_close(model.unilora.theta.grad, gradient, rtol=0, atol=1e-4 * gradient.abs().max().item())
