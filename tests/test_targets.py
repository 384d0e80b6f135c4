"""How users name what is adapted, and what they are told where a name matches nothing."""

import pytest
import torch
import transformers as T
from adaptable import SIZES, Patched, compiled, experts, net, taken
from torch import nn

from backends.torch import plan
from unilora_spec import LayerMapError


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
        (lambda: nn.Sequential(nn.MultiheadAttention(8, 2)), r".*", {"0.in_proj_weight", "0.out_proj.weight"}),
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
    (bert, {"targets": "LayerNorm.weight"}, "embeddings.LayerNorm.weight is no matrix to multiply by, its shape is 32; name it in train_in_full"),
    (bert, {"targets": "*.query"}, "write the end of the names, 'query', or a regular expression such as '.*\\.query'"),
    (bert, {"targets": ["query", "*query"]}, "is no regular expression but a shell's pattern; write the end of the names, 'query'"),
    (bert, {"targets": "_orig_mod.bert.encoder.layer.0.attention.self.query"}, "write 'bert.encoder.layer.0.attention.self.query'"),
    (bert, {"targets": "base_model.model.bert.pooler.dense"}, "without its wrappers; write 'bert.pooler.dense'"),
    (bert, {"targets": "module.classifier"}, "write 'classifier'"),
    (bert, {"targets": ".*word_embeddings"}, "a regular expression takes no tables, bare parameters or stacks of experts; name them by their ends: bert.embeddings.word_embeddings"),
    (experts, {"targets": ".*down_proj"}, "name them by their ends: model.layers.0.mlp.experts.down_proj"),
    (experts, {"targets": "mlp.experts"}, "is a MixtralExperts, whose matrices have names of their own; write 'model.layers.0.mlp.experts.gate_up_proj', 'model.layers.0.mlp.experts.down_proj'"),
    (Patched, {"targets": "cls_token"}, "cls_token is no matrix to multiply by, its shape is 1 × 1 × 8; name it in train_in_full"),
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
