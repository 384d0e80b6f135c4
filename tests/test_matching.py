"""export/matching: the initializers of other people's ONNX files that hold an adapter's weights, and never another."""

import functools
import warnings

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
onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
transformers = pytest.importorskip("transformers")

from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_dynamic, quantize_static
from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, MatMulNBitsQuantizer

from export.onnx_base import by_content
from export.onnx_base.exporter_names import original, scopes
from export.onnx_base.matching import Match, match, not_comparable, prepare, table, values

BERT, GPT2, LLAMA = "bert.encoder.layer", "transformer.h", "model.layers"


# Models, adapters, files


@functools.cache
def new_bert():
    """Its biases are zeros, of which exporters keep one alone, or none."""
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48,
        max_position_embeddings=32, num_labels=3, initializer_range=0.2, attn_implementation="eager",
    )  # fmt: skip
    segments = [Segment(f"{BERT}.{i}.attention.self.{n}.weight", 32, 32, 2) for i in (0, 1) for n in ("query", "value")]
    segments.append(Segment(f"{BERT}.1.intermediate.dense.weight", 48, 32, 2))
    return transformers.BertForSequenceClassification(config).eval(), segments


@functools.cache
def bert():
    new, segments = new_bert()
    model = transformers.BertForSequenceClassification(new.config).eval()
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name.endswith(".bias"):
                value.normal_()
    return model, segments


@functools.cache
def gpt2():
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        n_layer=2, n_embd=32, n_head=4, vocab_size=50, n_positions=32, bos_token_id=0, eos_token_id=0, use_cache=False
    )
    segments = [
        Segment(f"{GPT2}.{i}.attn.c_attn.weight", 32, 32, 2, transposed=True, row=row)
        for i in (0, 1)
        for row in (64, 0)
    ]
    segments += [Segment(f"{GPT2}.{i}.attn.c_proj.weight", 32, 32, 2, transposed=True) for i in (0, 1)]
    segments.append(Segment("transformer.wte.weight", 50, 32, 2))
    return transformers.GPT2LMHeadModel(config).eval(), segments


@functools.cache
def llama():
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=48, max_position_embeddings=32, use_cache=False,
    )  # fmt: skip
    forms = {"self_attn.q": (32, 32), "self_attn.k": (16, 32), "self_attn.v": (16, 32), "mlp.down": (32, 48)}
    segments = [Segment(f"{LLAMA}.{i}.{n}_proj.weight", *form, 2) for i in (0, 1) for n, form in forms.items()]
    return transformers.LlamaForCausalLM(config).eval(), segments


def parameters(model):
    return {name: value.detach().numpy() for name, value in model.named_parameters(remove_duplicate=False)}


def make_adapter(model, segments, saved=(), recorded=True):
    layer_map = LayerMap(segments)
    adapted = {name: parameters(model)[name] for name in layer_map.by_weight()}
    structure = structure_fingerprint({name: value.shape for name, value in adapted.items()})
    base = Base("base", structure, contents_fingerprint(adapted, adapted.get)) if recorded else None
    projection = Projection(kind="balanced", D=layer_map.D, d=20, seed=1)
    trained = {name: parameters(model)[name] + 1 for name in saved}
    return Adapter(projection, layer_map, np.ones(20, np.float32), base, trained)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """files(build, dynamo): a model of this module as torch's exporters write it, each once."""

    @functools.cache
    def get(build, dynamo):
        model, _ = build()
        path = tmp_path_factory.mktemp("exported") / f"{build.__name__}.onnx"
        export(model, path, dynamo)
        return path

    return get


