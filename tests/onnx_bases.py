"""Small models, adapters of them, and ONNX files of the models alone as torch's two exporters write them."""

import copy
import functools
import warnings

import numpy as np
import torch
import transformers
from adapters import adapter_of, merged

from unilora_spec import Segment

MODES = ("merged", "reconstruct", "input", "factored", "bank")
LARGEST = 1e-4  # of an output's largest entry, or absolute where that is below 1: as export/parity.py says, and why


@functools.cache
def bert():
    """With a head whose weight has one initializer per exporter's liking; q, v, a feed-forward layer, and the word table."""
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=32, num_labels=3, initializer_range=0.2, attn_implementation="eager",
    )  # fmt: skip
    layer = "bert.encoder.layer.0"
    segments = [Segment(f"{layer}.attention.self.{n}.weight", 32, 32, 4) for n in ("query", "value")]
    segments += [Segment(f"{layer}.intermediate.dense.weight", 64, 32, 2)]
    segments += [Segment("bert.embeddings.word_embeddings.weight", 50, 32, 2)]
    return transformers.BertForSequenceClassification(config).eval(), segments, ("classifier.weight", "classifier.bias")


@functools.cache
def gpt2():
    """Rows of fused q, k, v, Conv1D, and a table that is looked up and multiplied by; a Conv1D trained in full."""
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        n_layer=1, n_embd=32, n_head=4, vocab_size=50, n_positions=32, bos_token_id=0, eos_token_id=0, use_cache=False,
        initializer_range=0.2, attn_implementation="eager",
    )  # fmt: skip
    layer = "transformer.h.0"
    segments = [Segment(f"{layer}.attn.c_attn.weight", 32, 32, 4, transposed=True, row=row) for row in (64, 0)]
    segments += [Segment(f"{layer}.mlp.c_fc.weight", 128, 32, 3, transposed=True)]
    segments += [Segment("transformer.wte.weight", 50, 32, 2)]
    return transformers.GPT2LMHeadModel(config).eval(), segments, (f"{layer}.attn.c_proj.weight",)


@functools.cache
def llama():
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=64, max_position_embeddings=32, use_cache=False, initializer_range=0.2,
        attn_implementation="eager",
    )  # fmt: skip
    forms = {"self_attn.q": (32, 32), "self_attn.v": (16, 32), "mlp.down": (32, 64)}
    segments = [Segment(f"model.layers.0.{n}_proj.weight", *form, 2) for n, form in forms.items()]
    return transformers.LlamaForCausalLM(config).eval(), segments, ("lm_head.weight",)


def adapter_for(build, seed=0, d=64, size=1.0, saved=True):
    """An adapter of a model above; other seeds differ in the values alone."""
    model, segments, names = build()
    adapter = adapter_of(model, segments, build.__name__, saved=names if saved else (), d=d)
    random = np.random.default_rng(seed)
    adapter.theta = (size * random.normal(size=d)).astype(np.float32)
    adapter.saved = {n: random.normal(size=v.shape).astype(np.float32) for n, v in adapter.saved.items()}
    return adapter


def write(model, path, exporter="torchscript", opset=17):
    """The model alone, with all axes open. ``exporter`` is "torchscript" or "dynamo"."""
    ids = torch.arange(10).reshape(2, 5)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    axes = {name: {0: "batch", 1: "sequence"} for name in inputs}
    if exporter == "dynamo":
        options = {"dynamo": True, "dynamic_shapes": axes, "external_data": False, "verbose": False}
    else:
        options = {"dynamo": False, "dynamic_axes": axes | {"logits": {0: "batch"}}, "input_names": list(inputs)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model, (), path, kwargs=inputs, output_names=["logits"], opset_version=opset, **options)
    return path


def pytorch(build, adapter, feeds, name="logits"):
    """What the model with the merged adapter answers in PyTorch."""
    model = merged(copy.deepcopy(build()[0]), adapter) if adapter else build()[0]
    with torch.no_grad():
        return [model(**{n: torch.from_numpy(np.asarray(a)) for n, a in feed.items()})[name].numpy() for feed in feeds]


def relative(answers, wanted):
    """The largest difference as a part of the largest entry, or absolute where that is below 1."""
    assert [a.shape for a in answers] == [w.shape for w in wanted]
    return max(float(np.abs(a - w).max() / max(np.abs(w).max(), 1)) for a, w in zip(answers, wanted))
