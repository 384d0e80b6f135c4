"""Which weights can be adapted, how their users name them, and what their names are in a file."""

import importlib

import pytest
import torch
import transformers as T
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper, offload_wrapper
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm

from backends.torch import attach, plan
from backends.torch.adapter import names
from backends.torch.adapter.architectures import _DEFAULTS, DEFAULTS
from backends.torch.adapter.candidates import candidates
from backends.torch.adapter.sites import DeltaWeight, LowRank, MergedLinear
from unilora_spec import LayerMapError

SIZES = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.query = nn.Linear(8, 8)
        self.norm = nn.LayerNorm(8)

    def forward(self, x):
        return self.norm(self.query(x).relu())


def net():
    return nn.Sequential(Block(), Block())


def compiled(module):
    return torch.compile(module, backend="eager")


def wrapped(wrap, whole=False):
    model = net()
    if whole:
        return wrap(model)
    model[0] = wrap(model[0])
    return model


def taken(model, targets, **options):
    return [segment.name for segment in plan(model, targets, 1, **options).segments]


WRAPPERS = {
    "compiled": compiled,
    "checkpointed": checkpoint_wrapper,
    "offloaded": offload_wrapper,
    "both": lambda module: compiled(checkpoint_wrapper(module)),
}


@pytest.mark.parametrize("whole", [False, True], ids=["a part", "the whole"])
@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_names_are_those_of_the_base_whatever_wraps_it(wrap, whole):
    model, base = wrapped(wrap, whole), net()
    assert list(names.parameters(model)) == [name for name, _ in base.named_parameters()]
    assert list(names.modules(model)) == [name for name, _ in base.named_modules()]
    assert taken(model, "query") == ["0.query.weight", "1.query.weight"]
    found = candidates(model)
    assert all(type(each.module) is nn.Linear and each.site is MergedLinear for each in found)
    assert type(names.plain(model)) is nn.Sequential and names.plain(base) is base
    assert names.parameters(model)["0.query.weight"] == (found[0].module, "weight")


def peft_model(model):
    peft = pytest.importorskip("peft")
    return peft.get_peft_model(model, peft.LoraConfig(target_modules=["query"], r=2))


REFUSED_WRAPPERS = {
    "DataParallel": nn.DataParallel,
    "AveragedModel": torch.optim.swa_utils.AveragedModel,
    "PeftModel": peft_model,
    "LoraModel": lambda model: peft_model(model).base_model,
}


@pytest.mark.parametrize(("kind", "wrap"), REFUSED_WRAPPERS.items())
def test_a_wrapper_whose_names_no_base_has_is_refused_by_name(kind, wrap):
    with pytest.raises(LayerMapError, match=f"^the model is a {kind}; attach to the plain model first"):
        plan(wrap(net()), "query", 1)


def test_so_is_one_that_wraps_a_part_of_the_model():
    with pytest.raises(LayerMapError, match="^0 is a DataParallel; attach to the plain model first"):
        names.plain(wrapped(nn.DataParallel))
    adapted = peft_model(net()).base_model.model  # which is plain but for its parts
    with pytest.raises(LayerMapError, match=r"^0\.query is a Linear.*plain model"):
        candidates(adapted)


def test_so_are_the_wrappers_of_many_processes(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        with pytest.raises(LayerMapError, match="^the model is a DistributedDataParallel; attach"):
            plan(nn.parallel.DistributedDataParallel(net()), "query", 1)
        with pytest.raises(LayerMapError, match="^1 is a FullyShardedDataParallel; attach"):
            model = net()
            model[1] = FullyShardedDataParallel(model[1], device_id=torch.device("cpu"))
            candidates(model)
    finally:
        torch.distributed.destroy_process_group()


def test_a_tied_module_has_all_of_its_names_and_one_candidate():
    model = nn.ModuleDict({"a": nn.Linear(4, 4), "b": nn.Linear(4, 4)})
    model["c"] = model["a"]
    assert list(names.parameters(model)) == [f"{name}.{key}" for name in "abc" for key in ("weight", "bias")]
    assert [each.target for each in candidates(model)] == ["a", "b"]
    with pytest.raises(LayerMapError, match="c is the same module as a; write 'a'"):
        plan(model, "c", 1)


class Explodes(nn.Module):
    """A parametrization that must not be computed."""

    def forward(self, weight):
        raise AssertionError("a weight that is no target was computed")

    def right_inverse(self, weight):
        return weight


def parametrized(module):
    return parametrize.register_parametrization(module, "weight", Explodes(), unsafe=True)


class Projection(nn.Module):
    def __init__(self, rows=4):
        super().__init__()
        self.proj = nn.Parameter(torch.ones(rows, 6))

    def forward(self, x):
        return x @ self.proj


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


OPTIONS = {  # of configurations whose defaults build no model, or none with attention
    "autoformer": {"prediction_length": 4},
    "bamba": {"attn_layer_indices": [1], "num_hidden_layers": 2},
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1},
    "esm": {"vocab_size": 33, "pad_token_id": 1},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"], "num_hidden_layers": 2},
    "informer": {"prediction_length": 4},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_hidden_layers": 2},
    "ministral": {"head_dim": 128},
    "nemotron": {"num_key_value_heads": 8},
    "time_series_transformer": {"prediction_length": 4},
}
DEPTHS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers", "decoder_layers")


