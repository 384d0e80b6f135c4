"""export/matching by names or by hand: the initializers of other people's ONNX files that hold an adapter's weights, and never another."""

import numpy as np
import pytest
import torch
from torch import nn

from unilora_spec import (
    Adapter,
    Base,
    BaseMismatch,
    LayerMap,
    Projection,
    Segment,
    UniLoraError,
    contents_fingerprint,
    structure_fingerprint,
)

ir = pytest.importorskip("onnx_ir")
pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("transformers")

from matching_files import (  # noqa: F401  one is a fixture
    BERT,
    LLAMA,
    bert,
    check,
    export,
    exported,
    floats,
    folders,
    gpt2,
    hows,
    llama,
    make_adapter,
    nameless,
    new_bert,
    opened,
    parameters,
)

from export.onnx_base.exporter_names import original, scopes
from export.onnx_base.matching import Match, match, not_comparable, prepare, table

# Names


SAVED = {
    new_bert: ["classifier.bias", "bert.pooler.dense.bias"],
    bert: ["classifier.weight", "classifier.bias", "bert.pooler.dense.weight", "bert.encoder.layer.0.output.LayerNorm.bias"],
    gpt2: ["transformer.h.0.mlp.c_fc.weight", "transformer.h.1.ln_1.weight"],
    llama: ["lm_head.weight", f"{LLAMA}.1.self_attn.o_proj.weight"],
}  # fmt: skip
# By torch's newer exporter, which takes seconds, biases of zeros and parts of weights are in test_onnx_base.py too.
FILES = [(build, dynamo) for build in SAVED for dynamo in (False, True)]
MARKS = [pytest.mark.thorough if dynamo and build is not bert else () for build, dynamo in FILES]
IDS = [f"{build.__name__}-{'dynamo' if dynamo else 'torchscript'}" for build, dynamo in FILES]


@pytest.mark.parametrize("build, dynamo", [pytest.param(*f, id=i, marks=m) for f, i, m in zip(FILES, IDS, MARKS)])
def test_what_exporters_leave(build, dynamo):
    model, segments = build()
    adapter = make_adapter(model, segments, SAVED[build])
    found, same = match(opened(exported(build, dynamo)), adapter)
    check(model, adapter, found)
    assert same is True and not_comparable(found, adapter) is None
    assert set(hows(found).values()) <= {"name", "node name", "copy"}
    rows = table(found)
    assert [row["name"] for row in rows] == [each.name for each in found]
    assert {row["stored"] for row in rows} <= {"in × out", "out × in", "as in the model"} and all(
        row["uses"] for row in rows
    )


def rename(graph, change):
    """Other names for nodes and inner values; initializers keep theirs."""
    for i, node in enumerate(graph.graph):
        node.name = change(node.name)
        for j, value in enumerate(node.outputs):
            if not value.is_graph_output():
                value.name = change(value.name) or f"y{i}_{j}"
    return graph


@pytest.mark.parametrize("scope", ["/", "/auto_model/bert/"])
def test_leading_parts_may_be_left_out(scope):
    """A base exported alone has no ``bert.`` before its names, and one inside of another model has more."""
    model, segments = bert()
    adapter = make_adapter(model, segments)
    found, same = match(rename(opened(exported(bert, False)), lambda name: name.replace("/bert/", scope)), adapter)
    check(model, adapter, found)
    assert same and set(hows(found).values()) == {"node name"}


def test_a_bias_tells_where_the_nodes_have_no_names():
    model, segments = bert()
    adapter = make_adapter(model, segments)
    found, same = match(rename(opened(exported(bert, False)), lambda name: ""), adapter)
    check(model, adapter, found)
    assert same and set(hows(found).values()) == {"bias name"}


def test_a_bias_in_a_gemm_tells():
    """As ONNX Runtime fuses MatMul and Add."""
    model = nn.Sequential(nn.Linear(16, 16))
    x, W, b = (
        floats("x", shape=["n", 16]),
        floats("val_3", parameters(model)["0.weight"].T.copy()),
        floats("0.bias", np.ones(16)),
    )
    gemm = ir.node("Gemm", [x, W, b])
    graph = ir.Graph([x], gemm.outputs, nodes=[gemm], initializers=[W, b], opset_imports={"": 20})
    adapter = make_adapter(model, [Segment("0.weight", 16, 16, 2)])
    found, same = match(ir.Model(graph, ir_version=10), adapter)
    check(model, adapter, found)
    assert same and found[0].how == "bias name"


