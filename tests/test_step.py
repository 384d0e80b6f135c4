"""What a step costs: how P is held, how often θ_D is rebuilt, and what an adapted layer computes and keeps."""

import copy
import tracemalloc
from collections import Counter

import numpy as np
import pytest
import torch
import transformers
from adapters import projection_for
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import projection as projection_of
from test_attach import FORMS, run
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from backends.torch import attach
from backends.torch.adapter.sites.linear import merged_linear
from backends.torch.adapter.sites.low_rank import LowRank, MergedLinear
from backends.torch.adapter.theta import expansion
from backends.torch.adapter.theta.expansion import index_of, storage_named, storage_of
from unilora_spec import KindError, LayerMapError, Projection, save_adapter


def layers(width=24, depth=3):
    torch.manual_seed(0)
    return nn.Sequential(*[nn.Linear(width, width) for _ in range(depth)])


def batch(tokens=50, width=24):
    return torch.randn(tokens, width, generator=torch.Generator().manual_seed(1))


# How P is held


@pytest.mark.parametrize(("kind", "d"), [("balanced", 1), ("balanced", 700), ("uniform", 50), ("identity", 1000)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_storage_gives_the_specifications_bits(kind, d, dtype, monkeypatch):
    monkeypatch.setattr(expansion, "_PIECE", 300)
    p = Projection(kind=kind, D=1000, d=d, seed=2**64 - 1)
    theta = torch.randn(d, generator=torch.Generator().manual_seed(0), requires_grad=True)
    g = torch.randn(1000, generator=torch.Generator().manual_seed(1)).to(dtype)
    wanted = torch.from_numpy(p.expand(theta.detach().numpy())).to(dtype)
    gradients = {}
    for asked in ("cached", "computed"):
        theta_D = storage_of(p, "cpu", asked).expand(theta, dtype)
        assert theta_D.dtype == dtype and torch.equal(theta_D, wanted)
        (gradients[asked],) = torch.autograd.grad(theta_D, theta, g)
    assert torch.equal(gradients["cached"], gradients["computed"]), "one order of addition"
    # n additions in float32, each off by 2⁻²⁴ of at most the sum of what is added
    n = p.counts().max()
    bound = 2.0**-24 * n * p.adjoint(g.abs().float().numpy())
    assert (np.abs(gradients["cached"].numpy() - p.adjoint(g.float().numpy())) <= bound).all()


@given(D=st.integers(1, 3000), share=st.data(), seed=st.integers(0, 2**64 - 1))
@settings(max_examples=20, deadline=None)
def test_computed_is_cached_for_any_size(D, share, seed):
    d = share.draw(st.integers(1, D))
    p, theta = Projection(D=D, d=d, seed=seed), torch.randn(d, requires_grad=True)
    results = [storage_of(p, "cpu", asked).expand(theta) for asked in ("cached", "computed")]
    assert torch.equal(*results)
    torch.library.opcheck(expansion._expand, (theta, p.kind, D, str(seed), torch.float32), test_utils="test_schema")


def test_an_index_made_by_several_threads_is_the_index(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    p = Projection(D=2**22 + 5, d=1000, seed=3)
    assert np.array_equal(index_of(p, 7).numpy(), p.index(7))


def test_what_is_held_and_what_is_chosen(monkeypatch):
    p = Projection(D=1000, d=10, seed=0)
    assert storage_of(p, "cpu").nbytes == 2000 and storage_of(p, "cpu").name == "cached"
    assert (
        storage_of(Projection(D=70_000, d=2**16, seed=0), "cpu").nbytes == 2 * 70_000
    )  # d − 1 is the largest of uint16
    assert storage_of(Projection(D=70_000, d=2**16 + 1, seed=0), "cpu").nbytes == 4 * 70_000
    assert storage_of(p, "cpu", "computed").nbytes == 0
    assert storage_of(Projection("identity", D=10, d=10, seed=0), "cpu").nbytes == 0
    large = Projection(D=2**28 + 1, d=2**17, seed=0)
    assert storage_named(large, "cpu").name == "computed"
    assert storage_named(Projection(D=2**28 + 1, d=10, seed=0), "cpu").name == "cached"  # half the bytes
    assert storage_named(large, "cpu", "cached").name == "cached"
    assert storage_named(p, "mps").name == "cached"
    with pytest.raises(KindError, match="cannot be computed on mps; give storage cached"):
        storage_named(p, "mps", "computed")
    with pytest.raises(KindError, match="cannot be computed on cpu"):
        storage_named(projection_of("table", D=10, d=5, seed=0), "cpu", "computed")
    with monkeypatch.context() as with_triton:
        with_triton.setattr(expansion.importlib.util, "find_spec", lambda name: name == "triton")
        assert storage_named(p, "cuda").name == "computed"
        assert storage_named(Projection("uniform", D=10, d=5, seed=0), "cuda").name == "cached"
    model = attach(layers(), rank=2, d=10, targets=["0"], storage="computed")
    assert "P computed: 0 bytes" in repr(model.unilora)
    assert "P cached: 192 bytes" in repr(attach(layers(), rank=2, d=10, targets=["0"]).unilora)
    with pytest.raises(KindError, match="give cached, computed or None"):
        attach(layers(), rank=2, d=10, targets=["0"], storage="tables")


def test_a_program_has_frozen_numbers_and_no_index():
    p = projection_for("vera")
    assert storage_named(p, "cpu").name == storage_named(p, "meta").name == "frozen"
    for asked in ("cached", "computed"):
        with pytest.raises(KindError, match=f"kind vera has no index to hold as {asked}; leave storage out"):
            storage_named(p, "cpu", asked)


def test_where_no_triton_is_a_gpu_holds_the_index(monkeypatch):
    """As a device without kernels of ours does, whatever the length; on meta nothing can be held."""
    p = Projection(D=1000, d=10, seed=0)
    monkeypatch.setattr(expansion.importlib.util, "find_spec", lambda name: None)
    assert storage_named(p, "cuda").name == "cached"
    assert storage_named(Projection(D=2**28 + 1, d=10, seed=0), "cuda").name == "cached"
    assert storage_named(Projection(D=2**28, d=10, seed=0), "cpu").name == "cached", "of 1 GiB"
    with pytest.raises(KindError, match="kind balanced cannot be computed on cuda; give storage cached"):
        storage_named(p, "cuda", "computed")
    monkeypatch.setattr(expansion.importlib.util, "find_spec", lambda name: True)
    assert storage_named(p, "cuda", "cached").name == "cached"
    with pytest.raises(KindError, match="kind uniform cannot be computed on cuda"):
        storage_named(Projection("uniform", D=10, d=5, seed=0), "cuda", "computed")
    for asked, name in ((None, "computed"), ("computed", "computed"), ("cached", "cached")):
        assert storage_named(p, "meta", asked).name == name
    assert storage_named(Projection("identity", D=10, d=10, seed=0), "cpu", "cached").name == "theta"


def test_equal_projections_share_what_is_held():
    p, again = (Projection(D=1000, d=10, seed=0) for _ in range(2))
    held = storage_of(p, "cpu")
    assert storage_of(again, "cpu") is held and storage_of(again, "cpu", "cached") is held
    assert storage_of(p, "cpu", "computed") is not held
    assert storage_of(Projection(D=1000, d=10, seed=1), "cpu") is not held
    assert held.nbytes == held.index.nbytes, "its scale is two numbers, whatever d is"
    assert sum(part.untyped_storage().nbytes() for part in held.scale) == 4 * len(held.scale)


@pytest.mark.parametrize("asked", ["cached", "computed"])
def test_batches_of_thetas_and_of_gradients(asked):
    p, random = Projection(D=300, d=20, seed=3), torch.Generator().manual_seed(0)
    storage, thetas = storage_of(p, "cpu", asked), torch.randn(4, 20, generator=random)
    alone = torch.stack([storage.expand(theta) for theta in thetas])
    for dim, batch_of in ((0, thetas), (1, thetas.T)):
        assert torch.equal(torch.func.vmap(storage.expand, in_dims=dim)(batch_of), alone)
    theta, g = thetas[0].requires_grad_(), torch.randn(3, 300, generator=random)
    theta_D = storage.expand(theta)
    wanted = torch.stack([torch.from_numpy(p.adjoint(each.numpy())) for each in g])
    for dim, batch_of in ((0, g), (1, g.T)):
        (gradients,) = torch.func.vmap(
            lambda each: torch.autograd.grad(theta_D, theta, each, retain_graph=True), in_dims=dim
        )(batch_of)
        torch.testing.assert_close(
            gradients, wanted, rtol=1e-5, atol=1e-5
        )  # fifteen numbers near one, in another order


def test_two_storages_train_to_the_same_bits():
    thetas = []
    for storage in ("cached", "computed"):
        model = attach(layers(), rank=2, d=20, targets=["0", "2"], storage=storage)
        optimizer = torch.optim.AdamW([model.unilora.theta], lr=0.1)
        for _ in range(5):
            model(batch()).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        thetas.append(model.unilora.theta.detach())
    assert torch.equal(*thetas)


def test_another_adapter_is_held_as_the_last_one(tmp_path):
    attach(layers(), rank=1, d=10, targets=["1"], bound=1.0).save_adapter(tmp_path / "other.safetensors")
    model = attach(layers(), rank=2, d=20, targets=["0"], storage="computed")
    model.load_adapter(tmp_path / "other.safetensors")
    assert model.unilora.storage.name == "computed" and model.unilora.projection.d == 10
    model[1](input=batch())  # by the name that nn.Linear has for it


def test_computed_is_compiled_without_graph_breaks():
    model = attach(layers(), rank=2, ranks={"1": 0}, d=20, targets=["0", "1"], storage="computed", bound=1.0)
    compiled = torch.compile(copy.deepcopy(model), fullgraph=True, backend="aot_eager")
    for one in (model, compiled):
        one(batch()).sum().backward()
    torch.testing.assert_close(compiled.unilora.theta.grad, model.unilora.theta.grad, rtol=1e-5, atol=1e-5)


def test_a_model_on_the_meta_device_is_attached_and_then_filled(tmp_path):
    with torch.device("meta"):
        model = attach(nn.Sequential(nn.Linear(24, 24)), rank=2, d=20, targets=["0"])
        assert model(torch.empty(5, 24)).shape == (5, 24)
    assert model.unilora.storage.nbytes == 0 and model.unilora.theta.is_meta
    with pytest.raises(LayerMapError, match="has no values; give it a device and its weights first"):
        model.save_adapter(tmp_path / "vec.safetensors")
    base = layers(depth=1)
    model.to_empty(device="cpu").load_state_dict(base.state_dict(), strict=False)
    model.unilora.reset_parameters()
    assert torch.equal(model(batch()), attach(base, rank=2, d=20, targets=["0"])(batch()))
    assert model.unilora.storage.name == "cached"


def test_attaching_to_405_billion_parameters_allocates_nothing():
    config = transformers.LlamaConfig(
        hidden_size=16384, num_hidden_layers=126, num_attention_heads=128, num_key_value_heads=8,
        intermediate_size=53248, vocab_size=128256,
    )  # fmt: skip
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(config)
    linear = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    tracemalloc.start()
    unilora = attach(model, rank=64, d=2**20, targets=linear).unilora
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert unilora.layer_map.D == 64 * 126 * 309_248 > 2**31  # in + out of a layer's seven, q to down
    assert unilora.theta.shape == (2**20,) and peak < 60e6, "θ's start in float64, and a map of 882 segments; no index"


# How often θ_D is rebuilt


@pytest.fixture
def counted(monkeypatch):
    """The expansions and adjoints since the last look."""
    calls = {"expansions": 0, "adjoints": 0}

    def counting(name, method):
        def count(*arguments):
            calls[name] += 1
            return method(*arguments)

        return staticmethod(count)

    monkeypatch.setattr(expansion.Expand, "forward", counting("expansions", expansion.Expand.forward))
    monkeypatch.setattr(expansion.Expand, "backward", counting("adjoints", expansion.Expand.backward))

    def look():
        seen = tuple(calls.values())
        calls.update(expansions=0, adjoints=0)
        return seen

    return look


def test_one_expansion_and_one_adjoint_for_each_micro_step(counted):
    model = attach(layers(), rank=2, d=20, targets=["0", "1", "2"])
    optimizer = torch.optim.SGD([model.unilora.theta], lr=0.1)
    for _ in range(2):
        for _ in range(3):  # gradients are accumulated over three
            model(batch()).sum().backward()
            assert counted() == (1, 1)
        optimizer.step()
        assert counted() == (0, 0)


def test_evaluating_with_the_same_theta_rebuilds_nothing(counted):
    model = attach(layers(), rank=2, d=20, targets=["0"], bound=1.0)
    model(batch()).sum().backward()
    counted()
    with torch.no_grad():
        for _ in range(3):
            expected = model(batch())
        assert counted() == (0, 0), "θ has the values that the step's factors were made of"
        model.unilora.theta.mul_(2)
        assert not torch.equal(model(batch()), expected) and counted() == (1, 0)
        model(batch())
        assert counted() == (0, 0)
        model.unilora.theta.data = model.unilora.theta.data / 2
        assert torch.equal(model(batch()), expected) and counted() == (1, 0)
    model(batch()).sum().backward()
    assert counted() == (1, 1)
    with torch.inference_mode():
        assert torch.equal(model(batch()), expected) and counted() == (0, 0)
        model.unilora.theta.mul_(2)
        twice = model(batch())
        assert not torch.equal(twice, expected) and counted() == (1, 0), (
            "no version tells of what inference mode writes"
        )
    with torch.no_grad():
        assert torch.equal(model(batch()), twice) and counted() == (0, 0)
    model[0](batch()).sum().backward()
    assert counted() == (1, 1), "what inference mode made is of no use to a forward that is trained on"


def test_half_precision_is_expanded_in_the_weights_dtype():
    model = attach(layers().bfloat16(), rank=2, d=20, targets=["0"], bound=1.0)
    with torch.no_grad():
        model(batch().bfloat16())
        assert model.unilora.factors()[0][0].dtype == torch.bfloat16
        model.float()
        model(batch())
        assert model.unilora.factors()[0][0].dtype == torch.float32


class Waits(TorchDispatchMode):
    """Counts what a GPU waits for in the block: numbers that the host reads, and tensors that it makes of its own numbers."""

    OPERATORS = ("_local_scalar_dense", "nonzero", "equal", "lift_fresh", "lift_fresh_copy")

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket.__name__ in self.OPERATORS:
            self.counts[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("form", FORMS)
def test_a_step_waits_no_more_than_the_bases(form):
    """The base may wait, to route tokens to experts for instance; the adapter adds nothing, so that a CUDA graph can hold it."""
    make, targets = FORMS[form]
    base = make()
    found = {}
    for model in (base, attach(copy.deepcopy(base), rank=3, d=40, targets=targets)):
        run(model)
        with Waits() as found[model]:
            run(model).sum().backward()
    of_base, of_adapted = found.values()
    assert of_adapted.counts == of_base.counts


# What an adapted layer computes


def plain(x, weight, bias, places, *factors):
    """y = xWᵀ + b + Σ s·(xAᵀ)Bᵀ, or s·xMᵀ of a single factor, as it is written down."""
    y, factors = F.linear(x, weight, bias), list(factors)
    for row, s, count in places:
        delta = s * x
        for _ in range(count):
            delta = delta @ factors.pop(0).T
        first = row or 0
        y = y + F.pad(delta, (first, len(weight) - first - delta.shape[-1]))
    return y


of_ranks = st.integers(0, 5) | st.sampled_from([15, 16, 20])  # from 16 on the gradients are made in another order


@given(
    shape=st.sampled_from([(1,), (7,), (3, 5), (2, 1, 4)]), ranks=st.tuples(of_ranks, of_ranks),
    bias=st.booleans(), rows=st.sampled_from([(None,), (0,), (2, 6)]), grads=st.tuples(st.booleans(), st.booleans()),
)  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_the_merged_layer_is_the_plain_one(shape, ranks, bias, rows, grads):
    random = torch.Generator().manual_seed(0)
    of_x, of_factors = grads

    def draw(*shape, grad=False):
        return torch.randn(shape, generator=random, dtype=torch.float64).requires_grad_(grad)

    x, weight = draw(*shape, 6, grad=of_x), draw(10, 6)
    b = draw(10, grad=True) if bias else None
    places = tuple((row, 1.5 + i, 2 if rank else 1) for i, (row, rank) in enumerate(zip(rows, ranks)))
    outs = [10 if row is None else 4 for row in rows]
    shapes = [((rank, 6), (out, rank)) if rank else ((out, 6),) for out, rank in zip(outs, ranks)]
    factors = [draw(*of, grad=of_factors) for own in shapes for of in own]
    leaves = [t for t in (x, b, *factors) if t is not None and t.requires_grad]
    if not leaves:
        return
    results = [f(x, weight, b, places, *factors) for f in (merged_linear, plain)]
    gradients = [torch.autograd.grad(y, leaves, torch.ones_like(y)) for y in results]
    # float64 throughout: some hundred roundings of 2⁻⁵³, of sums of some hundred numbers below ten
    for ours, theirs in zip([results[0], *gradients[0]], [results[1], *gradients[1]]):
        torch.testing.assert_close(ours, theirs, atol=1e-11, rtol=0)


def test_the_path_is_chosen_by_size_and_precision(monkeypatch):
    model = attach(layers(), rank=2, d=20, targets=["0"], bound=1.0)
    taken = []

    def noting(owner, method, name):
        own = getattr(owner, method)
        monkeypatch.setattr(owner, method, lambda *arguments: taken.append(name) or own(*arguments))

    noting(MergedLinear, "_merged", "merged")
    noting(LowRank, "_added", "low rank")

    def path(x, of=model):
        taken.clear()
        of(x)
        return taken

    # a layer of 24 × 24: W + ΔW takes 576 products for each rank, the low-rank path 48 for each rank and token
    assert path(batch(12)) == ["low rank"] and path(batch(13)) == ["merged"]
    assert path(batch(13).reshape(13, 1, 24)) == ["merged"]
    with torch.autocast("cpu", torch.bfloat16):
        assert path(batch()) == ["low rank"]
    half = attach(layers().bfloat16(), rank=2, d=20, targets=["0"])
    assert path(batch().bfloat16(), half) == ["low rank"], "W + ΔW in bfloat16 would lose ΔW"
    # of rank 0, 576 sums, and 576 products for each token
    whole = attach(layers(), rank=0, d=20, targets=["0"])
    assert path(batch(1), whole) == ["low rank"] and path(batch(2), whole) == ["merged"]


def test_nothing_of_tokens_times_rank_is_kept():
    model = attach(layers(), rank=5, ranks={"2": 0}, d=100, targets=["0", "1", "2"])
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(tuple(t.shape)) or t, lambda t: t):
        model(batch(200).requires_grad_())
    # of each layer the input, W (the base's own, no copy), A and B or their one factor; of a batch of 200 tokens nothing else
    assert sorted(kept) == sorted(3 * [(200, 24), (24, 24)] + 2 * [(5, 24), (24, 5)] + [(24, 24)])


def test_a_forward_that_a_library_has_replaced_is_left_in_place():
    model = layers(depth=1)
    seen = []
    own = model[0].forward
    model[0].forward = lambda x: seen.append(1) or own(x)
    replaced = model[0].forward
    attach(model, rank=2, d=20, targets=["0"], bound=1.0)
    expected = attach(layers(depth=1), rank=2, d=20, targets=["0"], bound=1.0)(batch())
    torch.testing.assert_close(model(batch()), expected, atol=1e-5, rtol=0)  # sums of 24 products of size one
    assert seen and model.detach()[0].forward is replaced


# Evaluation with merged weights


def test_merged_for_evaluation_and_the_base_again_to_the_bit(tmp_path):
    model = attach(layers(), rank=2, d=20, targets=["0", "2[3:9]"], bound=1.0)
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    with torch.no_grad():
        expected = model(batch())
        with model.unilora.merged():
            merged = model(batch())
            assert not torch.equal(model.get_parameter("0.weight"), weights["0.weight"])
            with pytest.raises(LayerMapError, match="leave merged"):
                model.save_adapter(tmp_path / "vec.safetensors")
            with pytest.raises(LayerMapError, match="leave merged"):
                model.detach()
    torch.testing.assert_close(
        merged, expected, atol=1e-5, rtol=0
    )  # sums of 24 products of size one, three layers deep
    assert all(torch.equal(p, weights[name]) for name, p in model.named_parameters())
    with torch.no_grad():
        assert torch.equal(model(batch()), expected)
    with pytest.raises(LayerMapError, match="train outside of merged"), model.unilora.merged():
        model(batch())
    assert all(torch.equal(p, weights[name]) for name, p in model.named_parameters())
    model(batch()).sum().backward()
    save_adapter(model.unilora.adapter(), tmp_path / "vec.safetensors")
    with torch.no_grad():
        assert torch.equal(model.load_adapter(tmp_path / "vec.safetensors")(batch()), expected)