def of_type(model_type, layers):
    """A model of the type on the meta device, of few layers, or as deep as its configuration is by default."""
    config = T.AutoConfig.for_model(model_type, **OPTIONS.get(model_type, {}))
    if layers:
        shorten(config, layers)
    modeling = type(config).__module__.replace(".configuration_", ".modeling_")
    with torch.device("meta"):
        if type(config) in T.MODEL_MAPPING:
            return T.AutoModel.from_config(config)
        kinds = [kind for kind in vars(importlib.import_module(modeling)).values() if is_model(kind, type(config))]
        return kinds[0](config)


def is_model(kind, of_config):
    model = isinstance(kind, type) and issubclass(kind, T.PreTrainedModel) and kind.config_class is of_config
    return model and not kind.__name__.endswith("PreTrainedModel")


def shorten(config, layers):
    for key, value in vars(config).items():
        if isinstance(value, T.PreTrainedConfig):
            shorten(value, layers)
        elif key in DEPTHS and type(value) is int:
            setattr(config, key, layers)


def unnamed(model_type, layers):
    """The targets by default that name nothing in a model of the type."""
    model = of_type(model_type, layers)
    ends = {segment.name.removesuffix(".weight") for segment in plan(model, None, 0).segments}
    return [target for target in DEFAULTS[model_type] if not any(f".{end}".endswith(f".{target}") for end in ends)]


# Where two layers have not both of the kinds that alternate, or their number is said elsewhere too.
WHOLE = {
    "gemma3n_text", "jamba", "lfm3", "lfm3_vl", "qwen3_5", "qwen3_5_moe", "qwen3_5_moe_text", "qwen3_5_text", "qwen3_next",
    "recurrent_gemma",
}  # fmt: skip


@pytest.mark.parametrize("targets", _DEFAULTS, ids=" ".join)
def test_the_targets_by_default_are_in_a_model_of_each_type(targets):
    wrong = {
        model_type: missing
        for model_type in _DEFAULTS[targets].split()
        if (missing := unnamed(model_type, None if model_type in WHOLE else 2))
    }
    assert not wrong


# What is a linear map, and how a pair acts on it.


class Scaled(nn.Linear):
    """A Linear with a forward of its own."""

    def forward(self, x):
        return 2 * super().forward(x)


class StandardizedConv(nn.Conv2d):
    def _conv_forward(self, x, weight, bias):
        return super()._conv_forward(x, weight - weight.mean(), bias)


class Patched(nn.Module):
    """As a vision transformer begins: tables and vectors beside a projection."""

    def __init__(self):
        super().__init__()
        self.cls_token = nn.Parameter(torch.ones(1, 1, 8))
        self.pos_embed = nn.Parameter(torch.ones(1, 5, 8))
        self.scale = nn.Parameter(torch.ones(8))
        self.patch = nn.Linear(8, 8)

    def forward(self, x):
        x = torch.cat([self.cls_token.expand(len(x), 1, 8), self.patch(x)], 1)
        return (x + self.pos_embed) * self.scale


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
    "Embedding": (lambda: nn.Embedding(7, 8), "", "weight", 7, 8, False, DeltaWeight, IDS),
    "EmbeddingBag": (lambda: nn.EmbeddingBag(7, 8), "", "weight", 7, 8, False, DeltaWeight, IDS),
    "attention, fused": (attention, "in_proj_weight", "in_proj_weight", 24, 8, False, DeltaWeight, (floats(2, 3, 8),) * 3),
    "attention, in parts": (
        lambda: attention(kdim=6, vdim=4), "k_proj_weight", "k_proj_weight", 8, 6, False, DeltaWeight,
        (floats(2, 3, 8), floats(2, 3, 6), floats(2, 3, 4)),
    ),
    "router": (Router, "", "weight", 4, 8, False, DeltaWeight, floats(2, 3, 8)),
    "a bare projection": (lambda: Projection(8), "proj", "proj", 8, 6, False, DeltaWeight, floats(2, 3, 8)),
    "a table of positions": (Patched, "pos_embed", "pos_embed", 5, 8, False, DeltaWeight, floats(2, 4, 8)),
    "Bilinear": (lambda: nn.Bilinear(3, 4, 5), "weight", "weight", 3, 4, False, DeltaWeight, (floats(2, 3), floats(2, 4))),
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


