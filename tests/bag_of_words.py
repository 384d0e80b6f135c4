"""A step graph that is written by hand, of a model that needs no exporter: a text's logits are the mean of θ's rows at its tokens, through
a head. Its loss and gradients follow on a page, and it takes a millisecond."""

import numpy as np
import onnx
from onnx import parser

from unilora_spec import Adapter, LayerMap, Projection, Segment
from unilora_spec.adapter import Base

GRAPH = """
<ir_version: 10, opset_import: ["" : 20]>
step (int64[batch, sequence] input_ids, int64[batch, sequence] attention_mask, int64[batch] labels, float[D] theta,
      float[2, 2] "classifier.weight", float[2] "classifier.bias")
  => (float loss, float[batch, 2] logits, float[D] "theta.grad", float[2, 2] "classifier.weight.grad", float[2] "classifier.bias.grad")
{
  pairs = Constant <value = int64[2] {-1, 2}> ()
  all = Constant <value = int64[1] {-1}> ()
  first = Constant <value = int64[1] {0}> ()
  second = Constant <value = int64[1] {1}> ()
  one = Constant <value = float {1.0}> ()
  two = Constant <value = int64 {2}> ()
  bits = Constant <value = float[2] {0.0, 1.0}> ()
  table = Reshape (theta, pairs)
  found = Gather (table, input_ids)
  mask = Cast <to = 1> (attention_mask)
  count = ReduceSum <keepdims = 1> (mask, second)
  share = Div (mask, count)
  each = Unsqueeze (share, all)
  weighed = Mul (found, each)
  bag = ReduceSum <keepdims = 0> (weighed, second)
  logits = Gemm <transB = 1> (bag, "classifier.weight", "classifier.bias")
  certain = LogSoftmax (logits)
  right = OneHot (labels, two, bits)
  picked = Mul (certain, right)
  per_row = ReduceSum <keepdims = 0> (picked, second)
  mean = ReduceMean <keepdims = 0> (per_row, first)
  loss = Neg (mean)
  guessed = Softmax (logits)
  wrong = Sub (guessed, right)
  shape = Shape <start = 0, end = 1> (labels)
  rows = Cast <to = 1> (shape)
  g = Div (wrong, rows)
  "classifier.bias.grad" = ReduceSum <keepdims = 0> (g, first)
  "classifier.weight.grad" = Gemm <transA = 1> (g, bag)
  of_bag = MatMul (g, "classifier.weight")
  spread = Unsqueeze (of_bag, second)
  of_found = Mul (spread, each)
  zeros = Sub (table, table)
  places = Unsqueeze (input_ids, all)
  of_table = ScatterND <reduction = "add"> (zeros, places, of_found)
  "theta.grad" = Reshape (of_table, all)
}
"""
TASK = "classification"


def adapter_for(words: int, name: str, labels=("0", "1"), seed: int = 0, kind: str = "balanced") -> Adapter:
    """An adapter whose θ has two numbers for each word. What it adapts is a name alone: the graph makes something else of θ."""
    layer_map = LayerMap([Segment("layer.weight", 2 * words, 8, 4)])
    d = {} if kind == "identity" else {"d": 2 * words}
    projection = Projection(kind, D=layer_map.D, seed=seed, **({"d": layer_map.D} if kind == "identity" else d))
    base = Base(name, "0" * 32, "1" * 32, "Bag", labels, "single_label_classification")
    numbers = np.random.default_rng(seed)
    saved = {"classifier.weight": numbers.normal(size=(2, 2)), "classifier.bias": np.zeros(2)}
    saved = {name: value.astype(np.float32) for name, value in saved.items()}
    return Adapter(projection, layer_map, numbers.normal(size=projection.d).astype(np.float32) * 0.02, base, saved)


def step_graph(adapter: Adapter, **metadata) -> onnx.ModelProto:
    """The graph, as one of ``adapter``; ``metadata`` goes before what is true of it."""
    p = adapter.projection
    text = GRAPH.replace("float[D]", f"float[{p.d}]")
    model = parser.parse_model(text)
    told = {
        "mode": "step", "task": TASK, "projection": p.kind, "seed": p.seed, "d": p.d, "D": p.D, "base_contents": adapter.base.contents,
    }  # fmt: skip
    onnx.helper.set_model_props(model, {f"unilora.{name}": str(value) for name, value in (told | metadata).items()})
    onnx.checker.check_model(model)
    return model


def write_graph(path, adapter: Adapter, **metadata) -> None:
    onnx.save(step_graph(adapter, **metadata), path)
