"""export.kernels.nodes: what ONNX Runtime has left to do in each run, and where on a GPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from onnx import TensorProto, helper, numpy_helper

from export.kernels import cuda_kernels
from export.kernels import nodes as kernels
from unilora_spec import UniLoraError

ROOT = Path(__file__).parents[1]
CUDA_HERE = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
needs_the_table = pytest.mark.skipif(CUDA_HERE, reason="on a GPU ONNX Runtime itself is asked")


def save(path, nodes, x=TensorProto.FLOAT, y=None, shape=("rows", 4), functions=(), opset=20, **constants):
    """A model from x to y, of the given nodes as (operator, inputs, outputs, attributes)."""
    graph = helper.make_graph(
        [helper.make_node(op, i.split(), o.split(), name=f"{op}{k}", **a) for k, (op, i, o, a) in enumerate(nodes)],
        "graph",
        [helper.make_tensor_value_info("x", x, shape)],
        [helper.make_tensor_value_info("y", y or x, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("own", 1), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, functions=functions, ir_version=10), path)
    return path


def places(*arguments, **keywords):
    """{(operator, place): count} of a model."""
    return by_place(kernels.nodes(save(*arguments, **keywords)))


def by_place(report):
    return {(row["operator"], row["where"]): row["count"] for row in report["nodes"]}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.onnx"


# Places


def test_all_on_the_gpu(path):
    w = np.ones((4, 4), np.float32)
    report = kernels.nodes(save(path, [("MatMul", "x w", "a", {}), ("Relu", "a", "y", {})], w=w))
    assert by_place(report) == {("MatMul", "CUDA"): 1, ("Relu", "CUDA"): 1}
    assert report["count"] == {"CPU": 0, "CUDA": 2, "CPU by design": 0}
    assert [row["first"] for row in report["nodes"]] == ["MatMul0", "Relu1"]


@pytest.mark.parametrize("x, wanted", [(TensorProto.FLOAT, "CUDA"), (TensorProto.INT64, "CPU")])
def test_the_types_count(path, x, wanted):
    assert places(path, [("Pad", "x p", "y", {})], x=x, p=np.ones(4, np.int64)) == {("Pad", wanted): 1}


def test_an_operator_without_a_cuda_kernel(path):
    nodes = [("BitwiseXor", "x x", "a", {}), ("Mul", "a x", "y", {})]
    assert places(path, nodes, x=TensorProto.INT64) == {("BitwiseXor", "CPU"): 1, ("Mul", "CUDA"): 1}


def test_a_kernel_for_an_older_version_is_none(path):
    assert places(path, [("Elu", "x", "y", {})]) == {("Elu", "CUDA"): 1}
    # In opset 22 its types grew, and no kernel with them.
    assert places(path, [("Elu", "x", "y", {})], opset=22) == {("Elu", "CPU"): 1}


def test_operators_of_onnx_runtime(path):
    nodes = [("QuickGelu", "x", "y", {"domain": "com.microsoft"})]
    assert places(path, nodes) == {("com.microsoft::QuickGelu", "CUDA"): 1}


def test_what_the_cpu_alone_needs_for_float16_is_not_counted(path):
    found = places(path, [("MatMul", "x w", "y", {})], x=TensorProto.FLOAT16, w=np.ones((4, 4), np.float16))
    assert found == {("MatMul", "CUDA"): 1}


def test_float16_is_looked_up_as_such(path):
    nodes = [("Mul", "x x", "a", {}), ("GridSample", "a a", "y", {})]  # for which CUDA has a float32 kernel alone
    for x, wanted in ((TensorProto.FLOAT, "CUDA"), (TensorProto.FLOAT16, "CPU")):
        assert places(path, nodes, x=x, shape=("n", 2, 2, 2))[("GridSample", wanted)] == 1


# The per-run path


def test_constants_are_folded_away(path):
    nodes = [("BitwiseXor", "c c", "a", {}), ("Unique", "a", "b", {}), ("Add", "x b", "y", {})]
    assert places(path, nodes, x=TensorProto.INT64, c=np.arange(4)) == {("Add", "CUDA"): 1}


def test_local_functions_are_looked_into(path):
    body = [helper.make_node("BitwiseXor", ["a", "a"], ["b"]), helper.make_node("Add", ["a", "b"], ["c"])]
    function = helper.make_function("own", "Mix", ["a"], ["c"], body, [helper.make_opsetid("", 20)])
    found = places(path, [("Mix", "x", "y", {"domain": "own"})], x=TensorProto.INT64, functions=[function])
    assert found == {("BitwiseXor", "CPU"): 1, ("Add", "CUDA"): 1}


def test_bodies_are_looked_into(path):
    value = [helper.make_tensor_value_info("z", TensorProto.INT64, None)]
    then = helper.make_graph([helper.make_node("BitwiseXor", ["x", "x"], ["z"], name="inside")], "then", [], value)
    other = helper.make_graph([helper.make_node("Mul", ["x", "x"], ["z"])], "other", [], value)
    nodes = [
        ("ReduceMax", "x", "m", {"keepdims": 0}),
        ("Cast", "m", "c", {"to": TensorProto.BOOL}),
        ("If", "c", "y", {"then_branch": then, "else_branch": other}),
    ]
    found = places(path, nodes, x=TensorProto.INT64)
    assert found[("BitwiseXor", "CPU")] == 1 and found[("If", "CUDA")] == 1


def test_shapes_are_on_the_cpu_by_design(path):
    nodes = [
        ("Shape", "x", "s", {}),
        ("Gather", "s zero", "n", {}),
        ("Mul", "n two", "m", {}),
        ("Concat", "m two", "t", {"axis": 0}),
        ("ConstantOfShape", "t", "y", {}),
    ]
    found = places(path, nodes, zero=np.array([0]), two=np.array([2]))
    by_design = {("Gather", "CPU by design"): 1, ("Mul", "CPU by design"): 1, ("Concat", "CPU by design"): 1}
    assert found == {("Shape", "CUDA"): 1, ("ConstantOfShape", "CUDA"): 1} | by_design


def test_an_input_may_meet_a_shape_on_the_cpu(path):
    found = places(path, [("Shape", "x", "s", {}), ("Gather", "s x", "y", {})], x=TensorProto.INT64, shape=("rows",))
    assert found == {("Shape", "CUDA"): 1, ("Gather", "CPU by design"): 1}


def test_a_shape_that_meets_the_data_stays_on_the_gpu(path):
    nodes = [("Shape", "x", "s", {}), ("Mul", "x x", "d", {}), ("Add", "d s", "y", {})]
    found = places(path, nodes, x=TensorProto.INT64, shape=("rows", 2))
    assert found == {("Shape", "CUDA"): 1, ("Mul", "CUDA"): 1, ("Add", "CUDA"): 1}


def test_a_long_constant_beside_a_shape_stays_on_the_gpu(path):
    nodes = [
        ("Shape", "x", "s", {}),
        ("Gather", "s zero", "n", {}),
        ("Add", "n long", "l", {}),
        ("Gather", "l x", "y", {}),
    ]
    for length, wanted in ((100, "CPU by design"), (101, "CUDA")):
        found = places(path, nodes, x=TensorProto.INT64, zero=np.array([0]), long=np.arange(length))
        assert found[("Add", wanted)] == 1


def test_an_export_is_the_gpus(path):
    torch = pytest.importorskip("torch")
    from export import export_onnx
    from unilora_spec import Adapter, LayerMap, Projection, Segment

    layer_map = LayerMap([Segment("0.weight", 10, 8, 2)], alpha=8)  # D = 36 = a²: no entry needs a second pass
    adapter = Adapter(Projection(D=layer_map.D, d=12, seed=0), layer_map, np.ones(12, np.float32))
    net = torch.nn.Sequential(torch.nn.Linear(8, 10), torch.nn.ReLU())
    export_onnx(net, adapter, {"input": torch.randn(2, 8)}, path, mode="reconstruct")
    assert "Mix" in [
        function.name for function in onnx.load(path).functions
    ]  # it rebuilds, and nothing of that is left
    report = kernels.nodes(path)
    assert report["count"]["CPU"] == report["count"]["CPU by design"] == 0 < report["count"]["CUDA"] <= 3


# Where the places come from


@needs_the_table
def test_the_source_is_named(path):
    report = kernels.nodes(save(path, [("Relu", "x", "y", {})]))
    assert report["source"].startswith("the CUDA kernels that ONNX Runtime 1.")


@needs_the_table
def test_an_assignment_is_believed(path, monkeypatch):
    """With a session that says of itself that it has CUDA and of all nodes, as is true here, that they are the CPU's."""
    real = kernels.session

    class WithCuda:
        def __init__(self, *arguments, **keywords):
            self.get_provider_graph_assignment_info = real(*arguments, **keywords).get_provider_graph_assignment_info

        def get_providers(self):
            return ["CUDAExecutionProvider", "CPUExecutionProvider"]

    monkeypatch.setattr(kernels, "session", WithCuda)
    nodes = [("Shape", "x", "s", {}), ("Gather", "s zero", "n", {}), ("Expand", "x n", "y", {})]
    report = kernels.nodes(save(path, nodes, shape=("rows", 1), zero=np.array([0])))
    assert by_place(report) == {("Shape", "CPU"): 1, ("Gather", "CPU by design"): 1, ("Expand", "CPU"): 1}
    assert report["source"] == f"ONNX Runtime {onnxruntime.__version__}'s own assignment"


