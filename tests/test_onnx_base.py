"""Adapters in ONNX files that others have exported."""

import numpy as np
import pytest

from unilora_spec import (
    Adapter,
    LayerMap,
    Projection,
    Segment,
    UniLoraError,
    WorkFailed,
)

ir = pytest.importorskip("onnx_ir")
onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("transformers")
from linear_graphs import X, against_pytorch, answers, bases, delta_of, graph_of, linear, one_layer, weight  # noqa: F401  fixtures
from onnx import TensorProto, helper
from onnx_bases import LARGEST, MODES, adapter_for, bert, gpt2, llama, relative

from export.onnx import cases
from export.onnx_base import from_file
from export.onnx_base.from_file import export_onnx_file

FILES = [
    *((bert, "torchscript", opset) for opset in (13, 14, 17)),
    *((build, "torchscript", 14) for build in (gpt2, llama)),
    (bert, "dynamo", 18),
    *(pytest.param(build, "dynamo", 18, marks=pytest.mark.thorough) for build in (gpt2, llama)),
]


@pytest.mark.parametrize("build, exporter, opset", FILES, ids=lambda value: getattr(value, "__name__", str(value)))
def test_every_mode_answers_as_pytorch(bases, build, exporter, opset, tmp_path):
    base = bases(build, exporter, opset)
    before = base.read_bytes()
    for mode in MODES:
        report = against_pytorch(base, build, mode, tmp_path / "out.onnx", compare=opset in (13, 18))
        assert report["opset"] == opset and report["same_contents"] is True
        assert report["weights"] and {row["how"] for row in report["weights"]} <= {"name", "node name", "copy"}
        if mode == "merged":
            assert report["index"] is None
        elif opset < 18:
            assert report["index"] == (
                f"stored, 4 bytes an entry: computing it needs operators of opset 18, the base has {opset}"
            )
        else:
            assert report["index"] == "computed in the graph"
    assert base.read_bytes() == before


def test_the_comparison_finds_a_wrong_adapter(bases, tmp_path, monkeypatch):
    """The file's own comparison is no formality: a factor of 1.01 in one scale is found, and nothing is kept."""
    real = from_file.reference

    def other(base, adapter, *rest):
        changed = adapter_for(bert)
        changed.theta = adapter.theta * np.float32(1.01)
        return real(base, changed, *rest)

    monkeypatch.setattr(from_file, "reference", other)
    with pytest.raises(WorkFailed, match="logits disagree .* the file was not kept"):
        export_onnx_file(bases(bert), adapter_for(bert), tmp_path / "out.onnx", "input")
    assert list(tmp_path.iterdir()) == []


def test_opsets_that_are_too_old(bases, tmp_path):
    base = bases(bert, "torchscript", 13)
    old = onnx.load(base)
    old.opset_import[0].version = 12
    onnx.save(old, tmp_path / "old.onnx")
    for mode in MODES[1:]:
        with pytest.raises(
            UniLoraError, match=f"of opset 12, and the mode {mode} needs 13; convert it with onnx.version"
        ):
            export_onnx_file(tmp_path / "old.onnx", adapter_for(bert), tmp_path / "out.onnx", mode)


def test_merging_needs_no_opset(tmp_path):
    """A MatMul is the same in opset 7."""
    adapter, base = linear(tmp_path, opset=7)
    export_onnx_file(base, adapter, tmp_path / "out.onnx", "merged")
    assert onnx.load(tmp_path / "out.onnx").opset_import[0].version == 7


# A graph of one linear layer, made by hand


def test_branches_of_an_if(tmp_path):
    """The same W in both branches, in one as the branch's result; and the names in them stay apart from the graph's."""
    model, adapter = one_layer()

    def branch(name, nodes, output):
        return helper.make_graph(nodes, name, [], [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)])

    then = branch("then", [helper.make_node("MatMul", ["x", "linear.weight"], ["a"])], "a")
    other = branch(
        "else", [helper.make_node("MatMul", ["x", "linear.weight"], ["b"]), helper.make_node("Neg", ["b"], ["c"])], "c"
    )
    node = helper.make_node("If", ["flag"], ["y"], then_branch=then, else_branch=other)
    base = graph_of([node], {"linear.weight": weight(model).T}, folder=tmp_path,
                    inputs={"x": (TensorProto.FLOAT, ["batch", 8]), "flag": (TensorProto.BOOL, [])})  # fmt: skip
    wanted = X @ (weight(model) + delta_of(adapter)).T
    for mode in MODES:
        export_onnx_file(base, adapter, tmp_path / "out.onnx", mode)
        for flag, sign in ((True, 1), (False, -1)):
            feed = {"x": X, "flag": np.array(flag), "adapter": np.zeros(3, np.int64)}
            if mode == "factored":
                feed |= cases(mode, [adapter], [feed], [[{}]])[0][0]
            assert relative(answers(tmp_path / "out.onnx", [feed], "y"), [sign * wanted]) < LARGEST, mode