class Nested(nn.Module):
    """Modules that TorchScript names twice, one that is called twice, and two weights in one scope."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 16)))
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.convolution = nn.Sequential(nn.Conv1d(5, 4, 3))

    def forward(self, x):
        x = self.features(x)
        x = self.features[2](x)
        return self.convolution(self.attention(x, x, x)[0])


@pytest.mark.parametrize("dynamo", [False, True], ids=["torchscript", "dynamo"])
def test_nested_modules_and_convolutions(tmp_path, dynamo):
    torch.manual_seed(0)
    model = Nested().eval()
    path = export(model, tmp_path / "m.onnx", dynamo, {"x": torch.randn(2, 5, 8)})
    names = {"features.0": (16, 8), "features.2.0": (16, 16), "features.2.1": (16, 16), "convolution.0": (4, 15)}
    segments = [Segment(f"{name}.weight", *form, 2) for name, form in names.items()]
    segments.append(Segment("attention.out_proj.weight", 16, 16, 2))
    segments.append(Segment("attention.in_proj_weight", 16, 16, 2, row=16))  # which only the fingerprint tells
    adapter = make_adapter(model, segments)
    found, same = match(opened(path), adapter)
    check(model, adapter, found)
    assert same and hows(found)["attention.in_proj_weight"] == "fingerprint"


def node(op_type, name="", metadata="", outputs=("y",), **options):
    made = ir.node(op_type, [], outputs=[ir.Value(name=output) for output in outputs], name=name, **options)
    if metadata:
        made.metadata_props["pkg.torch.onnx.name_scopes"] = metadata
    return made


def test_scopes():
    assert scopes(node("MatMul", "/bert/encoder/layer.0/query/MatMul")) == ["bert.encoder.layer.0.query"]
    assert scopes(node("MatMul", "/f/f.2/f.2.0/MatMul_1")) == ["f.2.0", "f.f.2.f.2.0"]
    assert scopes(node("MatMul", "node_MatMul_91", "['', 'bert', 'bert.query', 'linear']")) == ["bert.query"]
    assert scopes(node("MatMul", "", "['', 'linear']")) == scopes(node("MatMul", "MatMul_3", "[oh")) == []
    assert scopes(node("MatMul", "", "", ["/lm_head/MatMul_output_0"])) == ["lm_head"]


@pytest.mark.parametrize(
    "name", ["w_quantized", "w_Transposed_quantized", "w_Q4", "w_Q8", "w_DQ_Q4", "w_Q4G32", "w_Bnb4", "w_merged_0", "w"]
)
def test_names_that_tools_have_lengthened(name):
    assert original(name) == "w"


# Stacks of onnxruntime-genai's builder


def stacked_llama(transposed=True, part="attn"):
    """q, k and v in one matrix, by the builder's names."""
    model, _ = llama()
    p, x = parameters(model), ir.Value(name="x", shape=ir.Shape(["n", 32]), type=ir.TensorType(ir.DataType.FLOAT))
    nodes, initializers = [], []
    for i in (0, 1):
        for stack, parts in (("attn.qkv_proj", "qkv"), ("mlp.gate_up_proj", ("gate", "up"))):
            module = "self_attn" if "attn" in stack else "mlp"
            W = np.concatenate([p[f"{LLAMA}.{i}.{module}.{n}_proj.weight"] for n in parts]).T.copy()
            W = ir.Value(name=f"{LLAMA}.{i}.{stack}.MatMul.weight", const_value=ir.tensor(W), shape=ir.Shape(W.shape),
                         type=ir.TensorType(ir.DataType.FLOAT))  # fmt: skip
            initializers.append(W)
            scope = f"/{LLAMA}.{i}.{stack}".replace(".", "/").replace("layers/", "layers.")
            nodes.append(ir.node("MatMul", [x, W], name=f"{scope}/MatMul"))
            nodes[-1].outputs[0].name = f"{scope}/MatMul/output_0"
    graph = ir.Graph([x], [n.outputs[0] for n in nodes], nodes=nodes, initializers=initializers, opset_imports={"": 21})
    return ir.Model(graph, ir_version=10)


@pytest.mark.parametrize("names", [["q", "k", "v"], ["q"], ["v"], ["k"]])
def test_stacks_by_name(names):
    model, _ = llama()
    out = {"q": 32, "k": 16, "v": 16}
    segments = [Segment(f"{LLAMA}.{i}.self_attn.{n}_proj.weight", out[n], 32, 2) for i in (0, 1) for n in names]
    segments += [Segment(f"{LLAMA}.{i}.mlp.{n}_proj.weight", 48, 32, 2) for i in (0, 1) for n in ("gate", "up")]
    adapter = make_adapter(model, segments)
    found, same = match(stacked_llama(), adapter)
    check(model, adapter, found)
    assert set(hows(found).values()) == {"node name"}
    assert same and {each.row for each in found} == {{"q": 0, "k": 32, "v": 48}[n] for n in names} | {0, 48}
    assert table(found)[0]["initializer"].endswith(f"qkv_proj.MatMul.weight, rows from {found[0].row}")


