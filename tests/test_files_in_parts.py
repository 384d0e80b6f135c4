"""A model in several files, as Optimum writes encoder-decoders."""

import dataclasses

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
ir = pytest.importorskip("onnx_ir")
from adapters import adapter_of
from onnx import TensorProto, helper
from torch import nn
from typer.testing import CliRunner
from written_nodes import CLOSE, floats, normal, save

from export.__main__ import app
from export.graph.expander import write_adapter
from export.graph.rebuild import pairs
from export.onnx import feeds_of
from export.onnx_base.folder import export_onnx_folder
from export.onnx_base.from_file import export_onnx_file
from export.parity import compare as parity
from unilora_spec import (
    BaseMismatch,
    LayerMap,
    Projection,
    Segment,
    save_adapter,
)

WEIGHTS = ("model.encoder.layers.0.fc", "model.decoder.layers.0.fc", "model.decoder.layers.0.encoder_attn.v")


def products(path, names, suffix="", inner=lambda name: name):
    """A chain of products with weights of 8 × 8 whose nodes bear the names of their modules."""
    made, arrays, last = [], {}, "x"
    for number, (name, W) in enumerate(names.items()):
        scope = f"/{inner(name).replace('.', '/').replace('/0', '.0')}/MatMul"
        stored, result = f"onnx::MatMul_{number}{suffix}", "y" if number == len(names) - 1 else f"v{number}"
        made.append(helper.make_node("MatMul", [last, stored], [result], name=scope))
        arrays[stored], last = W.T.copy(), result
    return save(path, made, {"x": floats("n", 8)}, {"y": floats("n", 8)}, arrays)


@pytest.fixture
def in_parts(tmp_path):
    """(folder, adapter, weights by name): encoder and decoder in files, the encoder's without its prefix as Optimum writes it."""
    model = nn.Module()
    for name in WEIGHTS:
        place = model
        for part in name.split("."):
            if part not in dict(place.named_children()):
                place.add_module(part, nn.Linear(8, 8, bias=False) if part == name.split(".")[-1] else nn.Module())
            place = getattr(place, part)
    segments = [Segment(f"{name}.weight", 8, 8, 2) for name in WEIGHTS]
    adapter = adapter_of(model, segments, "parts", d=20)
    W = {name: model.get_submodule(name).weight.detach().numpy() for name in WEIGHTS}
    folder = tmp_path / "base"
    folder.mkdir()
    encoder, decoder = {WEIGHTS[0]: W[WEIGHTS[0]]}, {name: W[name] for name in WEIGHTS[1:]}
    products(folder / "encoder_model.onnx", encoder, inner=lambda name: name.removeprefix("model.encoder."))
    products(folder / "decoder_model_merged.onnx", decoder, "_merged_0")
    products(
        folder / "decoder_with_past_model.onnx", {WEIGHTS[1]: W[WEIGHTS[1]]}
    )  # its cache holds the encoder's values
    (folder / "config.json").write_text("{}")
    return folder, adapter, W


def chain(adapter, weights, names, x):
    for name in names:
        W = weights[name].copy()
        adapter.add_deltas(adapter.layer_map.placed_by_weight()[f"{name}.weight"], W)
        x = x @ W.T
    return x


@pytest.mark.parametrize("mode", ["merged", "reconstruct", "input", "factored"])
def test_a_folder_of_parts_in_one_call(in_parts, tmp_path, mode):
    folder, adapter, W = in_parts
    report = export_onnx_folder(folder, adapter, tmp_path / "out", mode)
    assert report["same_contents"] is True  # of the weights of all files together
    assert (tmp_path / "out" / "config.json").exists()
    x = normal(3, 8)
    feed = {"x": x} | (feeds_of(adapter) if mode == "factored" else {})
    files = {"encoder_model": WEIGHTS[:1], "decoder_model_merged": WEIGHTS[1:], "decoder_with_past_model": WEIGHTS[1:2]}
    for name, held in files.items():
        (y,) = parity.run(parity.session(tmp_path / "out" / f"{name}.onnx"), feed, ["y"]).values()
        assert np.abs(y - chain(adapter, W, held, x)).max() < CLOSE