def test_of_nn_MultiheadAttention_the_output_projection_is_shown_its_delta():
    """The module reads its weight and calls nothing, so that no hook on an output would see a use."""
    found = {each.target: each.site for each in candidates(attention())}
    assert found == {"in_proj_weight": DeltaWeight, "out_proj": DeltaWeight}


def test_a_pair_acts_beside_a_weight_that_nothing_can_be_added_to():
    (candidate,) = candidates(Scaled(8, 8).to(torch.float8_e4m3fn))
    assert candidate.is_quantized and candidate.site is LowRank


def test_accelerates_wrapper_of_a_forward_leaves_the_way_as_it_is_and_any_other_does_not():
    hooks = pytest.importorskip("accelerate.hooks")
    model = nn.Sequential(nn.Linear(8, 8), nn.Conv1d(8, 8, 1), nn.Linear(8, 8))
    for module in model[:2]:
        hooks.add_hook_to_module(module, hooks.AlignDevicesHook(execution_device="cpu"))
    model[2].forward = lambda x: nn.functional.linear(x, -model[2].weight)
    assert [each.site for each in candidates(model)] == [LowRank, LowRank, DeltaWeight]


def experts():
    """Of a mixture: two stacked experts, a router, a shared one."""
    torch.manual_seed(0)
    config = T.MixtralConfig(**SIZES, num_key_value_heads=2, num_local_experts=3, tie_word_embeddings=False)
    return T.MixtralForCausalLM(config)


@pytest.mark.parametrize(
    ("make", "pattern", "expected"),
    [
        (Patched, ".*", {"patch.weight"}),
        (Patched, "pos_embed", {"pos_embed"}),
        (experts, r".*layers\.0\..*", {f"self_attn.{name}_proj.weight" for name in "qkvo"}),
        (experts, r".*layers\.0\..*_proj", {f"self_attn.{name}_proj.weight" for name in "qkvo"}),
        (experts, r".*layers\.0\..*experts\..*", {"mlp.experts.gate_up_proj", "mlp.experts.down_proj"}),
        (experts, "0.mlp.experts.down_proj", {"mlp.experts.down_proj"}),
        (experts, "layers.0.mlp.gate", {"mlp.gate.weight"}),
        (experts, "embed_tokens", {"model.embed_tokens.weight"}),
        (lambda: nn.Sequential(nn.Embedding(8, 8), nn.Linear(8, 8)), ".*", {"1.weight"}),
        (lambda: nn.Sequential(attention()), r".*", {"0.in_proj_weight", "0.out_proj.weight"}),
    ],
)
def test_a_regular_expression_takes_linear_maps_and_a_name_what_it_names(make, pattern, expected):
    assert {name.removeprefix("model.layers.0.") for name in taken(make(), pattern)} == expected


# all-linear, exclude, ranks, and no targets.


def bert(head="BertForSequenceClassification"):
    return getattr(T, head)(T.BertConfig(**SIZES))


def llama(head="LlamaForCausalLM", **options):
    return getattr(T, head)(T.LlamaConfig(**SIZES, num_key_value_heads=2, **options))


LAYER = {
    "bert": [f"attention.self.{name}" for name in ("query", "key", "value")]
    + ["attention.output.dense", "intermediate.dense", "output.dense"],
    "llama": [f"self_attn.{name}_proj" for name in "qkvo"] + [f"mlp.{name}_proj" for name in ("gate", "up", "down")],
}


