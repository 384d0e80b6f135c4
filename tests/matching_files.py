"""Models, adapters of them and their ONNX files, and what the tests of matching the two look at."""

import fcntl
import functools
import os
import shutil
import warnings

import numpy as np
import onnx_ir as ir
import pytest
import torch
import transformers

from export.onnx_base.matching import prepare, values
from unilora_spec import Adapter, Base, LayerMap, Projection, Segment, contents_fingerprint, structure_fingerprint

BERT, GPT2, LLAMA = "bert.encoder.layer", "transformer.h", "model.layers"
FOLDERS = {}


@pytest.fixture(scope="session", autouse=True)
def folders(tmp_path_factory):
    """``of_the_run`` is one for all processes that share the tests."""
    own = tmp_path_factory.getbasetemp()
    FOLDERS["own"], FOLDERS["of_the_run"] = own, own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


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


@functools.cache
def exported(build, dynamo):
    """A model of this module as torch's exporters write it: the file, once for all tests of a process. What the newer one writes, which takes
    it seconds, is written once for all processes of a run."""
    name = f"{build.__name__}-{'dynamo' if dynamo else 'torchscript'}.onnx"
    if not dynamo:
        return export(build()[0], FOLDERS["own"] / name, dynamo)
    shared, own = FOLDERS["of_the_run"] / name, FOLDERS["own"] / f"own-{name}"
    with open(shared.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not shared.exists():
            export(build()[0], own, dynamo)
            own.rename(shared)
    return shutil.copy(shared, own)


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


def half(graph):
    for value in graph.graph.initializers.values():
        if value.dtype == ir.DataType.FLOAT:
            value.const_value = ir.tensor(value.const_value.numpy().astype(np.float16), name=value.name)
            value.type = ir.TensorType(ir.DataType.FLOAT16)
    return graph


def floats(name, array=None, shape=None):
    value = ir.Value(name=name, shape=ir.Shape(shape or array.shape), type=ir.TensorType(ir.DataType.FLOAT))
    value.const_value = None if array is None else ir.tensor(array, name=name)
    return value


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