@needs_the_table  # a build with CUDA may list TensorRT, whose libraries this call needs
def test_the_table_is_made_from_the_kernels_that_are_registered():
    made = cuda_kernels.table("CPUExecutionProvider")
    assert made["kernels"]["BitwiseXor"] == [[18, None, {"T": "int16 int32 int64 int8 uint16 uint32 uint64 uint8"}]]
    assert made["signatures"]["com.microsoft::QuickGelu"] == [["T"], ["T"]]
    assert json.loads(cuda_kernels.text(made)) == made


def test_the_table_is_as_it_was_written():
    text = Path(kernels.__file__).with_name("cuda_kernels.json").read_text("utf-8")
    assert cuda_kernels.text(json.loads(text)) == text


# The command


def command(*arguments):
    call = [sys.executable, "-m", "export", "nodes", *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(call, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_the_command(path):
    done = command(save(path, [("Relu", "x", "y", {})]))
    assert done.returncode == 0 and done.stderr == ""
    assert [line.split() for line in done.stdout.splitlines()[:2]] == [
        ["operator", "count", "where", "first", "node"],
        ["Relu", "1", "CUDA", "Relu0"],
    ]
    assert "1 are done by CUDA and 0 on the CPU" in done.stdout.splitlines()[2]


def test_the_command_on_what_the_cpu_would_do(path):
    done = command(save(path, [("BitwiseXor", "x x", "y", {})], x=TensorProto.INT64), "--json")
    assert done.returncode == 1 and json.loads(done.stdout)["count"]["CPU"] == 1


@pytest.mark.parametrize("contents, words", [(b"no model", "is no ONNX file"), (None, "there is no such file")])
def test_the_command_on_a_bad_file(path, contents, words):
    if contents is not None:
        path.write_bytes(contents)
    done = command(path)
    assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1 and words in done.stderr
    with pytest.raises(UniLoraError, match=words):
        kernels.nodes(path)


def test_the_table_is_compared_with_an_assignment(tmp_path, monkeypatch):
    """Of a graph of Relu and Exp, both of which the table has on CUDA; the assignment is the test's, as if ONNX Runtime had made it."""
    path = tmp_path / "model.onnx"
    save(path, [("Relu", "x", "a", {}), ("Exp", "a", "y", {})])
    if not CUDA_HERE:
        assert kernels.compared(path) is None
    model, _ = kernels._optimized(path)
    assigned = {(node.op_type, node.name): {"CUDA"} for node in model.graph.node}
    monkeypatch.setattr(kernels, "_optimized", lambda path: (model, assigned))
    assert kernels.compared(path) == (2, [])
    assigned["Exp", "Exp1"] = {"CPU"}
    assert kernels.compared(path) == (2, [{"operator": "Exp", "first": "Exp1", "said": "CUDA", "where": "CPU"}])
