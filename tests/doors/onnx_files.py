"""An ONNX file, and arrays for its inputs."""

import io

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from .door import PIPE, Door, Seed
from .small_base import ADAPTER, BASE, WEIGHT


def value(name, shape=None, dtype=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, dtype, shape)


MATMUL = helper.make_node("MatMul", ["x", "w"], ["y"])
FACTOR = numpy_helper.from_array(np.ones((32, 32), np.float32), "w")


def graph(*nodes, tensors=(FACTOR,), functions=(), shape=("batch", 32), **more) -> bytes:
    made = helper.make_graph(
        [MATMUL, *nodes], "g", [value("x", shape)], [value("y", (shape[0], 32))], list(tensors), **more
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("d", 1)]
    return helper.make_model(made, functions=functions, opset_imports=opsets).SerializeToString()


def function(name, *calls):
    nodes = [
        helper.make_node(
            each,
            ["i" if k == 0 else f"{k}"],
            ["o" if k == len(calls) - 1 else f"{k + 1}"],
            domain="d" if each[0] == "F" else "",
        )
        for k, each in enumerate(calls)
    ]
    return helper.make_function(
        "d", name, ["i"], ["o"], nodes, [helper.make_opsetid("", 18), helper.make_opsetid("d", 1)]
    )


def shape(name, *numbers):
    return numpy_helper.from_array(np.array(numbers, np.int64), name)


def computed(op, *inputs, tensors=(), **more) -> bytes:
    return graph(helper.make_node(op, inputs, ["z"], **more), tensors=[FACTOR, *tensors])


def data_outside(**where) -> TensorProto:
    """A tensor whose numbers are said to lie in another file."""
    tensor = TensorProto(name="w", data_type=1, dims=[32, 32], data_location=TensorProto.EXTERNAL)
    for key, said in where.items():
        tensor.external_data.add(key=key, value=str(said))
    return tensor


def outside(**where) -> bytes:
    return graph(tensors=[data_outside(**where)])


CALL = helper.make_node("F0", ["y"], ["z"], domain="d")
DOUBLING = [*(function(f"F{i}", f"F{i + 1}", f"F{i + 1}") for i in range(40)), function("F40", "Relu")]
CHAIN = [*(function(f"F{i}", f"F{i + 1}") for i in range(20_000)), function("F20000", "Relu")]


def within(depth) -> bytes:
    """Attributes with graphs within each other, as protobuf spells them: a hundred and more end its own reader."""
    data = b""
    for field in [b"\x32", b"\x2a", b"\x0a"] * depth:  # an attribute's graph, a node's attribute, a graph's node
        data = field + _varint(len(data)) + data
    return b"\x3a" + _varint(len(data)) + data


def _varint(number) -> bytes:
    digits = []
    while number >= 128:
        digits.append(number % 128 + 128)
        number //= 128
    return bytes([*digits, number])


ONNX = {
    "functions that double": Seed(graph(CALL, functions=DOUBLING), "stands for"),
    "a chain of functions": Seed(graph(CALL, functions=CHAIN), "within each other"),
    "a function that calls itself": Seed(graph(CALL, functions=[function("F0", "F0")]), "calls itself"),
    "functions in a circle": Seed(graph(CALL, functions=[function("F0", "F1"), function("F1", "F0")]), "calls itself"),
    "a constant of a terabyte": Seed(computed("ConstantOfShape", "s", tensors=[shape("s", 2**36)]), "bytes"),
    "one of a shape that is computed": Seed(
        graph(
            helper.make_node("Pow", ["s", "t"], ["u"]),
            helper.make_node("ConstantOfShape", ["u"], ["z"]),
            tensors=[FACTOR, shape("s", 2), shape("t", 36)],
        ),
        "bytes",
    ),
    "an expansion": Seed(computed("Expand", "w", "s", tensors=[shape("s", 2**30, 32, 32)]), "bytes"),
    "a range": Seed(
        computed(
            "Range",
            "a",
            "b",
            "c",
            tensors=[numpy_helper.from_array(np.array(v, np.int64), n) for n, v in (("a", 0), ("b", 2**40), ("c", 1))],
        ),
        "bytes",
    ),
    "tiles": Seed(computed("Tile", "w", "s", tensors=[shape("s", 2**20, 2**20)]), "bytes"),
    "an input of 2^60": Seed(graph(shape=(2**60, 32)), "bytes"),
    "a shape without its bytes": Seed(
        graph(tensors=[TensorProto(name="w", data_type=1, dims=[2**40, 4], raw_data=b"1234")]), "4 are there"
    ),
    "a shape without any": Seed(graph(tensors=[TensorProto(name="w", data_type=1, dims=[2**40, 4])]), "0 numbers"),
    "a shape below zero": Seed(
        graph(tensors=[TensorProto(name="w", data_type=1, dims=[-1, 4], raw_data=b"1234")]), "has shape [-1, 4]"
    ),
    "a sparse tensor": Seed(
        graph(
            sparse_initializer=[
                helper.make_sparse_tensor(helper.make_tensor("v", 1, [1], [1.0]), shape("i", 5), [2**40])
            ]
        ),
        "sparse tensor",
    ),
    "data in a pipe": Seed(outside(location="pipe"), "no regular file"),
    "data behind the end": Seed(outside(location="base/config.json", offset=2**63, length=4096), "get the whole file"),
    "data of any length": Seed(outside(location="base/config.json", length=2**63), "get the whole file"),
    "data at a word": Seed(outside(location="base/config.json", offset="x"), "no numbers"),
    "no version of operators": Seed(
        onnx.ModelProto(ir_version=9, graph=onnx.load_from_string(graph()).graph).SerializeToString(), "opset_import"
    ),
    "graphs in graphs": Seed(within(1000), "no ONNX file"),
    "a pipe": PIPE,
}


def _npz(**arrays) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


ONTO_ONNX = (
    "export", "onnx", "--adapter", "vec.safetensors", "--base", "model.onnx", "-o", "out.onnx", "--map", f"{WEIGHT}=w",
)  # fmt: skip

DOORS = [
    Door("ONNX, nodes", ("export", "nodes", "model.onnx"), "model.onnx", BASE, {"sound": Seed(graph(), None), **ONNX}),
    Door(
        "ONNX, export",
        ONTO_ONNX,
        "model.onnx",
        ADAPTER | BASE,
        {"sound": Seed(graph(), None), **ONNX},
    ),
    Door(
        "ONNX, folder",
        ("export", "onnx-folder", "--adapter", "vec.safetensors", "--base", "graphs", "-o", "out"),
        "graphs/model.onnx",
        ADAPTER
        | BASE
        | {f"graphs/{name}": content for name, content in BASE.items()},  # where the graphs say their data are
        ONNX,
    ),
    Door(
        "arrays",
        (*ONTO_ONNX, "--inputs", "in.npz"),
        "in.npz",
        ADAPTER | BASE | {"model.onnx": graph()},
        {
            "sound": Seed(_npz(x=np.ones((2, 32), np.float32)), None),
            "no arrays": Seed(b"x", "no .npz file"),
            "cut off": Seed(_npz(x=np.ones(99))[:-40], "no .npz file"),
            "a pipe": PIPE,
        },
    ),
]
