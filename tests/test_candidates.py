"""Which weights can be adapted, as which matrix and in which way, and which cannot."""

import pytest
import torch
import transformers as T
from adaptable import Patched, Projection, net, taken
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm

from backends.torch import attach, plan
from backends.torch.adapter.sites.delta_weight import DeltaWeight
from backends.torch.adapter.sites.lookup import Lookup
from backends.torch.adapter.sites.low_rank import LowRank, MergedLinear
from backends.torch.adapter.targets.candidates import candidates
from unilora_spec import LayerMapError


class Explodes(nn.Module):
    """A parametrization that must not be computed."""

    def forward(self, weight):
        raise AssertionError("a weight that is no target was computed")

    def right_inverse(self, weight):
        return weight


def parametrized(module):
    return parametrize.register_parametrization(module, "weight", Explodes(), unsafe=True)


UNFIT = {
    "weight_norm": (lambda: parametrizations.weight_norm(nn.Linear(8, 8)), "0", "remove that first"),
    "spectral_norm": (lambda: parametrizations.spectral_norm(nn.Conv2d(8, 8, 3)), "0", "remove that first"),
    "weight_norm by a hook": (lambda: weight_norm(nn.Conv1d(8, 8, 3)), "0", "remove that first"),
    "spectral_norm by a hook": (lambda: spectral_norm(nn.Linear(8, 8)), "0", "remove that first"),
    "pruned": (lambda: prune.random_unstructured(nn.Linear(8, 8), "weight", 0.5), "0", "remove that first"),
    "any parametrization": (lambda: parametrized(nn.Linear(8, 8)), "0", "remove that first"),
    "of an Embedding": (lambda: parametrized(nn.Embedding(8, 8)), "0", "remove that first"),
    "a bare one": (lambda: weight_norm(Projection(), "proj"), "0.proj", "remove that first"),
    "lazy": (lambda: nn.LazyLinear(8), "0", "run the model once first"),
    "lazy convolution": (lambda: nn.LazyConv2d(8, 3), "0", "run the model once first"),
    "none": (lambda: without_weight(nn.Linear(8, 8)), "0", "is no parameter of its Linear"),
    "renormalized": (lambda: nn.Embedding(8, 8, max_norm=1.0), "0", "set max_norm to None"),
    "a packed table": (lambda: nn.Embedding(8, 8).to(torch.float8_e4m3fn), "0", "is quantized"),
    "a packed matrix": (lambda: Projection().to(torch.float8_e4m3fn), "0.proj", "is quantized"),
    "recurrent": (lambda: nn.LSTM(8, 8), "0.weight_hh_l0", "is read by LSTM from a list of its own"),
}


def without_weight(module):
    module.register_parameter("weight", None)
    return module


@pytest.mark.parametrize(("make", "target", "message"), UNFIT.values(), ids=UNFIT)
def test_a_weight_that_cannot_be_adapted_is_refused_as_a_target_and_else_costs_nothing(make, target, message):
    weight = target if "." in target else f"{target}.weight"
    model = nn.Sequential(make(), nn.Linear(8, 8))
    assert [each.target for each in candidates(model)] == ["1"]
    assert taken(model, "1") == ["1.weight"]
    with pytest.raises(LayerMapError, match=f"^{weight} .*{message}"):
        plan(model, target, 1)
    assert taken(model, [target, "1"], exclude=target) == ["1.weight"]


def test_an_adapter_beside_a_parametrized_weight_is_saved(tmp_path):
    model = attach(nn.Sequential(weight_norm(nn.Linear(8, 8)), nn.Linear(8, 8)), 2, 9, targets="1")
    model.save_adapter(tmp_path / "vec.safetensors")


class Scaled(nn.Linear):
    """A Linear with a forward of its own."""

    def forward(self, x):
        return 2 * super().forward(x)


class StandardizedConv(nn.Conv2d):
    def _conv_forward(self, x, weight, bias):
        return super()._conv_forward(x, weight - weight.mean(), bias)


class Router(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 8))

    def forward(self, x):
        return nn.functional.linear(x, self.weight)


def attention(**options):
    return nn.MultiheadAttention(8, 2, batch_first=True, **options)


