"""How P is held, and what θ_D and its adjoint are then."""

import copy
import sys
import tracemalloc

import numpy as np
import pytest
import torch
import transformers
from adapters import projection_for
from hypothesis import given, settings
from hypothesis import strategies as st
from layers import batch, layers
from strategies import projection as projection_of
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from backends.torch import attach
from backends.torch.adapter import theta as theta_package
from backends.torch.adapter.theta import expansion
from backends.torch.adapter.theta.expansion import index_of, storage_named, storage_of
from unilora_spec import KindError, LayerMapError, Projection


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_a_compiler_is_told_of_computed_is_what_it_gives(dtype):
    theta, g = torch.ones(20), torch.ones(300, dtype=dtype)
    for operator, arguments in (
        (expansion._expand, (theta, "balanced", 300, "3", dtype)),
        (expansion._adjoint, (g, "balanced", 20, "3")),
    ):
        torch.library.opcheck(operator, arguments, test_utils="test_faketensor")


class LargestOf(TorchDispatchMode):
    """The most entries of a tensor of a dtype that an operation gives."""

    def __init__(self, dtype):
        super().__init__()
        self.dtype, self.entries = dtype, 0

    def __torch_dispatch__(self, function, types, given=(), named=None):
        result = function(*given, **named or {})
        if isinstance(result, torch.Tensor) and result.dtype == self.dtype:
            self.entries = max(self.entries, result.numel())
        return result


def test_the_adjoint_makes_little_of_the_index_int32_at_a_time(monkeypatch):
    monkeypatch.setattr(expansion, "_PIECE", 300)
    theta = torch.ones(20, requires_grad=True)
    theta_D = storage_of(Projection(D=1000, d=20, seed=3), "cpu", "cached").expand(theta)
    with LargestOf(torch.int32) as largest:
        theta_D.sum().backward()
    assert largest.entries == 300


@pytest.mark.parametrize("kind", ["balanced", "uniform"])  # the scale of one is two numbers, that of the other d
def test_the_index_is_held_on_its_device(kind):
    held = storage_of(Projection(kind, D=1000, d=20, seed=3), "meta", "cached")
    assert held.device == held.index.device == torch.device("meta")
    assert all(part.is_meta for part in held.scale)
    assert storage_of(Projection("identity", D=10, d=10, seed=0), "meta", "cached").device == torch.device("meta")


def test_the_graph_of_an_evaluation_has_the_same_bits():
    storage, theta = storage_of(Projection(D=305, d=20, seed=3), "cpu", "cached"), torch.linspace(-1, 1, 20)
    with torch.no_grad():
        compiled = torch.compile(storage.expand, backend="eager", fullgraph=True)
        assert torch.equal(compiled(theta), storage.expand(theta))


def test_a_gpu_gives_the_kernels_what_they_take(monkeypatch):
    """The signatures of the kernels, with the reference's numbers: their bits are test_triton.py's to compare."""

    class Kernels:
        @staticmethod
        def expand(theta, D, seed, dtype=torch.float32, start=0, stop=None):
            theta_D = Projection(D=D, d=len(theta), seed=seed).expand(theta.numpy(), start, stop)
            return torch.from_numpy(theta_D).to(dtype)

        @staticmethod
        def adjoint(g, d, D, seed, start=0):
            return torch.from_numpy(Projection(D=D, d=d, seed=seed).adjoint(g.float().numpy(), start))

    monkeypatch.setitem(sys.modules, "backends.torch.adapter.theta.triton_kernels", Kernels)
    monkeypatch.setattr(theta_package, "triton_kernels", Kernels, raising=False)
    theta, g = torch.linspace(-1, 1, 20), torch.linspace(1, 2, 300).bfloat16()
    given = (theta, "balanced", 300, str(2**64 - 1), torch.bfloat16)
    assert torch.equal(expansion.expand_in_kernel(*given), expansion._expand(*given))
    given = (g, "balanced", 20, str(2**64 - 1))
    # fifteen numbers between one and two, in another order
    torch.testing.assert_close(expansion.adjoint_in_kernel(*given), expansion._adjoint(*given), rtol=1e-5, atol=0)


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
        with_triton.setattr(expansion.importlib.util, "find_spec", lambda name: {"triton": True}.get(name))
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
    assert storage_named(Projection(D=2**28, d=2**17, seed=0), "cpu").name == "cached", "of 1 GiB"
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
