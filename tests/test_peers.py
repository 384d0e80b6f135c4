"""The kinds that PEFT has too, trained beside PEFT's own from the same numbers: the same logits at each step."""

import copy
import math

import pytest
import torch
from torch.nn import functional as F

from backends.torch import attach

transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

RANK = 6
TARGETS = ["query", "intermediate.dense", "output.dense"]  # of three sizes: none needs all of what they share
VB = {"length": 4, "bank": 10, "topk": 2}
TINY = {"u": 5, "groups": 2}


def small_bert():
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, num_labels=3,
        max_position_embeddings=32, initializer_range=0.2,
    )  # fmt: skip
    return transformers.BertForSequenceClassification(config).eval()  # without dropout


def lora(ours, model):
    """PEFT's LoRA with our A and B."""
    model = peft.get_peft_model(model, peft.LoraConfig(r=RANK, lora_alpha=RANK, target_modules=TARGETS))
    for name, (A, B) in factors(ours, ours.theta).items():
        module = model.get_submodule(f"base_model.model.{name}")
        set_to(module.lora_A.default.weight, A)
        set_to(module.lora_B.default.weight, B)
    return model


def vera(ours, model):
    """PEFT's VeRA with our frozen matrices, which are the A and B of vectors of ones; the vectors begin by themselves as ours do."""
    model = peft.get_peft_model(model, peft.VeraConfig(r=RANK, target_modules=TARGETS))
    of_ones = factors(ours, torch.ones_like(ours.theta))
    A, _ = of_ones["bert.encoder.layer.0.output.dense"]  # the widest
    _, B = of_ones["bert.encoder.layer.0.intermediate.dense"]  # the tallest
    shared = model.get_submodule("base_model.model.bert.encoder.layer.0.attention.self.query")
    set_to(shared.vera_A.default, A)
    set_to(shared.vera_B.default, B)
    return model


def vb(ours, model):
    """PEFT's VB-LoRA with our bank and logits."""
    sizes = {"num_vectors": VB["bank"], "vector_length": VB["length"], "topk": VB["topk"]}
    config = peft.VBLoRAConfig(r=RANK, target_modules=TARGETS, save_only_topk_weights=True, **sizes)
    model = peft.get_peft_model(model, config)
    set_to(model.base_model.vblora_vector_bank.default, part(ours, "bank"))
    for number, segment in enumerate(ours.layer_map.segments):
        module = model.get_submodule(f"base_model.model.{segment.name.removesuffix('.weight')}")
        for name in "AB":
            logits = getattr(module, f"vblora_logits_{name}").default
            set_to(logits, part(ours, name, number).view(logits.shape))
    return model


def tiny(ours, model):
    """PEFT's TinyLoRA with our frozen matrices and random ones, of which theirs are others; v is zero for both."""
    tying = 1 - TINY["groups"] / len(ours.layer_map)
    config = peft.TinyLoraConfig(r=RANK, u=TINY["u"], weight_tying=tying, target_modules=TARGETS)
    model = peft.get_peft_model(model, config)
    for number, segment in enumerate(ours.layer_map.segments):
        module = model.get_submodule(f"base_model.model.{segment.name.removesuffix('.weight')}")
        A, G = ours.projection.frozen_matrices(number, segment)
        P = ours.projection.random(number, segment)
        set_to(module.tinylora_A["default"], torch.from_numpy(A.array))
        set_to(module.tinylora_B["default"], torch.from_numpy(G.array))
        set_to(module.tinylora_P["default"], torch.from_numpy(P.array).view(TINY["u"], RANK, RANK))
    return model


def part(ours, name, number=None):
    """A range of θ."""
    value = ours.projection.range(name, number)
    return ours.theta.detach()[value.how :][: math.prod(value.shape)].view(value.shape)


def factors(ours, theta):
    """A and B by the names of the modules."""
    theta_D = torch.from_numpy(ours.projection.expand(theta.detach().numpy()))
    placed = ours.layer_map.placed()
    return {s.name.removesuffix(".weight"): s.factors(theta_D[at : at + s.size]) for s, at in placed}


def set_to(parameter, value):
    assert parameter.shape == value.shape
    with torch.no_grad():
        parameter.copy_(value)


@pytest.mark.parametrize(
    ("kind", "peers", "options"), [("identity", lora, {}), ("vera", vera, {}), ("vb", vb, VB), ("tiny", tiny, TINY)]
)
def test_trains_as_peft_does(kind, peers, options):
    base = small_bert()
    our_model = attach(copy.deepcopy(base), rank=RANK, targets=TARGETS, kind=kind, seed=5, options=options)
    their_model = peers(our_model.unilora, copy.deepcopy(base))
    ids, labels = torch.randint(1, 50, (8, 7)), torch.randint(0, 3, (8,))
    logits = []
    for model in (our_model, their_model.eval()):
        optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2)
        for _ in range(20):
            logits.append(model(ids).logits)
            optimizer.zero_grad()
            F.cross_entropy(logits[-1], labels).backward()
            optimizer.step()
    ours, theirs = torch.stack(logits).detach().split(20)
    assert (ours[-1] - ours[0]).abs().max() > 0.2, "it has trained"
    # One sums W + s·B·A, the other W and B·A apart: some dozen roundings of 2^-24 of a logit near 1 in a forward, and Adam's steps keep
    # those of a gradient in proportion. The most seen is 1.6e-6; a start that is off by a thousandth shows with 1e-4.
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-5)


def test_a_file_of_vb_holds_what_peft_saves():
    """The rows of each sub-vector, and their weights, in the same order: so A and B are cut the same way."""
    our_model = attach(small_bert(), rank=RANK, targets=TARGETS, kind="vb", seed=5, options=VB)
    saved = peft.get_peft_model_state_dict(vb(our_model.unilora, small_bert()))
    adapter = our_model.unilora.adapter()
    at, size = 0, VB["bank"] * VB["length"]
    for segment in adapter.layer_map.segments:
        for name in "AB":
            key = f"base_model.model.{segment.name.removesuffix('.weight')}.vblora_logits_{name}"
            index, weights = saved[key + "_topk_indices"], saved[key + "_topk_weights"]
            stop = at + weights.numel()
            assert adapter.projection.tensors["index"][2 * at : 2 * stop].tolist() == index.flatten().tolist()
            ours = torch.from_numpy(adapter.theta[size + at : size + stop])
            torch.testing.assert_close(ours, weights.flatten(), rtol=0, atol=2e-7)  # a softmax below 1, in float32
            at = stop
    assert size + at == adapter.projection.d