def floats(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


IDS = torch.arange(6).reshape(2, 3)
SITES = {  # module, its target below "0", weight, out, in, transposed, site, inputs
    "Linear": (lambda: nn.Linear(8, 6), "", "weight", 6, 8, False, MergedLinear, floats(2, 3, 8)),
    "a Linear of its own": (lambda: Scaled(8, 6), "", "weight", 6, 8, False, DeltaWeight, floats(2, 3, 8)),
    "Conv1D": (lambda: T.pytorch_utils.Conv1D(6, 8), "", "weight", 6, 8, True, LowRank, floats(2, 3, 8)),
    "Conv2d": (lambda: nn.Conv2d(4, 6, 3), "", "weight", 6, 36, False, LowRank, floats(2, 4, 5, 5)),
    "grouped": (lambda: nn.Conv2d(4, 6, 3, groups=2), "", "weight", 6, 18, False, DeltaWeight, floats(2, 4, 5, 5)),
    "a Conv2d of its own": (lambda: StandardizedConv(4, 6, 3), "", "weight", 6, 36, False, DeltaWeight, floats(2, 4, 5, 5)),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(4, 6, 3), "", "weight", 4, 54, False, DeltaWeight, floats(2, 4, 5, 5)),
    "grouped ConvTranspose1d": (lambda: nn.ConvTranspose1d(4, 6, 3, groups=2), "", "weight", 4, 9, False, DeltaWeight, floats(2, 4, 5)),
    "Embedding": (lambda: nn.Embedding(7, 8), "", "weight", 7, 8, False, Lookup, IDS),
    "EmbeddingBag": (lambda: nn.EmbeddingBag(7, 8), "", "weight", 7, 8, False, DeltaWeight, IDS),
    "attention, fused": (attention, "in_proj_weight", "in_proj_weight", 24, 8, False, DeltaWeight, (floats(2, 3, 8),) * 3),
    "attention, in parts": (
        lambda: attention(kdim=6, vdim=4), "k_proj_weight", "k_proj_weight", 8, 6, False, DeltaWeight,
        (floats(2, 3, 8), floats(2, 3, 6), floats(2, 3, 4)),
    ),
    "router": (Router, "", "weight", 4, 8, False, DeltaWeight, floats(2, 3, 8)),
    "a bare projection": (lambda: Projection(8), "proj", "proj", 8, 6, False, DeltaWeight, floats(2, 3, 8)),
    "a table of positions": (Patched, "pos_embed", "pos_embed", 5, 8, False, DeltaWeight, floats(2, 4, 8)),
    "Bilinear": (lambda: nn.Bilinear(3, 4, 5), "weight", "weight", 5, 12, False, DeltaWeight, (floats(2, 3), floats(2, 4))),
}  # fmt: skip


@pytest.mark.parametrize(
    ("make", "target", "weight", "out", "columns", "transposed", "site", "inputs"), SITES.values(), ids=SITES
)
def test_what_is_a_linear_map_is_adapted_as_its_matrix(make, target, weight, out, columns, transposed, site, inputs):  # fmt: skip
    torch.manual_seed(0)
    model = nn.Sequential(make())
    target, weight = f"0.{target}".rstrip("."), f"0.{weight}"
    (candidate,) = [each for each in candidates(model) if each.weight == weight]
    assert (candidate.target, candidate.site) == (target, site)
    assert candidate.shape == tuple(model.get_parameter(weight).shape) and candidate.values() is model.get_parameter(
        weight
    )
    layer_map = plan(model, target, 1)
    first = layer_map.segments[0]
    assert (first.name, first.out_features, first.in_features, first.transposed) == (weight, out, columns, transposed)
    for segment in layer_map.segments:
        segment.check_shape(candidate.shape)  # what export and merge do with the file
    inputs = inputs if isinstance(inputs, tuple) else (inputs,)
    attach(model, 1, 9, targets=target, alpha=4, bound=1.0)
    adapted, model = model[0](*inputs), model.merge()
    merged = model[0](*inputs)
    adapted, merged = (each[0] if isinstance(each, tuple) else each for each in (adapted, merged))
    # W + ΔW of the same numbers, or x·Wᵀ + s·(x·Aᵀ)·Bᵀ: some ten roundings of 2⁻²⁴ of the largest value
    torch.testing.assert_close(adapted, merged, rtol=0, atol=1e-6 * merged.abs().max().item())
    torch.manual_seed(0)
    before = make()(*inputs)
    assert not torch.allclose(before[0] if isinstance(before, tuple) else before, merged, rtol=0.1), "it has an effect"


