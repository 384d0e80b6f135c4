"""The gathers that know the layer map: in every mode of a graph and every folder, as any gather is, by its index."""

from dataclasses import replace

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("transformers")

from adapters import adapter_of, merged
from onnx import TensorProto, helper, numpy_helper
from test_lora import agree, bert
from test_lora import export_to as export_lora_to

from export.folders.from_peft import import_peft
from export.folders.peft import export_peft
from export.modes import ANSWERING
from export.onnx import cases
from export.onnx_base.from_file import export_onnx_file
from export.parity import compare as parity
from unilora_spec import Adapter, LayerMap, Projection, Segment, load_adapter, save_adapter
from unilora_spec.parts import InParts
from unilora_spec.projection import KINDS

KIND = pytest.mark.parametrize("kind", [kind for kind, of_kind in KINDS.items() if issubclass(of_kind, InParts)])


def projected(kind, link_map, d=60):
    """The layer map and the projection of a kind, with what is its default."""
    options = KINDS[kind].with_defaults({})
    layer_map = KINDS[kind].fitted(link_map, **options)
    return layer_map, Projection.of(layer_map, kind, d, 42, **options)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """tanh(x·W₀ᵀ)·W₁ᵀ as a file, and its weights."""
    rng = np.random.default_rng(0)
    weights = {
        f"layer.{n}.weight": rng.standard_normal(shape).astype(np.float32) for n, shape in enumerate([(12, 8), (6, 12)])
    }
    nodes = [
        helper.make_node("Gemm", ["x", "layer.0.weight"], ["h"], transB=1),
        helper.make_node("Tanh", ["h"], ["t"]),
        helper.make_node("Gemm", ["t", "layer.1.weight"], ["y"], transB=1),
    ]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", n]) for name, n in (("x", 8), ("y", 6)))
    held = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    path = tmp_path_factory.mktemp("base") / "base.onnx"
    graph = helper.make_graph(nodes, "base", [x], [y], held)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path, weights


def said(weights, adapter, x):
    """By the specification's own merge."""
    weights = {name: value.copy() for name, value in weights.items()}
    adapter.merge(weights)
    first, second = weights.values()
    return np.tanh(x @ first.T) @ second.T


@KIND
def test_modes(tmp_path, base, kind):
    """The graph answers as the merged model does, each row with its own adapter in a bank."""
    path, weights = base
    segments = [Segment("layer.0.weight", 12, 8, 2), Segment("layer.1.weight", 6, 12, 3)]
    layer_map, p = projected(kind, LayerMap(segments, alpha=4))
    rng = np.random.default_rng(1)
    adapters = [Adapter(p, layer_map, rng.standard_normal(p.d).astype(np.float32)) for _ in range(2)]
    feed = {"x": rng.standard_normal((5, 8)).astype(np.float32)}
    answers = [[{"y": said(weights, adapter, feed["x"])}] for adapter in adapters]
    for mode in ANSWERING:
        given = adapters if mode == "bank" else adapters[:1]
        report = export_onnx_file(path, given, tmp_path / "model.onnx", mode)
        assert mode == "merged" or report["index"] == f"stored, 4 bytes an entry: the kind {kind} has no other"
        ((fed, expected),) = cases(mode, given, [feed], answers)
        got = parity.run(parity.session(tmp_path / "model.onnx"), fed, ["y"])["y"]
        assert np.allclose(
            got, expected["y"], rtol=0, atol=1e-5
        )  # float32 sums of a dozen products near 1, in another order
        assert not np.allclose(
            got, said(weights, replace(adapters[0], theta=0 * adapters[0].theta), feed["x"]), atol=1e-2
        )


def of_bert(kind, base):
    """A model, saved in the folder ``base``, and an adapter of the kind for it."""
    model, segments = bert()
    model.save_pretrained(base)
    adapter = adapter_of(model, segments, base, d=60)
    layer_map, p = projected(kind, adapter.layer_map)
    return model, replace(adapter, layer_map=layer_map, projection=p)


@KIND
def test_a_plain_lora(tmp_path, kind):
    model, adapter = of_bert(kind, tmp_path / "base")
    report = export_lora_to(tmp_path, adapter)
    assert report["rank"] == 4 * adapter.projection.links and report["alpha"] == adapter.layer_map.alpha
    agree(tmp_path, bert()[0], merged(model, adapter))


@KIND
def test_a_unilora_of_peft_and_back(tmp_path, kind):
    """What comes back is of kind `table`, with this index, and with the same A and B."""
    _, adapter = of_bert(kind, tmp_path / "base")
    save_adapter(adapter, tmp_path / "vec.safetensors")
    export_peft(tmp_path / "vec.safetensors", tmp_path / "peft")
    import_peft(tmp_path / "peft", tmp_path / "back.safetensors")
    back = load_adapter(tmp_path / "back.safetensors")
    assert back.projection.kind == "table" and np.array_equal(back.projection.index(), adapter.projection.index())
    for (_, A, B), (_, again_A, again_B) in zip(adapter.factors(), back.factors()):
        assert np.array_equal(A, again_A) and np.array_equal(B, again_B)