def layers(prefix, kind):
    return [f"{prefix}.{number}.{name}.weight" for number in range(2) for name in LAYER[kind]]


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (bert, [*layers("bert.encoder.layer", "bert"), "bert.pooler.dense.weight"]),
        (lambda: bert("BertForMaskedLM"), layers("bert.encoder.layer", "bert")),
        (lambda: bert("BertModel"), [*layers("encoder.layer", "bert"), "pooler.dense.weight"]),
        (llama, layers("model.layers", "llama")),
        (lambda: llama(tie_word_embeddings=True), layers("model.layers", "llama")),
        (lambda: llama("LlamaForSequenceClassification"), layers("model.layers", "llama")),
        (lambda: compiled(llama()), layers("model.layers", "llama")),
        (lambda: nn.Sequential(llama()), layers("0.model.layers", "llama")),
        (lambda: T.T5ForConditionalGeneration(T.T5Config(d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2, vocab_size=9)),
         [f"{side}.block.0.layer.{number}.{name}.weight" for side, number, names in (
             ("encoder", 0, ["SelfAttention." + n for n in "qkvo"]), ("encoder", 1, ["DenseReluDense.wi", "DenseReluDense.wo"]),
             ("decoder", 0, ["SelfAttention." + n for n in "qkvo"]), ("decoder", 1, ["EncDecAttention." + n for n in "qkvo"]),
             ("decoder", 2, ["DenseReluDense.wi", "DenseReluDense.wo"])) for name in names]),
        (net, ["0.query.weight", "1.query.weight"]),
        (lambda: nn.TransformerEncoderLayer(8, 2, 8),
         ["self_attn.in_proj_weight", "self_attn.out_proj.weight", "linear1.weight", "linear2.weight"]),
    ],
)  # fmt: skip
def test_all_linear_is_every_linear_map_but_those_of_heads(make, expected):
    assert taken(make(), "all-linear") == expected


def test_what_PEFT_takes_for_all_linear_is_taken():
    peft = pytest.importorskip("peft")
    model = experts()
    ours = {name.removesuffix(".weight") for name in taken(model, "all-linear")}
    config = peft.LoraConfig(target_modules="all-linear", r=1)
    assert ours == set(peft.get_peft_model(model, config).targeted_module_names)


def test_all_linear_is_one_target_among_others_and_exclude_leaves_out():
    model = experts()
    every = taken(model, "all-linear")
    assert taken(model, ["all-linear", "0.mlp.gate"]) == [*every[:4], "model.layers.0.mlp.gate.weight", *every[4:]]
    assert taken(model, "all-linear", exclude="o_proj") == [name for name in every if "o_proj" not in name]
    assert taken(model, "all-linear", exclude=["q_proj", r".*layers\.1\..*"]) == every[1:4]
    segments = plan(model, "all-linear", 3, {r".*\.0\..*": 2, "q_proj": 1}, exclude=["o_proj"]).segments
    assert [segment.rank for segment in segments] == [2, 2, 2, 1, 3, 3]


def test_row_ranges_of_a_target_that_is_excluded_in_part():
    segments = plan(net(), ["query[0:2]", "query[4:8]"], 1, exclude="0.query").segments
    assert [(segment.name, segment.row, segment.out_features) for segment in segments] == [
        ("1.query.weight", 0, 2), ("1.query.weight", 4, 4),
    ]  # fmt: skip


def test_without_targets_the_types_own_are_taken():
    assert taken(llama(), None) == [
        n for n in layers("model.layers", "llama") if n.endswith(("q_proj.weight", "v_proj.weight"))
    ]
    part = nn.ModuleDict(
        {"encoder": bert("BertModel"), "head": nn.Linear(32, 2)}
    )  # as sentence-transformers holds a model
    assert len(taken(part, None)) == 4
    assert taken(part, None, exclude=r".*\.1\..*") == [
        f"encoder.encoder.layer.0.attention.self.{n}.weight" for n in ("query", "value")
    ]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (net, "no default targets for a model without a model_type in its config; name some: query (2)"),
        (lambda: of_named_type("nonesuch"), "no default targets for the model type 'nonesuch'; name some: query (2)"),
        (lambda: of_named_type("llama"), "no default targets for the model type 'llama'; name some: query (2)"),
        (nn.ReLU, "name some: it has no linear map"),
    ],
)
def test_without_targets_a_model_of_no_known_type_is_told_its_names(make, message):
    with pytest.raises(LayerMapError) as refusal:
        plan(make(), None, 1)
    assert message in str(refusal.value)


