"""export/matching by contents, where a file has no names, one matrix for several weights, or a weight twice."""

import numpy as np
import pytest
import torch
from torch import nn

from unilora_spec import Base, BaseMismatch, Segment

ir = pytest.importorskip("onnx_ir")
pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("transformers")

from matching_files import (  # noqa: F401  one is a fixture
    BERT,
    bert,
    chain,
    check,
    exported,
    floats,
    folders,
    gpt2,
    half,
    hows,
    llama,
    make_adapter,
    nameless,
    opened,
    parameters,
)

from export.onnx_base import assignments
from export.onnx_base.matching import match, not_comparable

# Content


@pytest.mark.parametrize(
    "build, dynamo",
    [
        pytest.param(
            build, dynamo, id=f"{build.__name__}-{'dynamo' if dynamo else 'torchscript'}",
            marks=pytest.mark.thorough if dynamo and build is not bert else (),
        )
        for build in (bert, gpt2, llama) for dynamo in (False, True)
    ],
)  # fmt: skip
def test_content_alone(build, dynamo):
    model, segments = build()
    adapter = make_adapter(model, segments)
    found, same = match(nameless(exported(build, dynamo)), adapter)
    check(model, adapter, found)
    assert same and set(hows(found).values()) == {"fingerprint"} | ({"copy"} if build is gpt2 else set())


@pytest.mark.parametrize("named", [True, False])
def test_another_base_is_told(named):
    """Two weights of the file have each other's values."""
    model, segments = llama()
    adapter = make_adapter(model, segments)
    graph = opened(exported(llama, False)) if named else nameless(exported(llama, False))
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


def test_the_search_ends(monkeypatch):
    model, segments = bert()
    adapter = make_adapter(model, segments)
    adapter.base = Base("other", adapter.base.structure, "0" * 32)
    monkeypatch.setattr(assignments, "LARGEST_WORK", 10 * 4 * (4 * 32 * 32 + 48 * 32))
    with pytest.raises(BaseMismatch, match=r"none of 10 ways .* GB of hashing are the limit"):
        match(nameless(exported(bert, False)), adapter)
    monkeypatch.setattr(assignments, "LARGEST_TRIES", 3)
    with pytest.raises(BaseMismatch, match=r"none of [0-3] ways"):
        match(nameless(exported(bert, False)), adapter)


def test_assignments_keep_layers_together():
    """q and v of twelve layers among q, k, v, o: one of the first assignments is the right one."""
    places = {assignments.Kind("MatMul"): [f"{i}.{n}" for i in range(12) for n in "qkvo"]}
    groups = [assignments.Group("layer.", [f"layer.{i}.{n}" for i in range(12)], places) for n in "qv"]
    right = {f"layer.{i}.{n}": f"{i}.{n}" for i in range(12) for n in "qv"}
    found, hashed, _ = assignments.search(groups, lambda assignment: assignment == right, 1)
    assert found == right and hashed == 2
    found, hashed, all_of_them = assignments.search(groups, lambda assignment: False, 1)
    assert found is None and all_of_them and hashed < 300  # and 1,702 if layers were not kept together
    assert assignments.grouped(["a.10.q", "a.9.q", "a.9.k", "b"], len) == [("a.", ["a.10.q"]), ("a.", ["a.9.q"]), ("a.", ["a.9.k"]), ("b", ["b"])]  # fmt: skip
    assert assignments.grouped(["a.10.q", "a.9.q"], lambda _: 0) == [("a.", ["a.9.q", "a.10.q"])]


def test_without_a_record_nothing_can_be_proven():
    model, segments = bert()
    adapter = make_adapter(model, segments, recorded=False)
    found, same = match(opened(exported(bert, False)), adapter)
    check(model, adapter, found)
    assert same is None and not_comparable(found, adapter) == "the adapter records no base"
    with pytest.raises(BaseMismatch, match=r"query\.weight .* records no fingerprint .* --map"):
        match(nameless(exported(bert, False)), adapter)


# Attention in one


@pytest.fixture(scope="module")
def fused(tmp_path_factory):
    from onnxruntime.transformers import optimizer

    path = tmp_path_factory.mktemp("fused") / "fused.onnx"
    options = {"model_type": "bert", "num_heads": 4, "hidden_size": 32, "opt_level": 0}
    optimized = optimizer.optimize_model(str(exported(bert, False)), **options)
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
    with pytest.raises(BaseMismatch, match=r"query.* one matrix in this file, such as x\d+.*=INITIALIZER@ROW, or"):
        match(half(nameless(fused)), adapter)
    found, same = match(half(opened(fused)), adapter)  # where the nodes behind it have names, these tell
    assert same is None and [(each.how, each.row) for each in found[:2]] == [("node name", 0), ("node name", 64)]
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
def test_tied_embeddings_are_two_initializers(dynamo):
    model, segments = gpt2()
    for adapter in (make_adapter(model, segments), make_adapter(model, segments[:2], ["transformer.wte.weight"])):
        found, _ = match(opened(exported(gpt2, dynamo)), adapter)
        check(model, adapter, found)
        copies = [each for each in found if each.name == "transformer.wte.weight"]
        assert [each.transposed for each in copies] == [False, True] and copies[1].how == "copy"


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
