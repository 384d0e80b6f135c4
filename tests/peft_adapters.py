"""Adapters of PEFT's, and ours of the same numbers."""

import pytest
import torch

from backends.torch import attach
from unilora_spec import Projection, save_adapter

transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")
safetensors = pytest.importorskip("safetensors.torch")

IDS = torch.randint(1, 50, (3, 7), generator=torch.Generator().manual_seed(0))

TARGETS = {"bert": ["query", "value"], "gpt2": ["c_attn", "mlp.c_proj"]}

HEADS = {"bert": "classifier", "gpt2": "score"}


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """A BERT without a head, so that its files have other names than the model, and a GPT-2, whose weights lie turned."""
    folder = tmp_path_factory.mktemp("bases")
    torch.manual_seed(0)
    small = {"vocab_size": 50, "initializer_range": 0.2}
    bert = transformers.BertConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, max_position_embeddings=32, **small
    )  # fmt: skip
    transformers.BertModel(bert).save_pretrained(folder / "bert")
    gpt2 = transformers.GPT2Config(
        n_embd=16, n_layer=2, n_head=2, n_positions=32, bos_token_id=0, eos_token_id=0, pad_token_id=0, **small
    )
    transformers.GPT2ForSequenceClassification(gpt2).save_pretrained(folder / "gpt2")
    return folder


def load(base, labels=3, **options):
    torch.manual_seed(1)
    auto = transformers.AutoModelForSequenceClassification
    return auto.from_pretrained(base, num_labels=labels, ignore_mismatched_sizes=True, **options).eval()


def logits(model):
    with torch.no_grad():
        return model(IDS).logits


def same(one, other):
    """The same A and B, but s is a factor of B's scales on one side and of the product on the other: a rounding of 2^-24 for
    each of some dozen products in a few layers, so that 1e-5 of the largest logit is a hundred of them."""
    torch.testing.assert_close(one, other, rtol=0, atol=1e-5 * float(other.abs().max()))


def peft_folder(base, folder, dtype=torch.float32, **options):
    """What PEFT saves of a model with numbers as after a training, and the logits of that model."""
    config = {
        "r": 2,
        "theta_d_length": 40,
        "proj_seed": 7,
        "task_type": "SEQ_CLS",
        "target_modules": TARGETS[base.name],
    }
    model = peft.get_peft_model(load(base, dtype=dtype), peft.UniLoraConfig(**config | options)).eval()
    generator = torch.Generator().manual_seed(2)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            scale = 2.0 if "theta" in name else 0.3
            parameter.data = (torch.randn(parameter.shape, generator=generator) * scale).to(parameter.dtype)
    model.save_pretrained(folder)
    return logits(model)


def our_file(base, path, kind="balanced", **options):
    """A trained adapter of ours on a base, and the logits of its model."""
    known = {"rank": 2, "d": None if kind == "identity" else 40, "targets": TARGETS[base.name], "alpha": 5}
    model = load(base)
    table, kind = kind == "table", "uniform" if kind == "table" else kind
    attach(model, kind=kind, train_in_full=[HEADS[base.name]], **known | options)
    with torch.no_grad():
        generator = torch.Generator().manual_seed(2)
        model.unilora.theta.copy_(torch.randn(model.unilora.theta.shape, generator=generator))
        model.get_submodule(HEADS[base.name]).weight.normal_(generator=generator)
    adapter = model.unilora.adapter()
    if table:
        p = adapter.projection
        adapter.projection = Projection("table", D=p.D, d=p.d, seed=p.seed, tensors={"index": p.index()})
    save_adapter(adapter, path)
    return logits(model)
