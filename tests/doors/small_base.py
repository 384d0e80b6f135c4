"""A small BERT as a folder without a tokenizer, and an adapter of it: what stands beside the file of most doors."""

import numpy as np
from fuzz_mutations import packed

from unilora_spec import Adapter, Base, LayerMap, Projection, Segment
from unilora_spec.serialization import encode

from .door import text

CONFIG = {
    "model_type": "bert", "architectures": ["BertForSequenceClassification"], "hidden_size": 32, "num_hidden_layers": 1,
    "num_attention_heads": 4, "intermediate_size": 16, "vocab_size": 20, "max_position_embeddings": 16,
}  # fmt: skip
WEIGHT = "bert.encoder.layer.0.attention.self.query.weight"
TENSORS = {WEIGHT: {"dtype": "F32", "shape": [32, 32], "data_offsets": [0, 4096]}}
WEIGHTS = packed(TENSORS, bytes(4096))
BASE = {"base/config.json": text(CONFIG), "base/model.safetensors": WEIGHTS}


def adapter(name="base", weight=WEIGHT) -> bytes:
    """The file of an adapter of one weight, whose base's record has this name."""
    layer_map = LayerMap([Segment(weight, 32, 32, 2)])
    base = Base.of(
        name,
        layer_map,
        {weight: (32, 32)},
        lambda name: np.zeros((32, 32)),
        "BertForSequenceClassification",
        {0: "no", 1: "yes"},
    )
    return encode(Adapter(Projection(D=layer_map.D, d=8, seed=42), layer_map, np.full(8, 0.1, np.float32), base))


ADAPTER = {"vec.safetensors": adapter()}
TRAIN = ("backends.torch", "train", "--base", "base", "--output", "out.safetensors")
