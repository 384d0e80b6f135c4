"""Models whose weights are targets, or are not: what the tests of names, candidates and targets look at."""

import torch
import transformers as T
from torch import nn

from backends.torch import plan

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


def taken(model, targets, **options):
    return [segment.name for segment in plan(model, targets, 1, **options).segments]


class Projection(nn.Module):
    def __init__(self, rows=4):
        super().__init__()
        self.proj = nn.Parameter(torch.ones(rows, 6))

    def forward(self, x):
        return x @ self.proj


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


def experts():
    """Of two layers, each with three stacked experts and a router."""
    torch.manual_seed(0)
    config = T.MixtralConfig(**SIZES, num_key_value_heads=2, num_local_experts=3, tie_word_embeddings=False)
    return T.MixtralForCausalLM(config)