def test_a_bare_parameter_of_three_dimensions_is_a_matrix_unless_its_module_holds_experts():
    """XLNet's projections are (d, heads, d of a head); stacked experts (experts, out, in), or (experts, in, out)."""
    with torch.device("meta"):
        xlnet = T.XLNetModel(T.XLNetConfig(vocab_size=9, d_model=8, n_layer=1, n_head=2, d_inner=8))
        gpt_oss = T.GptOssConfig(
            hidden_size=8, intermediate_size=6, num_local_experts=3, num_hidden_layers=1, vocab_size=9
        )
        gpt_oss = T.GptOssModel(gpt_oss)
    (segment,) = plan(xlnet, "rel_attn.q", 1).segments
    assert (segment.out_features, segment.in_features, segment.index) == (8, 8, None)
    stacked = plan(gpt_oss, "experts.gate_up_proj", 1).segments
    assert [(s.out_features, s.in_features, s.transposed, s.index) for s in stacked] == [
        (12, 8, True, n) for n in range(3)
    ]
    named = {each.parameter for model in (xlnet, gpt_oss) for each in candidates(model)}
    assert not any("bias" in parameter for parameter in named), "a table of biases is none to multiply by"


def test_of_nn_MultiheadAttention_the_output_projection_is_shown_its_delta():
    """The module reads its weight and calls nothing, so that no hook on an output would see a use."""
    found = {each.target: each.site for each in candidates(attention())}
    assert found == {"in_proj_weight": DeltaWeight, "out_proj": DeltaWeight}


def test_a_pair_acts_beside_a_weight_that_nothing_can_be_added_to():
    (candidate,) = candidates(Scaled(8, 8).to(torch.float8_e4m3fn))
    assert candidate.is_quantized and candidate.site is LowRank


def test_accelerates_wrapper_of_a_forward_leaves_the_way_as_it_is_and_any_other_does_not():
    hooks = pytest.importorskip("accelerate.hooks")
    model = nn.Sequential(nn.Linear(8, 8), nn.Conv1d(8, 8, 1), nn.Linear(8, 8), nn.Embedding(8, 8))
    for module in model[:2]:
        hooks.add_hook_to_module(module, hooks.AlignDevicesHook(execution_device="cpu"))
    model[2].forward = lambda x: nn.functional.linear(x, -model[2].weight)
    model[3].forward = lambda ids: -nn.functional.embedding(ids, model[3].weight)
    assert [each.site for each in candidates(model)] == [LowRank, LowRank, DeltaWeight, DeltaWeight]


@pytest.mark.parametrize("preload", [None, ["Block"]], ids=["each its own", "a block at once"])
@pytest.mark.parametrize("to", ["memory", "disk"])
def test_the_values_of_an_offloaded_weight_are_those_that_accelerate_keeps(to, preload, tmp_path):
    accelerate = pytest.importorskip("accelerate")
    model = net()
    expected = {name: value.clone() for name, value in model.state_dict().items()}
    if to == "memory":
        accelerate.cpu_offload(model, "cpu", preload_module_classes=preload)
    else:
        accelerate.disk_offload(model, tmp_path, "cpu", preload_module_classes=preload)
    found = candidates(model)
    assert [each.target for each in found] == ["0.query", "1.query"]
    for each in found:
        assert each.module.weight.is_meta and each.shape == (8, 8)
        assert torch.equal(each.values(), expected[each.weight])


def test_values_that_accelerate_has_lost_are_refused_by_name(tmp_path):
    accelerate = pytest.importorskip("accelerate")
    model = net()
    accelerate.disk_offload(model, tmp_path, "cpu")
    (tmp_path / "1.query.weight.dat").unlink()
    with pytest.raises(LayerMapError, match="1.query.weight is offloaded, and accelerate does not find its values"):
        candidates(model)[1].values()