def run_with(path, feed, adapter=None):
    options = onnxruntime.RunOptions()
    if adapter:
        file = onnxruntime.LoraAdapter()
        file.Load(str(adapter))
        options.add_active_adapter(file)
    return parity.session(path).run(None, feed, options)[0]


@pytest.mark.parametrize("mode", ["input", "factored"])
def test_all_parts_take_one_adapters_file(in_parts, tmp_path, mode):
    """With A and B of every part, and a head that one of them has."""
    folder, adapter, W = in_parts
    adapter.saved = {f"{WEIGHTS[2]}.weight": normal(8, 8)}
    adapter.layer_map = LayerMap(
        [segment for segment in adapter.layer_map.segments if segment.name not in adapter.saved]
    )
    adapter.projection = Projection(D=adapter.layer_map.D, d=20, seed=1)
    adapter.base = None
    (folder / "model.onnx_adapter").write_bytes(b"of another model")
    report = export_onnx_folder(folder, adapter, tmp_path / "out", mode)
    assert report["left_out"] == ["model.onnx_adapter"]
    written = {file.name for file in (tmp_path / "out").iterdir() if ".onnx_" in file.name or ".expander" in file.name}
    assert written == {"model.onnx_adapter"} | ({"model.expander.onnx"} if mode == "factored" else set())
    new = dataclasses.replace(
        adapter, theta=adapter.theta + 1, saved={name: normal(8, 9)[:, 1:] for name in adapter.saved}
    )
    write_adapter(new, mode, tmp_path / "new.onnx_adapter")
    x = normal(3, 8)
    for name, held in {"encoder_model": WEIGHTS[:1], "decoder_model_merged": WEIGHTS[1:]}.items():
        for each, file in ((adapter, tmp_path / "out" / "model.onnx_adapter"), (new, tmp_path / "new.onnx_adapter")):
            wanted = chain(each, W, held[:1], x)
            wanted = wanted @ each.saved[f"{WEIGHTS[2]}.weight"].T if len(held) > 1 else wanted
            assert np.abs(run_with(tmp_path / "out" / f"{name}.onnx", {"x": x}, file) - wanted).max() < CLOSE * 10
    if mode == "factored":
        expander = parity.session(tmp_path / "out" / "model.expander.onnx")
        names = [output.name for output in expander.get_outputs()]
        feed = dict(zip(names, expander.run(None, {"theta": new.theta}))) | {"x": x}
        assert (
            np.abs(run_with(tmp_path / "out" / "encoder_model.onnx", feed) - chain(new, W, WEIGHTS[:1], x)).max()
            < CLOSE
        )


@pytest.mark.parametrize("mode", ["input", "factored"])
def test_all_parts_require_the_same_inputs(in_parts, tmp_path, mode):
    """One feed serves them all, in runtimes without optional inputs or functions too; by the command."""
    folder, adapter, W = in_parts
    adapter.saved = {f"{WEIGHTS[2]}.weight": normal(8, 8)}
    adapter.layer_map = LayerMap(
        [segment for segment in adapter.layer_map.segments if segment.name not in adapter.saved]
    )
    adapter.projection, adapter.base = Projection(D=adapter.layer_map.D, d=20, seed=1), None
    save_adapter(adapter, tmp_path / "vec.safetensors")
    call = [
        "onnx-folder",
        "--adapter",
        tmp_path / "vec.safetensors",
        "--base",
        folder,
        "-o",
        tmp_path / "out",
        "--mode",
        mode,
    ]
    said = CliRunner().invoke(app, [*map(str, call), "--required-inputs", "--inline"])
    assert said.exit_code == 0, said.output
    x = normal(3, 8)
    feed = {"x": x} | adapter.saved | (pairs(adapter) if mode == "factored" else {"theta": adapter.theta})
    for name, held in {"encoder_model": WEIGHTS[:1], "decoder_model_merged": WEIGHTS[1:2]}.items():
        path = tmp_path / "out" / f"{name}.onnx"
        graph, session = onnx.load(path), parity.session(path)
        assert not graph.functions and {each.name for each in session.get_inputs()} == set(feed)
        wanted = chain(adapter, W, held, x)
        wanted = wanted if name == "encoder_model" else wanted @ adapter.saved[f"{WEIGHTS[2]}.weight"].T
        assert np.abs(run_with(path, feed) - wanted).max() < CLOSE * 10