def export(model, path, dynamo, inputs=None):
    ids = torch.arange(10).reshape(2, 5)
    axes = {0: "batch"} if inputs else {0: "batch", 1: "sequence"}
    inputs = inputs or {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    axes = dict.fromkeys(inputs, axes)
    axes = {"dynamic_shapes": axes} if dynamo else {"dynamic_axes": axes, "input_names": list(inputs)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model, (), path, kwargs=inputs, output_names=["logits"], dynamo=dynamo, external_data=False, verbose=False,
            **({"opset_version": 20} if dynamo else {"opset_version": 17}), **axes,
        )  # fmt: skip
    return path


def opened(path):
    model = ir.load(path)
    prepare(model)
    return model


def nameless(path):
    """The same graph as if somebody had taken all names away, and the order of the initializers."""
    model = opened(path)
    initializers = list(model.graph.initializers.values())
    model.graph.initializers.clear()
    for i, value in enumerate(reversed(initializers)):
        value.name = f"x{i}"
        model.graph.register_initializer(value)
    for i, node in enumerate(model.graph.all_nodes()):
        node.name = ""
        node.metadata_props.clear()
        for j, value in enumerate(node.outputs):
            if not value.is_graph_output():
                value.name = f"y{i}_{j}"
    return model


def floats(name, array=None, shape=None):
    value = ir.Value(name=name, shape=ir.Shape(shape or array.shape), type=ir.TensorType(ir.DataType.FLOAT))
    value.const_value = None if array is None else ir.tensor(array, name=name)
    return value


def check(model, adapter, found):
    """That what has been found in floats is what torch has, entry for entry."""
    wanted = list(adapter.layer_map.by_weight()) + list(adapter.saved)
    assert list(dict.fromkeys(each.name for each in found)) == wanted
    for each in found:
        if each.name in adapter.saved:
            stored = each.value.const_value.numpy()
            stored = stored.T if each.transposed else stored
        else:
            stored = values(each, adapter.layer_map.by_weight()[each.name][0])
        assert np.array_equal(stored, parameters(model)[each.name]), each


def hows(found):
    return {each.name: each.how for each in found}


# Names


@pytest.mark.parametrize("dynamo", [False, True], ids=["torchscript", "dynamo"])
@pytest.mark.parametrize(
    "build, saved",
    [
        (new_bert, ["classifier.bias", "bert.pooler.dense.bias"]),
        (bert, ["classifier.weight", "classifier.bias", "bert.pooler.dense.weight", "bert.encoder.layer.0.output.LayerNorm.bias"]),
        (gpt2, ["transformer.h.0.mlp.c_fc.weight", "transformer.h.1.ln_1.weight"]),
        (llama, ["lm_head.weight", f"{LLAMA}.1.self_attn.o_proj.weight"]),
    ],
)  # fmt: skip
def test_what_exporters_leave(files, build, saved, dynamo):
    model, segments = build()
    adapter = make_adapter(model, segments, saved)
    found, same = match(opened(files(build, dynamo)), adapter)
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
def test_leading_parts_may_be_left_out(files, scope):
    """A base exported alone has no ``bert.`` before its names, and one inside of another model has more."""
    model, segments = bert()
    adapter = make_adapter(model, segments)
    found, same = match(rename(opened(files(bert, False)), lambda name: name.replace("/bert/", scope)), adapter)
    check(model, adapter, found)
    assert same and set(hows(found).values()) == {"node name"}


def test_a_bias_tells_where_the_nodes_have_no_names(files):
    model, segments = bert()
    adapter = make_adapter(model, segments)
    found, same = match(rename(opened(files(bert, False)), lambda name: ""), adapter)
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
    "name", ["w_quantized", "w_Transposed_quantized", "w_Q4", "w_Q8", "w_DQ_Q4", "w_Q4G32", "w_Bnb4", "w"]
)
def test_names_of_quantized_weights(name):
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


# Content


@pytest.mark.parametrize("dynamo", [False, True], ids=["torchscript", "dynamo"])
@pytest.mark.parametrize("build", [bert, gpt2, llama])
def test_content_alone(files, build, dynamo):
    model, segments = build()
    adapter = make_adapter(model, segments)
    found, same = match(nameless(files(build, dynamo)), adapter)
    check(model, adapter, found)
    assert same and set(hows(found).values()) == {"fingerprint"} | ({"copy"} if build is gpt2 else set())


@pytest.mark.parametrize("named", [True, False])
def test_another_base_is_told(files, named):
    """Two weights of the file have each other's values."""
    model, segments = llama()
    adapter = make_adapter(model, segments)
    graph = opened(files(llama, False)) if named else nameless(files(llama, False))
    found, same = match(graph, adapter)
    assert same
    one, other = (each.value for each in found if ".0.self_attn.k" in each.name or ".0.self_attn.v" in each.name)
    one.const_value, other.const_value = (
        ir.tensor(value.const_value.numpy().copy(), name=value.name) for value in (other, one)
    )
    if named:
        found, same = match(graph, adapter)
        assert same is False and not_comparable(found, adapter) is None
    else:
        with pytest.raises(
            BaseMismatch, match=r"layers\.0\.self_attn\.q_proj.* none of \d+ ways .* fingerprint; of its"
        ):
            match(graph, adapter)