def test_a_weight_that_is_used_twice(tmp_path):
    """Once on the left, where A and B cannot act beside: W + ΔW takes its place, and a bank is refused."""
    model, adapter = one_layer()
    W = weight(model)
    nodes = [
        helper.make_node("MatMul", ["x", "linear.weight"], ["h"]),
        helper.make_node("MatMul", ["linear.weight", "z"], ["k"]),
        helper.make_node("Add", ["h", "k"], ["y"]),
    ]
    inputs = {"x": (TensorProto.FLOAT, [8, 8]), "z": (TensorProto.FLOAT, [6, 6])}
    base = graph_of(nodes, {"linear.weight": W.T}, inputs, {"y": (TensorProto.FLOAT, [8, 6])}, folder=tmp_path)
    random = np.random.default_rng(0)
    x, z = random.normal(size=(8, 8)).astype(np.float32), random.normal(size=(6, 6)).astype(np.float32)
    new = (W + delta_of(adapter)).T
    for mode in ("merged", "reconstruct", "input"):
        export_onnx_file(base, adapter, tmp_path / "out.onnx", mode)
        assert relative(answers(tmp_path / "out.onnx", [{"x": x, "z": z}], "y"), [x @ new + new @ z]) < LARGEST
    with pytest.raises(UniLoraError, match="linear.weight is used by MatMul k, which A and B cannot act beside"):
        export_onnx_file(base, adapter, tmp_path / "out.onnx", "bank")


@pytest.mark.parametrize("quantized", [False, True])
def test_segments_of_rank_0(tmp_path, quantized):
    """A table that is looked up, rows of a product beside others that have a pair, and a whole product: ΔW in W's place, or, for
    each row of a batch and over quantized weights, beside it."""
    segments = [
        Segment("a.weight", 5, 8, 0), Segment("b.weight", 2, 8, 0, row=4), Segment("b.weight", 3, 8, 2, row=0),
        Segment("c.weight", 4, 6, 0),
    ]  # fmt: skip
    layer_map = LayerMap(segments, alpha=0.5)
    random = np.random.default_rng(0)
    projection = Projection(D=layer_map.D, d=20, seed=1)
    adapters = [Adapter(projection, layer_map, random.normal(size=20).astype(np.float32)) for _ in range(2)]
    whole, arrays, nodes = {}, {}, []
    for name, shape in (("a", (5, 8)), ("b", (6, 8)), ("c", (4, 6))):
        codes, step = random.integers(-9, 9, shape).astype(np.int8), np.float32(0.125)
        whole[f"{name}.weight"] = codes * step
        if quantized:
            arrays |= {f"{name}.weight_quantized": codes, f"{name}.step": step}
            nodes += [helper.make_node("DequantizeLinear", [f"{name}.weight_quantized", f"{name}.step"], [name])]
        else:
            arrays |= {f"{name}.weight": codes * step}
            nodes += [helper.make_node("Identity", [f"{name}.weight"], [name])]
    nodes += [
        helper.make_node("Gather", ["a", "ids"], ["x"]),
        helper.make_node("Transpose", ["b"], ["turned"], perm=[1, 0]),
        helper.make_node("MatMul", ["x", "turned"], ["h"]),
        helper.make_node("Transpose", ["c"], ["last"], perm=[1, 0]),
        helper.make_node("MatMul", ["h", "last"], ["y"]),
    ]
    inputs = {"ids": (TensorProto.INT64, ["batch", "sequence"])}
    outputs = {"y": (TensorProto.FLOAT, ["batch", "sequence", 4])}
    base = graph_of(nodes, arrays, inputs, outputs, folder=tmp_path)
    ids, said = random.integers(0, 5, (3, 7)), []
    for adapter in adapters:
        weights = {name: value.copy() for name, value in whole.items()}
        adapter.merge(weights)
        said.append(weights["a.weight"][ids] @ weights["b.weight"].T @ weights["c.weight"].T)
    for mode in ("reconstruct", "input", "bank") if quantized else ("merged", "reconstruct", "input", "bank"):
        export_onnx_file(base, adapters if mode == "bank" else adapters[0], tmp_path / "out.onnx", mode)
        beside = {f.name for f in onnx.load(tmp_path / "out.onnx").functions} & {"Product", "Lookup", "LowRank"}
        assert len(beside) == (3 if quantized and mode != "bank" else 0), "W + ΔW costs less, where it can be had"
        numbers = np.array([1, 0, 1])
        wanted = np.stack([said[k][row] for row, k in enumerate(numbers)]) if mode == "bank" else said[0]
        assert relative(answers(tmp_path / "out.onnx", [{"ids": ids, "adapter": numbers}], "y"), [wanted]) < LARGEST
        if mode == "input":
            fed = {"ids": ids, "theta": adapters[1].theta}
            assert relative(answers(tmp_path / "out.onnx", [fed], "y"), [said[1]]) < LARGEST
    with pytest.raises(UniLoraError, match="a.weight is adapted with rank 0, without an A and B to feed; --mode input"):
        export_onnx_file(base, adapters[0], tmp_path / "out.onnx", "factored")


def test_outputs_that_are_no_floats(tmp_path):
    model, adapter = one_layer()
    nodes = [
        helper.make_node("MatMul", ["x", "linear.weight"], ["h"]),
        helper.make_node("ArgMax", ["h"], ["y"], axis=-1, keepdims=0),
        helper.make_node("Greater", ["h", "zero"], ["z"]),
    ]
    arrays = {"linear.weight": weight(model).T, "zero": np.float32(0)}
    outputs = {"y": (TensorProto.INT64, ["batch"]), "z": (TensorProto.BOOL, ["batch", 6])}
    base = graph_of(nodes, arrays, outputs=outputs, folder=tmp_path)
    report = export_onnx_file(base, adapter, tmp_path / "out.onnx", "reconstruct")
    assert report["comparison"]["within"] and report["comparison"]["outputs"]["y"]["tolerance"] == 0