def of_named_type(model_type):
    model = net()
    model.config = T.PreTrainedConfig()
    model.config.model_type = model_type
    return model


# Why a pattern matches nothing.


def tied():
    return llama(tie_word_embeddings=True)


WHY = [
    (bert, {"targets": "qurey"}, "close names are query"),
    (bert, {"targets": "qurey[0:4]"}, "close names are query"),
    (bert, {"targets": "attention.output.LayerNorm"}, "attention.output.LayerNorm is a LayerNorm, whose parameters are no matrices to multiply by; name it in train_in_full"),
    (bert, {"targets": "attention"}, "layer.0.attention is a BertAttention, which holds linear maps; write their names: query, key, value, dense"),
    (bert, {"targets": "intermediate_act_fn"}, "intermediate_act_fn is a GELUActivation, which has no parameters"),
    (bert, {"targets": "query.weight"}, "a target is named by its module, without .weight; write 'query'"),
    (bert, {"targets": "query.bias"}, "query.bias is a vector; name it in train_in_full"),
    (bert, {"targets": "LayerNorm.weight"}, "embeddings.LayerNorm.weight is no matrix but has the shape 32; name it in train_in_full"),
    (bert, {"targets": "*.query"}, "write the end of the names, 'query', or a regular expression such as '.*\\.query'"),
    (bert, {"targets": ["query", "*query"]}, "is no regular expression but a shell's pattern; write the end of the names, 'query'"),
    (bert, {"targets": "_orig_mod.bert.encoder.layer.0.attention.self.query"}, "write 'bert.encoder.layer.0.attention.self.query'"),
    (bert, {"targets": "base_model.model.bert.pooler.dense"}, "without its wrappers; write 'bert.pooler.dense'"),
    (bert, {"targets": "module.classifier"}, "write 'classifier'"),
    (bert, {"targets": ".*word_embeddings"}, "a regular expression takes no tables, bare parameters or stacks of experts; name them by their ends: bert.embeddings.word_embeddings"),
    (experts, {"targets": ".*down_proj"}, "name them by their ends: model.layers.0.mlp.experts.down_proj"),
    (experts, {"targets": "mlp.experts"}, "is a MixtralExperts, whose matrices have names of their own; write 'model.layers.0.mlp.experts.gate_up_proj', 'model.layers.0.mlp.experts.down_proj'"),
    (Patched, {"targets": "cls_token"}, "cls_token is no matrix but has the shape 1 × 1 × 8; name it in train_in_full"),
    (Patched, {"targets": "(query"}, "is no regular expression"),
    (bert, {"targets": ""}, "matches no weight"),
    (bert, {"targets": ["query"], "ranks": {"qurey": 2}}, "ranks: 'qurey' matches no weight that is a target; close names are query"),
    (bert, {"targets": ["query"], "ranks": {"key": 2}}, "ranks: 'key' matches no weight that is a target"),
    (bert, {"targets": ["query"], "exclude": "qurey"}, "exclude: 'qurey' matches no weight that is a target; close names are query"),
    (bert, {"targets": ["query"], "exclude": "key"}, "exclude: 'key' matches no weight that is a target"),
    (bert, {"targets": ["query"], "exclude": "layer.0"}, "layer.0 holds targets; write the regular expression '(.*\\.)?layer\\.0\\..*'"),
    (bert, {"targets": ["query"], "exclude": "query"}, "exclude leaves none of the targets"),
    (bert, {"targets": ["query"], "exclude": "*query"}, "a shell's pattern"),
    (bert, {"targets": []}, "the layer map is empty"),
    (tied, {"targets": "lm_head"}, "lm_head.weight is tied to another module's weight, model.embed_tokens.weight"),
    (tied, {"targets": "embed_tokens"}, "model.embed_tokens.weight is tied to another module's weight, lm_head.weight"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("make", "arguments", "message"), WHY, ids=lambda value: str(value) if isinstance(value, dict) else ""
)
def test_a_pattern_that_matches_nothing_is_told_why_and_what_to_write(make, arguments, message):
    with torch.device("meta"):
        model = make()
    with pytest.raises(LayerMapError) as refusal:
        plan(model, rank=1, **arguments)
    assert message in str(refusal.value)


def test_what_a_refusal_says_to_write_can_be_written():
    model = bert()
    assert len(taken(model, r".*\.query")) == 2
    assert len(taken(model, "query", exclude=r"(.*\.)?layer\.0\..*")) == 1


# Weights that accelerate has taken off the model.


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