def test_one_part_by_itself(in_parts, tmp_path):
    folder, adapter, _ = in_parts
    base = folder / "encoder_model.onnx"
    with pytest.raises(BaseMismatch, match="no initializer of the file is known to be model.decoder"):
        export_onnx_file(base, adapter, tmp_path / "out.onnx")
    report = export_onnx_file(base, adapter, tmp_path / "out.onnx", part="encoder")
    assert report["elsewhere"] == [f"{name}.weight" for name in WEIGHTS[1:]] and report["same_contents"] is None
    assert "in other files" in report["not_comparable"]
    other = products(folder / "other.onnx", {"vision.fc": normal(8, 8)})
    with pytest.raises(BaseMismatch, match="holds none of the adapter's weights as the part 'encoder'"):
        export_onnx_file(other, adapter, tmp_path / "other.onnx", part="encoder")


def test_a_part_of_which_a_weight_may_be_nameless_is_refused(in_parts, tmp_path):
    """What is not found by its name is elsewhere only where nothing in the file could be it."""
    folder, adapter, _ = in_parts
    base = folder / "decoder_model_merged.onnx"
    model = onnx.load(base)
    model.graph.node[1].name = "MatMul_1"
    onnx.save(model, base)
    with pytest.raises(BaseMismatch, match="no initializer .*encoder_attn.v.weight .* --map"):
        export_onnx_file(base, adapter, tmp_path / "out.onnx", part="decoder")
    given = {f"{WEIGHTS[2]}.weight": "onnx::MatMul_1_merged_0"}
    assert len(export_onnx_file(base, adapter, tmp_path / "out.onnx", part="decoder", given=given)["weights"]) == 2


def test_a_folder_that_lacks_a_weight_is_refused(in_parts, tmp_path):
    folder, adapter, _ = in_parts
    (folder / "decoder_model_merged.onnx").unlink()
    with pytest.raises(
        BaseMismatch, match="encoder_attn.v.weight is in none of decoder_with_past_model.onnx, encoder_model.onnx"
    ):
        export_onnx_folder(folder, adapter, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("mode", ["merged", "factored"])
def test_a_merged_decoder_whose_names_alone_tell(tmp_path, mode):
    """Optimum gives what both branches of its If share to the graph around it, and appends `_merged_0` to the names; no node has a name."""
    model = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False))
    adapter = adapter_of(model, [Segment(f"{number}.weight", 8, 8, 2) for number in (0, 1)], "merged", d=20)
    stored = {"0.weight_merged_0": model[0], "1.weight_merged_1": model[1]}

    def branch(name, sign):
        made = [helper.make_node("MatMul", ["x", "0.weight_merged_0"], [f"{name}h"])]
        made += [
            helper.make_node("MatMul", [f"{name}h", "1.weight_merged_1"], [f"{name}k"]),
            helper.make_node(sign, [f"{name}k"], [name]),
        ]
        return helper.make_graph(made, name, [], [helper.make_tensor_value_info(name, TensorProto.FLOAT, None)])

    adapter.base = None  # so that no fingerprint tells them
    arrays = {name: each.weight.detach().numpy().T.copy() for name, each in stored.items()}
    made = [
        helper.make_node(
            "If", ["use_cache_branch"], ["y"], then_branch=branch("t", "Neg"), else_branch=branch("e", "Identity")
        )
    ]
    inputs = {"use_cache_branch": (TensorProto.BOOL, []), "x": floats("n", 8)}
    base = save(tmp_path / "decoder_model_merged.onnx", made, inputs, {"y": floats("n", 8)}, arrays)
    report = export_onnx_file(base, adapter, tmp_path / "out.onnx", mode)
    assert {row["name"]: (row["initializer"], row["how"]) for row in report["weights"]} == {
        "0.weight": ("0.weight_merged_0", "name"), "1.weight": ("1.weight_merged_1", "name"),
    }  # fmt: skip
    assert report["comparison"]["within"] and report["adapter_moves_outputs_by"] > 0.01
