"""Small models of every form that attach adapts."""

import numpy as np
import pytest
import torch
from torch import nn

transformers = pytest.importorskip("transformers")

IDS = torch.randint(0, 50, (3, 7), generator=torch.Generator().manual_seed(0))


def assert_same(actual, expected, relative=1e-5):
    """Equal but for rounding. Both ways to one result (x·W'ᵀ with W' = W + ΔW, or x·Wᵀ + s·(x·Aᵀ)·Bᵀ) make a few roundings
    of 2⁻²⁴ for each of some hundred additions, relative to the largest terms: 1e-5 of the largest value in float32."""
    largest = expected.abs().max().item()
    torch.testing.assert_close(actual, expected, atol=relative * largest, rtol=0)


def bert(**options):
    torch.manual_seed(0)
    config = transformers.BertConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, vocab_size=50, **options
    )
    return transformers.BertForSequenceClassification(config).eval()


def gpt2():
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        n_layer=2, n_embd=32, n_head=2, vocab_size=50, n_positions=64, bos_token_id=0, eos_token_id=0
    )
    return transformers.GPT2LMHeadModel(config).eval()


def encoder():
    torch.manual_seed(0)
    return nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 2).eval()


def inputs(model):
    if isinstance(model, transformers.PreTrainedModel) or any(isinstance(m, nn.Embedding) for m in model.children()):
        return (IDS,)
    shape = (2, 4, 9, 9) if isinstance(model, nn.Sequential) else (2, 5, 16)
    return (torch.randn(shape, generator=torch.Generator().manual_seed(3)),)


def run(model):
    output = model(*inputs(model))
    return getattr(output, "logits", output)


def adapted_weights(model, theta):
    """W + ΔW of every adapted weight, straight from the formulas of the specification, differentiable to theta."""
    unilora = model.unilora
    P = torch.from_numpy(dense(unilora.projection))
    theta_D = P @ theta
    weights = {}
    for segment, start in unilora.layer_map.placed():
        s = float(unilora.layer_map.factor_scale(segment))
        if segment.rank:
            A = theta_D[start : start + segment.rank * segment.in_features].reshape(segment.rank, segment.in_features)
            B = theta_D[start + A.numel() : start + segment.size].reshape(segment.out_features, segment.rank)
            delta = s * B @ A
        else:
            shape = segment.out_features, segment.in_features
            delta = s * theta_D[start : start + segment.out_features * segment.in_features].reshape(shape)
        weight = weights.get(segment.name, model.get_parameter(segment.name).detach())
        whole = torch.zeros_like(weight) if segment.index is None else torch.zeros_like(weight[0])
        delta = delta.T if segment.transposed else delta
        rows = slice(segment.row, None if segment.row is None else segment.row + segment.out_features)
        if segment.transposed:
            whole[:, rows] = delta
        else:
            whole[rows] = delta.reshape(whole[rows].shape)
        if segment.index is not None:
            whole = torch.stack([whole if e == segment.index else torch.zeros_like(whole) for e in range(len(weight))])
        weights[segment.name] = weight + whole
    return weights


def dense(projection):
    P = np.zeros((projection.D, projection.d), np.float32)
    P[np.arange(projection.D), projection.index()] = projection.scale()[projection.index()]
    return P


def mixtral(implementation="eager"):
    torch.manual_seed(0)
    config = transformers.MixtralConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2, intermediate_size=48,
        vocab_size=50, num_local_experts=4, experts_implementation=implementation,
    )  # fmt: skip
    return transformers.MixtralForCausalLM(config).eval()


def gpt_oss():
    torch.manual_seed(0)
    config = transformers.GptOssConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2, head_dim=16,
        intermediate_size=48, vocab_size=50, num_local_experts=4,
    )  # fmt: skip
    return transformers.GptOssForCausalLM(config).eval()


def convolutions(groups=1):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(4, 8, 3, padding=1, padding_mode="reflect"),
        nn.ReLU(),
        nn.Conv2d(8, 6, (1, 3), stride=2, dilation=(1, 2), groups=groups),
    ).eval()


def table(kind=nn.Embedding):
    torch.manual_seed(0)
    return nn.Sequential(kind(50, 16, padding_idx=3), nn.Linear(16, 5)).eval()


class Scaled(nn.Embedding):
    def forward(self, ids):
        return super().forward(ids) * 3


FORMS = {
    "linear": (bert, ("query", "attention.self.value")),
    "regular expression": (bert, (r".*layer\.1\..*(key|dense)", r".*pooler\.dense")),
    "row range": (bert, ("query[4:20]", "query[24:32]", "pooler.dense")),
    "transposed": (gpt2, ("mlp.c_fc",)),
    "fused, transposed": (gpt2, ("c_attn[0:32]", "c_attn[64:96]")),
    "stacked": (mixtral, ("experts.gate_up_proj", "experts.down_proj", "q_proj")),
    "stacked, grouped matmul": (lambda: mixtral("grouped_mm"), ("experts.gate_up_proj", "experts.down_proj")),
    "stacked, row range": (mixtral, ("experts.gate_up_proj[0:48]",)),
    "stacked, transposed": (gpt_oss, ("experts.gate_up_proj", "experts.down_proj[3:9]")),
    "convolution": (convolutions, ("0", "2")),
    "convolution, row range": (convolutions, ("0[2:5]",)),
    "grouped convolution": (lambda: convolutions(2), ("0", "2")),
    "table": (table, ("0",)),
    "table, row range": (table, ("0[2:9]", "0[20:45]", "1")),
    "table of its own forward": (lambda: table(Scaled), ("0",)),
    "fast path of torch's encoder": (encoder, ("linear1", "linear2")),
}
