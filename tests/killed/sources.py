"""What the commands read: bases, adapters of them, and rows."""

import json
import os
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper
from safetensors.numpy import save_file

from unilora_spec import Adapter, Base, LayerMap, Projection, Segment, save_adapter
from unilora_spec.adapter import contents_fingerprint, structure_fingerprint

SIDE, LAYERS = 128, 4
STEPS = 12  # of a training


def sources(work: Path) -> None:
    """A base as a checkpoint and as an ONNX file, two adapters of it, a small BERT and sentences for it."""
    random_ = np.random.default_rng(0)
    names = [f"model.layers.{i}.mlp.up_proj.weight" for i in range(LAYERS)]
    weights = {name: random_.normal(size=(SIDE, SIDE)).astype(np.float32) / SIDE**0.5 for name in names}
    (work / "base").mkdir()
    save_file(weights, work / "base/model.safetensors")
    (work / "base/config.json").write_text(json.dumps({"model_type": "llama", "num_hidden_layers": LAYERS}))
    values = ["x", *(f"h{i}" for i in range(LAYERS - 1)), "y"]
    nodes = [helper.make_node("Gemm", [values[i], names[i]], [values[i + 1]], transB=1) for i in range(LAYERS)]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", SIDE]) for name in "xy")
    graph = helper.make_graph(
        nodes, "g", [x], [y], [onnx.numpy_helper.from_array(array, name) for name, array in weights.items()]
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), work / "base.onnx")
    for seed, version in enumerate(("old", "new")):
        layer_map = LayerMap([Segment(name, SIDE, SIDE, 4) for name in weights], alpha=4 + seed)
        structure = structure_fingerprint({name: value.shape for name, value in weights.items()})
        base = Base(str(work / "base"), structure, contents_fingerprint(weights, weights.get))
        theta = random_.normal(size=64).astype(np.float32)
        adapter = Adapter(Projection(D=layer_map.D, d=64, seed=seed), layer_map, theta, base)
        save_adapter(adapter, work / f"{version}.safetensors")


def sources_of_torch(work):
    """What a training imports, and what it reads."""
    os.environ["HF_DATASETS_CACHE"] = str(work / "cache")
    import torch
    import transformers

    import backends.torch.training.train
    import backends.torch.using.prediction  # noqa: F401

    torch.set_num_threads(1)
    torch.manual_seed(0)
    words = ["good", "bad", "film", *map(str, range(10)), *(f"##{i}" for i in range(10))]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    config = transformers.BertConfig(
        vocab_size=len(vocabulary), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=16,
    )  # fmt: skip
    transformers.BertModel(config).save_pretrained(work / "bert")
    tokenizer = transformers.BertTokenizer(vocab={name: number for number, name in enumerate(vocabulary)})
    tokenizer.save_pretrained(work / "bert")
    rows = [f"{('good', 'bad')[i % 2]} film {i},{i % 2}" for i in range(4 * STEPS + 5)]
    (work / "reviews.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    return torch