# What is not told is refused


def test_missing_and_of_another_shape():
    model, segments = bert()
    graph = opened(exported(bert, False))
    adapter = make_adapter(model, segments)
    adapter.saved = {"cls.weight": np.zeros((3, 32), np.float32)}
    with pytest.raises(
        BaseMismatch, match=r"cls\.weight \(3 × 32\): none has .* of its shape are classifier\.weight; .* --map cls"
    ):
        match(graph, adapter)
    adapter.saved = {"cls.weight": np.zeros((4, 33), np.float32)}
    with pytest.raises(BaseMismatch, match=r"none that is free has its shape"):
        match(graph, adapter)
    adapter.saved = {"classifier.weight": np.zeros((4, 32), np.float32)}
    with pytest.raises(BaseMismatch, match=r"classifier\.weight \(4 × 32\)"):
        match(graph, adapter)


def test_another_base_by_its_structure():
    model, segments = gpt2()
    adapter = make_adapter(model, [Segment(s.name, 32, 32, 2, True, row=0) for s in segments[::2][:2]])
    assert match(opened(exported(gpt2, False)), adapter)[1]
    adapter.base = Base(
        "other", structure_fingerprint({s.name: (32, 128) for s in segments[::2][:2]}), adapter.base.contents
    )
    with pytest.raises(BaseMismatch, match="weights in the file have other shapes"):
        match(opened(exported(gpt2, False)), adapter)


def test_two_of_one_scope(tmp_path):
    """Two matrices are used where the module is: the fingerprint decides, and without it nothing does."""

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.other = (nn.Parameter(torch.randn(8, 8)) for _ in "ab")

        def forward(self, x):
            return x @ self.other.T @ self.weight.T

    model = nn.ModuleDict({"part": Two()})
    model.forward = model["part"].forward
    path = export(model["part"], tmp_path / "m.onnx", False, {"x": torch.randn(2, 8)})
    graph = opened(path)
    for product in graph.graph:
        product.name = f"/part/{product.op_type}"
    adapter = make_adapter(model, [Segment("part.weight", 8, 8, 2)])
    found, same = match(graph, adapter)
    check(model, adapter, found)
    assert same and found[0].how == "fingerprint"
    adapter.base = None
    with pytest.raises(
        BaseMismatch, match=r"part\.weight.*MatMul_\d+, .*MatMul_\d+ are all of its shape and used where it is"
    ):
        match(graph, adapter)


def test_one_initializer_for_two_weights():
    """The names of an encoder and of a decoder, and a file of one of them."""
    model, segments = bert()
    adapter = make_adapter(model, segments, recorded=False)
    names = (f"{name}.layer.0.attention.self.query.weight" for name in ("encoder", "decoder"))
    adapter.layer_map = LayerMap([Segment(name, 32, 32, 2) for name in names])
    graph = opened(exported(bert, False))
    rename(graph, lambda name: name.replace("/bert/encoder/", "/"))
    with pytest.raises(BaseMismatch, match=r"decoder\..*query\.weight and encoder\..*query\.weight are both found in"):
        match(graph, adapter)


def test_given():
    model, segments = bert()
    adapter = make_adapter(model, segments, ["classifier.weight", "classifier.bias"])
    graph = nameless(exported(bert, False))
    named = {each.name: each.value.const_value.numpy() for each in match(opened(exported(bert, False)), adapter)[0]}
    given = {}
    for name, array in named.items():
        (given[name],) = (
            key for key, value in graph.graph.initializers.items() if np.array_equal(value.const_value.numpy(), array)
            and value.uses()[0][0].op_type != "Add"
        )  # fmt: skip
    found, same = match(graph, adapter, given)
    check(model, adapter, found)
    assert same and set(hows(found).values()) == {"given"}
    found, same = match(graph, adapter, {name: given[name] for name in adapter.saved})
    check(model, adapter, found)
    assert same and hows(found) == dict.fromkeys([s.name for s in segments], "fingerprint") | dict.fromkeys(
        adapter.saved, "given"
    )


def test_given_comes_before_names():
    model, segments = bert()
    adapter = make_adapter(model, segments)
    graph = opened(exported(bert, False))
    q, v = (each.value.name for each in match(graph, adapter)[0][:2])
    found, same = match(graph, adapter, {segments[0].name: v, segments[1].name: q})
    assert [each.value.name for each in found][:2] == [v, q] and [each.how for each in found][:2] == ["given"] * 2
    assert same is False