def test_the_search_ends(files, monkeypatch):
    model, segments = bert()
    adapter = make_adapter(model, segments)
    adapter.base = Base("other", adapter.base.structure, "0" * 32)
    monkeypatch.setattr(by_content, "LARGEST_WORK", 10 * 4 * (4 * 32 * 32 + 48 * 32))
    with pytest.raises(BaseMismatch, match=r"none of 10 ways .* GB of hashing are the limit"):
        match(nameless(files(bert, False)), adapter)
    monkeypatch.setattr(by_content, "LARGEST_TRIES", 3)
    with pytest.raises(BaseMismatch, match=r"none of [0-3] ways"):
        match(nameless(files(bert, False)), adapter)


def test_assignments_keep_layers_together():
    """q and v of twelve layers among q, k, v, o: one of the first assignments is the right one."""
    places = {by_content.Kind("MatMul"): [f"{i}.{n}" for i in range(12) for n in "qkvo"]}
    groups = [by_content.Group("layer.", [f"layer.{i}.{n}" for i in range(12)], places) for n in "qv"]
    right = {f"layer.{i}.{n}": f"{i}.{n}" for i in range(12) for n in "qv"}
    found, hashed, _ = by_content.search(groups, lambda assignment: assignment == right, 1)
    assert found == right and hashed == 2
    found, hashed, all_of_them = by_content.search(groups, lambda assignment: False, 1)
    assert found is None and all_of_them and hashed < 300  # and 1,702 if layers were not kept together
    assert by_content.grouped(["a.10.q", "a.9.q", "a.9.k", "b"], len) == [("a.", ["a.10.q"]), ("a.", ["a.9.q"]), ("a.", ["a.9.k"]), ("b", ["b"])]  # fmt: skip
    assert by_content.grouped(["a.10.q", "a.9.q"], lambda _: 0) == [("a.", ["a.9.q", "a.10.q"])]


def test_without_a_record_nothing_can_be_proven(files):
    model, segments = bert()
    adapter = make_adapter(model, segments, recorded=False)
    found, same = match(opened(files(bert, False)), adapter)
    check(model, adapter, found)
    assert same is None and not_comparable(found, adapter) == "the adapter records no base"
    with pytest.raises(BaseMismatch, match=r"query\.weight .* records no fingerprint .* --map"):
        match(nameless(files(bert, False)), adapter)


def half(graph):
    for value in graph.graph.initializers.values():
        if value.dtype == ir.DataType.FLOAT:
            value.const_value = ir.tensor(value.const_value.numpy().astype(np.float16), name=value.name)
            value.type = ir.TensorType(ir.DataType.FLOAT16)
    return graph


def test_float16(files):
    model, segments = bert()
    adapter = make_adapter(model, segments)
    found, same = match(half(opened(files(bert, False))), adapter)
    assert same is None and not_comparable(found, adapter) == f"{found[0].value.name} is rounded to float16"
    assert table(found)[0]["stored"] == "in × out, float16"
    for each in found:
        stored = values(each, adapter.layer_map.by_weight()[each.name][0])
        assert np.allclose(stored, parameters(model)[each.name], atol=1e-3)


# Quantized


class Sentences(CalibrationDataReader):
    def __init__(self):
        ids = np.arange(12).reshape(2, 6)
        self.batches = iter([{"input_ids": ids, "attention_mask": np.ones_like(ids)}] * 2)

    def get_next(self):
        return next(self.batches, None)


def quantized(path, way):
    target = path.with_name(f"{path.stem}-{way}.onnx")
    if way == "dynamic":
        quantize_dynamic(path, target)
    elif way in ("QDQ", "QOperator"):
        quantize_static(path, target, Sentences(), quant_format=QuantFormat[way])
    else:
        options = {"block_size": 16, "is_symmetric": way != "int4-zero", "op_types_to_quantize": ("MatMul",)}
        options["quant_format"] = QuantFormat.QDQ if way == "int4-QDQ" else QuantFormat.QOperator
        quantizer = MatMulNBitsQuantizer(onnx.load(path), algo_config=DefaultWeightOnlyQuantConfig(**options))
        quantizer.process()
        quantizer.model.save_model_to_file(str(target))
    return target


