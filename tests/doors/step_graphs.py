"""The graph of a training step, for ONNX Runtime."""

from bag_of_words import adapter_for, step_graph
from onnx import TensorProto, helper

from unilora_spec.serialization import encode

from .door import PIPE, Door, Seed, text
from .language_models import LM
from .onnx_files import CHAIN, DOUBLING, data_outside, function, shape, within

BAG = adapter_for(8, "base")  # of the words of LM's tokenizer
BAG_FILES = {
    "vec.safetensors": encode(BAG),
    "base/config.json": text({"max_position_embeddings": 16}),
    "step.onnx": step_graph(BAG).SerializeToString(),
    "base/tokenizer.json": LM["base/tokenizer.json"],
    "base/tokenizer_config.json": LM["base/tokenizer_config.json"],
    "rows.csv": b"text,label\n" + b"is it good,1\nis it bad,0\n" * 8,
}


def _step(*nodes, tensors=(), functions=(), **metadata) -> bytes:
    """A graph of a step whose logits have the mean of "z" added to them, which ``nodes`` make, of "plain", the logits, or of ``tensors``."""
    made = step_graph(BAG, **metadata)
    if nodes:
        at, last = next((i, node) for i, node in enumerate(made.graph.node) if "logits" in node.output)
        last.output[0] = "plain"
        more = [
            helper.make_node("ReduceMean", ["z"], ["m"], keepdims=0),
            helper.make_node("Add", ["plain", "m"], ["logits"]),
        ]
        behind = list(made.graph.node)[at + 1 :]
        del made.graph.node[at + 1 :]
        made.graph.node.extend([*nodes, *more, *behind])
    made.graph.initializer.extend(tensors)
    made.functions.extend(functions)
    made.opset_import.append(helper.make_opsetid("d", 1))
    return made.SerializeToString()


def _of_shape(*numbers) -> bytes:
    return _step(helper.make_node("ConstantOfShape", ["s"], ["z"]), tensors=[shape("s", *numbers)])


EXPAND = helper.make_node("Expand", ["plain", "s"], ["z"])
SAME = helper.make_node("ReduceMean", ["w"], ["z"])
HUGE = TensorProto(name="w", data_type=1, dims=[2**40, 4], raw_data=b"1234")
TIMES = helper.make_node("F0", ["plain"], ["z"], domain="d")
STEPS = {
    "sound": Seed(_step(), None),
    "another mode": Seed(_step(mode="input"), "is a graph of the mode 'input'"),
    "no ONNX file": Seed(b"x", "no ONNX file"),
    "nothing": Seed(b"", "no ONNX file"),
    "functions that double": Seed(_step(TIMES, functions=DOUBLING), "stands for"),
    "a chain of functions": Seed(_step(TIMES, functions=CHAIN), "within each other"),
    "a function that calls itself": Seed(_step(TIMES, functions=[function("F0", "F0")]), "calls itself"),
    "functions in a circle": Seed(_step(TIMES, functions=[function("F0", "F1"), function("F1", "F0")]), "calls itself"),
    "a constant of a terabyte": Seed(_of_shape(2**38), "could not run it"),
    "an expansion": Seed(_step(EXPAND, tensors=[shape("s", 2**38, 1, 1)]), "could not run it"),
    "a shape without its bytes": Seed(_step(SAME, tensors=[HUGE]), "cannot load it"),
    "data in a pipe": Seed(_step(SAME, tensors=[data_outside(location="pipe")]), "cannot load it"),
    "data behind the end": Seed(
        _step(SAME, tensors=[data_outside(location="rows.csv", offset=2**40)]), "cannot load it"
    ),
    "graphs in graphs": Seed(within(1000), "step.onnx"),
    "a pipe": PIPE,
}
STEP_FILES = ("--graph", "step.onnx", "--adapter", "vec.safetensors", "--base", "base", "--data", "rows.csv")
STEP_TRAIN = (
    "--lr", "0.1", "--max-steps", "2", "--batch-size", "4", "--holdout", "0", "--output", "out.safetensors"
)  # fmt: skip

DOORS = [
    *(
        Door(f"step graph, {name}", ("backends.onnx", name, *STEP_FILES, *options), "step.onnx", BAG_FILES, STEPS)
        for name, options in (("train", STEP_TRAIN), ("evaluate", ()))
    ),
]