@pytest.mark.parametrize(
    "given, message",
    [
        ({"classifier.wieght": "x"}, r"adapter has no weight classifier\.wieght, .*; it has classifier\.weight, .*, …"),
        ({"classifier.weight": "clasifier.weight"}, r"no initializer clasifier\.weight in use, .* classifier\.weight"),
        ({"classifier.weight": "classifier.weight@x"}, r"no initializer classifier\.weight@x in use"),
        ({"classifier.weight": "classifier.bias"}, r"classifier\.bias does not hold classifier\.weight \(3 × 32\): it is 3;"),
        ({"classifier.weight": "bert.pooler.dense.weight@0"}, r"does not hold classifier\.weight \(3 × 32\) at row 0: it is 32 × 32"),
        ({f"{BERT}.0.attention.self.query.weight": "bert.embeddings.word_embeddings.weight@19"}, r"at row 19: it is 50 × 32"),
    ],
)  # fmt: skip
def test_given_that_means_nothing(given, message):
    model, segments = bert()
    adapter = make_adapter(model, segments, ["classifier.weight"])
    with pytest.raises(UniLoraError, match=message):
        match(opened(exported(bert, False)), adapter, given)


# Preparing a file


def logits(model):
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    ids = np.arange(12).reshape(2, 6)
    return session.run(["logits"], {"input_ids": ids, "attention_mask": np.ones_like(ids)})[0]


@pytest.mark.parametrize("dynamo", [False, True], ids=["torchscript", "dynamo"])
def test_what_a_file_computes_stays(dynamo):
    """New biases are zero, and exporters keep equal ones once or leave them out; each gets its own again."""
    model, segments = new_bert()
    before = logits(ir.load(exported(new_bert, dynamo)))
    graph = opened(exported(new_bert, dynamo))
    names = [
        "classifier.bias",
        "bert.pooler.dense.bias",
        f"{BERT}.0.attention.self.query.bias",
        f"{BERT}.1.output.LayerNorm.bias",
    ]
    found, _ = match(graph, make_adapter(model, segments, [*names, f"{BERT}.1.output.LayerNorm.weight"]))
    assert np.array_equal(logits(graph), before)
    found = {each.name: each.value for each in found}
    assert len({found[name] for name in found}) == len(found)
    assert all(len(found[name].uses()) == 1 for name in names)
    with torch.no_grad():
        expected = model(input_ids=torch.arange(12).reshape(2, 6)).logits.numpy() + 5
    value = found["classifier.bias"]
    value.const_value = ir.tensor(np.full(3, 5, np.float32), name=value.name)
    assert np.allclose(logits(graph), expected, atol=1e-5)


def test_functions_constants_and_external_data(tmp_path):
    x, w = (ir.Value(name=name, type=ir.TensorType(ir.DataType.FLOAT)) for name in "xw")
    inner = ir.node("MatMul", [x, w])
    linear = ir.Function(
        "own", "Linear", graph=ir.Graph([x, w], inner.outputs, nodes=[inner], opset_imports={"": 20}), attributes=[]
    )
    W = np.arange(48, dtype=np.float32).reshape(8, 6)
    W.tofile(tmp_path / "w.bin")
    stored = ir.ExternalTensor(
        "w.bin", 0, W.nbytes, ir.DataType.FLOAT, shape=ir.Shape([8, 6]), name="a.weight", base_dir=tmp_path
    )
    a = ir.Value(name="a.weight", const_value=stored, shape=stored.shape, type=ir.TensorType(ir.DataType.FLOAT))
    image = ir.Value(name="image", shape=ir.Shape(["n", 8]), type=ir.TensorType(ir.DataType.FLOAT))
    constant = ir.node("Constant", [], {"value": ir.tensor(W.T.copy())}, name="constant")
    constant.outputs[0].name = "b.weight"
    first = ir.node("Linear", [image, a], domain="own", name="first")
    second = ir.node("Linear", [first.outputs[0], constant.outputs[0]], domain="own", name="second")
    graph = ir.Graph(
        [image], second.outputs, nodes=[constant, first, second], initializers=[a], opset_imports={"": 20, "own": 1}
    )
    model = ir.Model(graph, ir_version=10, functions=[linear])
    prepare(model)
    assert [n.op_type for n in model.graph] == ["MatMul", "MatMul"] and not model.functions
    assert set(model.graph.initializers) == {"a.weight", "b.weight"}
    assert stored.raw is None
    segments = [Segment("a.weight", 6, 8, 2), Segment("b.weight", 8, 6, 2)]
    weights = {"a.weight": W.T, "b.weight": W}
    base = Base(
        "b", structure_fingerprint({n: w.shape for n, w in weights.items()}), contents_fingerprint(weights, weights.get)
    )
    layer_map = LayerMap(segments)
    adapter = Adapter(Projection(kind="balanced", D=layer_map.D, d=4, seed=1), layer_map, np.ones(4, np.float32), base)
    found, same = match(model, adapter)
    assert same and found[0] == Match("a.weight", model.graph.initializers["a.weight"], True, "name")
    assert stored.raw is None  # read for the fingerprint, and let go of