def dequantized(graph, value):
    """The values, by the names that the quantizers give to scales and zero points."""
    stored = {name: other.const_value.numpy() for name, other in graph.graph.initializers.items()}
    q, name = stored[value.name], value.name
    if name.endswith("_quantized"):
        name = name.removesuffix("_quantized")
        return (q.astype(np.float32) - stored[f"{name}_zero_point"].astype(np.float32)) * stored[f"{name}_scale"]
    if name.endswith("_DQ_Q4"):
        return q.astype(np.float32) * np.repeat(stored[f"{name.removesuffix('_Q4')}_scales"], 16, axis=0)
    if name.endswith("_Q4"):
        name = name.removesuffix("_Q4")
        q = np.stack([q & 15, q >> 4], -1).reshape(*q.shape[:2], -1).astype(np.float32)
        zero = stored.get(f"{name}_zero_points", np.full((len(q), q.shape[1] // 2), 0x88, np.uint8))
        zero = np.stack([zero & 15, zero >> 4], -1).reshape(len(q), -1)[:, : q.shape[1]]
        return ((q - zero[..., None]) * stored[f"{name}_scales"][..., None]).reshape(len(q), -1)
    return q


def check_quantized(model, graph, found):
    for each in found:
        stored = dequantized(graph, each.value)
        W = parameters(model)[each.name]
        turned = W.ndim == 2 and W.shape == (32, 32) and "c_proj" in each.name  # Conv1D's: the model has (in, out)
        stored = stored.T if each.transposed else stored
        assert np.abs((stored.T if turned else stored) - W).max() < np.abs(W).max() / 6, each


@pytest.mark.parametrize("dynamo", [False, True], ids=["torchscript", "dynamo"])
@pytest.mark.parametrize("way", ["dynamic", "QDQ", "QOperator", "int4", "int4-zero", "int4-QDQ"])
def test_quantized(files, way, dynamo):
    model, segments = bert()
    adapter = make_adapter(model, segments, ["classifier.weight", "bert.pooler.dense.weight"])
    graph = opened(quantized(files(bert, dynamo), way))
    found, same = match(graph, adapter)
    assert [each.name for each in found] == [*dict.fromkeys(s.name for s in segments), *adapter.saved]
    assert same is None and "is quantized, " in not_comparable(found, adapter)
    assert {row["stored"] for row in table(found)[:-2]} == {
        "int4" if way == "int4-QDQ" else "uint8" if "4" in way else "int8"
    }
    check_quantized(model, graph, found)


@pytest.mark.parametrize("way", ["dynamic", "int4", "int4-zero", "int4-QDQ"])
def test_quantized_copies_of_tied_embeddings(files, way):
    model, _ = gpt2()
    segments = [Segment("transformer.wte.weight", 50, 32, 2)]
    segments += [Segment(f"{GPT2}.{i}.attn.c_proj.weight", 32, 32, 2, transposed=True) for i in (0, 1)]
    adapter = make_adapter(model, segments)
    graph = opened(quantized(files(gpt2, True), way))
    found, same = match(graph, adapter)
    assert [each.how for each in found][1] == "copy" and len(found) == 4
    if way != "dynamic":  # it has quantized the copy alone
        assert same is True and not_comparable(found, adapter) is None
    check_quantized(model, graph, found)


def test_a_bias_that_was_kept_once_tells_where_products_are_quantized(files):
    """The Add behind a product still has the module that torch's exporter gave it, and so its bias its name."""
    model, segments = new_bert()
    graph = opened(quantized(files(new_bert, True), "dynamic"))
    found, _ = match(graph, make_adapter(model, segments))
    assert set(hows(found).values()) == {"bias name"}
    check_quantized(model, graph, found)


def test_square_parameters_trained_in_full_are_not_turned(files):
    """Of a square one only the names tell: quantize_dynamic turns an nn.Linear's and leaves a Conv1D's."""
    for build, name, segments in (
        (bert, "bert.pooler.dense.weight", bert()[1]),
        (gpt2, f"{GPT2}.0.attn.c_proj.weight", [Segment("transformer.wte.weight", 50, 32, 2)]),
    ):
        model, _ = build()
        adapter = make_adapter(model, segments, [name])
        graph = opened(quantized(files(build, False), "dynamic"))
        (found,) = (each for each in match(graph, adapter)[0] if each.name == name)
        stored = dequantized(graph, found.value)
        assert np.allclose(stored.T if found.transposed else stored, parameters(model)[name], atol=0.02)


def test_quantized_without_names_is_refused(files):
    model, segments = llama()
    adapter = make_adapter(model, segments)
    path = quantized(files(llama, True), "dynamic")
    with pytest.raises(
        BaseMismatch, match=r"q_proj\.weight .* what is quantized; of its shape are val_\d+_quantized, "
    ):
        match(opened(path), adapter)


# Attention in one


@pytest.fixture(scope="module")
def fused(files, tmp_path_factory):
    from onnxruntime.transformers import optimizer

    path = tmp_path_factory.mktemp("fused") / "fused.onnx"
    options = {"model_type": "bert", "num_heads": 4, "hidden_size": 32, "opt_level": 0}
    optimized = optimizer.optimize_model(str(files(bert, False)), **options)
    assert optimized.get_fused_operator_statistics()["Attention"] == 2
    optimized.save_model_to_file(str(path))
    return path


def test_fused_attention_by_fingerprint(fused):
    model, segments = bert()
    adapter = make_adapter(model, segments, ["classifier.weight", "classifier.bias"])
    for graph in (opened(fused), nameless(fused)):
        if "x0" in graph.graph.initializers:
            adapter = make_adapter(model, segments)
        found, same = match(graph, adapter)
        check(model, adapter, found)
        assert same and [each.row for each in found[:5]] == [0, 64, 0, 64, None]


def test_fused_attention_that_nothing_tells(fused):
    model, segments = bert()
    adapter = make_adapter(model, segments)
    with pytest.raises(
        BaseMismatch, match=r"query.* one matrix in this file, such as Attention_0_.*=INITIALIZER@ROW, or"
    ):
        match(half(opened(fused)), adapter)
    given = {
        f"{BERT}.{i}.attention.self.{n}.weight": f"Attention_{i}_qkv_weight@{row}"
        for i in (0, 1)
        for n, row in (("query", 0), ("value", 64))
    }
    found, same = match(opened(fused), adapter, given)
    check(model, adapter, found)
    assert same and [each.how for each in found] == ["given"] * 4 + ["node name"]
    given[f"{BERT}.0.attention.self.query.weight"] = "Attention_0_qkv_weight@32"
    assert match(opened(fused), adapter, given)[1] is False
    given[f"{BERT}.0.attention.self.query.weight"] = "Attention_0_qkv_weight@50"
    with pytest.raises(
        BaseMismatch, match=r"query\.weight and .*value\.weight are both found in Attention_0_qkv_weight"
    ):
        match(opened(fused), adapter, given)


# Copies


@pytest.mark.parametrize("dynamo", [False, True], ids=["torchscript", "dynamo"])
def test_tied_embeddings_are_two_initializers(files, dynamo):
    model, segments = gpt2()
    for adapter in (make_adapter(model, segments), make_adapter(model, segments[:2], ["transformer.wte.weight"])):
        found, _ = match(opened(files(gpt2, dynamo)), adapter)
        check(model, adapter, found)
        copies = [each for each in found if each.name == "transformer.wte.weight"]
        assert [each.transposed for each in copies] == [False, True] and copies[1].how == "copy"


def chain(weights, scope="/{}/MatMul"):
    """x · W · W …, each product named by its place."""
    x = result = floats("x", shape=["n", 16])
    initializers, nodes = [floats(f"onnx::MatMul_{i}", W) for i, W in enumerate(weights)], []
    for i, W in enumerate(initializers):
        nodes.append(ir.node("MatMul", [result, W], name=scope.format(i)))
        (result,) = nodes[-1].outputs
        result.name = f"y{i}"
    return ir.Model(
        ir.Graph([x], [result], nodes=nodes, initializers=initializers, opset_imports={"": 20}), ir_version=10
    )


def test_equal_weights_of_other_layers_are_not_copies():
    """As of a model that was made deeper by repeating layers. And a matrix of one number is no copy of another."""
    model = nn.Sequential(*(nn.Linear(16, 16, bias=False) for _ in range(4)))
    with torch.no_grad():
        model[1].weight.copy_(model[0].weight)
        model[2].weight.zero_()
        model[3].weight.zero_()
    graph = chain([parameters(model)[f"{i}.weight"].T.copy() for i in range(4)])
    found, _ = match(graph, make_adapter(model, [Segment("0.weight", 16, 16, 2)]))
    check(model, make_adapter(model, [Segment("0.weight", 16, 16, 2)]), found)
    assert [each.value.name for each in found] == ["onnx::MatMul_0"]
    graph = chain([parameters(model)[f"{i}.weight"].T.copy() for i in range(4)], "/part{}/MatMul")
    found, _ = match(
        graph, make_adapter(model, [Segment("0.weight", 16, 16, 2)], recorded=False), {"0.weight": "onnx::MatMul_0"}
    )
    assert [each.value.name for each in found] == ["onnx::MatMul_0", "onnx::MatMul_1"]
    found, _ = match(
        graph, make_adapter(model, [Segment("2.weight", 16, 16, 2)], recorded=False), {"2.weight": "onnx::MatMul_2"}
    )
    assert len(found) == 1


def test_equal_quantized_weights_are_not_copies(tmp_path):
    """Only one that is looked up and one that is multiplied by can be."""
    W = np.random.default_rng(0).normal(size=(16, 16)).astype(np.float32)
    ir.save(chain([W, W.copy()], "/part{}/MatMul"), tmp_path / "m.onnx")
    model = nn.Sequential(nn.Linear(16, 16))
    adapter = make_adapter(model, [Segment("0.weight", 16, 16, 2)], recorded=False)
    found, _ = match(
        opened(quantized(tmp_path / "m.onnx", "dynamic")), adapter, {"0.weight": "onnx::MatMul_0_quantized"}
    )
    assert len(found) == 1


@pytest.mark.parametrize("turned", [False, True])
def test_a_square_weight_of_another_use(turned):
    """No use tells how it is turned: it is what its name says, as the model has it."""
    W = np.random.default_rng(0).normal(size=(16, 16)).astype(np.float32)
    x, weight = floats("x", shape=["n", 16]), floats("0.weight", W)
    node = ir.node("Einsum", [x, weight], {"equation": "ni,io->no"})
    graph = ir.Graph([x], node.outputs, nodes=[node], initializers=[weight], opset_imports={"": 20})
    model = nn.Sequential(nn.Linear(16, 16))
    with torch.no_grad():
        model[0].weight.copy_(torch.from_numpy(W))
    adapter = make_adapter(model, [Segment("0.weight", 16, 16, 2, transposed=turned)])
    found, same = match(ir.Model(graph, ir_version=10), adapter)
    check(model, adapter, found)
    assert same and found[0].transposed == turned


# What is not told is refused


def test_missing_and_of_another_shape(files):
    model, segments = bert()
    graph = opened(files(bert, False))
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


def test_another_base_by_its_structure(files):
    model, segments = gpt2()
    adapter = make_adapter(model, [Segment(s.name, 32, 32, 2, True, row=0) for s in segments[::2][:2]])
    assert match(opened(files(gpt2, False)), adapter)[1]
    adapter.base = Base(
        "other", structure_fingerprint({s.name: (32, 128) for s in segments[::2][:2]}), adapter.base.contents
    )
    with pytest.raises(BaseMismatch, match="weights in the file have other shapes"):
        match(opened(files(gpt2, False)), adapter)


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


def test_one_initializer_for_two_weights(files):
    """The names of an encoder and of a decoder, and a file of one of them."""
    model, segments = bert()
    adapter = make_adapter(model, segments, recorded=False)
    names = (f"{name}.layer.0.attention.self.query.weight" for name in ("encoder", "decoder"))
    adapter.layer_map = LayerMap([Segment(name, 32, 32, 2) for name in names])
    graph = opened(files(bert, False))
    rename(graph, lambda name: name.replace("/bert/encoder/", "/"))
    with pytest.raises(BaseMismatch, match=r"decoder\..*query\.weight and encoder\..*query\.weight are both found in"):
        match(graph, adapter)


def test_given(files):
    model, segments = bert()
    adapter = make_adapter(model, segments, ["classifier.weight", "classifier.bias"])
    graph = nameless(files(bert, False))
    named = {each.name: each.value.const_value.numpy() for each in match(opened(files(bert, False)), adapter)[0]}
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


def test_given_comes_before_names(files):
    model, segments = bert()
    adapter = make_adapter(model, segments)
    graph = opened(files(bert, False))
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
def test_given_that_means_nothing(files, given, message):
    model, segments = bert()
    adapter = make_adapter(model, segments, ["classifier.weight"])
    with pytest.raises(UniLoraError, match=message):
        match(opened(files(bert, False)), adapter, given)


# Preparing a file


def logits(model):
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    ids = np.arange(12).reshape(2, 6)
    return session.run(["logits"], {"input_ids": ids, "attention_mask": np.ones_like(ids)})[0]


@pytest.mark.parametrize("dynamo", [False, True], ids=["torchscript", "dynamo"])
def test_what_a_file_computes_stays(files, dynamo):
    """New biases are zero, and exporters keep equal ones once or leave them out; each gets its own again."""
    model, segments = new_bert()
    before = logits(ir.load(files(new_bert, dynamo)))
    graph = opened(files(new_bert, dynamo))
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
